"""Ways to turn logits into tokens. The default draws with keyed noise, so that the same key gives the same tokens."""

from collections.abc import Sequence

from bitweir_compression import noise, sampling
from bitweir_services.engines.protocol import Logits, Position


class KeyedGumbel:
    """token = argmax(logits / T + g), with g = gumbel(key, candidate, stream, position, token); T = 0 takes the argmax.

    A token is a function of its own row and position: neither the batch nor the order of the rows enters.
    """

    def choose(self, logits: Logits, positions: Sequence[Position]) -> list[int]:
        """Return one token a row; see `protocol.Chooser`."""
        keys = [noise.position_key(at.key, at.candidate, at.stream, at.index) for at in positions]
        return sampling.sample(list(logits), [at.sampling for at in positions], keys)
