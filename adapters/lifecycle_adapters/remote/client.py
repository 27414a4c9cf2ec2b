"""The one way to the service of an adapter: the key, retries, and answers as typed errors.

Rule: a request is repeated only where that is safe, and every way in which a service can fail to answer becomes one
error of `lifecycle.errors`. The key is in no message, repr or log line, and bodies are bounded in size.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import json
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import httpx
import tenacity

from lifecycle.errors import (
    AuthenticationError,
    BackendError,
    CapacityError,
    ConnectionLost,
    RemoteRejected,
    UnsupportedOperation,
)
from lifecycle_adapters.remote.pool import ONE, Pool
from lifecycle_adapters.remote.wire import plain

__all__ = ["Again", "Answer", "Lost", "Service"]

MAX_BODY: Final = 32 * 1024 * 1024
"""Largest answer that is read, in bytes: a full cookie jar fits many times over."""

QUICK: Final = 10.0
"""Seconds that any answer but that to a create may take; a step that waits for one has little more."""

RETRY_SECONDS: Final = 10.0
"""Seconds in which a request that is safe to repeat is tried again."""

_REFUSED: Final = frozenset({429, 503, 529})
"""Statuses that say that nothing was done."""

_PASSING: Final = frozenset({429, 502, 503, 504, 529})
"""Statuses that may be gone a moment later."""

_AT_ONCE: Final = 20
"""Requests at once; the others wait."""


class Lost(Exception):  # noqa: N818 - never leaves this package
    """No answer could be read.

    Attributes:
        sent: The request may have reached the service.
        reason: Why, for a message.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class Again(Exception):  # noqa: N818 - never leaves this package
    """A failure that may be gone at the next attempt.

    Attributes:
        error: What to raise when there is none.
        after: Seconds that the service asks to wait, or None.
    """

    def __init__(self, error: BackendError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the service.

    Attributes:
        status: The HTTP status.
        data: The body, read as JSON; None where it is empty or no JSON.
        json: True when the body is JSON.
        empty: True when there is no body.
        retry_after: Seconds that the service asks to wait, or None.
        at: The service's own clock (UTC), or None.
    """

    status: int
    data: object
    json: bool
    empty: bool
    retry_after: float | None
    at: datetime | None

    @property
    def good(self) -> bool:
        """True for a 2xx with a body that can be read."""
        return 200 <= self.status < 300 and self.json

    @property
    def refused(self) -> bool:
        """True when the service says clearly that it did nothing."""
        return self.status in _REFUSED and (self.retry_after is not None or not self.empty)


class Service:
    """The way to one service.

    Args:
        base_url: Where it is, without a slash at the end.
        host: The host in it, for messages.
        key: The key, None where it asks for none. A secret.
        loopback: True when the service runs on this machine; no proxy of the environment is asked then.
        seconds: What one answer may take.
        header: The header that carries the key; by default ``Authorization``, as a bearer token.
        variable: The variable of the environment that the key may come from, for messages.
        kind: What it is that `base_url` leads to, for messages.
    """

    def __init__(
        self,
        *,
        base_url: str,
        host: str,
        key: str | None,
        loopback: bool,
        seconds: float,
        header: str | None = None,
        variable: str = "NOTTE_API_KEY",
        kind: str = "a session API",
    ) -> None:
        self.base_url = base_url
        self.host = host
        self.seconds = seconds
        self._key = key
        self._variable = variable
        self._kind = kind
        sent = {} if key is None else {header: key} if header is not None else {"Authorization": f"Bearer {key}"}
        connection = functools.partial(
            httpx.AsyncClient,
            headers={**sent, "Accept": "application/json"},
            # Made here, in the thread of whoever makes the adapter: it reads a file of certificates.
            verify=httpx.create_ssl_context() if base_url.startswith("https:") else False,
            trust_env=not loopback,
            follow_redirects=False,
            limits=ONE,
        )
        self._pool = Pool(connection, _AT_ONCE)
        self._ahead = timedelta()

    def ahead(self) -> timedelta:
        """How far the clock of this machine is ahead of the service's, as its last answer tells."""
        return self._ahead

    def __repr__(self) -> str:
        return f"<Service {self.base_url}>"

    # --- one exchange -------------------------------------------------------------------------------------------

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """Send one request, once, and read its answer, whatever its status.

        Raises:
            Lost: There is no answer that could be read in time.
        """
        sent = False
        limit = seconds if seconds is not None else min(self.seconds, QUICK)

        async def trace(event: str, _: object) -> None:
            nonlocal sent
            sent = sent or event.endswith("send_request_headers.started")

        content = json.dumps(body).encode() if body is not None else None
        given = {**(headers or {}), **({"Content-Type": "application/json"} if content is not None else {})}
        try:
            async with (
                self._pool.client() as client,
                asyncio.timeout(limit),
                client.stream(
                    method, self.base_url + path, content=content, params=params, headers=given, timeout=limit,
                    extensions={"trace": trace},
                ) as response,
            ):  # fmt: skip
                answer = _answer(response, await _read(response))
        except (TimeoutError, httpx.TimeoutException) as e:
            raise Lost(f"no answer within {limit:g} seconds", sent=sent) from e
        except (httpx.HTTPError, OSError) as e:
            raise Lost(_broken(e, sent=sent), sent=sent) from e
        if answer.at is not None:
            self._ahead = datetime.now(UTC) - answer.at
        return answer

    # --- requests that are safe to repeat -----------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        *,
        what: str,
        body: object = None,
        params: Mapping[str, str] | None = None,
        once: bool = False,
        secret: bool = False,
        seconds: float | None = None,
    ) -> object:
        """Send a request that is safe to repeat; the JSON of its answer.

        Args:
            method: The HTTP method.
            path: The path below the base URL.
            what: What it is for, in words for a message.
            body: The JSON to send.
            params: The query.
            once: Do not repeat it: somebody does so later on.
            secret: What is sent holds secrets, so the service's words on it are not shown.
            seconds: What its answer may take, where that is not what answers take.

        Raises:
            AuthenticationError, CapacityError, RemoteRejected: The service refused.
            UnsupportedOperation: It can't do this.
            ConnectionLost: It did not answer.
        """
        tries = attempts(seconds=RETRY_SECONDS, most=1 if once else 4)
        try:
            async for attempt in tries:
                with attempt:
                    try:
                        answer = await self.exchange(method, path, body=body, params=params, seconds=seconds)
                    except Lost as e:
                        raise Again(self.lost(e, what)) from e
                    if answer.good or (answer.empty and 200 <= answer.status < 300):
                        return answer.data
                    if (lacking := self._unsupported(answer)) is not None:
                        raise lacking
                    error = self.refusal(answer, what, secret=secret)
                    if answer.status in _PASSING:
                        raise Again(error, answer.retry_after)
                    raise error
        except Again as e:
            raise e.error from e.__cause__
        raise AssertionError  # pragma: no cover - the loop returns or raises

    # --- errors -------------------------------------------------------------------------------------------------

    def lost(self, lost: Lost, what: str) -> ConnectionLost:
        """The error for an answer that did not come."""
        return ConnectionLost(f"{what}: {lost.reason} from the service at {self.host}")

    def refusal(self, answer: Answer, what: str, *, secret: bool = False) -> BackendError:
        """The error for an answer that is not a good one."""
        status = answer.status
        if 200 <= status < 300:
            msg = f"{what}: the service at {self.host} answered {status} with a body that is no JSON"
            return RemoteRejected(f"{msg}; is base_url that of {self._kind}?", status=status)
        said = _words(answer.data, self._key, secret=secret)
        told = f"{what}: the service at {self.host} answered {status}" + (f" ({said})" if said else "")
        if status in {401, 403}:
            return AuthenticationError(f"{told}: it refuses the key; check api_key= or {self._variable}")
        if status in {429, 529}:
            wait = answer.retry_after
            return CapacityError(f"{told}: no room now" + (f"; it asks to wait {wait:g} seconds" if wait else ""))
        if 300 <= status < 400:
            return RemoteRejected(f"{told}: it redirects, which is not followed; correct base_url", status=status)
        if status >= 500 and not answer.json and not answer.empty:
            told += " with a body that is no JSON"
        return RemoteRejected(told, status=status)

    def _unsupported(self, answer: Answer) -> UnsupportedOperation | None:
        """The error of `lifecycle serve` for what its adapter can't do, which names a way out."""
        told = answer.data
        if not isinstance(told, Mapping) or told.get("error") != "UnsupportedOperation":
            return None

        def said(name: str) -> str:
            return plain(hide(str(told.get(name, "")), self._key))

        way_out = f"the service at {self.host} says: {said('way_out')}"
        return UnsupportedOperation(operation=said("operation") or "this", adapter="remote", way_out=way_out)

    # --- the pool -----------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connections; the next request opens new ones. Idempotent."""
        await self._pool.aclose()


