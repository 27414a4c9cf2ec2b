"""Benchmarks: side by side in one run, alternating, printed as ratios of medians.

Rule: no number here is a test. Machines are noisy, so each measure is taken next to what it is compared with, in turn,
and what is printed is the ratio, the spread of both sides, and the ratio that is aimed at.

    make bench
    python tests/bench.py --only page --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import random
import resource
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from http.cookiejar import MozillaCookieJar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lifecycle import AsyncClient, Client
from lifecycle.audit import RecordKind, StepOutcome, StepResult, verify
from lifecycle.audit.query import Query
from lifecycle.clocks import SystemClock
from lifecycle.config import parse_options
from lifecycle.cookies import Cookie, read_cookie_file, save_cookie_file
from lifecycle.journal import Journal
from lifecycle.loops import SerialWorker
from lifecycle.states import Event, State
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.stores.sqlite_index import Index
from lifecycle.testing.store_suite import T0, a_record, a_row, a_writer
from lifecycle.trail import AuditTrail
from lifecycle_adapters.local.find import find_browser
from lifecycle_adapters.local.launch import switches

Measure = Callable[[], float]

SWITCHES = [
    "--headless=new",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--no-default-browser-check",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]


def compare(title: str, ours: Measure, theirs: Measure, *, rounds: int, aim: float, against: str) -> None:
    """Take both in turn, `rounds` times after one round that does not count, and print the ratio of the medians."""
    a: list[float] = []
    b: list[float] = []
    for n in range(rounds + 1):
        first, second = (ours, theirs) if n % 2 else (theirs, ours)
        x, y = first(), second()
        if n:
            a.append(x if first is ours else y)
            b.append(y if first is ours else x)
    ratio = statistics.median(a) / statistics.median(b)
    mark = "ok  " if ratio <= aim else "OVER"
    print(
        f"{mark} {title:<46} {ratio:5.2f} of {against} (aim {aim:.3g})   ours {_ms(a)}  theirs {_ms(b)}",
        flush=True,
    )


def _ms(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:8.2f} ms [{min(values) * 1e3:.2f}..{max(values) * 1e3:.2f}]"


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- import -------------------------------------------------------------------------------------------------------


def bench_import(rounds: int) -> None:
    """`import lifecycle` beside `import notte_sdk`, each in a fresh interpreter, with byte code cached by both."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"DISABLE_TELEMETRY": "true"}
    clock = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

    def importing(name: str) -> float:
        code = clock.format(name)
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        return float(out.stdout.split()[-1])

    compare(
        "import",
        lambda: importing("lifecycle"),
        lambda: importing("notte_sdk"),
        rounds=rounds,
        aim=1 / 8,
        against="import notte_sdk",
    )


# --- start --------------------------------------------------------------------------------------------------------


def bench_start(rounds: int) -> None:
    """Start to active, and start to a usable page, beside Playwright's own launch on the same Chromium."""
    from playwright.sync_api import sync_playwright

    browser_path = find_browser(None).path
    client = Client(store="memory:")

    def launch(driver: object = None) -> float:
        """From nothing, or with the driver running, to a page that answers."""
        began = time.perf_counter()
        playwright = driver or sync_playwright().start()
        browser = playwright.chromium.launch(executable_path=str(browser_path), args=SWITCHES)  # type: ignore[attr-defined]
        page = browser.new_page()
        assert page.evaluate("1 + 1") == 2
        took = time.perf_counter() - began
        browser.close()
        if driver is None:
            playwright.stop()  # type: ignore[attr-defined]
        return took

    def active() -> float:
        session = client.Session()
        took = timed(session.start)
        session.stop()
        return took

    def page(*, prefetch: bool) -> float:
        session = client.Session(prefetch_page=prefetch)

        def work() -> None:
            session.start()
            assert session.page.evaluate("1 + 1") == 2

        took = timed(work)
        session.stop()
        return took

    compare("start to active", active, launch, rounds=rounds, aim=0.5, against="Playwright's launch to page")
    compare(
        "start to a usable page", lambda: page(prefetch=False), launch, rounds=rounds, aim=1.2,
        against="Playwright's launch to page",
    )  # fmt: skip
    compare(
        "start to a usable page, prefetch_page=True", lambda: page(prefetch=True), launch, rounds=rounds, aim=1.0,
        against="Playwright's launch to page",
    )  # fmt: skip
    with sync_playwright() as driver:
        warm: list[float] = [launch(driver) for _ in range(rounds)]
    print(f"     Playwright's launch to page with its driver already running: {_ms(warm)}", flush=True)
    client.close()


