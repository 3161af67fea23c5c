"""Every error this package raises on purpose. Each says what is wrong and what to do next.

    CompressionError
    ├── NoiseError        a key, position or vocabulary size the noise cannot be derived for
    ├── SamplingError     a sampling specification nobody can sample from
    ├── CorpusError       a corpus, family or text file that cannot be used
    ├── CoderError        weights, symbols or bits the entropy coder cannot code
    └── CheckpointError   a model folder that is missing, incomplete or not the one expected

A bare `ValueError` leaving this package is a defect.
"""


class CompressionError(Exception):
    """Base of all errors of this package.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what the reader can do about it; may be empty.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class NoiseError(CompressionError):
    """A key, candidate, position or vocabulary size outside the range the noise is defined for."""


class SamplingError(CompressionError):
    """A sampling specification nobody can sample from."""


class CorpusError(CompressionError):
    """A corpus, family or text file that cannot be used."""


class CoderError(CompressionError):
    """Weights, symbols or bits that the entropy coder cannot code; nothing was coded."""


class CheckpointError(CompressionError):
    """A model folder that is missing, incomplete or not the one expected."""
