"""The report: what it says of a session, and how the page behaves in a browser.

The page is looked at in a real Chromium, which alone knows what a policy, a filter, a narrow screen or a printer makes
of it. Stores are made before there is a browser: Playwright's loop lives in this thread.
"""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import until

from lifecycle import Client, StartFailed
from lifecycle.audit import GuardResult, RecordKind, StepOutcome, StepResult
from lifecycle.cli import main, reporting
from lifecycle.diagram import DiagramError, render
from lifecycle.report import Verification, page, paths, sessions, source, texts, write_report
from lifecycle.report.story import Move
from lifecycle.states import EDGES, CloseReason, Event, InFlight, State
from lifecycle.stores import open_store
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing.store_suite import T0, a_record, a_row
from lifecycle_adapters.local import find_browser
from lifecycle_adapters.memory import Fault, MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loopback_site import Site

    from lifecycle.report.story import Story

NOW = datetime(2024, 2, 1, tzinfo=UTC)
IDLE = tuple(GuardResult(guard=guard, held=True) for guard in ("idle", "no session_id"))
NOT_ENDING = (GuardResult(guard="no ending in flight", held=True),)


@dataclass
class Log:
    """Writes sessions into a store in memory, without running any."""

    store: MemoryStore = field(default_factory=MemoryStore)
    seq: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.store.open()

    def put(self, session_id: str | None, attachment: str, *given: dict[str, Any], row: dict[str, Any] | None) -> None:
        """Records of one attachment, numbered; `row` makes the ledger row of its session."""
        plain: dict[str, Any] = {"guards": (), "steps": (), "counts": {}, "note": None, "in_flight": InFlight.NOTHING}
        written = [
            a_record(next(self.seq), n, attachment_id=attachment, **{"session_id": session_id, **plain, **fields})
            for n, fields in enumerate(given, 1)
        ]
        ledger = [a_row(session_id, **{"attachment_id": attachment, **row})] if row is not None and session_id else []
        self.store.write(written, ledger)

    def session(
        self,
        session_id: str,
        *,
        at: float = 0.0,
        lasts: float = 10.0,
        end: Event = Event.STOP,
        dest: State = State.CLOSED,
        reason: CloseReason = CloseReason.MANUAL,
        slowest: float = 20.0,
        error: str | None = None,
        name: str | None = None,
        **shared: Any,
    ) -> None:
        """A session that was opened, and ended by `end`."""
        began = T0 + timedelta(seconds=at)
        over = began + timedelta(seconds=lasts)
        opened = StepResult(step="open_backend", outcome=StepOutcome.DONE, ms=slowest)
        skipped = StepResult(step="read_cookies", outcome=StepOutcome.SKIPPED, note="no cookie file")
        released = StepResult(
            step="release_backend", outcome=StepOutcome.FAILED if error else StepOutcome.DONE, ms=1, error=error
        )
        ending = {"event": end, "source": State.ACTIVE, "dest": dest, "close_reason": reason, "guards": NOT_ENDING}
        shared = {"labels": {"team": "blue"}, **shared}
        shown = {key: shared[key] for key in ("labels", "adapter") if key in shared}
        self.put(
            session_id,
            f"{session_id}-owner",
            {**shared, "kind": RecordKind.INTENT, "at": began, "offset": at, "guards": IDLE},
            {
                **shared,
                "kind": RecordKind.COMMIT,
                "at": began + timedelta(milliseconds=slowest),
                "offset": at + slowest / 1000,
                "steps": (skipped, opened),
                "guards": IDLE,
            },
            {**shared, **ending, "kind": RecordKind.INTENT, "at": over, "offset": at + lasts},
            {
                **shared,
                **ending,
                "kind": RecordKind.COMMIT,
                "at": over + timedelta(milliseconds=2),
                "offset": at + lasts + 0.002,
                "steps": (released,),
                "error": error,
            },
            row={"state": dest, "name": name, "close_reason": reason, "created_at": began, **shown},
        )


def report(store: Any, **options: Any) -> str:
    out = io.BytesIO()
    write_report(store, out, now=NOW, **options)
    return out.getvalue().decode()


def stories(store: Any, ids: Sequence[str] | None = None) -> list[Story]:
    return list(source.Source(store, ids))


def plain(html: str) -> str:
    """The text of a page, one blank between words."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text).replace("&lt;", "<").replace("&gt;", ">"))


# --- what is told of a session ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A store with sessions that were run: one with guests, one that failed in its start, one that kept failing."""
    url = f"sqlite:///{tmp_path_factory.mktemp('lived') / 'log.db'}"
    faults = [Fault(step="open_backend", kind="fail", nth=2)]
    faults += [Fault(step="release_backend", kind="fail", nth=n) for n in (2, 3, 4)]
    with Client(adapter=MemoryAdapter(faults=faults), store=url, reap_on_start=False) as client:
        with client.Session(name="shop", labels={"team": "blue"}) as shared:
            client.Session(shared.session_id).start().detach()
            client.Session(shared.session_id).start().detach()
            shared.extend(minutes=1)
        shared.stop()
        with pytest.raises(Exception, match="state closed"):
            shared.start()
        failed = client.Session()
        with pytest.raises(StartFailed):
            failed.start()
        stuck = client.Session()
        stuck.start()
        with pytest.raises(Exception, match="could not be released|release_backend failed"):
            stuck.stop()
    return {"url": url, "shared": shared.session_id, "failed": failed.session_id, "stuck": stuck.session_id}


