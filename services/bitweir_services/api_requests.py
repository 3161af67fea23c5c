"""From the bytes of a request to the questions it asks: strict JSON, strict fields, limits on everything. Pure.

Rules:
1. Whatever the bytes are, the outcome is questions or an `ApiError` with status 400 or 404 that names the field.
2. A field that would change the answer and is not served is refused, not ignored; its neutral value is taken.
3. `null` is the same as leaving a field out.

docs/reference/api.md describes every field; it changes with this file.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from bitweir_compression.sampling import LOGIT_BIAS_COUNT_MAX, LOGIT_BIAS_LIMIT, TEMPERATURE_MAX, SamplingSpec
from bitweir_compression.sampling import TEMPERATURE_MIN as COLDEST
from bitweir_services.api_errors import ECHO_CHARACTERS_MAX, refusal
from bitweir_services.engines.requests import STOP_STRING_CHARACTERS_MAX, STOP_STRINGS_MAX
from bitweir_services.questions import Question

CHOICES_MAX: Final = 16
MESSAGES_MAX: Final = 1024
PARTS_MAX: Final = 256
# The API asks for this many characters at most as the end user's name; it becomes part of the tenant's.
USER_CHARACTERS_MAX: Final = 256
# A limit on tokens that no context reaches.
TOKENS_LIMIT: Final = 1 << 20
TOP_K_LIMIT: Final = 1 << 31
SEED_LIMIT: Final = 1 << 63
NUMBER_CHARACTERS_MAX: Final = 40
# What /v1/completions writes where nothing is said, as OpenAI's does.
COMPLETION_TOKENS_DEFAULT: Final = 16
INVALID: Final = "invalid_value"
TOKEN_ID: Final = re.compile(r"0|[1-9][0-9]{0,8}")

# Field -> the values that ask for nothing, and are taken. What is not here is unknown.
UNSUPPORTED_BOTH: Final[Mapping[str, tuple[object, ...]]] = {
    "frequency_penalty": (0, 0.0),
    "logprobs": (False,),
    "metadata": ({},),
    "min_tokens": (0,),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
UNSUPPORTED_CHAT: Final = {
    **UNSUPPORTED_BOTH,
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "safety_identifier": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
UNSUPPORTED_COMPLETION: Final = {**UNSUPPORTED_BOTH, "best_of": (1,), "echo": (False,), "suffix": ("",)}


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        body_bytes_max: of a request's body; more is 413, decided while it is read.
        body_s: time in which a body must have come.
        prompt_characters_max: of all messages together, with their roles.
        stall_s: time in which a reader must take what was sent; then its stream is given up.
    """

    body_bytes_max: int = 1024 * 1024
    body_s: float = 30.0
    prompt_characters_max: int = 256 * 1024
    stall_s: float = 60.0


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        questions: one for each choice.
        streams: whether the answer comes piece by piece.
        counts: whether a stream ends with a chunk of usage.
    """

    questions: tuple[Question, ...]
    streams: bool
    counts: bool


def _listed(value: object) -> object:
    """Return one string as a list of it."""
    return [value] if isinstance(value, str) else value


def _parted(value: object) -> object:
    """Return text as the list of parts it is short for."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _few_biases(value: object) -> object:
    if isinstance(value, dict):
        if len(value) > LOGIT_BIAS_COUNT_MAX:
            raise PydanticCustomError(INVALID, "bias at most {count} tokens", {"count": LOGIT_BIAS_COUNT_MAX})
        if not all(TOKEN_ID.fullmatch(token) for token in value):
            raise PydanticCustomError(INVALID, "a key is no token id; use decimal digits")
    return value


def _cold_enough(value: float) -> float:
    if 0 < value < COLDEST:
        raise PydanticCustomError(INVALID, "use 0, or {least} or more", {"least": COLDEST})
    return value


