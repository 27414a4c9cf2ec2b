"""The session API over HTTP: what it answers, whom it lets in, and what it does with bad input.

Each answer of a session is held against the models of notte-sdk, a client that nobody here wrote.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import children
import httpx
import pytest
from server_rig import TOKEN, WITHIN, notte, running, until, visiting

from lifecycle import AsyncClient, Client, ConfigError, State
from lifecycle.identity import boot_id, host_name
from lifecycle.ports import SessionRow
from lifecycle.server import create_app
from lifecycle.server.addresses import over_the_wire, why_private
from lifecycle.server.guard import Guard, Keys, Names
from lifecycle.server.hosting import Hosting
from lifecycle.server.models import StartRequest
from lifecycle.server.run import listen, serve
from lifecycle.states import CloseReason
from lifecycle.stores import open_store
from lifecycle_adapters.memory import Fault, MemoryAdapter

pytestmark = [pytest.mark.slow, pytest.mark.lifecycle_leaves]  # the server has its sessions until the module is done

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="session")
def models():
    notte()
    from notte_sdk._generated import models

    return models


@pytest.fixture
def server():
    with running(adapter=MemoryAdapter(), store="memory:") as up:
        yield up


@pytest.fixture(scope="module")
def lasting():
    with running(adapter=MemoryAdapter(), store="memory:") as up:
        yield up


@pytest.fixture
def shared(lasting):
    """A server that has seen other tests, for those that ask nothing of its sessions; the connections are new."""
    with visiting(lasting) as up:
        yield up


# --- the API ------------------------------------------------------------------------------------------------------


def test_a_life_over_http(server, models):
    begun = server.start()
    session = models.SessionResponse.model_validate(begun)
    assert session.status == "active"
    assert (session.idle_timeout_minutes, begun["timeout_minutes"], session.max_duration_minutes) == (3, 3, 15)
    assert session.closed_at is None
    assert session.close_reason is None
    assert begun["created"] is True
    assert begun["adapter"] == "memory"

    seen = models.SessionResponse.model_validate(server.get(session.session_id))
    assert seen.session_id == session.session_id
    assert seen.created_at == session.created_at
    assert re.fullmatch(r"PT[0-9]+(\.[0-9]+)?S", seen.duration)

    ready = server.http.get(f"/sessions/{session.session_id}/auth").json()
    assert models.ManagedAuthReadiness.model_validate(ready).status == "active"

    ended = models.SessionResponse.model_validate(server.http.delete(f"/sessions/{session.session_id}/stop").json())
    assert (ended.status, ended.close_reason) == ("closed", "manual")
    assert ended.closed_at is not None
    again = models.SessionResponse.model_validate(server.http.delete(f"/sessions/{session.session_id}/stop").json())
    assert (again.status, again.closed_at) == ("closed", ended.closed_at)
    assert server.http.get(f"/sessions/{session.session_id}/auth").json()["status"] == "closed"


def test_no_success_has_a_detail_and_every_error_has_one(server):
    session_id = server.start()["session_id"]
    for path in (f"/sessions/{session_id}", "/sessions/", f"/sessions/{session_id}/cookies", "/health"):
        assert "detail" not in server.http.get(path).json()
    for path in ("/sessions/unknown", "/nowhere", "/sessions/?page=0", f"/sessions/{session_id}/debug"):
        answer = server.http.get(path)
        assert 400 <= answer.status_code < 500
        assert answer.json()["detail"]
        assert answer.json()["status"] == answer.status_code


def test_what_is_asked_for_is_what_the_session_is(server, models):
    body = {"idle_timeout_minutes": 7, "max_duration_minutes": 20, "viewport_width": 800, "viewport_height": 600,
            "user_agent": "mine"}  # fmt: skip
    told = models.SessionResponse.model_validate(server.start(**body))
    assert {name: getattr(told, name) for name in body} == body
    [kept] = server.app.state.hosting._hosted.values()
    options = kept.session._att.options
    assert (options.timeout_minutes, options.max_duration_minutes) == (7, 20)
    assert (options.viewport_width, options.viewport_height, options.user_agent) == (800, 600, "mine")
    assert options.headless


def test_fractions_of_minutes_are_kept_and_told_rounded_up(server):
    told = server.start(idle_timeout_minutes=0.3, max_duration_minutes=1.2)
    assert (told["idle_timeout_minutes"], told["max_duration_minutes"]) == (1, 2)
    left = datetime.fromisoformat(told["expires_at"]) - datetime.now(UTC)
    assert left < timedelta(seconds=18)


def test_what_cant_be_done_is_accepted_and_told(server):
    told = server.start(solve_captchas=True, proxies=True, block_ads=True)
    assert told["proxies"] is False
    assert told["solve_captchas"] is False
    assert set(told["not_done"]) == {"solve_captchas", "block_ads", "proxies"}
    asked = server.start(solve_captchas=False, proxies=False, block_ads=False)
    assert asked["not_done"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"vault_id": "v"}, "vault_id"),
        ({"auth_ids": ["a"]}, "auth_ids"),
        ({"profile": {"id": "p"}}, "profile"),
        ({"cdp_url": "wss://elsewhere.test/x"}, "cdp_url"),
        ({"extra_http_headers": {"a": "b"}}, "extra_http_headers"),
        ({"chrome_args": ["--lang=de"]}, "chrome_args"),
        ({"cookie_file": "/etc/passwd"}, "cookie_file"),
        ({"executable_path": "/bin/sh"}, "executable_path"),
        ({"env": {"LD_PRELOAD": "x"}}, "env"),
        ({"idle_timeout_minutes": 0}, "idle_timeout_minutes"),
        ({"idle_timeout_minutes": "3"}, "idle_timeout_minutes"),
        ({"max_duration_minutes": 1e99}, "max_duration_minutes"),
        ({"idle_timeout_minutes": 9, "max_duration_minutes": 5}, "idle_timeout_minutes"),
        ({"viewport_width": 800}, "viewport_height"),
        ({"user_agent": "two\nlines"}, "user_agent"),
        ({"user_agent": "\ud800"}, "user_agent"),
        ({"browser_type": "firefox"}, "browser_type"),
        ({"proxies": [{"type": "notte"}]}, "proxies"),
        ({"proxies": [{"type": "external", "server": "a"}] * 2}, "proxies"),
        ({"proxies": [{"type": "external", "server": "ftp://a"}]}, "proxy"),
    ],
)
def test_a_field_that_is_not_allowed_is_named(shared, body, field):
    before = len(shared.app.state.hosting._hosted)
    answer = shared.http.post("/sessions/start", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert any(field in map(str, fault["loc"]) for fault in answer.json()["detail"]), answer.text
    assert len(shared.app.state.hosting._hosted) == before


def test_a_proxy_of_the_callers_own_is_used_and_its_password_not_told(server, models):
    proxy = {"type": "external", "server": "http://proxy.test:3128", "username": "u", "password": "a-password"}
    told = server.start(proxies=[proxy])
    assert models.SessionResponse.model_validate(told).proxies is True
    [kept] = server.app.state.hosting._hosted.values()
    assert kept.session._att.options.proxy.password == "a-password"
    bad = server.http.post("/sessions/start", json={"proxies": [{**proxy, "server": 5}]})
    assert bad.status_code == 422
    assert "a-password" not in bad.text + json.dumps(told)


def test_switches_for_chromium_come_from_the_wire_only_where_they_are_allowed():
    with running(adapter="memory", store="memory:", allow_chrome_args=True) as up:
        up.start(chrome_args=["--lang=de"])
        [kept] = up.app.state.hosting._hosted.values()
        assert kept.session._att.options.chrome_args == ("--lang=de",)
        assert up.http.post("/sessions/start", json={"chrome_args": ["--user-data-dir=/tmp"]}).status_code == 422


@pytest.mark.parametrize(
    ("end", "wire"),
    [
        ((State.TIMED_OUT, CloseReason.IDLE_TIMEOUT), ("timed_out", "idle_timeout")),
        ((State.TIMED_OUT, CloseReason.MAX_DURATION), ("timed_out", "max_duration")),
        ((State.ERROR, CloseReason.CRASH), ("error", "error")),
    ],
)
def test_a_session_that_ended_by_itself_is_told_as_it_is(models, end, wire):
    adapter = MemoryAdapter()
    with running(adapter=adapter, store="memory:") as up:
        session_id = up.start()["session_id"]
        adapter.end(session_id, state=end[0], reason=end[1], detail="so it was")
        until(lambda: up.get(session_id)["status"] != "active")
        for told in (up.get(session_id), up.http.delete(f"/sessions/{session_id}/stop").json()):
            seen = models.SessionResponse.model_validate(told)
            assert (seen.status, seen.close_reason) == wire
            assert told["reason"] == end[1]
        gone = up.http.get(f"/sessions/{session_id}/cookies")
        assert gone.status_code == 410
        assert gone.json()["close_reason"] == end[1]


def test_the_idle_deadline_is_the_engines_and_looking_is_not_use(server):
    session_id = server.start(idle_timeout_minutes=0.02)["session_id"]
    until(lambda: server.get(session_id)["status"] == "timed_out")
    assert server.get(session_id)["close_reason"] == "idle_timeout"


def test_the_clients_reason_is_told_again(server):
    session_id = server.start()["session_id"]
    assert server.http.delete(f"/sessions/{session_id}/stop?close_reason=error").json()["close_reason"] == "error"
    told = server.http.delete(f"/sessions/{session_id}/stop?close_reason=manual").json()
    assert (told["status"], told["close_reason"], told["reason"]) == ("closed", "error", "manual")
    assert server.http.delete(f"/sessions/{session_id}/stop?close_reason=tired").status_code == 422


def test_cookies_up_and_down(server, models):
    session_id = server.start()["session_id"]
    later = float(int(datetime.now(UTC).timestamp()) + 86_400)
    cookies = [
        {"name": "one", "value": "1", "domain": ".site.test", "path": "/", "httpOnly": True, "secure": True,
         "sameSite": "Lax", "expires": later},
        {"name": "two", "value": "2", "domain": "site.test", "path": "/a", "httpOnly": False},
    ]  # fmt: skip
    answer = server.http.post(f"/sessions/{session_id}/cookies", json={"cookies": cookies})
    assert answer.json()["success"] is True
    told = server.http.get(f"/sessions/{session_id}/cookies?update_metadata=True").json()
    one, two = sorted(models.GetCookiesResponse.model_validate(told).cookies, key=lambda c: c.name)
    assert (one.value, one.httpOnly, one.secure, one.sameSite) == ("1", True, True, "Lax")
    assert (one.expires, one.expirationDate, one.session, one.hostOnly) == (later, later, False, False)
    assert (two.path, two.session, two.hostOnly, two.expirationDate) == ("/a", True, True, None)


def test_one_bad_cookie_is_named_and_keeps_no_other_out(server):
    session_id = server.start()["session_id"]
    cookies = [
        {"name": "good", "value": "1", "domain": "site.test"},
        {"name": "bad", "value": "a-secret", "domain": "site.test", "sameSite": "Perhaps"},
    ]
    answer = server.http.post(f"/sessions/{session_id}/cookies", json={"cookies": cookies})
    assert answer.status_code == 200
    assert answer.json()["success"] is False
    assert answer.json()["rejected"] == ["bad"]
    assert "a-secret" not in answer.text
    assert [c["name"] for c in server.http.get(f"/sessions/{session_id}/cookies").json()["cookies"]] == ["good"]
    wrong = server.http.post(f"/sessions/{session_id}/cookies", json={"cookies": [{"name": "x", "value": "a-secret"}]})
    assert wrong.status_code == 422
    assert ["body", "cookies", 0, "domain"] in [f["loc"] for f in wrong.json()["detail"]]
    assert "a-secret" not in wrong.text


# --- finding sessions ---------------------------------------------------------------------------------------------


def test_lists_turn_pages_and_filter(server, models):
    ids = [server.start()["session_id"] for _ in range(5)]
    server.http.delete(f"/sessions/{ids[0]}/stop")
    first = server.http.get("/sessions/?only_active=True&page_size=3").json()
    assert [item["session_id"] for item in first["items"]] == ids[:1:-1]
    assert (first["page"], first["page_size"], first["has_next"], first["has_previous"]) == (1, 3, True, False)
    second = server.http.get("/sessions/?page_size=3&page=2").json()
    assert [item["session_id"] for item in second["items"]] == [ids[1]]
    assert (second["has_next"], second["has_previous"]) == (False, True)
    for item in first["items"]:
        assert models.SessionResponse.model_validate(item).status == "active"
    everything = "/sessions/?only_active=False"
    assert len(server.http.get(everything).json()["items"]) == 5
    assert [server.http.get(f"{everything}&page_size={n}").json()["has_next"] for n in (4, 5)] == [True, False]
    closed = server.http.get("/sessions/?status=closed").json()["items"]
    assert [item["session_id"] for item in closed] == ids[:1]


def test_names_and_labels_come_in_headers(server):
    headers = {"X-Lifecycle-Name": "näme".encode(), "X-Lifecycle-Labels": json.dumps({"team": "crawl", "n": "1"})}
    told = server.http.post("/sessions/start", json={}, headers=headers).json()
    assert (told["name"], told["labels"]) == ("näme", {"team": "crawl", "n": "1"})
    server.start()
    found = server.http.get("/sessions/?label=team=crawl&label=n=1").json()["items"]
    assert [item["session_id"] for item in found] == [told["session_id"]]
    assert server.http.get("/sessions/?label=team=other").json()["items"] == []
    assert server.http.get("/sessions/?label=team").status_code == 422
    for bad in ("[", "[1]", '{"a": 1}', '{"": "x"}', "[" * 5000, b"\xff"):
        answer = server.http.post("/sessions/start", json={}, headers={"X-Lifecycle-Labels": bad})
        assert answer.status_code == 422
        assert "X-Lifecycle-Labels" in answer.text


def test_one_key_is_one_session_also_for_racers():
    adapter = children.SlowAdapter(0.02)
    with running(adapter=adapter, store="memory:") as up:
        ask = {"json": {}, "headers": {"Idempotency-Key": "k"}}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            told = [f.result().json() for f in [pool.submit(up.http.post, "/sessions/start", **ask) for _ in range(8)]]
        assert len({t["session_id"] for t in told}) == len(adapter.opened) == 1
        assert [t["created"] for t in told].count(True) == 1
        assert {t["idempotency_key"] for t in told} == {"k"}
        up.http.delete(f"/sessions/{told[0]['session_id']}/stop")
        again = up.http.post("/sessions/start", **ask).json()
        assert again["session_id"] != told[0]["session_id"]
        assert again["created"] is True


def test_a_key_whose_session_did_not_start_is_free_again():
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="fail")])
    with running(adapter=adapter, store="memory:") as up:
        ask = {"json": {}, "headers": {"Idempotency-Key": "k"}}
        failed = up.http.post("/sessions/start", **ask)
        assert failed.status_code == 502
        assert failed.json()["error"] == "StartFailed"
        assert up.http.post("/sessions/start", **ask).json()["created"] is True


def test_a_racer_that_goes_away_takes_no_session_with_it():
    async def story():
        async with AsyncClient(adapter=children.SlowAdapter(0.05), store="memory:") as client:
            hosting = Hosting(client)
            ask = {"key": "k", "name": None, "labels": {}}
            first = asyncio.create_task(hosting.start(StartRequest(), **ask))
            second = asyncio.create_task(hosting.start(StartRequest(), **ask))
            third = asyncio.create_task(hosting.start(StartRequest(), **ask))
            await asyncio.sleep(0)
            first.cancel()
            third.cancel()
            hosted, created = await second
            assert first.cancelled()
            assert third.cancelled()
            assert not created
            assert hosted.session.state is State.ACTIVE

    asyncio.run(story())


def test_sessions_of_owners_that_died_are_told_as_errors(tmp_path, models):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(WITHIN)
    with running(adapter="memory", store=url) as up:
        mine = up.start()["session_id"]
        now = datetime.now(UTC)
        store = open_store(url)
        store.open()
        store.write((), [SessionRow(
            session_id="left-behind", attachment_id="a", adapter="local", state=State.ACTIVE, created_at=now,
            last_accessed_at=now, timeout_minutes=3, max_duration_minutes=15, owner_pid=gone.pid, owner_started="1",
            boot_id=boot_id(), host=host_name(),
        )])  # fmt: skip
        store.close()
        told = models.SessionResponse.model_validate(up.get("left-behind"))
        assert (told.status, told.close_reason) == ("error", "error")
        assert "has ended" in told.error
        active = up.http.get("/sessions/").json()
        assert [item["session_id"] for item in active["items"]] == [mine]
        first, second = (up.http.get(f"/sessions/?page_size=1&page={n}").json() for n in (1, 2))
        assert [item["session_id"] for item in first["items"] + second["items"]] == [mine]
        assert (first["has_next"], second["has_next"]) == (True, False)
        everything = up.http.get("/sessions/?only_active=False").json()["items"]
        assert {item["session_id"]: item["status"] for item in everything} == {mine: "active", "left-behind": "error"}


@pytest.mark.skipif(os.name != "posix", reason="owners are asked over a Unix socket")
def test_sessions_of_other_processes_are_shown_used_and_stopped(tmp_path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    code = """
        client = Client(adapter="memory", store=sys.argv[1])
        with client.Session(name="theirs") as session:
            session.set_cookies(cookies=[COOKIE])
            print(session.session_id, flush=True)
            print(session.wait_ended(timeout=50).status, flush=True)
        client.close()
    """
    program = children.PRELUDE + textwrap.dedent(code)
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, url],
        env=children.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        try:
            session_id = owner.stdout.readline().strip()
            with running(adapter="memory", store=url) as up:
                assert up.get(session_id)["name"] == "theirs"
                cookies = up.http.get(f"/sessions/{session_id}/cookies").json()["cookies"]
                assert [c["name"] for c in cookies] == ["mine"]
                assert up.get(session_id)["status"] == "active"
                assert up.http.delete(f"/sessions/{session_id}/stop").json()["status"] == "closed"
            assert owner.stdout.readline().strip() == "closed"
            assert owner.wait(WITHIN) == 0
        except BaseException:
            owner.kill()
            raise


# --- who gets in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Cookie": f"lifecycle_pages={TOKEN}"},
    ],
)
def test_without_the_right_token_nothing_is_told(shared, headers):
    session_id = shared.start()["session_id"]
    with httpx.Client(base_url=shared.url, headers=headers, trust_env=False) as http:
        for method, path in [
            ("POST", "/sessions/start"), ("GET", "/sessions/"), ("GET", f"/sessions/{session_id}"),
            ("DELETE", f"/sessions/{session_id}/stop"), ("GET", f"/sessions/{session_id}/cookies"),
            ("GET", "/openapi.json"), ("GET", "/nowhere"),
        ]:  # fmt: skip
            answer = http.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert session_id not in answer.text
        assert http.get("/health").json() == {"status": "ok"}
    assert shared.get(session_id)["status"] == "active"


def test_a_second_authorization_header_opens_nothing(shared):
    headers = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {TOKEN}")]
    for order in (headers, headers[::-1]):
        assert httpx.get(f"{shared.url}/sessions/", headers=order, trust_env=False).status_code == 401


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "localhost@evil.test", "", "192.168.0.1"])
def test_a_host_that_is_not_loopback_is_refused(shared, host):
    for path in ("/health", "/sessions/", "/"):
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        answer = shared.raw(head.encode())
        assert answer.split(b" ")[1] in (b"403", b"400"), answer
        assert b'"items"' not in answer


def test_the_host_may_be_any_loopback_name(shared):
    for host in ("localhost", "127.0.0.1", f"127.0.0.1:{shared.port}", "[::1]:1"):
        assert shared.http.get("/sessions/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://127.0.0.1:1", "http://localhost"])
def test_pages_of_other_sites_may_do_nothing(shared, origin):
    before = len(shared.app.state.hosting._hosted)
    for method, path in (("GET", "/sessions/"), ("POST", "/sessions/start"), ("POST", "/ui/login"), ("GET", "/health")):
        assert shared.http.request(method, path, headers={"Origin": origin}).status_code == 403
    assert shared.http.get("/sessions/", headers={"Origin": shared.url}).status_code == 200
    assert len(shared.app.state.hosting._hosted) == before


def test_a_websocket_is_no_way_in(server):
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade, close\r\n"
    upgrade += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
    text = f"GET /sessions/ HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}\r\n"
    assert server.raw(f"{text}\r\n".encode()).startswith(b"HTTP/1.1 401")
    assert server.raw(f"{text}Origin: http://evil.test\r\n\r\n".encode()).startswith(b"HTTP/1.1 403")

    async def story():
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "websocket.connect"}

        app = create_app(token=TOKEN, client=client)
        await app({"type": "websocket", "path": "/sessions/", "headers": []}, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]

    with running(adapter="memory", store="memory:") as up:
        client = up.app.state.hosting.client
        asyncio.run(story())


def test_a_token_in_the_url_is_refused_and_reaches_no_log(server, caplog):
    with caplog.at_level(logging.DEBUG):
        answer = server.http.get(f"/sessions/?token={TOKEN}")
        assert answer.status_code == 400
        assert TOKEN not in answer.text
        server.http.get("/sessions/")
        session_id = server.start()["session_id"]
        server.http.delete(f"/sessions/{session_id}/stop")
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert not any(TOKEN in line for line in ours)
    assert not any("GET /" in line for line in ours)


def test_a_server_without_a_token_lets_this_machine_in_and_no_page():
    with running(token=None, adapter="memory", store="memory:") as up:
        assert up.start()["status"] == "active"
        assert up.http.post("/sessions/start", headers={"Origin": "http://evil.test"}).status_code == 403


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in it, long", "ümlaut-ümlaut-ümlaut", "line\nline\nline\nline"]
)
def test_a_token_that_cant_serve_is_refused(token):
    with pytest.raises(ConfigError, match="token") as caught:
        create_app(token=token, adapter="memory", store="memory:")
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "word"),
    [
        ("0.0.0.0", "--allow-remote"),
        ("192.168.1.5", "--allow-remote"),
        ("::", "--allow-remote"),
        ("example.com", "an address of this machine"),
        ("", "an address of this machine"),
    ],
)
def test_other_hosts_are_refused_with_the_reason(host, word):
    with pytest.raises(ConfigError, match=word):
        serve(host=host, adapter="memory", store="memory:")


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bodies_that_are_too_long_are_refused_before_they_are_read(shared):
    session_id = shared.start()["session_id"]
    mebibyte = 1024 * 1024
    for path, most in (("/sessions/start", mebibyte), (f"/sessions/{session_id}/cookies", 4 * mebibyte)):
        assert shared.http.post(path, content=b"x" * most).status_code in (400, 422)
        assert shared.http.post(path, content=b"x" * (most + 1)).status_code == 413
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        assert b" 413 " in shared.raw(f"{head}Connection: close\r\nContent-Length: {10**15}\r\n\r\nx".encode())[:20]

        def drip(most=most):
            for _ in range(most // 65536 + 2):
                yield b"x" * 65536

        assert shared.http.post(path, content=drip()).status_code == 413  # chunked
    assert shared.get(session_id)["status"] == "active"


def test_who_is_refused_is_let_finish_before_the_answer():
    """One that is cut off while it sends may lose the answer: its connection is reset."""
    told = []

    async def story():
        parts = [b"1", b"2", b"3"]

        async def receive():
            told.append("part")
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message):
            told.append(message["type"])

        headers = [(b"host", b"localhost"), (b"content-length", b"3")]
        scope = {"type": "http", "method": "POST", "path": "/sessions/start", "query_string": b"", "headers": headers}
        await Guard(None, Keys(TOKEN), Names())(scope, receive, send)

    asyncio.run(story())
    assert told == ["part", "part", "part", "http.response.start", "http.response.body"]


def test_answers_do_not_wait_for_acknowledgements():
    """Nagle's algorithm is off, which asyncio does only for sockets that say they are TCP."""
    with listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_a_long_body_without_the_token_still_reads_its_answer(shared):
    for path in ("/sessions/start", "/sessions/x/cookies"):
        answer = httpx.post(f"{shared.url}{path}", content=b"x" * 3_000_000, trust_env=False, timeout=WITHIN)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"[" * 200_000, "application/json"),
        (b'{"a":' * 50_000, "application/json"),
        (b"1" * 10_000, "application/json"),
        (b"NaN", "application/json"),
        (b'{"idle_timeout_minutes": NaN}', "application/json"),
        (b'{"idle_timeout_minutes": 1e400}', "application/json"),
        (b'{"viewport_width": ' + b"9" * 5000 + b', "viewport_height": 1}', "application/json"),
        (b"\xff\xfe\x00", "application/json"),
        (b'"\\ud800"', "application/json"),
        (b"[]", "application/json"),
        (b"{}", "text/plain"),
        (b"{}", "application/x-www-form-urlencoded"),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x"),
        (b"{}", "application/json; charset=utf-32"),
        (b"<a/>", "application/xml"),
        (b"{}", "nonsense"),
    ],
)
def test_bodies_that_are_not_what_they_should_be_are_the_senders_fault(shared, content, kind):
    session_id = shared.start()["session_id"]
    for path in ("/sessions/start", f"/sessions/{session_id}/cookies"):
        answer = shared.http.post(path, content=content, headers={"Content-Type": kind})
        told_as_object = kind.startswith("application/json") and content == b"{}" and path == "/sessions/start"
        assert answer.status_code == 200 if told_as_object else 400 <= answer.status_code < 500, answer.text
        assert len(answer.content) < 10_000


