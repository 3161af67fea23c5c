"""Two network namespaces and their TAP interfaces, as the cable needs them, and nothing of anybody else's. Linux, root.

    namespace bw-PID-gate            cable.py             namespace bw-PID-outer
    interface link, 10.77.0.1   <-- the only copper -->   interface link, 10.77.0.2

Rules:
1. Names begin with `bw-` and the process that made them. What a process that is gone has left is removed by the next
   set-up, with the processes in it; nothing else is ever touched.
2. No kernel speaks of its own: IPv6 and ARP are off, neighbours are static, offloads are off and checked, and from the
   gate's side rules let out the link's one flow alone (no ICMP, no IGMP, no replies). This is tidiness, not a defence:
   root in that namespace can go round rules, but not round the cable.
3. Both namespaces have no other interface than `link` and `lo`, which stays down.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from bitweir_metering.errors import LabError
from bitweir_metering.wire import End, Route

INTERFACE: Final = "link"
PREFIX: Final = "bw-"
GATE: Final = End(bytes.fromhex("020000000001"), "10.77.0.1", 7001)
OUTER: Final = End(bytes.fromhex("020000000002"), "10.77.0.2", 7002)
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_NAMESPACES: Final = Path("/run/netns")
_RULES: Final = """table inet bitweir {{
    chain out {{
        type filter hook output priority 0; policy drop;
        ip saddr {0.address} ip daddr {1.address} udp sport {0.port} udp dport {1.port} accept
    }}
}}
"""


def missing() -> str:
    """Return why there can be no lab here; empty if there can."""
    if os.getuid() != 0:
        return "not root"
    lacks = [program for program in ("ip", "nft") if not shutil.which(program, path=_PATH)]
    if lacks:
        return f"{' and '.join(lacks)} not installed"
    return "" if Path("/dev/net/tun").exists() else "no /dev/net/tun"


class Lab:
    """The two namespaces; a context that makes and removes them.

    Raises:
        LabError: there can be no lab here, or a program fails; what was made is removed.
    """

    def __init__(self) -> None:
        self.route = Route(GATE, OUTER)
        self.gate, self.outer = (f"{PREFIX}{os.getpid()}-{side}" for side in ("gate", "outer"))

    def __enter__(self) -> "Lab":
        if reason := missing():
            raise LabError(f"no lab here: {reason}", remedy="be root on Linux with iproute2, nftables and TUN")
        remove_leftovers()
        try:
            self._side(self.gate, GATE, OUTER)
            self._side(self.outer, OUTER, GATE)
            _run([*inside(self.gate), _program("nft"), "-f", "-"], _RULES.format(GATE, OUTER))
        except LabError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove both namespaces, and the processes in them."""
        for namespace in (self.gate, self.outer):
            remove(namespace)

    def set_link(self, namespace: str, state: str) -> None:
        """Take the interface of one side up or down.

        Raises:
            LabError: no such side.
        """
        _run([_program("ip"), "-n", namespace, "link", "set", "dev", INTERFACE, state])

    def _side(self, namespace: str, own: End, other: End) -> None:
        ip = [_program("ip"), "-n", namespace]
        _run([_program("ip"), "netns", "add", namespace])
        # Before there is an interface: it would speak when it comes up.
        for name in ("all", "default"):
            _run([*inside(namespace), "sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6"])
        _run([*ip, "tuntap", "add", "dev", INTERFACE, "mode", "tap"])
        _run([*ip, "link", "set", "dev", INTERFACE, "address", own.mac.hex(":"), "arp", "off", "multicast", "off"])
        _run([*inside(namespace), sys.executable, "-m", "bitweir_metering.meters.offloads", INTERFACE, "--disable"])
        _run([*ip, "addr", "add", f"{own.address}/24", "dev", INTERFACE])
        _run([*ip, "link", "set", "dev", INTERFACE, "up"])
        neighbour = [other.address, "lladdr", other.mac.hex(":"), "dev", INTERFACE, "nud", "permanent"]
        _run([*ip, "neigh", "replace", *neighbour])


def inside(namespace: str) -> list[str]:
    """Return what is put before a command that is to run in a namespace; the command has its process number."""
    return [_program("ip"), "netns", "exec", namespace]


def remove(namespace: str) -> None:
    """Remove a namespace of a lab and end the processes in it; none is fine.

    Raises:
        LabError: another's name, or it cannot be removed.
    """
    if not namespace.startswith(PREFIX):
        raise LabError(f"{namespace!r:.40} is no lab's", remedy=f"name one that begins with {PREFIX}")
    if not (_NAMESPACES / namespace).exists():
        return
    for process in _run([_program("ip"), "netns", "pids", namespace]).split():
        try:
            os.kill(int(process), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _run([_program("ip"), "netns", "delete", namespace])


def remove_leftovers() -> None:
    """Remove the namespaces of labs whose process is gone."""
    for path in sorted(_NAMESPACES.glob(f"{PREFIX}*-*")) if _NAMESPACES.exists() else []:
        process = path.name.removeprefix(PREFIX).partition("-")[0]
        if process.isdecimal() and not Path(f"/proc/{process}").exists():
            remove(path.name)


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise LabError(f"{name} is not installed", remedy="install iproute2 and nftables")
    return found


def _run(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise LabError(f"{' '.join(command):.120}: {done.stderr.strip():.200}", remedy="look at what it says")
    return done.stdout
