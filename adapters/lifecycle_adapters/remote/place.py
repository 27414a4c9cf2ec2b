"""Where a service is and what is given to reach it: address, key and seconds, checked before anything is sent.

Rule: no I/O. The key is in no message; an address that holds credentials is refused, so it may be shown.
"""

from __future__ import annotations

import importlib
import ipaddress
import math
from typing import Final
from urllib.parse import urlsplit

from lifecycle.errors import ConfigError

__all__ = ["check_address", "check_key", "check_seconds", "load_http"]

_LATE: Final = (
    "anyio",
    "anyio._backends._asyncio",
    "anyio._core._eventloop",
    "anyio.abc",
    "encodings.idna",
    "httpcore",
    "httpcore._backends.anyio",
    "httpcore._backends.auto",
    "sniffio",
)
"""What httpx imports with the first request; the private ones may have other names in other versions."""


def load_http() -> None:
    """Import what the first request would: nothing is imported in the middle of an edge, see `lifecycle.core`."""
    for name in _LATE:
        try:
            importlib.import_module(name)
        except ImportError:  # a private module that another version does not have
            continue


def check_key(key: str | None, *, allowed: str) -> str:
    """A key as a header can carry it.

    Raises:
        ConfigError: There is none, which is answered with `allowed`, or it is none; does not show it.
    """
    if not key:
        raise ConfigError(option="api_key", value=key, allowed=allowed)
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(option="api_key", value="(hidden)", allowed="a text of printable ASCII without spaces")
    return key


def check_address(given: str, *, allow_http: bool, example: str) -> tuple[str, str, bool]:
    """The base URL without a slash at its end, its host with the port, and whether that is this machine.

    Raises:
        ConfigError: It is no address, or one to which the key would go unencrypted.
    """
    allowed = f"an address such as {example} or http://127.0.0.1:8000, without credentials and query"
    try:
        parts = urlsplit(given.strip())
        name = parts.hostname
        _ = parts.port
    except (ValueError, AttributeError) as e:
        raise ConfigError(option="base_url", value="(not an address)", allowed=allowed) from e
    if parts.scheme not in {"http", "https"} or not name or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(option="base_url", value=f"{parts.scheme}://{name or ''}", allowed=allowed)
    loopback = _is_loopback(name)
    if parts.scheme == "http" and not loopback and not allow_http:
        raise ConfigError(
            option="base_url",
            value=f"http://{name}",
            allowed="https:// for a host that is not this machine, since the key would be readable on the way; "
            "allow_http=True sends it all the same",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", parts.netloc, loopback


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_seconds(option: str, value: object) -> float:
    """A number of seconds.

    Raises:
        ConfigError: It is none above 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ConfigError(option=option, value=value, allowed="a number of seconds above 0")
    return float(value)