@pytest.mark.parametrize(
    "path",
    ["/sessions/%00", "/sessions/%ff", "/sessions/..%2f..%2fetc", "/sessions/" + "x" * 5000, "/sessions/%F0%9F%98%80",
     "/sessions/'%20OR%201=1--", "/sessions/%20"],
)  # fmt: skip
def test_odd_ids_are_unknown(shared, path):
    for method, rest in (("GET", ""), ("DELETE", "/stop"), ("GET", "/cookies"), ("GET", "/debug"), ("GET", "/auth")):
        assert shared.http.request(method, path + rest).status_code in (404, 422)


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=-1", "page=1e9", "page=99999999999999999999", "page_size=0", "page_size=101", "page_size=x",
     "status=gone", "only_active=perhaps", "label==x", "label=%ff"],
)  # fmt: skip
def test_odd_queries_are_refused(shared, query):
    assert shared.http.get(f"/sessions/?{query}").status_code == 422


def test_a_fault_of_ours_is_told_without_a_word_of_it(server, monkeypatch, caplog):
    async def broken(*_, **__):
        raise RuntimeError("a-secret")

    monkeypatch.setattr(Hosting, "status", broken)
    with caplog.at_level(logging.DEBUG):
        answer = server.http.get("/sessions/x")
    assert answer.status_code == 500
    assert answer.json()["error"] == "InternalError"
    assert "a-secret" not in answer.text
    told = [r.getMessage() for r in caplog.records if r.name.startswith(("lifecycle", "uvicorn"))]
    assert any("RuntimeError" in line for line in told)
    assert "a-secret" not in caplog.text


