"""The fallback for models without an exact form: any Hugging Face model in float, always in the same shape.

Rules:
1. Every forward pass is [slot_count, 1] tokens against [slot_count, context + 1] keys, whatever is live: prompts are
   fed one token at a time, idle rows compute on a scratch position that no mask shows.
2. A sequence must sit in the same slot on both sides: a kernel may treat row 0 unlike row 7.
3. Equal bits are promised by nothing but equal hardware, build, thread count and shape; the fingerprint covers them.
   A coder still needs its per-frame check.
"""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers.cache_utils import Cache, CacheLayerMixin

from bitweir_compression.exact import tables
from bitweir_compression.exact.format import canonical
from bitweir_compression.exact.predictor import Frequencies, Slot, SlotBook
from bitweir_compression.exact.schema import LOGIT_EXPONENT
from bitweir_compression.exact.temperature import UNIT, Temperature

_LOGIT_LIMIT = 1 << 30


class PinnedFloatPredictor:
    """Implements `predictor.Predictor`; see the rules above."""

    def __init__(self, model: Any, *, slot_count: int = 8, context_tokens: int | None = None) -> None:
        """Allocate the fixed layout.

        Args:
            model: a Hugging Face causal language model in evaluation mode, on any device, in any float dtype.
            slot_count: rows of every forward pass.
            context_tokens: the model's own maximum if None.
        """
        self._model = model
        self.vocabulary_size = int(model.config.vocab_size)
        self.context_tokens = int(context_tokens or model.config.max_position_embeddings)
        self.slot_count = slot_count
        self._device = next(model.parameters()).device
        self._book = SlotBook(slot_count, self.context_tokens, self.vocabulary_size)
        self._cache = _PinnedCache(int(model.config.num_hidden_layers), self.context_tokens + 1)
        # How many of a slot's tokens the cache holds.
        self._fed = [0] * slot_count
        self._table = tables.frequency_table().astype(np.int64)
        self.fingerprint = _fingerprint(model, slot_count, self.context_tokens)

    def admit(self, slot: int, prompt: Sequence[int], temperature: Temperature = UNIT) -> None:
        """See `Predictor`."""
        self._book.admit(slot, prompt, temperature)
        self._fed[slot] = 0

    def step(self, slots: Sequence[int]) -> Frequencies:
        """See `Predictor`; one forward pass for each token of the longest new prompt."""
        entries = dict(zip(slots, self._book.step(slots), strict=True))
        result = np.zeros((len(slots), self.vocabulary_size), dtype=np.int64)
        fed = list(self._fed)
        try:
            while live := {slot: entry for slot, entry in entries.items() if self._fed[slot] < len(entry.tokens)}:
                logits = self._forward(live)
                for slot, entry in live.items():
                    self._fed[slot] += 1
                    if self._fed[slot] == len(entry.tokens):
                        result[list(slots).index(slot)] = self._frequencies(logits[slot], entry.temperature)
        except BaseException:
            # What was fed is taken back; feeding it again writes the same places.
            self._fed = fed
            raise
        for entry in entries.values():
            entry.is_stepped = True
        return result

    def commit(self, tokens: Mapping[int, int]) -> None:
        """See `Predictor`."""
        self._book.commit(tokens)

    def release(self, slot: int) -> None:
        """See `Predictor`."""
        self._book.release(slot)

    @torch.inference_mode()
    def _forward(self, live: Mapping[int, Slot]) -> torch.Tensor:
        """Feed each live slot's next token: float64 [slot_count, V]."""
        fed = torch.zeros((self.slot_count, 1), dtype=torch.int64)
        positions = torch.full((self.slot_count, 1), self.context_tokens)
        for slot, entry in live.items():
            fed[slot], positions[slot] = entry.tokens[self._fed[slot]], self._fed[slot]
        visible = torch.arange(self.context_tokens + 1) <= positions
        # An idle row sees its scratch position alone, so that its softmax has something to divide by.
        visible[:, :-1] &= positions < self.context_tokens
        self._cache.positions = positions[:, 0].to(self._device)
        output = self._model(
            input_ids=fed.to(self._device),
            attention_mask=visible[:, None, None].to(self._device),
            position_ids=positions.clamp(max=self.context_tokens - 1).to(self._device),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1].to(torch.float64).cpu()
        return logits

    def _frequencies(self, logits: torch.Tensor, temperature: Temperature) -> Frequencies:
        """Round to 1/64 nat and go on in integers, as `ExactModel.frequencies` does."""
        scaled = torch.nan_to_num(logits * (1 << LOGIT_EXPONENT)).round().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        whole = scaled.to(torch.int64).numpy()
        above, below = temperature.numerator, temperature.denominator
        distance = (2 * (whole.max() - whole) * below + above) // (2 * above)
        result: Frequencies = self._table[np.minimum(distance, len(self._table) - 1)]
        return result


def _fingerprint(model: Any, slot_count: int, context_tokens: int) -> str:
    """Hash the weights and everything that is known to change a float's bits."""
    digest = hashlib.sha256(b"bitweir pinned v1\x00")
    device = next(model.parameters()).device
    facts = {
        "config": model.config.to_json_string(),
        "context_tokens": context_tokens,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "slot_count": slot_count,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_build": torch.__config__.show(),
        "transformers": transformers.__version__,
    }
    digest.update(canonical(facts))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\x00{tensor.dtype}\x00{list(tensor.shape)}\x00".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _PinnedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: [slots, heads, width, head size], each row written at its own position."""

    def __init__(self, cache: "_PinnedCache") -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (*states.shape[:2], self._cache.width, states.shape[3])
            setattr(self, name, states.new_zeros(shape))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = torch.arange(len(key_states), device=key_states.device)
        self.keys[rows, :, self._cache.positions] = key_states[:, :, 0]
        self.values[rows, :, self._cache.positions] = value_states[:, :, 0]
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.width, 0

    def get_seq_length(self) -> int:
        return self._cache.width

    def get_max_length(self) -> int:
        return self._cache.width


class _PinnedCache(Cache):  # type: ignore[misc]
    """A transformers cache of fixed width whose rows are written at `positions`."""

    def __init__(self, layer_count: int, width: int) -> None:
        self.width = width
        self.positions = torch.empty(0, dtype=torch.int64)
        super().__init__(layers=[_PinnedLayer(self) for _ in range(layer_count)])
