"""The training loop: AdamW with warm-up and cosine decay over a resumable stream of batches. Imports torch.

Rules:
1. The state file holds weights and optimiser moments as safetensors, the step in its metadata; it is replaced
   atomically.
2. Resuming skips the batches already seen, so an interrupted run sees the same data in the same order as a whole one.
3. Randomness comes from the seed alone: initial weights by a `torch.Generator`, data by the stream.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator
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
from bitweir_compression.models.profiles import Schedule, Shape

# How often the state is written; losing this many steps to a crash is cheap.
SAVE_EVERY_STEPS = 100
GRADIENT_NORM_MAX = 1.0
FINAL_RATE_SHARE = 0.1
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    step = _restore(model, optimizer, state_path, stage)
    model.train()
    for group in itertools.islice(stream, step, schedule.step_count):
        for options in optimizer.param_groups:
            options["lr"] = schedule.learning_rate * rate_share(step, schedule)
        value = loss(group)
        if not math.isfinite(value.item()):
            raise CheckpointError(f"{stage}: the loss became {value.item()}", remedy="lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM_MAX)
        optimizer.step()
        step += 1
        progress(stage, step, schedule.step_count, value.item())
        if step % SAVE_EVERY_STEPS == 0 or step == schedule.step_count:
            _save(model, optimizer, state_path, stage, step)
    if step < schedule.step_count:
        raise CheckpointError(f"{stage}: the data ended after {step} steps", remedy="raise rollout_count")
    model.eval()


def rate_share(step: int, schedule: Schedule) -> float:
    """Return the learning rate of a step as a share of the peak."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.step_count - schedule.warmup_steps)
    return FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def _named_moments(model: Model, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter, {})
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in moments:
                tensors[f"{moment}.{name}"] = moments[moment].contiguous()
    return tensors


def _save(model: Model, optimizer: torch.optim.AdamW, path: Path, stage: str, step: int) -> None:
    tensors = {f"weight.{name}": parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    tensors |= _named_moments(model, optimizer)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"bitweir": json.dumps({"stage": stage, "step": step})})
    partial.replace(path)


def _restore(model: Model, optimizer: torch.optim.AdamW, path: Path, stage: str) -> int:
    """Load a state file written for this stage and return its step; 0 when there is none."""
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as state:
            header = json.loads(state.metadata()["bitweir"])
            if header["stage"] != stage:
                raise CheckpointError(f"{path} belongs to stage {header['stage']}", remedy="delete it and build again")
            step = int(header["step"])
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(state.get_tensor(f"weight.{name}"))
                    optimizer.state[parameter] = {
                        "step": torch.tensor(float(step)),
                        "exp_avg": state.get_tensor(f"exp_avg.{name}").to(parameter.device),
                        "exp_avg_sq": state.get_tensor(f"exp_avg_sq.{name}").to(parameter.device),
                    }
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a training state: {error}", remedy="delete it and build again") from error
    return step
