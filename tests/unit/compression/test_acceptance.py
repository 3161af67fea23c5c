"""Every bound of acceptance at, above and below it: a criterion that is dropped or turned round fails here."""

import copy
import json
import math
from pathlib import Path

import pytest

from bitweir_compression.errors import CheckpointError
from bitweir_compression.models.acceptance import CORPORA, HELD_PROFILES, Criterion, criteria, kl_over_entropy
from bitweir_compression.models.checkpoint import Pair, open_pair
from bitweir_compression.models.profiles import PROFILES, profile_named

ROW = {"token_count": 20_000, "strong_bits": 0.9, "weak_bits": 1.1, "entropy_bits": 1.0, "kl_bits": 0.1}
GOOD = {
    "reference": {corpus: {**ROW} for corpus in CORPORA},
    "written": {corpus: {**ROW} for corpus in CORPORA},
    "foreign": {**ROW, "entropy_bits": 4.0, "kl_bits": 1.0},
    "guard": {name: {"verdict": "pass", "reasons": []} for name in (*CORPORA, "foreign")},
    "exact_share": {"strong": 0.9, "weak": 0.2},
}
STRONG, WEAK = 6_000_000, 900_000


def changed(path: str, value: object) -> dict:
    """Return the good figures with another one at `a/b/c`."""
    result = copy.deepcopy(GOOD)
    *above, last = path.split("/")
    row = result
    for name in above:
        row = row[name]
    row[last] = value
    return result


def judged(measured: dict, strong: int = STRONG, weak: int = WEAK) -> dict[str, Criterion]:
    found = criteria(measured, strong_parameters=strong, weak_parameters=weak)
    by_name = {criterion.name: criterion for criterion in found}
    assert len(by_name) == len(found), "every name says something else"
    return by_name


def failing(measured: dict, strong: int = STRONG, weak: int = WEAK) -> list[str]:
    return [name for name, criterion in judged(measured, strong, weak).items() if not criterion.ok]


def test_a_good_pair_is_accepted() -> None:
    found = judged(GOOD)
    assert failing(GOOD) == []
    assert len(found) == 6 * len(CORPORA) + 2 + 5


# Figure, a value just inside, one just outside, the one criterion it belongs to.
OF_CORPUS = [
    ("reference/{}/token_count", 1_000, 999, "visible tokens measured"),
    ("written/{}/token_count", 1_000, 999, "visible tokens measured"),
    ("reference/{}/weak_bits", 0.9 + 1e-9, 0.9, "held-out loss, weak minus strong"),
    ("reference/{}/strong_bits", 1.1 - 1e-9, 1.1, "held-out loss, weak minus strong"),
    ("written/{}/entropy_bits", 0.8, 0.7999, "H(P) of what is written"),
    ("written/{}/kl_bits", 0.20, 0.2001, "KL(P||W) of what is written"),
    ("written/{}/kl_bits", 0.001, 0.0009, "KL(P||W) is no copy's"),
    ("guard/{}/reasons", [], ["It loops."], "degeneracy guard's reasons"),
]


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize(("path", "inside", "outside", "name"), OF_CORPUS, ids=lambda value: str(value)[:40])
def test_each_corpus_is_held_to_its_bounds(corpus: str, path: str, inside: object, outside: object, name: str) -> None:
    assert failing(changed(path.format(corpus), inside)) == []
    assert failing(changed(path.format(corpus), outside)) == [f"{corpus}: {name}"]


