"""Every error this package raises on purpose. Each says what is wrong and what to do next.

    MeteringError
    └── SizeError   a payload that no frame holds
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


class SizeError(MeteringError):
    """A payload that no frame holds."""
