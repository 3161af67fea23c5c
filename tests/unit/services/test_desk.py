"""Text out of tokens, piece by piece: nothing shown that could still change, nothing lost; and keys out of seeds."""

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression.models.chat import ChatTokenizer, train_tokenizer
from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.events import CodecName
from bitweir_services.desk import Desk, DeskLimits, TextShown
from bitweir_services.errors import RequestError
from bitweir_services.questions import Question

MASTER = bytes(range(32))


@functools.cache
def tokenizer() -> ChatTokenizer:
    return train_tokenizer(iter(["the cat sat on the mat. äöü 漢字 🙂 " * 20]), 320)


def desk(**limits: int) -> Desk:
    site: Any = None  # nothing is asked here
    return Desk(site, tokenizer(), DeskLimits(400, **limits), model="m", master=MASTER)


TEXTS = st.text(alphabet="abth e.äü漢🙂\ufffd", max_size=40)


@given(TEXTS, st.lists(st.text(alphabet="abth e", min_size=1, max_size=4), max_size=3), st.data())
def test_pieces_add_up_to_the_text_before_the_stop(text: str, stop: list[str], data: st.DataObject) -> None:
    ids = [*tokenizer().encode(text), tokenizer().end]
    shown, pieces = TextShown(tokenizer(), tuple(stop)), []
    ended_early = False
    while ids and not ended_early:
        count = data.draw(st.integers(1, 4))
        pieces.append(shown.more(tuple(ids[:count])))
        ids = ids[count:]
        ended_early = any(one in text for one in stop) and any(one in shown._text() for one in stop)
    pieces.append(shown.rest())
    whole = text if not ended_early else shown._text()
    found = [at for one in stop if (at := whole.find(one)) >= 0]
    assert "".join(pieces) == whole[: min(found, default=len(whole))]


def test_what_may_be_the_beginning_of_a_stop_is_held_back() -> None:
    shown = TextShown(tokenizer(), ("cat!",))
    assert shown.more(tuple(tokenizer().encode("the ca"))) == "the "
    assert shown.more(tuple(tokenizer().encode("t"))) == ""
    assert shown.more(tuple(tokenizer().encode("s"))) == "cats"


def test_no_half_character_is_shown() -> None:
    ids = tokenizer().encode("\N{SLIGHTLY SMILING FACE}x" * 2 + "\N{OGHAM LETTER BEITH}")
    shown = TextShown(tokenizer(), ())
    pieces = [shown.more((one,)) for one in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + shown.rest() == "\N{SLIGHTLY SMILING FACE}x" * 2 + "\N{OGHAM LETTER BEITH}"


def test_a_seeded_key_depends_on_everything_that_should_change_it_and_on_nothing_else() -> None:
    base = Question("prompt", seed=1, tenant="a")
    key = desk().granted(base)[0].key
    assert desk().granted(Question("prompt", SamplingSpec(0.5), 7, ("x",), seed=1, tenant="a"))[0].key == key
    others = [
        Question("prompt2", seed=1, tenant="a"),
        Question("prompt", seed=2, tenant="a"),
        Question("prompt", seed=1, tenant="b"),
        Question("prompt", seed=1, tenant="a", choice=1),
        Question("prompt", seed=11, tenant=""),
        Question("prompt"),
        Question("prompt"),
    ]
    keys = {desk().granted(one)[0].key for one in others}
    assert len(keys | {key}) == len(others) + 1


def test_what_is_granted_fits_the_models() -> None:
    grant, request = desk(hidden_tokens_max=50).granted(Question("the cat", SamplingSpec(0.7), stop=("mat",)))
    assert (grant.codec, grant.temperature.numerator, grant.temperature.denominator) == (CodecName.GUMBEL, 7, 10)
    assert grant.stop == request.stop == ("mat",)
    assert len(request.prompt) + request.hidden_tokens_max + request.visible_tokens_max < 400
    assert desk().granted(Question("x", tokens_max=10**6))[0].tokens_max < 400
    greedy, _ = desk().granted(Question("x", SamplingSpec(0.0), tokens_max=3))
    assert (greedy.codec, greedy.tokens_max) == (CodecName.GREEDY, 3)
    _, endless = desk().granted(Question("x", ignores_end=True))
    assert tokenizer().end in endless.sampling.forbidden


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RequestError, match="a prompt of"):
        desk().granted(Question("9" * 400))
    with pytest.raises(RequestError, match="0 tokens"):
        desk().granted(Question("x", tokens_max=0))
    site: Any = None
    with pytest.raises(RequestError, match="master key"):
        Desk(site, tokenizer(), DeskLimits(400), model="m", master=b"short")
