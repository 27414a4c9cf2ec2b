"""The live view: what it shows, whom it lets in, and that watching changes nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from both_ways import PATIENCE, eventually
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from lifecycle import Client, ConfigError, SessionClosed, UnsupportedOperation
from lifecycle.states import EDGES, State
from lifecycle.steps import show_in_browser
from lifecycle.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from websockets.sync.connection import Connection

    from lifecycle import Session
    from lifecycle.audit import Record
    from lifecycle.ports import SessionRow, Store

pytestmark = pytest.mark.slow

PAGE = """data:text/html,<title>A shop</title><body style="margin:0"><button style="width:200px;height:100px"
onclick="document.title='pressed'" onkeydown="document.title='key '+event.key">Buy</button>"""


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client(adapter="local", store="memory:")  # not in a `with`, which keeps Playwright's driver to its end
    with client.Session():
        pass  # the gateway listens from the first session on, for good
    yield client
    client.close()


def origin_of(url: str) -> str:
    return url.partition("/view/")[0]


@contextmanager
def watching(session: Session) -> Iterator[Connection]:
    assert session.viewer_url is not None
    url = session.viewer_url.replace("http://", "ws://")
    with connect(url, origin=origin_of(session.viewer_url), max_size=None) as socket:  # type: ignore[arg-type]
        yield socket


def until(socket: Connection, wanted: Callable[[Mapping[str, Any]], object]) -> Mapping[str, Any]:
    """What the view tells, message by message, until it tells what is wanted. Frames are drawn at once."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        raw = socket.recv(timeout=PATIENCE)
        if isinstance(raw, bytes):
            continue
        told: Mapping[str, Any] = json.loads(raw)
        if "frame" in told:
            socket.send(json.dumps({"ack": told["frame"]["number"]}))
        if wanted(told):
            return told
    raise AssertionError("it was not told")


def test_a_viewer_sees_the_page_the_state_and_the_log_until_the_end(client: Client) -> None:
    session = client.Session(name="a run", labels={"team": "crawl"}, viewport_width=640, viewport_height=480).start()
    session.page.goto(PAGE)
    with watching(session) as socket:
        told = until(socket, lambda t: "records" in t)
        assert (told["status"]["status"], told["status"]["name"]) == ("active", "a run")
        assert [(r["kind"], r["event"]) for r in told["records"]] == [("intent", "start"), ("commit", "start")]
        (start,) = [e for e in EDGES if e.event == "start"]
        assert told["records"][1]["edge"] == f"{start.name} [{', '.join(start.guards)}]"
        if [tab["title"] for tab in told["tabs"]] != ["A shop"]:
            until(socket, lambda t: [tab["title"] for tab in t.get("tabs", [])] == ["A shop"])
        frame = until(socket, lambda t: "frame" in t)["frame"]
        assert (frame["width"], frame["height"]) == (640, 480)
        picture = socket.recv(timeout=PATIENCE)
        assert isinstance(picture, bytes)
        assert picture[:3] == b"\xff\xd8\xff"  # a JPEG
        session.stop()
        end = until(socket, lambda t: t.get("status", {}).get("status") == "closed")
        assert end["status"]["close_reason"] == "manual"
        assert [(r["kind"], r["event"], r["dest"]) for r in end["records"]][-1] == ("commit", "stop", "closed")
    assert session.viewer_url is None
    with pytest.raises(SessionClosed):
        session.viewer()


def test_a_viewer_follows_the_tab_that_it_chose_and_goes_on_when_that_is_closed(client: Client) -> None:
    with client.Session() as session:
        session.page.goto("data:text/html,<title>first</title>")
        with watching(session) as socket:
            until(socket, lambda t: t.get("tab"))  # it shows the first, or it would take to the second by itself
            other = session.page.context.new_page()
            other.goto("data:text/html,<title>second</title>")
            told = until(socket, lambda t: {tab["title"] for tab in t.get("tabs", [])} == {"first", "second"})
            second = next(tab["id"] for tab in told["tabs"] if tab["title"] == "second")
            socket.send(json.dumps({"tab": second}))
            until(socket, lambda t: t.get("tab") == second)
            other.close()
            told = until(socket, lambda t: "tabs" in t and t["tab"] not in (None, second))
            assert [tab["title"] for tab in told["tabs"]] == ["first"]
            until(socket, lambda t: "frame" in t)


