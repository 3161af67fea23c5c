"""What a finished pair is worth: held-out loss, KL, entropy, exact answers, in bits per visible token. Imports torch.

P is the strong model's distribution after its own reasoning, W the weak model's from prompt and visible text alone,
so the KL printed here is what a coder has to pay for, guessing included.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch.nn.functional import log_softmax

from bitweir_compression import guard
from bitweir_compression.corpus import Item, tutor
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.models.examples import Exchange, batches, exchange, strong_visible_batch, weak_batch
from bitweir_compression.models.rollouts import BATCH_SEQUENCES, continue_batch
from bitweir_compression.models.training import Model, outputs
from bitweir_compression.sampling import SamplingSpec, probabilities

# Padded tokens of a batch. Some eight float64 tables of tokens x vocabulary live at once: 270 MB at a vocabulary of 4k.
BATCH_TOKENS = 1024

T = TypeVar("T")
Written: TypeAlias = tuple[str, list[int]]  # a prompt, and what the strong model wrote to it
StepProgress = Callable[[int, int], None]  # prompts done, prompts in all


def _silent(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Measurement:
    """Means over counted visible tokens, the end token included, in bits per token.

    P is what tokens are drawn from: after temperature and truncation, special tokens forbidden; at temperature 0 it is
    the greedy token. W is the weak model at that temperature (at 1 where it is 0), special tokens forbidden, not
    truncated.

    Attributes:
        token_count: visible tokens counted.
        strong_bits: -log2 of the token that is there under the strong model, not truncated.
        weak_bits: -log2 W of the same token: what plain arithmetic coding pays.
        entropy_bits: H(P).
        kl_bits: KL(P || W).
        tv: total variation distance of P and W, 0 to 1.
    """

    token_count: int
    strong_bits: float
    weak_bits: float
    entropy_bits: float
    kl_bits: float
    tv: float


@torch.inference_mode()
def measure(
    strong: Model,
    weak: Model,
    tokenizer: ChatTokenizer,
    source: Sequence[Exchange],
    spec: SamplingSpec = SamplingSpec(),
) -> Measurement:
    """Measure both models on the visible tokens of some exchanges, as they are drawn under a sampling specification."""
    forbidden = sorted(tokenizer.special_ids - {tokenizer.end})
    spec = dataclasses.replace(spec, forbidden=tuple(sorted({*spec.forbidden, *forbidden})))
    temperature = spec.temperature or 1.0
    is_whole = spec.temperature > 0 and spec.top_k == 0 and spec.top_p == 1 and spec.min_p == 0 and not spec.logit_bias
    sums, count = torch.zeros(5, dtype=torch.float64), 0
    for group in batches(iter(source), BATCH_TOKENS, seed=0):
        strong_side, weak_side = strong_visible_batch(group, tokenizer.pad), weak_batch(group, tokenizer.pad)
        strong_logits = outputs(strong, strong_side).double().cpu()
        weak_logits = outputs(weak, weak_side).double().cpu()
        strong_logits[:, list(spec.forbidden)] = weak_logits[:, list(spec.forbidden)] = -math.inf
        log_strong = log_softmax(strong_logits / temperature, dim=-1)
        log_w = log_softmax(weak_logits / temperature, dim=-1)
        p = log_strong.exp()
        if not is_whole:
            p = torch.from_numpy(np.stack([probabilities(row, spec) for row in strong_logits.numpy()]))
        rows = torch.arange(len(strong_side.targets))
        targets = torch.from_numpy(strong_side.targets)
        # xlogy is 0 where P is 0; there log W may be -inf, which must not turn 0 * inf into NaN.
        entropy = -torch.xlogy(p, p).sum()
        cross = -torch.where(p > 0, p * log_w, 0.0).sum()
        # In nats, all divided by ln 2 at the end; the distance has no unit.
        distance = (p - log_w.exp()).abs().sum() / 2 * math.log(2)
        parts = (-log_strong[rows, targets].sum(), -log_w[rows, targets].sum(), entropy, cross - entropy, distance)
        sums += torch.stack(parts)
        count += len(rows)
    return Measurement(count, *(float(s) / max(count, 1) / math.log(2) for s in sums))


def written(
    strong: Model,
    tokenizer: ChatTokenizer,
    prompts: Sequence[str],
    *,
    tokens_max: int,
    progress: StepProgress = _silent,
) -> list[Written]:
    """Return what the strong model writes to each prompt at temperature 1, from a fixed seed."""
    generator = torch.Generator(device=next(strong.parameters()).device).manual_seed(0)
    result: list[Written] = []
    for group in _groups(prompts, progress):
        continuations = continue_batch(
            strong, tokenizer, group, reasons=True, temperature=1.0, tokens_max=tokens_max, generator=generator
        )
        result += zip(group, continuations, strict=True)
    return result


def finished_exchanges(tokenizer: ChatTokenizer, rows: Iterable[Written]) -> list[Exchange]:
    """Return the answers that were finished and have visible text, as exchanges."""
    finished = [exchange(tokenizer, prompt, ids) for prompt, ids in rows if ids and ids[-1] == tokenizer.end]
    return [e for e in finished if e.visible_count]


def guarded(tokenizer: ChatTokenizer, rows: Sequence[Written]) -> dict[str, Any]:
    """Return what the degeneracy guard says of all that was written, finished or not, with `verdict` and `reasons`."""
    visible = [[i for i in tokenizer.visible(continuation) if i != tokenizer.end] for _, continuation in rows]
    cut = sum(tokenizer.end not in continuation for _, continuation in rows)
    found = guard.examine(visible, [tokenizer.decode(ids) for ids in visible], truncated_count=cut)
    return {**dataclasses.asdict(found), "verdict": found.verdict, "reasons": list(found.reasons)}


def exact_share(
    model: Model,
    tokenizer: ChatTokenizer,
    items: Sequence[Item],
    tokens_max: int,
    *,
    reasons: bool,
    progress: StepProgress = _silent,
) -> float:
    """Return the share of tutor items whose greedy answer passes the checker."""
    right = 0
    for group in _groups(items, progress):
        prompts = [item.prompt for item in group]
        continuations = continue_batch(model, tokenizer, prompts, reasons=reasons, temperature=0, tokens_max=tokens_max)
        for item, continuation in zip(group, continuations, strict=True):
            visible = tokenizer.visible(continuation) if reasons else continuation
            right += tutor.check(item, tokenizer.decode(visible))
    return right / max(len(items), 1)


def _groups(rows: Sequence[T], progress: StepProgress) -> Iterator[Sequence[T]]:
    """Yield the rows in batches and report each when its work is done."""
    for start in range(0, len(rows), BATCH_SEQUENCES):
        yield rows[start : start + BATCH_SEQUENCES]
        progress(min(start + BATCH_SEQUENCES, len(rows)), len(rows))
