"""The relay: counted before it is passed on, and nothing but what can be a frame."""

import socket

from bitweir_metering.meters.application import listening
from bitweir_metering.meters.relay import RelayMeter


def test_it_passes_frames_on_and_counts_them_and_drops_the_rest() -> None:
    with listening(("127.0.0.1", 0)) as entrance, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exit_socket:
        exit_socket.bind(("127.0.0.1", 0))
        exit_socket.settimeout(5)
        meter = RelayMeter(entrance, exit_socket.getsockname(), clock=lambda: 77)
        for content in (bytes(21), b"x" * 1037, b"", bytes(22), bytes(1038)):
            exit_socket.sendto(content, entrance.getsockname())
        meter.relay()
        assert [exit_socket.recv(2048), exit_socket.recv(2048)] == [bytes(21), b"x" * 1037]
        found = meter.read()
        assert (found.frames, found.l2_bytes, found.longest) == (2, 21 + 1037 + 2 * 42, 1079)
        assert (found.drops, found.time_ns) == (3, 77)


def test_what_cannot_be_passed_on_is_missed() -> None:
    with listening(("127.0.0.1", 0)) as entrance, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        meter = RelayMeter(entrance, ("127.0.0.1", 0))  # nobody can be sent to at port 0
        sender.sendto(bytes(21), entrance.getsockname())
        meter.relay()
        assert (meter.read().frames, meter.read().drops) == (1, 1)