# --- page calls ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def debugging_port() -> Iterator[str]:
    """A Chromium with the switches of a session, but a debugging port instead of the pipe."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        profile: Any = SimpleNamespace(user_data=f"{folder}/profile")
        same = [s for s in switches(parse_options(None, {}), profile, headed=False) if s != "--remote-debugging-pipe"]
        process = subprocess.Popen(
            [str(find_browser(None).path), f"--remote-debugging-port={port}", *same],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if b"DevTools listening on" in line:
                break
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()
            process.stderr.close()


def bench_page(rounds: int) -> None:
    """Playwright's page calls through the gateway beside the same calls over a debugging port."""
    big = "<p>" + "lorem ipsum " * 20_000
    with Client(store="memory:") as client, client.Session(timeout_minutes=15) as session, debugging_port() as port:
        ours = session.page
        theirs = ours.context.browser.browser_type.connect_over_cdp(port).contexts[0].pages[0]  # type: ignore[union-attr]
        calls: dict[str, tuple[int, Callable[[Any], object]]] = {
            "evaluate": (60, lambda p: p.evaluate("1 + 1")),
            "title": (60, lambda p: p.title()),
            "goto data: URL": (3, lambda p: p.goto("data:text/html,<title>x</title><h1>hello")),
            "set_content and content, 240 kB": (3, lambda p: (p.set_content(big), p.content())),
            "click": (8, lambda p: p.click("body")),
            "screenshot": (3, lambda p: p.screenshot()),
            "evaluate that returns 5 MB": (1, lambda p: p.evaluate("'x'.repeat(5_000_000)")),
        }
        for name, (count, call) in calls.items():
            # Call by call in turn: whatever else the machine does meets both alike.
            compare(
                f"page call: {name}",
                lambda c=call: timed(lambda: c(ours)),  # type: ignore[misc]
                lambda c=call: timed(lambda: c(theirs)),  # type: ignore[misc]
                rounds=rounds * count,
                aim=1.1,
                against="a debugging port",
            )


def bench_memory(rounds: int) -> None:
    """What the lifecycle itself costs: sessions without a browser, and one call across the boundary."""
    with tempfile.TemporaryDirectory() as folder:
        for store in ("memory:", f"sqlite:///{folder}/bench.db"):
            with Client(adapter="memory", store=store) as client:

                def session(client: Client = client) -> None:
                    with client.Session():
                        pass

                took = [timed(session) for _ in range(rounds * 20)]
                print(f"     start and stop, memory backend, {store.split(':')[0]} store: {_ms(took)}", flush=True)
                with client.Session() as s:
                    took = [timed(s.get_cookies) for _ in range(rounds * 100)]
                print(f"     one operation across the boundary: {_ms(took)}", flush=True)


