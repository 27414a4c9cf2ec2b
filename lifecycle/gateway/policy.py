"""What the gateway lets clients do: refused commands, commands that are not use, limits, and who may knock.

Rule: pure tables and predicates, no I/O. The protocol's own names are those of the Chrome DevTools Protocol 1.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

MAX_MESSAGE: Final = 256 * 1024 * 1024
"""Longest message in bytes, either way. Chromium itself buffers that much for one client of a debugging port."""

MAX_COMMAND: Final = 100 * 1024 * 1024 - 64 * 1024
"""Longest command in bytes that is handed to the browser.

Chromium's pipe handler holds 100 MiB; one longer message makes it stop reading for good, for everyone, without a word
(`kReceiveBufferSizeForDevTools`; seen on Chromium 156). So the sender alone gets an error instead.
"""

MAX_BACKLOG: Final = 256 * 1024 * 1024
"""A client with more unread bytes than this is dropped at the next message, so that it never holds up the others."""

FROZEN_AFTER: Final = 5.0
"""Seconds of silence after which a client that a new target waits for is taken for frozen."""

LONGEST_WAIT: Final = 15.0
"""Seconds after which a new target is let go even when the client that it waits for is alive."""

MAX_ID: Final = 2**31 - 1
"""Command ids are 32-bit integers in Chromium."""

INVALID_REQUEST: Final = -32600
SERVER_ERROR: Final = -32000
PARSE_ERROR: Final = -32700
SESSION_NOT_FOUND: Final = -32001

CLOSED_BY_OWNER: Final = 4000
"""WebSocket close code that clients get with the close_reason when the session ends."""

REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Browser.crash": "it would end the session for every client",
        "Browser.crashGpuProcess": "it would disturb every client",
        "Target.setRemoteLocations": "it would make the browser connect elsewhere",
        "Target.exposeDevToolsProtocol": "it would hand the whole browser to a page",
    }
)
"""Commands that no client may send, each with the reason."""

NOT_USE: Final[frozenset[str]] = frozenset(
    {
        # keep-alives and discovery
        "Browser.getVersion",
        "Schema.getDomains",
        "Target.getTargetInfo",
        "Target.getTargets",
        # cookie polling
        "Network.getAllCookies",
        "Network.getCookies",
        "Storage.getCookies",
        # acknowledgements and answers to what the browser itself began
        "Fetch.continueRequest",
        "Fetch.continueResponse",
        "Fetch.continueWithAuth",
        "Fetch.failRequest",
        "Fetch.fulfillRequest",
        "Network.continueInterceptedRequest",
        "Page.screencastFrameAck",
        "Runtime.runIfWaitingForDebugger",
        # housekeeping
        "Runtime.releaseObject",
        "Runtime.releaseObjectGroup",
        "Target.detachFromTarget",
    }
)
"""Commands that do not count as use of the session: a client that sends nothing else is idle."""

EXTENSION_ORIGIN: Final = re.compile(r"chrome-extension://[a-p]{32}")
"""The Origin of an extension, whose id is 32 letters from a to p."""

_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def is_use(method: str) -> bool:
    """True when a client that sends `method` is using the session."""
    return method not in NOT_USE


def refusal(method: str, params: Mapping[str, object]) -> str | None:
    """Why a client may not send this command, or None when it may."""
    why = REFUSED.get(method)
    if why is not None:
        return f"{method} is refused by the gateway: {why}"
    if method == "Target.attachToTarget" and params.get("flatten") is not True:
        return "Target.attachToTarget is refused by the gateway without flatten: true; only flat sessions are routed"
    if method == "Target.setAutoAttach" and params.get("autoAttach") is True and params.get("flatten") is not True:
        return "Target.setAutoAttach is refused by the gateway without flatten: true; only flat sessions are routed"
    return None


def host_allowed(host: str | None) -> bool:
    """True when a Host header names this machine by a loopback name, with any port.

    A page that rebinds its own name to 127.0.0.1 still sends that name here.
    """
    if not host:
        return False
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname in _HOSTS and parts.username is None and parts.path == "" and (parts.port or 1) > 0
    except ValueError:
        return False


def close_text(reason: str) -> str:
    """`reason` cut to the 123 bytes that a WebSocket close frame has room for."""
    return reason.encode()[:123].decode(errors="ignore")
