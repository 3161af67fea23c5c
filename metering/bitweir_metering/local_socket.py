"""Local SOCK_SEQPACKET sockets: one that serves several clients, and how a client connects.

Rules:
1. A message is one datagram and keeps its borders; the kernel names the user at the other end.
2. Nobody can connect before the socket has its mode. A socket that nobody answers at is replaced, any other is not.
3. Only one user may ask, and only so many clients at a time; others are cut off without a word.
4. Nothing waits for a client: one that does not read its answers is cut off.
"""

import selectors
import socket
import struct
from errno import ECONNREFUSED
from os import getuid
from pathlib import Path
from typing import Final

from bitweir_metering.errors import SocketError

_PEER: Final = struct.Struct("3i")  # process, user, group of SO_PEERCRED


class LocalServer:
    """See the rules of this file.

    Args:
        path: where the socket goes.
        clients_max: how many may be connected.
        user: who may ask; by default this process's user.

    Raises:
        SocketError: a server answers there, or no socket can be made.
    """

    def __init__(self, path: Path, clients_max: int, *, user: int | None = None) -> None:
        self._path = path
        self._clients_max = clients_max
        self._user = getuid() if user is None else user
        self._clients: set[socket.socket] = set()
        self._listener = _listener(path, 0o600 if self._user == getuid() else 0o666, clients_max)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def watch(self, other: socket.socket) -> None:
        """Return this socket too from `ready`, when it can be read; the caller keeps and closes it."""
        self._selector.register(other, selectors.EVENT_READ)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `ready` has something to return or to accept. Linux."""
        if not isinstance(self._selector, selectors.EpollSelector):
            raise SocketError("this system has no epoll", remedy="run it on Linux")
        return self._selector.fileno()

    def ready(self, timeout_s: float | None) -> list[socket.socket]:
        """Wait for something to happen, accept who may connect, and return the sockets that can be read."""
        found: list[socket.socket] = []
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                found.append(key.fileobj)
        return found

    def send(self, client: socket.socket, content: bytes) -> None:
        """Send a message, or cut the client off: gone, cut off before, or not reading."""
        try:
            client.send(content)
        except OSError:
            self.drop(client)

    def drop(self, client: socket.socket) -> None:
        """Cut a client off."""
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client)
            client.close()

    def close(self) -> None:
        """Cut everybody off and remove the socket."""
        for client in list(self._clients):
            self.drop(client)
        self._selector.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        _, user, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user != self._user or len(self._clients) >= self._clients_max:
            client.close()
            return
        client.setblocking(False)
        self._clients.add(client)
        self._selector.register(client, selectors.EVENT_READ)


def connected(path: Path, timeout_s: float) -> socket.socket:
    """Return a client's socket, connected to a server's.

    Args:
        path: the server's socket.
        timeout_s: how long each later call may wait.

    Raises:
        OSError: nobody answers there.
    """
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    found.settimeout(timeout_s)
    try:
        found.connect(str(path))
    except OSError:
        found.close()
        raise
    return found


def _listener(path: Path, mode: int, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if path.is_socket():
            if listener.connect_ex(str(path)) != ECONNREFUSED:
                raise OSError("a server answers there")
            path.unlink()
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SocketError(f"no socket at {path}: {error}", remedy="name another path, of at most 107 bytes") from error
    return listener
