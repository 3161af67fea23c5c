"""TCP connections of a tunnel's end: what is to be done with them, and what happened on them. Used by tunnel_ends.py.

Rules:
1. Nothing waits for a connection; what it does not take yet is kept, and the ends' windows bound how much that is.
2. A stream that was broken ends its connection with a reset, so that nobody takes a part for the whole.
"""

import selectors
import socket
import struct
from dataclasses import dataclass, field
from typing import Final

from bitweir_metering.errors import SocketError
from bitweir_metering.tunnel import Close, Write, WriteEnd

READ_BYTES_MAX: Final = 16 * 1024
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


@dataclass(frozen=True)
class Said:
    """The other side of a connection said this."""

    stream: int
    content: bytes


@dataclass(frozen=True)
class Ended:
    """It says nothing more."""

    stream: int


@dataclass(frozen=True)
class Broke:
    """The connection failed, or was never made."""

    stream: int


@dataclass(frozen=True)
class Written:
    """It took so many bytes."""

    stream: int
    count: int


Happening = Said | Ended | Broke | Written


@dataclass
class _Connection:
    stream: int
    socket: socket.socket
    unwritten: bytearray = field(default_factory=bytearray)
    is_connecting: bool = False
    is_write_ended: bool = False
    is_shut: bool = False
    is_read_ended: bool = False
    is_closing: bool = False
    events: int = 0


class Connections:
    """See the rules of this file."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._of: dict[int, _Connection] = {}

    def __len__(self) -> int:
        return len(self._of)

    def watch(self, other: socket.socket) -> None:
        """Return this socket too from `wait`; the caller keeps and closes it."""
        self._selector.register(other, selectors.EVENT_READ)

    def add(self, stream: int, connected: socket.socket) -> None:
        """Take a connection over."""
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._of[stream] = _Connection(stream, connected)

    def connect(self, stream: int, address: tuple[str, int]) -> None:
        """Begin to connect; `Broke` follows where that fails."""
        self.add(stream, socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        connection = self._of[stream]
        connection.is_connecting = True
        # Whatever it returns, the socket becomes writable and then says how it went.
        connection.socket.connect_ex(address)

    def do(self, event: Write | WriteEnd | Close) -> None:
        """Carry out what an end asks for."""
        connection = self._of.get(event.stream)
        if connection is None:
            return
        if isinstance(event, Write):
            connection.unwritten += event.content
        elif isinstance(event, WriteEnd):
            connection.is_write_ended = True
        elif event.reason:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._drop(connection)
        else:
            connection.is_closing = connection.is_write_ended = True

    def wait(self, timeout_s: float, rooms: dict[int, int]) -> tuple[list[socket.socket], list[Happening]]:
        """Wait for something to happen.

        Args:
            timeout_s: for how long at most.
            rooms: how many bytes may be read of each connection now.

        Returns:
            The watched sockets that can be read, and what happened.
        """
        happened = [one for connection in list(self._of.values()) for one in self._finish(connection)]
        for connection in self._of.values():
            self._register(connection, rooms.get(connection.stream, 0))
        ready: list[socket.socket] = []
        for key, events in self._selector.select(0 if happened else timeout_s):
            if isinstance(key.data, _Connection):
                happened += self._serve(key.data, events, rooms.get(key.data.stream, 0))
            elif isinstance(key.fileobj, socket.socket):
                ready.append(key.fileobj)
        return ready, happened

    def close(self) -> None:
        """Reset all connections."""
        for stream in list(self._of):
            self.do(Close(stream, "the tunnel stops"))
        self._selector.close()

    def _register(self, connection: _Connection, room: int) -> None:
        events = 0
        if connection.unwritten or connection.is_connecting:
            events |= selectors.EVENT_WRITE
        if room > 0 and not connection.is_read_ended and not connection.is_connecting:
            events |= selectors.EVENT_READ
        if events == connection.events:
            return
        if connection.events and events:
            self._selector.modify(connection.socket, events, connection)
        elif events:
            self._selector.register(connection.socket, events, connection)
        else:
            self._selector.unregister(connection.socket)
        connection.events = events

    def _serve(self, connection: _Connection, events: int, room: int) -> list[Happening]:
        out: list[Happening] = []
        try:
            if events & selectors.EVENT_WRITE:
                self._write(connection, out)
            if events & selectors.EVENT_READ:
                content = connection.socket.recv(min(room, READ_BYTES_MAX))
                connection.is_read_ended = not content
                out.append(Said(connection.stream, content) if content else Ended(connection.stream))
        except BlockingIOError:
            return out
        except OSError:
            self._drop(connection)
            out.append(Broke(connection.stream))
        return out

    def _write(self, connection: _Connection, out: list[Happening]) -> None:
        if connection.is_connecting:
            number = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, "cannot connect")
            connection.is_connecting = False
        if connection.unwritten:
            count = connection.socket.send(connection.unwritten)
            del connection.unwritten[:count]
            out.append(Written(connection.stream, count))

    def _finish(self, connection: _Connection) -> list[Happening]:
        """Shut down or close what has nothing left to write."""
        if connection.unwritten or connection.is_connecting:
            return []
        if connection.is_write_ended and not connection.is_shut:
            connection.is_shut = True
            try:
                connection.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self._drop(connection)
                return [Broke(connection.stream)]
        if connection.is_closing:
            self._drop(connection)
        return []

    def _drop(self, connection: _Connection) -> None:
        if connection.events:
            self._selector.unregister(connection.socket)
        connection.socket.close()
        del self._of[connection.stream]


def bound(kind: socket.SocketKind, address: tuple[str, int], backlog: int = 0) -> socket.socket:
    """Return an IPv4 socket at this address that does not block; a listening one where there is a backlog.

    Raises:
        SocketError: the address cannot be had.
    """
    found = socket.socket(socket.AF_INET, kind)
    try:
        if backlog:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        if backlog:
            found.listen(backlog)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise SocketError(f"cannot listen at {address[0]}:{address[1]}: {error}", remedy="name another") from error
    return found
