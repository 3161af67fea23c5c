"""The exact forward pass: batched, with an integer cache, the same bits for every way of arranging the work.

Rules:
1. Tokens are packed: a call's rows may have different lengths, and padding is never computed with.
2. A token's result depends on its sequence's earlier tokens and nothing else: not on the batch, the slot, the chunking,
   the cache or the device.
3. The residual stream is checked at every norm: beyond 2**40 steps of 2**-20 the call raises and stores no length.
4. Logits are integers in units of 1/64 nat; frequencies come from the shipped table. Nothing after the embedding is a
   float but the carrier of a matrix product.

docs/reference/exact-format.md, section 4, changes together with this file.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bitweir_compression.exact import arithmetic, bounds, format, schema
from bitweir_compression.exact.bounds import RowBound
from bitweir_compression.exact.cache import KeyValueCache
from bitweir_compression.exact.errors import ExactRangeError, PredictorError
from bitweir_compression.exact.format import ExactFile
from bitweir_compression.exact.layers import Activation, Linear, Norm, Rotation, attend, to_device
from bitweir_compression.exact.temperature import UNIT, Temperature

# Prompts are fed in pieces of this many tokens, a few rows at a time, and attention a few rows at a time: work that
# stays in the processor's cache is faster, and no result depends on it.
CHUNK_TOKENS = 128
_TOKENS_AT_ONCE = 512
_SCORES_AT_ONCE = 1 << 19


class _Layer:
    """One transformer layer's pieces."""

    def __init__(self, file: ExactFile, index: int, device: torch.device) -> None:
        shape, name = file.architecture, f"layers.{index}."
        exponents = file.header["layers"][index]
        self.query_exponent = int(exponents["query_exponent"])
        self.key_exponent = int(exponents["key_exponent"])
        self.value_exponent = int(exponents["value_exponent"])
        self.attention_norm = Norm(file, name + "attention_norm", device, is_centred=shape.centred_norm)
        self.mlp_norm = Norm(file, name + "mlp_norm", device, is_centred=shape.centred_norm)
        self.head_norms: tuple[Norm, Norm] | None = None
        if shape.head_norm:
            self.head_norms = (
                Norm(file, name + "query_norm", device, is_centred=False),
                Norm(file, name + "key_norm", device, is_centred=False),
            )
        largest = 2.0 ** (schema.VALUE_BITS - self.value_exponent)
        mixed = RowBound(largest, self.value_exponent + schema.ATTENTION_EXTRA_BITS)
        self.qkv = Linear(file, name + "qkv", device, self.attention_norm.bound, schema.HIDDEN_EXPONENT)
        self.out = Linear(file, name + "out", device, mixed, schema.RESIDUAL_EXPONENT)
        self.mlp = Linear(file, name + "mlp", device, self.mlp_norm.bound, schema.HIDDEN_EXPONENT)
        self.down = Linear(file, name + "down", device, bounds.mlp_bounds(file, index), schema.RESIDUAL_EXPONENT)


class _Packing:
    """Where the tokens of one call go: row i of the call has counts[i] new tokens after the first lengths[i]."""

    def __init__(
        self, lengths: Sequence[int], counts: Sequence[int], rows: Sequence[int], device: torch.device
    ) -> None:
        self.rows, self.counts = rows, counts
        self.queries = max(counts)
        self.width = max(length + count for length, count in zip(lengths, counts, strict=True))
        self.is_full = min(counts) == self.queries
        places = [(i, j) for i, count in enumerate(counts) for j in range(count)]
        self.row_of = torch.tensor([i for i, _ in places], device=device)
        self.query_of = torch.tensor([j for _, j in places], device=device)
        self.slot_of = torch.tensor([rows[i] for i, _ in places], device=device)
        self.positions = torch.tensor([lengths[i] + j for i, j in places], device=device)
        starts = torch.tensor(list(lengths), device=device)
        # A lone new token sees all there is; where all rows are equally long no mask is needed.
        self.visible: torch.Tensor | None = None
        if self.queries > 1 or min(lengths) != max(lengths):
            last = starts[:, None] + torch.arange(self.queries, device=device)
            self.visible = torch.arange(self.width, device=device) <= last[:, :, None]

    def spread(self, packed: torch.Tensor) -> torch.Tensor:
        """[N, ...] -> [n, queries, ...]; places without a token hold 0."""
        shape = (len(self.counts), self.queries, *packed.shape[1:])
        if self.is_full:
            return packed.view(shape)
        padded = packed.new_zeros(shape)
        padded[self.row_of, self.query_of] = packed
        return padded

    def gather(self, padded: torch.Tensor) -> torch.Tensor:
        """[n, queries, ...] -> [N, ...]."""
        if self.is_full:
            return padded.flatten(0, 1)
        return padded[self.row_of, self.query_of]