def attempts(*, seconds: float, most: int) -> AsyncIterator[tenacity.AttemptManager]:
    """Attempts at what may raise `Again`: at most `most`, with backoff and jitter, none begun after `seconds`."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Again),
        wait=_wait,
        stop=tenacity.stop_any(tenacity.stop_after_attempt(most), tenacity.stop_before_delay(seconds)),
        sleep=asyncio.sleep,
        reraise=True,
    ).__aiter__()


_backoff: Final = tenacity.wait_exponential(multiplier=0.1, max=5.0) + tenacity.wait_random(0.0, 0.2)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.after if isinstance(error, Again) and error.after is not None else 0.0
    return asked + _backoff(state)


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_BODY:
            raise httpx.DecodingError("too large", request=response.request)
        parts.append(part)
    return b"".join(parts)


def _answer(response: httpx.Response, body: bytes) -> Answer:
    data: object = None
    readable = False
    if body.strip():
        try:
            data = json.loads(body)
            readable = True
        except (ValueError, RecursionError):
            data = None
    return Answer(
        status=response.status_code,
        data=data,
        json=readable,
        empty=not body.strip(),
        retry_after=_seconds(response.headers.get("Retry-After")),
        at=_date(response.headers.get("Date")),
    )


def _seconds(text: str | None) -> float | None:
    """``Retry-After`` in seconds: a number of them or a date (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text[:10])
    when = _date(text)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0) if when is not None else None


