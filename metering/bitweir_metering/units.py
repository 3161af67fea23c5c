"""Bits and bytes as exact integers, and how people write them. No float ever holds an amount.

Rules:
1. An amount is an `int` and nothing that compares like one: True is not 1 bit, 1.0 is not a bit, -1 is refused.
2. Amounts stay below 2**62, so that sums of two fit a signed 64-bit column.
3. "2 TB" is decimal, "2 TiB" is binary, "10 Mbit/s" is bits; a text that does not come to a whole number is refused.
"""

import re
from fractions import Fraction
from typing import Final

from bitweir_metering.errors import UnitError

AMOUNT_LIMIT: Final = 1 << 62
BITS_PER_BYTE: Final = 8
NS_PER_S: Final = 1_000_000_000
NS_PER_DAY: Final = 86_400 * NS_PER_S

_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}
_TEXT = re.compile(r"(\d{1,19}(?:\.\d{1,9})?) ?(k|Ki|[MGTP]i?)?(B|bit|bit/s|B/s)", re.ASCII)


def amount(value: object, name: str) -> int:
    """Return the value if it is an amount.

    Args:
        value: anything, from a file, a socket or a caller.
        name: what it is, for the message.

    Raises:
        UnitError: it is not an `int`, is negative, or is 2**62 or more.
    """
    if type(value) is not int or not 0 <= value < AMOUNT_LIMIT:
        # Python does not print integers of thousands of digits.
        shown = "a very large number" if type(value) is int and value.bit_length() > 10_000 else f"{value!r:.40}"
        raise UnitError(f"{name} is {shown}, not an integer from 0 to 2**62 - 1", remedy="give a whole number")
    return value


def positive(value: object, name: str) -> int:
    """Return the value if it is an amount above 0; see `amount`."""
    if amount(value, name) == 0:
        raise UnitError(f"{name} is 0", remedy="give a whole number above 0")
    return int(value)  # type: ignore[call-overload, no-any-return]


def parse_bytes(text: str) -> int:
    """Return the bytes of "500 GB", "1.5 TiB" or "800 bit".

    Raises:
        UnitError: not a size, or not a whole number of bytes.
    """
    bits, kind = _parse(text)
    if kind not in ("B", "bit"):
        raise UnitError(f"{text!r:.40} is a rate, not a size", remedy="write it like 500 GB")
    if bits % BITS_PER_BYTE:
        raise UnitError(f"{text!r:.40} is no whole number of bytes", remedy="write it like 500 GB")
    return bits // BITS_PER_BYTE


def parse_rate(text: str) -> int:
    """Return the bits a second of "10 Mbit/s" or "125 kB/s".

    Raises:
        UnitError: not a rate, or not a whole number of bits a second.
    """
    bits, kind = _parse(text)
    if kind not in ("bit/s", "B/s"):
        raise UnitError(f"{text!r:.40} is not a rate", remedy="write it like 10 Mbit/s")
    return bits


def format_bytes(count: int) -> str:
    """Return a size for people, three digits: "2.50 TB". For amounts that matter print the integer beside it."""
    for prefix in ("P", "T", "G", "M", "k"):
        unit = _DECIMAL[prefix]
        if count >= unit:
            return f"{Fraction(count, unit).__float__():.3g} {prefix}B"
    return f"{count} B"


def _parse(text: str) -> tuple[int, str]:
    """Return bits and the unit's kind."""
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise UnitError(f"{text!r:.40} is not a size or a rate", remedy="write it like 500 GB, 2 TiB or 10 Mbit/s")
    number, prefix, kind = found.group(1), found.group(2) or "", found.group(3)
    scale = _BINARY[prefix] if prefix in _BINARY else _DECIMAL[prefix]
    bits = Fraction(number) * scale * (BITS_PER_BYTE if kind.startswith("B") else 1)
    if bits.denominator != 1 or bits >= AMOUNT_LIMIT:
        raise UnitError(f"{text!r:.40} is no whole number of bits below 2**62", remedy="write it like 500 GB")
    return int(bits), kind
