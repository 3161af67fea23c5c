"""Stop strings of the streams of a lane, the same at both ends: they end an answer without a bit being sent for it.

Rule: whether a stream has ended is a function of its grant and its tokens, so both ends see it at the same token.
"""

from collections.abc import Callable, Sequence

from bitweir_compression.session.events import Grant


class Stops:
    """Stop strings by noise key, which no two streams share.

    Args:
        decode: token ids to text, the same at both ends.
        end: the token that ends an answer; it is no text.
        tokens_max: last tokens that a stop string may lie in.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], *, end: int, tokens_max: int) -> None:
        self._decode = decode
        self._end = end
        self._tokens_max = tokens_max
        self._stops: dict[bytes, tuple[str, ...]] = {}

    def add(self, key: bytes, stops: Sequence[str]) -> None:
        """Remember the stop strings of a stream."""
        if stops:
            self._stops[key] = tuple(stops)

    def remove(self, key: bytes) -> None:
        """Forget those of a stream that has ended."""
        self._stops.pop(key, None)

    def finished(self, grant: Grant, tokens: Sequence[int]) -> bool:
        """Return whether these tokens hold a stop string; see `session.lane.Finished`."""
        stops = self._stops.get(grant.key)
        if not stops:
            return False
        text = self._decode([token for token in tokens[-self._tokens_max :] if token != self._end])
        return any(stop in text for stop in stops)
