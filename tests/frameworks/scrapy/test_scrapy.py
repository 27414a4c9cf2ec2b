"""Crawls of scrapy-playwright on sessions of ours, each in a process of its own, as a reactor runs once a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import GRACE, browsers
from loopback_site import COOKIE, TITLE
from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.exceptions import NotSupported
from scrapy_playwright.handler import Config

from lifecycle import AsyncClient, Client, ConfigError, ConnectionLost, SessionClosed, UsageError
from lifecycle.embed.scrapy import SessionAddon, SessionProvider
from lifecycle.testing import assert_transitions
from lifecycle.trail import AuditTrail

SCRIPT = Path(__file__).with_name("crawl.py")
LONGEST = 60.0
"""Seconds that a crawl may take here before it is taken for one that hangs."""


class Crawl:
    """A crawl that runs: what it says, what it logs, and the records of its store."""

    def __init__(self, spiders, site, store, log, **options):
        self.store, self.log, self.said = store, log, []
        settings = {"LIFECYCLE_STORE": store, "LIFECYCLE_SESSION_OPTIONS": options}
        command = [sys.executable, str(SCRIPT), spiders, site.url, json.dumps(settings)]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
            )

    def wait_for(self, what):
        """The next thing of this kind that it says."""
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            if self.said[-1]["what"] == what:
                return self.said[-1]
        raise AssertionError(f"it ended without saying {what!r}: {self.said}\n{self.log.read_text()}")

    def end(self):
        """Wait for its end; returns the exit code. Nothing that it started may be left."""
        self.said += map(json.loads, self.process.stdout)
        code = self.process.wait(LONGEST)
        wait_until(lambda: not members(self.process.pid), "what it started has ended")
        return code

    def all(self, what):
        return [said for said in self.said if said["what"] == what]

    def sessions(self):
        """The records of each session in its store, the first session first."""
        found = {}
        with AuditTrail(self.store) as trail:
            for _, record in trail.entries():
                found.setdefault(record.session_id, []).append(record)
        return list(found.values())


def wait_until(holds, what):
    until = time.monotonic() + GRACE
    while not holds():
        assert time.monotonic() < until, f"it never came that {what}"
        time.sleep(0.02)


def members(session):
    """Processes of a session of the system, such as drivers that a crawl has started; browsers have their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(path.parent.name)
    return found


