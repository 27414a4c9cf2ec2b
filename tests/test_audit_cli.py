"""``lifecycle audit``: filters, numbers, exports, and that what is followed comes at least once, whoever is killed."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import tzset

import pytest
from waiting import until

from lifecycle.audit import RecordKind, StepOutcome, StepResult
from lifecycle.audit.query import Query
from lifecycle.cli import export, main, trail
from lifecycle.cli.exits import Exit
from lifecycle.cli.export import COLUMNS, plain
from lifecycle.cli.filters import Filters, parse_time, query_of
from lifecycle.errors import ConfigError
from lifecycle.states import Event, State
from lifecycle.stores import open_store
from lifecycle.testing.store_suite import T0, a_record, a_row, the_end
from lifecycle.testing.ways import in_threads

NOW = datetime(2024, 5, 10, 12, tzinfo=UTC)
WITHIN = 60


@pytest.fixture
def lc(capsysbinary, monkeypatch):
    """Runs ``lifecycle audit`` in this process: its exit code, lines of stdout, and stderr."""
    for name in ("COLUMNS", "FORCE_COLOR", "LIFECYCLE_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run(*args):
        code = main(["audit", *map(str, args)])
        printed = capsysbinary.readouterr()
        return code, printed.out.decode().splitlines(), printed.err.decode()

    return run


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def records(url):
    """Three sessions in a store: closed, failed, and one that is active still."""
    slow = (StepResult(step="save_cookies", outcome=StepOutcome.FAILED, ms=2500.0, error="OSError"),)
    failed = {"event": Event.FAIL, "kind": RecordKind.COMMIT, "dest": State.ERROR, "cause": "step", "session_id": "bad"}
    written = [
        a_record(1, 1, steps=(), session_id="good"),
        a_record(2, 2, kind=RecordKind.COMMIT, session_id="good", at=T0 + timedelta(hours=1)),
        the_end(3, 3, session_id="good", at=T0 + timedelta(hours=2), steps=slow),
        a_record(4, 1, attachment_id="b", steps=(), session_id="bad", labels={"team": "red"}, adapter="local"),
        a_record(5, 2, attachment_id="b", **failed, error="StartFailed", labels={"team": "red"}, steps=()),
        a_record(6, 1, attachment_id="c", session_id="live", steps=(), at=datetime.now(UTC) - timedelta(hours=1)),
    ]
    rows = [a_row(s, attachment_id=a) for s, a in (("good", "a"), ("bad", "b"), ("live", "c"))]
    with closing(open_store(url)) as store:
        store.write(written, rows)
    return written


# --- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "seqs"),
    [
        ((), [1, 2, 3, 4, 5, 6]),
        (("good",), [1, 2, 3]),
        (("--state", "active"), [2]),
        (("--state", "not_started"), [1, 4, 6]),
        (("--event", "stop"), [3]),
        (("--kind", "commit"), [2, 3, 5]),
        (("--cause", "step"), [5]),
        (("--adapter", "local"), [4]),
        (("--error", "StartFailed"), [5]),
        (("--error", "OSError"), [2, 3]),
        (("--label", "team=red"), [4, 5]),
        (("--label", "team=red", "--label", "team=blue"), [1, 2, 3, 6]),
        (("--since", "2h"), [6]),
        (("--since", "2024-01-01T13:00", "--until", "2024-01-01T16:00+02:00"), [2]),
        (("--until", "2024-01-01T13:00:00Z"), [1, 4, 5]),
        (("--slower-than", "12"), [2, 3]),
        (("--slower-than", "12.5"), [3]),
        (("go", "--kind", "commit", "--limit", "1"), [3]),
        (("bad", "--error", "OSError"), []),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_each_filter_of_the_log(lc, url, records, args, seqs):
    code, lines, told = lc("log", *args, "--store", url, "--json")
    assert (code, told) == (0, "")
    assert lines == [r.to_json().decode() for r in records if r.writer_seq in seqs]
    code, lines, told = lc("export", *(a for a in args if a not in ("--limit", "1")), "--store", url)
    assert [json.loads(line)["writer_seq"] for line in lines if json.loads(line)["writer_seq"] in seqs] == seqs
    code, lines, told = lc("log", *args, "--store", url)
    assert code == 0
    if seqs:
        assert sum(bool(re.match(r"\d\d:\d\d:\d\d", line)) for line in lines) == len(seqs)
    else:
        assert lines == [f"no such records in {url}"]


@pytest.mark.parametrize("command", ["log", "stats", "follow", "export"])
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--since", "yesterday"), "since='yesterday' is not allowed; allowed: a time such as 2024-05-01"),
        (("--until", "5x"), "until='5x'"),
        (("--since", "1h", "--until", "2h"), "swap the two"),
        (("--label", "team"), "label='team'"),
        (("--slower-than", "-1"), "slower_than=-1.0"),
        (("--cause", ""), "cause=''"),
        (("--state", "busy"), "busy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_filter_is_told_before_a_store_is_made(lc, url, tmp_path, command, args, told):
    code, lines, err = lc(command, *args, "--store", url)
    assert (code, lines) == (Exit.USAGE, [])
    assert told in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("30m", NOW - timedelta(minutes=30)),
        ("90 s", NOW - timedelta(seconds=90)),
        ("7d ago", NOW - timedelta(days=7)),
        ("1.5W", NOW - timedelta(weeks=1.5)),
        ("2024-05-01", datetime(2024, 5, 1, tzinfo=UTC)),
        ("2024-05-01T10:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        (" 2024-05-01T10:00+02:00 ", datetime(2024, 5, 1, 8, tzinfo=UTC)),
        ("2024-05-01T10:00:00.5Z", datetime(2024, 5, 1, 10, 0, 0, 500000, tzinfo=UTC)),
    ],
)
def test_a_time_is_iso_or_a_span_back(text, time, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    tzset()
    try:
        assert parse_time("since", text, now=NOW) == time
    finally:
        monkeypatch.undo()
        tzset()


@pytest.mark.parametrize(
    "text", ["", "h", "-2h", "2 fortnights", "24-05-01", "999999999d", "1e9d", "0001-01-01T00+02:00"]
)
def test_what_is_no_time_is_named(text):
    with pytest.raises(ConfigError) as e:
        parse_time("until", text, now=NOW)
    assert (e.value.option, e.value.value) == ("until", text)


def test_filters_reach_the_query():
    given = Filters(
        state=State.ERROR, event=Event.FAIL, kind=RecordKind.COMMIT, cause="step", adapter="local", error="E",
        labels=["a=b", "c=d=e"], since="2024-05-01", until="2024-05-02", slower_than=5,
    )  # fmt: skip
    assert query_of(given, session="s") == Query(
        session="s", state=State.ERROR, event=Event.FAIL, kind=RecordKind.COMMIT, cause="step", adapter="local",
        error="E", labels={"a": "b", "c": "d=e"}, since=datetime(2024, 5, 1, tzinfo=UTC),
        until=datetime(2024, 5, 2, tzinfo=UTC), slower_than=5.0,
    )  # fmt: skip


# --- numbers ------------------------------------------------------------------------------------------------------


def test_stats_as_json_and_as_tables(lc, url, records):
    code, lines, err = lc("stats", "--store", url, "--json")
    assert (code, err) == (0, "")
    told = json.loads("\n".join(lines))
    assert told["records"] == len(records)
    assert told["endings"] == [
        {"state": "closed", "close_reason": "manual", "count": 1},
        {"state": "error", "close_reason": None, "count": 1},
    ]
    assert told["failures"] == [{"cause": "step", "error": "StartFailed", "count": 1}]
    [saving] = [step for step in told["steps"] if step["step"] == "save_cookies"]
    assert saving == {
        "step": "save_cookies", "ms": {"count": 1, "p50": 2500.0, "p95": 2500.0, "max": 2500.0}, "skipped": 0,
        "failures": {"OSError": 1},
    } or abs(saving["ms"]["p50"] - 2500) < 25  # fmt: skip
    code, lines, err = lc("stats", "--store", url)
    assert lines[0].split("  ")[0] == "state (6 records)"
    assert any(re.match(r"not_started +3 +2 ", line) for line in lines)
    assert any(re.match(r"save_cookies +1 +2500\.0 +2500\.0 +2500\.0 +OSError 1", line) for line in lines)
    assert any(re.match(r"closed +manual +1", line) for line in lines)
    assert any(re.match(r"step +StartFailed +1", line) for line in lines)
    few = lc("stats", "bad", "--store", url, "--json")
    assert json.loads("\n".join(few[1]))["records"] == 2
    assert lc("stats", "--cause", "nobody", "--store", url) == (0, [f"no such records in {url}"], "")


# --- exports ------------------------------------------------------------------------------------------------------


def test_an_export_of_lines_is_the_stored_bytes(lc, url, records, tmp_path):
    path = tmp_path / "log.jsonl"
    assert lc("export", "--store", url, "-o", path) == (0, [f"6 records in {path}"], "")
    assert path.read_bytes() == b"".join(r.to_json() + b"\n" for r in records)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lc("export", "--store", url, "-o", "-")[1] == path.read_text().splitlines()
    assert lc("export", "--store", url, "--kind", "held", "-o", path)[1] == [f"0 records in {path}"]
    assert path.read_bytes() == b""
    assert {p.name for p in tmp_path.iterdir()} == {"log.db", "log.jsonl"}


def test_an_export_as_a_table_has_a_row_for_each_record(lc, url, records, tmp_path):
    path = tmp_path / "log.csv"
    lc("export", "--store", url, "--format", "csv", "-o", path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["writer_seq"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert list(rows[0]) == ["number", *COLUMNS]
    end = rows[2]
    assert (end["kind"], end["event"], end["source"], end["dest"]) == ("commit", "stop", "active", "closed")
    assert (end["at"], end["slowest_ms"]) == ("2024-01-01T14:00:00+00:00", "2500.0")
    assert (end["steps"], end["failed_steps"]) == ("save_cookies=failed 2500 ms", "save_cookies=OSError")
    assert (end["labels"], end["counts"]) == ('{"team":"blue"}', "cookies_loaded=3")
    assert (end["guards_not_held"], end["error"]) == ("no session_id", "")
    assert path.read_bytes().count(b"\r\n") == 7


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1dx", "  =1+1", "'=1", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_a_formula(lc, url, text):
    record = a_record(note=text, thread=text, host=text, labels={text: text}, session_id=text, error=text)
    with closing(open_store(url)) as store:
        store.write([record], [])
    main(
        [
            "audit",
            "export",
            "--format",
            "csv",
            "--store",
            url,
            "-o",
            str(Path(url.removeprefix("sqlite:///")).parent / "t.csv"),
        ]
    )
    with (Path(url.removeprefix("sqlite:///")).parent / "t.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    for name in ("note", "thread", "host", "session_id", "error"):
        assert row[name] == f"'{text}", "the mark can be taken off again"
    formulas = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
    assert not [cell for cell in row.values() if cell.lstrip(" ").startswith(formulas)]


def test_plain_cells_stay_as_they_are():
    for cell in ("", "a=b", "caller", "2024-01-01", -5, 0.5, None, '{"a":"=1"}'):
        assert plain(cell) == cell


def test_an_export_that_fails_leaves_what_was_there(lc, url, records, tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text("before")
    monkeypatch.setitem(COLUMNS, "host", lambda r: 1 / (r.writer_seq - 3))
    code, lines, err = lc("export", "--store", url, "--format", "csv", "-o", path)
    assert (code, lines) == (Exit.FAILED, [])
    assert "ZeroDivisionError" in err
    assert path.read_text() == "before"
    assert {p.name for p in tmp_path.iterdir()} == {"log.db", "log.csv"}


@pytest.mark.parametrize("place", ["no/such/folder/x", "."])
def test_a_place_that_takes_no_file_is_named(lc, url, records, tmp_path, place):
    code, lines, err = lc("export", "--store", url, "-o", tmp_path / place)
    assert (code, lines) == (Exit.USAGE, [])
    assert "output=" in err
    assert {p.name for p in tmp_path.iterdir()} == {"log.db"}


def test_the_file_is_on_disk_before_it_takes_its_place(lc, url, records, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(export.os, "fsync", lambda fd: done.append("sync"))
    monkeypatch.setattr(export.Path, "replace", lambda *_: done.append("replace"))
    monkeypatch.setattr(export, "sync_folder", done.append)
    lc("export", "--store", url, "-o", tmp_path / "x")
    assert done == ["sync", "replace", tmp_path]


# --- following ----------------------------------------------------------------------------------------------------


@contextmanager
def following(*args, out=subprocess.PIPE, env=None):
    """A process that follows a log; killed at the end."""
    command = [sys.executable, "-m", "lifecycle.cli", "audit", "follow", *map(str, args)]
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
    with process:
        try:
            yield process
        finally:
            process.kill()


class Stopped(Exception):
    """Ends a follow at a wait."""


def followed(monkeypatch, capsysbinary, url, *args, waits=1):
    """What following prints in this process until it has waited so often for more."""
    left = [waits]

    @contextmanager
    def until_waited():
        def wait(seconds):
            left[0] -= bool(seconds)
            if left[0] <= 0:
                raise SystemExit(0)

        yield wait

    monkeypatch.setattr(trail, "_until_a_signal", until_waited)
    code = main(["audit", "follow", "--store", url, *map(str, args)])
    printed = capsysbinary.readouterr()
    return code, printed.out.decode().splitlines(), printed.err.decode()


def test_a_cursor_goes_on_where_it_was(monkeypatch, capsysbinary, url, records, tmp_path):
    cursor = tmp_path / "at.cursor"
    asked = ("--cursor-file", cursor, "--json", "--label", "team=blue")
    code, lines, err = followed(monkeypatch, capsysbinary, url, *asked)
    assert (code, err) == (0, "")
    assert [json.loads(line)["writer_seq"] for line in lines] == [1, 2, 3, 6]
    assert stat.S_IMODE(cursor.stat().st_mode) == 0o600
    assert followed(monkeypatch, capsysbinary, url, *asked) == (0, [], "")
    with closing(open_store(url)) as store:
        store.write([a_record(7, 2, attachment_id="c", kind=RecordKind.COMMIT)], [])
    code, lines, _ = followed(monkeypatch, capsysbinary, url, *asked)
    assert [json.loads(line)["writer_seq"] for line in lines] == [7]
    assert json.loads(cursor.read_bytes())["number"] == 7


def test_without_a_cursor_only_what_is_new_is_printed(monkeypatch, capsysbinary, url, records):
    assert followed(monkeypatch, capsysbinary, url) == (0, [], "")


def test_a_record_is_a_line_for_people_too(monkeypatch, capsysbinary, url, records, tmp_path):
    _, lines, _ = followed(monkeypatch, capsysbinary, url, "--cursor-file", tmp_path / "at")
    assert len(lines) == 6
    assert re.match(r"2024-01-01 14:00:00\.000 good +stop +commit +active \S+ closed  caller: manual", lines[2])
    assert lines[2].endswith("save_cookies=2500.0 OSError")


def test_the_cursor_moves_once_the_records_are_written_out_and_on_disk(
    monkeypatch, capsysbinary, url, records, tmp_path
):
    done = []
    write, sync, move = trail._write, trail._sync_stdout, trail.Cursor.move
    monkeypatch.setattr(trail, "_write", lambda lines: (write(lines), done.append("write")))
    monkeypatch.setattr(trail, "_sync_stdout", lambda: (sync(), done.append("sync")))
    monkeypatch.setattr(trail.Cursor, "move", lambda self, after: (move(self, after), done.append(after)))
    followed(monkeypatch, capsysbinary, url, "--cursor-file", tmp_path / "at")
    assert done == ["write", "sync", 6]


def test_what_could_not_be_written_out_is_not_passed(monkeypatch, capsysbinary, url, records, tmp_path):
    cursor = tmp_path / "at"

    def broken(lines):
        list(lines)
        raise OSError("the pipe is gone")

    with monkeypatch.context() as patch:
        patch.setattr(trail, "_write", broken)
        assert followed(patch, capsysbinary, url, "--cursor-file", cursor)[0] == Exit.FAILED
    assert not cursor.exists()
    assert len(followed(monkeypatch, capsysbinary, url, "--cursor-file", cursor)[1]) == 6


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (b"", "has written"),
        (b"{}", "has written"),
        (b"[1]", "has written"),
        (b'{"version": 9, "store": "", "number": 1, "digest": "", "filters": {}}', "has written"),
        (b'{"version": 1, "store": "", "number": "1", "digest": "", "filters": {}}', "has written"),
        (b'{"version": 1, "store": "sqlite:///x", "number": 0, "digest": null, "filters": {}}', "is of sqlite:///x"),
        (b'{"version": 1, "store": "sqlite:///x", "number": 3, "digest": "00", "filters": {}}', "is of sqlite:///x"),
        (b'{"version": 1, "store": "sqlite:///x", "number": 99, "digest": "00", "filters": {}}', "is of sqlite:///x"),
    ],
)
def test_a_cursor_that_is_none_of_this_log_is_refused(monkeypatch, capsysbinary, url, records, tmp_path, kept, told):
    cursor = tmp_path / "at"
    cursor.write_bytes(kept)
    code, lines, err = followed(monkeypatch, capsysbinary, url, "--cursor-file", cursor)
    assert (code, lines) == (Exit.USAGE, [])
    assert told in err
    assert str(cursor) in err
    assert cursor.read_bytes() == kept


def test_a_cursor_of_another_store_or_of_other_filters_is_refused(monkeypatch, capsysbinary, url, records, tmp_path):
    cursor = tmp_path / "at"
    followed(monkeypatch, capsysbinary, url, "--cursor-file", cursor)
    code, _, err = followed(monkeypatch, capsysbinary, url, "--cursor-file", cursor, "--kind", "commit")
    assert (code, "this one has no filters" in err) == (Exit.USAGE, True)
    other = f"sqlite:///{tmp_path}/other.db"
    with closing(open_store(other)) as store:
        store.write([a_record(n, n) for n in range(1, 9)], [])
    code, lines, err = followed(monkeypatch, capsysbinary, other, "--cursor-file", cursor)
    assert (code, lines) == (Exit.USAGE, [])
    assert f"this one is of {url}" in err
    Path(tmp_path, "log.db").rename(tmp_path / "moved.db")  # the same log, elsewhere
    moved = f"sqlite:///{tmp_path}/moved.db"
    assert followed(monkeypatch, capsysbinary, moved, "--cursor-file", cursor) == (0, [], "")


@pytest.mark.parametrize(
    ("place", "told"),
    [(".", "a file that can be read"), ("no/such/folder/at", "a file in a folder that can be written to")],
)
def test_a_place_that_takes_no_cursor_is_named(monkeypatch, capsysbinary, url, records, tmp_path, place, told):
    (tmp_path / "folder").mkdir()
    code, lines, err = followed(monkeypatch, capsysbinary, url, "--cursor-file", tmp_path / "folder" / place)
    assert (code, lines) == (Exit.USAGE, [])
    assert "cursor-file=" in err
    assert told in err


def test_a_cursor_that_cannot_be_written_ends_it(monkeypatch, capsysbinary, url, records, tmp_path):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lifecycle.cli.cursor.replace_file", full)
    code, lines, err = followed(monkeypatch, capsysbinary, url, "--cursor-file", tmp_path / "at")
    assert (code, len(lines)) == (Exit.USAGE, 6)
    assert "a file that can be written: No space left on device" in err


def test_outside_of_the_main_thread_there_are_no_handlers():
    before = signal.getsignal(signal.SIGTERM)

    def wait_there():
        with trail._until_a_signal() as wait:
            wait(0)
            return signal.getsignal(signal.SIGTERM)

    assert in_threads([wait_there]) == [before]


def test_a_cursor_has_one_reader(url, records, monkeypatch, capsysbinary, tmp_path):
    cursor = tmp_path / "at"
    with following("--store", url, "--cursor-file", cursor, "--json") as first:
        assert first.stdout.readline()
        code, lines, err = followed(monkeypatch, capsysbinary, url, "--cursor-file", cursor)
    assert (code, lines) == (Exit.USAGE, [])
    assert "no other process follows with" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_it_between_two_pages(url, records, tmp_path, number):
    cursor = tmp_path / "at"
    with following("--store", url, "--cursor-file", cursor, "--json") as process:
        for _ in records:
            assert process.stdout.readline()
        until(cursor.exists, WITHIN)
        process.send_signal(number)
        out, err = process.communicate(timeout=WITHIN)
    assert (process.returncode, out, err) == (128 + number, b"", b"")
    assert json.loads(cursor.read_bytes())["number"] == 6


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_signal_lets_a_page_be_finished_and_a_second_one_does_not(lc, url, records, tmp_path, monkeypatch, times):
    cursor, write = tmp_path / "at", trail._write

    def struck(lines):
        for n, line in enumerate(lines):
            if n == 2:
                for _ in range(times):
                    signal.raise_signal(signal.SIGTERM)
            write([line])

    monkeypatch.setattr(trail, "_write", struck)
    before = signal.getsignal(signal.SIGTERM)
    code, lines, err = lc("follow", "--store", url, "--cursor-file", cursor, "--json")
    assert (code, err) == (Exit.TERMINATED, "")
    assert len(lines) == (6 if times == 1 else 2)
    assert cursor.exists() == (times == 1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_half_written_line_is_ended_before_the_next(url, records, tmp_path):
    printed = tmp_path / "printed"
    printed.write_bytes(b'{"half": ')
    with printed.open("ab") as out, following("--store", url, "--cursor-file", tmp_path / "at", "--json", out=out):
        until(lambda: printed.read_bytes().count(b"\n") == 7, WITHIN)
    assert printed.read_bytes().split(b"\n")[:2] == [b'{"half": ', records[0].to_json()]


WRITER = """
import random, sys
from lifecycle.stores import open_store
from lifecycle.testing.store_suite import a_record
url, name, seed = sys.argv[1:]
rng, store, n = random.Random(seed), open_store(url), 0
print("ready", flush=True)
while True:
    count = rng.choice((1, 1, 1, 2, 12))
    store.write([a_record(n + i, n + i, writer=name, attachment_id=name) for i in range(1, count + 1)], [])
    n += count
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_every_record_is_printed_whoever_is_killed(tmp_path, url, seed):
    """Readers and writers are killed, by turns and together, once so much is printed; the last reader ends well."""
    rng = random.Random(seed)
    printed, cursor = tmp_path / "printed", tmp_path / "at"
    printed.touch()
    asked = ("--store", url, "--cursor-file", cursor, "--json")
    rounds = 6
    open_store(url).close()
    for n in range(rounds):
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-c", WRITER, url, f"w{n}-{i}", f"{seed}{n}{i}"], stdout=subprocess.PIPE
                    )
                )
                for i in range(2)
            ]
            for writer in writers:
                stack.callback(writer.kill)
                assert writer.stdout.readline() == b"ready\n"
            out = stack.enter_context(printed.open("ab"))
            reader = stack.enter_context(following(*asked, out=out))
            enough = printed.stat().st_size + rng.randrange(1, 100_000)
            until(lambda: printed.stat().st_size >= enough, WITHIN)  # noqa: B023 - it is called at once
            for victim in rng.sample([reader, *writers], k=rng.randint(1, 3)):
                victim.kill()
                victim.wait(WITHIN)
            reader.kill()
    with closing(open_store(url)) as store:
        store.write([a_record(1, 1, writer="last", attachment_id="last")], [])  # printed by the last reader, no other
        stored = [body for _, body in store.bodies(Query())]
    end = stored[-1] + b"\n"

    def all_is_printed():
        with printed.open("rb") as file:
            file.seek(-min(len(end), printed.stat().st_size), os.SEEK_END)
            return file.read() == end

    with printed.open("ab") as out, following(*asked, out=out) as reader:
        until(all_is_printed, WITHIN)
        reader.send_signal(signal.SIGTERM)
        assert reader.wait(WITHIN) == 128 + signal.SIGTERM
    lines = printed.read_bytes().split(b"\n")
    assert len(stored) > 100
    known = set(stored)
    assert known <= set(lines), "a record was left out"
    broken = [line for line in lines if line not in known]
    assert len(broken) <= rounds + 1  # the half of a line where a reader was killed, and the empty end
    assert len(lines) <= len(stored) + rounds * (1000 + 1) + 1, "it began anew each time"