@pytest.fixture
def lived_store(lived: dict[str, Any]) -> Iterator[Any]:
    store = open_store(lived["url"])
    yield store
    store.close()


def test_a_session_with_guests_has_a_lane_for_each_and_all_its_edges(lived: dict[str, Any], lived_store: Any) -> None:
    (told,) = stories(lived_store, [lived["shared"]])
    assert [lane.role for lane in told.lanes] == ["owner", "guest 1", "guest 2"]
    assert [(c.lane.role, c.record.event, c.record.kind) for c in told.courses] == [
        ("owner", "start", "commit"),
        ("guest 1", "attach", "commit"),
        ("guest 1", "detach", "commit"),
        ("guest 2", "attach", "commit"),
        ("guest 2", "detach", "commit"),
        ("owner", "stop", "commit"),
    ]
    assert all(course.intent is not None and course.steps for course in told.courses)
    assert [mark.records[0].kind for mark in told.marks] == ["extended", "ignored", "rejected"]
    assert (told.state, told.close_reason, list(told.errors)) == (State.CLOSED, "manual", ["InvalidTransition"])
    assert {EDGES[move.edge].event for move in told.path} == {"start", "attach", "detach", "stop"}
    start = told.courses[0]
    assert start.intent is not None and start.end is not None
    assert start.ms == pytest.approx((start.end.offset - start.intent.offset) * 1000)
    assert 0 < start.ms <= told.duration * 1000


def test_an_edge_that_was_given_up_is_not_one_that_was_taken(lived: dict[str, Any], lived_store: Any) -> None:
    (failed,) = stories(lived_store, [lived["failed"]])
    assert [(c.record.event, c.record.kind) for c in failed.courses] == [("start", "diverted"), ("fail", "commit")]
    start = next(n for n, edge in enumerate(EDGES) if edge.event is Event.START)
    assert Move(start, taken=False) in failed.path
    assert Move(start, taken=True) not in failed.path
    (stuck,) = stories(lived_store, [lived["stuck"]])
    assert [(c.record.event, c.record.kind) for c in stuck.courses] == [
        ("start", "commit"),
        ("stop", "diverted"),
        ("fail", "commit"),
    ]
    assert (stuck.state, "ReleaseFailed" in stuck.errors) == (State.ERROR, True)
    text = plain(report(lived_store, sessions=[lived["stuck"]]))
    assert re.search(r"stop active → closed by caller \(MainThread\), manual given up ReleaseFailed", text)
    assert "release_backend 3 attempts failed ReleaseFailed" in text
    assert "released no: what it ran on may still be there" in text


def test_of_two_edges_between_the_same_states_the_guards_tell_which_was_taken() -> None:
    log = Log()
    ending = {"event": Event.STOP, "source": State.NOT_STARTED, "dest": State.CLOSED, "close_reason": "manual"}
    for guard in ("idle", "start or attach in flight"):
        held = (GuardResult(guard=guard, held=True),)
        log.put(guard, guard, {**ending, "kind": RecordKind.COMMIT, "guards": held}, row=None)
    ways = {s.session_id: [EDGES[move.edge].guards for move in s.path] for s in stories(log.store)}
    assert ways == {guard: [(guard,)] for guard in ("idle", "start or attach in flight")}


def test_events_that_come_again_and_again_are_one_line() -> None:
    log = Log()
    refused = {"kind": RecordKind.REJECTED, "event": Event.OPERATE, "dest": State.NOT_STARTED, "error": "SessionClosed"}
    other = {**refused, "error": "InvalidTransition"}
    log.put("s", "a", {"kind": RecordKind.INTENT}, *[refused] * 40, other, refused, row={})
    (told,) = stories(log.store)
    assert [len(mark.records) for mark in told.marks] == [40, 1, 1]
    assert "operate in not started 40 times, the last at 12:00:00.041" in plain(report(log.store))


def test_an_edge_without_a_commit_says_so() -> None:
    log = Log()
    log.put("s", "a", {"kind": RecordKind.INTENT, "guards": IDLE}, row={"state": State.NOT_STARTED})
    text = plain(report(log.store))
    assert "start not started → active by caller (MainThread) no commit -" in text
    assert "start: not started → active (given up)" in text


def test_what_was_written_before_a_service_gave_an_id_belongs_to_the_session() -> None:
    log = Log()
    log.put(
        "late",
        "a",
        {"kind": RecordKind.INTENT, "session_id": None, "guards": IDLE},
        {"kind": RecordKind.COMMIT, "guards": IDLE},
        row={},
    )
    for told in (stories(log.store), stories(log.store, ["late"])):
        assert [(s.session_id, len(s.main.records), s.courses[0].intent is not None) for s in told] == [
            ("late", 2, True)
        ]


def test_nothing_in_the_store_is_left_out() -> None:
    log = Log()
    log.put(None, "nameless", {"kind": RecordKind.INTENT}, {"kind": RecordKind.DIVERTED, "error": "Lost"}, row=None)
    log.put("a guest's", "g", {"kind": RecordKind.INTENT, "event": Event.ATTACH}, row=None)
    log.session("plain")
    log.store.write([], [a_row("bare")])
    told = stories(log.store)
    assert [s.session_id for s in told] == [None, "plain", "a guest's"]
    assert told[2].main.role == "guest 1"
    html = report(log.store)
    assert "no id" in html and "Lost" in html
    assert "Without records: 1 session of the ledger: bare" in plain(html)
    assert "Without records" not in plain(report(log.store, sessions=["plain"]))


