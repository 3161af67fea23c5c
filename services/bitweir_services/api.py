"""An OpenAI-compatible HTTP API over whoever answers questions. docs/reference/api.md describes it.

Rules:
1. Every response that is no answer is an error in OpenAI's shape; a 500 says nothing of what happened.
2. Nothing of a prompt, an answer or a key is logged: of an unexpected error its class and place, never its words.
3. Who is not let in has nothing of theirs read: keys, rate, type and size come before the body's content.
4. Without keys there are only callers on this machine; a page in their browser is none (it sends `Origin`).
"""

import asyncio
import logging
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Protocol

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitweir_services.api_answers import AnswerResponse, send_whole
from bitweir_services.api_errors import api_error, body_of, headers_of, json_bytes, refusal
from bitweir_services.api_keys import ApiKeys, RateLimit
from bitweir_services.api_metrics import ApiMetrics
from bitweir_services.api_replies import ChatShape, CompletionShape, Head, Shape
from bitweir_services.api_requests import Asked, Limits, read_chat, read_completion
from bitweir_services.errors import ApiError
from bitweir_services.questions import Answering

LOG: Final = logging.getLogger(__name__)
ID_BYTES: Final = 12
# With keys, this name alone reads /metrics: they are of all users together.
METRICS_NAME: Final = "metrics"
CLIENT_GONE: Final = 499


class Read(Protocol):
    """`read_chat` or `read_completion`."""

    def __call__(self, content: bytes, *, model: str, tenant: str, limits: Limits) -> Asked:
        """Return what a body asks."""


def create_app(
    answering: Answering,
    *,
    keys: ApiKeys | None,
    limits: Limits | None = None,
    rate: RateLimit | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    new_id: Callable[[], str] = lambda: secrets.token_hex(ID_BYTES),
) -> FastAPI:
    """Return the API.

    Args:
        answering: who answers.
        keys: of everybody who may call; None lets everybody who reaches it call: `api_keys.check_address` first.
        limits: what one request may take.
        rate: how many answers each key may ask for.
        clock: seconds, monotonic.
        wall_clock: Unix time, s.
        new_id: makes ids of responses.
    """
    desk = _Desk(answering, keys, limits or Limits(), rate, ApiMetrics(answering), clock, wall_clock, new_id)
    app = FastAPI(title="bitweir", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(_Guard, metrics=desk.metrics, limits=desk.limits)
    app.add_exception_handler(HTTPException, _http_error)
    app.state.keys = keys
    created = int(wall_clock())

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await desk.answer(request, read_chat, ChatShape())

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await desk.answer(request, read_completion, CompletionShape())

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        desk.caller(request)
        return _json({"object": "list", "data": [_model(answering.model, created)]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        desk.caller(request)
        if name != answering.model:
            raise refusal("there is no such model", "model", status=404, code="model_not_found")
        return _json(_model(name, created))

    @app.get("/health")
    async def health() -> Response:
        is_up = answering.is_up
        return _json({"status": "up" if is_up else "down"}, status=200 if is_up else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        if desk.caller(request) != (METRICS_NAME if keys else ""):
            raise refusal(f"only the key named {METRICS_NAME} reads the metrics", status=403)
        return Response(desk.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    return app


@dataclass(frozen=True)
class _Desk:
    """Where requests for answers are let in, read and asked."""

    answering: Answering
    keys: ApiKeys | None
    limits: Limits
    rate: RateLimit | None
    metrics: ApiMetrics
    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    new_id: Callable[[], str]

    def caller(self, request: Request) -> str:
        """Return the name of the caller's key; empty without keys."""
        if self.keys is None:
            if "origin" in request.headers:
                raise refusal("a web page may not call without a key", status=403)
            return ""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        name = self.keys.name_of(key.strip()) if scheme.lower() == "bearer" else None
        if name is None:
            raise refusal("this needs an API key: Authorization: Bearer KEY", status=401, code="invalid_api_key")
        return name

    async def answer(self, request: Request, read: Read, shape: Shape) -> Response:
        """Return the response to a request for answers."""
        name = self.caller(request)
        self._spend(name, 1)
        _check_type(request)
        content = await _body(request, self.limits)
        asked = read(content, model=self.answering.model, tenant=name, limits=self.limits)
        if len(asked.questions) > 1:
            self._spend(name, len(asked.questions) - 1)
        head = Head(shape.prefix + self.new_id(), int(self.wall_clock()), self.answering.model)
        return AnswerResponse(
            asked, self.answering, shape, head, metrics=self.metrics, report=_reported, clock=self.clock
        )

    def _spend(self, name: str, count: int) -> None:
        wait_s = self.rate.take(name, count) if self.rate else 0.0
        if wait_s == float("inf"):
            raise refusal(f"more answers at once than this key may ever ask for, {count}", "n")
        if wait_s:
            raise ApiError("too many requests with this key", status=429, code="rate_limit_exceeded", retry_s=wait_s)


class _Guard:
    """The outermost layer: turns errors into responses, gives up readers that take nothing, counts."""

    def __init__(self, app: ASGIApp, *, metrics: ApiMetrics, limits: Limits) -> None:
        self._app = app
        self._metrics = metrics
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            try:
                async with asyncio.timeout(self._limits.stall_s):
                    await send(message)
            except TimeoutError as error:
                raise ClientDisconnect from error

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the client is told without details, and it is reported
            told = _reported(error)
            if not status:
                with suppress(ClientDisconnect):
                    await _send_error(watched, told)
        finally:
            self._metrics.count_request(scope["path"], status or 500)


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the body, if it comes in time and is not too long."""
    too_long = f"the body is longer than {limits.body_bytes_max} bytes"
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > limits.body_bytes_max):
        raise refusal(too_long, status=413, code="body_too_large")
    content = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                content += chunk
                if len(content) > limits.body_bytes_max:
                    raise refusal(too_long, status=413, code="body_too_large")
    except TimeoutError as error:
        raise refusal(f"the body did not come within {limits.body_s:g} s", status=408) from error
    return bytes(content)


def _check_type(request: Request) -> None:
    """Take JSON only: what a web page can send without asking is of other types."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise refusal("send Content-Type: application/json", status=415)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise refusal("send the body without Content-Encoding", status=415)


def _reported(error: Exception) -> ApiError:
    """Return what the client is told; log where a defect is, and not a word of its message."""
    told = api_error(error)
    if told.status == 500:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
        LOG.error("a request failed: %s at %s", type(error).__name__, place)
    return told


async def _send_error(send: Callable[[Message], Awaitable[None]], error: ApiError) -> None:
    await send_whole(send, error.status, json_bytes(body_of(error)), headers_of(error))


async def _http_error(_: Request, error: Exception) -> Response:
    """Shape what the router says: no such route, no such method."""
    status = getattr(error, "status_code", 500)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(status)
    told = ApiError({404: "there is no such URL"}.get(status, f"HTTP {status}"), status=status, code=code)
    headers = dict(getattr(error, "headers", None) or {})
    return _json(body_of(told), status=status, headers=headers)


def _json(document: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(document), status, headers, media_type="application/json")


def _model(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": "bitweir"}
