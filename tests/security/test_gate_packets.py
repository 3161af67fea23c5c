"""What the gate's socket makes of a frame: the one packet that wire.py knows; the kernel adds no bits of its own."""

import os
import socket
import struct

import pytest

from bitweir_metering import gate, sizes

ETH_P_ALL = 3


def test_the_kernel_adds_nothing_to_a_packet_of_the_gate() -> None:
    """On the loopback interface, read by a raw socket: identification 0, no fragments, TTL 64, no options."""
    if os.getuid() != 0:
        pytest.skip("needs root to read raw packets")
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as raw,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        gate._bound(("127.0.0.1", 0)) as sender,
    ):
        raw.bind(("lo", ETH_P_ALL))
        raw.settimeout(5)
        receiver.bind(("127.0.0.1", 0))
        ports = struct.pack(">HH", sender.getsockname()[1], receiver.getsockname()[1])
        heads = set()
        for _ in range(8):
            sender.sendto(bytes(21), receiver.getsockname())
            while (packet := raw.recv(2048))[34:38] != ports:
                pass
            heads.add(packet[14:24])
        assert heads == {bytes.fromhex("4500") + struct.pack(">H", 20 + 8 + 21) + bytes.fromhex("000040004011")}
        assert len(packet) == sizes.WIRE_HEADER_BYTES + 21
