"""How inner hands a payload over: one form of a request, and no answer that means another than it says."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import sizes
from bitweir_metering.errors import FormError, FullError, RefusedError, SocketError
from bitweir_metering.frame import LANES, Payload, TrafficClass
from bitweir_metering.gate_client import ANSWER, REQUEST_BYTES_MAX, GateClient, Status, parse_request, request

BITS_MAX = 8 * sizes.SIZE_CLASSES[-1] - 1
MODEL, CONTROL = TrafficClass.MODEL, TrafficClass.CONTROL
# Made from the description at the top of gate_client.py, by hand and not with it.
FROZEN = {
    "010000000a5540": (MODEL, 0, Payload(0b0101010101, 10)),
    "0101070000": (CONTROL, 7, Payload(0, 0)),
    "0103020010beef": (TrafficClass.TUNNEL, 2, Payload(0xBEEF, 16)),
    "0101000001" + "80": (CONTROL, 0, Payload(1, 1)),
    "0101001fff" + "ff" * 1023 + "fe": (CONTROL, 0, Payload((1 << BITS_MAX) - 1, BITS_MAX)),
}
TAKEN, FULL, REFUSED, DAMAGED = (ANSWER.pack(1, status) for status in Status)

counts = st.one_of(st.integers(0, 20), st.integers(0, BITS_MAX))
payloads = counts.flatmap(lambda count: st.integers(0, (1 << count) - 1).map(lambda value: Payload(value, count)))


@pytest.mark.parametrize(("content", "said"), FROZEN.items(), ids=[repr(name)[:20] for name in FROZEN])
def test_the_bytes_of_a_request(content: str, said: tuple[TrafficClass, int, Payload]) -> None:
    assert request(*said).hex() == content
    assert parse_request(bytes.fromhex(content)) == said


def test_the_bytes_of_an_answer_and_the_longest_request() -> None:
    assert [ANSWER.pack(1, status).hex() for status in Status] == ["0100", "0101", "0102", "0103"]
    assert REQUEST_BYTES_MAX == 5 + 1024


@given(kind=st.sampled_from(TrafficClass), lane=st.integers(0, LANES - 1), payload=payloads)
def test_what_is_asked_is_what_is_read(kind: TrafficClass, lane: int, payload: Payload) -> None:
    content = request(kind, lane, payload)
    assert parse_request(content) == (kind, lane, payload)
    assert type(parse_request(content)[0]) is TrafficClass


@st.composite
def near_requests(draw: st.DrawFn) -> bytes:
    """Bytes of the right shape, most of them not quite a request."""
    count = draw(st.one_of(st.integers(0, 40), st.sampled_from([BITS_MAX, BITS_MAX + 1, 65_535])))
    size = min((count + 7) // 8 + draw(st.sampled_from([0, 0, 0, -1, 1])), 1030) if count < 8000 else 1024
    body = draw(st.binary(min_size=max(0, size), max_size=max(0, size))) if size < 100 else bytes(size)
    head = [draw(st.sampled_from([1, 1, 1, 0, 2])), draw(st.integers(0, 6)), draw(st.integers(0, 9))]
    return bytes(head) + count.to_bytes(2, "big") + body


@given(content=st.one_of(near_requests(), st.binary(max_size=20), st.binary(max_size=REQUEST_BYTES_MAX + 2)))
def test_what_is_taken_has_one_form(content: bytes) -> None:
    """I1 of the inner side: no two requests say the same, so none hides a bit."""
    try:
        said = parse_request(content)
    except FormError as error:
        assert error.remedy
        return
    assert request(*said) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a message of 0 bytes"),
        ("01010000", "a message of 4 bytes"),
        ("0101001fff" + "00" * 1025, "a message of 1030 bytes"),
        ("0001000001" + "80", "version 0"),
        ("0201000001" + "80", "version 2"),
        ("0105000001" + "80", "class 5"),
        ("01ff000001" + "80", "class 255"),
        ("0101080001" + "80", "lane 8"),
        ("0101ff0001" + "80", "lane 255"),
        ("0101000001", "1 bits"),
        ("0101000001" + "8000", "1 bits"),
        ("0101000000" + "00", "0 bits"),
        ("0101000008" + "0000", "8 bits"),
        ("0101000009" + "00", "9 bits"),
        ("010100ffff" + "00" * 1024, "65535 bits"),
        ("0101000001" + "81", "bits after the last one"),
        ("0101000001" + "c0", "bits after the last one"),
        ("0101000009" + "0040", "bits after the last one"),
        ("0101002000" + "00" * 1024, "a payload of 8192 bits"),
    ],
    ids=lambda word: word[:24],
)
def test_anything_else_is_refused(content: str, message: str) -> None:
    with pytest.raises(FormError, match=message) as caught:
        parse_request(bytes.fromhex(content))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("kind", "lane"),
    [
        (CONTROL, -1),
        (CONTROL, LANES),
        (CONTROL, 256),
        (CONTROL, None),
        (CONTROL, 1.0),
        (CONTROL, True),
        (9, 0),
        (-1, 0),
        (None, 0),
    ],
)
def test_what_no_request_says_is_not_made(kind: TrafficClass, lane: int) -> None:
    with pytest.raises(FormError, match=r"lane|class") as caught:
        request(kind, lane, Payload(0, 1))
    assert caught.value.remedy


# The client.


@contextmanager
def gate(path: Path, answer: Callable[[bytes], bytes | None]) -> Iterator[list[bytes]]:
    """Something at the gate's socket that answers as it is told, None ends the connection; yields what it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as client:
                while content := client.recv(REQUEST_BYTES_MAX + 1):
                    asked.append(content)
                    said = answer(content)
                    if said is None:
                        return
                    if said:
                        client.send(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join(10)
        assert not thread.is_alive()


def test_a_payload_that_is_taken(tmp_path: Path) -> None:
    with gate(tmp_path / "inner", lambda _: TAKEN) as asked, GateClient(tmp_path / "inner") as client:
        for kind, lane, payload in FROZEN.values():
            client.submit(kind, lane, payload)
    assert [content.hex() for content in asked] == list(FROZEN)


@pytest.mark.parametrize(("answer", "error"), [(FULL, FullError), (REFUSED, RefusedError)], ids=["full", "refused"])
def test_a_refusal_leaves_the_client_open(tmp_path: Path, answer: bytes, error: type[RefusedError]) -> None:
    answers = iter([answer, TAKEN])
    with gate(tmp_path / "inner", lambda _: next(answers)), GateClient(tmp_path / "inner") as client:
        with pytest.raises(error) as caught:
            client.submit(CONTROL, 0, Payload(1, 4))
        assert type(caught.value) is error
        assert caught.value.remedy
        client.submit(CONTROL, 0, Payload(1, 4))


@pytest.mark.parametrize(
    "answer",
    [DAMAGED, b"\x01", b"\x01\x04", b"\x02\x00", b"\x00\x00", TAKEN + b"\x00", TAKEN * 2, b"\xff" * 100, None],
    ids=lambda answer: answer.hex() if answer else "end",
)
def test_any_other_answer_is_none_and_closes_the_client(tmp_path: Path, answer: bytes | None) -> None:
    with gate(tmp_path / "inner", lambda _: answer), GateClient(tmp_path / "inner") as client:
        with pytest.raises(SocketError, match="no answer to a payload") as caught:
            client.submit(CONTROL, 0, Payload(1, 4))
        assert caught.value.remedy
        with pytest.raises(SocketError, match="does not answer"):
            client.submit(CONTROL, 0, Payload(1, 4))


def test_no_answer_in_time_closes_the_client(tmp_path: Path) -> None:
    with gate(tmp_path / "inner", lambda _: b""), GateClient(tmp_path / "inner", timeout_s=0.05) as client:
        assert client._socket.gettimeout() == 0.05
        with pytest.raises(SocketError, match="does not answer: timed out") as caught:
            client.submit(CONTROL, 0, Payload(1, 4))
        assert caught.value.remedy
        assert client._socket.fileno() == -1


def test_a_gate_that_ended_does_not_answer(tmp_path: Path) -> None:
    with gate(tmp_path / "inner", lambda _: None) as asked:
        client = GateClient(tmp_path / "inner")
        with pytest.raises(SocketError, match="no answer to a payload: end"):
            client.submit(CONTROL, 0, Payload(1, 4))
    assert len(asked) == 1
    # Its socket is still there, and nobody behind it.
    with pytest.raises(SocketError, match=r"no gate at .*refused") as caught:
        GateClient(tmp_path / "inner")
    assert caught.value.remedy


def test_nobody_there_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    real = socket.socket

    def remembered(*words: int) -> socket.socket:
        made.append(real(*words))
        return made[-1]

    monkeypatch.setattr("bitweir_metering.local_socket.socket.socket", remembered)
    with pytest.raises(SocketError, match=r"no gate at .*No such file"):
        GateClient(tmp_path / "inner")
    with pytest.raises(SocketError, match="no gate at"):
        GateClient(tmp_path / ("x" * 200))
    assert [one.fileno() for one in made] == [-1, -1]
