"""What counting every bit costs: `make bench NAME=metering`. About a minute; writes below `runs`, which must be a disk.

1. Durable reservations against the raw disk: 64 bytes appended and fdatasynced. Both take turns in one run, in an order
   that turns too; what is claimed is the median of the rounds' ratios. The number of bits in a lease costs nothing.
2. The ledger's server with clients in threads of another process, and the witness, against the raw disk again: a small
   file written, fsynced, renamed, and its directory fsynced.
3. The gateway in virtual time: leases granted at once, a frame submitted and one sent at every edge.
4. What waiting for edges adds: Poisson arrivals through the same gateway in virtual time, beside the formula.
5. The cable and the tap of a real link (link.py); null, with the reason, where this is not root on Linux.
"""

import math
import multiprocessing
import os
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks import link, record
from bitweir_metering import keys, ledger_file
from bitweir_metering.budget import Totals
from bitweir_metering.frame import Payload, TrafficClass
from bitweir_metering.gateway import Gateway, Need, Release
from bitweir_metering.ledger import Ledger, Reservation, verify
from bitweir_metering.ledger_client import LedgerClient
from bitweir_metering.ledger_server import LedgerServer
from bitweir_metering.merkle import Tree, leaf_hash
from bitweir_metering.policy import Policy, Quorum
from bitweir_metering.slots import SlotClock
from bitweir_metering.units import NS_PER_S
from bitweir_metering.witness import Checkpoint
from bitweir_metering.witness_client import WitnessClient
from bitweir_metering.witness_server import WitnessServer
from bitweir_metering.witness_store import WitnessStore

SEED = 1
ROUNDS = 15
# Reservations in one commit, and how many such commits a round makes.
GROUPS = ((1, 200), (16, 60), (256, 12))
RAW_WRITES = 200
RAW_BYTES = 64
CLIENTS = (1, 4, 16)
SERVED = 480
COSIGNED = 100
FRAMES = 40_000
FRAME_REPEATS = 9
LOADS = (0.1, 0.5, 0.9)
LATENCY_SLOTS = 200_000
BATCHES = 20
SLOT_NS = 10_000_000
LEASE_BITS = 8 * 128 * 1024
# A frame of a busy link: tokens of some requests, coded.
PAYLOAD = Payload((1 << 300) - 1, 300)
LINEAGE, LINK = "bench", "inner-outer"
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes([SEED]) * 32)
MODEL = TrafficClass.MODEL
FORK = multiprocessing.get_context("fork")


def policy() -> Policy:
    """Return a policy that never stands in the way: the rate is above a frame an edge."""
    limit, quorum = 1 << 60, Quorum(1, (keys.public_key(SIGNER),))
    return Policy(
        serial=1,
        lineage=LINEAGE,
        link=LINK,
        models={"strong": 1 << 58},
        limit_bits=limit,
        class_limits=dict.fromkeys(TrafficClass, limit),
        rate_bits_per_s=1 << 20,
        burst_bits=1 << 20,
        lease_bits=LEASE_BITS,
        min_days=1,
        slot_ns=SLOT_NS,
        epoch_slots=600,
        permit_ns=NS_PER_S,
        resends_max=3,
        token_ceiling_bits=24,
        signers=quorum,
        witnesses=quorum,
    )


def created(path: Path) -> Ledger:
    """Return a new ledger, on whatever file system this is: the result says which."""
    rules = policy()
    signatures = {keys.public_key(SIGNER): SIGNER.sign(rules.message())}
    return Ledger.create(path, rules, signatures, allow_filesystem=ledger_file.mount_of(path.parent)[0])


def per_s(count: int, work: Callable[[], object]) -> float:
    """Return how many a second one call of `work` did."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def in_turns(works: dict[str, tuple[int, Callable[[], object]]]) -> dict[str, list[float]]:
    """Return the rates of each work in each round; the order turns from round to round, the first is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name in list(works) if number % 2 else reversed(works):
            rate = per_s(*works[name])
            if number:
                rates[name].append(rate)
    return rates