def test_records_that_come_while_the_report_is_written_are_left_out() -> None:
    class Growing(MemoryStore):
        grown = False

        def records(self, **wanted: Any) -> Any:
            found = super().records(**wanted)
            if wanted.get("newest") and not self.grown:
                self.grown = True
                log.session("new", at=99)
                log.put("old", "late guest", {"kind": RecordKind.INTENT, "event": Event.ATTACH}, row=None)
            return found

    log = Log(store=Growing())
    log.session("old")
    found = source.Source(log.store, None)
    told = list(found)
    assert log.store.grown
    assert found.bare == []
    assert [(s.session_id, [lane.role for lane in s.lanes]) for s in told] == [("old", ["owner"])]


def test_the_newest_session_comes_first_and_an_id_that_is_named_twice_once() -> None:
    log = Log()
    for n in range(3):
        log.session(f"s{n}", at=n)
    assert [s.session_id for s in stories(log.store)] == ["s2", "s1", "s0"]
    assert [s.session_id for s in stories(log.store, ["s1", "s0", "s1"])] == ["s1", "s0"]


class Null(io.RawIOBase):
    size = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


@pytest.mark.slow
@pytest.mark.no_cover  # many times what other tests do once
def test_of_many_sessions_only_one_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_ASIDE", 1 << 16)
    log = Log()
    for n in range(2000):
        log.session(f"session {n}", at=n, labels={"padding": "x" * 3000})
    report(log.store, sessions=["session 1"])  # what is loaded once
    out = Null()
    tracemalloc.start()
    write_report(log.store, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert out.size > 12_000_000, "too little to tell"
    assert peak < out.size / 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("<b a='1'>&\"", "&lt;b a=&#x27;1&#x27;&gt;&amp;&quot;"),
        ("a\nb\tc\0", "a<i class=u>\\n</i>b<i class=u>\\t</i>c<i class=u>\\u0000</i>"),
        ("abc\u202etxt", "<bdi>abc<i class=u>\\u202e</i>txt</bdi>"),
        ("\u200f\u200b\ufeff", "<bdi><i class=u>\\u200f</i><i class=u>\\u200b</i><i class=u>\\ufeff</i></bdi>"),
        ("שלום", "<bdi>שלום</bdi>"),
        ("👩\u200d🚀", "<bdi>👩\u200d🚀</bdi>"),
    ],
)
def test_a_text_that_was_given_is_escaped_and_keeps_its_direction_to_itself(text: str, shown: str) -> None:
    assert texts.given(text) == shown
    assert texts.attribute(text) == '"' + re.sub(r"</?(bdi|i)( class=u)?>", "", shown) + '"'


def test_lengths_of_time_are_for_people() -> None:
    told = {0: "0.0 ms", 0.0004: "0.4 ms", 0.0124: "12 ms", 1.239: "1.24 s", 59.9: "59.9 s", 185: "3 min 05 s"}
    told |= {8040: "2 h 14 min", 3 * 86400: "3 days"}
    assert {seconds: texts.span(seconds).replace("\u00a0", " ") for seconds in told} == told
    assert texts.ms(3140) == "3,140\u00a0ms"


# --- the page -----------------------------------------------------------------------------------------------------


def test_each_path_is_drawn_once_with_what_was_taken_marked(lived: dict[str, Any], lived_store: Any) -> None:
    html = report(lived_store)
    assert html.count("class=diagram>") == 3
    log = Log()
    for n in range(7):
        log.session(f"s{n}", at=n)
    log.session("crash", end=Event.FAIL, dest=State.ERROR, reason=CloseReason.CRASH)
    html = report(log.store)
    figures = re.findall(r"<figure id=path-(\d).*?</figure>", html, re.DOTALL)
    assert figures == ["1", "2"]
    told = plain(html)
    assert "Path 1 1 session start: not started → active, fail: active → error" in told
    assert "Path 2 7 sessions start: not started → active, stop: active → closed" in told
    second = html[html.index("<figure id=path-2") :]
    marked = re.findall(r'<g class="taken edge" data-edge="(.*?)">', second)
    assert [name.partition(" [")[0] for name in marked] == [
        "start: not_started -&gt; active",
        "stop: active -&gt; closed",
    ]
    assert set(re.findall(r'<g class="reached state (\w+)">', second)) == {"not_started", "active", "closed"}
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)), "an id is there twice"
    for name in re.findall(r'url\(#([^)]+)\)|aria-labelledby="([^"]+)"', html):
        assert set("".join(name).split()) <= {*ids, "hatch"}
    assert len(re.findall(r"<use href=#m-", html)) > 0
    assert all(f"id=m-{kind} " in html for kind in re.findall(r"<use href=#m-(\w+)", html))


def test_a_picture_that_lacks_an_edge_is_an_error_and_not_a_wrong_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "render", lambda _: render("svg").replace('data-edge="start', 'data-edge="begin'))
    with pytest.raises(DiagramError, match="data-edge"):
        list(paths._lit([Move(0, taken=True)], 1))


