"""Muon against AdamW on the strong model's task: `make bench NAME=optimiser`. About twenty minutes on two cores.

A small strong model (3 layers of 160) sees the same batches in the same order with each optimiser, at the same rates.
The figure that counts is the held-out loss of the tutor's answers, nats a token.
"""

import itertools

import torch

from benchmarks import record
from bitweir_compression.corpus import Split, tutor
from bitweir_compression.models.chat import ChatTokenizer, train_tokenizer
from bitweir_compression.models.evaluation import exact_share
from bitweir_compression.models.examples import batches, exchanges, items
from bitweir_compression.models.muon import Muon
from bitweir_compression.models.profiles import Schedule, Shape
from bitweir_compression.models.training import Model, new_model, rate_share, text_loss

SEED = 5
SHAPE = Shape(layer_count=3, hidden_size=160, head_count=4, kv_head_count=4, mlp_size=432)
SCHEDULE = Schedule(step_count=600, batch_tokens=2048, learning_rate=3e-3, warmup_steps=60)
CONTEXT, VOCABULARY, HELD_OUT = 512, 4096, 200


def optimisers(model: Model, *, is_muon: bool) -> list[torch.optim.Optimizer]:
    """Return AdamW for everything, or Muon for the layers' matrices and AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
    rest = [p for name, p in named if p.dim() != 2 or "embed" in name]
    adam = {"lr": SCHEDULE.learning_rate, "betas": (0.9, 0.95)}
    if is_muon:
        return [Muon(matrices, SCHEDULE.learning_rate), torch.optim.AdamW(rest, weight_decay=0.0, **adam)]
    return [torch.optim.AdamW(model.parameters(), weight_decay=0.05, **adam)]


def trained(tokenizer: ChatTokenizer, *, is_muon: bool) -> Model:
    """Return a model after the schedule."""
    model = new_model(SHAPE, tokenizer, CONTEXT, SEED)
    loss = text_loss(model, tokenizer.pad)
    source = exchanges(tokenizer, items(SEED, Split.TRAIN, 0.15), CONTEXT)
    stream = batches(source, SCHEDULE.batch_tokens, seed=SEED)
    chosen = optimisers(model, is_muon=is_muon)
    for step, group in enumerate(itertools.islice(stream, SCHEDULE.step_count)):
        for optimiser in chosen:
            for options in optimiser.param_groups:
                options["lr"] = SCHEDULE.learning_rate * rate_share(step, SCHEDULE)
        model.zero_grad(set_to_none=True)
        loss(group).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in chosen:
            optimiser.step()
    return model.eval()


def main() -> None:
    """Train both and write benchmarks/results/optimiser.json."""
    torch.set_num_threads(1)
    source = itertools.islice(items(SEED, Split.TRAIN, 0.15), 10_000)
    texts = itertools.chain.from_iterable((item.prompt, item.reasoning, item.answer) for item in source)
    tokenizer = train_tokenizer(texts, VOCABULARY)
    held_out = list(itertools.islice(tutor.generate(SEED, Split.EVAL), HELD_OUT))
    rows = list(exchanges(tokenizer, iter(held_out), CONTEXT))
    figures = {}
    for name, is_muon in (("adamw", False), ("muon", True)):
        model = trained(tokenizer, is_muon=is_muon)
        loss = text_loss(model, tokenizer.pad)
        with torch.no_grad():
            held_out_nats = sum(loss([row]).item() for row in rows) / len(rows)
        share = exact_share(model, tokenizer, held_out, 320, reasons=True)
        figures[name] = {"held_out_nats_per_token": held_out_nats, "exact_share": share}
        print(f"{name}: {figures[name]}")
    print(record.write("optimiser", seed=SEED, figures=figures))


if __name__ == "__main__":
    main()
