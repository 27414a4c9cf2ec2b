"""The gateway: rewriting, routing, isolation, refusals, its front door and its end, against a scripted browser."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http.client
import json
import logging
import os
import queue
import random
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser_rig import Rig
from cdp_client import Ws
from hypothesis import given
from hypothesis import strategies as st
from waiting import until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from lifecycle.errors import BackendError, ConnectionLost, UsageError
from lifecycle.gateway import NOT_USE, GatewayThread, policy, wire
from lifecycle.gateway.pipe import Pipe
from lifecycle.ports import CdpPipe

pytestmark = pytest.mark.slow

MUTE = logging.Logger("mute")  # noqa: LOG001 - the client's own log is not what is looked at

SID = "0123456789ABCDEF0123456789ABCDEF"


@pytest.fixture(scope="module")
def rig():
    rig = Rig()
    yield rig
    rig.stop()


# --- the wire -----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=30)
    | st.just(f',"sessionId":"{SID}"}}'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def chromium_json(message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


@given(result=JSON, theirs=st.integers(-(2**31), 2**31 - 1), ours=st.integers(1, 2**31 - 1), session=st.booleans())
def test_an_answer_is_rewritten_as_if_it_had_been_decoded(result, theirs, ours, session):
    message = {"id": ours, "result": {"value": result}} | ({"sessionId": SID} if session else {})
    raw = chromium_json(message)
    number, method, id_end = wire.head(raw)
    assert (number, method, wire.tail_session(raw)) == (ours, None, SID if session else None)
    kept = json.loads(wire.with_id(raw, theirs, id_end, cut_session=False))
    assert kept == message | {"id": theirs}
    if session:
        cut = json.loads(wire.with_id(raw, theirs, id_end, cut_session=True))
        assert cut == {"id": theirs, "result": {"value": result}}


@given(params=JSON)
def test_text_inside_an_event_is_not_taken_for_its_session(params):
    raw = chromium_json({"method": "A.b", "params": params})
    assert wire.tail_session(raw) is None
    with_session = chromium_json({"method": "A.b", "params": params, "sessionId": SID})
    assert wire.head(with_session)[1] == b"A.b"
    assert wire.tail_session(with_session) == SID
    assert json.loads(wire.without_tail(with_session)) == {"method": "A.b", "params": params}


def test_a_session_that_is_not_the_last_member_is_not_cut_off():
    inner = {"method": "A.b", "params": {"a": 1, "sessionId": SID}, "other": SID}
    assert wire.tail_session(chromium_json(inner)) is None
    assert wire.tail_session(chromium_json({"method": "A.b", "sessionId": SID, "a": [1]})) is None
    assert wire.tail_session(chromium_json({"method": "A.b", "a": {"b": 1, "sessionId": SID}})) is None


@pytest.mark.parametrize("raw", [b'{"id":1.5,"result":{}}', b'{"result":{},"id":1}', b'{"id":"1"}', b"[]", b""])
def test_a_message_of_another_shape_is_not_cut(raw):
    assert wire.head(raw) == (None, None, 0)


def test_what_orjson_refuses_passes_through_all_the_same():
    lone = b'{"text":"\\ud83d"}'
    assert wire.dumps(wire.loads(lone)) == lone
    deep = b'{"a":' + b"[" * 290 + b"]" * 290 + b"}"
    assert wire.dumps(wire.loads(deep)) == deep
    for bad in (b'{"a":NaN}', b"{nonsense", b'{"a":"\xff"}', b"[" * 100_000):
        with pytest.raises(ValueError, match=r".+"):
            wire.loads(bad)


def test_hosts():
    for host in ("127.0.0.1", "127.0.0.1:9222", "localhost:1", "LOCALHOST", "[::1]:9222"):
        assert policy.host_allowed(host), host
    for host in (None, "", "evil.test", "127.0.0.1.evil.test", "localhost@evil.test", "127.0.0.1:x", "0.0.0.0", "a/b"):
        assert not policy.host_allowed(host), host


# --- the pipe -----------------------------------------------------------------------------------------------------


class Loop:
    """A pipe on a loop of its own, in the test's thread."""

    def __init__(self, on_message=None):
        self.messages: list[bytes] = []
        self.oversize: list[bytes] = []
        self.lost: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.browser_read, ours_out = os.pipe()
        ours_in, self.browser_write = os.pipe()
        self.pipe = Pipe(
            self.loop,
            CdpPipe(read_fd=ours_in, write_fd=ours_out),
            on_message=on_message or self.messages.append,
            on_oversize=self.oversize.append,
            on_lost=self.lost.append,
        )
        self.loop.call_soon(self.pipe.start)

    def run(self, seconds: float = 0.02) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def until(self, condition) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            self.run(0.001)

    def close(self) -> None:
        self.pipe.close()
        for fd in (self.browser_read, self.browser_write):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.loop.close()


