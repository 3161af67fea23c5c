"""How a tripped link is taken up again: a reset names trip and reason, and enough signers sign it. Pure.

Rules:
1. A reset is of one trip: the ledger's entry, by number and hash. It cannot be used for another one, or again.
2. One reset has one form, ASCII JSON without spaces; other bytes are none.
3. Whose signatures count, and how many must agree, the policy in force says.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Final

from bitweir_metering import documents
from bitweir_metering.errors import PolicyError
from bitweir_metering.policy import Policy, Signatures, valid_signatures
from bitweir_metering.units import amount

RESET_BYTES_MAX: Final = 1024
REASON: Final = re.compile(r"[ -~]{1,200}", re.ASCII)
_PREFIX: Final = b"bitweir reset v1\n"
_FIELDS: Final = frozenset({"lineage", "link", "sequence", "trip_hash", "reason"})


@dataclass(frozen=True)
class Reset:
    """Leave to take a link up again.

    Args:
        lineage: as in the policy.
        link: as in the policy.
        sequence: number of the ledger's TRIP entry.
        trip_hash: hash of that entry, hexadecimal.
        reason: why it may go on; 1 to 200 printable ASCII characters.

    Raises:
        PolicyError: a field is not what it must be.
        UnitError: the sequence is no amount.
    """

    lineage: str
    link: str
    sequence: int
    trip_hash: str
    reason: str

    def __post_init__(self) -> None:
        amount(self.sequence, "sequence")
        documents.hexadecimal(self.trip_hash, hashlib.sha256().digest_size, "trip_hash")
        if not isinstance(self.reason, str) or not REASON.fullmatch(self.reason):
            raise PolicyError(f"a reason {self.reason!r:.40}", remedy="1 to 200 printable ASCII characters")
        if not isinstance(self.lineage, str) or not isinstance(self.link, str):
            raise PolicyError("lineage and link are texts", remedy="copy them from the policy")

    def canonical(self) -> bytes:
        """Return its only form as bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def message(self) -> bytes:
        """Return what is signed: a line that no other kind of message starts with, then the canonical form."""
        return _PREFIX + self.canonical()


def parse(content: bytes) -> Reset:
    """Return the reset that these bytes are.

    Raises:
        PolicyError: they are not the canonical form of one.
        UnitError: the sequence is no amount.
    """
    document = documents.json_table(content, RESET_BYTES_MAX)
    documents.check_fields(document, _FIELDS, "the reset")
    reset = Reset(**document)
    if reset.canonical() != content:
        raise PolicyError("a reset that is not in its canonical form", remedy="make it with: bitweir gate propose")
    return reset


def check_signed(reset: Reset, signatures: Signatures, policy: Policy) -> None:
    """Refuse a reset of another link, or one that too few of the policy's signers have signed.

    Raises:
        PolicyError: it is.
    """
    if (reset.lineage, reset.link) != (policy.lineage, policy.link):
        raise PolicyError(f"a reset of {reset.lineage}, {reset.link}", remedy=f"not of {policy.lineage}, {policy.link}")
    valid_count = len(set(policy.signers.keys) & set(valid_signatures(reset.message(), signatures)))
    if valid_count < policy.signers.threshold:
        raise PolicyError(
            f"{valid_count} valid signatures of the {policy.signers.threshold} that a reset needs",
            remedy="have it signed: bitweir gate sign",
        )
