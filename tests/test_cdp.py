"""The cdp adapter: sessions in a browser that somebody else runs."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import re
import signal
import threading
import time
import uuid
from urllib.parse import urlsplit

import pytest
from browser_rig import Rig, RigHost, Session
from cdp_client import Ws
from foreign_browser import Foreign
from planted import QUERY as SECRET
from waiting import until

from lifecycle import Client, State
from lifecycle.config import parse_options
from lifecycle.cookies import Cookie
from lifecycle.errors import ConfigError, SessionFailed, StartFailed, UnsupportedOperation
from lifecycle_adapters.cdp import CdpAdapter
from lifecycle_adapters.cdp_place import discover, parse_place
from lifecycle_adapters.cdp_scopes import merge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="starts a Chromium with a debugging port"),
]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    made = Foreign(tmp_path_factory.mktemp("foreign"))
    yield made
    made.end()


@pytest.fixture
def mortal(tmp_path):
    made = Foreign(tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="module")
def rig():
    made = Rig()
    yield made
    made.stop()


@contextlib.contextmanager
def session(rig, url, *, end_browser=False, **options):
    host = RigHost(rig)
    adapter = CdpAdapter(url=url, end_browser=end_browser)
    backend = rig.run(adapter.open(uuid.uuid4().hex, parse_options(None, options), host))
    try:
        yield Session(rig, host, backend)
    finally:
        rig.run(backend.release())


# --- a life -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["url", "http_url"])
def test_a_session_has_a_page_of_its_own_and_leaves_the_browser_as_it_was(foreign, how, site):
    before = set(foreign.pages())
    with (
        Client(adapter=CdpAdapter(url=getattr(foreign, how))) as client,
        client.Session(viewport_width=777, viewport_height=555) as s,
    ):
        (ours,) = set(foreign.pages()) - before
        assert s.page.url == "about:blank"
        assert s.page.evaluate("[innerWidth, innerHeight]") == [777, 555]
        s.page.goto(site.url)
        assert foreign.pages()[ours]["url"] == f"{site.url}/"
        with s.page.expect_popup() as popup:
            s.page.evaluate("open('about:blank#popup', '', 'noopener')")
        popup.value.wait_for_load_state()
        s.page.context.new_page()
        other = s.page.context.browser.new_context()
        other.new_page()
        assert len(foreign.pages()) == len(before) + 4
        assert len(s.page.context.pages) == 3  # ours alone
        record = b"".join(r.to_json() for r in s.history())
        assert urlsplit(foreign.url).path.encode() not in record
        url = s.cdp_url()
    assert s.state is State.CLOSED
    assert set(foreign.pages()) == before
    assert foreign.call("Target.getBrowserContexts")["browserContextIds"] == []
    assert foreign.process.poll() is None
    assert urlsplit(foreign.url).path not in url


def test_cookies_go_through_the_default_context(foreign, tmp_path):
    file = tmp_path / "cookies.json"
    expires = int(time.time()) + 3600
    file.write_text(json.dumps([{"name": "a", "value": "1", "domain": "x.test", "path": "/", "expires": expires}]))
    with Client(adapter=CdpAdapter(url=foreign.url)) as client:
        with client.Session(cookie_file=str(file)) as s:
            assert {c["name"]: c["value"] for c in s.get_cookies()} == {"a": "1"}
            s.set_cookies(cookies=[{"name": "b", "value": "2", "domain": "x.test", "path": "/", "expires": expires}])
        assert {c["name"] for c in json.loads(file.read_text())} == {"a", "b"}
    foreign.call("Storage.clearCookies")


def network_process(foreign):
    processes = foreign.call("SystemInfo.getProcessInfo")["processInfo"]
    return next((p["id"] for p in processes if p["type"] == "network.mojom.NetworkService"), None)


def test_cookies_that_went_with_the_process_that_held_them_stay_in_the_file(mortal, tmp_path, caplog):
    file = tmp_path / "cookies.json"
    expires = int(time.time()) + 3600
    file.write_text(json.dumps([{"name": "a", "value": "1", "domain": "x.test", "path": "/", "expires": expires}]))
    with Client(adapter=CdpAdapter(url=mortal.url)) as client:
        with client.Session(cookie_file=str(file)) as s:
            first = network_process(mortal)
            os.kill(first, signal.SIGKILL)
            until(lambda: network_process(mortal) not in (first, None))
            assert s.get_cookies() == []
            s.set_cookies(cookies=[{"name": "b", "value": "2", "domain": "x.test", "path": "/", "expires": expires}])
        (saved,) = [step for step in s.history()[-1].steps if step.step == "save_cookies"]
        assert saved.note == "the browser lost cookies: those of the file stay, newer ones that are not there are gone"
        until(lambda: [r for r in caplog.records if "cookies_lost" in r.getMessage()])  # it is told off the edge
        assert {c["name"] for c in json.loads(file.read_text())} == {"a", "b"}
        with client.Session(cookie_file=str(file)):
            mortal.call("Storage.clearCookies")
        assert json.loads(file.read_text()) == []


def test_pages_of_others_are_not_attached_and_those_of_clients_are(rig, foreign):
    theirs = set(foreign.pages())
    with session(rig, foreign.url) as s, Ws(s.url) as a:
        a.call("Target.setAutoAttach", {"autoAttach": True, "flatten": True, "waitForDebuggerOnStart": True})
        seen = [e["params"]["targetInfo"] for e in a.events if e["method"] == "Target.attachedToTarget"]
        pages = [i["targetId"] for i in seen if i["type"] == "page"]
        assert len(pages) == 1
        assert not theirs & set(pages)
        a.events.clear()
        late = foreign.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        made = a.call("Target.createTarget", {"url": "about:blank"})["result"]["targetId"]
        attached = a.wait_event("Target.attachedToTarget")["params"]
        assert attached["targetInfo"]["targetId"] == made
        a.call("Runtime.runIfWaitingForDebugger", session_id=attached["sessionId"])
        foreign.call("Target.closeTarget", {"targetId": late})
        until(lambda: late not in foreign.pages())  # its answer comes before it is gone
        a.call("Browser.getVersion")
        assert not [e for e in a.events if e["method"] == "Target.detachedFromTarget"]  # of what it never had
    assert set(foreign.pages()) == theirs


def test_gateways_behind_gateways(rig, foreign):
    before = set(foreign.pages())
    with session(rig, foreign.url) as outer:
        with session(rig, outer.url) as inner, session(rig, inner.http_url) as innermost:
            with Ws(innermost.url) as a:
                target = a.call("Target.createTarget", {"url": "data:text/html,<title>deep</title>"})["result"]
                attach = {"targetId": target["targetId"], "flatten": True}
                page = a.call("Target.attachToTarget", attach)["result"]["sessionId"]
                got = a.call("Runtime.evaluate", {"expression": "6*7"}, page)
                assert got["result"]["result"]["value"] == 42
                assert a.call("Runtime.evaluate", {"expression": "1"}, "NOPE")["error"]["code"] == -32001
                assert a.call("Fake.nonsense")["error"]["code"] == -32601
            assert len(foreign.pages()) == len(before) + 4
        assert len(foreign.pages()) == len(before) + 1
    assert set(foreign.pages()) == before


def test_a_session_of_ours_is_a_browser_too(foreign):
    with Client(adapter=CdpAdapter(url=foreign.url)) as client, client.Session() as outer:
        with Client(adapter=CdpAdapter(url=outer.cdp_url())) as second, second.Session() as inner:
            inner.page.goto("data:text/html,<title>inner</title>")
            assert inner.page.title() == "inner"
        assert outer.state is State.ACTIVE


# --- ends ---------------------------------------------------------------------------------------------------------


def test_a_browser_that_dies_is_a_crash_within_a_second(mortal):
    with Client(adapter=CdpAdapter(url=mortal.url)) as client:
        s = client.Session()
        s.start()
        began = time.monotonic()
        mortal.end()
        status = s.wait_ended(timeout=5)
        assert time.monotonic() - began < 1
        assert (status.status, status.close_reason) == (State.ERROR, "crash")
        with pytest.raises(SessionFailed):
            s.get_cookies()


def test_end_browser_ends_it(rig, mortal):
    with session(rig, mortal.url, end_browser=True) as s:
        assert mortal.process.poll() is None
    mortal.process.wait(5)
    assert s.host.ends.empty()


def test_a_browser_with_no_page_left_gets_a_blank_one(rig, mortal):
    with session(rig, mortal.url):
        (theirs,) = [t for t, info in mortal.pages().items() if info["title"] == "theirs"]
        mortal.call("Target.closeTarget", {"targetId": theirs})
        until(lambda: theirs not in mortal.pages())
    assert [info["url"] for info in mortal.pages().values()] == ["about:blank"]


@pytest.mark.parametrize("ticks", [*range(1, 30, 3), 60, 120])
def test_a_start_that_is_cancelled_leaves_nothing(rig, foreign, ticks):
    before = set(foreign.pages())

    async def cancel():
        host = RigHost(rig)
        adapter = CdpAdapter(url=foreign.url)
        task = asyncio.ensure_future(adapter.open("s", parse_options(None, {}), host))
        for _ in range(ticks):
            await asyncio.sleep(0.0005)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await (await task).release()

    rig.run(cancel())
    until(lambda: set(foreign.pages()) == before)
    until(lambda: not [h for h in rig.gateway._listener.hubs() if not h._pipe.closed])


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("headless", False),
        ("proxy", "http://127.0.0.1:1"),
        ("chrome_args", ["--lang=de"]),
        ("executable_path", "/bin/true"),
        ("user_agent", "x"),
    ],
)
def test_what_only_a_launch_can_take_is_refused_by_name(option, value):
    with pytest.raises(UnsupportedOperation, match=option):
        CdpAdapter(url="ws://127.0.0.1:1/x").check(parse_options(None, {option: value}))


@pytest.mark.parametrize(
    "url", [None, "", "ftp://h/x", "ws://", "127.0.0.1:9222", "ws://h:99999999/s3cret", "http://[::"]
)
def test_what_is_no_cdp_url_is_refused_and_not_shown(url, monkeypatch):
    monkeypatch.delenv("LIFECYCLE_CDP_URL", raising=False)
    with pytest.raises(ConfigError, match="url") as caught:
        CdpAdapter(url=url).check(parse_options(None, {}))
    assert "s3cret" not in str(caught.value)


def test_the_url_comes_from_the_environment(monkeypatch, foreign):
    monkeypatch.setenv("LIFECYCLE_CDP_URL", foreign.url)
    with Client(adapter="cdp") as client, client.Session() as s:
        assert s.state is State.ACTIVE


class Answers(http.server.BaseHTTPRequestHandler):
    """One answer for all."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", self.server.body.decode())
        self.send_header("Content-Length", str(len(self.server.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args):
        """Print nothing."""


@pytest.fixture
def answers():
    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    server.status, server.body, server.seen = 200, b"", []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="site-answers", daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize(
    ("scheme", "status", "body", "says"),
    [
        ("ws", 403, b"", "check the token"),
        ("ws", 401, b"", "check the key"),
        ("ws", 404, b"", "check the path"),
        ("ws", 410, b"The session is over: idle_timeout\n", "over: idle_timeout; the session behind"),
        ("ws", 410, f"{SECRET}".encode(), "HTTP 410"),
        ("ws", 200, b"hello", "HTTP 200"),
        ("ws", 302, b"ws://127.0.0.1:1/elsewhere", "HTTP 302"),
        ("http", 500, b"", "its IP address"),
        ("http", 302, b"http://127.0.0.1:1/elsewhere", "HTTP 302"),
        ("http", 200, b"<html>", "no CDP endpoint"),
        ("http", 200, b'{"webSocketDebuggerUrl": 5}', "no WebSocket URL"),
        ("http", 200, b"[]", "no CDP endpoint"),
    ],
)
def test_answers_that_are_no_browser(rig, answers, scheme, status, body, says):
    answers.status, answers.body = status, body
    url = f"{scheme}://user:pass@127.0.0.1:{answers.server_port}/{SECRET}?key={SECRET}"
    with pytest.raises(StartFailed, match=re.escape(says)) as caught, session(rig, url):
        pass
    assert f"{scheme}://127.0.0.1:{answers.server_port}" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        assert "pass@" not in str(error)
        error = error.__cause__
    assert answers.seen[0]["Authorization"] == "Basic dXNlcjpwYXNz"


def test_what_does_not_listen_or_does_not_speak(rig, answers):
    port = answers.server_port + 0
    for scheme in ("ws", "http"):
        with pytest.raises(StartFailed, match="check that the browser runs"), session(rig, f"{scheme}://127.0.0.1:1/x"):
            pass
    with pytest.raises(StartFailed, match=r"TLS|reached"), session(rig, f"wss://127.0.0.1:{port}/x"):
        pass


def test_headers_go_to_the_host_that_they_are_for(answers):
    place = parse_place(f"http://127.0.0.1:{answers.server_port}", {"X-Key": SECRET})
    answers.body = b'{"webSocketDebuggerUrl": "ws://127.0.0.1:5/devtools"}'
    assert discover(place).headers == {"X-Key": SECRET}
    answers.body = b'{"webSocketDebuggerUrl": "ws://elsewhere.test/devtools"}'
    assert discover(place).headers == {}
    assert SECRET not in repr(place)


# --- cookies of several contexts ----------------------------------------------------------------------------------


def jar(**cookies):
    made = [Cookie(name=n, value=v, domain="x.test", path="/") for n, v in cookies.items()]
    return {c.key: c for c in made}


def values(cookies):
    return {c.name: c.value for c in cookies}


def test_a_change_in_one_context_wins_over_the_copies_in_others():
    seeds = jar(login="old", kept="1", gone="2")
    merged, conflicts = merge([(seeds, seeds), (seeds, jar(login="new", kept="1", more="3"))])
    assert (values(merged), conflicts) == ({"login": "new", "kept": "1", "more": "3"}, 0)


def test_two_changes_of_one_cookie_are_a_conflict_and_not_a_mixture():
    seeds = jar(login="old")
    first, second = jar(login="a", csrf="a"), jar(login="b", csrf="b", only_b="b")
    merged, conflicts = merge([(seeds, seeds), (seeds, first), (seeds, second)])
    assert (values(merged), conflicts) == ({"login": "a", "csrf": "a"}, 2)
    elsewhere = {c.key: c for c in [Cookie(name="n", value="b", domain="other.test", path="/")]}
    merged, conflicts = merge([(seeds, first), (seeds, second | elsewhere)])
    assert values(merged) == {"login": "a", "csrf": "a", "n": "b"}


def test_contexts_of_clients_begin_with_the_file_and_end_in_it(foreign, tmp_path):
    file = tmp_path / "cookies.json"
    expires = int(time.time()) + 3600

    def cookie(name, value):
        return {"name": name, "value": value, "domain": "x.test", "path": "/", "expires": expires}

    file.write_text(json.dumps([cookie("login", "old")]))
    with Client(adapter=CdpAdapter(url=foreign.url)) as client:
        with client.Session(cookie_file=str(file), cookie_scope="all") as s:
            with Ws(s.cdp_url()) as a, Ws(s.cdp_url()) as b:
                one = a.call("Target.createBrowserContext")["result"]["browserContextId"]
                got = a.call("Storage.getCookies", {"browserContextId": one})["result"]["cookies"]
                assert [(c["name"], c["value"]) for c in got] == [("login", "old")]
                fresh = {"browserContextId": one, "cookies": [cookie("login", "new"), cookie("one", "1")]}
                a.call("Storage.setCookies", fresh)
                a.call("Target.disposeBrowserContext", {"browserContextId": one})
                two = b.call("Target.createBrowserContext", {"disposeOnDetach": True})["result"]["browserContextId"]
                b.call("Storage.setCookies", {"browserContextId": two, "cookies": [cookie("login", "other")]})
                three = a.call("Target.createBrowserContext")["result"]["browserContextId"]
                a.call("Storage.setCookies", {"browserContextId": three, "cookies": [cookie("three", "3")]})
            until(lambda: two not in foreign.call("Target.getBrowserContexts")["browserContextIds"])
            assert {c["name"]: c["value"] for c in s.get_cookies()} == {"login": "new", "one": "1", "three": "3"}
        saved = {c["name"]: c["value"] for c in json.loads(file.read_text())}
        assert saved == {"login": "new", "one": "1", "three": "3"}
        notes = [step.note for r in s.history() for step in r.steps if step.step == "save_cookies" and step.note]
        assert notes == ["1 cookies differed between contexts; those of the first context were kept"]
        counts = s.history()[-1].counts
        assert [counts.get(f"cookies_of_context_{n}") for n in range(5)] == [1, 2, 1, 2, None], (
            "each as it was last seen"
        )
        assert counts["context_conflicts"] == 1
    foreign.call("Storage.clearCookies")
