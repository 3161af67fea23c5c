"""From corpus items to padded batches of token ids. A batch stream is a function of its seed, so training can resume.

Shapes: B sequences of L tokens, right-padded. Positions that count for the loss are given as an index into the
flattened [B * L] grid, so that the vocabulary-sized output is computed only there.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitweir_compression.corpus import Item, Split, documentation, tutor
from bitweir_compression.models.chat import ChatTokenizer

# Sequences sorted by length together; larger wastes less padding, smaller mixes better.
BUFFER_SEQUENCES = 512

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Exchange:
    """One prompt with what the strong model wrote (or should write), as both models see it.

    Attributes:
        strong: prompt, reasoning and answer, ending with `<|end|>`.
        strong_start: index of the first token the strong model writes.
        weak: prompt and answer, ending with `<|end|>`.
        visible_count: tokens of the answer, `<|end|>` included; the last ones of both sequences.
    """

    strong: tuple[int, ...]
    strong_start: int
    weak: tuple[int, ...]
    visible_count: int


@dataclass(frozen=True)
class Batch:
    """Padded ids and where the loss counts.

    Attributes:
        ids: int64 [B, L].
        predict_at: int64 [n], flat indices whose output predicts a counted token.
        targets: int64 [n], the counted tokens.
    """

    ids: Ids
    predict_at: Ids
    targets: Ids


def exchange(tokenizer: ChatTokenizer, prompt: str, continuation: Sequence[int]) -> Exchange:
    """Return a prompt and the strong model's continuation of it (reasoning, `</think>`, answer, `<|end|>`)."""
    opening = tokenizer.strong_prompt(prompt)
    visible = tokenizer.visible(continuation)
    return Exchange(
        strong=(*opening, *continuation),
        strong_start=len(opening),
        weak=(*tokenizer.weak_prompt(prompt), *visible),
        visible_count=len(visible),
    )


def items(seed: int, split: Split, documentation_share: float) -> Iterator[Item]:
    """Yield tutor and documentation items for ever, mixed at random in the given share."""
    mix = random.Random(f"mix/{seed}/{split}")  # noqa: S311 - data order, not a secret
    sources = (tutor.generate(seed, split), documentation.generate(seed, split))
    while True:
        yield next(sources[mix.random() < documentation_share])


def exchanges(tokenizer: ChatTokenizer, source: Iterator[Item], context_tokens: int) -> Iterator[Exchange]:
    """Yield the items that fit the context, as exchanges."""
    for item in source:
        candidate = exchange(tokenizer, item.prompt, tokenizer.strong_continuation(item))
        if len(candidate.strong) <= context_tokens:
            yield candidate


def batches(source: Iterator[Exchange], batch_tokens: int, *, seed: int) -> Iterator[list[Exchange]]:
    """Yield groups of similar length whose padded size stays within `batch_tokens`; short groups last in a buffer."""
    order = random.Random(f"batches/{seed}")  # noqa: S311 - data order, not a secret
    exhausted = False
    while not exhausted:
        buffer = [e for _, e in zip(range(BUFFER_SEQUENCES), source, strict=False)]
        exhausted = len(buffer) < BUFFER_SEQUENCES
        buffer.sort(key=lambda e: len(e.strong))
        groups: list[list[Exchange]] = []
        for candidate in buffer:
            if groups and (len(groups[-1]) + 1) * len(candidate.strong) <= batch_tokens:
                groups[-1].append(candidate)
            else:
                groups.append([candidate])
        order.shuffle(groups)
        yield from groups


def strong_batch(group: Sequence[Exchange], pad: int) -> Batch:
    """Pad the strong side; everything after the prompt counts."""
    return _pad([e.strong for e in group], [len(e.strong) - e.strong_start for e in group], pad)


def strong_visible_batch(group: Sequence[Exchange], pad: int) -> Batch:
    """Pad the strong side; only the answer counts, so its rows match `weak_batch`."""
    return _pad([e.strong for e in group], [e.visible_count for e in group], pad)


def weak_batch(group: Sequence[Exchange], pad: int) -> Batch:
    """Pad the weak side; only the answer counts."""
    return _pad([e.weak for e in group], [e.visible_count for e in group], pad)


def _pad(sequences: Sequence[tuple[int, ...]], counted: Sequence[int], pad: int) -> Batch:
    width = max(len(sequence) for sequence in sequences)
    ids = np.full((len(sequences), width), pad, dtype=np.int64)
    predict_at = []
    for row, (sequence, count) in enumerate(zip(sequences, counted, strict=True)):
        ids[row, : len(sequence)] = sequence
        end = row * width + len(sequence)
        predict_at.append(np.arange(end - count - 1, end - 1))
    flat = np.concatenate(predict_at)
    return Batch(ids=ids, predict_at=flat, targets=ids.reshape(-1)[flat + 1])
