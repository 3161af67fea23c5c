"""The outer site as a process: the API, the weak model, the decoder, and one of the link's meters.

    python -m bitweir_services.outer_process MODELS --frames ADDRESS:PORT --gate ADDRESS:PORT
        --inner ADDRESS:PORT --key FILE --meter SOCKET --status FILE --api ADDRESS:PORT

Rules:
1. It needs the weak model alone: `MODELS/strong` is not read.
2. The link counts as up for a few seconds after reconcile's last permit, unless it is tripped.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import uvicorn

from bitweir_compression.errors import CompressionError
from bitweir_compression.noise import KEY_BYTES
from bitweir_metering import addresses, status
from bitweir_metering.errors import MeteringError, StatusError
from bitweir_metering.keys import load_shared
from bitweir_metering.meters.serving import MeterServer
from bitweir_metering.reconcile import Verdict
from bitweir_services import api_server
from bitweir_services.api import create_app
from bitweir_services.api_keys import ApiKeys
from bitweir_services.desk import Desk
from bitweir_services.errors import ServicesError
from bitweir_services.lanes import LaneConfig, outer_lane
from bitweir_services.outer_site import OuterPlace, OuterSite

STALE_NS: Final = 3_000_000_000


def link_is_up(path: Path, clock: Callable[[], int] = time.time_ns) -> bool:
    """Return whether reconcile has held the link up a moment ago."""
    try:
        found = status.read(path)
    except (StatusError, OSError):
        return False
    last_ns = found.last_success_ns
    return found.verdict is not Verdict.TRIP and last_ns is not None and clock() - last_ns < STALE_NS


async def _serve(site: OuterSite, server: uvicorn.Server) -> None:
    link = asyncio.create_task(site.serve())
    try:
        await server.serve()
    finally:
        link.cancel()


def _answer_meter(site: OuterSite, path: Path) -> None:
    """Answer for the meter in a thread: reconcile does not wait for the API."""

    def work() -> None:
        with closing(MeterServer(path, site.meter)) as server:
            while True:
                server.serve(None)

    threading.Thread(target=work, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the API until SIGTERM."""
    words = _parsed(arguments)
    try:
        lane, tokenizer, limits = outer_lane(
            LaneConfig(words.models, slot_count=words.slots, silence_s=words.silence_s)
        )
        place = OuterPlace(words.frames, words.gate, words.inner, load_shared(words.key))
        site = OuterSite(lane, place)
        desk = Desk(
            site,
            tokenizer,
            limits,
            model=words.name,
            master=os.urandom(KEY_BYTES),
            is_up=lambda: link_is_up(words.status),
        )
        _answer_meter(site, words.meter)
        host, port = words.api
        keys = ApiKeys.read(words.api_keys) if words.api_keys else None
        asyncio.run(_serve(site, api_server.server(create_app(desk, keys=keys), host=host, port=port)))
    except (CompressionError, MeteringError, ServicesError) as error:
        sys.exit(f"bitweir: {error}; {getattr(error, 'remedy', '')}")


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bitweir_services.outer_process", description=main.__doc__)
    parser.add_argument("models", type=Path, metavar="MODELS", help="folder with weak")
    for name, what in (("frames", "where frames arrive"), ("gate", "its control port"), ("inner", "what goes down")):
        parser.add_argument(f"--{name}", type=addresses.parse, required=True, metavar="ADDRESS:PORT", help=what)
    parser.add_argument("--api", type=addresses.parse, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--api-keys", type=Path, metavar="FILE", help="needed where --api is not loopback")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="outer.key")
    parser.add_argument("--meter", type=Path, required=True, metavar="SOCKET", help="where its meter answers")
    parser.add_argument("--status", type=Path, required=True, metavar="FILE", help="reconcile's")
    parser.add_argument("--name", default="bitweir", help="of the model, in the API")
    parser.add_argument("--slots", type=int, default=LaneConfig.slot_count, help="answers at once; as inner")
    parser.add_argument(
        "--silence-s", type=float, default=LaneConfig.silence_s, metavar="S", help="then answers are lost"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
