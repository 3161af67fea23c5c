"""A link with nothing simulated: four mechanisms agree to the byte; and whatever fails, the link goes down."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitweir_metering import wire
from bitweir_metering.errors import LabError, MeterError
from bitweir_metering.gate import TRIPPED_EXIT
from bitweir_metering.lab import network
from bitweir_metering.lab.meters import NAMES
from bitweir_metering.lab.network import INTERFACE, Lab, inside
from bitweir_metering.reconcile import Verdict
from bitweir_metering.wire import PACKET_BYTES_MAX
from tests.security.running_gate import wait_for
from tests.security.running_lab import (
    MARGIN_S,
    PERMIT_S,
    PLAIN_SENDER,
    RAW_SENDER,
    Capture,
    Site,
    in_gate,
    need_lab,
    running_lab,
    running_site,
)

pytestmark = pytest.mark.system


def up(contents: int) -> str:
    """A canonical packet of the link, as root of the gate's namespace would forge it, in hexadecimal."""
    return wire.encode(Lab().route, bytes(contents)).hex()


# What agrees.


def test_frames_of_the_gate_cross_and_all_meters_and_tcpdump_agree_to_the_byte(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        capture = Capture(site.lab, tmp_path / "pcap")
        site.submit(60)
        site.wait_received(60)
        counts = site.wait_equal()
        assert set(counts.values()) == {(60, 60 * 63)}
        assert capture.counts() == (60, 60 * 63)
        assert [one.payload.value for one in site.frames] == list(range(60))
        assert all(site.meters.read(name).drops == 0 for name in NAMES)
        found = site.wait_verdict(Verdict.PERMIT)
        assert found.trip_count == 0
        assert found.reserved is not None
        assert sum(found.reserved.wire) >= 8 * 60 * 63
        assert site.world.end_gate() == 0
        report = site.world.report()
        assert report.ok
        assert report.totals.wire_bits >= 8 * 60 * 63


def test_20_megabytes_agree_to_the_byte_in_every_meter_and_in_tcpdump(tmp_path: Path) -> None:
    with running_lab(tmp_path, line_rate="1 Gbit/s") as (lab, meters):
        capture = Capture(lab, tmp_path / "pcap")
        while meters.read("cable").l2_bytes < 20_000_000:
            in_gate(lab, PLAIN_SENDER, "4000", "1037", "0.004")
            in_gate(lab, PLAIN_SENDER, "500", "21", "0.004")
        site = Site(tmp_path, lab, meters, None)  # type: ignore[arg-type]
        counts = site.wait_equal()
        frames, l2_bytes = counts["cable"]
        assert l2_bytes >= 20_000_000
        assert set(counts.values()) == {(frames, l2_bytes)}
        assert capture.counts() == (frames, l2_bytes)
        for name in NAMES:
            assert (meters.read(name).drops, meters.read(name).longest) in ((0, PACKET_BYTES_MAX), (0, 0))


def test_nobody_speaks_by_itself(tmp_path: Path) -> None:
    with running_lab(tmp_path) as (lab, meters):
        # A port that nobody listens at, where the gate's would be: the kernel would answer.
        code = 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("10.77.0.1", 7001))'
        subprocess.run([*inside(lab.outer), sys.executable, "-c", code], check=True)
        time.sleep(3)
        assert set(meters.counts().values()) == {(0, 0)}
        assert all(meters.read(name).drops == 0 for name in NAMES)


# What is enforced.


def test_the_quota_stops_at_the_exact_frame(tmp_path: Path) -> None:
    with running_lab(tmp_path, budget_bytes=63 * 50) as (lab, meters):
        in_gate(lab, PLAIN_SENDER, "80", "21", "0")
        wait_for(lambda: meters.read("tap").frames == 80)
        assert meters.read("application").frames == 50
        assert (meters.read("nft").frames, meters.read("nft").drops) == (80, 30)
        # A restart of the meter goes on where the kernel is: nothing more passes.
        meters.kill("nft")
        meters.start("nft")
        in_gate(lab, PLAIN_SENDER, "5", "21", "0")
        wait_for(lambda: meters.read("tap").frames == 85)
        assert (meters.read("nft").frames, meters.read("nft").drops) == (85, 35)
        assert meters.read("application").frames == 50


