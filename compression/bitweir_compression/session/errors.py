"""Errors of a session, below the package's own base; see bitweir_compression/errors.py.

CompressionError (bitweir_compression.errors)
└── SessionError
    ├── EventError        an event, token or limit that does not fit the lane; the caller's mistake, nothing changed
    └── FrameError        a frame that cannot be decoded; nothing of it was shown or learnt
        └── StaleFrameError   a frame that was sent before the other end knew of a failure; drop it
"""

from typing import TYPE_CHECKING

from bitweir_compression.errors import CompressionError

if TYPE_CHECKING:
    from bitweir_compression.session.events import Refusal


class SessionError(CompressionError, Exception):
    """Base of the errors of this package."""


class EventError(SessionError):
    """An event, token or limit that does not fit the lane: the caller's mistake; nothing changed."""


class FrameError(SessionError):
    """A frame that cannot be decoded. None of its text was shown and nothing was learnt from it.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what to do.
        refusal: what the receiver sends down, so that the sender sends the frame again; with a `StaleFrameError` it
            says again what was said before, and how many frames were dropped since.
    """

    def __init__(self, message: str, *, remedy: str = "", refusal: "Refusal | None" = None) -> None:
        super().__init__(message, remedy=remedy)
        self.refusal = refusal


class StaleFrameError(FrameError):
    """A frame sent before the other end knew of a failure: drop it; what it held comes again."""
