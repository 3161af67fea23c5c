"""What a link may do in its whole life, and who must have signed that. Pure but for `read`.

    POLICY.toml --parse--> Policy --message--> signed by k of n --check_signed--> a ledger starts with it or takes it

Rules:
1. Exact integers in bits, bytes and nanoseconds; no float, no default but that of `lease`.
2. A `Policy` that exists is sound: every field is in range and the fields fit each other.
3. One policy has one canonical form, one digest, one message; key order and spelling of sizes do not change them.
4. The first policy of a lineage is signed by its own signers, every later one by those of the policy before it.

docs/reference/policy.md describes the file; it changes with this one.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from bitweir_metering import documents, sizes
from bitweir_metering.errors import PolicyError, UnitError
from bitweir_metering.frame import TrafficClass
from bitweir_metering.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, is_public_key, verify
from bitweir_metering.units import BITS_PER_BYTE, NS_PER_S, amount, parse_bytes, parse_rate, positive

Value = TypeVar("Value")
Signatures = Mapping[bytes, bytes]
"""Public key of 32 bytes -> its signature of a policy's message, 64 bytes."""

# What could grow, and why it may not.
KEYS_MAX: Final = 16  # people who can be asked
MODELS_MAX: Final = 64  # models behind one link
RESENDS_MAX: Final = 255  # of one frame
PERMIT_NS_MAX: Final = 10 * NS_PER_S  # a longer permit would be no permit: the link stays up without reconciliation
POLICY_BYTES_MAX: Final = 32 * 1024  # a ledger entry holds policy and signatures
SIGNATURES_BYTES_MAX: Final = 16 * 1024
SIGNATURES_MAX: Final = 2 * KEYS_MAX  # people of this policy and of the one before
# A frame of the largest size class on the wire: burst and lease must hold one, or it could never leave.
FRAME_BITS_MAX: Final = BITS_PER_BYTE * sizes.wire_bytes(BITS_PER_BYTE * sizes.SIZE_CLASSES[-1] - 1)
LEASE_BITS_DEFAULT_MIN: Final = BITS_PER_BYTE * 64 * 1024
NS_PER_MS: Final = NS_PER_S // 1000
S_PER_DAY: Final = 86_400

CLASS_NAMES: Final[Mapping[TrafficClass, str]] = MappingProxyType({kind: kind.name.lower() for kind in TrafficClass})
_FORMAT: Final = "bitweir-policy 1"
_PREFIX: Final = b"bitweir policy v1\n"
_NAME: Final = re.compile(r"[a-z0-9.-]{1,64}", re.ASCII)
_SHARE: Final = re.compile(r"([1-9]\d{0,17})/([1-9]\d{0,17}) of weights", re.ASCII)
_NAMES: Final = ("lineage", "link")
_ABOVE_ZERO: Final = (
    "serial",
    "limit_bits",
    "rate_bits_per_s",
    "burst_bits",
    "lease_bits",
    "slot_ns",
    "epoch_slots",
    "permit_ns",
    "token_ceiling_bits",
)
_FROM_ZERO: Final = ("min_days", "resends_max")
_TABLES: Final = ("class_limits", "models", "signers", "witnesses")
_INTEGERS: Final = ("serial", "min_days", "epoch_slots", "resends_max", "token_ceiling_bits")
_TOML: Final = frozenset({*_NAMES, *_TABLES, *_INTEGERS, "limit", "rate", "burst", "slot_ms", "permit_ms"})
_CANONICAL: Final = frozenset({*_NAMES, *_TABLES, *_ABOVE_ZERO, *_FROM_ZERO, "format"})


@dataclass(frozen=True)
class Quorum:
    """`threshold` of these Ed25519 public keys must agree. Keys are kept sorted: their order says nothing.

    Args:
        threshold: from 1 to the number of keys.
        keys: 1 to 16 distinct keys of 32 bytes.

    Raises:
        PolicyError: not such keys, or the threshold does not fit them.
        UnitError: the threshold is no number above 0.
    """

    threshold: int
    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        keys = tuple(self.keys)
        if not all(map(is_public_key, keys)):
            raise PolicyError("a key is no Ed25519 public key", remedy="use what bitweir keys new prints")
        if not positive(self.threshold, "threshold") <= len(set(keys)) == len(keys) <= KEYS_MAX:
            raise PolicyError(
                f"{self.threshold} of {len(keys)} keys, {len(set(keys))} of them distinct",
                remedy=f"name 1 to {KEYS_MAX} distinct keys and a threshold they can reach",
            )
        object.__setattr__(self, "keys", tuple(sorted(keys)))

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"keys": [key.hex() for key in self.keys], "threshold": self.threshold}


@dataclass(frozen=True)
class Policy:
    """What one link may do over the life of one lineage of models.

    Args:
        serial: 1 for the first policy of a lineage, then one more each time.
        lineage: the models' line of descent. Successors share it, and with it the budget.
        link: which boundary, for example "inner-outer".
        models: the models behind the link, name -> bytes of its weights.
        limit_bits: wire bits that may ever leave, all classes together.
        class_limits: wire bits that may ever leave in each class, none above `limit_bits`.
        rate_bits_per_s: inflow of the token bucket.
        burst_bits: its size.
        lease_bits: how much one durable reservation covers; a crash wastes at most as much.
        min_days: the weights of the smallest model must take at least so long at this rate; 0 promises nothing.
        slot_ns: frames leave on multiples of this.
        epoch_slots: slots whose timing is charged at once, one bit each.
        permit_ns: how long a permit holds the link up, at most 10 s.
        resends_max: how often one frame may be sent again.
        token_ceiling_bits: bits of model output that one granted token may take.
        signers: who must sign the next policy, and this one if it is the first.
        witnesses: who must cosign the ledger.

    Raises:
        PolicyError: a field is out of range, or fields do not fit each other.
        UnitError: a number is no amount.
    """

    serial: int
    lineage: str
    link: str
    models: Mapping[str, int]
    limit_bits: int
    class_limits: Mapping[TrafficClass, int]
    rate_bits_per_s: int
    burst_bits: int
    lease_bits: int
    min_days: int
    slot_ns: int
    epoch_slots: int
    permit_ns: int
    resends_max: int
    token_ceiling_bits: int
    signers: Quorum
    witnesses: Quorum

    def __post_init__(self) -> None:
        for name in _NAMES:
            _check_name(getattr(self, name), name)
        if not 1 <= len(self.models) <= MODELS_MAX:
            raise PolicyError(f"{len(self.models)} models", remedy=f"name 1 to {MODELS_MAX} in [models]")
        for name, weights_bytes in self.models.items():
            _check_name(name, "a model")
            amount(positive(weights_bytes, f"models.{name}") * BITS_PER_BYTE, f"models.{name} in bits")
        for name in _ABOVE_ZERO:
            positive(getattr(self, name), name)
        for name in _FROM_ZERO:
            amount(getattr(self, name), name)
        if set(self.class_limits) != set(TrafficClass):
            raise PolicyError("class_limits of other classes", remedy=f"name {', '.join(CLASS_NAMES.values())}")
        for kind, bits in self.class_limits.items():
            amount(bits, f"class_limits.{CLASS_NAMES[kind]}")
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))
        object.__setattr__(self, "class_limits", MappingProxyType(dict(self.class_limits)))
        self._check_fit()

    @property
    def weights_bytes(self) -> int:
        """Bytes of the smallest model's weights: the first that would be out."""
        return min(self.models.values())

    def days_to_send(self, compression: int = 1) -> float:
        """Return the days that the smallest model's weights, made `compression` times smaller, take at the rate.

        The burst goes first and takes no time. For people; decisions compare integers.
        """
        bits = max(0, self.weights_bytes * BITS_PER_BYTE - compression * self.burst_bits)
        return bits / (compression * self.rate_bits_per_s * S_PER_DAY)

    def canonical(self) -> bytes:
        """Return the policy's only form as bytes: ASCII JSON, keys sorted, no spaces, integers and strings only."""
        document = {name: getattr(self, name) for name in (*_NAMES, *_ABOVE_ZERO, *_FROM_ZERO)}
        document |= {
            "class_limits": {CLASS_NAMES[kind]: bits for kind, bits in self.class_limits.items()},
            "format": _FORMAT,
            "models": dict(self.models),
            "signers": self.signers.document(),
            "witnesses": self.witnesses.document(),
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def digest(self) -> bytes:
        """Return SHA-256 of the canonical form: how people and records name this policy."""
        return hashlib.sha256(self.canonical()).digest()

    def message(self) -> bytes:
        """Return what is signed: a line that no other kind of message starts with, then the canonical form."""
        return _PREFIX + self.canonical()

    def _check_fit(self) -> None:
        """Refuse fields that are in range alone and wrong together."""
        for kind, bits in self.class_limits.items():
            if bits > self.limit_bits:
                raise PolicyError(
                    f"class_limits.{CLASS_NAMES[kind]} is {bits} bits, above the limit of {self.limit_bits}",
                    remedy="no class may send more than all of them",
                )
        if self.lease_bits > self.limit_bits:
            raise PolicyError(
                f"a lease of {self.lease_bits} bits, above the limit of {self.limit_bits}",
                remedy="set lease to a small part of the limit",
            )
        for name in ("burst_bits", "lease_bits"):
            if getattr(self, name) < FRAME_BITS_MAX:
                raise PolicyError(
                    f"{name} is {getattr(self, name)}, below one frame of the largest size class",
                    remedy=f"give at least {FRAME_BITS_MAX // BITS_PER_BYTE} B",
                )
        if self.epoch_slots > self.class_limits[TrafficClass.TIMING]:
            raise PolicyError(
                f"an epoch charges {self.epoch_slots} bits of timing, class_limits.timing is "
                f"{self.class_limits[TrafficClass.TIMING]}",
                remedy="the link could not open once: raise class_limits.timing or lower epoch_slots",
            )
        if 2 * self.witnesses.threshold <= len(self.witnesses.keys):
            raise PolicyError(
                f"{self.witnesses.threshold} of {len(self.witnesses.keys)} witnesses",
                remedy="ask for more than half: two groups of them could otherwise remember two ledgers",
            )
        if self.permit_ns > PERMIT_NS_MAX:
            raise PolicyError(f"a permit of {self.permit_ns} ns", remedy=f"at most {PERMIT_NS_MAX} ns; 1 s is usual")
        if self.resends_max > RESENDS_MAX:
            raise PolicyError(f"{self.resends_max} resends of one frame", remedy=f"at most {RESENDS_MAX}")
        most_bits = self.rate_bits_per_s * self.min_days * S_PER_DAY + self.burst_bits
        if self.weights_bytes * BITS_PER_BYTE < most_bits:
            raise PolicyError(
                f"{self.weights_bytes} bytes of weights take {self.days_to_send():.3g} days at "
                f"{self.rate_bits_per_s} bit/s after a burst of {self.burst_bits} bits; min_days is {self.min_days}",
                remedy="lower rate or burst; only lower min_days if the limit alone is to hold the weights",
            )


def parse(content: bytes) -> Policy:
    """Return the policy that a TOML file, or a policy's canonical form, describes.

    Raises:
        PolicyError: not such a file; a field is missing, unknown or out of range; fields do not fit each other.
        UnitError: a number is no amount.
    """
    if content.startswith(b"{"):  # which no TOML file does
        return _parse_canonical(content)
    document = documents.toml_table(content, POLICY_BYTES_MAX)
    documents.check_fields(document, _TOML, "the policy", optional=frozenset({"lease"}))
    tables = _tables(document)
    models = {name: _field(f"models.{name}", _weights_bytes, value) for name, value in tables["models"].items()}
    smallest_bytes = min(models.values(), default=0)
    rate_bits_per_s = _field("rate", parse_rate, document["rate"])
    lease_bits = max(rate_bits_per_s, LEASE_BITS_DEFAULT_MIN)
    if "lease" in document:
        lease_bits = _field("lease", _size_bits, document["lease"])
    return Policy(
        **{name: document[name] for name in (*_NAMES, *_INTEGERS)},
        models=models,
        limit_bits=_field("limit", lambda text: _limit_bits(text, smallest_bytes), document["limit"]),
        class_limits={
            kind: _field(f"class_limits.{name}", _size_bits, tables["class_limits"][name])
            for kind, name in CLASS_NAMES.items()
        },
        rate_bits_per_s=rate_bits_per_s,
        burst_bits=_field("burst", _size_bits, document["burst"]),
        lease_bits=lease_bits,
        slot_ns=positive(document["slot_ms"], "slot_ms") * NS_PER_MS,
        permit_ns=positive(document["permit_ms"], "permit_ms") * NS_PER_MS,
        signers=_quorum(tables["signers"], "signers"),
        witnesses=_quorum(tables["witnesses"], "witnesses"),
    )


def read(path: Path) -> tuple[Policy, Signatures]:
    """Read a policy and the signatures beside it; a policy without a signature file has none.

    Raises:
        PolicyError: a file that cannot be read or is not what it should be; see `parse` and `parse_signatures`.
        UnitError: a number is no amount.
    """
    policy = parse(documents.read_content(path, POLICY_BYTES_MAX))
    beside = signatures_path(path)
    if not beside.exists():
        return policy, {}
    return policy, parse_signatures(documents.read_content(beside, SIGNATURES_BYTES_MAX))


def signatures_path(path: Path) -> Path:
    """Return where the signatures of this policy file lie: beside it, `.signatures` after its name."""
    return path.with_name(path.name + ".signatures")


def parse_signatures(content: bytes) -> Signatures:
    """Return what `format_signatures` wrote: public key -> signature. Nothing is verified here.

    Raises:
        PolicyError: not such a file.
    """
    document = documents.json_table(content, SIGNATURES_BYTES_MAX)
    documents.check_fields(document, frozenset({"signatures"}), "the signature file")
    pairs = documents.table(document["signatures"], "signatures")
    _check_count(pairs)
    return {
        documents.hexadecimal(key, PUBLIC_KEY_BYTES, "a key"): documents.hexadecimal(
            signature, SIGNATURE_BYTES, "a signature"
        )
        for key, signature in pairs.items()
    }


def format_signatures(signatures: Signatures) -> bytes:
    """Return the signature file: JSON, keys and signatures in hexadecimal, keys sorted.

    Raises:
        PolicyError: more signatures than `parse_signatures` reads.
    """
    _check_count(signatures)
    pairs = {key.hex(): signature.hex() for key, signature in signatures.items()}
    return (json.dumps({"signatures": pairs}, indent=1, sort_keys=True) + "\n").encode("ascii")


def valid_signatures(message: bytes, signatures: Signatures) -> Signatures:
    """Return the signatures that are valid and of this message, whoever made them."""
    return {key: signature for key, signature in signatures.items() if verify(key, signature, message)}


def check_signed(policy: Policy, signatures: Signatures, before: Policy | None) -> None:
    """Refuse a policy that is not the next one, or that too few have signed.

    Args:
        policy: the new one.
        signatures: what came with it.
        before: the policy in force, whose signers must agree; None for the first one, which its own signers sign.

    Raises:
        PolicyError: another serial, lineage or link than the next one must have, or too few valid signatures.
    """
    expected = 1 if before is None else before.serial + 1
    if policy.serial != expected:
        raise PolicyError(f"policy serial {policy.serial}, expected {expected}", remedy=f"set serial = {expected}")
    if before is not None and (policy.lineage, policy.link) != (before.lineage, before.link):
        raise PolicyError(
            f"a policy of lineage {policy.lineage}, link {policy.link}, expected {before.lineage}, {before.link}",
            remedy="another lineage or link starts its own ledger",
        )
    quorum = (policy if before is None else before).signers
    valid_count = len(set(quorum.keys) & set(valid_signatures(policy.message(), signatures)))
    if valid_count < quorum.threshold:
        raise PolicyError(
            f"{valid_count} valid signatures of the {quorum.threshold} that policy serial {policy.serial} needs",
            remedy="have it signed: bitweir policy sign",
        )


def _parse_canonical(content: bytes) -> Policy:
    """Return the policy; anything but the exact bytes of `canonical` is refused."""
    document = documents.json_table(content, POLICY_BYTES_MAX)
    documents.check_fields(document, _CANONICAL, "the policy")
    tables = _tables(document)
    policy = Policy(
        **{name: document[name] for name in (*_NAMES, *_ABOVE_ZERO, *_FROM_ZERO)},
        models=tables["models"],
        class_limits={kind: tables["class_limits"][name] for kind, name in CLASS_NAMES.items()},
        signers=_quorum(tables["signers"], "signers"),
        witnesses=_quorum(tables["witnesses"], "witnesses"),
    )
    if policy.canonical() != content:
        raise PolicyError("a policy in JSON that is not its canonical form", remedy="write policies in TOML")
    return policy


def _tables(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tables = {name: documents.table(document[name], name) for name in _TABLES}
    documents.check_fields(tables["class_limits"], frozenset(CLASS_NAMES.values()), "[class_limits]")
    return tables


def _check_count(signatures: Collection[Any]) -> None:
    if len(signatures) > SIGNATURES_MAX:
        raise PolicyError(f"{len(signatures)} signatures", remedy=f"at most {SIGNATURES_MAX}")


def _check_name(value: object, field: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise PolicyError(f"{field} is named {value!r:.40}", remedy="1 to 64 of a to z, 0 to 9, dot and hyphen")


def _field(name: str, reader: Callable[[Any], Value], value: Any) -> Value:
    """Read one value of the file; an error names the field."""
    try:
        return reader(value)
    except UnitError as error:
        raise PolicyError(f"{name}: {error}", remedy=error.remedy) from error


def _size_bits(text: Any) -> int:
    return parse_bytes(text) * BITS_PER_BYTE


def _weights_bytes(value: Any) -> int:
    return value if type(value) is int else parse_bytes(value)


def _limit_bits(text: Any, weights_bytes: int) -> int:
    """Return the bits of "500 GB", or of "1/1000 of weights" rounded down."""
    share = _SHARE.fullmatch(text) if isinstance(text, str) else None
    if share is None:
        return _size_bits(text)
    return BITS_PER_BYTE * weights_bytes * int(share.group(1)) // int(share.group(2))


def _quorum(table: Mapping[str, Any], name: str) -> Quorum:
    documents.check_fields(table, frozenset({"threshold", "keys"}), f"[{name}]")
    if not isinstance(table["keys"], list):
        raise PolicyError(f"{name}.keys is no list", remedy="a list of public keys in hexadecimal")
    keys = [documents.hexadecimal(key, PUBLIC_KEY_BYTES, f"a key of {name}") for key in table["keys"]]
    return Quorum(table["threshold"], tuple(keys))
