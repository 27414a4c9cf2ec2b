"""Clients on other machines: whom the server lets in, and the browsers' gateway behind it, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import children
import httpx
import pytest
from playwright.sync_api import sync_playwright
from server_rig import TOKEN, WITHIN, Running, running, until, visiting
from starlette.datastructures import URL
from test_server import BEARER, serving, told_by
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lifecycle import ConfigError
from lifecycle.server import create_app
from lifecycle.server.guard import Names
from lifecycle.server.relay import REMEMBERED, Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.connection import Connection

pytestmark = pytest.mark.slow

ELSEWHERE = "127.0.0.2"
"""An address that is not taken for loopback, and is one on Linux: it takes no second machine to be called by it."""


@pytest.fixture(scope="module")
def lasting() -> Iterator[Running]:
    with running(adapter="local", store="memory:", allow_remote=True) as up:
        begun = up.start()  # what lasts as long as the server is there from now on
        httpx.get(begun["cdp_url"].replace("ws://", "http://") + "/json/version", trust_env=False)
        up.http.delete(f"/sessions/{begun['session_id']}/stop")
        yield up


@pytest.fixture
def server(lasting: Running) -> Iterator[Running]:
    with visiting(lasting) as up:
        yield up


@contextmanager
def client_of(url: str, **options: Any) -> Iterator[Connection]:
    with connect(url, max_size=None, compression=None, proxy=None, ping_interval=None, **options) as socket:
        yield socket


def call(socket: Connection, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
    command = {"id": 1, "method": method, "params": params}
    socket.send(json.dumps(command | ({"sessionId": session} if session else {})))
    while True:
        answer: dict[str, Any] = json.loads(socket.recv(timeout=WITHIN))
        if answer.get("id") == 1:
            return answer


# --- who is let in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"token": None, "allow_remote": True}, "allow_remote"),
        ({"token": TOKEN, "public_url": "https://a.example"}, "allow_remote"),
        ({"token": TOKEN, "allow_remote": True, "public_url": "a.example"}, "public_url"),
        ({"token": TOKEN, "allow_remote": True, "public_url": "https://"}, "public_url"),
        ({"token": TOKEN, "allow_remote": True, "public_url": "https://a.example:port"}, "public_url"),
        ({"token": TOKEN, "allow_remote": True, "public_url": "https://me@a.example"}, "public_url"),
        ({"token": TOKEN, "allow_remote": True, "public_url": "https://a.example/below"}, "public_url"),
    ],
)
def test_what_would_let_anybody_in_or_lead_nowhere_is_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        create_app(adapter="memory", store="memory:", **options)


def test_the_server_is_called_by_an_address_its_own_name_or_the_one_it_was_told() -> None:
    names = Names(remote=True, public_url="https://Browsers.example")
    for host in ("10.1.2.3", "10.1.2.3:80", "[fe80::1]:80", "localhost:1", "browsers.example", "browsers.example:4"):
        assert names.host(host), host
    for host in ("evil.test", "10.1.2.3.evil.test", "10.1.2.3@evil.test", "10.1.2.3/evil", "10.1.2.3:x", "", "other"):
        assert not names.host(host), host
    assert names.origin("https://browsers.example", "10.1.2.3")
    assert names.origin("http://10.1.2.3", "10.1.2.3")
    for origin in ("https://evil.test", "http://browsers.example", "null", "://", ""):
        assert not names.origin(origin, "10.1.2.3"), origin
    assert not Names().host("10.1.2.3")
    assert not Names().origin("://", "localhost")


def test_only_with_the_token_and_by_no_other_name(server: Running) -> None:
    for host, token, status in (("10.1.2.3", TOKEN, 200), ("10.1.2.3", "wrong", 401), ("evil.test", TOKEN, 403)):
        head = {"Host": host, "Authorization": f"Bearer {token}"}
        assert httpx.get(f"{server.url}/sessions/", headers=head, trust_env=False).status_code == status


def test_a_secret_that_is_none_opens_nothing(server: Running) -> None:
    for path in (
        "browser",
        "browser/",
        "browser/x",
        "browser/view/x",
        "browser/..%2fsessions/",
        "browser/x/json/version",
    ):
        answer = httpx.get(f"{server.url}/{path}", trust_env=False)
        assert answer.status_code in (401, 404), path
    for path in ("browser/x", "browser/view/x", "sessions/"):
        with pytest.raises(InvalidStatus) as caught, client_of(f"ws://127.0.0.1:{server.port}/{path}"):
            pass
        assert caught.value.response.status_code in (403, 404)


def test_of_very_many_addresses_the_oldest_are_forgotten() -> None:
    relay, here = Relay(), URL("http://10.0.0.1:8700/sessions/start")
    relay.public("ws://127.0.0.1:7/used", here)
    for n in range(REMEMBERED):
        relay.public(f"ws://127.0.0.1:7/secret{n}", here)
        relay.public("ws://127.0.0.1:7/used", here)
    assert relay.find("secret0/json") is None
    assert relay.find("used/json") == "127.0.0.1:7"
    assert relay.find(f"secret{REMEMBERED - 1}/json") == "127.0.0.1:7"


# --- the gateway behind it ----------------------------------------------------------------------------------------


def test_addresses_are_told_at_the_name_that_the_client_used(server: Running) -> None:
    told = server.http.post("/sessions/start", json={}, headers={"Host": "10.1.2.3:8700"}).json()
    assert told["cdp_url"].startswith("ws://10.1.2.3:8700/browser/")
    assert told["viewer_url"].startswith("http://10.1.2.3:8700/browser/view/")
    debug = server.http.get(f"/sessions/{told['session_id']}/debug", headers={"Host": "10.1.2.3:8700"}).json()
    assert debug["ws"]["cdp"] == told["cdp_url"]
    assert [tab["ws_url"].startswith(told["cdp_url"] + "/devtools/page/") for tab in debug["tabs"]] == [True]
    path = told["cdp_url"].partition(":8700")[2]
    version = server.http.get(f"{path}/json/version", headers={"Host": "10.1.2.3:8700"}).json()
    assert version["webSocketDebuggerUrl"] == told["cdp_url"]
    (tab,) = [t for t in server.http.get(f"{path}/json/list").json() if t["type"] == "page"]
    assert tab["webSocketDebuggerUrl"] == f"ws://127.0.0.1:{server.port}{path}/devtools/page/{tab['id']}"
    server.http.delete(f"/sessions/{told['session_id']}/stop")


def test_addresses_are_told_at_the_public_url() -> None:
    with running(adapter="memory", store="memory:", allow_remote=True, public_url="https://browsers.example") as up:
        told = up.start()
        assert told["viewer_url"] == f"https://browsers.example/ui/sessions/{told['session_id']}"
        relay: Relay = up.app.state.relay
        url = relay.public("ws://127.0.0.1:1/secret", URL(up.url))
        assert url == "wss://browsers.example/browser/secret"


def test_playwright_sees_the_browser_by_either_address(server: Running) -> None:
    told = server.start()
    with sync_playwright() as playwright:
        for url in (told["cdp_url"], told["cdp_url"].replace("ws://", "http://")):
            browser = playwright.chromium.connect_over_cdp(url)
            page = browser.contexts[0].pages[0]
            assert page.evaluate("'x'.repeat(5_000_000)") == "x" * 5_000_000
            page.set_content("<h1>" + "y" * 5_000_000)
            assert page.evaluate("document.querySelector('h1').textContent.length") == 5_000_000
            browser.close()
    assert server.get(told["session_id"])["status"] == "active"
    server.http.delete(f"/sessions/{told['session_id']}/stop")


def test_a_client_is_told_why_the_session_ended_and_later_ones_too(server: Running) -> None:
    told = server.start()
    with client_of(told["cdp_url"]) as socket:
        assert "product" in call(socket, "Browser.getVersion")["result"]
        server.http.delete(f"/sessions/{told['session_id']}/stop")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                socket.recv(timeout=WITHIN)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "manual")
    with pytest.raises(InvalidStatus) as refused, client_of(told["cdp_url"]):
        pass
    assert refused.value.response.status_code == 410
    assert refused.value.response.body == b"The session is over: manual\n"
    later = httpx.get(told["cdp_url"].replace("ws://", "http://") + "/json/version", trust_env=False)
    assert (later.status_code, later.text) == (410, "The session is over: manual\n")


def test_a_client_that_leaves_leaves_the_session_as_it_was(server: Running) -> None:
    told = server.start()
    with client_of(told["cdp_url"]) as socket:
        made = call(socket, "Target.createBrowserContext", disposeOnDetach=True)["result"]["browserContextId"]
    with client_of(told["cdp_url"]) as socket:
        until(lambda: made not in call(socket, "Target.getBrowserContexts")["result"]["browserContextIds"])
    assert server.get(told["session_id"])["status"] == "active"
    server.http.delete(f"/sessions/{told['session_id']}/stop")


def test_a_page_of_another_site_connects_to_nothing(server: Running) -> None:
    told = server.start()
    for origin in ("http://evil.test", "null", f"http://127.0.0.1:{server.port}"):
        with pytest.raises(InvalidStatus) as caught, client_of(told["cdp_url"], origin=origin):
            pass
        assert caught.value.response.status_code == 403
    server.http.delete(f"/sessions/{told['session_id']}/stop")


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux is 127.0.0.2 there by itself")
def test_a_session_with_pages_through_an_address_that_is_not_loopback(tmp_path: Any) -> None:
    """The whole way, as from another machine: the command, our own client elsewhere, its page, and the end."""
    code = """