def test_the_line_is_no_faster_than_its_rate(tmp_path: Path) -> None:
    rate_bits_per_s = 2_000_000
    with running_lab(tmp_path, line_rate="2 Mbit/s") as (lab, meters):
        command = [*inside(lab.gate), sys.executable, "-c", PLAIN_SENDER, "6000", "1037", "0.01"]
        with subprocess.Popen(command) as sender:
            wait_for(lambda: meters.read("cable").frames > 0)
            start = meters.read("cable")
            time.sleep(2)
            end = meters.read("cable")
            sender.terminate()
        seconds = (end.time_ns - start.time_ns) / 1e9
        bits = 8 * (end.l2_bytes - start.l2_bytes)
        assert bits <= rate_bits_per_s * (seconds + 0.002) + 8 * PACKET_BYTES_MAX
        assert bits >= 0.7 * rate_bits_per_s * seconds


# What fails. Nothing leaves more than a permit later; what is a trip and what a lapse says reconcile.py.

NFT = "/usr/sbin/nft"


def flush_rules(site: Site) -> None:
    subprocess.run([*inside(site.lab.outer), NFT, "flush", "ruleset"], check=True)


def flap(site: Site) -> None:
    site.lab.set_link(site.lab.outer, "down")
    site.lab.set_link(site.lab.outer, "up")


def turn_offloads_on(site: Site) -> None:
    code = "from bitweir_metering.meters import offloads; offloads._ask('link', offloads._SWITCHES['gro'][1], 1)"
    subprocess.run([*inside(site.lab.outer), sys.executable, "-c", code], check=True)