def _date(text: str | None) -> datetime | None:
    try:
        when = email.utils.parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    if when is None:
        return None
    return when.astimezone(UTC) if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _broken(error: Exception, *, sent: bool) -> str:
    """What broke, without the words of others: they may hold addresses."""
    if isinstance(error, httpx.DecodingError):
        return "an answer that is too large or can't be decoded"
    if not sent:
        untrusted = _untrusted(error)
        return "no connection" + (f" ({untrusted})" if untrusted is not None else "")
    return f"no whole answer ({type(error).__name__})"


def _untrusted(error: BaseException | None) -> str | None:
    """What is wrong with the certificate of the service, if that is it."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            told = f"its certificate is not trusted here: {error.verify_message}"
            return f"{told}; SSL_CERT_FILE names those that are"
        error = error.__cause__ or error.__context__
    return None


def hide(text: str, key: str | None) -> str:
    """What somebody else wrote, without the key."""
    return text.replace(key, "...") if key else text


def _words(data: object, key: str | None, *, secret: bool) -> str:
    """What the service says in the body of an error: the fields it names, and its words unless `secret`."""
    if not isinstance(data, Mapping):
        return ""
    told = cast("Mapping[str, Any]", data)
    detail: Any = told.get("detail") or told.get("message") or told.get("error")
    if isinstance(detail, Mapping):
        detail = detail.get("message") or detail.get("msg") or detail.get("detail")
    if isinstance(detail, list):
        faults = []
        for fault in detail:
            place = fault.get("loc") if isinstance(fault, Mapping) else None
            name = ".".join(str(p) for p in place if p != "body") if isinstance(place, list) else ""
            said = "" if secret or not isinstance(fault, Mapping) else str(fault.get("msg", ""))
            faults.append(": ".join(part for part in (name, said) if part))
        return plain(hide("; ".join(filter(None, faults)), key))
    return plain(hide(str(detail), key)) if detail and not secret else ""


# --- the log lines of httpx -------------------------------------------------------------------------------------


def _elsewhere(record: logging.LogRecord) -> bool:
    """False on the library's own threads: a host's handlers take locks there that a caller may hold."""
    del record
    return not threading.current_thread().name.startswith("lifecycle-")


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_elsewhere)
