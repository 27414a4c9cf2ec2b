"""The pages of the server: who sees them, that everything on them is escaped, and the stop button."""

from __future__ import annotations

import http.cookiejar
import json
import re

import httpx
import pytest
from server_rig import TOKEN, WITHIN, running, until

from lifecycle.server.guard import COOKIE
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.slow


@pytest.fixture
def server():
    with running(adapter=MemoryAdapter(), store="memory:") as up:
        yield up


@pytest.fixture
def browser(server):
    """A browser of somebody who has no token yet."""
    with httpx.Client(base_url=server.url, timeout=WITHIN, trust_env=False, headers={"Origin": server.url}) as client:
        yield client


def sign_in(browser, token=TOKEN):
    return browser.post("/ui/login", data={"token": token})


def test_nothing_is_shown_before_the_token_is_typed_in(server, browser):
    session_id = server.start()["session_id"]
    first = browser.get("/")
    assert first.status_code == 401
    assert "<form method=post action=/ui/login>" in first.text
    assert session_id[:8] not in first.text
    for answer in (browser.get(f"/ui/sessions/{session_id}"), browser.post(f"/ui/sessions/{session_id}/stop")):
        assert answer.status_code == 303
        assert answer.headers["Location"] == "/"
    assert sign_in(browser, "wrong").status_code == 401
    assert not browser.cookies
    assert server.get(session_id)["status"] == "active"


def test_the_cookie_is_not_the_token_and_opens_the_pages_alone(server, browser):
    answer = sign_in(browser)
    assert answer.status_code == 303
    set_cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in set_cookie
    assert "samesite=strict" in set_cookie.lower()
    assert TOKEN not in set_cookie
    assert browser.get("/").status_code == 200
    assert browser.get("/sessions/").status_code == 401
    assert browser.post("/sessions/start").status_code == 401
    browser.post("/ui/logout")
    browser.cookies = httpx.Cookies(http.cookiejar.CookieJar())
    assert browser.get("/").status_code == 401


@pytest.mark.parametrize("value", ["", "x", TOKEN, "\x01", '"', "ü"])
def test_other_cookies_open_nothing(server, value):
    headers = {"Cookie": f"{COOKIE}={value}".encode()}
    assert server.http.get("/", headers={**headers, "Authorization": "none"}).status_code in (400, 401)


def test_the_index_lists_sessions_and_stops_them(server, browser):
    sign_in(browser)
    assert "No sessions here" in browser.get("/").text
    assert "http-equiv=refresh" in browser.get("/").text  # there may be some soon
    assert "http-equiv=refresh" not in browser.get("/?page=2").text
    kept, stopped = (server.start()["session_id"] for _ in range(2))
    page = browser.get("/").text
    assert page.count('<span class="chip active">active</span>') == 2
    button = re.search(rf'action="(/ui/sessions/{stopped}/stop)"', page)
    answer = browser.post(button[1])
    assert answer.status_code == 303
    assert server.get(stopped)["status"] == "closed"
    assert server.get(kept)["status"] == "active"
    page = browser.get("/").text
    assert f"/ui/sessions/{kept}/stop" in page
    assert f"/ui/sessions/{stopped}/stop" not in page
    assert kept[:8] in browser.get("/?status=active").text
    assert stopped[:8] not in browser.get("/?status=active").text


def test_the_page_of_a_session_shows_how_it_stands_and_its_log(server, browser):
    sign_in(browser)
    session_id = server.start()["session_id"]
    url = f"/ui/sessions/{session_id}"
    assert url in server.get(session_id)["viewer_url"]
    page = browser.get(url).text
    assert session_id in page
    assert "http-equiv=refresh" in page
    assert browser.post(f"{url}/stop").headers["Location"] == url
    page = browser.get(url).text
    assert "http-equiv=refresh" not in page
    assert "active → closed" in page
    assert "release_backend" in page
    assert "Stop the session" not in page
    assert browser.get("/ui/sessions/unknown").status_code == 404
    assert browser.post("/ui/sessions/unknown/stop").status_code == 502


def test_whatever_was_given_is_escaped(server, browser):
    sign_in(browser)
    bad = "<script>alert(1)</script>\"'&"
    headers = {"X-Lifecycle-Name": bad, "X-Lifecycle-Labels": json.dumps({bad: bad})}
    session_id = server.http.post("/sessions/start", json={}, headers=headers).json()["session_id"]
    adapter = server.app.state.hosting.client._adapter
    from lifecycle.states import CloseReason, State

    adapter.end(session_id, state=State.ERROR, reason=CloseReason.CRASH, detail=bad)
    until(lambda: server.get(session_id)["status"] == "error")
    for path in ("/", f"/ui/sessions/{session_id}", f"/ui/sessions/{bad.replace('/', '%2F')}", f"/?status={bad}"):
        answer = browser.get(path)
        assert "<script" not in answer.text
        policy = answer.headers.get("Content-Security-Policy", "")
        assert answer.status_code >= 400 or "default-src 'none'" in policy
        assert "script-src" not in policy
    assert "&lt;script&gt;alert(1)" in browser.get("/").text


def test_pages_of_other_sites_cant_push_the_button(server, browser):
    sign_in(browser)
    session_id = server.start()["session_id"]
    for origin in ("http://evil.test", "null", "http://127.0.0.1:1"):
        assert browser.post(f"/ui/sessions/{session_id}/stop", headers={"Origin": origin}).status_code == 403
    assert server.get(session_id)["status"] == "active"


def test_pages_are_never_kept(server, browser):
    for path in ("/", "/health"):
        assert browser.get(path).headers["Cache-Control"] == "no-store"
        assert browser.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_a_browser_signs_in_and_stops_a_session(server):
    """Chromium's own idea of Origin, cookies and policies, not ours."""
    from playwright.sync_api import sync_playwright

    from lifecycle import Client

    session_id = server.start()["session_id"]
    with Client(adapter="local", store="memory:") as client, client.Session() as session, sync_playwright() as driver:
        page = driver.chromium.connect_over_cdp(session.cdp_url()).contexts[0].pages[0]
        trouble = []
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.goto(server.url)
        page.fill("#token", TOKEN)
        page.click("button")
        page.click(f"a[href='/ui/sessions/{session_id}']")
        with page.expect_navigation():
            page.click("text=Stop the session")
        assert page.inner_text(".chip") == "closed"
        assert page.evaluate("getComputedStyle(document.querySelector('header')).display") == "flex"
        assert [text for text in trouble if "401" not in text] == []
    assert server.get(session_id)["status"] == "closed"