def test_private_addresses_are_told_from_public_ones(monkeypatch):
    for url in (
        "http://127.0.0.1/", "http://[::1]/", "http://10.0.0.1", "http://192.168.1.1:8080/x", "http://169.254.169.254/",
        "http://0.0.0.0/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1]/", "http://2130706433/", "http://localhost/",
        "http://224.0.0.1/", "http:///nothing", "http://[", "http://a.test:99999/", "http://100.64.0.1/",
        "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    ):  # fmt: skip
        assert why_private(url), url
    for url in ("http://93.184.216.34/", "https://[2606:4700::1]/", "about:blank", "data:text/html,x"):
        assert why_private(url) is None, url
    assert over_the_wire(deny_private=True).refuse_url("http://127.0.0.1/")
    assert over_the_wire(deny_private=False).refuse_url("http://127.0.0.1/") is None


def test_no_path_of_this_machine_is_taken_from_the_wire(server):
    policy = server.app.state.hosting.client._core.policy
    with pytest.raises(ConfigError, match="file_path"):
        policy.upload_path("/etc/passwd")


# --- the end, and many at once ------------------------------------------------------------------------------------


def test_many_sessions_at_once_and_none_is_lost():
    adapter = MemoryAdapter()
    with running(adapter=adapter, store="memory:") as up:

        async def all_of_them():
            limits = httpx.Limits(max_connections=20)
            async with httpx.AsyncClient(
                base_url=up.url, headers=BEARER, limits=limits, timeout=WITHIN, trust_env=False
            ) as http:
                begun = await asyncio.gather(*(http.post("/sessions/start", json={}) for _ in range(200)))
                ids = [answer.json()["session_id"] for answer in begun]
                assert sorted(adapter.live) == sorted(ids)
                ended = await asyncio.gather(*(http.delete(f"/sessions/{i}/stop") for i in ids))
                assert [(e.json()["session_id"], e.json()["status"]) for e in ended] == [(i, "closed") for i in ids]
                return ids

        ids = asyncio.run(all_of_them())
        assert len(set(ids)) == 200
        assert sorted(adapter.opened) == sorted(adapter.released) == sorted(ids)
        listed = [
            i["session_id"]
            for n in (1, 2, 3)
            for i in up.http.get(f"/sessions/?status=closed&page_size=100&page={n}").json()["items"]
        ]
        assert sorted(listed) == sorted(ids)


def test_the_end_of_the_server_stops_its_sessions_and_no_others():
    adapter = MemoryAdapter()
    with running(adapter=adapter, store="memory:") as up:
        ids = [up.start()["session_id"] for _ in range(3)]
    assert sorted(adapter.released) == sorted(ids)

    async def story():
        async with AsyncClient(adapter=MemoryAdapter(), store="memory:") as client:
            app = create_app(token=TOKEN, client=client)
            async with client.Session() as session:
                async with app.router.lifespan_context(app):
                    hosted, _ = await app.state.hosting.start(StartRequest(), key=None, name=None, labels={})
                assert hosted.session.state is State.CLOSED
                assert session.state is State.ACTIVE
                late = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=late, base_url="http://localhost", headers=BEARER) as http:
                    answer = await http.post("/sessions/start", json={})
                assert answer.status_code == 503
                assert answer.headers["Retry-After"] == "1"

    asyncio.run(story())