@dataclass(frozen=True)
class _Call:
    """What all layers of one call share: the cache, where tokens go, and the cosines and sines of their positions."""

    cache: KeyValueCache
    packing: _Packing
    turn: tuple[torch.Tensor, torch.Tensor]


class ExactModel:
    """A file's model on one device."""

    def __init__(self, file: ExactFile | Path, device: str | torch.device = "cpu") -> None:
        """Check the static bounds and build the carriers: 8 bytes a weight in profile int16, 4 in int8.

        Raises:
            ExactFormatError: the file is not sound, or a bound does not hold.
        """
        self.file = format.read(file) if isinstance(file, Path) else file
        self.shape = self.file.architecture
        self.device = torch.device(device)
        bounds.check_file(self.file)
        self._embedding = to_device(self.file, "embedding.weight", self.device, torch.int16)
        self._embedding_scale = to_device(self.file, "embedding.scale", self.device)
        self._embedding_shift = int(self.file.header["linears"]["embedding"]["exponent"]) - schema.RESIDUAL_EXPONENT
        self._layers = [_Layer(self.file, index, self.device) for index in range(self.shape.layer_count)]
        self._final_norm = Norm(self.file, "final_norm", self.device, is_centred=self.shape.centred_norm)
        head = "embedding" if self.shape.tied else "head"
        self._head = Linear(self.file, head, self.device, self._final_norm.bound, schema.LOGIT_EXPONENT)
        self._rotation = Rotation(self.file, self.device)
        self._activation = Activation(self.file, self.device)
        self._softmax_table = to_device(self.file, "table.softmax", self.device)
        self._frequency_table = to_device(self.file, "table.frequency", self.device)

    @property
    def fingerprint(self) -> str:
        """Of the file: two models with one fingerprint give the same bits."""
        return self.file.fingerprint

    def cache(self, slot_count: int) -> KeyValueCache:
        """Return an empty cache of `slot_count` rows."""
        return KeyValueCache(self.shape, slot_count, self.device)

    def prefill(
        self,
        cache: KeyValueCache,
        rows: Sequence[int],
        prompts: Sequence[Sequence[int]],
        *,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> torch.Tensor:
        """Append several tokens to each of some rows and return the logits after the last: int64 [n, V], 1/64 nat.

        Raises:
            PredictorError: rows repeat or are out of range; a prompt is empty, too long, or not of the vocabulary.
            ExactRangeError: the residual stream left its range; the rows' lengths are as before.
        """
        self._check(cache, rows, prompts)
        before = [cache.lengths[row] for row in rows]
        finished: dict[int, torch.Tensor] = {}
        try:
            for start in range(0, max(map(len, prompts)), chunk_tokens):
                live = [index for index, prompt in enumerate(prompts) if len(prompt) > start]
                at_once = max(1, _TOKENS_AT_ONCE // min(chunk_tokens, len(max(prompts, key=len)) - start))
                for first in range(0, len(live), at_once):
                    group = live[first : first + at_once]
                    pieces = [prompts[index][start : start + chunk_tokens] for index in group]
                    hidden = self._run(cache, [rows[index] for index in group], pieces)
                    ends = itertools.accumulate(map(len, pieces))
                    finished.update((index, hidden[end - 1]) for index, end in zip(group, ends, strict=True))
            return self._project(torch.stack([finished[index] for index in range(len(prompts))]))
        except BaseException:
            for row, length in zip(rows, before, strict=True):
                cache.truncate(row, length)
            raise

    def step(self, cache: KeyValueCache, rows: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each of some rows and return the logits after it: int64 [n, V], 1/64 nat.

        Raises:
            PredictorError, ExactRangeError: as `prefill`.
        """
        pieces = [[token] for token in tokens]
        self._check(cache, rows, pieces)
        return self._project(self._run(cache, rows, pieces))

    def logits(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits after every token of whole sequences, without a cache to keep.

        Args:
            ids: int64 [n, m].
            mask: bool [n, m], False where `ids` is padding, on either side or in between; None for no padding.

        Returns:
            int64 [n, m, V] in units of 1/64 nat, 0 at padding.
        """
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.bool)
        pieces = [[int(token) for token in row[kept]] for row, kept in zip(ids.cpu(), mask.cpu(), strict=True)]
        cache = self.cache(len(pieces))
        rows = range(len(pieces))
        self._check(cache, rows, pieces)
        packed = self._project(self._run(cache, rows, pieces))
        result = packed.new_zeros((*ids.shape, self.shape.vocabulary_size))
        result[mask.to(self.device)] = packed
        return result

    @torch.inference_mode()
    def frequencies(self, logits: torch.Tensor, temperatures: Sequence[Temperature] = ()) -> torch.Tensor:
        """Return integer weights of the tokens: int64 [n, V], each 1 to 2**24; a row adds up to at most V * 2**24.

        A weight is table(d') where d is how far a logit lies below the largest and d' = floor(d / T + 1/2) for a
        temperature T = numerator / denominator: floor((2 * d * denominator + numerator) / (2 * numerator)). Everything
        16 nats or more below gets 1. V <= 2**20, so a total is below 2**44 and exact in float64.

        Args:
            logits: int64 [n, V] in units of 1/64 nat, at most 2**31 in magnitude.
            temperatures: one per row, or none for 1.
        """
        if logits.dim() != 2 or len(temperatures) not in (0, len(logits)):
            raise PredictorError(
                f"logits of shape {list(logits.shape)}, {len(temperatures)} temperatures",
                remedy="give one a row, or none",
            )
        distance = logits.amax(dim=-1, keepdim=True) - logits
        if any(temperature != UNIT for temperature in temperatures):
            above = torch.tensor([[item.numerator] for item in temperatures], device=logits.device)
            below = torch.tensor([[item.denominator] for item in temperatures], device=logits.device)
            distance = torch.floor_divide(2 * distance * below + above, 2 * above)
        return arithmetic.look_up(self._frequency_table, distance)

    def _check(self, cache: KeyValueCache, rows: Sequence[int], pieces: Sequence[Sequence[int]]) -> None:
        if not rows or len(rows) != len(pieces) or len(set(rows)) != len(rows):
            raise PredictorError(f"rows {list(rows)} for {len(pieces)} sequences", remedy="name each row once")
        for row, piece in zip(rows, pieces, strict=True):
            if not 0 <= row < cache.slot_count:
                raise PredictorError(f"row {row} of {cache.slot_count}", remedy="rows count from 0")
            if not piece or cache.lengths[row] + len(piece) > self.shape.context_tokens:
                raise PredictorError(
                    f"{len(piece)} tokens after {cache.lengths[row]} of {self.shape.context_tokens}",
                    remedy="give at least one token and stay within the context",
                )
            check_tokens(piece, self.shape.vocabulary_size)

    @torch.inference_mode()
    def _run(self, cache: KeyValueCache, rows: Sequence[int], pieces: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append checked tokens and return the final norm's rows, packed: int64 [N, hidden]."""
        lengths = [cache.lengths[row] for row in rows]
        packing = _Packing(lengths, [len(piece) for piece in pieces], rows, self.device)
        cache.reserve(packing.width)
        ids = torch.tensor([token for piece in pieces for token in piece], device=self.device)
        stream = self._embed(ids)
        work = _Call(cache, packing, self._rotation.at(packing.positions))
        for index, layer in enumerate(self._layers):
            maximum = self._maximum(stream, packing)
            mixed = self._attention(work, layer, index, layer.attention_norm(stream, maximum))
            if self.shape.parallel_residual:
                stream = stream + mixed + self._mlp(layer, layer.mlp_norm(stream, maximum))
            else:
                stream = stream + mixed
                stream = stream + self._mlp(layer, layer.mlp_norm(stream, self._maximum(stream, packing)))
        result = self._final_norm(stream, self._maximum(stream, packing))
        for row, piece in zip(rows, pieces, strict=True):
            cache.lengths[row] += len(piece)
        return result

    @torch.inference_mode()
    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(hidden)

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        values = self._embedding.index_select(0, ids).to(torch.int64)
        values = values * self._embedding_scale.index_select(0, ids)[:, None]
        if self._embedding_shift < 0:
            return torch.bitwise_left_shift(values, -self._embedding_shift)
        return arithmetic.shift_right(values, self._embedding_shift)

    def _maximum(self, stream: torch.Tensor, packing: _Packing) -> torch.Tensor:
        """Return max |x| of each row of the residual stream after checking it."""
        maximum = arithmetic.row_max(stream)
        if int(maximum.max()) > 1 << schema.RESIDUAL_BITS:
            over = packing.slot_of[(maximum > 1 << schema.RESIDUAL_BITS).flatten()].tolist()
            raise ExactRangeError(
                f"the residual stream of rows {sorted(set(over))} left 40 bits",
                remedy="code this text with another predictor; the other rows can be run without these",
                rows=tuple(sorted(set(over))),
            )
        return maximum

    def _mlp(self, layer: _Layer, value: torch.Tensor) -> torch.Tensor:
        inner = layer.mlp(value)
        if not self.shape.gated_mlp:
            return layer.down(self._activation(inner))
        gate, up = inner[:, : self.shape.mlp_size], inner[:, self.shape.mlp_size :]
        return layer.down(self._activation(gate) * up)

    def _attention(self, work: _Call, layer: _Layer, index: int, value: torch.Tensor) -> torch.Tensor:
        shape = self.shape
        both = shape.head_count + shape.kv_head_count
        heads = layer.qkv(value).view(len(value), -1, shape.head_size)
        turned, values = heads[:, :both], heads[:, both:]
        if layer.head_norms is not None:
            parts = (turned[:, : shape.head_count], turned[:, shape.head_count :])
            turned = torch.cat([_head_norm(*pair) for pair in zip(layer.head_norms, parts, strict=True)], dim=1)
        turned = self._rotation(turned, work.turn)
        fraction = schema.HIDDEN_EXPONENT + schema.ROPE_EXPONENT
        query = arithmetic.shift_right(turned[:, : shape.head_count], fraction - layer.query_exponent)
        keys = arithmetic.shift_right(turned[:, shape.head_count :], fraction - layer.key_exponent)
        values = arithmetic.shift_right(values, schema.HIDDEN_EXPONENT - layer.value_exponent)
        packing = work.packing
        work.cache.store(index, packing.slot_of, packing.positions, keys, values)
        shift = layer.query_exponent + layer.key_exponent - schema.SCORE_EXPONENT
        return layer.out(self._mix(packing, query, *work.cache.load(index, packing.rows, packing.width), shift))

    def _mix(
        self, packing: _Packing, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, shift: int
    ) -> torch.Tensor:
        """Attend a few rows at a time: int64 [N, heads, size] -> [N, heads * size]."""
        shape, group = self.shape, self.shape.head_count // self.shape.kv_head_count
        count, queries = len(packing.rows), packing.queries
        # [n, kv heads, group * queries, size]: the query heads of one key head are read as more queries.
        spread = packing.spread(query).view(count, queries, shape.kv_head_count, group, shape.head_size)
        spread = spread.permute(0, 2, 3, 1, 4).flatten(2, 3)
        at_once = max(1, _SCORES_AT_ONCE // (shape.head_count * queries * packing.width))
        results = []
        for start in range(0, count, at_once):
            some = slice(start, start + at_once)
            visible = None if packing.visible is None else packing.visible[some].repeat(1, group, 1)[:, None]
            mixed = attend(
                spread[some], keys[some], values[some], visible, table=self._softmax_table, score_shift=shift
            )
            results.append(mixed)
        mixed = torch.cat(results).view(count, shape.kv_head_count, group, queries, shape.head_size)
        return packing.gather(mixed.permute(0, 3, 1, 2, 4).flatten(2))


def _head_norm(norm: Norm, heads: torch.Tensor) -> torch.Tensor:
    """Normalise each head and bring it back to exponent 16."""
    result = norm(heads, arithmetic.row_max(heads))
    return arithmetic.shift_right(result, norm.exponent - schema.HIDDEN_EXPONENT)


def check_tokens(tokens: Sequence[int], vocabulary_size: int) -> None:
    """Refuse what is no token id.

    Raises:
        PredictorError: an entry is not an integer of 0 to vocabulary_size - 1; True is not 1.
    """
    for token in tokens:
        if isinstance(token, bool) or not isinstance(token, int | np.integer) or not 0 <= token < vocabulary_size:
            raise PredictorError(
                f"{token!r:.40} is not a token of {vocabulary_size}", remedy="use the model's tokenizer"
            )
