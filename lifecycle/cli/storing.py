"""``lifecycle store``: makes the tables of a store, brings them up, and tells how the store stands.

Rule: a store on a server is made and brought up by nobody but who asks for it here, since others may be using it. A
file is made and brought up by whoever opens it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.audit.query import Query
from lifecycle.cli.stored import reading
from lifecycle.cli.terminal import print_json
from lifecycle.states import State
from lifecycle.stores import choose_store
from lifecycle.stores.common import all_rows

if TYPE_CHECKING:
    from lifecycle.ports import Store

__all__ = ["init_store", "show_store", "upgrade_store"]


def init_store(url: str | None, *, roles: bool, print_sql: bool) -> None:
    """Make the tables of a store, or bring up those that are there."""
    if print_sql:
        from lifecycle.stores.postgres import script  # noqa: PLC0415 - needs the extra

        print(script(roles=roles), end="")
        return
    _bring_up(url, "make", roles=roles)


def upgrade_store(url: str | None, *, roles: bool) -> None:
    """Bring up the tables of a store."""
    _bring_up(url, "upgrade", roles=roles)


def _bring_up(url: str | None, how: str, *, roles: bool) -> None:
    store = choose_store(url)
    bring_up = getattr(store, how, None)
    if bring_up is None:
        with reading(url) as opened:
            print(f"{opened.url} is ready; a store of this kind is made and brought up by whoever opens it")
        return
    changed = bring_up(roles=roles)
    done = {"make": "made", "upgrade": "brought up"}[how]
    print(f"{store.url}: {f'its tables were {done}' if changed else 'its tables are as they should be'}")
    if roles:
        from lifecycle.stores.postgres import ROLES  # noqa: PLC0415 - needs the extra

        writer, pruner, reader = ROLES
        print(
            f"give each user of it one of the roles: {writer} to programs, {pruner} to who runs `lifecycle audit "
            f"prune`, {reader} to auditors; as in: GRANT {writer} TO somebody"
        )


def show_store(url: str | None, *, as_json: bool) -> None:
    """Print how a store stands."""
    with reading(url) as store:
        told = _told(store)
    if as_json:
        print_json(told, indent=True)
        return
    for name, value in told.items():
        print(f"{name.replace('_', ' '):<20} {value if value is not None else '-'}")


def _told(store: Store) -> dict[str, object]:
    newest = store.query(Query(), newest=True, limit=1)
    return {
        "store": store.url,
        "last_record": newest[-1][1].at.isoformat() if newest else None,
        "active_sessions": sum(1 for _ in all_rows(store, status=State.ACTIVE)),
        "unfinished_sessions": len(store.unfinished()),
        "clock_skew_seconds": getattr(store, "skew", None),
    }
