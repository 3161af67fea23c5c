"""Measuring a pair: what is in the measurements, what the command makes of them, and pairs that must not pass."""

import copy
import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from bitweir_compression import commands
from bitweir_compression.corpus import Item
from bitweir_compression.corpus.foreign import FOREIGN_PROMPTS
from bitweir_compression.errors import CheckpointError, CorpusError
from bitweir_compression.models import acceptance, profiles
from bitweir_compression.models.acceptance import CORPORA, criteria
from bitweir_compression.models.build import build, check
from bitweir_compression.models.chat import train_tokenizer
from bitweir_compression.models.checkpoint import Pair
from bitweir_compression.models.evaluation import guarded, written
from bitweir_compression.models.examples import batches, exchanges
from bitweir_compression.models.profiles import Schedule, Shape
from bitweir_compression.models.training import new_model, text_loss, train
from tests.unit.compression.micro import MICRO


def silent(stage: str, done: int, total: int, loss: float) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return build(MICRO, tmp_path_factory.mktemp("models"), silent)


def failing(measured: dict, strong: object, weak: object) -> set[str]:
    sizes = {"strong_parameters": strong.num_parameters(), "weak_parameters": weak.num_parameters()}
    return {criterion.name for criterion in criteria(measured, **sizes) if not criterion.ok}


def test_a_check_measures_both_corpora_foreign_prompts_and_the_guard(pair: Pair) -> None:
    calls: list[tuple[str, int, int]] = []

    def note(stage: str, done: int, total: int, loss: float) -> None:
        calls.append((stage, done, total))

    measured = check(MICRO, pair.strong.model(), pair.weak.model(), pair.strong.tokenizer(), progress=note)
    assert set(measured) == {"reference", "written", "foreign", "guard", "exact_share"}
    assert set(measured["reference"]) == set(measured["written"]) == set(CORPORA)
    assert set(measured["guard"]) == {*CORPORA, "foreign"}
    count = MICRO.check_prompts
    assert {row["sequence_count"] for row in measured["guard"].values()} == {count}
    stages = ("check tutor", "check greedy strong", "check greedy weak", "check documentation", "check foreign")
    assert calls == [(stage, count, count) for stage in stages]
    assert set(measured["foreign"]) == set(measured["written"]["tutor"])
    # What the card says is the same, so it too can be held against the criteria.
    assert pair.strong.card["measured"] == json.loads(json.dumps(measured))
    assert failing(pair.weak.card["measured"], pair.strong.model(), pair.weak.model())


