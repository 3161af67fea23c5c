"""How every meter answers at its socket, and the words of its command line. reading.py says what is asked and answered.

Rules:
1. A meter is a process of its own. It answers one user, a few clients, and nothing but the one question.
2. A meter that cannot tell says so, every time, until it ends. What ends it is one line on stderr and exit code 1.
"""

import argparse
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bitweir_metering.errors import FormError, MeterError, MeteringError
from bitweir_metering.local_socket import LocalServer
from bitweir_metering.meters import reading
from bitweir_metering.meters.reading import Meter
from bitweir_metering.wire import MAC_BYTES, End

CLIENTS_MAX: Final = 8


class MeterServer:
    """Answers for one meter.

    Args:
        path: where the socket goes.
        meter: asked at every request.
        client_user: who may ask; by default this process's user.

    Raises:
        SocketError: a server answers there, or no socket can be made.
    """

    def __init__(self, path: Path, meter: Meter, *, client_user: int | None = None) -> None:
        self._server = LocalServer(path, CLIENTS_MAX, user=client_user)
        self._meter = meter

    def fileno(self) -> int:
        """Return a descriptor that is readable when `serve` has something to do."""
        return self._server.fileno()

    def watch(self, other: socket.socket) -> None:
        """Have `serve` wait for this socket too."""
        self._server.watch(other)

    def serve(self, timeout_s: float | None, *, watched: socket.socket | None = None) -> bool:
        """Wait, answer who asks, and return whether the watched socket can be read."""
        is_watched_ready = False
        for ready in self._server.ready(timeout_s):
            if ready is watched:
                is_watched_ready = True
            else:
                self._answer(ready)
        return is_watched_ready

    def close(self) -> None:
        """Cut everybody off and remove the socket."""
        self._server.close()

    def _answer(self, client: socket.socket) -> None:
        try:
            request = client.recv(len(reading.REQUEST) + 1)
        except OSError:
            request = b""
        if request != reading.REQUEST:
            self._server.drop(client)
            return
        try:
            found = self._meter.read()
        except MeterError:
            found = None
        self._server.send(client, reading.encode(found))


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return the arguments that every meter has."""
    found = argparse.ArgumentParser(prog=f"python -m bitweir_metering.meters.{program}", description=description)
    found.add_argument("socket", type=Path, metavar="SOCKET", help="where it answers")
    found.add_argument("--client-user", type=int, metavar="UID", help="who may ask; default: this user")
    return found


def end(text: str) -> End:
    """Return one end of a link from "02:00:00:00:00:01,10.77.0.1,7001"."""
    mac, separator, rest = text.partition(",")
    address, second, port = rest.partition(",")
    digits = mac.split(":")
    try:
        if not (
            separator and second and port.isdecimal() and len(digits) == MAC_BYTES and set(map(len, digits)) == {2}
        ):
            raise FormError("no end", remedy="write MAC,ADDRESS,PORT")
        return End(bytes.fromhex("".join(digits)), address, int(port))
    except (FormError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not MAC,ADDRESS,PORT") from error


def format_end(found: End) -> str:
    """Return the text that `end` reads."""
    return f"{found.mac.hex(':')},{found.address},{found.port}"


def run(work: Callable[[], None]) -> None:
    """Do a meter's work until SIGTERM (exit 0) or an error (exit 1, one line)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        work()
    except MeteringError as error:
        sys.exit(f"bitweir: {error}; {error.remedy}")
