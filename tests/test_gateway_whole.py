"""The gateway, whole: frozen clients, extensions, contexts and their cookies, and a foreign browser's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
from browser_rig import Rig
from cdp_client import Ws
from test_gateway import FakeBrowser, refused
from waiting import until
from websockets.asyncio.server import serve

from lifecycle.errors import BackendError, ConnectionLost
from lifecycle.gateway import policy
from lifecycle.ports import CdpSocket

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rig():
    made = Rig()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def chromium(rig):
    with rig.browser() as session:
        yield session


@pytest.fixture
def fake(rig):
    made = FakeBrowser(rig)
    yield made
    made.close()


AUTO = {"autoAttach": True, "flatten": True, "waitForDebuggerOnStart": True}


# --- frozen clients -----------------------------------------------------------------------------------------------


def test_a_frozen_client_holds_up_new_pages_for_some_seconds_only(chromium, monkeypatch, caplog):
    monkeypatch.setattr(policy, "FROZEN_AFTER", 0.6)
    with Ws(chromium.url) as frozen, Ws(chromium.url) as other:
        frozen.call("Target.setAutoAttach", AUTO)

        def open_page():
            target = other.call("Target.createTarget", {"url": "about:blank"})["result"]["targetId"]
            attach = {"targetId": target, "flatten": True}
            session = other.call("Target.attachToTarget", attach)["result"]["sessionId"]
            began = time.monotonic()
            other.call("Page.navigate", {"url": "data:text/html,<title>up</title>"}, session)
            other.call("Target.closeTarget", {"targetId": target})
            return time.monotonic() - began

        assert 0.3 < open_page() < 3
        assert "was let go in its place" in caplog.text
        assert open_page() < 0.5  # it is known to be frozen
        assert "result" in frozen.call("Browser.getVersion")  # awake again
        assert open_page() > 0.3


def test_a_client_that_is_alive_gets_more_time_and_one_that_answers_all_it_wants(fake, monkeypatch):
    monkeypatch.setattr(policy, "FROZEN_AFTER", 0.3)
    monkeypatch.setattr(policy, "LONGEST_WAIT", 1.0)
    with Ws(fake.endpoint.url) as a:
        a.call("Fake.x")
        root = fake.next("Fake.x")["sessionId"]

        def attach(session):
            waiting = {"sessionId": session, "targetInfo": {}, "waitingForDebugger": True}
            fake.send({"method": "Target.attachedToTarget", "params": waiting, "sessionId": root})
            a.wait_event("Target.attachedToTarget")

        attach("A" * 32)
        a.call("Runtime.runIfWaitingForDebugger", session_id="A" * 32)
        assert not fake.endpoint._hub._waiting._timers
        fake.seen()
        began = time.monotonic()
        attach("B" * 32)
        while "Runtime.runIfWaitingForDebugger" not in (seen := fake.seen()):
            a.call("Fake.alive")
            assert time.monotonic() - began < 3
        assert seen.count("Runtime.runIfWaitingForDebugger") == 1  # for B alone
        assert time.monotonic() - began > 0.9
        attach("C" * 32)
        gone = {"sessionId": "C" * 32}
        fake.send({"method": "Target.detachedFromTarget", "params": gone, "sessionId": root})
        a.wait_event("Target.detachedFromTarget")
        assert not fake.endpoint._hub._waiting._timers


# --- the door -----------------------------------------------------------------------------------------------------


def test_only_extensions_of_the_browser_itself_may_have_an_origin(fake, monkeypatch):
    inside, outside = f"chrome-extension://{'a' * 32}", f"chrome-extension://{'b' * 32}"

    async def call(method, params=None, **_):
        assert (method, params) == ("Target.getTargets", {"filter": [{}]})
        return {"targetInfos": [{"url": f"{inside}/sw.js"}, {"url": f"https://x.test/?{outside}/"}]}

    url = fake.endpoint.url
    for origin in (inside, outside):
        assert refused(url, origin=origin) == 403  # the scripted browser has none
    with monkeypatch.context() as patch:
        patch.setattr(fake.endpoint._hub, "call", call)
        for origin in (outside, "null", "http://127.0.0.1", f"{inside}/", inside.upper(), "chrome-extension://a"):
            assert refused(url, origin=origin) == 403, origin
        assert refused(f"{url}x", origin=inside) == 403
        monkeypatch.undo()
    hub = fake.endpoint._hub
    kept = hub.call

    async def both(method, params=None, **options):
        return await (call(method, params) if method == "Target.getTargets" else kept(method, params, **options))

    with monkeypatch.context() as patch:
        patch.setattr(hub, "call", both)
        with Ws(url, origin=inside) as a:
            assert a.call("Fake.x")["result"]


# --- contexts -----------------------------------------------------------------------------------------------------


def test_contexts_are_seeded_before_their_maker_hears_of_them(chromium):
    endpoint = chromium.host.endpoint
    cookie = {"name": "a", "value": "1", "domain": "x.test", "path": "/"}
    chromium.rig.run(endpoint.seed_contexts([cookie]))
    with Ws(chromium.url) as a:
        made = [a.send("Target.createBrowserContext", {"disposeOnDetach": n == 2}) for n in range(3)]
        ids = [a.reply(n)["result"]["browserContextId"] for n in made]
        for context in ids:
            got = a.call("Storage.getCookies", {"browserContextId": context})["result"]["cookies"]
            assert [(c["name"], c["value"]) for c in got] == [("a", "1")]
        for n, context in enumerate(ids):
            fresh = cookie | {"value": f"new {n}"}
            a.call("Storage.setCookies", {"browserContextId": context, "cookies": [fresh]})
        a.call("Target.disposeBrowserContext", {"browserContextId": ids[1]})
        assert a.call("Target.createBrowserContext", {"disposeOnDetach": 5})["error"]["code"] == -32602
    until(lambda: ids[2] not in chromium.call("Target.getBrowserContexts")["browserContextIds"])
    found = chromium.rig.run(endpoint.context_cookies())
    assert [[c["value"] for c in one.cookies] for one in found] == [["new 1"], ["new 2"], ["new 0"]]
    assert all(list(one.seeds) == [cookie] for one in found)
    assert endpoint.foreign_cookies == 0


# --- a foreign browser's end --------------------------------------------------------------------------------------


class Remote:
    """A scripted browser behind a WebSocket, on the gateway's loop's other side: a server on the rig's loop."""

    def __init__(self, rig):
        self.rig, self.commands, self.connection, self.stall = rig, [], None, False
        rig.run(self._start())

    async def _start(self):
        self.server = await serve(self._serve, "127.0.0.1", 0, max_size=None, compression=None, max_queue=1)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, connection):
        self.connection = connection
        with contextlib.suppress(Exception):
            async for raw in connection:
                command = json.loads(raw)
                self.commands.append(command)
                session = {"sessionId": command["sessionId"]} if "sessionId" in command else {}
                result = {}
                if command["method"] == "Target.attachToBrowserTarget":
                    result = {"sessionId": "short id"}
                if command["method"] == "Fake.big":
                    result = {"data": "x" * command["params"]["size"]}
                answer = {"id": command["id"], "result": result} | session
                await connection.send(json.dumps(answer, separators=(",", ":")))
                while self.stall:
                    await asyncio.sleep(0.01)

    def stop(self):
        self.stall = False

        async def close():
            self.server.close()
            await self.server.wait_closed()

        self.rig.run(close())