@pytest.fixture
def pipe():
    made = Loop()
    yield made
    made.close()


@given(messages=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\0", b"x")), max_size=8), data=st.data())
def test_messages_come_out_whole_however_they_are_cut(messages, data):
    stream = b"".join(m + b"\0" for m in messages)
    got: list[bytes] = []
    made = Loop(on_message=got.append)
    try:
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            made.pipe._feed(stream[:size])
            stream = stream[size:]
    finally:
        made.close()
    assert got == messages


def test_a_long_message_is_read_once(pipe):
    """64 MB in pieces of 16 KB: reading what is there again with each piece would be 128 GB."""
    piece = b"x" * 16384
    began = time.monotonic()
    for _ in range(4096):
        pipe.pipe._feed(piece)
    pipe.pipe._feed(b"\0")
    assert time.monotonic() - began < 5
    assert [len(m) for m in pipe.messages] == [64 * 1024 * 1024]


def test_the_limit_is_for_one_message_and_not_for_all(pipe, monkeypatch):
    monkeypatch.setattr(policy, "MAX_MESSAGE", 1000)
    for _ in range(10):
        pipe.pipe._feed(b"x" * 600)
        pipe.pipe._feed(b"x" * 300 + b"\0")
    pipe.pipe._feed(b"y" * 700)
    pipe.pipe._feed(b"y" * 700)
    pipe.pipe._feed(b"y" * 700 + b"\0z\0")
    assert [len(m) for m in pipe.messages] == [900] * 10 + [1]
    assert pipe.oversize == [b"y" * 700]


def test_what_does_not_fit_into_the_pipe_waits_in_order(pipe):
    pipe.run()
    messages = [b"%d:" % n + b"x" * random.Random(n).randrange(400_000) for n in range(40)]
    for message in messages[:20]:
        pipe.pipe.write(message)  # nobody reads yet, and this returns
    assert pipe.pipe._backlog
    got = os.read(pipe.browser_read, 300_000)
    for message in messages[20:]:
        pipe.pipe.write(message)  # there is room again, but it is not their turn

    def read() -> bool:
        nonlocal got
        got += os.read(pipe.browser_read, 1 << 20)
        return got.count(b"\0") == len(messages)

    pipe.until(read)
    assert got.split(b"\0")[:-1] == messages
    assert not pipe.pipe.crowded


def test_senders_wait_while_the_browser_takes_nothing(pipe):
    pipe.run()
    pipe.pipe.write(b"x" * (9 * 1024 * 1024))
    assert pipe.pipe.crowded
    waiting = pipe.loop.create_task(pipe.pipe.drained())
    pipe.run()
    assert not waiting.done()
    pipe.until(lambda: (os.read(pipe.browser_read, 1 << 20), waiting.done())[1])


def test_a_browser_that_closes_its_end_is_lost_once(pipe):
    pipe.run()
    os.close(pipe.browser_write)
    os.close(pipe.browser_read)
    pipe.pipe.write(b"{}")  # fails too, and so does the next
    pipe.pipe.write(b"{}")
    pipe.until(lambda: pipe.lost)
    pipe.run()
    assert len(pipe.lost) == 1
    pipe.pipe.write(b"{}")
    pipe.run()
    assert len(pipe.lost) == 1


def test_a_browser_that_stops_reading_for_good_is_lost(pipe):
    pipe.run()
    os.close(pipe.browser_read)
    pipe.pipe.write(b"{}")
    pipe.until(lambda: pipe.lost)
    assert pipe.lost == ["writing to the browser failed: Broken pipe"]


def test_closing_is_no_loss(pipe):
    pipe.run()
    pipe.pipe.close()
    pipe.pipe.close()
    pipe.run()
    assert pipe.lost == []
    with pytest.raises(OSError, match="Broken pipe"):
        os.write(pipe.browser_write, b"x")


def test_an_error_in_the_pump_is_a_loss_and_never_silent(caplog):
    def broken(_message: bytes) -> None:
        raise KeyError("secret")

    made = Loop(on_message=broken)
    try:
        made.run()
        os.write(made.browser_write, b"{}\0{}\0")
        made.until(lambda: made.lost)
        assert made.lost == ["the gateway failed: KeyError"]
        assert "could not route" in caplog.text
    finally:
        made.close()


# --- a scripted browser -------------------------------------------------------------------------------------------


class FakeBrowser:
    """Answers as Chromium does, on a thread: sessions are counted, everything else is echoed."""

    def __init__(self, rig: Rig):
        self.rig = rig
        self.read_fd, ours_out = os.pipe()
        ours_in, self.write_fd = os.pipe()
        self.commands: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self.uses = 0
        self.lost: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.silent = False
        self.hung_up = False
        self.sessions = 0
        self.thread = threading.Thread(target=self._serve, name="site-browser", daemon=True)
        self.thread.start()
        self.endpoint = rig.run(
            rig.gateway.serve(CdpPipe(read_fd=ours_in, write_fd=ours_out), on_use=self._used, on_lost=self.lost.put)
        )

    def _used(self) -> None:
        self.uses += 1

    def send(self, message) -> None:
        data = chromium_json(message) + b"\0"
        with contextlib.suppress(BrokenPipeError):  # the gateway has let go of us
            while data:
                data = data[os.write(self.write_fd, data) :]

    def hang_up(self) -> None:
        """Close our end of what the gateway reads."""
        if not self.hung_up:
            self.hung_up = True
            os.close(self.write_fd)

    def _serve(self) -> None:
        rest = b""
        while chunk := os.read(self.read_fd, 1 << 20):
            *whole, rest = (rest + chunk).split(b"\0")
            for raw in whole:
                command = json.loads(raw)
                self.commands.put(command)
                if not self.silent:
                    self._answer(command)
        self.hang_up()

    def _answer(self, command) -> None:
        method, params = command["method"], command.get("params", {})
        session = {"sessionId": command["sessionId"]} if "sessionId" in command else {}
        if method in ("Target.attachToBrowserTarget", "Target.attachToTarget"):
            if params.get("targetId") == "GONE":
                error = {"code": -32602, "message": "No target with given id found"}
                self.send({"id": command["id"], "error": error} | session)
                return
            self.sessions += 1
            made = f"{self.sessions:032X}"
            attached = {"sessionId": made, "targetInfo": {"type": "page"}, "waitingForDebugger": False}
            self.send({"method": "Target.attachedToTarget", "params": attached} | session)
            self.send({"id": command["id"], "result": {"sessionId": made}} | session)
        elif method == "Target.createBrowserContext":
            self.send({"id": command["id"], "result": {"browserContextId": params["name"]}} | session)
        elif method == "Storage.getCookies" and "browserContextId" in params:
            count = {"TWO": 2, "THREE": 3}.get(params["browserContextId"], 0)
            self.send({"id": command["id"], "result": {"cookies": [{"name": "c"}] * count}} | session)
        elif method == "Fake.silence":
            return
        elif method == "Fake.fail":
            self.send({"id": command["id"], "error": {"code": -32000, "message": "as asked"}} | session)
        elif method == "Fake.big":
            self.send({"id": command["id"], "result": {"data": "x" * params["size"]}} | session)
        else:
            self.send({"id": command["id"], "result": {"method": method, "params": params}} | session)

    def next(self, method: str) -> dict:
        """The next command of that name that reached the browser."""
        while True:
            command = self.commands.get(timeout=5)
            if command["method"] == method:
                return command

    def seen(self) -> list[str]:
        """The methods that reached the browser since the last look."""
        out = []
        while not self.commands.empty():
            out.append(self.commands.get()["method"])
        return out

    def close(self) -> None:
        self.rig.run(self.endpoint.aclose())
        self.thread.join(5)
        os.close(self.read_fd)


@pytest.fixture
def browser(rig):
    made = FakeBrowser(rig)
    yield made
    made.close()


def test_two_clients_with_the_same_ids_get_their_own_answers(browser):
    with Ws(browser.endpoint.url) as a, Ws(browser.endpoint.url) as b:
        for n in range(20):
            a.send("Fake.a", {"n": n}, number=7)
            b.send("Fake.b", {"n": n}, number=7)
        for n in range(20):
            assert a.receive() == {"id": 7, "result": {"method": "Fake.a", "params": {"n": n}}}
            assert b.receive() == {"id": 7, "result": {"method": "Fake.b", "params": {"n": n}}}


def test_an_answer_never_waits_for_the_client_to_acknowledge_another(browser):
    """Seen: with Nagle's algorithm on, each second answer came 40 ms late, and a click took four times as long."""
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")
        (connection,) = browser.rig.gateway._listener._connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_session_belongs_to_the_client_that_attached_it(browser):
    with Ws(browser.endpoint.url) as a, Ws(browser.endpoint.url) as b:
        mine = a.call("Target.attachToTarget", {"targetId": "P", "flatten": True})["result"]["sessionId"]
        assert a.events.pop()["params"]["sessionId"] == mine  # as the root's own event, without a session id
        answer = a.call("Fake.x", session_id=mine)
        assert answer == {"id": 2, "result": {"method": "Fake.x", "params": {}}, "sessionId": mine}
        refused = {"error": {"code": -32001, "message": "Session with given id not found."}}
        assert b.call("Fake.x", session_id=mine) == {"id": 1, **refused}
        for other in ("NOPE", "", 5, ["x"], {"a": 1}):
            assert b.call("Fake.x", session_id=other) == {"id": b.last, **refused}
        browser.send({"method": "Page.loaded", "params": {"a": "ü\n"}, "sessionId": mine})
        assert a.receive() == {"method": "Page.loaded", "params": {"a": "ü\n"}, "sessionId": mine}
        assert b.call("Fake.x")["id"] == b.last
        assert b.events == []


def test_sessions_below_a_session_end_with_it(browser):
    with Ws(browser.endpoint.url) as a:
        parent = a.call("Target.attachToTarget", {"targetId": "P", "flatten": True})["result"]["sessionId"]
        child = a.call("Target.attachToTarget", {"targetId": "W", "flatten": True}, parent)["result"]["sessionId"]
        other = a.call("Target.attachToTarget", {"targetId": "Q", "flatten": True})["result"]["sessionId"]
        root = browser.next("Target.attachToTarget")["sessionId"]
        grandchild = a.call("Target.attachToTarget", {"targetId": "V", "flatten": True}, child)["result"]["sessionId"]
        browser.send({"method": "Target.detachedFromTarget", "params": {"sessionId": parent}, "sessionId": root})
        for gone in (parent, child, grandchild):
            assert a.call("Fake.x", session_id=gone)["error"]["code"] == -32001, gone
        assert "result" in a.call("Fake.x", session_id=other)


def test_a_client_never_sees_its_root_session(browser):
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")
        root = browser.next("Fake.x")["sessionId"]
        browser.send({"method": "Target.targetCreated", "params": {}, "sessionId": root})
        assert a.receive() == {"method": "Target.targetCreated", "params": {}}
        assert a.call("Fake.x", session_id=root)["error"]["code"] == -32001
        # shapes that Chromium does not write today are routed as well
        browser.send({"sessionId": root, "method": "Odd.event", "params": {}})
        assert a.receive() == {"method": "Odd.event", "params": {}}
        attached = {"sessionId": "ODD", "targetInfo": {}}
        browser.send({"sessionId": root, "params": attached, "method": "Target.attachedToTarget"})
        assert a.receive()["params"] == attached
        assert a.call("Fake.x", session_id="ODD")["sessionId"] == "ODD"
        browser.silent = True
        number = a.send("Fake.odd")
        command = browser.next("Fake.odd")
        browser.send({"sessionId": root, "result": {"odd": True}, "id": command["id"]})
        assert a.receive() == {"id": number, "result": {"odd": True}}


@pytest.mark.parametrize("method", sorted(policy.REFUSED))
def test_refused_commands_never_reach_the_browser(browser, method):
    with Ws(browser.endpoint.url) as a:
        session = a.call("Target.attachToTarget", {"targetId": "P", "flatten": True})["result"]["sessionId"]
        browser.seen()
        for target in (None, session):
            error = a.call(method, session_id=target)["error"]
            assert error["code"] == -32000
            assert method in error["message"]
        assert browser.seen() == []


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("Target.attachToTarget", {"targetId": "P"}),
        ("Target.attachToTarget", {"targetId": "P", "flatten": False}),
        ("Target.setAutoAttach", {"autoAttach": True, "waitForDebuggerOnStart": False}),
    ],
)
def test_attaching_is_flat(browser, method, params):
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")
        browser.seen()
        assert "flatten: true" in a.call(method, params)["error"]["message"]
        assert browser.seen() == []
        assert "result" in a.call(method, params | {"flatten": True})
        assert "result" in a.call("Target.setAutoAttach", {"autoAttach": False, "waitForDebuggerOnStart": False})


