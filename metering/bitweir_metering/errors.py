"""Every error this package raises on purpose. Each says what is wrong and what to do next.

MeteringError
├── UnitError      a number that is no amount, a text that is no size or rate
├── SizeError      a payload that no frame holds
└── FormError      bytes that are not a canonical frame
"""


class MeteringError(Exception):
    """Base of all errors of this package.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what the reader can do about it; may be empty.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UnitError(MeteringError):
    """A number that is no amount of bits or bytes, or a text that is no size or rate."""


class SizeError(MeteringError):
    """A payload that no frame holds."""


class FormError(MeteringError):
    """Bytes that are not a canonical frame: dropped, and counted as damage."""
