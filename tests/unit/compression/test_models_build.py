"""A build is repeatable, goes on after any interruption, and never mistakes damaged files for a model."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitweir_compression.errors import CheckpointError
from bitweir_compression.models import training
from bitweir_compression.models.build import build
from bitweir_compression.models.checkpoint import Checkpoint, Pair, fingerprint, open_checkpoint, open_pair
from bitweir_compression.models.profiles import profile_named
from tests.unit.compression.micro import MICRO


@pytest.fixture(autouse=True, scope="module")
def small_and_steady():
    """One thread, so that sums are in one order, and a state file every other step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY_STEPS", 2)
        yield
    torch.set_num_threads(threads)


def silent(stage: str, done: int, total: int, loss: float) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Pair:
    return build(MICRO, tmp_path_factory.mktemp("models"), silent)


@pytest.fixture
def pair(finished: Pair, tmp_path: Path) -> Path:
    """A copy of the finished pair that a test may damage."""
    return Path(shutil.copytree(finished.strong.folder.parent, tmp_path / "micro"))


def test_a_finished_pair_is_returned_as_it_is(finished: Pair) -> None:
    def refuse(stage: str, done: int, total: int, loss: float) -> None:
        raise AssertionError("nothing should be built")

    root = finished.strong.folder.parents[1]
    assert build(MICRO, root, refuse).weak.fingerprint == finished.weak.fingerprint
    assert not (root / "micro" / "build").exists()


def test_two_builds_at_once_make_one_pair(tmp_path: Path) -> None:
    calls: list[str] = []

    def note(stage: str, done: int, total: int, loss: float) -> None:
        calls.append(stage)

    with ThreadPoolExecutor(2) as pool:
        pairs = list(pool.map(lambda _: build(MICRO, tmp_path, note), range(2)))
    assert pairs[0].weak.fingerprint == pairs[1].weak.fingerprint
    assert calls.count("tokenizer") == 1


def test_a_pair_of_another_profile_is_not_taken_for_this_one(pair: Path) -> None:
    other = dataclasses.replace(MICRO, check_prompts=9)
    with pytest.raises(CheckpointError, match="was built from another 'micro' profile"):
        build(other, pair.parent, silent)


def test_the_card_says_what_was_made(finished: Pair) -> None:
    for side in (finished.strong, finished.weak):
        assert side.card["profile"]["seed"] == MICRO.seed
        assert side.card["fingerprint"] == side.fingerprint
        assert set(side.card["measured"]["reference"]) == {"tutor", "documentation"}
        assert {"machine", "versions", "commit", "licence", "data", "parameter_count"} <= set(side.card)
    assert finished.strong.card["role"] == "strong"
    assert finished.weak.card["parameter_count"] < finished.strong.card["parameter_count"]