def bench_many(rounds: int) -> None:
    """What one session costs where ten thousand are live, beside where one thousand are."""

    async def lives(count: int) -> float:
        async with AsyncClient(adapter="memory", store="memory:") as client:
            sessions = [client.Session(timeout_minutes=60) for _ in range(count)]
            began = time.perf_counter()
            for calls in ([s.start for s in sessions], [s.stop for s in sessions]):
                for first in range(0, count, 500):
                    await asyncio.gather(*(call() for call in calls[first : first + 500]))
            return (time.perf_counter() - began) / count

    compare(
        "a session among 10,000 live ones", lambda: asyncio.run(lives(10_000)), lambda: asyncio.run(lives(1_000)),
        rounds=max(2, rounds // 4), aim=1.25, against="one among 1,000",
    )  # fmt: skip


def bench_idle(rounds: int) -> None:
    """What ten thousand live sessions cost that nobody uses, beside none; in a minute, or in 10 s with one round."""
    seconds = 60 if rounds > 1 else 10
    for count in (0, 10_000):
        with (
            tempfile.TemporaryDirectory() as folder,
            Client(adapter="memory", store=f"sqlite:///{folder}/bench.db") as client,
        ):
            for _ in range(count):
                client.Session(timeout_minutes=60).start()
            before = time.process_time()
            time.sleep(seconds)
            used = time.process_time() - before
            threads = threading.active_count()
        told = f"{used:.3f} s of CPU, {used / seconds:.2%} of a core (aim: under 1 %), {threads} threads"
        print(f"     {count:,} idle sessions for {seconds} s: {told}", flush=True)


def bench_cookies(rounds: int) -> None:
    """3,000 cookies read, merged and saved, beside the standard library's reading and saving of the same file."""
    now = time.time()
    later = int(now) + 10_000
    jar = [
        Cookie(name=f"n{i}", value="v" * 60, domain=f".d{i % 50}.com", expires=later + i, secure=True, same_site="Lax")
        for i in range(3_000)
    ]
    changed = [dataclasses.replace(c, value="w") if i % 3 == 0 else c for i, c in enumerate(jar)]

    def merge(path: Path, cookies: list[Cookie]) -> None:
        save_cookie_file(read_cookie_file(path, now=now), cookies, now=now)

    def merge_next(path: Path, turn: Iterator[list[Cookie]]) -> None:
        merge(path, next(turn))

    def plain(path: Path) -> None:
        if path.suffix == ".json":
            content = json.dumps(json.loads(path.read_text()))
            path.with_suffix(".new").write_text(content)
        else:
            cookies = MozillaCookieJar(str(path))
            cookies.load(ignore_discard=True)
            cookies.save(str(path.with_suffix(".new")), ignore_discard=True)
        path.with_suffix(".new").replace(path)

    with tempfile.TemporaryDirectory() as folder:
        for name, peer in (("cookies.json", "bare json"), ("cookies.txt", "MozillaCookieJar")):
            path, other = Path(folder, name), Path(folder, f"other-{name}")
            for file in (path, other):
                merge(file, jar)
            turn = itertools.cycle((changed, jar))
            compare(
                f"3,000 cookies read and saved, {name}",
                functools.partial(timed, functools.partial(merge_next, path, turn)),
                functools.partial(timed, functools.partial(plain, other)),
                rounds=rounds, aim=5, against=peer,
            )  # fmt: skip


# --- the log as evidence ------------------------------------------------------------------------------------------


def bench_evidence(rounds: int) -> None:
    """Durable records by one writer, and by 16 at once, beside a bare INSERT loop; then the check of a long log."""
    count = 480
    body = a_record().to_json()
    numbers = itertools.count()

    def bare(folder: str) -> float:
        with contextlib.closing(sqlite3.connect(f"{folder}/{next(numbers)}.db", isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, body BLOB)")
            began = time.perf_counter()
            for _ in range(count):
                db.execute("INSERT INTO records (body) VALUES (?)", (body,))
            return time.perf_counter() - began

    def chained(folder: str, writers: int) -> float:
        with contextlib.closing(SQLiteStore(f"{folder}/{next(numbers)}.db")) as store:
            store.open()
            return asyncio.run(_append(store, writers, count // writers))

    with tempfile.TemporaryDirectory() as folder:
        for writers in (1, 16):
            compare(
                f"{count} durable records, {writers} at a time", functools.partial(chained, folder, writers),
                functools.partial(bare, folder), rounds=rounds, aim=1 / 0.7, against="bare INSERTs",
            )  # fmt: skip
        store = SQLiteStore(f"{folder}/long.db")
        store.open()
        total = 1_000_000 if rounds > 1 else 100_000
        asyncio.run(_fill(store, total))
        for processes in (1, os.cpu_count() or 1):
            began = time.perf_counter()
            found = verify(store, processes=processes)
            rate = found.records / (time.perf_counter() - began)
            assert found.ok
            assert found.covered == found.records == total
            size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            told = f"{rate:,.0f} of {total:,} records a second (aim: 200,000), {size:.0f} MB"
            print(f"     verify, {processes} process(es): {told}", flush=True)
        store.close()


@contextlib.asynccontextmanager
async def _journal(store: SQLiteStore) -> AsyncIterator[Journal]:
    worker = SerialWorker("bench-store")
    journal = Journal(store, SystemClock(), worker, as_writer=lambda writer, at: a_writer(writer=writer, renewed_at=at))
    yield journal
    await journal.close()
    worker.stop()


async def _append(store: SQLiteStore, writers: int, each: int) -> float:
    async def write(journal: Journal, n: int) -> None:
        for seq in range(1, each + 1):
            await journal.append(journal.record(**_fields(f"a{n}", seq)))

    async with _journal(store) as journal:
        await journal.append(journal.record(**_fields("first", 1)))
        began = time.perf_counter()
        await asyncio.gather(*(write(journal, n) for n in range(writers)))
        return time.perf_counter() - began


async def _fill(store: SQLiteStore, total: int) -> None:
    """Four records a session, which follow the table, all in the register."""
    lives = [
        {"kind": kind, "event": event, "source": source, "dest": dest}
        for event, source, dest in (
            (Event.START, State.NOT_STARTED, State.ACTIVE), (Event.STOP, State.ACTIVE, State.CLOSED),
        )
        for kind in (RecordKind.INTENT, RecordKind.COMMIT)
    ]  # fmt: skip
    async with _journal(store) as journal:
        for first in range(0, total // 4, 500):
            for n in range(first, first + 500):
                for seq, fields in enumerate(lives, 1):
                    journal.append(journal.record(**{**_fields(f"a{n}", seq), **fields, "session_id": f"s{n}"}))
            await journal.flushed()


def _fields(attachment_id: str, seq: int) -> dict[str, Any]:
    """What a journal is told of a record; the rest it knows itself."""
    made = a_record(1, seq, attachment_id=attachment_id, kind=RecordKind.REJECTED, dest=State.NOT_STARTED)
    own = ("writer", "writer_seq", "prev", "at", "offset", "skew", "pid", "host", "library", "schema", "table")
    return {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.init and f.name not in own}


# --- the log ------------------------------------------------------------------------------------------------------


def fill(store: Any, sessions: int) -> list[tuple[str, dict[str, Any]]]:
    """Write about four records a session, and give filters of which many records match, few, or none."""
    rng = random.Random(1)
    seq = 0
    for first in range(0, sessions, 250):
        records, rows = [], []
        for n in range(first, min(first + 250, sessions)):
            at = T0 + timedelta(seconds=n)
            team = rng.choice(["blue", "red"])
            labels = {"team": team, "run": f"r{n}", **({"rare": "x"} if n % 5000 == 7 else {})}
            labels |= {"not": "red" if team == "blue" else "blue"}
            known = {"attachment_id": f"a{n}", "session_id": f"s{n}", "labels": labels, "steps": ()}
            known["adapter"] = rng.choice(["local", "remote", "memory"])
            opened = StepResult(step="open_backend", outcome=StepOutcome.DONE, ms=rng.lognormvariate(5.5, 0.6))
            lines: list[dict[str, Any]] = [{"steps": ()}]
            if n % 1000 == 3:
                failed = {"event": Event.FAIL, "dest": State.ERROR, "error": "StartFailed", "cause": "step"}
                slow = dataclasses.replace(opened, ms=opened.ms * 10, outcome=StepOutcome.FAILED, error="StartFailed")
                lines += [{"kind": RecordKind.DIVERTED, "steps": (slow,)}, {"kind": RecordKind.COMMIT, **failed}]
            else:
                end = {"event": Event.STOP, "source": State.ACTIVE, "dest": State.CLOSED}
                if rng.random() < 0.2:
                    end |= {"event": Event.EXPIRE, "dest": State.TIMED_OUT, "cause": "deadline"}
                released = StepResult(step="release_backend", outcome=StepOutcome.DONE, ms=rng.lognormvariate(3, 0.5))
                lines += [{"kind": RecordKind.COMMIT, "steps": (opened,)}, end]
                lines += [{"kind": RecordKind.COMMIT, "steps": (released,), **end}]
            for number, line in enumerate(lines, 1):
                seq += 1
                records.append(a_record(seq, number, at=at + timedelta(milliseconds=number), **{**known, **line}))
            state = records[-1].dest
            rows.append(a_row(f"s{n}", attachment_id=f"a{n}", state=state, created_at=at, labels=labels, released=True))
        store.write(records, rows)
    end = T0 + timedelta(seconds=sessions)
    middle = T0 + timedelta(seconds=sessions // 2)
    return [
        ("nothing", {}),
        ("session", {"session": f"s{sessions // 2}"}),
        ("attachment", {"attachment": f"a{sessions // 2}"}),
        *[(f"kind {kind}", {"kind": kind}) for kind in ("commit", "diverted", "held")],
        *[(f"event {event}", {"event": event}) for event in ("start", "fail", "detach")],
        *[(f"state {state}", {"state": state}) for state in ("active", "error")],
        *[(f"cause {cause}", {"cause": cause}) for cause in ("caller", "step", "nobody")],
        *[(f"adapter {adapter}", {"adapter": adapter}) for adapter in ("local", "nobody")],
        *[(f"error {error}", {"error": error}) for error in ("StartFailed", "nobody")],
        *[
            (f"label {k}={v}", {"labels": {k: v}})
            for k, v in (("team", "blue"), ("rare", "x"), ("run", "r7"), ("x", "y"))
        ],
        *[(f"since, {part}", {"since": at}) for part, at in (("all", T0), ("the last 2 h", end - timedelta(hours=2)))],
        *[(f"until, {part}", {"until": at}) for part, at in (("all", end), ("none", T0))],
        ("3 s in the middle", {"since": middle, "until": middle + timedelta(seconds=3)}),
        *[(f"slower than {ms:g} ms", {"slower_than": ms}) for ms in (0, 300, 3000, 10_000, 1e6)],
        ("commit, error", {"kind": "commit", "state": "error"}),
        ("commit, slower than 3500 ms", {"kind": "commit", "slower_than": 3500}),
        ("label, error", {"labels": {"team": "blue"}, "state": "error"}),
        ("label, slower than 4000 ms", {"labels": {"team": "blue"}, "slower_than": 4000}),
        ("label, since", {"labels": {"team": "blue"}, "since": end - timedelta(hours=1)}),
        ("two labels", {"labels": {"team": "blue", "rare": "x"}}),
        ("two common labels that never meet", {"labels": {"team": "blue", "not": "blue"}}),
        ("error, since", {"error": "StartFailed", "since": middle}),
        ("slower than 1000 ms, until", {"slower_than": 1000, "until": middle}),
    ]


def spent(work: Callable[[], object], times: int = 5) -> str:
    took = [timed(work) for _ in range(times)]
    return f"{statistics.median(took) * 1e3:8.2f} ms, at most {max(took) * 1e3:.2f}"


def bench_audit(rounds: int) -> None:
    """The log with a million records of 250,000 sessions, or a tenth of that with one round: pages of 100, and sums."""
    sessions = 250_000 if rounds > 1 else 25_000
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(SQLiteStore(f"{folder}/log.db")) as store:
        store.open()
        asked = fill(store, sessions)
        print(f"     {AuditTrail(store).newest():,} records, pages of 100 (aim: below 50 ms)")
        for title, filters in asked:
            query = Query(**filters)
            newest = functools.partial(store.query, query, limit=100, newest=True)
            oldest = functools.partial(store.query, query, limit=100)
            print(f"     {title:<30} newest {spent(newest)}   oldest {spent(oldest)}", flush=True)
        print(f"     {sessions:,} sessions, pages of 50 (aim: below 10 ms)")
        for title, chosen in (
            ("sessions", {}), ("closed", {"status": State.CLOSED}), ("active", {"status": State.ACTIVE}),
            ("team=blue", {"labels": {"team": "blue"}}), ("rare=x", {"labels": {"rare": "x"}}),
            ("team=blue, active", {"labels": {"team": "blue"}, "status": State.ACTIVE}),
            ("team=blue, page 100", {"labels": {"team": "blue"}, "offset": 4950}),
        ):  # fmt: skip
            print(f"     {title:<30} {spent(functools.partial(store.sessions, **chosen))}", flush=True)
        with Client(adapter="memory", store=store, reap_on_start=False) as client:
            for title, labels in (("sessions.list", None), ("sessions.list, team=blue", {"team": "blue"})):
                print(f"     {title:<30} {spent(functools.partial(client.sessions.list, label=labels))}", flush=True)
        store.open()
        print(f"     stats of all: {timed(AuditTrail(store).stats):.1f} s", flush=True)
    bench_writes(rounds)


class Unindexed(Index):
    """Finds nothing: what a write costs without."""

    def add(self, *_: Any) -> Any:
        return {}, {}

    def put(self, *_: Any) -> Any:
        return {}


def bench_writes(rounds: int) -> None:
    """A write with the index, beside one without: 2,000 records at once, and records one by one."""
    with tempfile.TemporaryDirectory() as folder:
        stores = {kind: SQLiteStore(f"{folder}/{kind.__name__}.db") for kind in (Index, Unindexed)}
        lasts = dict.fromkeys(stores, 0)
        for kind, store in stores.items():
            store._index = kind()
            store.open()

        def write(kind: type[Index], writes: int, count: int) -> float:
            first = lasts[kind] + 1
            lasts[kind] += writes * count
            records = [a_record(n, n) for n in range(first, lasts[kind] + 1)]
            began = time.perf_counter()
            for n in range(0, len(records), count):
                stores[kind].write(records[n : n + count], [])
            return time.perf_counter() - began

        for title, writes, count in (("2,000 records written at once", 1, 2000), ("200 records one by one", 200, 1)):
            compare(
                title, functools.partial(write, Index, writes, count),
                functools.partial(write, Unindexed, writes, count), rounds=rounds, aim=1.5, against="no index",
            )  # fmt: skip
        for store in stores.values():
            store.close()


# --- a service ----------------------------------------------------------------------------------------------------

STORY = """
import asyncio, sys, time
{imports}

async def one(client):
    async with client.Session() as session:
        await session.get_cookies()

async def main(count):
    async with {client} as client:
        began = time.perf_counter()
        await asyncio.gather(*(one(client) for _ in range(count)))
        print(time.perf_counter() - began)

asyncio.run(main(int(sys.argv[1])))
"""

OURS = STORY.format(
    imports="from lifecycle import AsyncClient", client="AsyncClient(adapter='remote', store='memory:')"
)
THEIRS = STORY.format(imports="from notte_sdk import AsyncNotteClient", client="AsyncNotteClient()")


@contextlib.contextmanager
def service() -> Iterator[dict[str, str]]:
    """A server of fakes in a process of its own; what its clients need in their environment."""
    command = [sys.executable, "-m", "lifecycle.cli", "serve", "--adapter", "memory", "--store", "memory:", "--port"]
    with subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip().removeprefix("export ") for _ in range(3)][1:]
        try:
            yield dict(line.split("=", 1) for line in told)
        finally:
            process.terminate()


def bench_server(rounds: int) -> None:
    """Sessions started, asked for their cookies and stopped, all at once, by our client and by notte-sdk."""
    count = 200
    with service() as variables:
        env = {**os.environ, **variables, "DISABLE_TELEMETRY": "true", "NOTTE_ENABLE_NEST_ASYNCIO": "false"}

        def run(story: str) -> float:
            out = subprocess.run(
                [sys.executable, "-c", story, str(count)], env=env, capture_output=True, text=True, check=True
            )
            return float(out.stdout.split()[-1])

        took: list[float] = []

        def ours() -> float:
            took.append(run(OURS))
            return took[-1]

        compare(
            f"{count} sessions at once through one server", ours, lambda: run(THEIRS), rounds=max(2, rounds // 3),
            aim=1 / 3, against="notte-sdk",
        )  # fmt: skip
        print(f"     {count / statistics.median(took):.0f} sessions a second", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    benches = {"import": bench_import, "start": bench_start, "page": bench_page, "memory": bench_memory}
    benches |= {"audit": bench_audit, "evidence": bench_evidence}
    benches |= {"many": bench_many, "idle": bench_idle, "cookies": bench_cookies, "server": bench_server}
    parser.add_argument("--only", choices=sorted(benches))
    chosen = parser.parse_args()
    for name, bench in benches.items():
        if chosen.only in (None, name):
            bench(chosen.rounds)


if __name__ == "__main__":
    main()