def test_malformed_messages_are_answered_and_go_no_further(browser):
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")
        browser.seen()
        no_id = {"error": {"code": -32600, "message": "Message must have integer 'id' property"}}
        for raw, answer in (
            ('{"id":1.5,"method":"A.b"}', no_id),
            ('{"id":"1","method":"A.b"}', no_id),
            ('{"id":true,"method":"A.b"}', no_id),
            ('{"id":2147483648,"method":"A.b"}', no_id),
            ('{"method":"A.b"}', no_id),
            ("[]", {"error": {"code": -32600, "message": "Message must be an object"}}),
            ('{"id":9}', {"id": 9, "error": {"code": -32600, "message": "Message must have string 'method' property"}}),
        ):
            a.socket.send(raw)
            assert a.receive() == answer, raw
        a.socket.send("{nonsense")
        assert a.receive()["error"]["code"] == -32700
        a.socket.send('{"id":3,"method":"Fake.lone","params":{"t":"\\ud83d"}}')
        assert a.receive()["result"]["params"] == {"t": "\ud83d"}
        assert browser.seen() == ["Fake.lone"]


def test_a_command_too_long_for_chromium_fails_alone(browser, monkeypatch):
    monkeypatch.setattr(policy, "MAX_COMMAND", 10_000)
    with Ws(browser.endpoint.url) as a:
        error = a.call("Fake.x", {"data": "x" * 20_000})["error"]
        assert "10,000 bytes" in error["message"]
        assert a.call("Fake.x", {"data": "x" * 9_000})["result"]
        assert [m for m in browser.seen() if m == "Fake.x"] == ["Fake.x"]