def ratio(rates: dict[str, list[float]], name: str, base: str) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(one / raw for one, raw in zip(rates[name], rates[base], strict=True))


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return the median rate of each work."""
    return {name: statistics.median(found) for name, found in rates.items()}


def measure_ledger(folder: Path) -> dict[str, Any]:
    """Return reservations a second by how many share a commit, and what the disk could do."""
    path, one = folder / "ledger", Reservation(MODEL, LEASE_BITS, LEASE_BITS // 2)
    raw = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def append() -> None:
        for _ in range(RAW_WRITES):
            os.write(raw, bytes(RAW_BYTES))
            os.fdatasync(raw)

    def reserve(size: int, commits: int) -> None:
        for _ in range(commits):
            ledger.reserve([one] * size)

    with created(path) as ledger:
        works: dict[str, tuple[int, Callable[[], object]]] = {"raw": (RAW_WRITES, append)}
        for size, commits in GROUPS:
            works[str(size)] = (size * commits, lambda size=size, commits=commits: reserve(size, commits))
        rates = in_turns(works)
    os.close(raw)
    report, reserved = verify(path), (ROUNDS + 1) * sum(size * commits for size, commits in GROUPS)
    if not report.ok or report.entry_count != 1 + reserved or report.totals.wire_bits != reserved * LEASE_BITS:
        raise SystemExit("the ledger does not hold what was reserved: nothing to report")
    middle = medians(rates)
    return {
        "fdatasync_per_s": middle.pop("raw"),
        "durable_reservations_per_s": middle,
        "single_over_fdatasync": ratio(rates, "1", "raw"),
    }


def is_listening(path: Path) -> bool:
    """Return whether somebody takes connections there."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as caller:
        return caller.connect_ex(str(path)) == 0


@contextmanager
def served(serve: Callable[[], None], path: Path) -> Iterator[None]:
    """Run a server in a process of its own until the block ends."""
    process = FORK.Process(target=serve, daemon=True)
    process.start()
    try:
        while not is_listening(path):
            if not process.is_alive():
                raise SystemExit("the server ended before it listened")
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.join()