from lifecycle import Client
with Client(adapter="remote") as client, client.Session() as session:
    assert session.cdp_url().startswith("ws://127.0.0.2:"), session.cdp_url()
    session.page.goto("data:text/html,<title>from afar</title>")
    print(session.page.title())
print(session.state)
"""
    store = f"sqlite:///{tmp_path / 'log.db'}"
    arguments = ("--adapter", "local", "--store", store, "--host", ELSEWHERE, "--allow-remote")
    with serving(*arguments, env={"LIFECYCLE_TOKEN": TOKEN}) as process:
        try:
            url, _ = told_by(process)
            assert url.startswith(f"http://{ELSEWHERE}:")
            env = {**children.environment(), "NOTTE_API_URL": url, "NOTTE_API_KEY": TOKEN, "LIFECYCLE_STORE": "memory:"}
            done = subprocess.run(
                [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
            )
            assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["from afar", "closed"]), done.stderr
            begun = httpx.post(f"{url}/sessions/start", json={}, headers=BEARER, trust_env=False, timeout=WITHIN).json()
            with client_of(begun["cdp_url"]) as socket:
                assert "product" in call(socket, "Browser.getVersion")["result"]
                process.terminate()
                out, err = process.communicate(timeout=WITHIN)  # a client that is connected holds nothing up
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0
    assert TOKEN not in out + err
    assert os.path.basename(begun["cdp_url"]) not in out + err


def test_the_live_view_is_seen_by_a_browser_through_the_server(server: Running) -> None:
    shown, viewer = server.start(), server.start()
    assert shown["viewer_url"].startswith(f"{server.url}/browser/view/")
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(shown["cdp_url"])
        browser.contexts[0].pages[0].goto("data:text/html,<title>A shop</title><body style='background:%23f00'>")
        looking = playwright.chromium.connect_over_cdp(viewer["cdp_url"])
        page = looking.contexts[0].pages[0]
        page.goto(shown["viewer_url"])
        page.locator("#tabs button", has_text="A shop").wait_for()
        page.wait_for_function("() => { const i = document.querySelector('#frame'); return i.naturalWidth > 100; }")
        server.http.delete(f"/sessions/{shown['session_id']}/stop")
        page.locator("#word", has_text="The session is over: manual").wait_for()
        browser.close()
        looking.close()
    server.http.delete(f"/sessions/{viewer['session_id']}/stop")


def test_only_its_own_page_connects_to_a_live_view(server: Running) -> None:
    told = server.start()
    url = told["viewer_url"].replace("http://", "ws://")
    for options in ({}, {"origin": "http://evil.test"}):
        with pytest.raises(InvalidStatus) as caught, client_of(url, **options):
            pass
        assert caught.value.response.status_code == 403
    with client_of(url, origin=server.url) as socket:
        assert json.loads(socket.recv(timeout=WITHIN))["status"]["status"] == "active"
    server.http.delete(f"/sessions/{told['session_id']}/stop")
