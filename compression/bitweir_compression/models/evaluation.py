"""What a finished pair is worth: held-out loss, KL, entropy, exact answers, in bits per visible token. Imports torch.

P is the strong model's distribution after its own reasoning, W the weak model's from prompt and visible text alone,
so the KL printed here is what a coder has to pay for, guessing included.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import log_softmax

from bitweir_compression.corpus import Item, tutor
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.models.examples import Exchange, batches, exchange, strong_visible_batch, weak_batch
from bitweir_compression.models.rollouts import BATCH_SEQUENCES, continue_batch
from bitweir_compression.models.training import Model, outputs
from bitweir_compression.sampling import SamplingSpec, probabilities

# Padded tokens of a batch; evaluation holds no gradients, so this is small on purpose.
BATCH_TOKENS = 4096


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
    """

    token_count: int
    strong_bits: float
    weak_bits: float
    entropy_bits: float
    kl_bits: float


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
    sums, count = torch.zeros(4, dtype=torch.float64), 0
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
        sums += torch.stack([-log_strong[rows, targets].sum(), -log_w[rows, targets].sum(), entropy, cross - entropy])
        count += len(rows)
    return Measurement(count, *(float(s) / max(count, 1) / math.log(2) for s in sums))


def written_exchanges(
    strong: Model, tokenizer: ChatTokenizer, items: Sequence[Item], *, temperature: float, tokens_max: int
) -> list[Exchange]:
    """Return what the strong model itself writes to prompts, finished answers only."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for start in range(0, len(items), BATCH_SEQUENCES):
        group = items[start : start + BATCH_SEQUENCES]
        continuations = continue_batch(
            strong,
            tokenizer,
            [item.prompt for item in group],
            reasons=True,
            temperature=temperature,
            tokens_max=tokens_max,
            generator=generator,
        )
        pairs = zip(group, continuations, strict=True)
        result += [exchange(tokenizer, item.prompt, c) for item, c in pairs if c and c[-1] == tokenizer.end]
    return [e for e in result if e.visible_count]


def exact_share(
    model: Model, tokenizer: ChatTokenizer, items: Sequence[Item], tokens_max: int, *, reasons: bool
) -> float:
    """Return the share of tutor items whose greedy answer passes the checker."""
    right = 0
    for start in range(0, len(items), BATCH_SEQUENCES):
        group = items[start : start + BATCH_SEQUENCES]
        prompts = [item.prompt for item in group]
        continuations = continue_batch(model, tokenizer, prompts, reasons=reasons, temperature=0, tokens_max=tokens_max)
        for item, continuation in zip(group, continuations, strict=True):
            visible = tokenizer.visible(continuation) if reasons else continuation
            right += tutor.check(item, tokenizer.decode(visible))
    return right / max(len(items), 1)
