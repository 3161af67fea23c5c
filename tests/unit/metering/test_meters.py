"""Meters without their kernel: what they count, what they refuse, and that who cannot tell says so."""

import argparse
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitweir_metering import wire
from bitweir_metering.errors import MeterError, UnitError
from bitweir_metering.meters import application, cable, nft, offloads, serving, tap
from bitweir_metering.meters.application import ApplicationMeter
from bitweir_metering.meters.cable import SLACK_NS, Relay
from bitweir_metering.meters.nft import Counts
from bitweir_metering.meters.reading import REQUEST, Meter, MeterClient, Reading
from bitweir_metering.wire import End, Route

GATE = End(bytes.fromhex("020000000001"), "10.77.0.1", 7001)
OUTER = End(bytes.fromhex("020000000002"), "10.77.0.2", 7002)
UP = Route(GATE, OUTER)
DOWN = Route(OUTER, GATE)
SECOND = 1_000_000_000
SIZES = sorted(42 + length for length in wire.FRAME_LENGTHS)


class Told:
    """A meter that says what it is told to."""

    def __init__(self, *readings: Reading | None) -> None:
        self.readings = list(readings)

    def read(self) -> Reading:
        """The next one."""
        found = self.readings.pop(0)
        if found is None:
            raise MeterError("blind")
        return found


@contextmanager
def served(meter: Meter, path: Path) -> Iterator[None]:
    """A meter that answers in a thread until the block ends."""
    with closing(serving.MeterServer(path, meter)) as server:
        is_over = threading.Event()

        def serve() -> None:
            while not is_over.is_set():
                server.serve(0.01)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


# Serving.


def test_a_meter_answers_what_it_knows_and_says_when_it_cannot_tell(tmp_path: Path) -> None:
    one = Reading(3, 189, 0, 63, 7)
    with served(Told(one, None, one), tmp_path / "m"):
        client = MeterClient(tmp_path / "m")
        assert client.read() == one
        with pytest.raises(MeterError, match="cannot tell"):
            client.read()
        assert client.read() == one
        client.close()


@pytest.mark.parametrize("request_bytes", [b"\1", b"\2\1", REQUEST + b"x", b"\1\2"])
def test_another_question_is_not_answered(tmp_path: Path, request_bytes: bytes) -> None:
    with served(Told(), tmp_path / "m"), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(5)
        client.connect(str(tmp_path / "m"))
        client.send(request_bytes)
        assert client.recv(100) == b""


def test_an_end_is_written_one_way() -> None:
    text = "02:00:00:00:00:01,10.77.0.1,7001"
    assert serving.end(text) == GATE
    assert serving.format_end(GATE) == text


