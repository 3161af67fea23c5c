"""Build a strong/weak pair from nothing: the stages in order, each resumable. Imports torch.

    tokenizer -> strong -> rollouts -> weak -> distilled -> pair

Stage files live in <root>/<profile>/build and go once the pair is written. A build depends on the profile, the code,
the installed Python (whose documentation is part of the corpus), the libraries and the order in which threads add; on
one machine with one number of threads it gives the same bytes again. The model cards name what it was made with.
"""

import dataclasses
import fcntl
import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from bitweir_compression.corpus import Item, Split, documentation, tutor
from bitweir_compression.corpus.foreign import FOREIGN_PROMPTS
from bitweir_compression.errors import CheckpointError, CorpusError
from bitweir_compression.models.chat import ChatTokenizer, load_tokenizer, train_tokenizer
from bitweir_compression.models.checkpoint import Pair, open_pair, write
from bitweir_compression.models.evaluation import (
    StepProgress,
    exact_share,
    finished_exchanges,
    guarded,
    measure,
    written,
)
from bitweir_compression.models.exact_weak import open_exact_weak
from bitweir_compression.models.examples import Exchange, batches, exchanges, items
from bitweir_compression.models.loading import check_device
from bitweir_compression.models.profiles import Profile, Schedule
from bitweir_compression.models.rollouts import read_rollouts, write_rollouts
from bitweir_compression.models.training import (
    Loss,
    Model,
    Progress,
    imitation_loss,
    new_model,
    text_loss,
    train,
)
from bitweir_compression.provenance import provenance, versions

# Seeds of the stages, apart from each other so that no two see the same stream.
# Training items hashed into inputs.json: a change of the corpus shows in the first few hundred.
INPUT_SAMPLE = 500
TOKENIZER_SEED, STRONG_SEED, WEAK_SEED, ROLLOUT_SEED, DISTILLATION_SEED = range(1, 6)


def _silent(stage: str, done: int, total: int, loss: float) -> None:
    """Report nothing."""


def build(profile: Profile, root: Path, progress: Progress, device: str = "cpu") -> Pair:
    """Build the pair of a profile below `root`, or go on with an interrupted build.

    A finished pair is returned as it is.

    Args:
        profile: sizes, budgets and seeds.
        root: the models root; the pair lands in `root`/`profile.name`.
        progress: called after every step.
        device: `cpu` or `cuda`.

    Raises:
        CheckpointError: a file of an earlier build is damaged or belongs to something else, the device is not there,
            or the folder cannot be written.
    """
    check_device(device)
    with _locked(root, profile.name):
        return _build(profile, root / profile.name, progress, device)


def _build(profile: Profile, folder: Path, progress: Progress, device: str) -> Pair:
    if (folder / "strong").is_dir() and (folder / "weak").is_dir():
        return _finished(profile, folder)
    work = folder / "build"
    try:
        work.mkdir(parents=True, exist_ok=True)
        _check_inputs(profile, work)
    except OSError as error:
        raise CheckpointError(f"cannot write to {work}: {error.strerror}", remedy="name another models root") from error
    tokenizer = _tokenizer(profile, work)
    progress("tokenizer", 1, 1, 0.0)
    strong = new_model(profile.strong, tokenizer, profile.context_tokens, profile.seed).to(device)
    _train_stage(
        profile, tokenizer, strong, text_loss(strong, tokenizer.pad), stage="strong", work=work, progress=progress
    )
    write_rollouts(
        strong,
        tokenizer,
        _items(profile, ROLLOUT_SEED),
        work / "rollouts.jsonl",
        count=profile.rollout_count,
        temperatures=profile.rollout_temperatures,
        tokens_max=profile.rollout_tokens_max,
        seed=profile.seed,
        progress=progress,
    )
    weak = new_model(profile.weak, tokenizer, profile.context_tokens, profile.seed + 1).to(device)
    loss = imitation_loss(weak, strong, tokenizer.pad)
    _train_stage(profile, tokenizer, weak, loss, stage="weak", work=work, progress=progress)
    _train_stage(profile, tokenizer, weak, loss, stage="distilled", work=work, progress=progress)
    card = _card(profile, strong, weak, tokenizer, progress)
    write(folder / "strong", strong.cpu(), tokenizer, {"role": "strong", **card}, reasons=True)
    write(folder / "weak", weak.cpu(), tokenizer, {"role": "weak", **card}, reasons=False)
    shutil.rmtree(work)
    pair = open_pair(folder)
    open_exact_weak(pair)
    return pair


@contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """Hold the models root's lock for a pair; a second build of it waits, then finds it finished."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / f"{name}.lock").open("w")
    except OSError as error:
        raise CheckpointError(f"cannot write to {root}: {error.strerror}", remedy="name another models root") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _finished(profile: Profile, folder: Path) -> Pair:
    """Open a pair built before, if it was built from the same profile."""
    pair = open_pair(folder)
    if pair.strong.card["profile"] != json.loads(json.dumps(dataclasses.asdict(profile))):
        raise CheckpointError(
            f"{folder} was built from another '{profile.name}' profile", remedy="delete the folder and build it again"
        )
    shutil.rmtree(folder / "build", ignore_errors=True)
    open_exact_weak(pair)
    return pair


def _check_inputs(profile: Profile, work: Path) -> None:
    """Write down what the build depends on, or refuse to go on with a build that depended on something else."""
    sample = hashlib.sha256(repr(list(islice(_items(profile, STRONG_SEED), INPUT_SAMPLE))).encode()).hexdigest()
    inputs = {"profile": dataclasses.asdict(profile), "versions": versions(), "training_items": sample}
    text = json.dumps(inputs, indent=1)
    path = work / "inputs.json"
    if not path.is_file():
        if any(work.iterdir()):
            raise CheckpointError(f"{work} holds files of an unknown build", remedy="delete it and build again")
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise CheckpointError(
            f"{work} was begun with another profile, other library versions or another corpus",
            remedy="delete it and build again, or go back to what it was begun with",
        )


def _items(profile: Profile, seed: int) -> Iterator[Item]:
    return items((profile.seed << 8) + seed, Split.TRAIN, profile.documentation_share)


def _tokenizer(profile: Profile, work: Path) -> ChatTokenizer:
    """Train the tokenizer on training items, or load the one an earlier call left."""
    path = work / "tokenizer.json"
    if not path.is_file():
        source = islice(_items(profile, TOKENIZER_SEED), profile.tokenizer_items)
        texts = chain.from_iterable((item.prompt, item.reasoning, item.answer) for item in source)
        tokenizer = train_tokenizer(texts, profile.vocabulary_size)
        partial = path.with_suffix(".partial")
        partial.write_text(tokenizer.to_json(), encoding="utf-8")
        partial.replace(path)
    return load_tokenizer(work)


def _train_stage(
    profile: Profile, tokenizer: ChatTokenizer, model: Model, loss: Loss, *, stage: str, work: Path, progress: Progress
) -> None:
    streams: dict[str, tuple[Schedule, int]] = {
        "strong": (profile.strong_training, STRONG_SEED),
        "weak": (profile.weak_training, WEAK_SEED),
        "distilled": (profile.distillation, DISTILLATION_SEED),
    }
    schedule, seed = streams[stage]
    source = (
        _epochs(_rollout_exchanges(tokenizer, work), seed)
        if stage == "distilled"
        else exchanges(tokenizer, _items(profile, seed), profile.context_tokens)
    )
    stream = batches(source, schedule.batch_tokens, seed=seed)
    train(model, loss, stream, schedule, stage=stage, state_path=work / f"{stage}.safetensors", progress=progress)


def _rollout_exchanges(tokenizer: ChatTokenizer, work: Path) -> list[Exchange]:
    rows = read_rollouts(work / "rollouts.jsonl")
    return finished_exchanges(tokenizer, rows)


def _epochs(rows: list[Exchange], seed: int) -> Iterator[Exchange]:
    """Yield the rows in a new order each time round; nothing when there are none."""
    for epoch in count() if rows else ():
        order = list(rows)
        random.Random(f"epoch/{seed}/{epoch}").shuffle(order)  # noqa: S311 - data order, not a secret
        yield from order


def _card(profile: Profile, strong: Model, weak: Model, tokenizer: ChatTokenizer, progress: Progress) -> dict[str, Any]:
    """Return what both model cards say: how the pair was made and what it measured on held-out prompts."""
    return {
        "profile": dataclasses.asdict(profile),
        "data": "procedural tutor, documentation of the installed Python packages (bitweir_compression.corpus)",
        "licence": "Apache-2.0",
        **provenance(),
        "measured": check(profile, strong, weak, tokenizer, progress=progress),
    }


def check(
    profile: Profile,
    strong: Model,
    weak: Model,
    tokenizer: ChatTokenizer,
    *,
    foreign: Sequence[str] = FOREIGN_PROMPTS,
    progress: Progress = _silent,
) -> dict[str, Any]:
    """Measure a pair on held-out prompts, and on prompts of neither corpus; see `evaluation.Measurement` for the units.

    Memory does not grow with the prompts but for their token ids.

    Args:
        profile: which held-out prompts, how many, and how long an answer may be.
        strong: the strong model.
        weak: the weak model.
        tokenizer: theirs.
        foreign: the other prompts; the first `profile.check_prompts` that fit half the context are used.
        progress: called after every batch of prompts.

    Returns:
        `reference` (the corpus's own answers) and `written` (the strong model's, at T=1) per corpus; `foreign`, what it
        writes to the other prompts; `guard`, the degeneracy guard's findings on what is written, per corpus and
        foreign; `exact_share`, the share of exact greedy answers to tutor prompts for both models.

    Raises:
        CorpusError: no foreign prompt is short enough.
    """
    context, longest = profile.context_tokens, profile.rollout_tokens_max
    result: dict[str, Any] = {"reference": {}, "written": {}, "foreign": {}, "guard": {}}

    def answered(name: str, prompts: Sequence[str]) -> dict[str, Any]:
        """Let the strong model write; leave the guard's findings and return the measurement."""
        rows = written(strong, tokenizer, prompts, tokens_max=longest, progress=_stage(progress, name))
        result["guard"][name] = guarded(tokenizer, rows)
        return dataclasses.asdict(measure(strong, weak, tokenizer, finished_exchanges(tokenizer, rows)))

    for corpus, generate in (("tutor", tutor.generate), ("documentation", documentation.generate)):
        held_out = list(islice(generate(profile.seed, Split.EVAL), profile.check_prompts))
        reference = list(exchanges(tokenizer, iter(held_out), context))
        result["reference"][corpus] = dataclasses.asdict(measure(strong, weak, tokenizer, reference))
        result["written"][corpus] = answered(corpus, [item.prompt for item in held_out])
        if corpus == "tutor":
            result["exact_share"] = {
                name: exact_share(
                    model, tokenizer, held_out, longest, reasons=reasons, progress=_stage(progress, f"greedy {name}")
                )
                for name, model, reasons in (("strong", strong, True), ("weak", weak, False))
            }
    result["foreign"] = answered("foreign", _fitting(tokenizer, foreign, profile))
    return result


def _fitting(tokenizer: ChatTokenizer, prompts: Sequence[str], profile: Profile) -> list[str]:
    """Return the first prompts that leave half the context for the answer, as many as are checked."""
    tokens_max = profile.context_tokens // 2
    short = (prompt for prompt in prompts if len(tokenizer.strong_prompt(prompt)) <= tokens_max)
    fitting = list(islice(short, profile.check_prompts))
    if not fitting:
        raise CorpusError(
            f"no foreign prompt is within {tokens_max} tokens", remedy="shorten the prompts, or give others"
        )
    return fitting


def _stage(progress: Progress, name: str) -> StepProgress:
    """Return the progress of one stage of a check."""
    return lambda done, total: progress(f"check {name}", done, total, 0.0)
