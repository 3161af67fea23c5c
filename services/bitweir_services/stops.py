"""Stop strings: they end an answer at the same token at both ends of a lane, without a bit being sent for it."""

from collections.abc import Callable, Sequence

from bitweir_compression.session.events import Grant
from bitweir_compression.session.lane import Finished


def stop_rule(decode: Callable[[Sequence[int]], str], *, end: int, tokens_max: int) -> Finished:
    """Return the rule that an answer is complete once its text holds a stop string of its grant.

    Args:
        decode: token ids to text, the same at both ends and in the scheduler.
        end: the token that ends an answer; it is no text.
        tokens_max: last tokens that a stop string may lie in; `scheduler.STOP_TOKENS`.
    """

    def finished(grant: Grant, tokens: Sequence[int]) -> bool:
        if not grant.stop:
            return False
        text = decode([token for token in tokens[-tokens_max:] if token != end])
        return any(stop in text for stop in grant.stop)

    return finished