@pytest.fixture
def remote(rig):
    made = Remote(rig)
    lost = []
    where = CdpSocket(url=f"ws://127.0.0.1:{made.port}/s3cret", headers={"X-Key": "s3cret"})
    assert "s3cret" not in repr(where)
    made.lost = lost
    made.endpoint = rig.run(rig.gateway.serve(where, on_use=lambda: None, on_lost=lost.append))
    yield made
    rig.run(made.endpoint.aclose())
    made.stop()


def test_answers_of_a_browser_with_other_session_ids_reach_their_client(remote):
    assert remote.connection.request.headers["X-Key"] == "s3cret"
    with Ws(remote.endpoint.url) as a:
        assert a.call("Fake.x") == {"id": 1, "result": {}}
        assert len(a.call("Fake.big", {"size": 30_000_000}, timeout=30)["result"]["data"]) == 30_000_000


def test_senders_wait_while_a_foreign_browser_takes_nothing(remote):
    with Ws(remote.endpoint.url) as a:
        a.call("Fake.x")
        remote.stall = True
        hub = remote.endpoint._hub
        for _ in range(40):
            if hub._pipe.crowded:
                break
            a.socket.send(json.dumps({"id": 5, "method": "Fake.fill", "params": {"data": "y" * 1_000_000}}))
        until(lambda: hub._pipe.crowded)
        remote.stall = False
        until(lambda: not hub._pipe.crowded)
        assert a.call("Fake.x")["result"] == {}


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (4000, "idle_timeout", "the browser closed its connection (4000 idle_timeout)"),
        (1011, "s3cret Path", "the browser closed its connection (1011)"),
    ],
)
def test_a_foreign_browser_that_hangs_up_is_lost_once(remote, code, reason, told):
    with Ws(remote.endpoint.url) as a:
        a.call("Fake.x")
        remote.rig.run(remote.connection.close(code, reason))
        assert a.closed() == (4000, "crash")
        until(lambda: remote.lost)
    with pytest.raises(ConnectionLost):
        remote.rig.run(remote.endpoint.call("Fake.x"))
    remote.rig.run(remote.endpoint.close_opened())
    assert remote.lost == [told]


