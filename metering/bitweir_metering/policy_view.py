"""What a policy means, for people: its fields, its ratio to the weights, who signed it and what is missing. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bitweir_metering.errors import PolicyError
from bitweir_metering.policy import S_PER_DAY, Policy, Signatures, check_signed, valid_signatures
from bitweir_metering.units import BITS_PER_BYTE, NS_PER_S, format_bytes

# How many times smaller an attacker may make the weights before sending them.
COMPRESSIONS: Final = (1, 16, 100)


def document(policy: Policy, signatures: Signatures, before: Policy | None) -> dict[str, Any]:
    """Return everything about a policy for JSON. Ratios and days are floats for people, amounts are integers.

    Args:
        policy: the one to show.
        signatures: what came with it.
        before: the policy in force, if this one is to follow it.
    """
    valid = valid_signatures(policy.message(), signatures)
    judged_by = before or (policy if policy.serial == 1 else None)
    missing = _missing(policy, signatures, before)
    return {
        "digest": policy.digest().hex(),
        "policy": json.loads(policy.canonical()),
        "weights_bytes": policy.weights_bytes,
        "days_to_limit": policy.limit_bits / (policy.rate_bits_per_s * S_PER_DAY),
        "compressions": [_compressed(policy, compression) for compression in COMPRESSIONS],
        "signed_by": sorted(key.hex() for key in valid),
        "signatures_of_something_else": sorted(key.hex() for key in set(signatures) - set(valid)),
        "signers_that_count": None if judged_by is None else judged_by.signers.document(),
        "signed": not missing,
        "missing": missing,
    }


def lines(shown: Mapping[str, Any]) -> Iterator[str]:
    """Yield the document as lines of text."""
    fields = shown["policy"]
    yield f"policy {shown['digest']}"
    yield f"lineage {fields['lineage']}, link {fields['link']}, serial {fields['serial']}"
    for name, size_bytes in fields["models"].items():
        yield f"model {name}: {size_bytes:,} bytes of weights ({format_bytes(size_bytes)})"
    yield f"limit {_amount(fields['limit_bits'])}, a lease covers {_amount(fields['lease_bits'])}"
    for name, bits in fields["class_limits"].items():
        yield f"  at most {_amount(bits)} of class {name}"
    yield (
        f"rate {fields['rate_bits_per_s']:,} bit/s after a burst of {_amount(fields['burst_bits'])}: "
        f"the limit lasts {shown['days_to_limit']:.3g} days; min_days {fields['min_days']}"
    )
    yield (
        f"slots of {fields['slot_ns'] / NS_PER_S:g} s, {fields['epoch_slots']:,} an epoch; permits of "
        f"{fields['permit_ns'] / NS_PER_S:g} s; {fields['resends_max']} resends of a frame; "
        f"{fields['token_ceiling_bits']:,} bits a token"
    )
    yield f"{'weights made':<14}{'bytes':>26}{'limit / weights':>18}{'days at the rate':>18}"
    for row in shown["compressions"]:
        smaller = f"{row['compression']}x smaller"
        ratio, days = f"{row['limit_over_weights']:.3g}", f"{row['days_to_send']:.3g}"
        whole = "  within the limit" if row["limit_over_weights"] >= 1 else ""
        yield f"{smaller:<14}{row['weights_bytes']:>26,}{ratio:>18}{days:>18}{whole}"
    for name in ("signers", "witnesses"):
        yield f"{name}: {fields[name]['threshold']} of {len(fields[name]['keys'])}"
        yield from (f"  {key}" for key in fields[name]["keys"])
    yield from (f"signed by {key}" for key in shown["signed_by"])
    yield from (f"not of this policy: a signature of {key}" for key in shown["signatures_of_something_else"])
    yield from (f"missing: {text}" for text in shown["missing"])
    if not shown["missing"]:
        yield "signed by enough of those who must"


def _missing(policy: Policy, signatures: Signatures, before: Policy | None) -> list[str]:
    if before is None and policy.serial > 1:
        return [f"the policy of serial {policy.serial - 1}, whose signers must have signed this one: --before"]
    try:
        check_signed(policy, signatures, before)
    except PolicyError as error:
        return [str(error)]
    return []


def _compressed(policy: Policy, compression: int) -> dict[str, Any]:
    weights_bits = policy.weights_bytes * BITS_PER_BYTE
    return {
        "compression": compression,
        "weights_bytes": -(-policy.weights_bytes // compression),
        "limit_over_weights": policy.limit_bits * compression / weights_bits,
        "days_to_send": policy.days_to_send(compression),
    }


def _amount(bits: int) -> str:
    return f"{bits:,} bits ({format_bytes(bits // BITS_PER_BYTE)})"
