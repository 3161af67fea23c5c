"""What the API asks of whoever answers, in text: plain data, and the protocol between the two.

Rules:
1. A question gets pieces of text and one `Done`, which is the last; or an error before the first piece.
2. Who stops reading gives the answer up: generation ends within a step.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.lane import Ending


@dataclass(frozen=True)
class Question:
    """One answer that somebody wants.

    Attributes:
        prompt: the text asked.
        sampling: how to draw.
        tokens_max: visible tokens at most; None for as many as fit.
        stop: strings that end the answer; they are not part of it.
        seed: the same seed, prompt and tenant give the same answer; None draws afresh.
        tenant: whose question it is; keys of two tenants have nothing in common.
        choice: which of several answers to one question; each has a key of its own.
        ignores_end: whether to go on after the end token, up to `tokens_max`.
    """

    prompt: str
    sampling: SamplingSpec = SamplingSpec()
    tokens_max: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tenant: str = ""
    choice: int = 0
    ignores_end: bool = False


@dataclass(frozen=True)
class Piece:
    """Some more text."""

    text: str


@dataclass(frozen=True)
class Done:
    """The end of an answer.

    Attributes:
        ending: why. `END` and `STOP` are a whole answer, `LENGTH` and `DROPPED` one that was cut at a limit; `LOST` is
            one that the link could not bring whole.
        prompt_tokens: of the prompt, as the weak model sees it.
        completion_tokens: visible tokens, the end token included.
        wire_bits: the answer's share, by tokens, of the frames that its tokens came in.
    """

    ending: Ending
    prompt_tokens: int
    completion_tokens: int
    wire_bits: float


class Answering(Protocol):
    """Whoever answers questions."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def open_count(self) -> int:
        """Answers that have not ended."""

    @property
    def is_up(self) -> bool:
        """Whether frames can come at this moment: the link is up and its budget not spent."""

    def ask(self, question: Question) -> AsyncGenerator[Piece | Done, None]:
        """Yield the answer.

        Raises:
            RequestError: the question cannot be served as written.
            BusyError: too many answers are open; try again.
            LinkDownError: no frame can come.
        """