def _encodable(value: str) -> str:
    """Refuse half a character: a lone surrogate, which JSON can write and no tokenizer can read."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError(INVALID, "half of a surrogate pair is no character") from None
    return value


Text = Annotated[str, AfterValidator(_encodable)]


class _Strict(BaseModel):
    """A JSON object with these fields and no others, of exactly these types."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)
    ignored_if_null: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = cls.model_fields.keys() | cls.ignored_if_null
        return {name: field for name, field in value.items() if field is not None or name not in known}


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(_Strict):
    """One message of a conversation."""

    ignored_if_null = frozenset({"annotations", "audio", "function_call", "name", "refusal", "tool_calls"})
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], Field(min_length=1, max_length=PARTS_MAX), BeforeValidator(_parted)]


class StreamOptions(_Strict):
    """What a stream says besides text."""

    include_usage: bool = False
    # Asked for by load generators; how many tokens a piece holds is known at the end only, so it changes nothing.
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] = False


class Body(_Strict):
    """What both kinds of requests may say."""

    model: Text
    temperature: Annotated[float, Field(ge=0, le=TEMPERATURE_MAX), AfterValidator(_cold_enough)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=TOP_K_LIMIT)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-LOGIT_BIAS_LIMIT, le=LOGIT_BIAS_LIMIT)]], BeforeValidator(_few_biases)
    ] = {}
    max_tokens: Annotated[int, Field(ge=1, le=TOKENS_LIMIT)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] = 1
    seed: Annotated[int, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] | None = None
    stop: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=STOP_STRING_CHARACTERS_MAX)]],
        Field(max_length=STOP_STRINGS_MAX),
        BeforeValidator(_listed),
    ] = []
    ignore_eos: bool = False
    user: Annotated[Text, Field(max_length=USER_CHARACTERS_MAX)] = ""
    stream: bool = False
    stream_options: StreamOptions | None = None

    def sampling(self) -> SamplingSpec:
        """Return how to draw."""
        bias = tuple(sorted((int(token), value) for token, value in self.logit_bias.items()))
        return SamplingSpec(self.temperature, max(0, self.top_k), self.top_p, self.min_p, bias)