def measure_ledger_server(folder: Path, sockets: Path) -> dict[str, float]:
    """Return reservations a second through the server's socket, by clients that each wait for their answer."""
    path, place = folder / "served", sockets / "ledger"

    def serve() -> None:
        with created(path) as ledger, closing(LedgerServer(ledger, place)) as server:
            server.serve()

    def ask(client: LedgerClient, count: int) -> None:
        for _ in range(count):
            client.reserve(MODEL, LEASE_BITS, LEASE_BITS // 2)

    def ask_all(clients: list[LedgerClient]) -> None:
        threads = [threading.Thread(target=ask, args=(client, SERVED // len(clients))) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with served(serve, place):
        clients = [LedgerClient(place) for _ in range(max(CLIENTS))]
        works = {str(count): (SERVED, lambda count=count: ask_all(clients[:count])) for count in CLIENTS}
        return medians(in_turns(works))


def checkpoints() -> Iterator[tuple[Checkpoint, tuple[bytes, ...]]]:
    """Yield checkpoints of a growing log, one entry more each time, and the proofs that lead to them."""
    tree, totals = Tree(), Totals()
    for _ in range((ROUNDS + 1) * COSIGNED):
        tree.append(leaf_hash(tree.size.to_bytes(8, "big")))
        totals = totals.plus(MODEL, LEASE_BITS, LEASE_BITS // 2)
        checkpoint = Checkpoint(LINEAGE, LINK, tree.size, tree.root(), totals)
        yield checkpoint, tree.consistency_proof(tree.size - 1, tree.size)


def measure_witness(folder: Path, sockets: Path) -> dict[str, Any]:
    """Return signatures a second: made and kept in this process, and asked of another one; and what the disk could do.

    Raises:
        SystemExit: a signature is not of what was asked for.
    """
    for name in ("own", "other"):
        (folder / name).mkdir()
        keys.new(folder / name / "key")
    place, key = sockets / "witness", keys.public_key(keys.load(folder / "other" / "key"))
    asked = list(checkpoints())
    at = {"own": iter(asked), "other": iter(asked)}

    def serve() -> None:
        other = folder / "other"
        with (
            WitnessStore.create(other / "state", other / "key", LINEAGE, LINK) as store,
            closing(WitnessServer(store, place)) as server,
        ):
            server.serve()

    def replace() -> None:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(COSIGNED):
            descriptor = os.open(folder / "new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.write(descriptor, bytes(RAW_BYTES))
            os.fsync(descriptor)
            os.close(descriptor)
            (folder / "new").rename(folder / "kept")
            os.fsync(directory)
        os.close(directory)

    def cosign(witness: WitnessStore | WitnessClient, name: str) -> None:
        for _ in range(COSIGNED):
            witness.cosign(*next(at[name]))

    with (
        served(serve, place),
        WitnessClient(place, key, LINEAGE, LINK) as client,
        WitnessStore.create(folder / "own" / "state", folder / "own" / "key", LINEAGE, LINK) as store,
    ):
        works = {
            "raw_replace_per_s": (COSIGNED, replace),
            "kept_per_s": (COSIGNED, lambda: cosign(store, "own")),
            "cosigned_per_s": (COSIGNED, lambda: cosign(client, "other")),
        }
        rates = in_turns(works)
        if not store.last == client.latest() == asked[(ROUNDS + 1) * COSIGNED - 1][0]:
            raise SystemExit("the witness did not sign what it was asked for: nothing to report")
    return {**medians(rates), "kept_over_raw_replace": ratio(rates, "kept_per_s", "raw_replace_per_s")}


def new_gateway() -> Gateway:
    """Return a gateway that is up and has tokens granted for as long as this runs."""
    rules = policy()
    gateway = Gateway(rules, bytes(range(32)), SlotClock(0, rules.slot_ns))
    gateway.breaker.permit(1 << 61)
    gateway.grant(1 << 50)
    return gateway


def tick(gateway: Gateway, now_ns: int) -> list[Release]:
    """Return what leaves now; leases are granted as they are asked for, at once, and the gateway told."""
    left: list[Release] = []
    is_new = True
    while is_new:
        is_new = False
        for one in gateway.tick(now_ns):
            if isinstance(one, Need):
                gateway.lease(one)
                is_new = True
            else:
                left.append(one)
    return left


def gateway_frames_per_s() -> tuple[float, float]:
    """Return frames a second through a gateway that could send one at every edge, and the share of edges with one."""
    left = 0

    def work() -> None:
        nonlocal left
        gateway, left = new_gateway(), 0
        for slot in range(FRAMES):
            gateway.submit(MODEL, 0, PAYLOAD)
            left += len(tick(gateway, slot * SLOT_NS))

    seconds = record.median_seconds(work, repeats=FRAME_REPEATS)
    return left / seconds, left / FRAMES


def added_latency(load: float) -> dict[str, float]:
    """Return the mean time from arrival to release, its standard error, and what the formula says."""
    arrivals, gateway = random.Random(SEED), new_gateway()  # noqa: S311
    # Fill the bucket and get leases first.
    gateway.submit(MODEL, 0, PAYLOAD)
    for slot in range(200):
        tick(gateway, slot * SLOT_NS)
    arrived: list[int] = []
    left: list[int] = []
    next_ns = 200 * SLOT_NS
    for slot in range(200, 200 + LATENCY_SLOTS):
        left += [one.slot * SLOT_NS for one in tick(gateway, slot * SLOT_NS)]
        while next_ns < (slot + 1) * SLOT_NS:
            if next_ns > slot * SLOT_NS:
                gateway.submit(MODEL, 0, PAYLOAD)
                left += [one.slot * SLOT_NS for one in tick(gateway, next_ns)]
                arrived.append(next_ns)
            next_ns += 1 + round(arrivals.expovariate(load / SLOT_NS))
    waited = [(end - start) / NS_PER_S for start, end in zip(arrived, left, strict=False)]
    size = len(waited) // BATCHES
    means = [statistics.fmean(waited[start : start + size]) for start in range(0, size * BATCHES, size)]
    slot_s = SLOT_NS / NS_PER_S
    return {
        "frames": len(waited),
        "mean_s": statistics.fmean(waited),
        "standard_error_s": statistics.stdev(means) / math.sqrt(BATCHES),
        "formula_s": slot_s / 2 + slot_s * load / (2 * (1 - load)),
    }


def main() -> None:
    """Measure all of it and write benchmarks/results/metering.json."""
    runs = Path(__file__).parents[1] / "runs"
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs) as folder, tempfile.TemporaryDirectory() as sockets:
        figures: dict[str, Any] = {
            "filesystem": ledger_file.mount_of(Path(folder))[0],
            **measure_ledger(Path(folder)),
            "ledger_server_reservations_per_s": measure_ledger_server(Path(folder), Path(sockets)),
            "witness": measure_witness(Path(folder), Path(sockets)),
        }
    figures |= link.measure()
    figures["gateway_frames_per_s"], figures["gateway_edges_used"] = gateway_frames_per_s()
    figures["slot_s"] = SLOT_NS / NS_PER_S
    figures["added_latency_s"] = {str(load): added_latency(load) for load in LOADS}
    path = record.write("metering", seed=SEED, figures=figures)
    single = figures["durable_reservations_per_s"]["1"]
    print(f"a durable reservation each: {single:,.0f}/s, {figures['single_over_fdatasync']:.0%} of a raw fdatasync")
    print(f"sharing a commit: {figures['durable_reservations_per_s']}")
    print(f"through the server, by clients: {figures['ledger_server_reservations_per_s']}")
    print(f"witness: {figures['witness']}")
    used = figures["gateway_edges_used"]
    print(f"gateway: {figures['gateway_frames_per_s']:,.0f} frames/s in virtual time, {used:.2%} of edges used")
    for load, row in figures["added_latency_s"].items():
        print(f"load {load}: {1e3 * row['mean_s']:.2f} ms added, formula {1e3 * row['formula_s']:.2f}")
    if figures["cable_mbit_per_s"]:
        cpu = figures["cable_mbit_per_cpu_s"]
        print(f"cable: {figures['cable_mbit_per_s']:,.0f} Mbit/s, {cpu:,.0f} Mbit a second of its own CPU time")
        print(f"tap: {figures['tap_frames_per_s']:,.0f} frames/s, none missed")
    print(path)


if __name__ == "__main__":
    main()