def serving(*arguments, env=None):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "lifecycle.cli", "serve", "--port", "0", *arguments],
        env={**children.environment(), **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def told_by(process):
    """The URL and the key that a server prints."""
    first, url, key = (process.stdout.readline().strip() for _ in range(3))
    assert first.startswith("serving "), process.stderr.read()
    return url.removeprefix("export NOTTE_API_URL="), key.removeprefix("export NOTTE_API_KEY=")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_stops_all_sessions_and_then_the_server(tmp_path, signum, code):
    store = f"sqlite:///{tmp_path / 'log.db'}"
    with serving("--adapter", "memory", "--store", store) as process:
        try:
            url, key = told_by(process)
            assert len(key) >= 32
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as http:
                ids = [http.post("/sessions/start", json={}).json()["session_id"] for _ in range(3)]
                assert httpx.get(f"{url}/sessions/", trust_env=False).status_code == 401
                process.send_signal(signum)
                out, err = process.communicate(timeout=WITHIN)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == code, err
    assert err == f"lifecycle: {signal.Signals(signum).name}, stopping all sessions\n"
    assert out == ""
    assert key not in err
    with Client(adapter="memory", store=store) as client:
        stopped = {s.session_id: (s.status, s.close_reason) for s in client.sessions.list()}
    assert stopped == dict.fromkeys(ids, ("closed", "manual"))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_token_that_was_given_is_not_printed():
    with serving("--adapter", "memory", "--store", "memory:", env={"LIFECYCLE_TOKEN": TOKEN}) as process:
        try:
            url, key = told_by(process)
            assert key == "..."
            assert httpx.get(f"{url}/sessions/", headers=BEARER, trust_env=False).status_code == 200
            process.terminate()
            out, err = process.communicate(timeout=WITHIN)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0
    assert TOKEN not in out + err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "0.0.0.0"], "--allow-remote"),
        (["--allow-remote", "--no-token"], "token"),
        (["--public-url", "https://a.example"], "allow_remote"),
        (["--allow-remote", "--public-url", "a.example"], "https://HOST"),
        (["--token", "short"], "token"),
        (["--token", TOKEN, "--no-token"], "no_token"),
        (["--adapter", "memroy"], "memory"),
    ],
)
def test_what_cant_be_served_is_one_clear_line(arguments, word, capsys):
    from lifecycle.cli import main

    assert main(["serve", "--store", "memory:", *arguments]) == 2
    told = capsys.readouterr()
    assert word in told.err
    assert "Traceback" not in told.err
    assert TOKEN not in told.err
    assert told.out == ""


def test_a_port_that_is_taken_is_one_clear_line(server, capsys):
    from lifecycle.cli import main

    assert main(["serve", "--adapter", "memory", "--store", "memory:", "--port", str(server.port)]) == 2
    assert "port" in capsys.readouterr().err
