"""``lifecycle audit verify``, ``prove``, ``verify-proof``, ``key``, ``prune``, ``hold``, ``release``: evidence.

Rule: exit code 1 says that something is wrong with the log or the proof, and nothing else that is wrong does. What a
check could not show is printed beside its result.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lifecycle import report
from lifecycle.audit.notes import Key, load_key, make_note, new_key, public_key, read_notes
from lifecycle.audit.proving import prove, verify_proof
from lifecycle.audit.query import Query
from lifecycle.audit.register import Entry, Maker
from lifecycle.audit.retention import hold, prune, release
from lifecycle.audit.verifying import verify
from lifecycle.cli.exits import Exit
from lifecycle.cli.filters import parse_time
from lifecycle.cli.serving import extra_server
from lifecycle.cli.stored import find_session, reading
from lifecycle.cli.terminal import err, marks, out, print_json
from lifecycle.errors import ConfigError, UsageError
from lifecycle.identity import host_name
from lifecycle.journal import library_version

if TYPE_CHECKING:
    from lifecycle.audit.notes import Note
    from lifecycle.audit.verifying import Verification
    from lifecycle.ports import Store

__all__ = ["hold_session", "make_proof", "prune_log", "show_key", "verification", "verify_log", "verify_proof_file"]

PROBLEMS_SHOWN: Final = 20
"""In a terminal; JSON has them all."""


def verify_log(
    *,
    checkpoints: Path | None,
    keys: Sequence[str],
    session_id: str | None,
    store: str | None,
    as_json: bool,
    metrics: Path | None = None,
) -> int:
    """Check the log of a store, print what came of it, and return the exit code."""
    tell = _metrics_to(metrics) if metrics is not None else lambda _: None
    url, found = _verified(checkpoints=checkpoints, keys=keys, session_id=session_id, store=store)
    tell(found)
    if as_json:
        print_json(
            {
                "ok": found.ok,
                "store": url,
                "log": found.log,
                "records": found.records,
                "covered": found.covered,
                "older": found.older,
                "pruned": found.pruned,
                "writers": found.writers,
                "entries": found.entries,
                "checkpoints": found.checkpoints,
                "signed": found.signed,
                "open": found.open,
                "problems": [{"what": p.what, "why": p.why, "record": p.number} for p in found.problems],
                "notes": found.notes,
            },
            indent=True,
        )
    else:
        _print_result(url, found)
    return Exit.OK if found.ok else Exit.FAILED


def _metrics_to(path: Path) -> Callable[[Verification], None]:
    """Writes what came of a check to a file for Prometheus; refused before the check, which may take long."""
    if path.suffix != ".prom":
        allowed = "a file that ends in .prom: the node exporter reads no others"
        raise ConfigError(option="--metrics", value=str(path), allowed=allowed)
    if not path.absolute().parent.is_dir():
        raise ConfigError(option="--metrics", value=str(path), allowed="a file in a folder that is there")
    with extra_server("--metrics"):
        from lifecycle.server.metrics import write_verification  # noqa: PLC0415 - comes with an extra

    def write(found: Verification) -> None:
        try:
            write_verification(path, found, at=time.time())
        except OSError as e:
            allowed = f"a file that can be written ({e.strerror or e})"
            raise ConfigError(option="--metrics", value=str(path), allowed=allowed) from e

    return write


def verification(*, checkpoints: Path | None, keys: Sequence[str], store: str | None) -> report.Verification:
    """Check the log of a store, for a report on it."""
    _, found = _verified(checkpoints=checkpoints, keys=keys, session_id=None, store=store)
    problems = [str(problem) for problem in found.problems[:PROBLEMS_SHOWN]]
    if len(found.problems) > PROBLEMS_SHOWN:
        problems.append(f"and {len(found.problems) - PROBLEMS_SHOWN} more")
    headline = "The log is whole" if found.ok else "The log is not whole"
    return report.Verification(ok=found.ok, headline=headline, details=[*problems, _summary(found), *found.notes])


def _verified(
    *, checkpoints: Path | None, keys: Sequence[str], session_id: str | None, store: str | None
) -> tuple[str, Verification]:
    """The URL of the store, and what came of the check."""
    notes = _notes(checkpoints)
    parsed = [Key.parse(key) for key in keys]
    if parsed and checkpoints is None:
        allowed = "--checkpoints FILE beside it: it is these that are signed"
        raise ConfigError(option="--key", value=keys[0], allowed=allowed)
    with reading(store) as opened, _progress(opened) as progress:
        found_id = find_session(opened, session_id) if session_id is not None else None
        return opened.url, verify(
            opened,
            checkpoints=notes,
            keys=parsed,
            session_id=found_id,
            progress=progress,
            processes=os.cpu_count() or 1,
        )


def _summary(found: Verification) -> str:
    """How much was looked at."""
    told = f"{_some(found.records, 'record')} of {_some(found.writers, 'writer')}, {found.covered:,} in the register"
    if found.older:
        told += f", {found.older:,} from before it"
    if found.checkpoints:
        told += f"; held against {_some(found.checkpoints, 'checkpoint')}"
        told += ", signed by each key" if found.signed else ""
    if found.pruned:
        told += f"; {found.pruned:,} were taken out, as it says"
    return told


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _print_result(url: str, found: Verification) -> None:
    console = out()
    mark = marks(console)
    for problem in found.problems[:PROBLEMS_SHOWN]:
        console.print(f"{mark.failed} {problem}", style="red", markup=False, soft_wrap=True)
    if len(found.problems) > PROBLEMS_SHOWN:
        console.print(f"and {len(found.problems) - PROBLEMS_SHOWN} more; --json tells all", style="red")
    told = _summary(found)
    if found.ok:
        console.print(f"{mark.ok} {url} is whole: {told}", style="green", markup=False, soft_wrap=True)
    else:
        console.print(f"{url} is not whole: {told}", style="red", markup=False, soft_wrap=True)
    for note in found.notes:
        err().print(f"note: {note}", style="dim", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(store: Store) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal's stderr, else nothing."""
    console = err()
    last = store.bodies(Query(), newest=True, limit=1) if console.is_terminal else ()  # it may be one that is damaged
    if not last:
        yield None
        return
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("verifying", total=last[0][0])
        yield lambda done: bar.update(task, completed=done)


def make_proof(
    session_id: str,
    *,
    output: Path | None,
    checkpoints: Path | None,
    sign_with: Path | None,
    origin: str | None,
    store: str | None,
) -> None:
    """Write the proof of one session."""
    key = load_key(sign_with) if sign_with is not None else None
    with reading(store) as opened:
        found = find_session(opened, session_id)
        proof = prove(opened, found, key=key, origin=origin, since=_notes(checkpoints))
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(proof + b"\n")
        sys.stdout.flush()
        return
    try:
        output.write_bytes(proof + b"\n")
    except OSError as e:
        raise ConfigError(
            option="--output", value=str(output), allowed=f"a file that can be written ({e.strerror})"
        ) from e
    print(f"the proof of session {found} is in {output}; check it with: lifecycle audit verify-proof {output}")


def verify_proof_file(path: Path, *, checkpoints: Path | None, keys: Sequence[str], as_json: bool) -> int:
    """Check a proof, print what it shows, and return the exit code."""
    try:
        raw = path.read_bytes().removesuffix(b"\n")
    except OSError as e:
        raise _unreadable(path, "FILE", e) from e
    found = verify_proof(raw, checkpoints=_notes(checkpoints), keys=[Key.parse(key) for key in keys])
    if as_json:
        print_json(
            {
                "ok": found.ok,
                "session_id": found.session_id,
                "log": found.log,
                "records": len(found.records),
                "signed": found.signed,
                "anchored": found.anchored,
                "problems": found.problems,
                "notes": found.notes,
            },
            indent=True,
        )
        return Exit.OK if found.ok else Exit.FAILED
    console = out()
    mark = marks(console)
    for problem in found.problems[:PROBLEMS_SHOWN]:
        console.print(f"{mark.failed} {problem}", style="red", markup=False, soft_wrap=True)
    if found.ok:
        shown = f"{len(found.records)} records of session {found.session_id} are in the log {found.log}"
        by = [f"signed by {found.signed} of the keys"] if found.signed else []
        by += ["it fits a checkpoint that was kept"] if found.anchored else []
        console.print(f"{mark.ok} {'; '.join([shown, *by])}", style="green", markup=False, soft_wrap=True)
        for record in found.records:
            line = f"{record.at:%Y-%m-%d %H:%M:%S} UTC  {record.kind} {record.event}: {record.source} -> {record.dest}"
            console.print(f"  {line}", markup=False, soft_wrap=True)
    for note in found.notes:
        err().print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    return Exit.OK if found.ok else Exit.FAILED


