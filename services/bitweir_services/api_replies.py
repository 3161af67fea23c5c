"""Answers as OpenAI shapes them: whole, and as the chunks of a stream. Pure; one tally feeds usage, key and header.

The key `bitweir` is ours: what the answer cost on the wire. docs/reference/api.md describes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bitweir_compression.session.lane import Ending
from bitweir_services.questions import Done

WIRE_BITS_HEADER: Final = "bitweir-wire-bits"
FINISH_REASONS: Final[Mapping[Ending, str]] = {
    Ending.END: "stop",
    Ending.STOP: "stop",
    Ending.LENGTH: "length",
    Ending.DROPPED: "length",
}
"""Endings of an answer that came; the others are errors."""


@dataclass(frozen=True)
class Head:
    """What every document of one response begins with.

    Attributes:
        id: of the response.
        created: Unix time, s.
        model: name.
    """

    id: str
    created: int
    model: str

    def document(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return a document with this head."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, **fields}


class Shape(Protocol):
    """How one route writes its choices."""

    prefix: str
    """Of ids."""
    whole: str
    """`object` of a whole answer."""
    chunk: str
    """`object` of a chunk."""

    def choice(self, index: int, text: str, finish: str) -> dict[str, Any]:
        """Return a whole choice."""

    def delta(self, index: int, text: str, *, first: bool, finish: str | None = None) -> dict[str, Any]:
        """Return some more text of a choice, or its end."""


class ChatShape:
    """/v1/chat/completions."""

    prefix = "chatcmpl-"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def choice(self, index: int, text: str, finish: str) -> dict[str, Any]:
        """Return a whole choice."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def delta(self, index: int, text: str, *, first: bool, finish: str | None = None) -> dict[str, Any]:
        """Return some more text of a choice, or its end; the first says whose it is."""
        delta = {"role": "assistant", "content": text} if first else {"content": text} if finish is None else {}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


class CompletionShape:
    """/v1/completions."""

    prefix = "cmpl-"
    whole = chunk = "text_completion"

    def choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        """Return a whole choice."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    def delta(self, index: int, text: str, *, first: bool, finish: str | None = None) -> dict[str, Any]:
        """Return some more text of a choice, or its end."""
        del first
        return self.choice(index, text, finish)


@dataclass
class Tally:
    """What the answers to one request took, added up as they end.

    Attributes:
        prompt_tokens: of the prompt, which all choices share.
        completion_tokens: of all choices.
        wire_bits: of all choices.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    wire_bits: float = 0.0

    def add(self, done: Done) -> None:
        """Add a choice."""
        self.prompt_tokens = max(self.prompt_tokens, done.prompt_tokens)
        self.completion_tokens += done.completion_tokens
        self.wire_bits += done.wire_bits

    def usage(self) -> dict[str, int]:
        """Return OpenAI's usage."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def extension(self) -> dict[str, float | None]:
        """Return the value of the key `bitweir`."""
        per_token = self.wire_bits / self.completion_tokens if self.completion_tokens else None
        return {"wire_bits": self.wire_bits, "bits_per_token": per_token}
