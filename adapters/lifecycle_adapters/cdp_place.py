"""Where a foreign browser is: its URL, and the discovery that leads from ``http://`` to a WebSocket.

Rule: URL and headers are secrets. What is shown of them, in errors and records, is scheme, host and port.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from lifecycle.errors import ConfigError, RemoteRejected, StartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Place", "discover", "failed", "parse_place", "rejected"]

_BUDGET: Final = 10.0
"""Seconds for each step of the answer to ``/json/version``."""

_MOST: Final = 1024 * 1024
"""Bytes of that answer that are read."""

_ALLOWED: Final = "ws://, wss://, http:// or https://, a host and, where it needs one, a port and a path"

_ADVICE: Final[Mapping[int, str]] = {
    401: "check the key or token in url= or headers=",
    403: "check the token in url= or headers=; a debugging port refuses an Origin, and other hosts than its own",
    404: "check the path and the token in url=; a debugging port has /json/version, or a path of /devtools/browser/ID",
    410: "the session behind this URL is over: start another one there, and give its URL",
    429: "it has no room for another session now: stop one there, or try again later",
    500: "a debugging port answers so to a host name in the URL: give its IP address, or localhost",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A browser's address.

    Attributes:
        url: Without user and password; a secret.
        headers: What requests carry; secrets too.
        shown: The part that may be shown.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    shown: str

    @property
    def discovers(self) -> bool:
        """True when its WebSocket has to be asked for."""
        return self.url.startswith("http")


def parse_place(url: str | None, headers: Mapping[str, str]) -> Place:
    """Check a URL.

    Raises:
        ConfigError: It is none that can lead to a browser; does not show it.
    """
    if not url:
        allowed = "the CDP URL of a running browser: CdpAdapter(url=...) or the environment variable LIFECYCLE_CDP_URL"
        raise ConfigError(option="url", value=None, allowed=allowed)
    try:
        parts = urlsplit(url.strip())
        shown = _shown(parts)
        parts.port  # noqa: B018 - raises for one that is out of range
    except (ValueError, AttributeError):
        raise ConfigError(option="url", value="(not a URL)", allowed=_ALLOWED) from None
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise ConfigError(option="url", value=f"{parts.scheme}://..." if parts.scheme else "...", allowed=_ALLOWED)
    sent = dict(headers)
    if parts.username is not None and not any(name.lower() == "authorization" for name in sent):
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        sent["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    return Place(urlunsplit(bare), sent, shown)


def _shown(parts: SplitResult) -> str:
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def failed(place: Place, reason: str, status: int | None = None) -> StartFailed:
    """The error for a browser that can't be had, with what to do."""
    advice = _ADVICE.get(status or 0)
    if advice is None:
        advice = "check that the browser runs and that url= is its CDP URL (Chromium: --remote-debugging-port=9222)"
    return StartFailed(f"the browser at {place.shown} can't be used: {reason}; {advice}", adapter="cdp")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the headers to somebody else."""

    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


def discover(place: Place) -> Place:
    """Ask an ``http://`` place for its WebSocket, by ``/json/version``. Blocks for some seconds at most.

    Raises:
        StartFailed: Nothing there tells of one.
    """
    parts = urlsplit(place.url)
    path = parts.path.rstrip("/")
    path = path if path.endswith("/json/version") else f"{path}/json/version"
    request = urllib.request.Request(urlunsplit(parts._replace(path=path)), headers=dict(place.headers))  # noqa: S310
    proxies = urllib.request.ProxyHandler({} if _loopback(parts.hostname or "") else None)
    try:
        with urllib.request.build_opener(proxies, _NoRedirects).open(request, timeout=_BUDGET) as answer:
            body = answer.read(_MOST)
    except urllib.error.HTTPError as e:
        e.close()
        raise failed(place, f"it answers /json/version with HTTP {e.code}", e.code) from None
    except (OSError, ValueError) as e:  # URLError is an OSError; a garbled answer is a ValueError or HTTPException
        cause = getattr(e, "reason", e)
        raise failed(
            place, f"it can't be reached ({getattr(cause, 'strerror', None) or type(cause).__name__})"
        ) from None
    except Exception as e:  # noqa: BLE001 - http.client.HTTPException: what is there does not speak HTTP
        raise failed(place, f"it does not answer as HTTP ({type(e).__name__})") from None
    try:
        found: Any = json.loads(body)
        told = urlsplit(str(found["webSocketDebuggerUrl"]))
        host = told.hostname or ""
        told.port  # noqa: B018 - raises for one that is out of range
    except (ValueError, KeyError, TypeError):
        raise failed(place, "its /json/version names no webSocketDebuggerUrl, so it is no CDP endpoint") from None
    if told.scheme not in ("ws", "wss") or not host:
        raise failed(place, "the webSocketDebuggerUrl that it names is no WebSocket URL")
    netloc = parts.netloc.rpartition("@")[2]
    if (_loopback(host) or host in ("0.0.0.0", "::")) and not _loopback(parts.hostname or ""):  # noqa: S104
        scheme = "wss" if parts.scheme == "https" else "ws"  # it names itself from inside: reach it as we did
        told = told._replace(scheme=scheme, netloc=netloc)
    # The headers are for the host that they were given for.
    same = told.hostname == parts.hostname
    return replace(place, url=urlunsplit(told), headers=place.headers if same else {})


def rejected(place: Place, error: RemoteRejected) -> StartFailed:
    """The error for a WebSocket that was refused."""
    return failed(place, str(error), error.status)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