def show_key(path: Path, *, new: bool, origin: str | None, store: str | None) -> None:
    """Print the public part of a key, as the signatures on checkpoints of a log name it; with `new`, make it first."""
    if new:
        try:
            new_key(path)
        except OSError as e:
            why = "it is there already" if isinstance(e, FileExistsError) else e.strerror
            raise ConfigError(option="FILE", value=str(path), allowed=f"a new file that can be made ({why})") from e
    key = load_key(path)
    if origin is None:
        with reading(store) as opened:
            body = opened.last_entry()
            if body is None:
                msg = f"{opened.url} has no records yet, so its log has no name; give one with --origin"
                raise UsageError(msg)
            origin = make_note(Entry.from_json(body).log, 0, b"").origin
    print(public_key(key, origin))


def prune_log(*, before: str, dry_run: bool, store: str | None, as_json: bool) -> None:
    """Take old records out, and print what went."""
    now = datetime.now(UTC)
    limit = parse_time("before", before, now=now)
    with reading(store) as opened:
        found = prune(opened, limit, _maker(), now, dry_run=dry_run)
        url = opened.url
    if as_json:
        told = {"records": found.records, "writers": dict(found.writers), "held": list(found.held), "dry_run": dry_run}
        print_json({"store": url, "before": limit.isoformat(), **told}, indent=True)
        return
    what = f"{_some(found.records, 'record')} of {_some(len(found.writers), 'writer')}"
    if not found.records:
        print(f"no segment in {url} is that old as a whole; nothing was taken out")
    else:
        print(f"{what} would be taken out of {url}" if dry_run else f"{what} were taken out of {url}")
    for session_id in found.held:
        told_of = f"session {session_id} is held, so it stays, and what lies in one segment with it"
        err().print(told_of, style="dim", markup=False, soft_wrap=True)


def hold_session(session_id: str, *, reason: str, release_it: bool, store: str | None) -> None:
    """Keep the records of a session from being taken out, or let them go again."""
    with reading(store) as opened:
        found = find_session(opened, session_id)
        (release if release_it else hold)(opened, found, reason, _maker(), datetime.now(UTC))
    print(f"the records of session {found} {'may go' if release_it else 'stay'}")


def _maker() -> Maker:
    return Maker("lifecycle audit", host_name(), os.getpid(), library_version())


def _notes(path: Path | None) -> list[Note]:
    if path is None:
        return []
    try:
        notes, torn = read_notes(path)
    except OSError as e:
        raise _unreadable(path, "--checkpoints", e) from e
    if torn:
        told = f"{path} ends with a checkpoint that was not written to its end; it is left out"
        err().print(f"note: {told}", style="dim", markup=False, soft_wrap=True)
    if not notes:
        raise ConfigError(option="--checkpoints", value=str(path), allowed="a file with a checkpoint in it")
    return notes


def _unreadable(path: Path, option: str, error: OSError) -> ConfigError:
    return ConfigError(option=option, value=os.fspath(path), allowed=f"a file that can be read ({error.strerror})")
