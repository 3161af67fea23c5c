"""What outer says to an inner lane, as JSON: events of the session with what the strong model needs, and answers.

Rules:
1. Down is free, so the form is plain; it is strict all the same: unknown, missing and ill-typed fields are refused.
2. A message may come twice, late or never. Events are numbered by the session, answers are cumulative.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from bitweir_compression.errors import CompressionError
from bitweir_compression.exact.temperature import Temperature
from bitweir_compression.sampling import SamplingSpec
from bitweir_compression.session.events import Acknowledgement, Cancel, CodecName, Grant, Refusal, Restart
from bitweir_services.engines.requests import GenerationRequest
from bitweir_services.errors import MessageError, RequestError

BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True)
class Ask:
    """A grant, and what the strong model is to do for it."""

    grant: Grant
    request: GenerationRequest


@dataclass(frozen=True)
class Numbered:
    """An event with its number."""

    number: int
    event: Ask | Cancel | Restart


Message = Numbered | Acknowledgement | Refusal


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    return json.dumps(_document(message), separators=(",", ":")).encode()


def decode(content: bytes) -> Message:
    """Return the message that these bytes are.

    Raises:
        MessageError: they are none.
    """
    if len(content) > BYTES_MAX:
        raise MessageError(f"a message of {len(content)} bytes", remedy=f"at most {BYTES_MAX}")
    try:
        document = json.loads(content)
        return _message(_table(document, "the message"))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise MessageError(f"no message: {str(error)!r:.80}", remedy="run the same version on both sides") from error
    except (CompressionError, RequestError) as error:
        raise MessageError(f"no message: {error}", remedy=error.remedy) from error


def _document(message: Message) -> dict[str, Any]:
    if isinstance(message, Acknowledgement):
        return {"kind": "acknowledgement", **asdict(message), "state": message.state.hex()}
    if isinstance(message, Refusal):
        return {"kind": "refusal", **asdict(message)}
    event = message.event
    if isinstance(event, Cancel):
        return {"kind": "cancel", "number": message.number, "stream": event.stream}
    if isinstance(event, Restart):
        return {"kind": "restart", "number": message.number, "epoch": event.epoch, "state": event.state.hex()}
    grant, request = event.grant, event.request
    sampling = asdict(request.sampling)
    return {
        "kind": "grant",
        "number": message.number,
        "key": grant.key.hex(),
        "codec": grant.codec.value,
        "temperature": [grant.temperature.numerator, grant.temperature.denominator],
        "weak_prompt": grant.prompt,
        "tokens_max": grant.tokens_max,
        "candidate_count": grant.candidate_count,
        "strong_prompt": request.prompt,
        "hidden_tokens_max": request.hidden_tokens_max,
        "stop": grant.stop,
        "sampling": sampling,
    }


def _refused(text: str) -> MessageError:
    return MessageError(f"no message: {text}", remedy="run the same version on both sides")


def _message(document: dict[str, Any]) -> Message:
    kind = document.pop("kind")
    if kind == "acknowledgement":
        state = bytes.fromhex(document.pop("state"))
        return Acknowledgement(**_integers(document, "epoch", "frame_count"), state=state)
    if kind == "refusal":
        return Refusal(**_integers(document, "epoch", "frame_count", "failure_count", "dropped_count"))
    number = _integer(document.pop("number"))
    if kind == "cancel":
        return Numbered(number, Cancel(**_integers(document, "stream")))
    if kind == "restart":
        state = bytes.fromhex(document.pop("state"))
        return Numbered(number, Restart(**_integers(document, "epoch"), state=state))
    if kind != "grant":
        raise _refused(f"kind {kind!r:.20}")
    return Numbered(number, _ask(document))


def _ask(document: dict[str, Any]) -> Ask:
    key = bytes.fromhex(document.pop("key"))
    numerator, denominator = _list(document.pop("temperature"))
    stop = tuple(_text(one) for one in _list(document.pop("stop")))
    grant = Grant(
        _tokens(document.pop("weak_prompt")),
        CodecName(document.pop("codec")),
        key,
        Temperature(_integer(numerator), _integer(denominator)),
        _integer(document.pop("tokens_max")),
        _integer(document.pop("candidate_count")),
        stop,
    )
    request = GenerationRequest(
        prompt=_tokens(document.pop("strong_prompt")),
        key=key,
        sampling=_sampling(_table(document.pop("sampling"), "sampling")),
        visible_tokens_max=grant.tokens_max,
        hidden_tokens_max=_integer(document.pop("hidden_tokens_max")),
        stop=stop,
    )
    _check_empty(document)
    return Ask(grant, request)


def _sampling(document: dict[str, Any]) -> SamplingSpec:
    numbers = {name: _number(document.pop(name)) for name in ("temperature", "top_p", "min_p")}
    top_k = _integer(document.pop("top_k"))
    bias = tuple((_integer(token), _number(amount)) for token, amount in _list(document.pop("logit_bias")))
    forbidden = _tokens(document.pop("forbidden"))
    _check_empty(document)
    return SamplingSpec(**numbers, top_k=top_k, logit_bias=bias, forbidden=forbidden)


def _integers(document: Mapping[str, Any], *names: str) -> dict[str, int]:
    if set(document) != set(names):
        raise _refused(f"fields {sorted(document)!r:.60}")
    return {name: _integer(document[name]) for name in names}


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _refused(f"{value!r:.20} is no number")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise _refused(f"{value!r:.20} is no number")
    return float(value)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _refused(f"{value!r:.20} is no text")
    return value


def _tokens(value: object) -> tuple[int, ...]:
    return tuple(_integer(token) for token in _list(value))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise _refused(f"{value!r:.20} is no list")
    return value


def _table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(f"{name} is no object")
    return dict(value)


def _check_empty(document: Mapping[str, Any]) -> None:
    if document:
        raise _refused(f"unknown fields {sorted(document)!r:.60}")