def test_the_verification_stands_first_and_is_told_in_words() -> None:
    log = Log()
    log.session("s")
    good = Verification(ok=True, headline="4 records are as they were written.", details=("1 chain", "<2> & anchors"))
    bad = replace(good, ok=False, headline="Record 3 was changed.", details=())
    for verification, word, kind in (
        (None, "Not verified", "none"),
        (good, "Verified", "ok"),
        (bad, "Verification failed", "failed"),
    ):
        html = report(log.store, verification=verification)
        body = html[html.index("<main") :]
        assert body.index(f"proof {kind}") < body.index("Overview")
        assert f"</span> {word}</h2>" in body
        assert verification is None or verification.headline in body
    assert "<li>1 chain<li>&lt;2&gt; &amp; anchors" in report(log.store, verification=good)


def test_the_overview_counts_what_is_listed() -> None:
    log = Log()
    log.session("a")
    log.session("b", end=Event.EXPIRE, dest=State.TIMED_OUT, reason=CloseReason.IDLE_TIMEOUT, at=30, error="Lost")
    text = plain(report(log.store))
    assert "2 in all 1 closed 1 timed out" in text
    assert "Close reasons 1 idle timeout , 1 manual" in text or "Close reasons 1 manual , 1 idle timeout" in text
    assert "Errors, by sessions 1 Lost" in text
    assert "8 in all, 8 by lifecycle 1.0 with table 1" in text.replace(" ,", ",")
    assert "period 2024-01-01 12:00:00 to 2024-01-01 12:00:40 UTC" in text
    assert "made 2024-02-01 00:00:00 UTC, by lifecycle" in text
    assert "up to record 8" in text
    one = plain(report(log.store, sessions=["a"]))
    assert "1 in all 1 closed" in one and "sessions 1, named one by one" in one


def test_a_store_without_sessions_says_so() -> None:
    assert "There are no sessions in this store." in report(Log().store)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: str) -> tuple[int, str, str]:
        code = main(["audit", "report", *args])
        told = capsysbinary.readouterr()
        return code, told.out.decode(), told.err.decode()

    return call


