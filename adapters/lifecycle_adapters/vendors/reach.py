"""How a browser is reached whose server names it by an address of its own machine.

Rule: such an address is read as the one that the server itself was reached by.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["reached"]


def reached(url: str, base_url: str) -> str:
    """A WebSocket URL as it is seen from here.

    Args:
        url: What the server says.
        base_url: What the server was reached by.
    """
    parts, here = urlsplit(url), urlsplit(base_url)
    if _is_its_own(parts.hostname or "") and not _is_its_own(here.hostname or ""):
        parts = parts._replace(scheme="wss" if here.scheme == "https" else "ws", netloc=here.netloc)
    elif parts.hostname in ("0.0.0.0", "::"):  # noqa: S104 - what it listens on, compared with
        parts = parts._replace(netloc=f"{here.hostname}:{parts.port}" if parts.port else here.netloc)
    return parts._replace(path=parts.path or "/").geturl()


def _is_its_own(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified
