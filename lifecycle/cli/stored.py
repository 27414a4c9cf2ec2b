"""``lifecycle sessions``: what the store knows of sessions, read without a browser.

Rule: reading opens the store and nothing else. `show` and `stop` make a client, because only the owner of a session
knows its latest use, and only the owner can stop it; `reap` makes one for each adapter that has something to release.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from lifecycle.attachment import SessionStatus
from lifecycle.cli.filters import parse_labels
from lifecycle.cli.tables import sessions_table, state_style
from lifecycle.cli.terminal import err, long_time, out, print_block, print_json, span
from lifecycle.client import Client
from lifecycle.errors import ConfigError, UsageError
from lifecycle.recovery import left_behind, owner_gone
from lifecycle.states import State
from lifecycle.stores import open_store

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lifecycle.ports import SessionRow, Store

__all__ = ["find_session", "list_sessions", "reading", "reap_sessions", "show_session", "stop_session"]

_OWNER_GONE: Final = "owner has ended"

_NAMED: Final = 5
"""Ids that an error names, of more that begin alike."""


@contextmanager
def reading(store: str | None) -> Iterator[Store]:
    """The store, for as long as the block lasts."""
    opened = open_store(store)
    try:
        yield opened
    finally:
        opened.close()


def find_session(store: Store, beginning: str) -> str:
    """The whole id of the one session whose id begins so.

    Raises:
        UsageError: There is none, or more than one.
    """
    if store.session(beginning) is not None:
        return beginning
    found = store.session_ids(beginning, limit=_NAMED + 1) if beginning else []
    if not found:
        msg = f"no session in {store.url} has an id that begins with {beginning!r}; see `lifecycle sessions list`"
        raise UsageError(msg)
    if len(found) > 1:
        count = len(found) if len(found) <= _NAMED else f"more than {_NAMED}"
        msg = f"{beginning!r} begins the ids of {count} sessions, write more of it: {', '.join(found[:_NAMED])}"
        raise UsageError(msg)
    return found[0]


def list_sessions(*, status: State | None, labels: Sequence[str], limit: int, store: str | None, as_json: bool) -> None:
    """Print the sessions of a store, newest first."""
    wanted = parse_labels(labels)
    with reading(store) as opened:
        rows = opened.sessions(status=status, labels=wanted or None, limit=limit)
        url = opened.url
    now = datetime.now(UTC)
    told = [(SessionStatus.of_row(row, now), _gone(row)) for row in rows]
    if as_json:
        print_json([{**status.to_json(), "owner_gone": gone} for status, gone in told], indent=True)
    elif told:
        console = out(table=True)
        print_block(console, sessions_table([(s, _OWNER_GONE if gone else "") for s, gone in told], console))
    else:
        print(f"no {'such ' if status or wanted else ''}sessions in {url}")


def show_session(session_id: str, *, store: str | None, as_json: bool) -> None:
    """Print all that is known of a session."""
    with reading(store) as opened:
        found = find_session(opened, session_id)
        row = opened.session(found)
    with Client(adapter="memory", store=store, reap_on_start=False) as client:
        status = client.sessions.get(found)
    assert row is not None  # noqa: S101 - it was found just now, and rows are never deleted
    gone = _gone(row)
    if as_json:
        owner = {"pid": row.owner_pid, "host": row.host, "gone": gone}
        print_json({**status.to_json(), "released": row.released, "owner": owner}, indent=True)
    else:
        print_block(out(), _details(status, row, gone=gone))


def stop_session(session_id: str, *, store: str | None, as_json: bool) -> None:
    """Stop a session through its owner; one that is over stays as it is."""
    with reading(store) as opened:
        found = find_session(opened, session_id)
        over = _over(opened.session(found))
    with Client(adapter="memory", store=store, reap_on_start=False) as client:
        status = client.sessions.stop(found)
    if as_json:
        print_json({**status.to_json(), "was_over": over}, indent=True)
    else:
        verb = "was over already" if over else "is over"
        why = f", {status.close_reason}" if status.close_reason else ""
        print(f"session {found} {verb}: {status.status}{why}, after {span(status.duration)}")


def reap_sessions(*, dry_run: bool, store: str | None, as_json: bool) -> None:
    """Release and end what processes left that have ended; exit code 1 where not all could be."""
    with reading(store) as opened:
        # Without any session, what else was left is looked after all the same, and needs no adapter.
        adapters = sorted({row.adapter for row in left_behind(opened).rows}) or ["memory"]
        url = opened.url
    found: list[SessionStatus] = []
    without: dict[str, ConfigError] = {}
    for adapter in adapters:
        try:
            client = Client(adapter=adapter, store=store, reap_on_start=False)
        except ConfigError as e:  # one that is not installed here, or lacks its key: the others are reaped all the same
            without[adapter] = e
            continue
        with client:
            found += client.sessions.reap(dry_run=dry_run)
    with reading(store) as opened:
        rows = {s.session_id: opened.session(s.session_id or "") for s in found}
    kept = {i for i, row in rows.items() if row is not None and not row.released and not dry_run}
    if as_json:
        print_json([{**s.to_json(), "released": s.session_id not in kept} for s in found], indent=True)
    elif found:
        console = out(table=True)
        print_block(
            console, sessions_table([(s, "not released" if s.session_id in kept else "") for s in found], console)
        )
    elif not without:
        print(f"nothing to reap in {url}")
    if found and dry_run:
        err().print("nothing was changed; without --dry-run they are released and ended so", style="dim")
    for status in found:
        if status.session_id in kept:
            err().print(f"session {status.session_id}: {status.error}", style="red", markup=False, soft_wrap=True)
    for adapter, lacking in without.items():
        err().print(f"sessions of the adapter {adapter} are left: {lacking}", style="red", markup=False, soft_wrap=True)
    if kept or without:
        raise SystemExit(1)


def _gone(row: SessionRow) -> bool:
    """True for a session that its row calls live though the process that owned it has ended."""
    return not row.state.terminal and owner_gone(row)


def _over(row: SessionRow | None) -> bool:
    return row is not None and row.state.terminal


def _details(status: SessionStatus, row: SessionRow, *, gone: bool) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    lines: dict[str, Any] = {
        "session": status.session_id,
        "status": Text(status.status, style=state_style(status.status)),
        "reason": status.close_reason,
        "error": status.error,
        "name": status.name,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(status.labels.items())),
        "adapter": status.adapter,
        "created": f"{long_time(status.created_at)} UTC",
        "last used": f"{long_time(status.last_accessed_at)} UTC",
        "closed": f"{long_time(status.closed_at)} UTC" if status.closed_at else None,
        "expires": f"{long_time(status.expires_at)} UTC" if status.expires_at else None,
        "duration": span(status.duration),
        "limits": f"{status.timeout_minutes:g} min idle, {status.max_duration_minutes:g} min in all",
        "owner": f"process {row.owner_pid} on {row.host}" + (f" ({_OWNER_GONE})" if gone else ""),
        "log": f"lifecycle audit log {status.session_id}",
    }
    for name, value in lines.items():
        if value:
            table.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return table
