"""Every error this package raises on purpose. Each says what is wrong and what to do next.

ServicesError
├── RequestError    the request cannot be served as written: prompt too long, unknown option
│   ├── BusyError      it could be served, but not now
│   └── ApiError       it was refused over HTTP, with a status
├── ApiKeysError    the API must not start: its keys cannot be used, or it has none and would need them
├── LinkDownError   nothing can be served: the link is down or its budget spent
├── TopologyError   a process of a topology that does not start, or has ended
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


class ApiError(RequestError):
    """The API answers a request with an error, in OpenAI's shape.

    Args:
        message: one line for the client: what is wrong and what to do.
        status: of HTTP, 400 to 599.
        param: the field that is wrong, as a path; None where it is none.
        code: for programs; may be None.
        retry_s: when to try again; None where that does not help or is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        param: str | None = None,
        code: str | None = None,
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_s = retry_s


class ApiKeysError(ServicesError):
    """The API must not start: its file of keys cannot be used, or it has none and would need one."""


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


class TopologyError(ServicesError):
    """A process of a topology does not start, or has ended."""


class MessageError(ServicesError):
    """Bytes that are no message of the link: dropped, and counted."""


class RecordError(ServicesError):
    """A record of a lane that is damaged or incomplete; nothing of it was decoded."""


class EngineError(ServicesError):
    """The engine was driven out of order, or has no room; a defect of the caller."""
