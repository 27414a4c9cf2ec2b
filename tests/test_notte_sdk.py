"""A client that nobody here wrote works against the server: notte-sdk, given nothing but a key and a URL.

Each way of using a session that its users know is gone through on a real browser, in words of our own; the table at the
end freezes what every one of its calls does, so that none changes unseen.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta

import children
import pytest
from loopback_site import COOKIE, TITLE
from server_rig import TOKEN, WITHIN, notte, running, until, visiting

from lifecycle import Client

pytestmark = pytest.mark.slow

MISSING = "NotteAPIError 404"
"""The outcome of a call that asks for a route that is not there."""


@pytest.fixture(scope="module")
def lasting():
    with running(adapter="local", store="memory:") as up:
        with visiting(up) as once:  # what the process keeps for good comes with the first browser
            once.http.delete(f"/sessions/{once.start()['session_id']}/stop")
        yield up


@pytest.fixture
def server(lasting, monkeypatch):
    monkeypatch.setenv("NOTTE_API_URL", lasting.url)
    monkeypatch.setenv("NOTTE_API_KEY", TOKEN)
    with visiting(lasting) as up:
        yield up
        for item in up.http.get("/sessions/?page_size=100").json()["items"]:
            up.http.delete(f"/sessions/{item['session_id']}/stop")


@pytest.fixture
def client(server):
    with notte().NotteClient() as found:
        yield found


@pytest.fixture
def opened(monkeypatch):
    """What was shown to the person at the screen, who has no screen here."""
    urls = []
    notte()
    from notte_sdk.endpoints import sessions

    monkeypatch.setattr(sessions, "open_browser", lambda url, **_: urls.append(url))
    return urls


def test_create(client, server, site):
    with client.Session(headless=True, timeout_minutes=10, viewport_width=1024, viewport_height=640) as session:
        assert server.get(session.session_id)["status"] == "active"
        page = session.page
        page.goto(site.url)
        assert page.title() == TITLE
        assert page.evaluate("[innerWidth, innerHeight]") == [1024, 640]
        session_id = session.session_id
    ended = server.get(session_id)
    assert (ended["status"], ended["close_reason"], ended["idle_timeout_minutes"]) == ("closed", "manual", 10)


@pytest.mark.filterwarnings("ignore:Use idle_timeout_minutes")
def test_details(client):
    with client.Session() as session:
        status = session.status()
        assert status.session_id == session.session_id
        assert status.status == "active"
        assert status.created_at <= status.last_accessed_at
        assert status.closed_at is None
        assert status.timeout_minutes == 3
        assert timedelta() < status.duration < timedelta(minutes=1)
        assert session.cdp_url().startswith("ws://127.0.0.1:")
    assert session.response.closed_at is not None


def test_the_cdp_url_is_a_browsers(client, site):
    from playwright.sync_api import sync_playwright

    with client.Session() as session, sync_playwright() as driver:
        assert session.debug_info().ws.cdp == session.cdp_url()
        page = driver.chromium.connect_over_cdp(session.cdp_url()).contexts[0].pages[0]
        page.goto(site.url)
        [tab] = session.debug_info().tabs
        assert (tab.metadata.url.rstrip("/"), tab.metadata.title) == (site.url.rstrip("/"), TITLE)
        assert client.sessions.debug_tab_info(session.session_id, 0).ws_url == tab.ws_url


def test_list(client):
    with client.Session() as one, client.Session() as two:
        for listed in (client.sessions.list(), client.sessions.list(status="active")):
            assert [s.session_id for s in listed] == [two.session_id, one.session_id]
            assert {s.status for s in listed} == {"active"}
            assert all(s.duration > timedelta() for s in listed)
    assert client.sessions.list() == []
    assert {one.session_id, two.session_id} <= {s.session_id for s in client.sessions.list(only_active=False)}


def test_stop_by_hand_and_twice(client, server):
    session = client.Session()
    session.start()
    session.stop()
    assert session.response.status == "closed"
    session.stop()
    assert session.response.status == "closed"
    assert server.get(session.session_id)["status"] == "closed"


def test_the_complete_example(client, server, site, opened, tmp_path, monkeypatch):
    """With a viewer, a cookie file that is written and read again, and a picture."""
    monkeypatch.chdir(tmp_path)
    for visit in (1, 2):
        with client.Session(
            headless=False, open_viewer=True, timeout_minutes=10, cookie_file="cookies.json"
        ) as session:
            page = session.page
            if visit == 1:
                page.goto(f"{site.url}/login")
                page.fill("input", "Ada")
                page.click("button")
            page.goto(f"{site.url}/account")
            assert page.inner_text("#user") == "Ada"
            page.screenshot(path="screenshot.png")
            assert "headless" in server.get(session.session_id)["not_done"]
            assert opened.pop() == server.get(session.session_id)["viewer_url"]
        assert (tmp_path / "screenshot.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((tmp_path / "cookies.json").read_text())
        assert session.response.status == "closed"


def test_connect_to_a_session_by_id(client, site):
    with client.Session() as theirs:
        mine = client.Session(theirs.session_id)
        assert mine.status().session_id == theirs.session_id
        # The package itself refuses to enter a session that is started already.
        with pytest.raises(ValueError, match="already started"), client.Session(theirs.session_id):
            pass
        assert mine.status().status == "active"
        theirs.page.goto(site.url)
        assert mine.debug_info().tabs[0].metadata.title == TITLE


def test_an_error_in_the_block_ends_the_session_and_arrives(client, server, site):
    with pytest.raises(ValueError, match="mine"), client.Session() as session:
        session.page.goto(site.url)
        raise ValueError("mine")
    ended = server.get(session.session_id)
    assert (ended["status"], ended["close_reason"], ended["error"]) == ("closed", "error", None)


def test_a_session_can_be_watched(client, server):
    with client.Session() as session:
        assert session.status().status == "active"
        server.http.delete(f"/sessions/{session.session_id}/stop")
        assert session.status().status != "active"


def test_a_session_that_timed_out_says_so(client, server):
    session_id = server.start(idle_timeout_minutes=0.01)["session_id"]
    until(lambda: server.get(session_id)["status"] != "active")
    status = client.Session(session_id).status()
    assert (status.status, status.close_reason) == ("timed_out", "idle_timeout")
    with pytest.raises(RuntimeError, match="failed to stop"):  # the package takes only closed for stopped
        client.Session(session_id).stop()


def test_cookies_up_and_down(client, site):
    with client.Session() as session:
        name = site.url.partition("://")[2].partition(":")[0]
        assert session.set_cookies([
            {"name": COOKIE, "value": "Bob", "domain": name, "path": "/", "httpOnly": False},
        ]).success  # fmt: skip
        session.page.goto(f"{site.url}/account")
        assert session.page.inner_text("#user") == "Bob"
        [cookie] = session.get_cookies()
        assert (cookie["name"], cookie["value"], cookie["domain"]) == (COOKIE, "Bob", name)


def test_a_wrong_key_is_told(server, monkeypatch):
    monkeypatch.setenv("NOTTE_API_KEY", "not-the-right-token")
    sdk = notte()
    with sdk.NotteClient() as other, pytest.raises(sdk.errors.NotteAPIError) as caught:
        other.sessions.list()
    assert caught.value.status_code == 401


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_leaves_no_session(server):
    """A program that ends itself in a signal handler, as its users write it."""
    program = """
        import signal, sys, time
        import server_rig
        client = server_rig.notte().NotteClient()
        def ended(number, frame):
            print("ending", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGINT, ended)
        with client.Session() as session:
            print(session.session_id, flush=True)
            signal.sigtimedwait([], 50)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], env=children.environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            session_id = process.stdout.readline().strip()
            assert server.get(session_id)["status"] == "active"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=WITHIN)
        except BaseException:
            process.kill()
            raise
    assert (process.returncode, out) == (0, "ending\n"), err
    assert server.get(session_id)["status"] == "closed"