def kill_browser(folder):
    """Kill the browser of ours that runs; a child that it has just forked has its command line, but leads no group."""
    leaders = []
    for line in browsers(folder):
        pid = int(line.split()[0])
        with contextlib.suppress(ProcessLookupError):
            leaders += [pid] if os.getpgid(pid) == pid else []
    (browser,) = leaders
    os.kill(browser, signal.SIGKILL)


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def crawl(site, store, tmp_path):
    """A function that starts a crawl; what is running at the end of the test is killed."""
    started = []

    def start(spiders, **options):
        started.append(Crawl(spiders, site, store, tmp_path / f"{len(started)}.log", **options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait()
        each.process.stdout.close()


def ended(records, state, reason):
    last = [r for r in records if r.kind == "commit"][-1]
    assert (last.dest, last.close_reason) == (state, reason)


# --- crawls ---------------------------------------------------------------------------------------------------------


def test_a_crawl_has_one_session_which_ends_with_it(crawl):
    run = crawl("normal", user_agent="a browser of ours")
    assert run.end() == 0

    first, second = run.all("page")
    assert (first["title"], first["agent"]) == (TITLE, "a browser of ours")
    assert second["who"] == ["not logged in"]
    assert run.said[-1] == {"what": "stats", "spider": "normal", "reason": "finished", "browsers": 1, "raised": 0}

    assert "ws://" not in run.log.read_text()  # the CDP URL is a secret
    (records,) = run.sessions()
    assert_transitions(records, "start", "stop: active -> closed")
    ended(records, "closed", "manual")
    with Client(store=run.store) as client:
        assert [s.name for s in client.sessions.list()] == ["normal"]


def test_a_login_reaches_the_cookie_file_and_the_next_crawl(crawl, tmp_path):
    file = tmp_path / "cookies.json"
    login = crawl("login", cookie_file=str(file))
    assert login.end() == 0
    assert [page["who"] for page in login.all("page")] == [["logged in as ", "ada"]]
    assert f'"{COOKIE}"' in file.read_text()

    again = crawl("account", cookie_file=str(file))
    assert again.end() == 0
    assert [page["who"] for page in again.all("page")] == [["logged in as ", "ada"]]
    for records in again.sessions():
        assert_transitions(records, "start", "stop")


def test_a_spider_that_raises_and_one_that_is_closed_end_their_sessions(crawl):
    run = crawl("raises,closes")
    assert run.end() == 0
    raises, closes = run.all("stats")
    assert run.all("raises") and (raises["reason"], raises["raised"]) == ("finished", 1)
    assert (closes["reason"], closes["raised"]) == ("enough", 0)

    assert len(run.sessions()) == 2
    for records in run.sessions():
        assert_transitions(records, "start", "stop: active -> closed")
        ended(records, "closed", "manual")


def test_a_browser_that_crashes_under_a_page_is_followed_by_another(crawl, site, run_folder):
    site.pages["/wait"] = (200, {"Content-Type": "text/html"}, b"<p>Nothing yet")
    run = crawl("crash")
    run.wait_for("page")
    wait_until(lambda: "GET /wait" in site.requests, "the page is asked for")
    site.pages["/wait"] = (200, {"Content-Type": "text/html"}, b"<p id=there>There")
    kill_browser(run_folder)
    assert run.end() == 0

    assert [page["url"] for page in run.all("page")] == ["/", "/wait", "/account"]
    assert not run.all("failed") and run.said[-1]["browsers"] == 2
    first, second = run.sessions()
    assert_transitions(first, "start", "fail: active -> error")
    ended(first, "error", "crash")
    assert_transitions(second, "start", "stop")
    ended(second, "closed", "manual")


def test_the_maximum_duration_ends_the_pages_of_a_crawl(crawl):
    run = crawl("waits", timeout_minutes=0.03, max_duration_minutes=0.03)
    assert run.end() == 0

    last = run.all("failed")[-1]
    assert last["kind"] == "SessionTimedOut" and "max_duration" in last["text"]
    assert not run.all("page") and run.said[-1]["reason"] == "session_over"
    (records,) = run.sessions()
    assert_transitions(records, "start", "expire: active -> timed_out")
    ended(records, "timed_out", "max_duration")


def test_ctrl_c_ends_the_crawl_and_its_session(crawl, tmp_path):
    run = crawl("endless", cookie_file=str(tmp_path / "cookies.json"))
    run.wait_for("page")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0

    assert run.said[-1]["reason"] == "shutdown"
    (records,) = run.sessions()
    assert_transitions(records, "start", "stop")
    ended(records, "closed", "manual")
    assert (tmp_path / "cookies.json").exists()


def test_ctrl_c_twice_leaves_the_session_to_the_end_of_the_interpreter(crawl, site):
    site.requests.clear()
    run = crawl("waits")
    wait_until(lambda: "GET /" in site.requests, "a page is waited for")
    run.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Send again to force" in run.log.read_text(), "Scrapy has taken the first")
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0

    assert "forcing unclean shutdown" in run.log.read_text()
    (records,) = run.sessions()
    assert_transitions(records, "start", "stop")
    ended(records, "closed", "abandoned")


# --- the add-on and the provider by themselves -----------------------------------------------------------------------


class Any(Spider):
    name = "any"


def added(store, **settings):
    """The provider's class that the add-on puts into the settings of a crawl."""
    crawler = Crawler(Any, {"LIFECYCLE_STORE": store, **settings})
    SessionAddon.from_crawler(crawler).update_settings(crawler.settings)
    return crawler.settings["PLAYWRIGHT_BROWSER_PROVIDER"], Config.from_settings(crawler.settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"LIFECYCLE_SESION_OPTIONS": {}}, "did you mean 'LIFECYCLE_SESSION_OPTIONS'"),
        ({"LIFECYCLE_ADAPTER": "locall"}, "LIFECYCLE_ADAPTER='locall' is not allowed; allowed: did you mean 'local'"),
        ({"LIFECYCLE_STORE": "file.db"}, "LIFECYCLE_STORE='file.db' is not allowed"),
        ({"LIFECYCLE_SESSION_OPTIONS": "{"}, "LIFECYCLE_SESSION_OPTIONS='str' is not allowed; allowed: a mapping"),
        ({"LIFECYCLE_SESSION_OPTIONS": {"cookiefile": "c.json"}}, "did you mean 'cookie_file'"),
        ({"LIFECYCLE_SESSION_OPTIONS": '{"headless": 1}'}, "LIFECYCLE_SESSION_OPTIONS: headless=1 is not allowed"),
        ({"PLAYWRIGHT_CDP_URL": "http://127.0.0.1:9222"}, "PLAYWRIGHT_CDP_URL"),
        ({"PLAYWRIGHT_CONNECT_URL": "ws://127.0.0.1:9222"}, "PLAYWRIGHT_CONNECT_URL"),
        ({"PLAYWRIGHT_LAUNCH_OPTIONS": {"headless": False}}, "its options are in LIFECYCLE_SESSION_OPTIONS"),
        ({"PLAYWRIGHT_BROWSER_TYPE": "firefox"}, "allowed: chromium"),
        ({"PLAYWRIGHT_BROWSER_PROVIDER": "scrapy_playwright.provider.PlaywrightBrowserProvider"}, "beside this add-on"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named_before_the_crawl(store, settings, told):
    with pytest.raises(ConfigError) as raised:
        added(store, **settings)
    assert told in str(raised.value)


def test_the_provider_without_the_add_on_says_what_is_missing():
    with pytest.raises(UsageError, match="set ADDONS = .*SessionAddon"):
        SessionProvider(Config.from_settings(Crawler(Any).settings))


def test_a_provider_of_ones_own_is_kept(store):
    class Mine(SessionProvider):
        pass

    provider, _ = added(store, PLAYWRIGHT_BROWSER_PROVIDER=Mine)
    assert issubclass(provider, Mine) and isinstance(provider(None), Mine)


def test_download_handlers_share_the_session_and_the_last_one_stops_it(store):
    async def main():
        provider, config = added(store)
        first, second = provider(config), provider(config)
        await asyncio.gather(first.start(), second.start())
        browsers = await asyncio.gather(first.launch_browser(), second.launch_browser())
        with pytest.raises(NotSupported, match="cookie_file"):
            await first.launch_persistent_context({"user_data_dir": "profile"})
        with Client(store=store) as client:
            (session,) = client.sessions.list()
            await browsers[0].close()
            await first.close()
            assert client.sessions.get(session.session_id).status == "active"
            assert await (await browsers[1].new_page()).evaluate("1 + 1") == 2
            await browsers[1].close()
            await second.close()
            assert client.sessions.get(session.session_id).status == "closed"

    asyncio.run(main())


def test_an_unused_session_is_followed_by_another_and_a_stopped_one_is_not(store):
    async def main():
        provider, config = added(store, LIFECYCLE_SESSION_OPTIONS={"timeout_minutes": 0.02})
        one = provider(config)
        await one.start()
        async with AsyncClient(store=store) as client:
            await one.launch_browser()
            first = await one.crawl._session.wait_ended(GRACE)
            await one.launch_browser()
            second, again = await client.sessions.list()
            assert (again.session_id, again.close_reason) == (first.session_id, "idle_timeout")
            await client.sessions.stop(second.session_id)
            with pytest.raises(SessionClosed):
                await one.launch_browser()
            assert len(await client.sessions.list()) == 2
        await one.close()

    asyncio.run(main())


def test_a_browser_that_crashes_before_it_is_connected_to_is_followed_by_another(store, run_folder, monkeypatch):
    async def main():
        provider, config = added(store)
        one, url = provider(config), provider.crawl.url
        await one.start()

        async def too_late():
            found = await url()
            monkeypatch.undo()
            kill_browser(run_folder)
            return found

        monkeypatch.setattr(provider.crawl, "url", too_late)
        browser = await one.launch_browser()
        assert await (await browser.new_page()).evaluate("1 + 1") == 2
        await browser.close()
        await one.close()

    asyncio.run(main())
    with Client(store=store) as client:
        assert [s.close_reason for s in client.sessions.list()] == ["manual", "crash"]


def test_a_connection_that_fails_is_told_without_the_secret(store, monkeypatch):
    monkeypatch.setattr("lifecycle.embed.scrapy.ENDING", 0.01)

    async def main():
        provider, config = added(store, PLAYWRIGHT_CDP_KWARGS={"timeout": 1})
        one = provider(config)
        await one.start()
        with pytest.raises(ConnectionLost) as raised:
            await one.launch_browser()
        await one.close()
        assert "ws://" not in str(raised.value) and raised.value.__context__ is None

    asyncio.run(main())
