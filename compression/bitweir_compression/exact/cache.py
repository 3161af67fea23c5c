"""The integer key and value cache: one row per slot, each row with a length of its own.

Rules:
1. Entries are integers (queries and keys at most 2**22, values 2**19) carried in float64, ready for the product.
2. A row's entries beyond its length are never read: they may hold what a released sequence left behind.
3. Rows grow together by doubling, so memory follows the longest live sequence, not the context.
"""

from collections.abc import Sequence

import torch

from bitweir_compression.exact.errors import PredictorError
from bitweir_compression.exact.schema import Architecture

_FIRST_TOKENS = 32


class KeyValueCache:
    """Keys and values of every layer: float64 integers [slots, kv heads, capacity, head size]."""

    def __init__(self, shape: Architecture, slot_count: int, device: torch.device) -> None:
        """Start with empty rows.

        Raises:
            PredictorError: fewer than one slot.
        """
        if slot_count < 1:
            raise PredictorError(f"{slot_count} slots", remedy="ask for at least one")
        self.lengths = [0] * slot_count
        self.context_tokens = shape.context_tokens
        self._capacity = min(_FIRST_TOKENS, shape.context_tokens)
        size = (slot_count, shape.kv_head_count, self._capacity, shape.head_size)
        self._pairs = [
            (
                torch.zeros(size, dtype=torch.float64, device=device),
                torch.zeros(size, dtype=torch.float64, device=device),
            )
            for _ in range(shape.layer_count)
        ]

    @property
    def slot_count(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    def truncate(self, row: int, length: int) -> None:
        """Forget a row's tokens from position `length` on; 0 forgets the row.

        Raises:
            PredictorError: the row is shorter.
        """
        if not 0 <= length <= self.lengths[row]:
            raise PredictorError(f"{length} of {self.lengths[row]} tokens", remedy="a row can only be shortened")
        self.lengths[row] = length

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Copy a row over another one and forget the first."""
        length = self.lengths[source]
        for pair in self._pairs:
            for values in pair:
                values[target, :, :length] = values[source, :, :length].clone()
        self.lengths[target], self.lengths[source] = length, 0

    @torch.inference_mode()
    def reserve(self, width: int) -> None:
        """Make room for `width` tokens a row."""
        if width <= self._capacity:
            return
        capacity = min(max(width, 2 * self._capacity), self.context_tokens)
        for index, pair in enumerate(self._pairs):
            grown = [values.new_zeros((*values.shape[:2], capacity, values.shape[3])) for values in pair]
            for old, new in zip(pair, grown, strict=True):
                new[:, :, : self._capacity] = old
            self._pairs[index] = (grown[0], grown[1])
        self._capacity = capacity

    def store(
        self, layer: int, rows: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Write tokens: int64 rows [N], positions [N]; int64 keys and values [N, kv heads, head size]."""
        for target, source in zip(self._pairs[layer], (keys, values), strict=True):
            target[rows, :, positions] = source.to(torch.float64)

    def load(self, layer: int, rows: Sequence[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of some rows: float64 [n, kv heads, width, head size]; a view where rows are a run."""
        keys, values = self._pairs[layer]
        first = rows[0]
        if list(rows) == list(range(first, first + len(rows))):
            run = slice(first, first + len(rows))
            return keys[run, :, :width], values[run, :, :width]
        chosen = torch.tensor(list(rows), device=keys.device)
        return keys[:, :, :width].index_select(0, chosen), values[:, :, :width].index_select(0, chosen)
