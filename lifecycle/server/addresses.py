"""What operations may reach when they are asked for over the wire.

Rule: with `deny_private`, a URL is refused when its host is, or resolves to, an address that is not public. The name is
resolved here and once more by the browser, so a name whose answers change is not held off for good; a firewall is.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, NoReturn
from urllib.parse import urlsplit

from lifecycle.actions import OperationPolicy
from lifecycle.errors import ConfigError

__all__ = ["over_the_wire", "why_private"]


def why_private(url: str) -> str | None:
    """Why a URL is refused, None when its host is public. Resolves names, so it may block for a while."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "the URL can't be read"
    if parts.scheme in ("about", "data", "blob"):
        return None
    if not host:
        return "the URL names no host"
    try:
        found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"{host} has no address"
    for *_, address in found:
        if not _public(str(address[0])):
            return f"{host} is at a private address, which this server does not open"
    return None


_EMBEDDING: Final = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "2001::/32", "2002::/16")))
"""IPv6 addresses that stand for an IPv4 address, which may be a private one."""


def _public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _EMBEDDING)


def _no_path(_: str) -> NoReturn:
    raise ConfigError(option="file_path", value="(a path)", allowed="no path: this server takes none from the wire")


def over_the_wire(*, deny_private: bool) -> OperationPolicy:
    """The policy for operations that come over the wire: no path of this machine is taken from it."""
    if deny_private:
        return OperationPolicy(refuse_url=why_private, upload_path=_no_path)
    return OperationPolicy(upload_path=_no_path)