def test_our_own_store_tells_the_same_story(tmp_path, monkeypatch):
    """What that client did is in the transition log, like what ours does."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with running(adapter="memory", store=url) as up:
        monkeypatch.setenv("NOTTE_API_URL", up.url)
        monkeypatch.setenv("NOTTE_API_KEY", TOKEN)
        with notte().NotteClient() as theirs, theirs.Session() as session:
            session.status()
    with Client(adapter="memory", store=url) as client:
        [told] = client.sessions.list()
    assert (told.session_id, told.status) == (session.session_id, "closed")


# --- what each call does ------------------------------------------------------------------------------------------

OF_SESSION = {
    "debug_info": "works",
    "evaluate_js": "works",
    "execute": "works",
    "fetch": "ActionExecutionError",  # the page of this session may not reach the site
    "get_cookies": "works",
    "observe": "works",
    "offset": MISSING,
    "replay": "NotteAPIError 409",
    "save_profile": MISSING,
    "scrape": "works",
    "set_cookies": "works",
    "status": "works",
    "viewer": "works",
    "viewer_browser": "works",
    "viewer_cdp": "works",
    "viewer_notebook": "works",
    "wait_for_auth": "works",
    "reset": "works",
    "stop": "works",
    "start": "ValueError",  # after a stop, as with the service that it was written for
}
"""The calls of its session, in an order that goes, and what they do."""

ELSEWHERE = {"apage", "await_for_auth", "cdp_url", "page", "session_id"}
"""What the tests above have called."""

OF_SESSIONS = {
    "auth_readiness": "works",
    "auth_status": "works",
    "create_payment": MISSING,
    "debug_info": "works",
    "debug_tab_info": "works",
    "delete_session_file": MISSING,
    "download_session_file": MISSING,
    "execute": "works",
    "execute_session_file": MISSING,
    "get_cookies": "works",
    "get_session_script": MISSING,
    "health_check": "works",
    "list": "works",
    "list_session_files": MISSING,
    "mouse_replay": MISSING,
    "network_logs": MISSING,
    "observe": "works",
    "offset": MISSING,
    "page_screenshot": MISSING,
    "profile_preview": MISSING,
    "replay": "NotteAPIError 409",
    "save_profile": MISSING,
    "scrape": "works",
    "set_cookies": "works",
    "start": "works",
    "status": "works",
    "upload_session_file": MISSING,
    "viewer": "works",
    "viewer_browser": "works",
    "viewer_cdp": "works",
    "viewer_notebook": "works",
    "stop": "works",
}
"""The calls of ``client.sessions``, and what they do with a session that is active; the last one ends it."""

NO_CALLS = {
    "base_endpoint_path", "check_and_warn_version_mismatch", "client", "db_preview", "default_perception_type",
    "default_raise_on_failure", "headers", "http", "is_custom_endpoint_available", "max_retries", "page", "request",
    "request_download", "request_list", "request_path", "response", "root_client", "server_url", "storage", "token",
    "verbose", "viewer_type",
}  # fmt: skip
"""Names that ask the server for nothing by themselves."""

ARGUMENTS = {
    "create_payment": {"idempotency_key": "k", "amount": 1},
    "delete_session_file": {"file_id": "f"},
    "download_session_file": {"file_id": "f"},
    "evaluate_js": {"code": "1"},
    "execute": {"type": "goto", "url": "about:blank"},
    "fetch": {"url": "https://site.test"},
    "replay": {"wait": False},
    "set_cookies": {"cookies": [{"name": "a", "value": "b", "domain": "site.test", "path": "/", "httpOnly": False}]},
}
"""What calls need beside the session's id."""

WITHOUT_ID = {"health_check", "list", "start"}


def outcome(call, *args, **kwargs) -> str:
    from notte_sdk.errors import NotteAPIError

    try:
        call(*args, **kwargs)
    except NotteAPIError as e:
        return f"NotteAPIError {e.status_code}"
    except Exception as e:
        return type(e).__name__
    return "works"


def public(thing) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_") and name.islower()}


def test_what_each_call_of_a_session_does(client, opened):
    session = client.Session()
    session.start()
    assert public(session) == {*OF_SESSION, *ELSEWHERE} | (NO_CALLS & public(session))
    assert {name: outcome(getattr(session, name), **ARGUMENTS.get(name, {})) for name in OF_SESSION} == OF_SESSION
    assert len(opened) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_each_call_about_sessions_does(client, server, opened, tmp_path):
    from notte_core.actions import GotoAction

    sessions, session_id = client.sessions, server.start()["session_id"]
    assert public(sessions) == {*OF_SESSIONS} | (NO_CALLS & public(sessions))
    file = tmp_path / "file.txt"
    file.write_text("content")
    arguments = {
        **ARGUMENTS,
        "execute": {"body": GotoAction(url="about:blank")},
        "upload_session_file": {"file": str(file)},
        "viewer_browser": {"_viewer_url": None},
    }

    def call(name):
        args = () if name in WITHOUT_ID else (session_id,)
        return outcome(getattr(sessions, name), *args, **arguments.get(name, {}))

    assert {name: call(name) for name in OF_SESSIONS} == OF_SESSIONS


def test_its_asynchronous_sessions_work_too(server, site):
    async def story():
        with notte().NotteClient() as client:
            async with client.Session() as session:
                page = await session.apage
                await page.goto(site.url)
                assert await page.title() == TITLE
                await session.await_for_auth()
        async with notte().AsyncNotteClient() as client, client.Session() as twin:
            assert (await twin.status()).status == "active"
            assert await twin.cdp_url()
            assert await twin.get_cookies() == []
        return session.session_id, twin.session_id

    for session_id in asyncio.run(story()):
        assert server.get(session_id)["status"] == "closed"