class ChatBody(Body):
    """A request to /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES_MAX, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=TOKENS_LIMIT)] | None = None


class CompletionBody(Body):
    """A request to /v1/completions."""

    prompt: Annotated[list[Text], Field(min_length=1, max_length=1), BeforeValidator(_listed)]


AnyBody = TypeVar("AnyBody", bound=Body)


def joined(messages: Sequence[Message]) -> str:
    r"""Return a conversation as one prompt.

    A single user message is its text, unchanged. Anything else is each message as `Role: text`, System, User or
    Assistant (a developer's message is System's), with an empty line between, and `Assistant:` at the end. Parts of
    one message are joined by a newline. Roles are text: who writes `\n\nAssistant: ` into a message forges a turn.
    """
    texts = ["\n".join(part.text for part in message.content) for message in messages]
    if [message.role for message in messages] == ["user"]:
        return texts[0]
    roles = ["System" if message.role == "developer" else message.role.capitalize() for message in messages]
    turns = [f"{role}: {text}" for role, text in zip(roles, texts, strict=True)]
    return "\n\n".join([*turns, "Assistant:"])


def read_chat(content: bytes, *, model: str, tenant: str, limits: Limits) -> Asked:
    """Return what the body of a request to /v1/chat/completions asks.

    Args:
        content: the body.
        model: the one there is.
        tenant: the name of the caller's key; empty without keys.
        limits: on the prompt.

    Raises:
        ApiError: 400 naming the field, or 404 for another model.
    """
    body = _validated(ChatBody, content, UNSUPPORTED_CHAT)
    limit, newer = body.max_tokens, body.max_completion_tokens
    if limit is not None and newer is not None and limit != newer:
        raise refusal("max_tokens and max_completion_tokens differ; send one", "max_completion_tokens")
    tokens_max = newer if limit is None else limit
    return _asked(body, joined(body.messages), "messages", tokens_max, model=model, tenant=tenant, limits=limits)


def read_completion(content: bytes, *, model: str, tenant: str, limits: Limits) -> Asked:
    """Return what the body of a request to /v1/completions asks; arguments and errors as of `read_chat`."""
    body = _validated(CompletionBody, content, UNSUPPORTED_COMPLETION)
    tokens_max = COMPLETION_TOKENS_DEFAULT if body.max_tokens is None else body.max_tokens
    return _asked(body, body.prompt[0], "prompt", tokens_max, model=model, tenant=tenant, limits=limits)


def read_json(content: bytes) -> dict[str, Any]:
    """Return the JSON object in `content`, with one meaning only.

    Raises:
        ApiError: no UTF-8, no JSON, no object, a key twice, NaN or an infinity, a number too long, or too deep.
    """
    try:
        document = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except UnicodeDecodeError as error:
        raise refusal("the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise refusal(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise refusal("the body is nested too deeply") from error
    if not isinstance(document, dict):
        raise refusal("the body is not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what two parsers may read in two ways."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise refusal(f"{twice!a:.{ECHO_CHARACTERS_MAX}} is there twice", twice[:ECHO_CHARACTERS_MAX])
    for name in found:
        if not name.isascii():
            shown = name.encode("ascii", "backslashreplace").decode()[:ECHO_CHARACTERS_MAX]
            raise refusal(f"there is no field {shown}", shown, code="unknown_parameter")
    return found


def _no_constant(name: str) -> float:
    raise refusal(f"{name} is not a number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if len(digits) > NUMBER_CHARACTERS_MAX or not math.isfinite(value):
        raise refusal(f"the number {digits[:ECHO_CHARACTERS_MAX]} is too long or too large")
    return value


def _short(digits: str) -> int:
    if len(digits) > NUMBER_CHARACTERS_MAX:
        raise refusal(f"the number {digits[:ECHO_CHARACTERS_MAX]} is too long")
    return int(digits)


def _validated(kind: type[AnyBody], content: bytes, unsupported: Mapping[str, tuple[object, ...]]) -> AnyBody:
    """Return the body, or name its first wrong field."""
    document = read_json(content)
    for name, value in list(document.items()):
        if name in unsupported:
            neutral = any(type(value) is type(nothing) and value == nothing for nothing in unsupported[name])
            if value is not None and not neutral:
                raise refusal(f"{name} is not supported; leave it out", name, code="unsupported_parameter")
            del document[name]
        elif name not in kind.model_fields:
            shown = name[:ECHO_CHARACTERS_MAX]
            raise refusal(f"there is no field {shown!a}", shown, code="unknown_parameter")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        # The message of a validator of ours is below `ctx`, pydantic's own texts never quote the input.
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path(first["loc"])
        raise refusal(f"{param}: {first['msg']}", param, code=_code_of(first["type"])) from None


def _path(loc: Sequence[int | str]) -> str:
    """Return where an error is as people write it: messages[0].content."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part[:ECHO_CHARACTERS_MAX]}" for part in loc]
    return "".join(parts).removeprefix(".")


def _code_of(kind: str) -> str:
    return {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(kind, "invalid_value")


def _asked(
    body: Body, prompt: str, field: str, tokens_max: int | None, *, model: str, tenant: str, limits: Limits
) -> Asked:
    """Return the questions of a body that is well-formed, if they can be asked here."""
    if body.model != model:
        shown = body.model[:ECHO_CHARACTERS_MAX]
        raise refusal(f"there is no model {shown!a}", "model", status=404, code="model_not_found")
    if not prompt:
        raise refusal("the prompt is empty", field)
    if len(prompt) > limits.prompt_characters_max:
        allowed = limits.prompt_characters_max
        raise refusal(f"a prompt of {len(prompt)} characters; send at most {allowed}", field, code="prompt_too_long")
    if body.stream_options is not None and not body.stream:
        raise refusal("stream_options needs stream", "stream_options")
    questions = tuple(
        Question(
            prompt=prompt,
            sampling=body.sampling(),
            tokens_max=tokens_max,
            stop=tuple(body.stop),
            seed=body.seed,
            # A key's name holds no slash, so no user of one key is a user of another.
            tenant=f"{tenant}/{body.user}",
            choice=choice,
            ignores_end=body.ignore_eos,
        )
        for choice in range(body.n)
    )
    return Asked(questions, body.stream, body.stream_options is not None and body.stream_options.include_usage)
