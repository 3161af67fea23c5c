"""Hugging Face models as an engine: one key/value cache with a row per sequence, batched decoding. Imports torch.

Rules:
1. Rows 0..n-1 of the cache belong to the n admitted sequences; releasing one moves the last row into its place. A step
   over all of them reads a prefix of the cache and copies nothing; a step over some copies their rows.
2. A prompt is prefilled alone, all but its last token; the last token is fed by the first step. A sequence's arithmetic
   then depends on its neighbours only through the kernels a batch size selects (float noise; `benchmarks/engine.py`
   says how often that changes a token).
3. Keys and values are float32 or whatever the model computes in; nothing is quantised here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from bitweir_compression.models.training import Model
from bitweir_services.engines.protocol import Logits
from bitweir_services.engines.slots import SlotTable


@dataclass
class _Sequence:
    """A row of the cache: `length` tokens are in it and `pending` is fed next."""

    row: int
    length: int
    pending: int


class HuggingFaceEngine:
    """Implements `protocol.Engine` with a causal language model."""

    def __init__(self, model: Model, *, slot_count: int = 64) -> None:
        """Allocate a cache of `slot_count` rows of the model's context length.

        Args:
            model: a causal language model in evaluation mode, on any device.
            slot_count: sequences held at once.
        """
        config = model.config
        self._model = model
        self.vocabulary_size = int(config.vocab_size)
        self.context_tokens = int(config.max_position_embeddings)
        self.slot_count = slot_count
        self._device = next(model.parameters()).device
        self._cache = _RowCache(int(config.num_hidden_layers), slot_count, self.context_tokens)
        self._slots: SlotTable[_Sequence] = SlotTable(slot_count, self.context_tokens, self.vocabulary_size)
        self._rows: list[_Sequence] = []

    def admit(self, slot: int, prompt: Sequence[int]) -> None:
        """Prefill a prompt into the next row; see `protocol.Engine`."""
        sequence = _Sequence(row=len(self._rows), length=0, pending=prompt[-1] if prompt else 0)
        self._slots.admit(slot, prompt, sequence)
        self._rows.append(sequence)
        if len(prompt) > 1:
            self._forward([sequence], torch.tensor([list(prompt[:-1])], device=self._device))
            sequence.length = len(prompt) - 1

    def step(self, slots: Sequence[int]) -> Logits:
        """Feed each slot's pending token; see `protocol.Engine`."""
        sequences = self._slots.step(slots)
        if not sequences:
            return torch.empty((0, self.vocabulary_size)).numpy()
        # In the order of the cache's rows, so that a step over all sequences reads a prefix of it (rule 1).
        order = sorted(range(len(sequences)), key=lambda i: sequences[i].row)
        ordered = [sequences[i] for i in order]
        fed = torch.tensor([[sequence.pending] for sequence in ordered], device=self._device)
        logits: Logits = self._forward(ordered, fed).float().cpu().numpy()
        for sequence in ordered:
            sequence.length += 1
        result = np.empty_like(logits)
        result[order] = logits
        return result

    def commit(self, tokens: Mapping[int, int]) -> None:
        """See `protocol.Engine`."""
        for sequence, token in zip(self._slots.commit(tokens), tokens.values(), strict=True):
            sequence.pending = token

    def release(self, slot: int) -> None:
        """Free a slot; the last row takes its place (rule 1)."""
        freed = self._slots.release(slot)
        last = self._rows.pop()
        if last is not freed:
            self._cache.move(last.row, freed.row, last.length)
            last.row = freed.row
            self._rows[freed.row] = last

    @torch.inference_mode()
    def _forward(self, sequences: Sequence[_Sequence], fed: torch.Tensor) -> torch.Tensor:
        """Append `fed` int64 [n, m] to n rows of the cache and return the logits after it: [n, V]."""
        lengths = torch.tensor([sequence.length for sequence in sequences], device=self._device)
        rows = torch.tensor([sequence.row for sequence in sequences], device=self._device)
        positions = lengths[:, None] + torch.arange(fed.shape[1], device=self._device)
        width = int(positions.max()) + 1
        self._cache.select(rows, positions, width)
        visible = torch.arange(width, device=self._device) <= positions[:, :, None]
        output = self._model(
            input_ids=fed,
            attention_mask=visible[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: [rows, heads, context, head_size], written at each row's own position."""

    def __init__(self, cache: "_RowCache") -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (self._cache.row_count, key_states.shape[1], self._cache.context_tokens)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, positions, width = self._cache.rows, self._cache.positions, self._cache.width
        self.keys[rows[:, None], :, positions] = key_states.transpose(1, 2)
        self.values[rows[:, None], :, positions] = value_states.transpose(1, 2)
        if self._cache.is_prefix:
            return self.keys[: len(rows), :, :width], self.values[: len(rows), :, :width]
        return self.keys[rows, :, :width], self.values[rows, :, :width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.width, 0

    def get_seq_length(self) -> int:
        return self._cache.width

    def get_max_length(self) -> int:
        return self._cache.context_tokens


class _RowCache(Cache):  # type: ignore[misc]
    """A transformers cache whose rows have lengths of their own."""

    def __init__(self, layer_count: int, row_count: int, context_tokens: int) -> None:
        self.row_count = row_count
        self.context_tokens = context_tokens
        self.rows = self.positions = torch.empty(0)
        self.width = 0
        self.is_prefix = True
        super().__init__(layers=[_RowLayer(self) for _ in range(layer_count)])

    def select(self, rows: torch.Tensor, positions: torch.Tensor, width: int) -> None:
        """Name the rows [n] the next forward pass works on, where it writes [n, m], and how far it reads."""
        self.rows, self.positions, self.width = rows, positions, width
        self.is_prefix = bool((rows == torch.arange(len(rows), device=rows.device)).all())

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a row over another row."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[target, :, :length] = layer.keys[source, :, :length]
                layer.values[target, :, :length] = layer.values[source, :, :length]
