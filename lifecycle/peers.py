"""Servers on other hosts that own sessions in the same store: how they are reached.

Rule: an address comes out of the ledger, the token never does. It is sent to whatever server a row names, so who may
write to the store is trusted with it, and it goes in the clear only where that is said.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lifecycle.adapters import find_adapter
from lifecycle.errors import ConfigError

if TYPE_CHECKING:
    from lifecycle.ports import Adapter

__all__ = ["Peers", "peers_of"]

_TOKEN: Final = "LIFECYCLE_PEERS_TOKEN"  # noqa: S105 - the name of a variable
_HTTP: Final = "LIFECYCLE_PEERS_HTTP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """How servers on other hosts are reached that own sessions in this client's store.

    Attributes:
        token: What they ask for: the token of every ``lifecycle serve`` on the store.
        allow_http: Send it without encryption too, to addresses with ``http://``.
    """

    token: str = field(repr=False)
    allow_http: bool = False

    def adapter(self, address: str) -> Adapter:
        """What speaks to the server at an address. Blocks for a moment.

        Raises:
            ConfigError: The token can't be sent, or not to such an address.
        """
        return find_adapter("remote", api_key=self.token, base_url=address, allow_http=self.allow_http)


def peers_of(given: object) -> Peers | None:
    """`given`, or what the environment says; None where there is neither.

    Raises:
        ConfigError: It is none.
    """
    if given is None and (token := os.environ.get(_TOKEN)):
        return Peers(token=token, allow_http=os.environ.get(_HTTP) == "1")
    if given is not None and not isinstance(given, Peers):
        raise ConfigError(option="peers", value=type(given).__name__, allowed="lifecycle.Peers(token=...)")
    return given