def test_the_command_writes_all_sessions_or_those_that_are_named(
    run: Any, lived: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    code, printed, said = run("--store", lived["url"], "-o", str(out))
    assert (code, printed) == (0, "")
    assert f"{out}: a report on 3 sessions" in said
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"], "nothing else is left"
    for session_id in (lived["shared"], lived["failed"], lived["stuck"]):
        assert f"<h3>Session {session_id}</h3>" in out.read_text()
    code, printed, said = run(lived["failed"][:8], lived["stuck"][:12], "--store", lived["url"], "-o", "-")
    assert (code, said) == (0, "")
    assert re.findall(r"<h3>Session (\S+)</h3>", printed) == [lived["failed"], lived["stuck"]]
    code, printed, said = run("nonsense", "--store", lived["url"], "-o", str(out))
    assert (code, printed) == (2, "") and "nonsense" in said
    assert f"<h3>Session {lived['shared']}</h3>" in out.read_text(), "the old report is as it was"


def test_a_report_replaces_what_is_there_in_one_step(
    run: Any, lived: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    assert run("--store", lived["url"], "-o", str(link))[0] == 0
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.read_text().startswith("<!doctype html>")
    real.write_text("old")

    def breaks(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lifecycle.report.page.shutil.copyfileobj", breaks)
    code, _, said = run("--store", lived["url"], "-o", str(real))
    assert (code, real.read_text()) == (1, "old")
    assert f"could not be written to {real}: no space left on device" in said
    assert {path.name for path in tmp_path.iterdir()} == {"real.html", "link.html"}


def test_a_place_that_cant_be_written_is_named(run: Any, lived: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place, why in (
        (tmp_path / "loop", "link"),
        (tmp_path, "this is a folder"),
        (tmp_path / "missing" / "report.html", "no such file or directory"),
        (tmp_path / "file" / "report.html", "not a directory"),
    ):
        code, printed, said = run("--store", lived["url"], "-o", str(place))
        assert (code, printed) == (2, "")
        assert str(place) in said and why in said
        assert "Traceback" not in said


def test_the_command_hands_on_what_came_of_verifying(lived: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    found = Verification(ok=True, headline="All is as it was written.")
    reporting.audit_report([], output=str(out), store=lived["url"], verification=found)
    assert "All is as it was written." in out.read_text()
    assert "Not verified" not in out.read_text()


def test_a_full_device_is_named(run: Any, lived: dict[str, Any]) -> None:
    if not Path("/dev/full").exists():  # Linux has it
        return
    code, _, said = run("--store", lived["url"], "-o", "/dev/full")
    assert (code, said) == (1, "lifecycle: the report could not be written to /dev/full: no space left on device\n")


def test_what_is_no_file_is_written_to_and_stays(run: Any, lived: dict[str, Any], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        try:
            assert run("--store", lived["url"], "-o", str(pipe))[0] == 0
            assert stat.S_ISFIFO(pipe.stat().st_mode), "else nobody ever writes to its reader"
            told, _ = reader.communicate(timeout=30)
        finally:
            reader.kill()
    assert told.startswith(b"<!doctype html>") and told.endswith(b"</html>\n")


def test_importing_the_library_loads_no_report() -> None:
    code = "import sys, lifecycle; sys.exit([m for m in sys.modules if m.startswith('lifecycle.report')] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- in a browser -------------------------------------------------------------------------------------------------

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "</noscript></title></style></table><img src=x onerror=window.pwned=2>",
    "\"' onmouseover=window.pwned=3 x='",
    "<svg/onload=window.pwned=4>",
    "-->]]><!--<iframe srcdoc='<script>parent.pwned=5</script>'>",
    "&lt;b&gt;&amp;",
    "gnp.\u202eexe\u2066\u200f",
    "שלום عالم",
    "one\ntwo\r\nthree\0",
    "w" * 3000,
)


def hostile(log: Log, session_id: str, text: str, at: float) -> None:
    """A session with the same text wherever somebody's text can be."""
    step = StepResult(step=f"before:{text}", outcome=StepOutcome.FAILED, ms=5, error=text, note=text)
    skipped = StepResult(step=text, outcome=StepOutcome.SKIPPED, note=text)
    shared = {
        "adapter": text,
        "labels": {text: text},
        "thread": text,
        "host": text,
        "library": text,
        "cause": text,
        "error": text,
        "note": text,
        "counts": {text: 3},
        "guards": (GuardResult(guard=text, held=False),),
        "at": T0 + timedelta(seconds=at),
    }
    over = {"event": Event.FAIL, "source": State.ACTIVE, "dest": State.ERROR, "close_reason": CloseReason.CRASH}
    log.put(
        text + session_id,
        text + session_id,
        {**shared, "kind": RecordKind.INTENT},
        {**shared, "kind": RecordKind.COMMIT, "steps": (step, skipped)},
        {**shared, "kind": RecordKind.REJECTED, "dest": State.NOT_STARTED},
        {**shared, **over, "kind": RecordKind.COMMIT, "at": T0 + timedelta(seconds=at + 1), "steps": (step,)},
        row={"name": text, "labels": {text: text}, "error": text, "state": State.ERROR, "adapter": text, "host": text},
    )


@pytest.fixture(scope="module")
def pages(lived: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports as files, by what is in them."""
    folder = tmp_path_factory.mktemp("pages")
    one, some, many, bad, bads = Log(), Log(), Log(), Log(), Log()
    one.session("alone")
    some.session("blue-1", at=0, labels={"team": "blue"}, slowest=20)
    some.session("blue-2", at=20, labels={"team": "blue", "env": "test"}, slowest=900, name="Nightly import")
    some.session("red-1", at=40, end=Event.FAIL, dest=State.ERROR, reason=CloseReason.CRASH, error="ConnectionLost",
                 labels={"team": "red"}, adapter="local")  # fmt: skip
    some.session("red-2", at=60, end=Event.EXPIRE, dest=State.TIMED_OUT, reason=CloseReason.IDLE_TIMEOUT,
                 labels={"team": "red"})  # fmt: skip
    for n in range(page.FEW + 50):
        many.session(f"session-{n:04}", at=n * 20, slowest=n, labels={"number": f"n{n}"})
    for n, text in enumerate(HOSTILE):
        hostile(bad, str(n), text, n * 10)
    for n in range(page.FEW + 1):
        hostile(bads, str(n), HOSTILE[n % len(HOSTILE)], n * 10)
    store = open_store(lived["url"])
    made = {
        "lived": report(store),
        "one": report(one.store),
        "some": report(some.store),
        "many": report(many.store),
        "hostile": report(bad.store, verification=Verification(ok=False, headline=HOSTILE[0], details=HOSTILE)),
        "hostiles": report(bads.store),
    }
    store.close()
    found = {}
    for name, html in made.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(html, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def chromium(pages: dict[str, Path]) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=str(find_browser(None).path), chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in a browser, and what went on in it."""

    page: Any
    requests: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def rows(self) -> list[str]:
        """The ids of the sessions that are shown."""
        found: list[str] = self.page.evaluate(
            "[...document.querySelectorAll('#sessions > tbody')].filter(b => b.checkVisibility())"
            ".map(b => b.rows[0].cells[0].title)"
        )
        return found

    def open_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        kept = "!!document.querySelector('#sessions tbody:has(details[open]) noscript')"
        until(lambda: not self.page.evaluate(kept))

    def too_wide(self) -> list[str]:
        """What sticks out of the window, or out of its own cell or box, but for what scrolls by itself."""
        found: list[str] = self.page.evaluate(TOO_WIDE)
        return found


TOO_WIDE = """() => {
    const found = [], told = (e, why) => found.push(`${why} ${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`);
    if (document.documentElement.scrollWidth > innerWidth) found.push('the page');
    for (const e of document.querySelectorAll('body *')) {
        if (e.closest('figure, .off, noscript, option') || !e.checkVisibility()) continue;
        const box = e.getBoundingClientRect();
        if (box.width && (box.right > innerWidth + 0.5 || box.left < -0.5)) told(e, 'out of the window:');
        if (e.matches('td, th') && e.textContent.length > 4 && box.width < 40) told(e, 'squeezed:');
        if (e.matches('td, th, dd, li, p, h3') && e.scrollWidth > e.clientWidth + 1) told(e, 'out of its place:');
    }
    return found;
}"""


@pytest.fixture
def show(chromium: Any, pages: dict[str, Path]) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def open_(name: str, *, width: int = 1280, **options: Any) -> Opened:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("pageerror", lambda error: opened.trouble.append(str(error)))
        opened.page.on("console", lambda message: opened.trouble.append(message.text))
        opened.page.on("dialog", lambda dialog: opened.trouble.append(f"dialog {dialog.message}"))
        opened.page.goto(pages[name].as_uri())
        return opened

    yield open_
    for context in contexts:
        context.close()


slow = pytest.mark.slow


@slow
def test_filters_show_what_fits_and_say_how_many(show: Any) -> None:
    opened = show("some")
    tab = opened.page
    assert opened.rows() == ["red-2", "red-1", "blue-2", "blue-1"]
    assert not tab.is_visible("#shown")
    cases = [
        ("State", "timed out", ["red-2"]),
        ("Close reason", "crash", ["red-1"]),
        ("Adapter", "memory", ["red-2", "blue-2", "blue-1"]),
        ("Error class", "ConnectionLost", ["red-1"]),
    ]
    for label, value, expected in cases:
        tab.locator("#filters label").filter(has_text=re.compile(f"^{label} ")).locator("select").select_option(value)
        assert opened.rows() == expected
        assert tab.inner_text("#shown") == f"Filtered: {len(expected)} of 4 sessions"
        tab.get_by_role("button", name="Clear").click()
        until(lambda: tab.is_hidden("#shown"))
        assert len(opened.rows()) == 4
    field_ = tab.get_by_label("Label, name or id")
    for text, expected in (
        ("TEAM=red", ["red-2", "red-1"]),
        ("nightly", ["blue-2"]),
        ("blue-1", ["blue-1"]),
        ("no such", []),
    ):
        field_.fill(text)
        assert opened.rows() == expected
    field_.fill("")
    tab.get_by_label("A step slower than").fill("20")
    assert opened.rows() == ["blue-2"], "20 ms is not slower than 20 ms"
    tab.get_by_label("A step slower than").fill("19.5")
    tab.select_option("select[data-column='1']", "closed")
    assert opened.rows() == ["blue-2", "blue-1"], "filters hold together"
    options = tab.eval_on_selector("select[data-column='1']", "s => [...s.options].map(o => o.textContent)")
    assert options == ["any", "closed (2)", "timed out (1)", "error (1)"]
    assert opened.trouble == []


@slow
def test_it_works_by_keyboard_alone(show: Any) -> None:
    opened = show("some")
    tab = opened.page
    body = "#sessions tbody:nth-of-type(2) .b"
    assert not tab.is_visible(body)
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.closest('tbody') === document.querySelector('#sessions').tBodies[1]"):
            break
    assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    tab.keyboard.press("Enter")
    assert tab.is_visible(body)
    tab.keyboard.press("Enter")
    assert not tab.is_visible(body)
    tab.get_by_role("button", name="Open all").focus()
    tab.keyboard.press("Space")
    until(lambda: tab.inner_text("#all") == "Close all")
    assert tab.locator("#sessions .b:visible").count() == 4
    tab.keyboard.press("Space")
    assert tab.locator("#sessions .b:visible").count() == 0


@slow
def test_a_few_are_open_from_the_start_and_a_path_is_shown_by_its_link(show: Any) -> None:
    tab = show("lived").page
    assert tab.locator("#sessions .b:visible").count() == 3
    assert tab.locator("figure:visible").count() == 0
    link = tab.get_by_role("link", name=re.compile("^path 2$"))
    link.click()
    assert tab.locator("figure:visible").count() == 1
    assert tab.is_visible("#path-2")
    assert tab.is_visible("#filters")
    alone = show("one").page
    assert alone.locator("figure:visible").count() == 1, "the only path there is, is shown"
    assert not alone.is_visible("#filters"), "of one session there is nothing to filter"


TRY_ALL = """async (at) => {
    window.refused = new Set();
    document.addEventListener('securitypolicyviolation', (e) => window.refused.add(e.effectiveDirective));
    const make = (tag, set) => { document.body.append(Object.assign(document.createElement(tag), set)); };
    await fetch(at).catch(() => 0);
    make('img', { src: at });
    make('script', { src: at });
    make('script', { textContent: 'window.pwned = 1' });
    make('style', { textContent: 'body { display: none }' });
    make('link', { rel: 'stylesheet', href: at });
    make('iframe', { src: at });
    make('object', { data: at });
    make('base', { href: at });
    document.body.insertAdjacentHTML('beforeend', '<p style="color:red" onclick="window.pwned = 1"></p>');
    document.body.lastChild.click();
    await new FontFace('x', `url(${at})`).load().catch(() => 0);
    make('form', { id: 'out', action: at });
    document.getElementById('out').submit();
}"""
"""Everything that could reach out of the page, or run or style what is not its own."""


@slow
def test_nothing_is_asked_for_and_nothing_can_be(show: Any, pages: dict[str, Path], site: Site) -> None:
    opened = show("some")
    opened.open_all()
    assert opened.requests == [pages["some"].as_uri()]
    assert opened.trouble == []
    site.requests.clear()  # those of other tests
    opened.page.evaluate(TRY_ALL, site.url)
    expected = {"connect-src", "img-src", "script-src-elem", "style-src-elem", "frame-src", "base-uri", "form-action"}
    expected |= {"font-src", "object-src", "style-src-attr", "script-src-attr"}
    until(lambda: expected <= set(opened.page.evaluate("[...window.refused]")), 20)
    assert site.requests == []
    assert opened.page.evaluate("window.pwned") is None
    pages["open"] = pages["some"].with_name("open.html")
    pages["open"].write_text(re.sub(r"<meta http-equiv=Content.*?>", "", pages["some"].read_text()))
    show("open").page.evaluate(TRY_ALL, site.url)
    until(lambda: site.requests, 20)  # so it is the policy that forbids it


@slow
@pytest.mark.parametrize("name", ["hostile", "hostiles"])
@pytest.mark.parametrize("width", [1280, 360])
def test_hostile_texts_are_texts(show: Any, pages: dict[str, Path], name: str, width: int) -> None:
    opened = show(name, width=width)
    tab = opened.page
    opened.page.evaluate("[...document.querySelectorAll('details')].slice(-60).forEach(d => { d.open = true })")
    until(lambda: tab.evaluate("!document.querySelector('#sessions tbody:has(details[open]) noscript')"))
    assert tab.evaluate("window.pwned") is None
    assert (opened.trouble, opened.requests) == ([], [pages[name].as_uri()])
    assert (
        tab.evaluate("document.querySelectorAll('script, img, iframe, [onerror], [onmouseover], [onload]').length") == 1
    )
    assert tab.evaluate("document.querySelectorAll('table#sessions, main, footer').length") == 3
    if name == "hostile":
        text = tab.evaluate("document.querySelector('#sessions').innerText")
        for hostile_text in HOSTILE[:6]:
            assert text.count(hostile_text) >= 15, hostile_text
        assert "gnp.\\u202eexe\\u2066\\u200f" in text
        assert "one\\ntwo\\r\\nthree\\u0000" in text
        assert not set(text) & set("\u202e\u2066\u200f\0")
    assert opened.too_wide() == []
    first = tab.evaluate("[...document.querySelectorAll('select option')].map(o => o.value)")
    assert HOSTILE[0] in first
    tab.get_by_label("Error class").select_option(value=HOSTILE[0])
    assert {row.startswith(HOSTILE[0]) for row in opened.rows()} == {True}


@slow
def test_of_many_sessions_what_is_below_a_row_is_made_when_it_is_opened(show: Any) -> None:
    opened = show("many")
    tab = opened.page
    total = page.FEW + 50
    assert len(opened.rows()) == total
    assert tab.locator(".t").count() == 0
    tab.locator("summary", has_text="session-").first.click()
    tab.wait_for_selector(".t")
    assert tab.locator(".t").count() == 1
    assert "open_backend" in tab.inner_text(".t")
    assert tab.locator("noscript").count() == total - 1
    tab.get_by_label("Label, name or id").fill("number=n7")
    assert len(opened.rows()) == 11
    tab.get_by_role("button", name="Open all").click()
    until(lambda: tab.locator(".t").count() == 12)
    assert tab.locator("#sessions h3:visible").count() == 11
    assert opened.trouble == []


@slow
def test_too_many_to_open_at_once_are_not(show: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = show("many").page
    assert tab.is_enabled("#all")  # 150: fewer than the script opens at once
    assert "AT_ONCE = 200" in page._file("report.js")
    tab.get_by_label("Label, name or id").fill("no such")
    assert tab.is_disabled("#all")


@slow
@pytest.mark.parametrize("name", ["some", "many"])
def test_without_script_the_page_is_whole(show: Any, name: str) -> None:
    opened = show(name, java_script_enabled=False)
    tab = opened.page
    total = 4 if name == "some" else page.FEW + 50
    assert tab.locator("#sessions > tbody").count() == total
    assert tab.locator(".t").count() == total
    assert not tab.is_visible("#filters")
    body = tab.locator("#sessions .b").nth(1)
    assert not body.is_visible()
    tab.locator("#sessions summary").nth(1).click()
    assert body.is_visible()
    assert "release_backend" in body.inner_text()


@slow
@pytest.mark.parametrize("name", ["lived", "some"])
@pytest.mark.parametrize("width", [360, 700, 1000, 1600])
def test_nothing_sticks_out_on_any_screen(show: Any, name: str, width: int) -> None:
    opened = show(name, width=width)
    opened.open_all()
    assert opened.page.locator("#sessions .t:visible").count() >= 3
    assert opened.too_wide() == []
    bars = "[...document.querySelectorAll('.t td svg')].map((e) => e.getBoundingClientRect().width)"
    assert min(opened.page.evaluate(bars)) > 100, "bars can be told apart"


@slow
@pytest.mark.parametrize("name", ["lived", "some", "hostile"])
def test_printed_it_is_light_whole_and_without_filters(show: Any, name: str) -> None:
    opened = show(name, width=718, color_scheme="dark")  # what A4 has between margins of 10 mm
    tab = opened.page
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
    assert tab.evaluate("getComputedStyle(document.querySelector('.card')).color") == "rgb(31, 35, 40)"
    fill = "getComputedStyle(document.querySelector('.diagram .active rect')).fill"
    assert tab.evaluate(fill) == "rgb(218, 251, 225)", "the diagram is light too"
    assert not tab.is_visible("#filters")
    total = tab.locator("#sessions > tbody").count()
    assert tab.locator("#sessions .t:visible").count() == total, "closed ones are printed, where there are few"
    assert tab.locator("figure:visible").count() == tab.locator("figure").count()
    assert tab.evaluate("getComputedStyle(document.querySelector('.s')).breakInside") == "avoid"
    assert tab.evaluate("getComputedStyle(document.querySelector('#sessions')).display") == "table", (
        "its head is repeated"
    )
    assert opened.too_wide() == []


@slow
def test_of_many_those_that_are_open_are_printed_and_a_filter_is_told(show: Any) -> None:
    tab = show("many").page
    tab.get_by_label("Label, name or id").fill("number=n7")
    tab.locator("#sessions summary:visible").first.click()
    tab.wait_for_selector(".t")
    tab.emulate_media(media="print")
    assert tab.locator("#sessions .b:visible").count() == 1
    assert tab.locator("#sessions > tbody:visible").count() == 11
    hang_together = "[...document.querySelectorAll('.s > tr:first-child')].map((e) => getComputedStyle(e).breakAfter)"
    assert sorted(tab.evaluate(hang_together))[-2:] == ["auto", "avoid"], "only a row and what is open below it"
    assert tab.inner_text("#shown") == f"Filtered: 11 of {page.FEW + 50} sessions"
    assert tab.is_visible("#shown")


CONTRAST = """() => {
    const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    const parse = (c) => c.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ground = (e) => {
        const colour = e ? parse(getComputedStyle(e).backgroundColor) : [255, 255, 255];
        return colour.length < 4 || colour[3] > 0 ? colour : ground(e.parentElement);
    };
    const faint = [];
    let seen = 0;
    for (const e of document.querySelectorAll('body *')) {
        if (e.closest('.diagram, .off, option, noscript, script') || e.disabled || !e.checkVisibility()) continue;
        if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
        const style = getComputedStyle(e), ink = parse(e.namespaceURI.includes('svg') ? style.fill : style.color);
        const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
        seen++;
        if (ratio < 4.5) faint.push(`${e.tagName}.${e.className} ${e.textContent.slice(0, 30)} ${ratio}`);
    }
    return [seen, faint];
}"""


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["lived", "some", "hostile"])
def test_all_text_stands_out_from_its_ground(show: Any, name: str, scheme: str) -> None:
    opened = show(name, color_scheme=scheme)
    opened.open_all()
    seen, faint = opened.page.evaluate(CONTRAST)
    assert seen > 100
    assert faint == []
    card = opened.page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert card == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")


def roles(tab: Any) -> dict[str, list[str]]:
    """What a screen reader is told: the names of what is on the page, by role."""
    found: dict[str, list[str]] = {}
    client = tab.context.new_cdp_session(tab)
    for node in client.send("Accessibility.getFullAXTree")["nodes"]:
        if not node["ignored"]:
            found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    return found


@slow
@pytest.mark.parametrize("width", [1280, 360])
def test_a_screen_reader_finds_headings_tables_and_names(show: Any, width: int) -> None:
    opened = show("some", width=width)
    opened.open_all()
    found = roles(opened.page)
    headings = ["Audit report", "? Not verified", "Overview", "Paths", "Sessions"]
    assert [name.strip() for name in found["heading"]][:5] in (headings, [h.replace("? ", "") for h in headings])
    assert [n for n in found["heading"] if n.startswith("Session ")] == [
        f"Session {name}" for name in ("red-2", "red-1", "blue-2", "blue-1")
    ]
    assert "Sessions, newest first" in found["table"]
    assert len(found["table"]) >= 6, "the list, the facts, and one for each session"
    assert len([name for name in found["rowheader"] if name.startswith(("red-", "blue-"))]) == 4
    if width == 1280:
        assert found["columnheader"][:9] == list(sessions.COLUMNS)
    pictures = [name for name in found["image"] if name.startswith("Timeline of ")]
    assert len(pictures) == 4
    assert any("owner not started to active to timed out" in name for name in pictures)
    assert all(found["image"]), "a picture that is only an ornament is none to a screen reader"
    assert all(
        name for role in ("combobox", "textbox", "searchbox", "spinbutton", "button") for name in found.get(role, ())
    )


@slow
def test_bars_and_marks_stand_where_the_times_say(show: Any) -> None:
    opened = show("some")
    opened.open_all()
    bars = opened.page.evaluate("""() => {
        const rows = [...document.querySelectorAll('#sessions > tbody')];
        const row = rows.find((body) => body.rows[0].cells[0].title === 'blue-2');
        const picture = row.querySelector('.l'), whole = picture.getBoundingClientRect().width;
        return [...picture.querySelectorAll('.e')].map((e) => [e.getBBox().x / whole, e.getBBox().width / whole]);
    }""")
    total = 10.002
    assert bars == [
        [pytest.approx(0, abs=1e-3), pytest.approx(0.9 / total, abs=1e-3)],
        [pytest.approx(10 / total, abs=1e-3), pytest.approx(0.002 / total, abs=1e-3)],
    ]
    shares = opened.page.evaluate("""() => [...document.querySelectorAll('.t td svg:not(.k)')].map(s =>
        s.querySelector('rect').getBBox().width / s.getBoundingClientRect().width)""")
    assert all(0 < share <= 1.001 for share in shares)
    assert max(shares) == pytest.approx(1, abs=0.01)
