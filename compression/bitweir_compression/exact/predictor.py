"""What the coder sees of a weak model: integer frequencies for the next token of each slot.

Rules:
1. Calls come in the order of an engine's: admit a prompt to a free slot, step, commit one token to each slot that was
   stepped, and so on; release frees the slot.
2. `step` returns integers only, at the temperature the slot was admitted with. Nothing after it may touch a float.
3. Two sides whose fingerprints are equal get equal frequencies. ExactPredictor keeps that promise on any machine, in
   any batch. PinnedFloatPredictor keeps it only on the same hardware, build and slot numbers, and its fingerprint says
   so. `check_fingerprints` comes before the first coded token.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bitweir_compression.exact.errors import FingerprintError, PredictorError
from bitweir_compression.exact.format import ExactFile, canonical
from bitweir_compression.exact.model import ExactModel, check_tokens
from bitweir_compression.exact.temperature import UNIT, Temperature

# Weights of the next token, [n, V]: at least 1 each; a row adds up to less than 2**53.
Frequencies = npt.NDArray[np.int64]
Counts = Mapping[tuple[int, ...], Mapping[int, int]]


class Predictor(Protocol):
    """A weak model that holds several sequences at once."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids; frequencies have this many columns."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence, prompt included."""

    @property
    def slot_count(self) -> int:
        """How many sequences fit at once; slots are 0..slot_count-1."""

    @property
    def fingerprint(self) -> str:
        """What must be equal on both sides: 64 hexadecimal digits."""

    def admit(self, slot: int, prompt: Sequence[int], temperature: Temperature = UNIT) -> None:
        """Put a prompt of at least one token into a free slot.

        Raises:
            PredictorError: the slot is taken or not one, or the prompt is empty, too long or not of the vocabulary.
        """

    def step(self, slots: Sequence[int]) -> Frequencies:
        """Return the next-token frequencies of some admitted slots: int64 [len(slots), V].

        Raises:
            PredictorError: a slot is free, repeated, full, or was stepped without a commit.
            ExactRangeError: an exact model left its range.
        """

    def commit(self, tokens: Mapping[int, int]) -> None:
        """Append one token to each slot named.

        Raises:
            PredictorError: a slot was not stepped, or a token is not of the vocabulary.
        """

    def release(self, slot: int) -> None:
        """Forget a slot's sequence and free it.

        Raises:
            PredictorError: the slot is free already.
        """


def check_fingerprints(ours: str, theirs: str) -> None:
    """Compare before coding.

    Raises:
        FingerprintError: they differ; every frame would be undecodable.
    """
    if ours != theirs:
        raise FingerprintError(
            f"our weak model is {ours[:12]}…, theirs {theirs[:12]}…",
            remedy="copy one exact.safetensors to both sides; a pinned float model also needs the same hardware, torch "
            "build, thread count and slot count: quantise it instead (bitweir models quantise)",
        )


@dataclass
class Slot:
    """An admitted sequence: all its tokens, its temperature, and whether it awaits a commit."""

    tokens: list[int]
    temperature: Temperature
    is_stepped: bool = False


class SlotBook:
    """Enforces rule 1 for every predictor."""

    def __init__(self, slot_count: int, context_tokens: int, vocabulary_size: int) -> None:
        """Start with all slots free."""
        if slot_count < 1:
            raise PredictorError(f"{slot_count} slots", remedy="ask for at least one")
        self.slot_count = slot_count
        self.context_tokens = context_tokens
        self.vocabulary_size = vocabulary_size
        self._slots: dict[int, Slot] = {}

    def admit(self, slot: int, prompt: Sequence[int], temperature: Temperature) -> Slot:
        """Take a free slot."""
        if slot in self._slots or not 0 <= slot < self.slot_count:
            raise PredictorError(f"slot {slot} is taken or not one of {self.slot_count}", remedy="release it first")
        if not 0 < len(prompt) <= self.context_tokens:
            raise PredictorError(
                f"prompt of {len(prompt)} tokens; the context is {self.context_tokens}", remedy="shorten the prompt"
            )
        check_tokens(prompt, self.vocabulary_size)
        self._slots[slot] = Slot(list(prompt), temperature)
        return self._slots[slot]

    def step(self, slots: Sequence[int]) -> list[Slot]:
        """Check that slots may be stepped and return them; the caller marks them once the step succeeded."""
        if len(set(slots)) != len(slots):
            raise PredictorError(f"slots {list(slots)} repeat", remedy="step each slot once")
        taken = [self.taken(slot) for slot in slots]
        for slot, entry in zip(slots, taken, strict=True):
            if entry.is_stepped:
                raise PredictorError(f"slot {slot} was stepped twice", remedy="commit a token in between")
            if len(entry.tokens) >= self.context_tokens:
                raise PredictorError(f"slot {slot} is full", remedy="release it")
        return taken

    def commit(self, tokens: Mapping[int, int]) -> None:
        """Append tokens to slots that were stepped."""
        check_tokens(list(tokens.values()), self.vocabulary_size)
        for slot in tokens:
            if not self.taken(slot).is_stepped:
                raise PredictorError(f"slot {slot} was not stepped", remedy="step before committing")
        for slot, token in tokens.items():
            entry = self.taken(slot)
            entry.is_stepped = False
            entry.tokens.append(token)

    def release(self, slot: int) -> None:
        """Free a slot."""
        self.taken(slot)
        del self._slots[slot]

    def taken(self, slot: int) -> Slot:
        """Return an admitted slot."""
        try:
            return self._slots[slot]
        except KeyError:
            raise PredictorError(f"slot {slot} is free", remedy="admit a prompt first") from None


class ExactPredictor:
    """Implements `Predictor` with an exact file; a slot is a row of the cache."""

    def __init__(self, source: ExactModel | ExactFile | Path, *, slot_count: int = 64, device: str = "cpu") -> None:
        """Load the model, unless it is one already.

        Raises:
            ExactFormatError: the file is not sound.
        """
        self._model = source if isinstance(source, ExactModel) else ExactModel(source, device)
        shape = self._model.shape
        self.vocabulary_size = shape.vocabulary_size
        self.context_tokens = shape.context_tokens
        self.slot_count = slot_count
        self.fingerprint = self._model.fingerprint
        self._book = SlotBook(slot_count, self.context_tokens, self.vocabulary_size)
        self._cache = self._model.cache(slot_count)

    def admit(self, slot: int, prompt: Sequence[int], temperature: Temperature = UNIT) -> None:
        """See `Predictor`; the prompt is fed at the first step, together with that of other new slots."""
        self._book.admit(slot, prompt, temperature)
        self._cache.truncate(slot, 0)

    def step(self, slots: Sequence[int]) -> Frequencies:
        """See `Predictor`; slots with one new token share a call, and so do slots with prompts."""
        entries = self._book.step(slots)
        if not entries:
            return np.empty((0, self.vocabulary_size), dtype=np.int64)
        result = np.zeros((len(slots), self.vocabulary_size), dtype=np.int64)
        pending = [len(entry.tokens) - self._cache.lengths[slot] for slot, entry in zip(slots, entries, strict=True)]
        before = {slot: self._cache.lengths[slot] for slot in slots}
        if min(pending) < 1:
            raise PredictorError(f"a slot of {list(slots)} has nothing to feed", remedy="report this as a defect")
        single = [index for index, count in enumerate(pending) if count == 1]
        several = [index for index, count in enumerate(pending) if count > 1]
        try:
            for group in filter(None, (single, several)):
                pieces = [entries[index].tokens[-pending[index] :] for index in group]
                logits = self._model.prefill(self._cache, [slots[index] for index in group], pieces)
                temperatures = [entries[index].temperature for index in group]
                result[group] = self._model.frequencies(logits, temperatures).cpu().numpy()
        except BaseException:
            # Whatever it was, Ctrl-C included: what was fed is taken back, so that the next step begins where this did.
            for slot, length in before.items():
                self._cache.truncate(slot, length)
            raise
        for entry in entries:
            entry.is_stepped = True
        return result

    def commit(self, tokens: Mapping[int, int]) -> None:
        """See `Predictor`."""
        self._book.commit(tokens)

    def release(self, slot: int) -> None:
        """See `Predictor`."""
        self._book.release(slot)
        self._cache.truncate(slot, 0)


class NGramPredictor:
    """Implements `Predictor` with given counts: fixed, integer, instant. For tests, baselines and small demos.

    The weight of token t after a context is 1 + sum over orders k of 4**k * floor(2**16 * c_k(t) / C_k), where c_k
    counts t after the last k tokens and C_k is that context's total; contexts never seen add nothing. Counts have no
    logits, so any temperature but 1 is refused.
    """

    def __init__(
        self, counts: Counts, vocabulary_size: int, *, slot_count: int = 64, context_tokens: int = 1 << 20
    ) -> None:
        """Keep the counts: context (oldest token first, up to 8) -> token -> how often, 1 to 2**32.

        Raises:
            PredictorError: a count or a token is out of range.
        """
        self._order = max(map(len, counts), default=0)
        tokens = [token for context, after in counts.items() for token in (*context, *after)]
        numbers = [number for after in counts.values() for number in after.values()]
        is_sound = self._order <= 8 and all(0 <= token < vocabulary_size for token in tokens)
        if not is_sound or not all(1 <= number <= 1 << 32 for number in numbers):
            raise PredictorError("counts out of range", remedy="contexts of up to 8 known tokens, counts 1 to 2**32")
        self._counts = {context: dict(sorted(after.items())) for context, after in sorted(counts.items())}
        self.vocabulary_size = vocabulary_size
        self.context_tokens = context_tokens
        self.slot_count = slot_count
        listed = [[list(context), list(map(list, after.items()))] for context, after in self._counts.items()]
        self.fingerprint = hashlib.sha256(b"bitweir n-gram v1\x00" + canonical([vocabulary_size, listed])).hexdigest()
        self._book = SlotBook(slot_count, context_tokens, vocabulary_size)

    def admit(self, slot: int, prompt: Sequence[int], temperature: Temperature = UNIT) -> None:
        """See `Predictor`."""
        if temperature != UNIT:
            raise PredictorError("counts have no temperature", remedy="use temperature 1")
        self._book.admit(slot, prompt, temperature)

    def step(self, slots: Sequence[int]) -> Frequencies:
        """See `Predictor`."""
        entries = self._book.step(slots)
        result = np.ones((len(entries), self.vocabulary_size), dtype=np.int64)
        for row, entry in zip(result, entries, strict=True):
            entry.is_stepped = True
            for order in range(min(self._order, len(entry.tokens)) + 1):
                after = self._counts.get(tuple(entry.tokens[len(entry.tokens) - order :]), {})
                total = sum(after.values())
                for token, number in after.items():
                    row[token] += 4**order * ((number << 16) // total)
        return result

    def commit(self, tokens: Mapping[int, int]) -> None:
        """See `Predictor`."""
        self._book.commit(tokens)

    def release(self, slot: int) -> None:
        """See `Predictor`."""
        self._book.release(slot)
