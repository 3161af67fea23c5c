"""Every error this package raises on purpose. Each says what is wrong and what to do next.

ServicesError
├── RequestError    the request cannot be served as written: prompt too long, unknown option
│   └── BusyError      it could be served, but not now
├── LinkDownError   nothing can be served: the link is down or its budget spent
├── MessageError    bytes that are no message of the link
├── RecordError     a record of a lane that is damaged or incomplete
└── EngineError     the engine was driven out of order, or has no room
"""


class ServicesError(Exception):
    """Base of all errors of this package.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what the reader can do about it; may be empty.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class RequestError(ServicesError):
    """The request cannot be served as written; nothing was generated for it."""


class BusyError(RequestError):
    """Too many answers are open; nothing was generated for this one."""


class LinkDownError(ServicesError):
    """No frame can come: the link is down, or its budget is spent.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what the reader can do about it; may be empty.
        retry_s: when to try again; None where only people can help.
    """

    def __init__(self, message: str, *, remedy: str = "", retry_s: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_s = retry_s


class MessageError(ServicesError):
    """Bytes that are no message of the link: dropped, and counted."""


class RecordError(ServicesError):
    """A record of a lane that is damaged or incomplete; nothing of it was decoded."""


class EngineError(ServicesError):
    """The engine was driven out of order, or has no room; a defect of the caller."""