FAULTS = {
    "application killed": lambda site: site.meters.kill("application"),
    "nft killed": lambda site: site.meters.kill("nft"),
    "tap killed": lambda site: site.meters.kill("tap"),
    "cable killed": lambda site: site.meters.kill("cable"),
    "interface flapped": flap,
    "rules flushed": flush_rules,
    "offload turned on": turn_offloads_on,
    "reconciler killed": Site.kill_reconciler,
    "witness killed": lambda site: site.world.stop_witness(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_lost_nothing_leaves_after_one_permit(tmp_path: Path, fault: str) -> None:
    with running_site(tmp_path) as site:
        site.submit(400)
        site.wait_received(20)
        lapses = sum(one["event"] == "lapsed" for one in site.world.events())
        FAULTS[fault](site)
        # A flap is seen by the tap alone, and where nobody looked meanwhile packets are missing: a trip, then.
        watched = "application" if fault == "cable killed" else "cable"
        last_s = site.last_frame_s(time.monotonic(), PERMIT_S + 2, watched)
        assert last_s <= PERMIT_S + MARGIN_S, last_s
        assert len(site.contents) < 300, "there was nothing left to send"
        assert site.world.gate is not None
        exit_code = site.world.gate.poll()
        assert exit_code in ((None, TRIPPED_EXIT) if fault == "interface flapped" else (None,))
        if exit_code is None:
            assert sum(one["event"] == "lapsed" for one in site.world.events()) > lapses


def test_packets_that_pass_beside_the_rules_are_seen_by_the_others(tmp_path: Path) -> None:
    """The chain is gone, its counter is not: the kernel lets everything in and counts nothing."""
    with running_site(tmp_path) as site:
        site.submit(200)
        site.wait_received(10)
        subprocess.run([*inside(site.lab.outer), NFT, "delete", "chain", "netdev", "bitweir", "up"], check=True)
        assert site.last_frame_s(time.monotonic(), PERMIT_S + 1.5) <= PERMIT_S + MARGIN_S
        assert site.meters.read("nft").frames < site.meters.read("tap").frames == site.meters.read("cable").frames
        assert site.world.gate is not None
        assert site.world.gate.wait(10) == TRIPPED_EXIT
        assert site.world.events()[-1]["reason"].endswith("reconcile: mismatch")


def test_reconciler_and_tap_started_again_go_on_where_the_link_is(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        site.submit(30)
        site.wait_received(30)
        site.wait_equal()
        site.wait_verdict(Verdict.PERMIT)
        time.sleep(PERMIT_S / 2)
        site.kill_reconciler()
        site.meters.kill("tap")
        wait_for(lambda: site.world.events()[-1]["event"] == "lapsed")
        site.meters.start("tap")
        (tmp_path / "status").unlink()
        site.start_reconciler()
        site.wait_verdict(Verdict.PERMIT)
        site.submit(10)
        site.wait_received(40)
        wait_for(lambda: {one.frames for one in site.wait_verdict(Verdict.PERMIT).meters.values() if one} == {40})
        assert site.meters.read("tap").frames == 10
        assert site.world.end_gate() == 0


@pytest.mark.parametrize(("kind", "reason"), [("drop", "mismatch"), ("duplicate", "mismatch"), ("cut", "mismatch")])
def test_meters_agree_exactly_or_the_link_is_down_within_a_second(
    tmp_path: Path, kind: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: a cable that loses, repeats or stops; from the first wrong packet on no new permit is given."""
    monkeypatch.setenv("BITWEIR_FAULT", f"{kind}:30")
    with running_site(tmp_path, cable="tests.security.faulty_cable") as site:
        assert f"FAULTY CABLE: {kind}" in (tmp_path / "cable.log").read_text()
        site.submit(400)
        wait_for(lambda: site.meters.read("cable").frames > 30)
        start = time.monotonic()
        assert site.last_frame_s(start, PERMIT_S + 1.5) <= PERMIT_S + MARGIN_S
        assert site.world.gate is not None
        assert site.world.gate.wait(10) == TRIPPED_EXIT
        assert site.world.events()[-1]["reason"].endswith(f"reconcile: {reason}")
        assert site.wait_verdict(Verdict.TRIP).trip_count == 1


def test_packets_in_another_order_are_the_same_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITWEIR_FAULT", "reorder:0")
    with running_site(tmp_path, cable="tests.security.faulty_cable") as site:
        site.submit(40)
        site.wait_received(40)
        assert set(site.wait_equal().values()) == {(40, 40 * 63)}
        values = [one.payload.value for one in site.frames]
        assert values != sorted(values) == list(range(40))


# Who is root beside the gate.


def test_packets_that_are_not_the_links_do_not_pass_and_trip_it(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        site.submit(10)
        site.wait_received(10)
        sound = up(21)
        foreign = [sound + "00", sound[:36] + "0001" + sound[40:], "ff" * 14 + "00" * 50, "00" * 1500]
        in_gate(site.lab, RAW_SENDER, "1", *foreign)
        assert site.world.gate is not None
        assert site.world.gate.wait(10) == TRIPPED_EXIT
        assert site.world.events()[-1]["reason"].endswith("reconcile: drops")
        assert site.meters.read("tap").frames == len(site.contents)
        assert site.meters.read("cable").drops == len(foreign)


def test_forged_packets_of_the_right_form_are_counted_and_trip_it_when_they_are_not_paid_for(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        site.submit(10)
        site.wait_received(10)
        # More than a lease, from a socket that no rule and no queue of the gate's machine sees.
        in_gate(site.lab, RAW_SENDER, "400", up(1037))
        assert site.world.gate is not None
        assert site.world.gate.wait(10) == TRIPPED_EXIT
        assert site.world.events()[-1]["reason"].endswith("reconcile: unreserved")
        frames, l2_bytes = site.wait_equal()["tap"]
        assert frames >= 410
        assert l2_bytes >= 400 * 1079


# The lab itself.


def test_the_lab_leaves_nothing_and_removes_what_a_crash_left(tmp_path: Path) -> None:
    need_lab()
    code = "import os, time; from bitweir_metering.lab.network import Lab; lab = Lab().__enter__(); os._exit(9)"
    crashed = subprocess.Popen([sys.executable, "-c", code])
    assert crashed.wait(30) == 9
    left = sorted(Path("/run/netns").glob(f"bw-{crashed.pid}-*"))
    assert len(left) == 2
    with Lab() as lab:
        assert not any(path.exists() for path in left)
        own = [Path("/run/netns") / name for name in (lab.gate, lab.outer)]
        assert all(path.exists() for path in own)
        with pytest.raises(LabError):
            network.remove("somebody-elses")
    assert not any(path.exists() for path in own)


def test_offloads_are_off_on_both_sides_and_a_tap_refuses_to_start_with_them_on(tmp_path: Path) -> None:
    with running_lab(tmp_path) as (lab, meters):
        for namespace in (lab.gate, lab.outer):
            command = [*inside(namespace), sys.executable, "-m", "bitweir_metering.meters.offloads", INTERFACE]
            subprocess.run(command, check=True)
        turn_offloads_on(Site(tmp_path, lab, meters, None))  # type: ignore[arg-type]
        with pytest.raises(MeterError, match="cannot tell"):
            meters.read("tap")
        meters.kill("tap")
        with pytest.raises(LabError, match="has gro on"):
            meters.start("tap")


def test_the_command_of_the_lab_ends_cleanly(tmp_path: Path) -> None:
    need_lab()
    command = [sys.executable, "-m", "bitweir_metering.lab", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert '"gate_namespace"' in process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 0
    assert not list(Path("/run/netns").glob(f"bw-{process.pid}-*"))


def test_rules_that_are_gone_make_the_meter_blind_for_good(tmp_path: Path) -> None:
    with running_lab(tmp_path) as (lab, meters):
        in_gate(lab, PLAIN_SENDER, "3", "21", "0")
        wait_for(lambda: meters.read("nft").frames == 3)
        subprocess.run([*inside(lab.outer), NFT, "flush", "ruleset"], check=True)
        for _ in range(2):
            with pytest.raises(MeterError, match="cannot tell"):
                meters.read("nft")
