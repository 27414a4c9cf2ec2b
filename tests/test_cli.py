"""The command line: what it prints where, its exit codes, its help, and that it never shows a traceback.

Commands that only read run in this process; those that own a session, and all that is about signals, pipes and
terminals, run as a process of their own, as a user starts them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import children
import pytest

from lifecycle import Client, diagram, errors
from lifecycle.cli import app, exits, install_browser, main, stored, tables, terminal, trail
from lifecycle.cli.exits import Exit, NavigationFailed, exit_code
from lifecycle.cli.reference import commands, help_text
from lifecycle.cli.run import full_url
from lifecycle.cli.terminal import span
from lifecycle.ports import SessionRow
from lifecycle.states import CloseReason, Event, State
from lifecycle.stores import open_store
from lifecycle_adapters.memory import Fault, MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loopback_site import Site

    from lifecycle.audit import Record

pytestmark = pytest.mark.slow

WITHIN = 60


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@pytest.fixture
def lc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs a command in this process, outside of a terminal."""
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "LIFECYCLE_DEBUG", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> Ran:
        code = main(args)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run


def lifecycle(*args: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """Runs a command in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "lifecycle.cli", *args],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    return Ran(run.returncode, run.stdout, run.stderr)


@dataclass(frozen=True)
class Stored:
    """A store with four sessions: stopped, timed out, failed in its start, and attached to by a guest."""

    url: str
    stopped: str
    timed_out: str
    failed: str
    attached: str


@pytest.fixture
def log(tmp_path: Path) -> Stored:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="fail", nth=3)])
    with Client(adapter=adapter, store=url) as client:
        with client.Session(name="shop", labels={"team": "crawl", "env": "test"}) as stopped:
            pass
        with client.Session(timeout_minutes=0.02, labels={"team": "crawl"}) as timed_out:
            timed_out.wait_ended(WITHIN)
        failed = client.Session()
        with pytest.raises(errors.StartFailed):
            failed.start()
        with client.Session() as attached:
            client.Session(attached.session_id).start().stop()
    return Stored(url, stopped.session_id, timed_out.session_id, failed.session_id, attached.session_id)


def records(url: str, session_id: str | None = None) -> list[Record]:
    store = open_store(url)
    try:
        return [record for _, record in store.records(session_id=session_id)]
    finally:
        store.close()


# --- help -------------------------------------------------------------------------------------------------------


def test_without_arguments_it_prints_help(lc: Callable[..., Ran]) -> None:
    bare = lc()
    assert (bare.code, bare.err) == (0, "")
    assert bare == lc("--help")
    for command in ("demo", "run", "sessions", "audit", "diagram", "install-browser", "doctor"):
        assert re.search(rf"^  {command}  +\w", bare.out, re.MULTILINE)
    assert "..." not in bare.out.partition("Commands:")[2], "a summary was cut off"


def test_each_exit_code_is_in_the_help(lc: Callable[..., Ran]) -> None:
    for args in (["--help"], ["run", "--help"]):
        told = lc(*args).out
        for code, meaning in exits.MEANINGS.items():
            assert re.search(rf"^ +{code:d} +{re.escape(meaning)}", told, re.MULTILINE)


def test_every_command_and_option_has_help() -> None:
    found = dict(commands())
    assert {"lifecycle demo", "lifecycle sessions stop", "lifecycle audit log"} < found.keys()
    for name, context in found.items():
        assert context.command.help, name
        for parameter in context.command.get_params(context):
            assert parameter.help, f"{name}: {parameter.name}"
        leaf = not hasattr(context.command, "commands")
        assert not leaf or "Examples:\n  lifecycle" in context.command.epilog, f"{name} has no example"


def test_every_example_is_a_command_that_parses() -> None:
    by_name = {name: context.command for name, context in commands()}
    examples = [line.strip() for line in help_text().splitlines() if line.startswith("    lifecycle ")]
    assert len(examples) >= len(by_name) - 3
    for example in examples:
        words = example.partition(" | ")[0].split()
        name = max((n for n in by_name if words[: len(n.split())] == n.split()), key=len)
        assert not hasattr(by_name[name], "commands"), example
        by_name[name].make_context(name, words[len(name.split()) :])


def test_the_reference_is_what_help_prints_wherever_it_is_made(
    lc: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = help_text()
    for name, value in (("COLUMNS", "200"), ("FORCE_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
        assert help_text() == plain
    assert max(map(len, plain.splitlines())) <= 80
    assert "\x1b" not in plain
    assert all(line == line.rstrip() for line in plain.splitlines())
    monkeypatch.setenv("COLUMNS", "82")  # the width that --help goes by is two less
    for name, _ in commands():
        assert lc(*name.split()[1:], "--help").out.strip() in plain
    made = lifecycle_module("lifecycle.cli.reference", env={"COLUMNS": "200", "FORCE_COLOR": "1"})
    assert made == plain


def lifecycle_module(module: str, env: dict[str, str]) -> str:
    command = [sys.executable, "-W", "error", "-m", module]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout


def test_version(lc: Callable[..., Ran]) -> None:
    told = lc("--version")
    assert told.code == 0
    assert re.fullmatch(r"lifecycle \d\S+\n", told.out)


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["runn"],
        ["run"],
        ["run", "a", "b"],
        ["run", "a", "--timeout-minutes", "soon"],
        ["sessions"],
        ["sessions", "list", "--limit", "0"],
        ["sessions", "list", "--status", "busy"],
        ["sessions", "list", "--label", "team"],
        ["diagram", "--format", "bmp"],
        ["run", "a", "--timeout-minutes", "0", "--adapter", "memory"],
        ["run", "a", "--adapter", "memroy"],
        ["run", "a", "--screenshot", "a.gif"],
        ["run", "a", "--screenshot", "no/such/folder/a.png"],
        ["sessions", "list", "--store", "sqlite:///no/such/folder/a.db"],
        ["audit", "log", "--store", "nonsense"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_told_on_stderr_with_code_2(lc: Callable[..., Ran], args: list[str]) -> None:
    told = lc(*args)
    assert (told.code, told.out) == (Exit.USAGE, "")
    assert told.err
    assert "Traceback" not in told.err
    assert len(told.err.splitlines()) <= (4 if "Usage:" in told.err and len(args) > 1 else 16)


def test_an_error_names_the_way_out_in_one_line(lc: Callable[..., Ran]) -> None:
    told = lc("run", "a", "--adapter", "memroy")
    assert told.err.startswith("lifecycle: ")
    assert "did you mean 'memory'" in told.err
    assert told.err.count("\n") == 1


def test_debug_adds_the_traceback(lc: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFECYCLE_DEBUG", "1")
    told = lc("audit", "log", "--store", "nonsense")
    assert told.code == Exit.USAGE
    assert "Traceback" in told.err
    assert told.err.splitlines()[-1].startswith("lifecycle: store='nonsense'")


def test_an_error_that_nobody_foresaw_is_one_line_too(lc: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object, **__: object) -> None:
        error = OSError("the disk\nis gone")
        error.add_note("and so is its cable")
        raise error

    monkeypatch.setattr(stored, "open_store", break_down)
    told = lc("audit", "log")
    assert (told.code, told.out) == (Exit.FAILED, "")
    assert told.err.splitlines() == [
        "lifecycle: OSError: the disk (LIFECYCLE_DEBUG=1 shows where)",
        "  note: and so is its cable",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError(option="a", value=1, allowed="2"), 2),
        (errors.UnsupportedOperation(operation="a", adapter="b", way_out="c"), 2),
        (errors.StartFailed("a"), 3),
        (errors.CapacityError("a"), 3),
        (errors.AuthenticationError("a"), 3),
        (errors.CookieFileError(path="a", reason="b"), 3),
        (NavigationFailed(url="a", reason="b"), 4),
        (errors.SessionTimedOut(session_id="a", close_reason=CloseReason.IDLE_TIMEOUT), 5),
        (errors.SessionFailed(session_id="a", close_reason=CloseReason.CRASH), 5),
        (errors.ConnectionLost("a"), 5),
        (errors.ReleaseFailed("a"), 5),
        (errors.CookieSaveError(path="a", rescue_path="b", reason="c"), 1),
        (errors.StoreError("a"), 1),
        (ValueError("a"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_the_exit_code_of_an_error(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_every_error_of_the_library_has_a_code_above_0() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert all(exit_code(kind.__new__(kind)) > 0 for kind in kinds)


def test_a_warning_is_one_line_without_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("LIFECYCLE_STORE")
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "file"), "HOME": str(tmp_path / "file")}
    command = [sys.executable, "-m", "lifecycle.cli", "sessions", "list"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert run.stdout == "no sessions in memory:\n"
    assert run.stderr.startswith("lifecycle: warning: the default store can't be used")
    assert run.stderr.count("\n") == 1


def test_the_extra_is_named_when_it_is_missing(lc: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    told = lc("run", "a")
    assert (told.code, told.out) == (2, "")
    assert told.err.count("\n") == 1
    assert 'pip install "session-lifecycle[cli]"' in told.err


def test_signal_handlers_are_put_back(lc: Callable[..., Ran]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(n) for n in numbers]
    lc("--version")
    assert [signal.getsignal(n) for n in numbers] == before


# --- sessions ---------------------------------------------------------------------------------------------------


def test_sessions_list(lc: Callable[..., Ran], log: Stored) -> None:
    told = lc("sessions", "list", "--store", log.url)
    assert told.code == 0
    header, _, *rows = told.lines
    assert header.split()[:4] == ["session", "status", "reason", "created"]
    assert [row.split()[:3] for row in rows] == [
        [log.attached, "closed", "manual"],
        [log.failed, "error", "backend"],
        [log.timed_out, "timed_out", "idle_timeout"],
        [log.stopped, "closed", "manual"],
    ]
    assert rows[-1].endswith("shop env=test team=crawl")
    assert told.lines == [line.rstrip() for line in told.lines]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--status", "timed_out"], ["timed_out"]),
        (["--status", "active"], []),
        (["--label", "team=crawl"], ["timed_out", "stopped"]),
        (["--label", "team=crawl", "--label", "env=test"], ["stopped"]),
        (["--limit", "2"], ["attached", "failed"]),
    ],
    ids=" ".join,
)
def test_sessions_list_filters(lc: Callable[..., Ran], log: Stored, options: list[str], expected: list[str]) -> None:
    told = json.loads(lc("sessions", "list", "--store", log.url, "--json", *options).out)
    assert [s["session_id"] for s in told] == [getattr(log, name) for name in expected]


def test_sessions_list_as_json_holds_every_field(lc: Callable[..., Ran], log: Stored) -> None:
    told = json.loads(lc("sessions", "list", "--store", log.url, "--json").out)[-1]
    assert (told["status"], told["close_reason"], told["name"]) == ("closed", "manual", "shop")
    assert told["labels"] == {"env": "test", "team": "crawl"}
    assert datetime.fromisoformat(told["closed_at"]) >= datetime.fromisoformat(told["created_at"])
    assert told["owner_gone"] is False


def test_no_sessions(lc: Callable[..., Ran], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    assert lc("sessions", "list", "--store", url).out.startswith("no sessions in ")
    assert lc("sessions", "list", "--store", url, "--status", "active").out.startswith("no such sessions in ")
    assert json.loads(lc("sessions", "list", "--store", url, "--json").out) == []


def dead_row(**changes: object) -> SessionRow:
    now = datetime.now(UTC)
    row = SessionRow(
        session_id="dead-1",
        attachment_id="a",
        adapter="local",
        state=State.ACTIVE,
        created_at=now,
        last_accessed_at=now,
        timeout_minutes=3,
        max_duration_minutes=15,
        owner_pid=2**22 + 1,  # above the largest pid of Linux
        owner_started="1",
        boot_id=_boot(),
        host=socket.gethostname(),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def _boot() -> str:
    from lifecycle.identity import boot_id

    return boot_id()


def test_a_session_whose_owner_has_ended_is_told_from_a_live_one(lc: Callable[..., Ran], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    store = open_store(url)
    alive = dead_row(session_id="live-1", owner_pid=os.getpid(), owner_started=_started())
    store.write([], [dead_row(), alive, dead_row(session_id="over-1", state=State.CLOSED)])
    store.close()
    told = {s["session_id"]: s["owner_gone"] for s in json.loads(lc("sessions", "list", "--store", url, "--json").out)}
    assert told == {"dead-1": True, "live-1": False, "over-1": False}
    assert "owner has ended" in lc("sessions", "list", "--store", url).out
    assert "(owner has ended)" in lc("sessions", "show", "dead", "--store", url).out
    assert json.loads(lc("sessions", "show", "dead", "--store", url, "--json").out)["owner"]["gone"] is True


def _started() -> str:
    from lifecycle.identity import process_started

    return process_started(os.getpid()) or ""


def test_sessions_show_takes_a_beginning(lc: Callable[..., Ran], log: Stored) -> None:
    told = lc("sessions", "show", log.failed[:8], "--store", log.url)
    assert told.code == 0
    assert re.search(rf"^session +{log.failed}$", told.out, re.MULTILINE)
    assert re.search(r"^error +StartFailed", told.out, re.MULTILINE)
    whole = json.loads(lc("sessions", "show", log.failed, "--store", log.url, "--json").out)
    assert (whole["status"], whole["owner"]["pid"], whole["released"]) == ("error", os.getpid(), True)


def test_an_id_that_fits_none_or_several_is_refused(lc: Callable[..., Ran], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    store = open_store(url)
    store.write([], [dead_row(session_id=name) for name in ("ab", "abc", "abd")])
    store.close()
    for args in (["sessions", "show"], ["sessions", "stop"], ["audit", "log"]):
        none = lc(*args, "x", "--store", url)
        assert (none.code, none.out) == (2, "")
        assert "no session" in none.err
        assert "no session" in lc(*args, "", "--store", url).err
    several = lc("sessions", "show", "a", "--store", url)
    assert (several.code, several.out) == (2, "")
    assert "ab, abc, abd" in several.err
    assert lc("sessions", "show", "ab", "--store", url).code == 0, "a whole id is taken even where it begins others"


def test_of_many_sessions_that_begin_alike_a_few_are_named(lc: Callable[..., Ran], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    store = open_store(url)
    store.write([], [dead_row(session_id=f"a{n}") for n in range(7)])
    store.close()
    told = lc("sessions", "show", "a", "--store", url)
    assert told.code == Exit.USAGE
    assert "more than 5 sessions, write more of it: a0, a1, a2, a3, a4\n" in told.err


def test_sessions_stop_reaches_the_owner_in_another_process(log: Stored) -> None:
    with Client(adapter="memory", store=log.url) as client:
        session = client.Session().start()
        told = lifecycle("sessions", "stop", session.session_id[:13], "--store", log.url)
        assert (told.code, told.err) == (0, "")
        assert told.out.startswith(f"session {session.session_id} is over: closed, manual")
        assert session.state is State.CLOSED
        ended = [r for r in session.history() if r.terminal]
        assert [(r.event, r.cause) for r in ended] == [(Event.STOP, "guest")]
    again = lifecycle("sessions", "stop", session.session_id, "--store", log.url, "--json")
    assert (again.code, json.loads(again.out)["was_over"]) == (0, True)
    over = lifecycle("sessions", "stop", log.timed_out, "--store", log.url)
    assert over.out.startswith(f"session {log.timed_out} was over already: timed_out, idle_timeout")


# --- the log ----------------------------------------------------------------------------------------------------


def test_audit_log_as_json_is_what_is_stored_byte_for_byte(lc: Callable[..., Ran], log: Stored) -> None:
    told = lc("audit", "log", "--store", log.url, "--json")
    assert told.lines == [r.to_json().decode() for r in records(log.url)]
    assert len(told.lines) > 15
    one = lc("audit", "log", log.attached[:8], "--store", log.url, "--json")
    assert one.lines == [r.to_json().decode() for r in records(log.url, log.attached)]


def test_audit_log_has_a_line_for_each_record_in_a_pipe(lc: Callable[..., Ran], log: Stored) -> None:
    told = lc("audit", "log", "--store", log.url)
    header, _, day, *rows = [line for line in told.lines if line]
    assert re.split(r"  +", header) == ["time (UTC)", "session", "event", "record", "transition", "why", "steps in ms"]
    written = records(log.url)
    assert day == str(written[0].at.date())
    assert [row.split()[:4] for row in rows] == [
        [r.at.strftime("%H:%M:%S.%f")[:-3], r.session_id[:8], r.event, r.kind] for r in written
    ]
    by_end = {(r.session_id, r.event): row for r, row in zip(written, rows, strict=True) if r.terminal}
    expired = by_end[log.timed_out, Event.EXPIRE]
    assert "active → timed_out" in expired
    assert "  idle_timeout" in expired
    assert re.search(r"release_backend=\d+\.\d", expired)
    assert "save_cookies" not in expired, "a step that had nothing to do is no news"
    assert "StartFailed" in by_end[log.failed, Event.FAIL]
    assert sum("guest: manual" in row for row in rows) == 2


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_tables_fit_the_terminal(
    lc: Callable[..., Ran], log: Stored, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for args in (["audit", "log"], ["sessions", "list"]):
        told = lc(*args, "--store", log.url)
        assert max(map(len, told.lines)) <= width
        assert "…" not in told.out, "something was cut off"
        assert told.out.count(log.stopped[:8]) >= 1
    expired = [line for line in lc("audit", "log", log.timed_out, "--store", log.url).lines if "timed_out" in line]
    assert all("idle_timeout" in line for line in expired)
    assert len(expired) == 2


def test_audit_log_says_when_it_is_cut(lc: Callable[..., Ran], log: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    written = records(log.url)
    few = lc("audit", "log", "--store", log.url, "--json", "--limit", "3")
    assert few.lines == [r.to_json().decode() for r in written[-3:]]
    monkeypatch.setattr(trail, "RECORDS_SHOWN", len(written))
    assert lc("audit", "log", "--store", log.url).err == ""
    monkeypatch.setattr(trail, "RECORDS_SHOWN", len(written) - 1)
    cut = lc("audit", "log", "--store", log.url)
    assert f"the newest {len(written) - 1} records" in cut.err
    assert sum(r.event in line for r in written[:1] for line in cut.lines) < len(cut.lines)
    assert len(lc("audit", "log", "--store", log.url, "--json").lines) == len(written), "JSON is never cut unasked"


def test_audit_log_without_records(lc: Callable[..., Ran], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    assert lc("audit", "log", "--store", url).out.startswith("no records in ")
    assert lc("audit", "log", "--store", url, "--json").out == ""


def test_every_state_and_kind_of_record_can_be_shown() -> None:
    from lifecycle.audit import RecordKind, StepOutcome

    assert set(tables._STATES) == set(State)
    assert set(tables._KINDS) <= set(RecordKind)
    assert set(tables._OUTCOMES) <= set(StepOutcome)


def test_what_went_wrong_in_a_step_is_shown(lc: Callable[..., Ran], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    adapter = MemoryAdapter(
        faults=[Fault(step="save_cookies", kind="fail"), Fault(step="release_backend", kind="fail")]
    )
    with (
        Client(adapter=adapter, store=url) as client,
        pytest.raises(errors.LifecycleError),
        client.Session(cookie_file=tmp_path / "cookies.json"),
    ):
        pass
    told = lc("audit", "log", "--store", url).out
    assert re.search(r"save_cookies=\d+\.\d \w*Error", told)
    assert re.search(r"release_backend=\d+\.\d\u00d72", told)


# --- terminals and pipes ----------------------------------------------------------------------------------------


def test_colours_only_where_they_are_wanted(log: Stored) -> None:
    plain = lifecycle("sessions", "list", "--store", log.url)
    assert "\x1b" not in plain.out
    coloured = lifecycle("sessions", "list", "--store", log.url, env={"FORCE_COLOR": "1", "COLUMNS": "100"})
    assert "\x1b[3" in coloured.out
    none = lifecycle(
        "sessions", "list", "--store", log.url, env={"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "100"}
    )
    assert not re.search(r"\x1b\[[\d;]*3\d", none.out)


def test_an_encoding_without_arrows_gets_ascii(log: Stored) -> None:
    told = lifecycle("audit", "log", "--store", log.url, env={"PYTHONIOENCODING": "ascii"})
    assert (told.code, told.err) == (0, "")
    assert "active -> closed" in told.out
    assert told.out.isascii()


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with Client(adapter="memory", store=url) as client:
        for _ in range(60):  # more than a pipe holds
            client.Session(labels={"filler": "x" * 1000}).start().stop()
    command = [sys.executable, "-m", "lifecycle.cli", "audit", "log", "--store", url, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stderr:
        assert json.loads(process.stdout.readline())["event"] == "start"
        process.stdout.close()
        assert process.stderr.read() == ""
        process.wait(WITHIN)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.1234, "0.12 s"),
        (9.994, "9.99 s"),
        (9.999, "10.0 s"),
        (59.96, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (8050, "2 h 14 min"),
    ],
)
def test_a_length_of_time(seconds: float, told: str) -> None:
    assert span(seconds) == told
    assert span(timedelta(seconds=seconds)) == told


# --- diagrams, browser, doctor ----------------------------------------------------------------------------------


def test_every_format_can_be_asked_for(lc: Callable[..., Ran]) -> None:
    assert {*app.Format} == {*get_args(diagram.Format)}
    for form in app.Format:
        assert lc("diagram", "--format", form).out == diagram.render(form.value)  # type: ignore[arg-type]
    assert lc("diagram").out == diagram.render("mermaid")


def test_diagrams_are_written_and_checked(lc: Callable[..., Ran], tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    assert lc("diagram", "--check", "--folder", str(folder)).code == 2
    assert lc("diagram", "--write", str(folder)).code == 0
    assert {p.name for p in folder.iterdir()} == set(diagram.FILES)
    assert lc("diagram", "--check", "--folder", str(folder)).code == 0
    (folder / "table.md").write_text("stale")
    stale = lc("diagram", "--check", "--folder", str(folder))
    assert (stale.code, stale.out) == (1, "")
    assert "table.md" in stale.err
    assert lc("diagram", "--write", str(folder), "--check").code == 0
    assert (folder / "table.md").read_text() == diagram.render("markdown")


def test_install_browser_tells_its_progress_and_what_to_do(
    lc: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(*, echo: Callable[[str], None], quiet: bool) -> None:
        if not quiet:
            echo("trying")
        raise errors.StartFailed("no browser\nWhat you can do: this")

    monkeypatch.setattr(install_browser, "install_browser", install)
    told = lc("install-browser")
    assert (told.code, told.out, told.err) == (1, "trying\n", "no browser\nWhat you can do: this\n")
    assert lc("install-browser", "--quiet").out == ""


def test_doctor_starts_a_browser_for_real() -> None:
    told = lifecycle("doctor", "--json")
    assert (told.code, told.err) == (0, "")
    report = json.loads(told.out)
    found = {f["name"]: f for f in report["findings"]}
    assert report["ok"] is True
    assert all(found[name]["verdict"] == "ok" for name in ("python", "playwright", "browser", "start", "store"))
    assert re.match(r"started in \d+\.\d+ s, stopped in \d+\.\d+ s", found["start"]["found"])
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    assert found["sandbox"]["verdict"] == ("note" if root else "ok")


def test_doctor_names_what_is_missing_and_the_way_out(tmp_path: Path) -> None:
    env = {
        "CHROMIUM_PATH": str(tmp_path / "none"),
        "LIFECYCLE_STORE": "nonsense",
        "LIFECYCLE_ADAPTER": "memory",
        "DISPLAY": "",
        "WAYLAND_DISPLAY": "",
    }
    told = lifecycle("doctor", "--json", env=env)
    found = {f["name"]: f for f in json.loads(told.out)["findings"]}
    assert told.code == 1
    assert {name for name, f in found.items() if f["verdict"] == "missing"} == {"browser", "start", "store"}
    assert found["browser"]["way_out"] == "mend or unset CHROMIUM_PATH"
    assert "LIFECYCLE_ADAPTER=memory" in found["adapter"]["found"]
    shown = lifecycle("doctor", env={**env, "COLUMNS": "80"})
    assert shown.code == 1
    assert max(map(len, shown.lines)) <= 80
    assert "The local browser does not work here yet." in shown.out


# --- run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("example.com", "https://example.com"),
        ("http://example.com/a", "http://example.com/a"),
        ("localhost:8000/a", "http://localhost:8000/a"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:80", "http://[::1]:80"),
        ("localhost.example.com", "https://localhost.example.com"),
        ("example.com:8443", "https://example.com:8443"),
        ("about:blank", "about:blank"),
        ("data:text/html,x", "data:text/html,x"),
    ],
)
def test_a_url_without_scheme(given: str, full: str) -> None:
    assert full_url(given) == full


def test_run_opens_the_page(site: Site, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'log.db'}"
    picture, cookies = tmp_path / "page.png", tmp_path / "cookies.json"
    jar = [{"name": "login", "value": "Ada", "domain": "127.0.0.1", "path": "/", "expires": time.time() + 3600}]
    cookies.write_text(json.dumps({"cookies": jar, "origins": []}))
    options = ["--screenshot", str(picture), "--cookie-file", str(cookies), "--store", store]
    told = lifecycle("run", f"{site.url}/account", *options, "--json")
    assert (told.code, told.err) == (0, "")
    visit = json.loads(told.out)
    assert visit["title"] == "A small site"
    assert (visit["http_status"], visit["status"], visit["close_reason"]) == (200, "closed", "manual")
    assert (visit["cookies_loaded"], visit["cookies_saved"], visit["error"]) == (1, 1, None)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert site.requests[-1] == "GET /account"
    assert [r.session_id for r in records(store) if r.terminal] == [visit["session_id"]]

    shown = lifecycle("run", f"{site.url}/nowhere", "--store", store)
    assert shown.code == 0
    assert re.search(r"^HTTP status +404$", shown.out, re.MULTILINE)
    assert re.search(r"^ended +closed, manual, after \d", shown.out, re.MULTILINE)


def test_run_says_why_a_page_could_not_be_opened(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        told = lifecycle("run", url, "--json")
    assert told.code == Exit.NO_PAGE
    assert told.err == f"lifecycle: could not open {url}: net::ERR_CONNECTION_REFUSED\n"
    visit = json.loads(told.out)
    assert (visit["status"], visit["error"]["type"]) == ("closed", "NavigationFailed")


def test_run_says_why_there_was_no_start(tmp_path: Path) -> None:
    (tmp_path / "cookies.json").write_text("{torn")
    told = lifecycle("run", "about:blank", "--cookie-file", str(tmp_path / "cookies.json"), "--json")
    assert told.code == Exit.NO_START
    assert "cookies.json, line 1" in told.err
    assert json.loads(told.out)["status"] == "error"
    told = lifecycle("run", "about:blank", env={"CHROMIUM_PATH": str(tmp_path / "none")})
    assert told.code == Exit.NO_START
    assert told.err.count("\n") == 1


def test_run_needs_an_adapter_with_pages() -> None:
    told = lifecycle("run", "about:blank", "--adapter", "memory")
    assert told.code == Exit.USAGE
    assert "'memory'" in told.err


@contextmanager
def silent_site() -> Iterator[tuple[str, socket.socket]]:
    """A URL that never answers, and the socket on which the browser's request arrives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WITHIN)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/", server


def test_run_that_times_out(tmp_path: Path) -> None:
    with silent_site() as (url, _):
        told = lifecycle("run", url, "--timeout-minutes", "0.01", "--json")
    assert told.code == Exit.ENDED
    assert "idle_timeout" in told.err
    assert told.err.count("\n") == 1
    visit = json.loads(told.out)
    assert (visit["status"], visit["close_reason"]) == ("timed_out", "idle_timeout")
    assert visit["error"]["type"] == "SessionTimedOut"


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_session_and_saves_the_cookies(tmp_path: Path, name: str, code: int) -> None:
    cookies = tmp_path / "cookies.json"
    store = f"sqlite:///{tmp_path / 'log.db'}"
    with silent_site() as (url, server):
        command = [sys.executable, "-m", "lifecycle.cli", "run", url, "--json", "--store", store]
        process = subprocess.Popen(
            [*command, "--cookie-file", str(cookies)], env=children.environment(struck=True),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process, server.accept()[0]:  # it is asking, so the session is active; and nobody answers
            process.send_signal(getattr(signal, name))
            out, err = process.communicate(timeout=WITHIN)
    assert (process.returncode, err) == (code, f"lifecycle: {name}, ending what is open\n")
    visit: dict[str, Any] = json.loads(out)
    assert (visit["status"], visit["close_reason"], visit["error"]["type"]) == ("closed", "manual", "Interrupted")
    assert cookies.exists()
    assert [r.dest for r in records(store) if r.terminal] == [State.CLOSED]


def run_code(code: str) -> Ran:
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(
        command, env=children.environment(struck=True), capture_output=True, text=True, timeout=WITHIN, check=False
    )
    return Ran(run.returncode, run.stdout, run.stderr)


def test_what_a_signal_broke_off_is_not_told_at_length() -> None:
    """Seen: the answer to a call that a signal struck was logged by Playwright, with a traceback."""
    told = run_code(
        """
import logging
from lifecycle.cli.terminal import plain_warnings

with plain_warnings():
    for name in ("asyncio", "playwright"):
        logging.getLogger(name).error("something of theirs")
"""
    )
    assert (told.code, told.out, told.err) == (0, "", "")


def test_a_signal_that_python_drops_is_raised_again() -> None:
    """An exception out of a finalizer is dropped by Python, and with it the wish to end."""
    told = run_code(
        """
import os, signal, sys, threading
from lifecycle.cli.signals import ending_on_signals

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100): pass  # here it strikes
        print("in the finalizer")

with ending_on_signals():
    Dropped()
    print("after it")
    threading.Event().wait(30)
    print("never ended")
"""
    )
    assert (told.code, told.lines) == (143, ["after it"])
    assert told.err == "lifecycle: SIGTERM, ending what is open\n"


@pytest.mark.parametrize(
    ("error", "told_after"),
    [("AttributeError('half made')", ""), ("StoreError('the disk is full')", "lifecycle: the disk is full\n")],
)
def test_a_signal_gives_the_exit_code_whatever_breaks_after_it(error: str, told_after: str) -> None:
    told = run_code(
        """
import os, signal, sys
from lifecycle.cli import main, stored
from lifecycle.errors import StoreError

def broken(store):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        while True: pass
    finally:
        raise ERROR

stored.open_store = broken
sys.exit(main(["sessions", "list"]))
""".replace("ERROR", error)
    )
    assert (told.code, told.out, told.err) == (143, "", f"lifecycle: SIGTERM, ending what is open\n{told_after}")


def test_what_a_parent_ignores_stays_ignored() -> None:
    told = run_code(
        """
import os, signal
from lifecycle.cli.signals import ending_on_signals

signal.signal(signal.SIGHUP, signal.SIG_IGN)
with ending_on_signals():
    os.kill(os.getpid(), signal.SIGHUP)
    print("still here")
"""
    )
    assert (told.code, told.out) == (0, "still here\n")


def test_json_is_alone_on_stdout(log: Stored, site: Site) -> None:
    for args in (
        ["sessions", "list"],
        ["sessions", "show", log.stopped],
        ["sessions", "stop", log.stopped],
        ["run", f"{site.url}/"],
    ):
        told = lifecycle(*args, "--store", log.url, "--json")
        assert (told.code, told.err) == (0, ""), args
        json.loads(told.out)


def test_the_console_of_stdout_takes_its_width_from_the_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.out(table=True).width == terminal.WITHOUT_LIMIT
    assert terminal.out().width == terminal.PIPED_WIDTH
    monkeypatch.setenv("COLUMNS", "90")
    assert terminal.out(table=True).width == terminal.out().width == 90