def test_an_answer_too_long_to_carry_fails_alone(browser, monkeypatch):
    monkeypatch.setattr(policy, "MAX_MESSAGE", 3_000_000)
    with Ws(browser.endpoint.url) as a:
        error = a.call("Fake.big", {"size": 8_000_000})["error"]
        assert error["code"] == -32000
        assert "longer than" in error["message"]
        assert len(a.call("Fake.big", {"size": 2_000_000})["result"]["data"]) == 2_000_000
        with pytest.raises(BackendError, match="longer than"):
            browser.rig.run(browser.endpoint.call("Fake.big", {"size": 8_000_000}))
        assert browser.lost.empty()


def test_long_messages_pass_whole(browser):
    with Ws(browser.endpoint.url) as a:
        assert len(a.call("Fake.big", {"size": 40_000_000}, timeout=30)["result"]["data"]) == 40_000_000
        assert a.call("Fake.x", {"data": "y" * 5_000_000}, timeout=30)["result"]["params"]["data"] == "y" * 5_000_000


def test_a_client_that_does_not_read_is_dropped_and_nobody_waits_for_it(browser, monkeypatch, caplog):
    monkeypatch.setattr(policy, "MAX_BACKLOG", 5_000_000)
    with Ws(browser.endpoint.url, max_queue=1) as slow, Ws(browser.endpoint.url) as quick:
        quick.call("Fake.x")
        numbers = [slow.send("Fake.big", {"size": 1_000_000}) for _ in range(40)]
        assert numbers
        for _ in range(40):
            assert quick.call("Fake.x")["result"]
        assert slow.closed() == (1006, "")
        assert "was dropped" in caplog.text
        assert quick.call("Fake.x")["result"]