def test_progress_is_reported_for_every_batch_of_prompts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitweir_compression.models import evaluation

    monkeypatch.setattr(evaluation, "BATCH_SEQUENCES", 3)
    calls: list[tuple[int, int]] = []
    rows = written(
        pair.strong.model(), pair.strong.tokenizer(), FOREIGN_PROMPTS[:8], tokens_max=3,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls == [(3, 8), (6, 8), (8, 8)]
    assert [prompt for prompt, _ in rows] == list(FOREIGN_PROMPTS[:8])


def test_foreign_prompts_too_long_for_the_context_are_left_out(pair: Pair) -> None:
    sides = (pair.strong.model(), pair.weak.model(), pair.strong.tokenizer())
    profile = dataclasses.replace(MICRO, check_prompts=3)
    measured = check(profile, *sides, foreign=["word " * 200, "Who are you?", "word " * 200])
    assert measured["guard"]["foreign"]["sequence_count"] == 1
    with pytest.raises(CorpusError, match="no foreign prompt is within 128 tokens") as caught:
        check(profile, *sides, foreign=["word " * 200])
    assert caught.value.remedy


def test_the_guard_sees_what_was_never_finished(pair: Pair) -> None:
    tokenizer = pair.strong.tokenizer()
    answer = tokenizer.encode("It is so.")
    rows = [
        ("a", [tokenizer.end_think, *answer, tokenizer.end]),
        ("b", [tokenizer.end_think, *answer]),
        ("c", list(answer)),
        ("d", []),
    ]
    found = guarded(tokenizer, rows)
    assert (found["sequence_count"], found["answer_count"], found["truncated_share"]) == (4, 2, 0.75)
    assert found["verdict"] == "warn"
    assert len(found["reasons"]) >= 2


def test_a_pair_of_twice_the_same_model_fails(pair: Pair) -> None:
    """Nothing was distilled: the weak model is as large, and answers nothing less exactly."""
    strong = pair.strong.model()
    weak = copy.deepcopy(strong)
    measured = check(MICRO, strong, weak, pair.strong.tokenizer())
    assert {
        "tutor: exact greedy answers, strong minus weak",
        "weak: share of strong's parameters",
    } <= failing(measured, strong, weak)


def test_twice_a_model_that_ignores_its_reasoning_fails_by_its_kl(pair: Pair) -> None:
    """Without embeddings every token is as likely as any other, whatever was read: P and W are the same."""
    strong = pair.strong.model()
    with torch.no_grad():
        strong.model.embed_tokens.weight.zero_()
    measured = check(MICRO, strong, copy.deepcopy(strong), pair.strong.tokenizer())
    names = {
        f"{corpus}: {what}"
        for corpus in CORPORA
        for what in ("KL(P||W) is no copy's", "held-out loss, weak minus strong")
    }
    assert names <= failing(measured, strong, strong)
    assert measured["written"]["tutor"]["kl_bits"] == measured["reference"]["tutor"]["kl_bits"] == 0


def template_items(seed: int) -> Iterator[Item]:
    """A corpus of one wording with a number in it."""
    rng = random.Random(seed)
    while True:
        number = str(rng.randint(0, 99))
        prompt, answer = f"What is {number}?", f"The answer to your question is {number}."
        yield Item("template", "number", number, prompt, "", answer, number)


def test_a_strong_model_trained_on_a_template_fails_the_guard(tmp_path: Path) -> None:
    texts = (item.prompt + item.answer for item, _ in zip(template_items(0), range(200), strict=False))
    tokenizer = train_tokenizer(texts, 300)
    model = new_model(Shape(1, 64, 2, 2, 128), tokenizer, 64, 1)
    schedule = Schedule(step_count=60, batch_tokens=1024, learning_rate=1e-2, warmup_steps=5)
    stream = batches(exchanges(tokenizer, template_items(1), 64), schedule.batch_tokens, seed=1)
    loss = text_loss(model, tokenizer.pad)
    train(model, loss, stream, schedule, stage="strong", state_path=tmp_path / "x.safetensors", progress=silent)
    prompts = [item.prompt for item, _ in zip(template_items(2), range(100), strict=False)]
    found = guarded(tokenizer, written(model.eval(), tokenizer, prompts, tokens_max=40))
    assert found["verdict"] == "warn"
    assert any("few templates" in reason for reason in found["reasons"]), found


@pytest.fixture
def bitweir(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    """Run `bitweir models ...` on the micro pair as if it were a profile of the package."""
    monkeypatch.setitem(profiles.PROFILES, MICRO.name, MICRO)

    def run(*words: str) -> Result:
        root = str(pair.strong.folder.parents[1])
        return CliRunner().invoke(commands.models, [*words, "--profile", "micro", "--models", root])

    return run


def test_the_command_prints_every_criterion(bitweir) -> None:
    result = bitweir("check")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["criterion", "value", "bound", "ok"]
    assert len(table) == 1 + 19 + 1
    assert table[-1].endswith("the pair 'micro' is for testing and not held to them")
    kl = next(line for line in table if line.startswith("tutor: KL(P||W) of what is written"))
    assert "<= 0.200" in kl
    assert "(goal <= 0.080: " in kl
    for words in ("written foreign", "degeneracy guard, foreign: ", "KL(P||W) / H(P) of what is written: tutor "):
        assert words in result.stdout
    assert "check documentation: 8 of 8" in result.stderr
    assert "check documentation" not in result.stdout


def test_a_held_pair_that_fails_exits_with_1(bitweir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "HELD_PROFILES", frozenset({"micro"}))
    result = bitweir("check")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("NOT accepted: ")
    document = bitweir("check", "--json")
    assert document.exit_code == 1
    assert json.loads(document.stdout)["held"] is True
    # With nothing to fail, the same pair is accepted.
    monkeypatch.setattr(acceptance, "criteria", lambda *_, **__: (acceptance.Criterion("x", 1, ">=", 1, "tokens"),))
    result = bitweir("check")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "accepted: all 1 criteria hold"


def test_json_is_one_document_with_figures_and_criteria(bitweir) -> None:
    result = bitweir("check", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(document) == {
        "reference", "written", "foreign", "guard", "exact_share", "kl_over_entropy", "criteria", "held", "accepted",
    }  # fmt: skip
    assert (document["held"], document["accepted"]) == (False, False)
    assert set(document["kl_over_entropy"]) == {*CORPORA, "foreign"}
    assert {"name", "value", "relation", "bound", "unit", "goal", "ok", "goal_met"} == set(document["criteria"][0])


def test_foreign_prompts_are_read_from_a_file(bitweir, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Who?"}\n{"prompt": "Why?"}\n')
    document = json.loads(bitweir("check", "--json", "--foreign", str(path)).stdout)
    assert document["guard"]["foreign"]["sequence_count"] == 2
    path.write_text('{"nothing": 1}\n')
    assert isinstance(bitweir("check", "--foreign", str(path)).exception, CorpusError)


def test_a_card_without_foreign_prompts_can_still_be_shown(bitweir, pair: Pair, tmp_path: Path) -> None:
    assert "written foreign" in bitweir("show").stdout
    older = {name: pair.strong.card["measured"][name] for name in ("reference", "written", "exact_share")}
    lines = commands._measured_lines(older)
    assert len(lines) == 1 + 4 + 1
    with pytest.raises(CheckpointError, match="lack a figure"):
        criteria(older, strong_parameters=1, weak_parameters=1)