def test_watching_is_no_use_and_input_is(client: Client) -> None:
    session = client.Session(timeout_minutes=1.5 / 60, viewer_input=True).start()
    with watching(session) as socket:
        until(socket, lambda t: "frame" in t)
        used = session.status().last_accessed_at
        until(socket, lambda t: "status" in t)
        socket.send(json.dumps({"mouse": {"type": "mouseMoved", "x": 5, "y": 5, "button": "none"}}))
        eventually(lambda: session.status().last_accessed_at > used)
        end = until(socket, lambda t: t.get("status", {}).get("status") == "timed_out")
        assert end["status"]["close_reason"] == "idle_timeout"


@pytest.mark.parametrize("allowed", [True, False])
def test_keys_and_clicks_come_through_only_where_they_are_let(client: Client, allowed: bool) -> None:
    with client.Session(viewer_input=allowed) as session:
        page = session.page
        page.goto(PAGE)
        with watching(session) as socket:
            until(socket, lambda t: "frame" in t)
            for kind in ("mousePressed", "mouseReleased"):
                click = {"type": kind, "x": 50, "y": 50, "button": "left", "clickCount": 1, "force": 7}
                socket.send(json.dumps({"mouse": click}))
            if allowed:
                eventually(lambda: page.title() == "pressed")
                key = {"type": "rawKeyDown", "key": "F8", "code": "F8", "windowsVirtualKeyCode": 119}
                socket.send(json.dumps({"key": key}))
                eventually(lambda: page.title() == "key F8")
            else:
                # Messages are taken in order: once this one is answered, the click would have come through.
                other = page.context.new_page()
                told = until(socket, lambda t: len(t.get("tabs", [])) == 2)
                socket.send(json.dumps({"tab": next(t["id"] for t in told["tabs"] if t["title"] != "A shop")}))
                until(socket, lambda t: t.get("tab") not in (None, told["tab"]))
                other.close()
                assert page.title() == "A shop"


@pytest.mark.parametrize("nonsense", ["", "{", "[]", "7", '{"ack": "x"}', '{"tab": 7}', '{"mouse": 7}', '{"key": []}'])
def test_nonsense_of_a_viewer_harms_nothing(client: Client, nonsense: str) -> None:
    with client.Session(viewer_input=True) as session, watching(session) as socket:
        socket.send(nonsense)
        until(socket, lambda t: "frame" in t)
        assert session.state is State.ACTIVE


def test_who_is_let_in(client: Client) -> None:
    with client.Session() as session:
        url = session.viewer_url
        assert url is not None
        base = origin_of(url)
        cdp_token = session.cdp_url().rpartition("/")[2]
        view_token = url.rpartition("/")[2]
        assert view_token != cdp_token
        page = httpx.get(url)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        assert view_token not in page.text
        assert cdp_token not in page.text
        assert httpx.get(f"{base}/view/{cdp_token}").status_code == 404
        assert httpx.get(f"{base}/view/").status_code == 404
        assert httpx.get(f"{base}/{view_token}/json/version").status_code == 404
        assert httpx.get(url, headers={"Host": "evil.test"}).status_code == 403
        assert httpx.get(url, headers={"Origin": "http://evil.test"}).status_code == 403
        socket = url.replace("http://", "ws://")
        for origin in (None, "http://evil.test", "null", base.replace("127.0.0.1", "localhost")):
            with pytest.raises(InvalidStatus) as refused, connect(socket, origin=origin):  # type: ignore[arg-type]
                raise AssertionError(origin)
            assert refused.value.response.status_code == 403
        with pytest.raises(InvalidStatus), connect(f"ws://{base[7:]}/{view_token}"):
            raise AssertionError
    over = httpx.get(url)
    assert (over.status_code, "manual" in over.text) == (410, True)