def test_answers_for_a_client_that_left_are_dropped(browser):
    browser.rig.run(browser.endpoint.call("Fake.first"))
    with Ws(browser.endpoint.url) as stays, Ws(browser.endpoint.url) as leaves:
        stays.call("Fake.x")
        leaves.send("Fake.silence")
        waiting = browser.next("Fake.silence")
        root = waiting["sessionId"]
        leaves.socket.close()
        assert browser.next("Target.detachFromTarget")["params"] == {"sessionId": root}
        browser.send({"id": waiting["id"], "result": {}, "sessionId": root})
        browser.send({"method": "Late.event", "params": {}, "sessionId": root})
        assert stays.call("Fake.x")["result"]
        assert stays.events == []
    assert browser.lost.empty()


# --- use and the library's own calls ------------------------------------------------------------------------------


def test_only_commands_of_clients_that_are_use_count(browser):
    with Ws(browser.endpoint.url) as a:
        for method in sorted(NOT_USE):
            a.call(method)
        a.call("Browser.crash")
        browser.rig.run(browser.endpoint.call("Page.navigate"))
        assert browser.uses == 0
        a.call("Page.navigate")
        a.call("Runtime.evaluate")
        assert browser.uses == 2


def test_the_librarys_own_calls(browser):
    call = browser.endpoint.call
    answer = browser.rig.run(call("Fake.x", {"a": 1}, session_id="S"))
    assert answer == {"method": "Fake.x", "params": {"a": 1}}
    with pytest.raises(BackendError, match=r"Fake\.fail: as asked"):
        browser.rig.run(call("Fake.fail"))

    async def give_up():
        async with asyncio.timeout(0.05):
            await call("Fake.silence")

    with pytest.raises(TimeoutError):
        browser.rig.run(give_up())
    assert browser.rig.run(call("Fake.x"))["method"] == "Fake.x"


