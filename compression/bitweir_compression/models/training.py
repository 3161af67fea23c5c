"""The training loop: Muon and AdamW, a rate that ends in a decay, a resumable stream of batches. Imports torch.

Rules:
1. The state file holds weights and optimiser moments as safetensors, the step in its metadata; it is replaced
   atomically.
2. Resuming skips the batches already seen, so an interrupted run sees the same data in the same order as a whole one.
3. Randomness comes from the seed alone: initial weights by a `torch.Generator`, data by the stream.
4. Matrices are trained by Muon, embeddings and gains by AdamW, at one learning rate.
5. Warm-up, a constant rate, and a linear decay over the last third: until the decay begins, a longer schedule's steps
   are the same, so a run may be extended.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, log_softmax
from transformers import LlamaConfig, LlamaForCausalLM

from bitweir_compression.errors import CheckpointError
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.models.examples import Batch, Exchange, strong_batch, strong_visible_batch, weak_batch
from bitweir_compression.models.muon import Muon
from bitweir_compression.models.profiles import Schedule, Shape

# How often the state is written; losing this many steps to a crash is cheap.
SAVE_EVERY_STEPS = 100
GRADIENT_NORM_MAX = 1.0
# What each optimiser remembers of a parameter, besides the step.
MOMENTS = (("momentum",), ("exp_avg", "exp_avg_sq"))
DECAY_SHARE = 1 / 3
FINAL_RATE_SHARE = 0.02
# Temperatures the weak model imitates the strong one at; the mean of their KL is the loss.
IMITATION_TEMPERATURES = (1.0, 0.7)

Model: TypeAlias = LlamaForCausalLM
Loss = Callable[[list[Exchange]], torch.Tensor]
# stage, steps done, steps in all, last loss in nats per counted token
Progress = Callable[[str, int, int, float], None]


def new_model(shape: Shape, tokenizer: ChatTokenizer, context_tokens: int, seed: int) -> Model:
    """Return a Llama with random weights (normal, .02; residual outputs scaled down by depth), tied embeddings."""
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.layer_count,
        num_attention_heads=shape.head_count,
        num_key_value_heads=shape.kv_head_count,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.user,
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.pad,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                is_residual_output = name.endswith(("o_proj.weight", "down_proj.weight"))
                deviation = 0.02 / math.sqrt(2 * shape.layer_count) if is_residual_output else 0.02
                parameter.normal_(0.0, deviation, generator=generator)
    return model


def outputs(model: Model, batch: Batch) -> torch.Tensor:
    """Return the logits at the counted positions only: float [n, V]."""
    device = next(model.parameters()).device
    hidden = model.model(input_ids=torch.from_numpy(batch.ids).to(device), use_cache=False).last_hidden_state
    counted = hidden.flatten(0, 1)[torch.from_numpy(batch.predict_at).to(device)]
    logits: torch.Tensor = model.lm_head(counted)
    return logits


def text_loss(model: Model, pad: int) -> Loss:
    """Return the cross-entropy of reasoning and answer, nats per token."""

    def loss(group: list[Exchange]) -> torch.Tensor:
        batch = strong_batch(group, pad)
        logits = outputs(model, batch)
        return cross_entropy(logits, torch.from_numpy(batch.targets).to(logits.device))

    return loss


def imitation_loss(weak: Model, strong: Model, pad: int) -> Loss:
    """Return the forward KL from strong (which saw the reasoning) to weak (which did not), nats per visible token."""

    def loss(group: list[Exchange]) -> torch.Tensor:
        with torch.no_grad():
            strong_logits = outputs(strong, strong_visible_batch(group, pad)).float()
        weak_logits = outputs(weak, weak_batch(group, pad)).float()
        terms = []
        for temperature in IMITATION_TEMPERATURES:
            log_p = log_softmax(strong_logits / temperature, dim=-1)
            log_w = log_softmax(weak_logits / temperature, dim=-1)
            terms.append((log_p.exp() * (log_p - log_w)).sum(-1).mean())
        return torch.stack(terms).mean()

    return loss


def train(
    model: Model,
    loss: Loss,
    stream: Iterator[list[Exchange]],
    schedule: Schedule,
    *,
    stage: str,
    state_path: Path,
    progress: Progress,
) -> None:
    """Train in place to the end of the schedule, from the state file when there is one; remove nothing."""
    optimizers = _optimizers(model, schedule.learning_rate)
    step = _restore(model, optimizers, state_path, stage)
    model.train()
    for group in itertools.islice(stream, step, schedule.step_count):
        for optimizer in optimizers:
            for options in optimizer.param_groups:
                options["lr"] = schedule.learning_rate * rate_share(step, schedule)
        value = loss(group)
        if not math.isfinite(value.item()):
            raise CheckpointError(f"{stage}: the loss became {value.item()}", remedy="lower the learning rate")
        model.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM_MAX)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        progress(stage, step, schedule.step_count, value.item())
        if step % SAVE_EVERY_STEPS == 0 or step == schedule.step_count:
            _save(model, optimizers, state_path, stage, step)
    if step < schedule.step_count:
        raise CheckpointError(f"{stage}: the data ended after {step} steps", remedy="raise rollout_count")
    model.eval()


def rate_share(step: int, schedule: Schedule) -> float:
    """Return the learning rate of a step as a share of the peak."""
    warm = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    left = (schedule.step_count - step) / max(1.0, schedule.step_count * DECAY_SHARE)
    return min(warm, FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * min(1.0, left))


def _optimizers(model: Model, rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the layers' matrices and AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.dim() == 2 and "embed" not in name]
    rest = [parameter for name, parameter in named if parameter.dim() != 2 or "embed" in name]
    # In the order of MOMENTS.
    return Muon(matrices, rate), torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)


def _moments(parameter: torch.nn.Parameter, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Return what the optimiser remembers of a parameter, by name; empty before its first step."""
    state: dict[str, torch.Tensor] = next((o.state[parameter] for o in optimizers if parameter in o.state), {})
    return {name: value for name, value in state.items() if name != "step"}


def _save(model: Model, optimizers: Sequence[torch.optim.Optimizer], path: Path, stage: str, step: int) -> None:
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().contiguous()
        for moment, value in _moments(parameter, optimizers).items():
            tensors[f"{moment}.{name}"] = value.contiguous()
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"bitweir": json.dumps({"stage": stage, "step": step})})
    partial.replace(path)


def _restore(model: Model, optimizers: Sequence[torch.optim.Optimizer], path: Path, stage: str) -> int:
    """Load a state file written for this stage and return its step; 0 when there is none."""
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as state:
            header = json.loads(state.metadata()["bitweir"])
            if header["stage"] != stage:
                raise CheckpointError(f"{path} belongs to stage {header['stage']}", remedy="delete it and build again")
            step = int(header["step"])
            names = {parameter: name for name, parameter in model.named_parameters()}
            with torch.no_grad():
                for parameter, name in names.items():
                    parameter.copy_(state.get_tensor(f"weight.{name}"))
            for optimizer, moments in zip(optimizers, MOMENTS, strict=True):
                for parameter in optimizer.param_groups[0]["params"]:
                    values = {m: state.get_tensor(f"{m}.{names[parameter]}").to(parameter.device) for m in moments}
                    optimizer.state[parameter] = {"step": torch.tensor(float(step)), **values}
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a training state: {error}", remedy="delete it and build again") from error
    return step
