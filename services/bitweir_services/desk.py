"""Questions in text become grants with keys, tokens become text again: implements `questions.Answering` over one lane.

Rules:
1. Outer tokenises and draws the keys. A seeded key is a function of master key, tenant, seed, prompt and choice;
   without a seed it is random. Two tenants' keys have nothing in common.
2. Text is shown when it can no longer change: not inside a character of several bytes, and not what may turn out to be
   the beginning of a stop string.
3. Nothing is granted that could not be answered: prompt and answer fit both models' contexts.
"""

import dataclasses
import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from bitweir_compression.exact.temperature import UNIT, Temperature
from bitweir_compression.models.chat import ChatTokenizer
from bitweir_compression.noise import KEY_BYTES
from bitweir_compression.session.events import CodecName, Grant
from bitweir_services.engines.requests import GenerationRequest
from bitweir_services.errors import BusyError, LinkDownError, RequestError
from bitweir_services.outer import Tokens
from bitweir_services.outer_site import OuterSite, Received
from bitweir_services.questions import Done, Piece, Question

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_PERSON: Final = b"bitweir seed v1"


@dataclass(frozen=True)
class DeskLimits:
    """What outer knows of the models and grants at most.

    Attributes:
        context_tokens: of the shorter context of the two models.
        hidden_tokens_max: reasoning tokens of one answer; their room in the strong model's context is kept free.
        tokens_max: visible tokens of one answer where a question names no limit, and at most.
        open_max: answers that may be open.
    """

    context_tokens: int
    hidden_tokens_max: int = 160
    tokens_max: int = 512
    open_max: int = 1000


class Desk:
    """See the rules of this file.

    Args:
        site: the lane's outer end.
        tokenizer: the one that both models share.
        limits: see there.
        model: name of the model.
        master: 32 bytes that seeded keys are derived from; secret from users.
        is_up: says whether the link is up; by default it is taken to be.
    """

    def __init__(
        self,
        site: OuterSite,
        tokenizer: ChatTokenizer,
        limits: DeskLimits,
        *,
        model: str,
        master: bytes,
        is_up: Callable[[], bool] = lambda: True,
    ) -> None:
        if len(master) != KEY_BYTES:
            raise RequestError(f"a master key of {len(master)} bytes", remedy=f"use {KEY_BYTES} random bytes")
        self._site = site
        self._tokenizer = tokenizer
        self._limits = limits
        self._model = model
        self._master = master
        self._is_up = is_up

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    @property
    def open_count(self) -> int:
        """Answers that have not ended."""
        return self._site.open_count

    @property
    def is_up(self) -> bool:
        """Whether frames can come at this moment."""
        return self._is_up()

    async def ask(self, question: Question) -> AsyncGenerator[Piece | Done, None]:
        """Yield the answer; see `questions.Answering.ask`."""
        grant, request = self.granted(question)
        if not self.is_up:
            raise LinkDownError("the link is down", remedy="look at the gate", retry_s=1)
        if self.open_count >= self._limits.open_max:
            raise BusyError(f"{self.open_count} answers are open", remedy="try again")
        received, text = Received(), TextShown(self._tokenizer, question.stop)
        async with aclosing(self._site.stream(grant, request, received)) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    if piece := text.more(event.tokens):
                        yield Piece(piece)
                    continue
                if piece := text.rest():
                    yield Piece(piece)
                yield Done(event.ending, len(grant.prompt), received.tokens, received.wire_bits)

    def granted(self, question: Question) -> tuple[Grant, GenerationRequest]:
        """Return what is granted and requested for a question.

        Raises:
            RequestError: it does not fit the models.
        """
        weak, strong = self._tokenizer.weak_prompt(question.prompt), self._tokenizer.strong_prompt(question.prompt)
        room = self._limits.context_tokens - len(strong) - self._limits.hidden_tokens_max - 1
        if room < 1:
            raise RequestError(
                f"a prompt of {len(weak)} tokens",
                remedy=f"at most {self._limits.context_tokens - self._limits.hidden_tokens_max - 4}",
            )
        wanted = self._limits.tokens_max if question.tokens_max is None else question.tokens_max
        if wanted < 1:
            raise RequestError(f"{wanted} tokens", remedy="ask for at least one")
        sampling, key = question.sampling, self._key(question)
        if question.ignores_end:
            sampling = dataclasses.replace(sampling, forbidden=(*sampling.forbidden, self._tokenizer.end))
        is_greedy = sampling.temperature == 0
        grant = Grant(
            tuple(weak),
            CodecName.GREEDY if is_greedy else CodecName.GUMBEL,
            key,
            UNIT if is_greedy else Temperature.of(sampling.temperature),
            min(wanted, self._limits.tokens_max, room),
            stop=question.stop,
        )
        request = GenerationRequest(
            tuple(strong), key, sampling, grant.tokens_max, self._limits.hidden_tokens_max, question.stop
        )
        return grant, request

    def _key(self, question: Question) -> bytes:
        if question.seed is None:
            return os.urandom(KEY_BYTES)
        parts = (question.tenant.encode(), str(question.seed).encode(), str(question.choice).encode())
        content = b"".join(len(one).to_bytes(8, "little") + one for one in (*parts, question.prompt.encode()))
        return hashlib.blake2b(content, digest_size=KEY_BYTES, key=self._master, person=_PERSON).digest()


class TextShown:
    """Turns tokens into text that can no longer change. One for each answer.

    Args:
        tokenizer: the one that wrote the tokens.
        stop: strings that end the answer and are not shown.
    """

    def __init__(self, tokenizer: ChatTokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._shown = 0

    def more(self, tokens: tuple[int, ...]) -> str:
        """Return the text that these tokens make certain."""
        self._ids += tokens
        text = self._text()
        is_stopped = any(stop in text for stop in self._stop)
        certain = self._cut(text) if is_stopped else text.rstrip(REPLACEMENT)
        if not is_stopped:
            certain = certain[: len(certain) - self._held(certain)]
        return self._next(certain)

    def rest(self) -> str:
        """Return what was held back, at the end of the answer."""
        return self._next(self._cut(self._text()))

    def _text(self) -> str:
        return self._tokenizer.decode(one for one in self._ids if one != self._tokenizer.end)

    def _cut(self, text: str) -> str:
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else text

    def _held(self, text: str) -> int:
        """Return how many last characters may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self._stop):
                return count
        return 0

    def _next(self, certain: str) -> str:
        piece = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        return piece