@pytest.mark.parametrize(
    "text",
    ["", "02:00:00:00:00:01", "02:00:00:00:00:01,10.77.0.1", "2:0:0:0:0:1,10.77.0.1,7", "0x:00:00:00:00:01,10.0.0.1,7",
     "02:00:00:00:00:01,10.77.0.1,0", "02:00:00:00:00:01,10.77.0,7", "02:00:00:00:00:01,10.77.0.1,-7"],
)  # fmt: skip
def test_no_end(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        serving.end(text)


# Application.


def test_the_application_counts_what_was_delivered(tmp_path: Path) -> None:
    meter = ApplicationMeter(clock=lambda: 5)
    assert meter.read() == Reading(0, 0, 0, 0, 5)
    with (
        application.listening(("127.0.0.1", 0)) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        (tmp_path / "kept").open("wb") as kept,
    ):
        for size in (21, 1037, 0):
            sender.sendto(b"x" * size, receiver.getsockname())
        application.receive(receiver, meter, kept)
        with pytest.raises(MeterError, match="cannot listen"):
            application.listening(receiver.getsockname())
    assert meter.read() == Reading(3, 21 + 1037 + 3 * 42, 0, 1079, 5)
    assert (tmp_path / "kept").read_bytes() == b"\0\x15" + b"x" * 21 + b"\x04\x0d" + b"x" * 1037 + b"\0\0"


# nft.


def test_the_rules_drop_all_but_the_one_flow_up_to_its_quota() -> None:
    text = nft.rules("link", UP, 63_000, Counts(10, 630), Counts())
    assert text.startswith("table netdev bitweir\ndelete table netdev bitweir\ntable netdev bitweir {")
    assert "counter link { packets 10 bytes 490 }" in text
    assert "quota budget { until 49000 bytes used 490 bytes }" in text
    assert 'hook ingress device "link" priority 0; policy drop;' in text
    assert text.count("accept") == 1
    flow = next(line for line in text.splitlines() if "accept" in line)
    assert flow.index("counter name link") < flow.index("quota name budget") < flow.index("accept")
    for part in ("02:00:00:00:00:01", "10.77.0.1", "7001", "02:00:00:00:00:02", "10.77.0.2", "7002"):
        assert part in flow


@pytest.mark.parametrize("name", ["", 'a"b', "a b", "a;b", "ä"])
def test_an_interface_is_a_name_and_nothing_else(name: str) -> None:
    with pytest.raises(MeterError, match="no interface"):
        nft.rules(name, UP, 1, Counts(), Counts())


@given(st.integers(0, 1 << 40), st.sampled_from(SIZES))
def test_a_quota_never_lets_more_than_its_budget_pass(budget: int, size: int) -> None:
    frames = nft.quota_bytes(budget) // (size - 14)
    assert frames * size <= budget
    if size == min(SIZES):
        assert frames == budget // size


def test_counts_are_amounts_that_fit_each_other() -> None:
    assert Counts(2, 126).l3_bytes == 98
    for frames, l2_bytes in ((1, 13), (-1, 0), (True, 63)):
        with pytest.raises((MeterError, UnitError)):
            Counts(frames, l2_bytes)


def test_counters_that_were_gone_once_are_never_trusted_again() -> None:
    class Shaky:
        is_there = True

        def read(self, name: str) -> Counts | None:
            return Counts(4, 252) if self.is_there else None

    counters = Shaky()
    meter = nft.NftMeter(counters, clock=lambda: 9)  # type: ignore[arg-type]
    assert meter.read() == Reading(4, 252, 4, 0, 9)
    for counters.is_there in (False, True):
        with pytest.raises(MeterError, match="taken away"):
            meter.read()


# Cable.


def test_the_relay_copies_frames_and_counts_them_and_nothing_else() -> None:
    relay, packet = Relay(UP, 10**9), wire.encode(UP, bytes(21))
    assert relay.up(packet, 0)
    others = (packet[:-1], packet + b"\0", wire.encode(UP, bytes(22)), wire.encode(DOWN, bytes(21)), b"", bytes(1514))
    for other in others:
        assert not relay.up(other, 0)
    assert relay.reading(3) == Reading(1, 63, len(others), 63, 3)
    relay.lost()
    assert relay.reading(4).drops == len(others) + 1


@given(
    st.integers(100_000, 10**9),
    st.lists(st.tuples(st.sampled_from(SIZES), st.integers(0, 20_000_000)), min_size=1, max_size=60),
)
def test_the_line_is_never_faster_than_its_rate(rate: int, steps: list[tuple[int, int]]) -> None:
    """A cable that always has something to read; the clock goes by as it likes."""
    relay, now_ns, sent = Relay(UP, rate), 0, []
    for size, wait_ns in steps:
        now_ns = max(now_ns + wait_ns, relay.due_ns)
        assert relay.up(wire.encode(UP, bytes(size - 42)), now_ns)
        sent.append((now_ns, 8 * size))
    for first, (start_ns, _) in enumerate(sent):
        bits = 0
        for end_ns, size_bits in sent[first:]:
            bits += size_bits
            assert bits * SECOND <= rate * (end_ns - start_ns + SLACK_NS) + size_bits * SECOND + rate * len(sent)


def test_down_only_control_datagrams_pass() -> None:
    relay = Relay(UP, 10**9)
    for length in (0, 1, 42, 1472):
        assert relay.down(wire.encode(DOWN, bytes(length)))
    packet = wire.encode(DOWN, bytes(42))
    another_port = wire.encode(Route(OUTER, End(GATE.mac, GATE.address, 22)), bytes(42))
    changes = {0: 0xFF, 6: 0xFF, 12: 0x86, 14: 0x46, 20: 0x20, 21: 1, 23: 6, 26: 11, 33: 9}
    changed = [packet[:at] + bytes([value]) + packet[at + 1 :] for at, value in changes.items()]
    for other in (*changed, another_port, packet[:30], b"", wire.encode(DOWN, bytes(1473)), wire.encode(UP, bytes(21))):
        assert not relay.down(other)
    # Whoever speaks from another port of the receiver's side is heard: the tag in the message says who it is.
    assert relay.down(wire.encode(Route(End(OUTER.mac, OUTER.address, 9), GATE), bytes(42)))
    assert relay.reading(0) == Reading(0, 0, 0, 0, 0)


def test_a_tap_interface_that_is_not_there() -> None:
    with pytest.raises(MeterError, match="no TAP"):
        cable.open_tap("bw-none-such", "link")


# Tap.


class FakeSocket:
    """A raw socket that was told what comes."""

    def __init__(self, *arrivals: int | OSError, drops: tuple[int, ...] = ()) -> None:
        self.arrivals, self.drops = list(arrivals), list(drops)

    def recv_into(self, into: bytearray, count: int, flags: int) -> int:
        if not self.arrivals:
            raise BlockingIOError
        found = self.arrivals.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    def getsockopt(self, level: int, name: int, size: int) -> bytes:
        return tap._COUNTS.pack(0, self.drops.pop(0) if self.drops else 0)

    def close(self) -> None:
        pass


def tapped(monkeypatch: pytest.MonkeyPatch, fake: FakeSocket, offloaded: list[frozenset[str]]) -> tap.Tap:
    monkeypatch.setattr(tap, "_opened", lambda interface, buffer_bytes: fake)
    return tap.Tap("link", offloaded=lambda _: offloaded[0], clock=lambda: 11)


def test_a_tap_adds_up_lengths_and_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = tapped(monkeypatch, FakeSocket(63, 1079, 60, drops=(2, 0, 5)), [frozenset()])
    assert meter.read() == Reading(3, 1202, 2, 1079, 11)
    assert meter.read().drops == 2
    assert meter.read().drops == 7


def test_a_tap_whose_interface_went_down_never_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = tapped(monkeypatch, FakeSocket(63, OSError(100, "Network is down"), 63), [frozenset()])
    for _ in range(3):
        with pytest.raises(MeterError, match="Network is down"):
            meter.read()


def test_a_tap_cannot_tell_while_the_interface_merges_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    offloaded = [frozenset[str]()]
    meter = tapped(monkeypatch, FakeSocket(63, 63), offloaded)
    offloaded[0] = frozenset({"gro"})
    with pytest.raises(MeterError, match="has gro on"):
        meter.read()
    offloaded[0] = frozenset()
    assert meter.read().frames == 2
    with pytest.raises(MeterError, match="has gso, tso on"):
        tapped(monkeypatch, FakeSocket(), [frozenset({"tso", "gso"})])


def test_offloads_of_an_interface_are_read_or_it_is_said_that_they_cannot_be() -> None:
    assert offloads.active("lo") <= {"tso", "gso", "gro", "lro"}
    with pytest.raises(MeterError, match="does not tell"):
        offloads.active("none-such")
    if os.getuid():
        with pytest.raises(MeterError):
            tap.Tap("lo", offloaded=lambda _: frozenset())
