"""What is asked of the scheduler and what it answers. Plain frozen data; nothing here runs."""

from dataclasses import dataclass
from enum import StrEnum

from bitweir_compression.noise import KEY_BYTES, NoiseStream
from bitweir_compression.sampling import SamplingSpec
from bitweir_services.errors import RequestError

# As in the OpenAI API.
STOP_STRINGS_MAX = 4
STOP_STRING_CHARACTERS_MAX = 256


class Finish(StrEnum):
    """Why a request ended."""

    END = "end"
    """The model wrote its end token."""
    STOP = "stop"
    """A stop string appeared in the visible text."""
    LENGTH = "length"
    """`visible_tokens_max` was reached, or the context is full."""
    CANCELLED = "cancelled"
    """The caller cancelled it."""
    FAILED = "failed"
    """No token could be chosen for it: the engine's logits were no numbers, or its own bias left no token."""


@dataclass(frozen=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        prompt: token ids, at least one; for a model that reasons they end with the token that opens reasoning.
        key: 32-byte noise key of the request.
        sampling: how to draw.
        visible_tokens_max: visible tokens at most, the end token included.
        hidden_tokens_max: reasoning tokens at most; at the limit the closing token is forced, not sampled.
        stop: strings that end the request when they appear in the visible text; they are not part of it.
        candidate: which candidate of best-of-N this is.
    """

    prompt: tuple[int, ...]
    key: bytes
    sampling: SamplingSpec = SamplingSpec()
    visible_tokens_max: int = 256
    hidden_tokens_max: int = 256
    stop: tuple[str, ...] = ()
    candidate: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise RequestError("the prompt is empty", remedy="send at least one token")
        if len(self.key) != KEY_BYTES:
            raise RequestError(f"noise key of {len(self.key)} bytes", remedy=f"use {KEY_BYTES} random bytes")
        if self.visible_tokens_max < 1 or self.hidden_tokens_max < 0:
            raise RequestError(
                f"limits of {self.visible_tokens_max} visible and {self.hidden_tokens_max} hidden tokens",
                remedy="allow at least 1 visible and 0 hidden tokens",
            )
        if len(self.stop) > STOP_STRINGS_MAX or not all(0 < len(s) <= STOP_STRING_CHARACTERS_MAX for s in self.stop):
            raise RequestError(
                f"stop strings {list(self.stop)!r:.80}",
                remedy=f"use up to {STOP_STRINGS_MAX} strings of 1 to {STOP_STRING_CHARACTERS_MAX} characters",
            )


@dataclass(frozen=True)
class TokenEvent:
    """A request got a token.

    Attributes:
        request: the number `submit` returned.
        token: its id.
        stream: hidden reasoning or visible text; the token that closes reasoning counts as hidden.
        forced: the scheduler put it there; it was not chosen.
    """

    request: int
    token: int
    stream: NoiseStream
    forced: bool = False


@dataclass(frozen=True)
class FinishEvent:
    """A request ended; no event of it follows.

    Attributes:
        request: the number `submit` returned.
        finish: why.
        hidden: reasoning tokens, the closing one included.
        visible: visible tokens, the end token included where one was written.
        text: the visible text, up to but without a stop string.
        error: what went wrong, for a request that failed.
    """

    request: int
    finish: Finish
    hidden: tuple[int, ...]
    visible: tuple[int, ...]
    text: str
    error: str = ""


Event = TokenEvent | FinishEvent
