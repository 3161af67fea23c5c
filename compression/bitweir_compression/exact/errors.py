"""Errors of the exact model, below the package's own base; see bitweir_compression/errors.py.

CompressionError (bitweir_compression.errors)
└── ExactError
    ├── ExactFormatError       a file that is not a sound exact.safetensors
    ├── ExactRangeError        a value left the range in which the arithmetic is exact
    ├── ExactConversionError   a Hugging Face model that cannot be turned into integers
    ├── ForbiddenOpError       an operation outside the allow-list, or operands that make it inexact
    ├── CertificateError       frozen vectors that cannot be used
    └── PredictorError         slots, prompts, tokens or temperatures a predictor cannot serve
        └── FingerprintError   two sides predict with different models
"""

from bitweir_compression.errors import CompressionError


class ExactError(CompressionError, Exception):
    """Base of the errors of this package."""


class ExactFormatError(ExactError):
    """A file that is damaged, of another version, over a limit, or whose numbers break a bound."""


class ExactRangeError(ExactError):
    """A value left the range in which the arithmetic is exact.

    Args:
        message: one line saying what is wrong.
        remedy: one line saying what to do.
        rows: the cache rows (a predictor's slots) that did; others of the same call can be run again without them.
    """

    def __init__(self, message: str, *, remedy: str = "", rows: tuple[int, ...] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.rows = rows


class ExactConversionError(ExactError):
    """A Hugging Face model of an architecture, window, size or weight range the exact model does not have."""


class ForbiddenOpError(ExactError):
    """An operation that is not on the allow-list, or whose operands make its result depend on the machine."""


class CertificateError(ExactError):
    """Frozen vectors that are malformed or belong to another file."""


class PredictorError(ExactError):
    """A slot, prompt, token or temperature a predictor cannot serve."""


class FingerprintError(PredictorError):
    """The two sides of a channel predict with different models."""
