"""Every error of the API as OpenAI shapes it: status, type, parameter, code. Pure functions of the error.

Rules:
1. A message of ours that names the mistake is told; of an error nobody expected nothing is told, not even its class.
2. docs/reference/api.md has the table; it changes with this file.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from bitweir_compression.session.lane import Ending
from bitweir_services.errors import ApiError, BusyError, LinkDownError, RequestError, ServicesError

# What of a client's own words an error repeats.
ECHO_CHARACTERS_MAX: Final = 80
# When to try again after the answers in flight were too many: one of them may end any moment.
BUSY_RETRY_S: Final = 1

KINDS: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""OpenAI's `type` of a status; other 4xx are `invalid_request_error`, 5xx are `server_error`."""


def refusal(message: str, param: str | None = None, *, status: int = 400, code: str | None = None) -> ApiError:
    """Return the error for a request that is wrong.

    Args:
        message: what is wrong and what to do.
        param: the field, as a path: `messages[0].content`.
        status: of HTTP.
        code: for programs.
    """
    return ApiError(message, status=status, param=param, code=code)


def api_error(error: BaseException) -> ApiError:
    """Return what the client is told of any error."""
    if isinstance(error, ApiError):
        return error
    remedy = error.remedy if isinstance(error, ServicesError) else ""
    told = f"{error}" + (f"; {remedy}" if remedy else "")
    if isinstance(error, BusyError):
        return ApiError(told, status=429, code="busy", retry_s=BUSY_RETRY_S)
    if isinstance(error, RequestError):
        return ApiError(told, status=400)
    if isinstance(error, LinkDownError):
        return ApiError(told, status=503, code="link_down", retry_s=error.retry_s)
    return ApiError("the server failed; this is its fault, not the request's", status=500, code="internal_error")


def lost(ending: Ending) -> ApiError:
    """Return the error for an answer that did not come whole."""
    return ApiError(
        f"the answer was {ending.value} on its way; ask again",
        status=503,
        code=f"answer_{ending.value}",
    )


def body_of(error: ApiError) -> dict[str, Any]:
    """Return the JSON document of an error."""
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def headers_of(error: ApiError) -> dict[str, str]:
    """Return the headers that belong to an error."""
    headers = {}
    if error.retry_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def json_bytes(document: object) -> bytes:
    """Return JSON in ASCII: no text of anybody, however odd, can break a line or fail to encode."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode("ascii")
