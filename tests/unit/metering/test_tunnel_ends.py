"""Connections of a tunnel's end on real sockets, and how the processes are started."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitweir_metering import keys
from bitweir_metering.errors import SocketError
from bitweir_metering.tunnel import Close, Write, WriteEnd
from bitweir_metering.tunnel_connections import Broke, Connections, Ended, Happening, Said, Written, bound

LOOPBACK = ("127.0.0.1", 0)
ROOM = {1: 100}


@pytest.fixture
def connections() -> Iterator[Connections]:
    connections = Connections()
    yield connections
    connections.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bound(socket.SOCK_STREAM, LOOPBACK, backlog=1) as listener:
        listener.settimeout(10)
        yield listener


def connected(connections: Connections, listener: socket.socket) -> socket.socket:
    """Connect stream 1, and return the other side."""
    connections.connect(1, listener.getsockname())
    other, _ = listener.accept()
    other.settimeout(10)
    return other


def wait(connections: Connections, rooms: dict[int, int]) -> list[Happening]:
    """What happens next."""
    for _ in range(1000):
        _, happened = connections.wait(0.01, rooms)
        if happened:
            return happened
    raise AssertionError("nothing happened")


def test_bytes_and_ends_pass_both_ways(connections: Connections, listener: socket.socket) -> None:
    with connected(connections, listener) as other:
        connections.do(Write(1, b"down"))
        assert wait(connections, {}) == [Written(1, 4)]
        assert other.recv(10) == b"down"
        other.sendall(b"up, and more")
        assert connections.wait(0.05, {1: 0}) == ([], [])
        assert wait(connections, {1: 2}) == [Said(1, b"up")]
        assert wait(connections, ROOM) == [Said(1, b", and more")]
        connections.do(WriteEnd(1))
        connections.wait(0, ROOM)
        assert other.recv(10) == b""
        other.sendall(b"still")
        assert wait(connections, ROOM) == [Said(1, b"still")]
        other.shutdown(socket.SHUT_WR)
        assert wait(connections, ROOM) == [Ended(1)]
        assert connections.wait(0.05, ROOM) == ([], [])
        connections.do(Close(1))
        connections.wait(0, {})
        assert len(connections) == 0


def test_what_was_all_said_is_written_before_the_connection_closes(
    connections: Connections, listener: socket.socket
) -> None:
    with connected(connections, listener) as other:
        content = bytes(3_000_000)
        connections.do(Write(1, content))
        connections.do(Close(1))
        got = 0
        while got < len(content):
            connections.wait(0, {})
            got += len(other.recv(1 << 20))
        for _ in range(3):
            connections.wait(0, {})
        assert other.recv(1) == b""
        assert len(connections) == 0


def test_a_broken_stream_is_reset_so_that_no_part_is_taken_for_the_whole(
    connections: Connections, listener: socket.socket
) -> None:
    with connected(connections, listener) as other:
        connections.do(Write(1, b"a part"))
        wait(connections, {})
        connections.do(Close(1, "lost"))
        assert len(connections) == 0
        with pytest.raises(ConnectionResetError):
            other.recv(10)
            other.recv(10)
    connections.do(Write(1, b"to nobody"))


def test_connections_that_fail_say_so(connections: Connections, listener: socket.socket) -> None:
    address = listener.getsockname()
    with connected(connections, listener) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    assert wait(connections, ROOM) == [Broke(1)]
    listener.close()
    connections.connect(1, address)
    assert wait(connections, ROOM) == [Broke(1)]
    assert len(connections) == 0


def test_an_address_in_use_is_an_error(listener: socket.socket) -> None:
    with pytest.raises(SocketError, match="cannot listen"):
        bound(socket.SOCK_STREAM, listener.getsockname(), backlog=1)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bitweir_metering.tunnel_ends", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    assert "inner" in run("--help").stdout
    inner = ["inner", "--gate", "gate", "--to", "127.0.0.1:22", "--key", str(tmp_path / "key")]
    assert run(*inner, "--listen", "nowhere").returncode == 2
    assert run(*inner, "--listen", "127.0.0.1:9", "--pace-ms", "0").returncode == 2
    missing = run(*inner, "--listen", "127.0.0.1:9")
    assert (missing.returncode, "bitweir keys shared" in missing.stderr) == (1, True)
    keys.new_shared(tmp_path / "key")
    with bound(socket.SOCK_DGRAM, LOOPBACK) as taken:
        in_use = run(*inner, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (in_use.returncode, "cannot listen" in in_use.stderr) == (1, True)


@pytest.mark.parametrize("end", ["inner", "outer"])
def test_the_commands_of_the_guide_are_ones_that_start(end: str, repository_root: Path) -> None:
    guide = (repository_root / "docs/how-to/operator-tunnel.md").read_text()
    (words,) = re.findall(rf"-m bitweir_metering\.tunnel_ends ({end} .*)", guide)
    found = run(*words.replace("runs/", "gone/").split())
    # It gets as far as the key, which is not there.
    assert (found.returncode, "gone/tunnel.key" in found.stderr) == (1, True)
