"""Every error this package raises on purpose. Each says what is wrong and what to do next.

LoadgenError
├── RunFolderError    a run folder that cannot be written, read or resumed
└── DemoError         the demonstration run did not show what it is for
"""


class LoadgenError(Exception):
    """Base of all errors of this package.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what the reader can do about it; may be empty.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class RunFolderError(LoadgenError):
    """A run folder that cannot be written, read or resumed."""


class DemoError(LoadgenError):
    """The demonstration run did not show what it is for: nothing was sent, or something else was decoded."""
