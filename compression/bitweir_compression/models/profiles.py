"""Sizes, budgets and seeds of the embedded pairs. Every number that training depends on is here."""

from dataclasses import dataclass

from bitweir_compression.errors import CheckpointError


@dataclass(frozen=True)
class Shape:
    """A Llama architecture: `head_size = hidden_size / head_count`, grouped queries where kv_head_count is smaller."""

    layer_count: int
    hidden_size: int
    head_count: int
    kv_head_count: int
    mlp_size: int


@dataclass(frozen=True)
class Schedule:
    """One training stage; training.py says how the rate goes from warm-up to decay.

    Attributes:
        step_count: optimiser steps.
        batch_tokens: tokens of a batch, padding included.
        learning_rate: the peak.
        warmup_steps: steps of the linear rise.
    """

    step_count: int
    batch_tokens: int
    learning_rate: float
    warmup_steps: int


@dataclass(frozen=True)
class Profile:
    """Everything a build depends on besides the code and the installed Python.

    Attributes:
        name: folder name below the models root.
        seed: initial weights, data order and rollouts all derive from it.
        vocabulary_size: entries of the byte-level BPE tokenizer, special tokens included.
        context_tokens: longest sequence the models are trained and served with.
        tokenizer_items: corpus items the tokenizer is trained on.
        documentation_share: share of documentation items among training items; the rest is the tutor's.
        strong, weak: the two architectures.
        strong_training: cross-entropy of reasoning and answer.
        weak_training: forward KL from the strong model on corpus text.
        distillation: forward KL from the strong model on what the strong model itself wrote.
        rollout_count: answers the strong model writes for the distillation, to training prompts.
        rollout_temperatures: the temperatures they are sampled at, in turn; 0 is greedy.
        rollout_tokens_max: tokens of a rollout; longer ones are unfinished and teach nothing.
        check_prompts: held-out prompts the finished pair is checked on.
    """

    name: str
    seed: int
    vocabulary_size: int
    context_tokens: int
    tokenizer_items: int
    documentation_share: float
    strong: Shape
    weak: Shape
    strong_training: Schedule
    weak_training: Schedule
    distillation: Schedule
    rollout_count: int
    rollout_temperatures: tuple[float, ...]
    rollout_tokens_max: int
    check_prompts: int


PROFILES = {
    profile.name: profile
    for profile in (
        # What tests and a first `make demo` use: under 4 CPU minutes in all, well-formed answers, often wrong ones.
        Profile(
            name="tiny",
            seed=1,
            vocabulary_size=4096,
            context_tokens=384,
            tokenizer_items=6_000,
            documentation_share=0.1,
            strong=Shape(layer_count=3, hidden_size=128, head_count=4, kv_head_count=4, mlp_size=352),
            weak=Shape(layer_count=1, hidden_size=64, head_count=2, kv_head_count=2, mlp_size=176),
            strong_training=Schedule(step_count=560, batch_tokens=2048, learning_rate=3e-3, warmup_steps=30),
            weak_training=Schedule(step_count=200, batch_tokens=2048, learning_rate=6e-3, warmup_steps=20),
            distillation=Schedule(step_count=60, batch_tokens=2048, learning_rate=2e-3, warmup_steps=5),
            rollout_count=384,
            rollout_temperatures=(1.0, 0.7),
            rollout_tokens_max=160,
            check_prompts=100,
        ),
        # The pair the project's figures are measured on. Hours on a CPU, minutes on a GPU.
        Profile(
            name="reference",
            seed=1,
            vocabulary_size=4096,
            context_tokens=512,
            tokenizer_items=40_000,
            documentation_share=0.15,
            strong=Shape(layer_count=4, hidden_size=256, head_count=4, kv_head_count=4, mlp_size=688),
            weak=Shape(layer_count=2, hidden_size=112, head_count=4, kv_head_count=4, mlp_size=304),
            strong_training=Schedule(step_count=12_000, batch_tokens=4096, learning_rate=3e-3, warmup_steps=100),
            weak_training=Schedule(step_count=4000, batch_tokens=4096, learning_rate=4e-3, warmup_steps=100),
            distillation=Schedule(step_count=2000, batch_tokens=4096, learning_rate=2e-3, warmup_steps=50),
            rollout_count=20_000,
            rollout_temperatures=(1.0, 0.7, 0.0),
            rollout_tokens_max=320,
            check_prompts=1000,
        ),
    )
}


def profile_named(name: str) -> Profile:
    """Return a profile.

    Raises:
        CheckpointError: there is none of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise CheckpointError(f"no profile '{name}'", remedy=f"use one of: {', '.join(sorted(PROFILES))}") from None