def test_a_guest_has_the_owner_s(client: Client) -> None:
    with client.Session() as session, client.Session(session.session_id, on_exit="detach") as guest:
        assert guest.viewer_url == session.viewer_url is not None
        with watching(guest) as socket:
            told = until(socket, lambda t: "records" in t)
            assert [r["event"] for r in told["records"]] == ["start", "start", "attach", "attach"]


def test_a_fake_has_none(client: Client) -> None:
    with Client(adapter="memory", store="memory:") as fake, fake.Session() as session:
        assert session.viewer_url is None
        with pytest.raises(UnsupportedOperation, match="local"):
            session.viewer()
    with pytest.raises(ConfigError, match="viewer_input"):
        client.Session(viewer_input=1)  # type: ignore[arg-type]


def test_without_a_display_the_view_is_opened_by_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    shown = tmp_path_factory.mktemp("browser") / "shown"
    command = shown.with_name("browser")
    command.write_text(f'#!/bin/sh\necho "$1" >> {shown}\n')
    command.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{command} %s")
    monkeypatch.setattr("webbrowser._tryorder", None)
    with client.Session(headless=False) as session:
        assert shown.read_text() == f"{session.viewer_url}\n"
        (step,) = [s for r in session.history() for s in r.steps if s.step == "open_viewer"]
        assert (step.outcome, step.note) == ("done", None)
        assert session.viewer() is True
        assert shown.read_text() == f"{session.viewer_url}\n" * 2


def test_a_browser_of_the_terminal_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import webbrowser

    monkeypatch.delenv("BROWSER", raising=False)
    taken: list[str] = []
    terminal = webbrowser.GenericBrowser("true")
    monkeypatch.setattr(terminal, "open", lambda url, **_: taken.append(url))
    monkeypatch.setattr(webbrowser, "get", lambda: terminal)
    assert show_in_browser("http://127.0.0.1:1/") is False
    assert taken == []


def shot_of(session: Session) -> Any:
    """What a view is told of a session, as a future."""
    core = session._client._core
    return asyncio.run_coroutine_threadsafe(core._snapshot(session._att, 0), core.supervisor.thread.loop)


def last_of(told: Mapping[str, Any]) -> tuple[object, ...]:
    return (told["over"], told["status"]["status"], *[(r["kind"], r["dest"]) for r in told["records"]][-1])


def test_what_the_view_closes_with_has_the_end_in_it_where_its_write_waits() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
            if any(r.labels.get("slow") for r in records):
                entered.set()
                assert go_on.wait(PATIENCE)
            super().write(records, rows)

    with Client(adapter="memory", store=Slow()) as client:
        session = client.Session().start()
        other = threading.Thread(target=client.Session(labels={"slow": "yes"}).start)

        @session.hook(before="stop")
        def meanwhile(session: object) -> None:
            other.start()
            assert entered.wait(PATIENCE)

        ends = threading.Thread(target=session.stop)
        ends.start()
        eventually(lambda: session.state is State.CLOSED, "it does not end")
        shot = shot_of(session)
        go_on.set()
        assert last_of(shot.result(PATIENCE)) == (True, "closed", "commit", "closed")
        for thread in (other, ends):
            thread.join(PATIENCE)


def test_the_status_that_a_view_is_told_is_as_old_as_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(adapter="memory", store="memory:", reap_on_start=False) as client:  # a reaper would read, too
        session = client.Session().start()
        core, real = client._core, client._core.read

        async def read(work: Callable[[Store], Any]) -> Any:
            found = await real(work)
            if session.state is State.ACTIVE:
                await core.flow.stop(session._att, None)
            return found

        monkeypatch.setattr(core, "read", read)
        assert last_of(shot_of(session).result(PATIENCE)) == (False, "active", "commit", "active")
        assert last_of(shot_of(session).result(PATIENCE)) == (True, "closed", "commit", "closed")
