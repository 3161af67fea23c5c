"""The tokenizer keeps text and structure apart, and what each model sees is what chat.py draws."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from bitweir_compression.corpus import Item
from bitweir_compression.errors import CheckpointError
from bitweir_compression.models import chat
from bitweir_compression.models.chat import ChatTokenizer, load_tokenizer, train_tokenizer


def made() -> ChatTokenizer:
    return train_tokenizer(iter(["The sum of 12 and 30 is 42. " * 3, "naïve café"]), 320)


TOKENIZER = made()
ITEM = Item("tutor", "f", "k", "What is 12 + 30?", "2+0=2; 1+3=4; 42", "It is **42**.", "42")


@given(st.text())
def test_text_survives_and_never_becomes_structure(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert not TOKENIZER.special_ids & set(ids)


@given(st.lists(st.sampled_from([*chat.SPECIAL_TOKENS, "a", " ", "1"]), max_size=6))
def test_typed_special_tokens_are_plain_characters(parts: list) -> None:
    text = "".join(parts)
    assert not TOKENIZER.special_ids & set(TOKENIZER.encode(text))
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_every_digit_is_a_token_of_its_own() -> None:
    assert len(TOKENIZER.encode("1234567890")) == 10


def test_what_the_models_see() -> None:
    t = TOKENIZER
    prompt = t.encode(ITEM.prompt)
    assert t.strong_prompt(ITEM.prompt) == [t.user, *prompt, t.assistant, t.think]
    assert t.weak_prompt(ITEM.prompt) == [t.user, *prompt, t.assistant]
    continuation = t.strong_continuation(ITEM)
    assert continuation == [*t.encode(ITEM.reasoning), t.end_think, *t.encode(ITEM.answer), t.end]
    assert t.visible(continuation) == [*t.encode(ITEM.answer), t.end]
    assert t.visible(t.encode("no end of thought")) == []


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert made().fingerprint == TOKENIZER.fingerprint


def test_bad_tokenizer_files_are_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    for content in ("", "{}", "[1, 2", json.dumps({"model": 7})):
        path.write_text(content)
        with pytest.raises(CheckpointError, match="is not a tokenizer"):
            load_tokenizer(tmp_path)
    Tokenizer(models.BPE()).save(str(path))
    with pytest.raises(CheckpointError, match="lacks"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(chat, "TOKENIZER_BYTES_MAX", 5)
    with pytest.raises(CheckpointError, match="is over 5 bytes"):
        load_tokenizer(tmp_path)