def test_a_foreign_browser_that_breaks_off_is_lost(remote):
    async def cut():
        remote.connection.transport.abort()

    remote.rig.run(cut())
    until(lambda: remote.lost)
    assert remote.lost == ["the connection to the browser broke"]


def test_a_message_of_a_foreign_browser_that_is_too_long_is_a_loss(rig, monkeypatch):
    monkeypatch.setattr(policy, "MAX_MESSAGE", 2 * 1024 * 1024)
    made, lost = Remote(rig), []
    where = CdpSocket(url=f"ws://127.0.0.1:{made.port}/")
    endpoint = rig.run(rig.gateway.serve(where, on_use=lambda: None, on_lost=lost.append))
    with pytest.raises(ConnectionLost, match="above 2 MB"):
        rig.run(endpoint.call("Fake.big", {"size": 3_000_000}))
    until(lambda: lost)
    rig.run(endpoint.aclose())
    made.stop()


def test_closing_a_foreign_connection_is_no_loss_and_leaves_no_descriptor(remote):
    fds = remote.endpoint._hub.fds()
    assert len(fds) == 1
    remote.rig.run(remote.endpoint.aclose())
    assert remote.endpoint._hub.fds() == ()
    assert remote.lost == []


# --- an extension -------------------------------------------------------------------------------------------------

CONNECT = """new Promise(done => {
  const ws = new WebSocket(%s);
  ws.onopen = () => ws.send('{"id":1,"method":"Browser.getVersion"}');
  ws.onmessage = e => { done(e.data); ws.close(); };
  ws.onerror = () => done("refused");
})"""


def test_an_extension_in_the_browser_may_connect_and_a_page_in_it_may_not(rig, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest_version": 3, "name": "x", "version": "1"}))
    (tmp_path / "page.html").write_text("<title>inside</title>")
    args = ["--enable-unsafe-extension-debugging", f"--disable-extensions-except={tmp_path}"]
    with rig.browser(chrome_args=args) as session:
        try:
            extension = session.call("Extensions.loadUnpacked", {"path": str(tmp_path)})["id"]
        except BackendError as e:
            pytest.skip(f"this Chromium loads no extension: {e}")
        asked = []
        for url in (f"chrome-extension://{extension}/page.html", "data:text/html,<title>inside</title>"):
            target = session.call("Target.createTarget", {"url": url})["targetId"]
            attached = session.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]

            def value(expression, attached=attached):
                ask = {"expression": expression, "awaitPromise": True}
                return session.call("Runtime.evaluate", ask, attached)["result"]["value"]

            until(lambda value=value: value("document.readyState + document.title") == "completeinside")
            asked.append(value(CONNECT % json.dumps(session.url)))
        assert json.loads(asked[0])["result"]["protocolVersion"] == "1.3"
        assert asked[1] == "refused"