def test_calls_fail_when_the_pipe_breaks_and_it_is_told_once(browser):
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")

        async def hang():
            call = asyncio.ensure_future(browser.endpoint.call("Fake.silence"))
            await asyncio.sleep(0.05)
            browser.hang_up()
            with pytest.raises(ConnectionLost, match="closed its connection"):
                await call

        browser.rig.run(hang())
        assert browser.lost.get(timeout=1) == "the browser closed its connection"
        assert a.closed() == (4000, "crash")
    with pytest.raises(ConnectionLost):
        browser.rig.run(browser.endpoint.call("Fake.x"))
    assert get(browser, "/json/version")[0] == 410
    assert browser.lost.empty()


def test_an_end_that_was_asked_for_is_no_loss(browser):
    browser.hang_up()
    until(lambda: browser.endpoint._hub._report)  # about to be told
    browser.rig.run(browser.endpoint.aclose())
    with pytest.raises(queue.Empty):
        browser.lost.get(timeout=0.4)


# --- the front door -----------------------------------------------------------------------------------------------


def get(browser, path, *, token=True, headers=None):
    """Status and body of a GET below the session's path."""
    url = urlsplit(browser.endpoint.url)
    connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=5)
    try:
        connection.request("GET", (url.path if token else "") + path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def refused(url, **options):
    with pytest.raises(InvalidStatus) as caught, connect(url, proxy=None, **options):
        pass
    return caught.value.response.status_code


def test_discovery(browser):
    url = browser.endpoint.url
    for path in ("/json/version", "/json/version/", "/json/version?x=1"):
        status, body = get(browser, path)
        assert status == 200
        assert json.loads(body)["webSocketDebuggerUrl"] == url
    status, body = get(browser, "/json/version", headers={"Host": "localhost:1234"})
    assert json.loads(body)["webSocketDebuggerUrl"] == f"ws://localhost:1234{urlsplit(url).path}"
    assert get(browser, "/json/protocol")[0] == 404
    assert get(browser, "")[0] == 426
    token = urlsplit(url).path[1:]
    assert get(browser, "/json/version", token=False, headers={"Authorization": f"Bearer {token}"})[0] == 200
    assert get(browser, "/json/version", token=False, headers={"Authorization": f"Bearer {token}x"})[0] == 404
    assert get(browser, "/json/version", token=False)[0] == 404


def test_the_token_opens_the_door_and_nothing_else_does(browser):
    url = browser.endpoint.url
    base, token = url.rsplit("/", 1)
    assert len(token) == 43
    for wrong in (f"{base}/", f"{base}/{token[:-1]}", f"{base}/{token}x", f"{base}/{token.lower()}", f"{base}/ü"):
        assert refused(wrong) == 404, wrong
    assert refused(f"{url}/elsewhere") == 404
    assert refused(url, origin="http://evil.test") == 403
    assert refused(url, origin="http://127.0.0.1") == 403
    assert get(browser, "/json/version", headers={"Host": "evil.test"})[0] == 403
    assert get(browser, "/json/version", headers={"Origin": "null"})[0] == 403
    for good in (url, f"{url}/", f"{url}/devtools/browser", f"{url}/devtools/browser/any"):
        with Ws(good) as a:
            assert a.call("Fake.x")["result"]
    with Ws(f"{base}/", additional_headers={"Authorization": f"Bearer {token}"}) as a:
        assert a.call("Fake.x")["result"]


def test_secrets_are_compared_in_constant_time(browser, monkeypatch):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    base, token = browser.endpoint.url.rsplit("/", 1)
    (hub,) = [h for h in browser.rig.gateway._listener.hubs() if h.token == token]
    for secret in (token, hub.own_token):
        compared.clear()
        with Ws(f"{base}/{secret}") as a:
            a.call("Fake.x")
        assert set(compared) == {(secret.encode(), secret.encode())}
    compared.clear()
    assert refused(f"{base}/{token[:-1]}") == 404
    assert compared == [], "what is no secret of anybody is not compared with one: it is looked up by its hash"


def test_no_client_is_pinged(browser):
    """A client whose only thread is busy for a minute answers no ping, and is not dead."""
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")
        (connection,) = browser.rig.gateway._listener._connections
        assert connection.ping_interval is None


def test_a_page_connection(browser):
    with Ws(f"{browser.endpoint.url}/devtools/page/PAGE") as a:
        assert a.call("Page.enable") == {"id": 1, "result": {"method": "Page.enable", "params": {}}}
        assert browser.next("Target.attachToTarget")["params"] == {"targetId": "PAGE", "flatten": True}
        root = browser.next("Page.enable")["sessionId"]
        browser.send({"method": "Target.detachedFromTarget", "params": {"sessionId": root, "targetId": "PAGE"}})
        assert a.closed() == (1000, "the target is gone")
    with Ws(f"{browser.endpoint.url}/devtools/page/GONE") as a:
        assert a.closed() == (4000, "no such target")


def test_after_the_end_clients_are_told_why(browser):
    with Ws(browser.endpoint.url) as a, Ws(browser.endpoint.url) as b:
        for client in (a, b):
            client.call("Fake.x")
        began = time.monotonic()
        browser.rig.run(browser.endpoint.close_clients("idle_timeout"))
        assert time.monotonic() - began < 0.9
        assert a.closed() == b.closed() == (4000, "idle_timeout")
    browser.rig.run(browser.endpoint.close_clients("manual"))
    assert get(browser, "/json/version") == (410, "The session is over: idle_timeout\n")
    assert refused(browser.endpoint.url) == 410
    assert browser.rig.run(browser.endpoint.call("Fake.x"))  # cookies are still to be saved
    browser.rig.run(browser.endpoint.aclose())
    assert refused(browser.endpoint.url) == 410
    assert browser.lost.empty()


def test_a_client_that_does_not_answer_the_closing_is_cut_off(browser, monkeypatch):
    with Ws(browser.endpoint.url, max_queue=1, close_timeout=0.1) as a:
        a.call("Fake.x")
        for _ in range(20):
            a.send("Fake.big", {"size": 1_000_000})  # never read: the close frame stays behind them
        for _ in range(20):
            browser.next("Fake.big")
        began = time.monotonic()
        browser.rig.run(browser.endpoint.close_clients("manual"))
        assert time.monotonic() - began < 2.5


def test_the_token_reaches_no_log(browser, caplog):
    token = urlsplit(browser.endpoint.url).path[1:]
    with caplog.at_level(logging.DEBUG):
        with Ws(browser.endpoint.url, logger=MUTE) as a:
            a.call("Fake.x")
        get(browser, "/json/version")
        refused(f"{browser.endpoint.url}/elsewhere", logger=MUTE)
    assert token not in caplog.text
    assert token not in repr(browser.endpoint)


def test_browser_close_ends_that_client_only(browser):
    with Ws(browser.endpoint.url) as a, Ws(browser.endpoint.url) as b:
        b.call("Fake.x")
        browser.seen()
        assert a.call("Browser.close") == {"id": 1, "result": {}}
        assert a.closed() == (1000, "Browser.close")
        assert b.call("Fake.x")["result"]
        assert "Browser.close" not in browser.seen()


# --- contexts of clients ------------------------------------------------------------------------------------------


def test_cookies_left_in_contexts_of_clients_are_counted(browser):
    with Ws(browser.endpoint.url) as a:
        a.call("Target.createBrowserContext", {"name": "TWO"})
        a.call("Target.createBrowserContext", {"name": "EMPTY", "disposeOnDetach": True})
        assert browser.endpoint.foreign_cookies == 0
        a.call("Target.disposeBrowserContext", {"browserContextId": "TWO"})
        assert browser.endpoint.foreign_cookies == 2
        order = browser.seen()
        assert order.index("Storage.getCookies") < order.index("Target.disposeBrowserContext")
    with Ws(browser.endpoint.url) as b:
        b.call("Target.createBrowserContext", {"name": "THREE", "disposeOnDetach": True})
    until(lambda: browser.endpoint.foreign_cookies == 5)


def test_cookies_of_contexts_that_live_on_are_counted_at_the_end(browser):
    with Ws(browser.endpoint.url) as a:
        a.call("Target.createBrowserContext", {"name": "THREE"})
    assert browser.endpoint.foreign_cookies == 0
    browser.rig.run(browser.endpoint.close_clients("manual"))
    assert browser.endpoint.foreign_cookies == 3


def test_counting_holds_nothing_up_for_long(browser):
    with Ws(browser.endpoint.url) as a:
        a.call("Target.createBrowserContext", {"name": "TWO"})
        browser.silent = True
        began = time.monotonic()
        a.send("Target.disposeBrowserContext", {"browserContextId": "TWO"})
        browser.next("Target.disposeBrowserContext")
        assert time.monotonic() - began < 1


# --- the thread ---------------------------------------------------------------------------------------------------


def open_fds(*fds):
    return [fd for fd in fds if Path(f"/dev/fd/{fd}").exists()]


@pytest.mark.parametrize("ticks", range(1, 7))
def test_serve_closes_the_pipe_when_it_is_cancelled(rig, ticks):
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    async def cancel():
        pipe = CdpPipe(read_fd=ours_in, write_fd=ours_out)
        task = asyncio.ensure_future(rig.gateway.serve(pipe, on_use=lambda: None, on_lost=lambda _: None))
        for _ in range(ticks):
            await asyncio.sleep(0)
        if not task.cancel():
            endpoint = await task
            await endpoint.aclose()
            return
        with pytest.raises(asyncio.CancelledError):
            await task

    rig.run(cancel())
    assert os.read(theirs_in, 1) == b""  # blocks until our end is closed
    os.close(theirs_in)
    os.close(theirs_out)


def test_a_stopped_gateway_says_so():
    rig = Rig()
    browser = FakeBrowser(rig)
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")
        rig.gateway.stop()
        assert a.closed()[0] == 4000
    rig.gateway.stop()
    with pytest.raises(ConnectionLost, match="has ended"):
        rig.run(browser.endpoint.call("Fake.x"))
    rig.run(browser.endpoint.close_clients("manual"))
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    pipe = CdpPipe(read_fd=ours_in, write_fd=ours_out)
    with pytest.raises(ConnectionLost, match="make a new Client"):
        rig.run(rig.gateway.serve(pipe, on_use=lambda: None, on_lost=lambda _: None))
    assert os.read(theirs_in, 1) == b""
    os.close(theirs_in)
    os.close(theirs_out)
    browser.close()
    rig.stop()


def test_an_unused_gateway_stops():
    gateway = GatewayThread()
    gateway.start()
    gateway.stop()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_keeps_no_descriptor_of_the_gateway():
    rig = Rig()
    browser = FakeBrowser(rig)
    with Ws(browser.endpoint.url) as a:
        a.call("Fake.x")
        numbers = {*rig.gateway._thread.fds(), *rig.gateway._listener.fds()}
        numbers |= {fd for hub in rig.gateway._listener.hubs() for fd in hub.fds()}
        assert len(numbers) >= 6  # two pipe ends, the listener, a client, the loop's two
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                rig.gateway.abandon_in_child()
                kept = open_fds(*numbers)
                with contextlib.suppress(UsageError):
                    asyncio.run(browser.endpoint.call("Fake.x"))
                    kept.append(-1)
                code = 2 if kept else 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert a.call("Fake.x")["result"]
    browser.close()
    rig.stop()
