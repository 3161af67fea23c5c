"""A witness as a process of its own, with its own disk and key: it answers over a local socket. See witness_client.py.

    python -m bitweir_metering.witness_server STATE_DIR SOCKET --key FILE [--new LINEAGE LINK] [--client-user UID]

Rules:
1. An answer leaves after the checkpoint is durable.
2. A client that sends anything but a request, does not read its answers, or is a user's who is not meant to ask, is cut
   off; the others do not notice.
3. When the store closes itself, the client is told so and the process ends. Nothing is answered from memory.
4. `--new` makes the store of a key that never had one. Without it a missing or damaged store is refused.
"""

import argparse
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from bitweir_metering.errors import CheckpointError, CosignError, MeteringError, WitnessError
from bitweir_metering.local_socket import LocalServer
from bitweir_metering.merkle import HASH_BYTES, PROOF_HASHES_MAX
from bitweir_metering.witness import Checkpoint, parse
from bitweir_metering.witness_client import ANSWER, REQUEST, REQUEST_BYTES_MAX, VERSION, Request, Status
from bitweir_metering.witness_store import WitnessStore

CLIENTS_MAX: Final = 16  # one gate asks; the rest is for people who look


class WitnessServer:
    """Serves one open store at one socket; the caller keeps the store and closes it after this.

    Args:
        store: opened by this process.
        path: where the socket goes. A socket that nobody answers at is replaced.
        client_user: who may ask; by default the witness's own user.

    Raises:
        SocketError: a server answers there, or no socket can be made.
    """

    def __init__(self, store: WitnessStore, path: Path, *, client_user: int | None = None) -> None:
        self._store = store
        self._server = LocalServer(path, CLIENTS_MAX, user=client_user)

    def close(self) -> None:
        """Cut everybody off and remove the socket."""
        self._server.close()

    def serve(self) -> None:
        """Answer until the store closes itself.

        Raises:
            WitnessError: it did.
        """
        while True:
            self.step(None)

    def step(self, timeout_s: float | None) -> None:
        """Wait for something to happen, and answer one request of each client that asks.

        Raises:
            WitnessError: the store closed itself; the client was told.
        """
        for client in self._server.ready(timeout_s):
            self._serve_one(client)

    def _serve_one(self, client: socket.socket) -> None:
        try:
            number, asked = parse_request(client.recv(REQUEST_BYTES_MAX + 1))
        except OSError:
            self._server.drop(client)
            return
        except CheckpointError:
            self._send(client, Status.DAMAGED, 0)
            self._server.drop(client)
            return
        try:
            status, reason = self._decided(asked)
        except WitnessError:
            self._send(client, Status.CLOSED, number)
            raise
        body = self._store.signed_last().signature + self._store.last.canonical()
        self._send(client, status, number, reason, body)

    def _decided(self, asked: tuple[Checkpoint, tuple[bytes, ...]] | None) -> tuple[Status, int]:
        """Return status and reason of the answer."""
        if asked is None:
            return Status.LATEST, 0
        try:
            self._store.cosign(*asked)
        except CosignError as refusal:
            return Status.REFUSED, refusal.reason
        return Status.COSIGNED, 0

    def _send(self, client: socket.socket, status: Status, number: int, reason: int = 0, body: bytes = b"") -> None:
        self._server.send(client, ANSWER.pack(VERSION, status, reason, number) + body)


def parse_request(content: bytes) -> tuple[int, tuple[Checkpoint, tuple[bytes, ...]] | None]:
    """Return the number of a request, and checkpoint and proof to sign; None if it asks for the latest.

    Raises:
        CheckpointError: not a request of this version; the end of a connection, an empty message, is none either.
    """
    if not REQUEST.size <= len(content) <= REQUEST_BYTES_MAX:
        raise CheckpointError(f"a message of {len(content)} bytes", remedy="use witness_client.py")
    version, kind, number, count = REQUEST.unpack_from(content)
    body = content[REQUEST.size :]
    if version != VERSION or kind not in set(Request) or count > PROOF_HASHES_MAX:
        raise CheckpointError(f"version {version}, kind {kind}", remedy="use witness_client.py of this version")
    if kind == Request.LATEST:
        if body or count:
            raise CheckpointError("more than a question", remedy="use witness_client.py")
        return number, None
    split = len(body) - HASH_BYTES * count
    if split < 0:
        raise CheckpointError(f"no {count} hashes", remedy="use witness_client.py")
    proof = tuple(body[start : start + HASH_BYTES] for start in range(split, len(body), HASH_BYTES))
    return number, (parse(body[:split]), proof)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the witness in STATE_DIR at SOCKET until its store closes itself (exit 1) or SIGTERM comes (exit 0)."""
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.witness_server", description=main.__doc__)
    parser.add_argument("state_dir", type=Path, metavar="STATE_DIR")
    parser.add_argument("socket", type=Path, metavar="SOCKET")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key, mode 0600")
    parser.add_argument("--new", nargs=2, metavar=("LINEAGE", "LINK"), help="make the store of a key that had none")
    parser.add_argument("--client-user", type=int, metavar="UID", help="who may ask; default: this user")
    words = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with (
            (
                WitnessStore.create(words.state_dir, words.key, *words.new)
                if words.new
                else WitnessStore.open(words.state_dir, words.key)
            ) as store,
            closing(WitnessServer(store, words.socket, client_user=words.client_user)) as server,
        ):
            server.serve()
    except MeteringError as error:
        sys.exit(f"bitweir: {error}; {error.remedy}")


if __name__ == "__main__":
    main()
