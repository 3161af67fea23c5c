"""Policies for tests: a sound one as an object and as TOML, changed where a test says so, and keys that sign it."""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitweir_metering.frame import TrafficClass
from bitweir_metering.keys import public_key
from bitweir_metering.policy import Policy, Quorum

PRIVATE = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 6)]
PUBLIC = [public_key(private) for private in PRIVATE]

DOCUMENT: dict[str, Any] = {
    "serial": 1,
    "lineage": "example",
    "link": "inner-outer",
    "limit": "1 GB",
    "rate": "1 Mbit/s",
    "burst": "64 KiB",
    "min_days": 90,
    "slot_ms": 100,
    "epoch_slots": 600,
    "permit_ms": 1000,
    "resends_max": 3,
    "token_ceiling_bits": 24,
    "models": {"strong": "1 TB", "stronger": 2 * 10**12},
    "class_limits": {"model": "1 GB", "control": "50 MB", "resend": "100 MB", "tunnel": "0 B", "timing": "100 MB"},
    "signers": {"threshold": 2, "keys": [key.hex() for key in PUBLIC[:3]]},
    "witnesses": {"threshold": 1, "keys": [PUBLIC[3].hex()]},
}


def toml(**changes: Any) -> bytes:
    """Return the file; a change to None leaves the field out."""
    document = {name: value for name, value in (DOCUMENT | changes).items() if value is not None}
    lines = [f"{name} = {json.dumps(value)}" for name, value in document.items() if not isinstance(value, dict)]
    for name, value in document.items():
        if isinstance(value, dict):
            lines += [f"[{name}]", *(f"{json.dumps(key)} = {json.dumps(inner)}" for key, inner in value.items())]
    return "\n".join(lines).encode()


def policy(**changes: Any) -> Policy:
    """Return what `toml()` describes, with other fields where they are given."""
    fields: dict[str, Any] = {
        "serial": 1,
        "lineage": "example",
        "link": "inner-outer",
        "models": {"strong": 10**12, "stronger": 2 * 10**12},
        "limit_bits": 8 * 10**9,
        "class_limits": {
            TrafficClass.MODEL: 8 * 10**9,
            TrafficClass.CONTROL: 4 * 10**8,
            TrafficClass.RESEND: 8 * 10**8,
            TrafficClass.TUNNEL: 0,
            TrafficClass.TIMING: 8 * 10**8,
        },
        "rate_bits_per_s": 10**6,
        "burst_bits": 8 * 64 * 1024,
        "lease_bits": 10**6,
        "min_days": 90,
        "slot_ns": 10**8,
        "epoch_slots": 600,
        "permit_ns": 10**9,
        "resends_max": 3,
        "token_ceiling_bits": 24,
        "signers": Quorum(2, tuple(PUBLIC[:3])),
        "witnesses": Quorum(1, (PUBLIC[3],)),
    }
    return Policy(**fields | changes)


def signed(document: Policy, *numbers: int) -> dict[bytes, bytes]:
    """Return the signatures of the keys with these numbers."""
    return {PUBLIC[number]: PRIVATE[number].sign(document.message()) for number in numbers}
