"""What goes down: each message has one meaning, and nothing else is taken."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.events import Acknowledgement, Cancel, CodecName, Grant, Refusal, Restart
from bitweir_services.engines.requests import GenerationRequest
from bitweir_services.errors import MessageError
from bitweir_services.messages import BYTES_MAX, Ask, Message, Numbered, decode, encode

NUMBERS = st.integers(0, 1 << 40)
TOKENS = st.lists(st.integers(0, 200_000), min_size=1, max_size=20).map(tuple)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    key, limit = draw(st.binary(min_size=32, max_size=32)), draw(st.integers(1, 4096))
    temperature = Temperature.of(draw(st.sampled_from([0.3, 0.7, 1.0, 2.0])))
    candidates = draw(st.integers(1, 64))
    stop = tuple(draw(st.lists(st.text(min_size=1, max_size=9), max_size=4)))
    grant = Grant(draw(TOKENS), draw(st.sampled_from(CodecName)), key, temperature, limit, candidates, stop)
    bias = draw(st.lists(st.tuples(st.integers(0, 99), st.sampled_from([-100.0, 0.5, 7.0, -math.inf])), max_size=3))
    sampling = SamplingSpec(draw(st.sampled_from([0.0, 0.7])), 5, 0.9, 0.1, tuple(bias), (3,))
    return Ask(grant, GenerationRequest(draw(TOKENS), key, sampling, limit, draw(st.integers(0, 4096)), stop))


MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Numbered, NUMBERS, asks()),
    st.builds(Numbered, NUMBERS, st.builds(Cancel, NUMBERS)),
    st.builds(Numbered, NUMBERS, st.builds(Restart, st.integers(1, 1 << 40), st.binary(min_size=8, max_size=8))),
    st.builds(Acknowledgement, NUMBERS, NUMBERS, st.binary(min_size=8, max_size=8)),
    st.builds(Refusal, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
)


@given(MESSAGES)
def test_what_is_said_is_what_is_understood(message: Message) -> None:
    assert decode(encode(message)) == message


@given(MESSAGES, st.data())
def test_a_field_more_or_less_or_of_another_type_is_refused(message: Message, data: st.DataObject) -> None:
    document = json.loads(encode(message))
    name = data.draw(st.sampled_from(sorted(document)))
    for changed in (
        {key: value for key, value in document.items() if key != name},
        {**document, "more": 1},
        {**document, name: None},
        {**document, name: {"a": 1}},
        {**document, name: True} if not isinstance(document[name], str) else {**document, name: 1},
    ):
        with pytest.raises(MessageError):
            decode(json.dumps(changed).encode())


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        decode(content)


@pytest.mark.parametrize("content", [b" " * (BYTES_MAX + 1), b"[" * 100_000, b"1" * 5000, b'{"kind":"grant"}'])
def test_what_would_be_expensive_is_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        decode(content)
