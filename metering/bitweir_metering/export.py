"""Prometheus metrics of one link, from the status file alone. Runs outside, where bytes are free.

    python -m bitweir_metering.export STATUS_FILE --policy POLICY.toml --listen ADDRESS:PORT

Rules:
1. Every value is in the status file; nothing is measured, added up or remembered here.
2. A status that is missing, damaged, old or of another policy yields no egress metric at all, only `up` 0: the alarm is
   silence, and the last good numbers would hide it.
3. What the status does not know has no sample. No sample is not 0.
4. Labels are link, class and meter: a bounded few, none of which a user or a request can choose.
5. Counters end in _total, units are bytes and seconds, amounts are bits / 8: exact below 2**53 bits.

docs/reference/metrics.md describes them, k8s/monitoring uses them; both change with this file, and a test holds them.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from bitweir_metering import addresses
from bitweir_metering import policy as policies
from bitweir_metering import status as statuses
from bitweir_metering.budget import Totals
from bitweir_metering.errors import MeteringError, SocketError, StatusError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.policy import CLASS_NAMES, Policy
from bitweir_metering.reconcile import Verdict
from bitweir_metering.status import MeterStatus, PolicyFacts, Status
from bitweir_metering.units import BITS_PER_BYTE, NS_PER_S

PREFIX: Final = "bitweir_"
STALE_NS: Final = 5 * NS_PER_S
"""A status this old is none: it is written several times a second. One from the future is none either."""
Sample = tuple[tuple[str, ...], float]
"""Values of the labels after `link`, and the value."""
Family = CounterMetricFamily | GaugeMetricFamily


@dataclass(frozen=True)
class Metric:
    """One metric of a link.

    Args:
        name: without prefix.
        labels: `link`, and what else.
        unit: for people.
        meaning: one line, which the metric's HELP says too.
        samples: its samples of one status.
    """

    name: str
    labels: tuple[str, ...]
    unit: str
    meaning: str
    samples: Callable[[Status], Iterable[Sample]]

    @property
    def full_name(self) -> str:
        """As it is exported."""
        return PREFIX + self.name

    @property
    def kind(self) -> Literal["counter", "gauge"]:
        """As the name says."""
        return "counter" if self.name.endswith("_total") else "gauge"

    def family(self, link: str, samples: Iterable[Sample]) -> Family:
        """Return it with these samples."""
        made: Family
        if self.kind == "counter":
            made = CounterMetricFamily(self.full_name.removesuffix("_total"), self.meaning, labels=self.labels)
        else:
            made = GaugeMetricFamily(self.full_name, self.meaning, labels=self.labels)
        for labels, value in samples:
            made.add_metric([link, *labels], value)
        return made


def _one(value: Callable[[Status], int | None], parts: int = 1) -> Callable[[Status], Iterator[Sample]]:
    """Return the samples of what has one value, or none; `parts` of it make the unit."""

    def samples(status: Status) -> Iterator[Sample]:
        found = value(status)
        if found is not None:
            yield (), found / parts

    return samples


def _by_class(bits: Callable[[Totals], tuple[int, ...]]) -> Callable[[Status], Iterator[Sample]]:
    def samples(status: Status) -> Iterator[Sample]:
        if status.reserved is not None:
            column = bits(status.reserved)
            yield from (((CLASS_NAMES[kind],), column[kind] / BITS_PER_BYTE) for kind in TrafficClass)

    return samples


def _by_meter(value: Callable[[MeterStatus], int]) -> Callable[[Status], Iterator[Sample]]:
    def samples(status: Status) -> Iterator[Sample]:
        for name, meter in status.meters.items():
            if meter is not None:
                yield (name,), float(value(meter))

    return samples


def _of_the_file(_: Status) -> Iterable[Sample]:
    """No sample comes from the status: this is about the file itself, see `StatusCollector`."""
    return ()


def _class_limits(status: Status) -> Iterator[Sample]:
    limits = status.policy.class_limits
    yield from (((CLASS_NAMES[kind],), limits[kind] / BITS_PER_BYTE) for kind in TrafficClass)


def _heartbeats(status: Status) -> Iterator[Sample]:
    """A meter that never answered had its heartbeat at 0, so that it is found old."""
    for name, meter in status.meters.items():
        yield (name,), 0.0 if meter is None else (status.written_ns - meter.age_ns) / NS_PER_S


_LINK: Final = ("link",)
_CLASS: Final = ("link", "class")
_METER: Final = ("link", "meter")
UP: Final = Metric(
    "status_up",
    _LINK,
    "0 or 1",
    "1 if the status file is sound and fresh; else no egress metric is shown",
    _of_the_file,
)
AGE: Final = Metric(
    "status_age_seconds",
    _LINK,
    "seconds",
    "How long ago the status file was written; none if it cannot be read",
    _of_the_file,
)
METRICS: Final = (
    Metric(
        "egress_limit_bytes",
        _LINK,
        "bytes",
        "What may ever leave, all classes together",
        _one(lambda status: status.policy.limit_bits, BITS_PER_BYTE),
    ),
    Metric("egress_class_limit_bytes", _CLASS, "bytes", "What may ever leave in this class", _class_limits),
    Metric(
        "egress_rate_limit_bytes_per_second",
        _LINK,
        "bytes a second",
        "The rate cap of the policy",
        _one(lambda status: status.policy.rate_bits_per_s, BITS_PER_BYTE),
    ),
    Metric(
        "egress_weights_bytes",
        _LINK,
        "bytes",
        "Weights of the smallest model behind the link, as they are stored",
        _one(lambda status: status.policy.weights_bytes),
    ),
    Metric(
        "egress_reserved_bytes_total",
        _CLASS,
        "bytes",
        "Reserved on the wire since the link began, by the last checkpoint a witness signed",
        _by_class(lambda totals: totals.wire),
    ),
    Metric(
        "egress_information_bytes_total",
        _CLASS,
        "bytes",
        "Of these, what an observer can read",
        _by_class(lambda totals: totals.information),
    ),
    Metric(
        "egress_wire_bytes_total",
        _METER,
        "bytes",
        "Bytes on Ethernet since the link began, by this meter",
        _by_meter(lambda meter: meter.l2_bytes),
    ),
    Metric(
        "egress_wire_frames_total",
        _METER,
        "packets",
        "Packets since the link began, by this meter",
        _by_meter(lambda meter: meter.frames),
    ),
    Metric(
        "egress_longest_frame_bytes",
        _METER,
        "bytes",
        "The longest packet this meter saw; 0 where it cannot tell",
        _by_meter(lambda meter: meter.longest),
    ),
    Metric(
        "egress_meter_drops_total",
        _METER,
        "packets",
        "Packets this meter knows that it has missed",
        _by_meter(lambda meter: meter.drops),
    ),
    Metric(
        "egress_meter_heartbeat_timestamp_seconds",
        _METER,
        "seconds since 1970",
        "When this meter looked last; 0 if it never answered",
        _heartbeats,
    ),
    Metric(
        "egress_reconcile_mismatch_bytes",
        _LINK,
        "bytes",
        "The largest difference between two meters, at the last judgement",
        _one(lambda status: status.mismatch_bytes),
    ),
    Metric(
        "egress_reconcile_last_success_timestamp_seconds",
        _LINK,
        "seconds since 1970",
        "When all meters were last found equal and paid for",
        _one(lambda status: status.last_success_ns, NS_PER_S),
    ),
    Metric(
        "egress_breaker_closed",
        _LINK,
        "0 or 1",
        "1 if the last judgement was a permit, which holds the link up; like a switch, closed lets through",
        _one(lambda status: int(status.verdict is Verdict.PERMIT)),
    ),
    Metric(
        "egress_permits_total",
        _LINK,
        "permits",
        "Permits sent since reconciliation started",
        _one(lambda status: status.permit_count),
    ),
    Metric(
        "egress_trips_total",
        _LINK,
        "trips",
        "Trips found since reconciliation started; each needs people",
        _one(lambda status: status.trip_count),
    ),
    Metric(
        "egress_lapses_total",
        _LINK,
        "lapses",
        "Permits that came too late, as far as reconciliation can tell",
        _one(lambda status: status.lapse_count),
    ),
    Metric(
        "egress_witness_lag_entries",
        _LINK,
        "entries",
        "Entries of the ledger that the witness has not signed yet",
        _one(lambda status: status.witness_lag_entries),
    ),
    Metric(
        "egress_crash_loss_bytes_total",
        _LINK,
        "bytes",
        "Reserved, and wasted by crashes",
        _one(lambda status: status.crash_loss_bits, BITS_PER_BYTE),
    ),
    Metric(
        "egress_slot_lateness_seconds",
        _LINK,
        "seconds",
        "How late after its edge a frame left, the worst since the status before",
        _one(lambda status: status.slot_lateness_ns, NS_PER_S),
    ),
)


class StatusCollector(Collector):
    """Reads the status file whenever somebody asks for metrics.

    Args:
        path: the status file.
        policy: whose link this is.
        clock: CLOCK_REALTIME in nanoseconds.
        say: called with the reason when the status is not shown, once for each reason; with "" when it is again.
    """

    def __init__(
        self, path: Path, policy: Policy, *, clock: Callable[[], int] = time.time_ns, say: Callable[[str], None]
    ) -> None:
        self._path = path
        self._names = (policy.lineage, policy.link)
        self._facts = PolicyFacts.of(policy)
        self._clock = clock
        self._say = say
        self._said = ""

    def collect(self) -> Iterator[Family]:
        """Yield all metrics, or `up` 0 and, of a file that can be read, its age."""
        age_ns, status, reason = None, None, ""
        try:
            found = statuses.read(self._path)
            age_ns = self._clock() - found.written_ns
            self._check(found, age_ns)
            status = found
        except StatusError as error:
            reason = str(error)
        if reason != self._said:
            self._said = reason
            self._say(reason)
        link = self._names[1]
        yield UP.family(link, [((), float(status is not None))])
        if age_ns is not None:
            yield AGE.family(link, [((), age_ns / NS_PER_S)])
        if status is not None:
            yield from (metric.family(link, metric.samples(status)) for metric in METRICS)

    def _check(self, status: Status, age_ns: int) -> None:
        if abs(age_ns) > STALE_NS:
            raise StatusError("the status is old, or of the future", remedy="look at reconciliation, and at the clock")
        if (status.lineage, status.link) != self._names or status.policy != self._facts:
            raise StatusError("the status is of another link or policy", remedy="start with the policy in force")


def main(arguments: Sequence[str] | None = None) -> None:
    """Show what STATUS_FILE says to who asks over HTTP, until SIGTERM (exit 0) or an error (1)."""
    words = _parsed(arguments)
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the server's threads exist, which inherit it
    try:
        policy, _ = policies.read(words.policy)
        registry = CollectorRegistry()
        registry.register(
            StatusCollector(
                words.status, policy, say=lambda reason: _say("hidden" if reason else "shown", reason=reason)
            )
        )
        server = _served(words.listen, registry)
    except MeteringError as error:
        _say("ended", reason=str(error), remedy=error.remedy)
        sys.exit(1)
    _say("listens", port=server.server_port)
    signal.sigwait(ends)
    server.shutdown()
    server.server_close()


def _served(address: tuple[str, int], registry: CollectorRegistry) -> WSGIServer:
    try:
        return start_http_server(address[1], address[0], registry)[0]
    except OSError as error:
        raise SocketError(f"cannot listen at {address[0]}:{address[1]}: {error}", remedy="name another") from error


def _say(event: str, **fields: object) -> None:
    """Write a line for the people who run this."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bitweir_metering.export", description=main.__doc__)
    parser.add_argument("status", type=Path, metavar="STATUS_FILE", help="what reconciliation writes")
    parser.add_argument("--policy", type=Path, required=True, metavar="POLICY.toml", help="whose link this is")
    parser.add_argument(
        "--listen",
        type=addresses.parse_listening,
        required=True,
        metavar="ADDRESS:PORT",
        help="port 0: any",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