@pytest.mark.parametrize(
    ("strong", "weak", "expected"),
    [
        (0.85, 0.2, []),
        (0.849, 0.2, ["tutor: exact greedy answers, strong"]),
        (0.95, 0.80, []),
        (0.95, 0.801, ["tutor: exact greedy answers, strong minus weak"]),
        (0.85, 0.85, ["tutor: exact greedy answers, strong minus weak"]),
        (0.85, 1.0, ["tutor: exact greedy answers, strong minus weak"]),
    ],
)
def test_exact_answers(strong: float, weak: float, expected: list[str]) -> None:
    assert failing(changed("exact_share", {"strong": strong, "weak": weak})) == expected


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("strong: parameters, lower bound", (4_000_000, 100_000), (3_999_999, 100_000)),
        ("strong: parameters, upper bound", (25_000_000, 0), (25_000_001, 0)),
        ("weak: share of strong's parameters", (6_000_000, 1_000_000), (6_000_000, 1_000_001)),
        ("both: bytes in bfloat16", (11_000_000, 1_000_000), (11_000_000, 1_000_001)),
        ("both: bytes in bfloat16", (11_000_000, 1_000_000), (11_000_001, 1_000_000)),
        ("larger one: bytes in bfloat16", (7_500_000, 1_000_000), (7_500_001, 1_000_000)),
        ("larger one: bytes in bfloat16", (4_000_000, 7_500_000), (4_000_000, 7_500_001)),
    ],
)
def test_sizes(name: str, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    assert judged(GOOD, *inside)[name].ok
    assert not judged(GOOD, *outside)[name].ok


def test_a_goal_is_shown_and_fails_nothing() -> None:
    name = "tutor: KL(P||W) of what is written"
    for kl, met in ((0.08, True), (0.0801, False), (0.3, False)):
        criterion = judged(changed("written/tutor/kl_bits", kl))[name]
        assert (criterion.goal, criterion.goal_met, criterion.ok) == (0.08, met, kl <= 0.2)
    assert judged(GOOD)["tutor: H(P) of what is written"].goal_met is None


def test_a_pair_of_twice_the_same_model_fails() -> None:
    """Its KL is 0 (where reasoning changes nothing), its losses and answers are equal, and so is its size."""
    twice = copy.deepcopy(GOOD)
    for corpus in CORPORA:
        twice["reference"][corpus] |= {"weak_bits": ROW["strong_bits"]}
        twice["written"][corpus] |= {"kl_bits": 0.0}
    twice["exact_share"] = {"strong": 0.9, "weak": 0.9}
    assert failing(twice, STRONG, STRONG) == [
        "tutor: held-out loss, weak minus strong",
        "tutor: KL(P||W) is no copy's",
        "documentation: held-out loss, weak minus strong",
        "documentation: KL(P||W) is no copy's",
        "tutor: exact greedy answers, strong minus weak",
        "weak: share of strong's parameters",
    ]


def test_nothing_written_is_not_accepted() -> None:
    nothing = dict.fromkeys(ROW, 0.0)
    assert {
        "tutor: visible tokens measured",
        "tutor: H(P) of what is written",
        "tutor: KL(P||W) is no copy's",
    } <= set(failing(changed("written/tutor", nothing)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("relation", [">", ">=", "<="])
def test_a_figure_that_is_not_finite_never_holds(value: float, relation: str) -> None:
    assert not Criterion("x", value, relation, 0.0, "share").ok  # type: ignore[arg-type]


@pytest.mark.parametrize(("relation", "below", "at", "above"), [(">", 0, 0, 1), (">=", 0, 1, 1), ("<=", 1, 1, 0)])
def test_relations(relation: str, below: int, at: int, above: int) -> None:
    ok = [Criterion("x", value, relation, 1.0, "share").ok for value in (0.5, 1.0, 1.5)]  # type: ignore[arg-type]
    assert ok == [bool(below), bool(at), bool(above)]


@pytest.mark.parametrize(
    "path", ["reference", "written/tutor/kl_bits", "guard/documentation/reasons", "exact_share/weak"]
)
def test_a_missing_figure_is_an_error_with_a_remedy(path: str) -> None:
    measured = changed(path, None)
    with pytest.raises(CheckpointError) as caught:
        criteria(measured, strong_parameters=STRONG, weak_parameters=WEAK)
    assert caught.value.remedy
    *above, last = path.split("/")
    row = measured
    for name in above:
        row = row[name]
    del row[last]
    with pytest.raises(CheckpointError, match="lack a figure"):
        criteria(measured, strong_parameters=STRONG, weak_parameters=WEAK)


@pytest.mark.parametrize("value", ["0.1", True, None, [0.1]])
def test_a_figure_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="not a number"):
        judged(changed("written/tutor/kl_bits", value))


def test_a_criterion_as_json() -> None:
    criterion = judged(GOOD)["documentation: KL(P||W) of what is written"]
    assert json.loads(json.dumps(criterion.to_dict())) == {
        "name": "documentation: KL(P||W) of what is written",
        "value": 0.1,
        "relation": "<=",
        "bound": 0.2,
        "unit": "bits/token",
        "goal": 0.08,
        "ok": True,
        "goal_met": False,
    }


def test_kl_over_entropy() -> None:
    assert kl_over_entropy(GOOD) == {"tutor": 0.1, "documentation": 0.1, "foreign": 0.25}
    assert kl_over_entropy(changed("foreign/entropy_bits", 0.0))["foreign"] is None


def test_held_profiles_exist() -> None:
    assert set(PROFILES) > HELD_PROFILES == {"reference"}


@pytest.fixture
def shipped(repository_root: Path) -> Pair:
    """The reference pair that the package carries."""
    folder = repository_root / "compression" / "bitweir_compression" / "models" / "data" / "reference"
    if not folder.is_dir():
        pytest.skip("the package carries no reference pair: models/data/reference is not there")
    return open_pair(folder)


def test_the_shipped_pair_s_card_is_accepted(shipped: Pair) -> None:
    for side in (shipped.strong, shipped.weak):
        found = criteria(
            side.card["measured"],
            strong_parameters=shipped.strong.model().num_parameters(),
            weak_parameters=shipped.weak.model().num_parameters(),
        )
        assert [criterion for criterion in found if not criterion.ok] == []


@pytest.mark.system
def test_the_shipped_pair_is_accepted_when_measured_again(shipped: Pair) -> None:
    from bitweir_compression.models.build import check

    strong, weak = shipped.strong.model(), shipped.weak.model()
    measured = check(profile_named("reference"), strong, weak, shipped.strong.tokenizer())
    found = criteria(measured, strong_parameters=strong.num_parameters(), weak_parameters=weak.num_parameters())
    assert [criterion for criterion in found if not criterion.ok] == []