@pytest.mark.parametrize(
    ("stage", "at"), [("strong", 1), ("strong", 5), ("rollouts", 64), ("weak", 4), ("distilled", 3), ("distilled", 4)]
)
def test_an_interrupted_build_ends_like_a_whole_one(finished: Pair, tmp_path: Path, stage: str, at: int) -> None:
    def interrupt(now: str, done: int, total: int, loss: float) -> None:
        if (now, done) == (stage, at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(MICRO, tmp_path, interrupt)
    assert not (tmp_path / "micro" / "weak").exists()
    resumed = build(MICRO, tmp_path, silent)
    assert resumed.strong.fingerprint == finished.strong.fingerprint
    assert resumed.weak.fingerprint == finished.weak.fingerprint


def interrupted(root: Path, stage: str, at: int) -> Path:
    """Build until a step of a stage and return the folder of stage files."""

    def interrupt(now: str, done: int, total: int, loss: float) -> None:
        if (now, done) == (stage, at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(MICRO, root, interrupt)
    return root / "micro" / "build"


def test_a_damaged_state_file_is_refused(tmp_path: Path) -> None:
    work = interrupted(tmp_path, "strong", 3)
    (work / "strong.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(CheckpointError, match="is not a training state") as caught:
        build(MICRO, tmp_path, silent)
    assert "delete it" in caught.value.remedy


def test_the_state_of_another_stage_is_refused(tmp_path: Path) -> None:
    work = interrupted(tmp_path, "distilled", 3)
    shutil.copy(work / "weak.safetensors", work / "distilled.safetensors")
    with pytest.raises(CheckpointError, match="belongs to stage weak"):
        build(MICRO, tmp_path, silent)


def test_a_build_does_not_go_on_with_what_another_profile_began(tmp_path: Path) -> None:
    interrupted(tmp_path, "strong", 3)
    with pytest.raises(CheckpointError, match="was begun with another profile"):
        build(dataclasses.replace(MICRO, seed=99), tmp_path, silent)


def test_files_of_an_unknown_build_are_refused(tmp_path: Path) -> None:
    work = tmp_path / "micro" / "build"
    work.mkdir(parents=True)
    (work / "strong.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="unknown build"):
        build(MICRO, tmp_path, silent)


@pytest.mark.parametrize(
    ("root", "device", "message"), [("/proc/nothing", "cpu", "cannot write"), ("", "tpu", "no device")]
)
def test_what_the_machine_cannot_do_is_said_at_once(tmp_path: Path, root: str, device: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(MICRO, Path(root) if root else tmp_path, silent, device)


def resealed(folder: Path) -> Checkpoint:
    """Make the card match files that a test changed: what an attacker with write access would do."""
    card = json.loads((folder / "model_card.json").read_text())
    (folder / "model_card.json").write_text(json.dumps({**card, "fingerprint": fingerprint(folder)}))
    return open_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"transformers_weights": "other.safetensors", "hidden_size": 64},
        {"num_hidden_layers": 3},
        {"hidden_size": 48},
        {"max_position_embeddings": 10**12},
        {"vocab_size": 299},
        {"head_dim": 0},
        {"model_type": "anything", "auto_map": {"AutoConfig": "code.Config"}},
        {"rope_parameters": {"rope_type": "dynamic"}},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_a_configuration_that_is_not_ours_is_refused(pair: Path, change: dict) -> None:
    path = pair / "strong" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError):
        resealed(pair / "strong").model()


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", "[" * 60_000, "x" * 70_000])
def test_a_configuration_that_is_none_is_refused(pair: Path, content: str) -> None:
    (pair / "strong" / "config.json").write_text(content)
    with pytest.raises(CheckpointError):
        resealed(pair / "strong").model()


def test_a_tensor_too_few_or_too_many_is_refused(pair: Path) -> None:
    path = pair / "strong" / "model.safetensors"
    tensors = load_file(path)
    some = next(name for name in tensors if "down_proj" in name)
    for changed in ({k: v for k, v in tensors.items() if k != some}, {**tensors, "extra": tensors[some].clone()}):
        save_file(changed, path)
        with pytest.raises(CheckpointError, match="do not fit its configuration"):
            resealed(pair / "strong").model()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="do not fit its configuration"):
        resealed(pair / "strong").model()


def test_a_file_that_does_not_belong_is_refused(pair: Path) -> None:
    (pair / "strong" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds adapter_config"):
        open_pair(pair)


def test_loading_ourselves_equals_loading_by_transformers(finished: Pair) -> None:
    ids = torch.tensor([finished.strong.tokenizer().strong_prompt("What is 12 + 30?")])
    ours, theirs = finished.strong.model(), AutoModelForCausalLM.from_pretrained(finished.strong.folder)
    with torch.inference_mode():
        assert torch.equal(ours(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits)


def test_other_programs_can_load_the_models(finished: Pair) -> None:
    for side, opening in ((finished.strong, "strong_prompt"), (finished.weak, "weak_prompt")):
        model = AutoModelForCausalLM.from_pretrained(side.folder)
        assert model.num_parameters() == side.card["parameter_count"]
        tokenizer = AutoTokenizer.from_pretrained(side.folder)
        messages = [{"role": "user", "content": "What is 12 + 30?"}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert list(ids) == getattr(side.tokenizer(), opening)("What is 12 + 30?")


def test_damage_is_noticed(pair: Path) -> None:
    strong = pair / "strong"
    weights = strong / "model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="is not the model its card describes"):
        open_pair(pair)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        open_checkpoint(strong)
    shutil.rmtree(strong)
    with pytest.raises(CheckpointError, match="no model at") as caught:
        open_checkpoint(strong)
    assert "bitweir models build --profile micro" in caught.value.remedy


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"fingerprint": 3}), "[" * 500_000])
def test_a_card_that_is_none_is_refused(pair: Path, content: str) -> None:
    (pair / "weak" / "model_card.json").write_text(content)
    with pytest.raises(CheckpointError):
        open_pair(pair)


def test_models_of_two_builds_are_no_pair(pair: Path, finished: Pair) -> None:
    from bitweir_compression.models.chat import train_tokenizer
    from bitweir_compression.models.checkpoint import write

    other = train_tokenizer(iter(["other words entirely"]), 300)
    write(pair / "weak", finished.weak.model(), other, finished.weak.card, reasons=False)
    with pytest.raises(CheckpointError, match="different tokenizers"):
        open_pair(pair)


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no profile 'huge'") as caught:
        profile_named("huge")
    assert "tiny" in caught.value.remedy
