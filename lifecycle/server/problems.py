"""Which error becomes which answer.

Rule: an answer to an error has ``detail`` and says what to do next; it never repeats what was sent, which may be a
cookie or a password, and never the text of a foreign error. What the caller did wrong is a 4xx, what the browser or the
store did is a 5xx.
"""

from __future__ import annotations

import http
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lifecycle.errors import (
    AuthenticationError,
    BackendError,
    CapacityError,
    ConfigError,
    CookieError,
    LifecycleError,
    OperationFailed,
    SessionEnded,
    StoreError,
    UnsupportedOperation,
    UsageError,
)

__all__ = ["HANDLERS", "problem"]

_STATUSES: Final[tuple[tuple[type[LifecycleError], int], ...]] = (
    (SessionEnded, 410),
    (CookieError, 422),
    (OperationFailed, 409),
    (CapacityError, 503),
    (AuthenticationError, 502),
    (BackendError, 502),
    (StoreError, 503),
    (UsageError, 409),
)
"""The status for an error; the first row that fits decides, 500 else."""


def problem(
    status: int,
    message: str,
    *,
    error: str,
    detail: Sequence[Mapping[str, object]] | None = None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> JSONResponse:
    """The answer to an error."""
    body: dict[str, object] = {
        "detail": list(detail) if detail is not None else message,
        "status": status,
        "message": message,
        "error": error,
        **(more or {}),
    }
    return JSONResponse(body, status, headers=dict(headers or {}))


async def _of_library(_: Request, error: Exception) -> JSONResponse:
    name = type(error).__name__
    if isinstance(error, ConfigError):
        if error.option == "session_id":
            return problem(404, "there is no session with this id; GET /sessions/ lists them", error=name)
        fault = {"loc": ["body", error.option], "msg": f"allowed: {error.allowed}", "type": "not_allowed"}
        return problem(422, f"{error.option} is not allowed; allowed: {error.allowed}", error=name, detail=[fault])
    status = next((code for kind, code in _STATUSES if isinstance(error, kind)), 500)
    more: dict[str, object] = {}
    if isinstance(error, SessionEnded):
        more["close_reason"] = str(error.close_reason) if error.close_reason is not None else None
    elif isinstance(error, UnsupportedOperation):
        more = {"operation": error.operation, "way_out": error.way_out}
    headers = {"Retry-After": "1"} if status == 503 else None
    return problem(status, str(error), error=name, headers=headers, more=more)


async def _of_validation(_: Request, error: Exception) -> JSONResponse:
    faults: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else []
    told = [
        {"loc": [_plain(part) for part in fault["loc"]], "msg": _plain(fault["msg"]), "type": fault["type"]}
        for fault in faults[:20]
    ]
    message = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in told)
    return problem(422, message or "the request is not valid", error="RequestInvalid", detail=told)


def _plain(part: object) -> object:
    """A piece of a fault, short and writable: names of unknown fields are the sender's own."""
    return part if isinstance(part, int) else str(part)[:100].encode(errors="replace").decode()


async def _of_http(_: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    detail = error.detail if isinstance(error, HTTPException) and error.detail else http.HTTPStatus(status).phrase
    return problem(status, str(detail), error=http.HTTPStatus(status).phrase.replace(" ", ""), headers=headers)


# Coroutines, since others would be run on a thread each.
HANDLERS: Final[Mapping[int | type[Exception], Any]] = {
    LifecycleError: _of_library,
    RequestValidationError: _of_validation,
    HTTPException: _of_http,
}
