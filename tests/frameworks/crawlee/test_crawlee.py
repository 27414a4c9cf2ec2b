"""Sessions as the browsers of crawlee's pool: a crawl, its cookies, and each way in which browsers and crawls end.

The sessions' own Chromium runs for real, on loopback pages. Crawlee's log says more of a failed test than its asserts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import browsers
from crawlee import ConcurrencySettings
from crawlee.browsers import BrowserPool
from crawlee.crawlers import PlaywrightCrawler
from crawlee.proxy_configuration import ProxyConfiguration
from crawlee.storage_clients import MemoryStorageClient
from crawlee.storages import RequestQueue
from loopback_site import COOKIE, TITLE
from waiting import until

from lifecycle import (
    AsyncClient,
    Client,
    CloseReason,
    ConfigError,
    HookError,
    SessionClosed,
    StartFailed,
    State,
    UsageError,
)
from lifecycle.embed.crawlee import SessionBrowserPlugin
from lifecycle.testing import ManualClock, assert_transitions, transitions
from lifecycle.trail import AuditTrail, Query

PATIENCE = 20.0
"""Seconds that what is sure to come may take."""


def pool_of(*plugins, **options):
    """A pool, and a list of the controllers that it launches."""
    pool = BrowserPool(list(plugins), **options)
    launched = []

    @pool.post_launch_hook
    async def note(_, controller):
        launched.append(controller)

    return pool, launched


@asynccontextmanager
async def crawling(handler, *, pool_options=None, clock=None, retries=2, proxy=None, **options):
    """A crawler on one plugin, and the controllers that its pool launches."""
    async with AsyncClient(clock=clock) as client:
        pool, launched = pool_of(SessionBrowserPlugin(client, **options), **(pool_options or {}))
        storage = MemoryStorageClient()
        crawler = PlaywrightCrawler(
            browser_pool=pool,
            request_handler=handler,
            # A queue of the test's own: crawlee would take that of the process, with what other tests left in it.
            request_manager=await RequestQueue.open(alias=uuid4().hex, storage_client=storage),
            storage_client=storage,
            concurrency_settings=ConcurrencySettings(desired_concurrency=1, max_concurrency=1),
            use_session_pool=False,  # crawlee's own sessions carry cookies too: those are not what is tested
            max_request_retries=retries,
            proxy_configuration=proxy,
            configure_logging=False,
        )
        yield crawler, launched


def ended(session, state, reason, *edges):
    """Assert how a session ended, by its state and by the log."""
    assert session.state is state
    assert_transitions(session, *edges)
    assert records(session.session_id)[-1].close_reason is reason


def records(session_id):
    """The commits of a session, as the log has them."""
    with AuditTrail() as trail:
        return [record for _, record in trail.entries(Query(session=session_id, kind="commit"))]


def closed(session):
    """Assert that a session was stopped."""
    ended(session, State.CLOSED, CloseReason.MANUAL, "start", "stop: active -> closed")


def pids(folder):
    return [int(line.split()[0]) for line in browsers(folder)]


# --- a crawl ----------------------------------------------------------------------------------------------------------


def test_a_crawl_has_one_session_which_is_closed_at_its_end(site, running):
    seen = []

    async def handler(context):
        seen.append((await context.page.title(), running()))

    async def main():
        async with crawling(handler, labels={"job": "crawl"}) as (crawler, launched):
            told = await crawler.run([f"{site.url}/?{n}" for n in range(2)])
            assert (told.requests_finished, told.requests_failed) == (2, 0)
            (controller,) = launched
            closed(controller.session)
            assert (await controller.session.status()).labels == {"job": "crawl"}
            assert running() == 0  # before the client is closed
            assert not controller.is_browser_connected

    asyncio.run(main())
    assert seen == [(TITLE, 1)] * 2


@pytest.mark.parametrize(("incognito", "scope"), [(False, "default"), (True, "all")])
def test_cookies_of_the_file_are_in_the_pages_and_a_login_there_is_in_the_file(site, tmp_path, incognito, scope):
    file = tmp_path / "cookies.json"
    file.write_text(json.dumps([{"name": COOKIE, "value": "ada", "domain": "127.0.0.1", "path": "/"}]))
    seen = []

    async def handler(context):
        seen.append(await context.page.text_content("#user"))
        await context.page.goto(f"{site.url}/login")
        await context.page.fill("[name=user]", "grace")
        await context.page.click("button")
        seen.append(await context.page.text_content("#user"))

    async def main():
        options = {"use_incognito_pages": incognito, "cookie_file": file, "cookie_scope": scope}
        async with crawling(handler, **options) as (crawler, launched):
            await crawler.run([f"{site.url}/account"])
            closed(launched[0].session)

    asyncio.run(main())
    assert seen == ["ada", "grace"]
    assert [(c["name"], c["value"]) for c in json.loads(file.read_text())] == [(COOKIE, "grace")]


def test_a_proxy_of_crawlee_is_that_of_an_incognito_page(site):
    site.pages["http://made-up.invalid/"] = (200, {"Content-Type": "text/html"}, b"<title>by proxy</title>")
    seen = []

    async def handler(context):
        seen.append(await context.page.title())

    async def main():
        proxy = ProxyConfiguration(proxy_urls=[site.url])
        async with crawling(handler, proxy=proxy, use_incognito_pages=True) as (crawler, _):
            await crawler.run(["http://made-up.invalid/"])

    asyncio.run(main())
    assert seen == ["by proxy"]


def test_a_proxy_that_the_page_would_not_have_is_refused(site):
    async def main():
        async with AsyncClient() as client, BrowserPool([SessionBrowserPlugin(client)]) as pool:
            info = await ProxyConfiguration(proxy_urls=[site.url]).new_proxy_info(None, None, None)
            with pytest.raises(UsageError, match="a proxy.*use_incognito_pages=True"):
                await pool.new_page(proxy_info=info)

            @pool.pre_page_create_hook
            async def options(_, __, options, ___):
                options["locale"] = "de"

            with pytest.raises(UsageError, match="locale.*use_incognito_pages=True"):
                await pool.new_page()

    asyncio.run(main())


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_a_retired_browser_is_stopped_when_its_pages_are_closed(running):
    async def main():
        async with AsyncClient() as client:
            pool, launched = pool_of(
                SessionBrowserPlugin(client),
                retire_browser_after_page_count=2,
                close_inactive_browsers_interval=timedelta(seconds=0.05),
            )
            async with pool:
                first = [await pool.new_page() for _ in range(2)]
                other = await pool.new_page()
                retired, used = (controller.session for controller in launched)
                assert (running(), retired.state, len(pool.inactive_browsers)) == (2, State.ACTIVE, 1)
                await first[0].page.close()
                assert retired.state is State.ACTIVE
                assert await first[1].page.title() == ""
                await first[1].page.close()
                await retired.wait_ended(timeout=PATIENCE)
                closed(retired)
                assert used.state is State.ACTIVE
                assert await other.page.title() == ""
            closed(used)
            assert running() == 0

    asyncio.run(main())


def test_a_controller_with_open_pages_closes_by_force_only():
    async def main():
        async with AsyncClient() as client, SessionBrowserPlugin(client) as plugin:
            controller = await plugin.new_browser()
            page = await controller.new_page()
            with pytest.raises(ValueError, match="open pages"):
                await controller.close()
            assert controller.session.state is State.ACTIVE
            await controller.close(force=True)
            assert page.is_closed()
            assert controller.pages_count == 0
            await controller.close()
            closed(controller.session)

    asyncio.run(main())


def test_pages_of_two_plugins_stay_in_browsers_of_their_own():
    async def main():
        async with AsyncClient() as client:
            plugins = [SessionBrowserPlugin(client, name=name) for name in ("ada", "grace")]
            pool, launched = pool_of(*plugins)
            async with pool:
                for _ in range(2):
                    await pool.new_page_with_each_plugin()
                names = [(await controller.session.status()).name for controller in launched]
                assert sorted(names) == ["ada", "grace"]
                assert [controller.pages_count for controller in launched] == [2, 2]

    asyncio.run(main())


def test_trouble_in_one_teardown_keeps_no_other_browser_open(running):
    async def main():
        async with AsyncClient() as client:
            plugin = SessionBrowserPlugin(client, max_open_pages_per_browser=1)
            pool, launched = pool_of(plugin)

            @client.hook(after="stop")
            def fails(session):
                if session is launched[0].session:
                    raise RuntimeError("planted")

            with pytest.raises(HookError, match="planted"):
                async with pool:
                    for _ in range(2):
                        await pool.new_page()
                    assert running() == 2
            for controller in launched:
                closed(controller.session)
            assert not plugin.active
            assert running() == 0

    asyncio.run(main())


def test_an_error_of_the_callers_own_wins_over_trouble_in_the_teardown():
    async def main():
        async with AsyncClient() as client:
            client.hook(after="stop")(lambda session: 1 / 0)
            with pytest.raises(KeyError) as caught:
                async with SessionBrowserPlugin(client) as plugin:
                    controller = await plugin.new_browser()
                    raise KeyError("mine")
            assert "HookError" in caught.value.__notes__[0]
            closed(controller.session)

    asyncio.run(main())


# --- launches that come to nothing ------------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path):
    """A browser that never comes up, and a function that waits for its pid."""
    told, script = tmp_path / "pid", tmp_path / "slow-browser"
    script.write_text(f"#!/bin/sh\necho $$ > {told}.part && mv {told}.part {told}\nexec sleep 600\n")
    script.chmod(0o755)

    async def started():
        await asyncio.to_thread(until, told.exists, PATIENCE)
        return int(told.read_text())

    return script, started


def gone(pid):
    until(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE)


def test_a_launch_that_is_cancelled_while_the_browser_starts_leaves_nothing(slow):
    script, started = slow
    made = []

    async def main():
        async with AsyncClient() as client, SessionBrowserPlugin(client, executable_path=script) as plugin:
            client.hook(before="start")(made.append)
            launch = asyncio.create_task(plugin.new_browser())
            pid = await started()
            launch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await launch
            ended(made[0], State.CLOSED, CloseReason.MANUAL, "stop: not_started -> closed")
            gone(pid)

    asyncio.run(main())


def test_a_launch_in_flight_ends_with_the_plugin(slow):
    script, started = slow
    made = []

    async def main():
        async with AsyncClient() as client:
            client.hook(before="start")(made.append)
            async with SessionBrowserPlugin(client, executable_path=script) as plugin:
                launch = asyncio.create_task(plugin.new_browser())
                pid = await started()
            assert made[0].state is State.CLOSED  # it is over when the plugin is left, not some time later
            with pytest.raises(SessionClosed):
                await launch
            gone(pid)

    asyncio.run(main())


def test_a_launch_that_the_pool_gives_up_leaves_nothing(run_folder, running):
    made = []

    async def main():
        async with AsyncClient() as client:
            pool, launched = pool_of(SessionBrowserPlugin(client), operation_timeout=timedelta(seconds=2))
            client.hook(before="start")(made.append)

            @client.hook(after="start")
            def freeze(_):  # it never answers who connects
                for pid in pids(run_folder):
                    os.kill(pid, signal.SIGSTOP)

            async with pool:
                with pytest.raises(TimeoutError):
                    await pool.new_page()
                (session,) = made
                # On a machine that is slower than the pool's patience it is still starting.
                started = transitions(session)[:-1]
                stopped = "stop: active -> closed" if started else "stop: not_started -> closed"
                ended(session, State.CLOSED, CloseReason.MANUAL, *started, stopped)
                assert (launched, running()) == ([], 0)

    asyncio.run(main())


def test_a_browser_that_does_not_start_is_an_error_of_the_request(site, tmp_path):
    async def handler(context):
        raise AssertionError("there is no page")

    errors = []

    async def main():
        script = tmp_path / "no-browser"
        script.write_text("#!/bin/sh\nexit 3\n")
        script.chmod(0o755)
        async with crawling(handler, executable_path=script, retries=0) as (crawler, launched):

            @crawler.failed_request_handler
            async def failed(_, error):
                errors.append(error)

            told = await crawler.run([f"{site.url}/"])
            assert (told.requests_failed, launched) == (1, [])

    asyncio.run(main())
    assert [type(error) for error in errors] == [StartFailed]


# --- what ends a session under a crawl --------------------------------------------------------------------------------


def crash(run_folder):
    """End the only browser, as a crash does."""
    (pid,) = pids(run_folder)
    os.kill(pid, signal.SIGKILL)


def test_a_crawl_goes_on_after_its_browser_crashed(site, run_folder):
    async def handler(context):
        if context.request.retry_count == 0 and context.request.url.endswith("?crash"):
            crash(run_folder)
            await context.page.wait_for_selector("#never")

    async def main():
        async with crawling(handler) as (crawler, launched):
            told = await crawler.run([f"{site.url}/?{n}" for n in ("crash", "next")])
            assert (told.requests_finished, told.requests_failed) == (2, 0)
            crashed, last = launched
            ended(crashed.session, State.ERROR, CloseReason.CRASH, "start", "fail: active -> error")
            closed(last.session)

    asyncio.run(main())


def test_the_pool_gives_no_page_to_a_dead_browser_and_lets_go_of_it(run_folder):
    async def main():
        async with AsyncClient() as client:
            pool, launched = pool_of(
                SessionBrowserPlugin(client),
                browser_inactive_threshold=timedelta(0),
                identify_inactive_browsers_interval=timedelta(seconds=0.05),
                close_inactive_browsers_interval=timedelta(seconds=0.05),
            )
            async with pool:
                page = (await pool.new_page()).page
                (dead,) = launched
                crash(run_folder)
                await dead.session.wait_ended(timeout=PATIENCE)
                assert not dead.has_free_capacity  # at once, whether or not Playwright has heard of it
                other = await pool.new_page()
                assert await other.page.title() == ""
                async with asyncio.timeout(PATIENCE):
                    while dead in [*pool.active_browsers, *pool.inactive_browsers]:
                        await asyncio.sleep(0.02)
                assert page.is_closed()
                assert dead.pages_count == 0

    asyncio.run(main())


@pytest.mark.parametrize("reason", [CloseReason.IDLE_TIMEOUT, CloseReason.MAX_DURATION])
def test_a_crawl_goes_on_after_a_deadline_of_its_session(site, reason):
    clock = ManualClock()
    told_by_page = []

    async def main():
        async def handler(context):
            if context.request.retry_count:
                return
            clock.advance(9 * 60)
            if reason is CloseReason.MAX_DURATION:
                await context.page.goto(f"{site.url}/login")  # use, which moves the idle deadline and not the other
            clock.advance(3 * 60)
            session = launched[0].session
            assert (await session.wait_ended(timeout=PATIENCE)).close_reason is reason
            try:
                await context.page.title()
            except Exception as error:
                told_by_page.append(error)
                raise

        options = {"clock": clock, "timeout_minutes": 10, "max_duration_minutes": 12.5}
        if reason is CloseReason.MAX_DURATION:
            options["max_duration_minutes"] = 11
        async with crawling(handler, **options) as (crawler, launched):
            told = await crawler.run([f"{site.url}/"])
            assert (told.requests_finished, told.requests_failed) == (1, 0)
            late, last = launched
            ended(late.session, State.TIMED_OUT, reason, "start", "expire: active -> timed_out")
            closed(last.session)

    asyncio.run(main())
    assert len(told_by_page) == 1


def test_an_error_in_a_handler_is_the_requests_and_not_the_sessions(site):
    errors = []

    async def handler(context):
        if context.request.url.endswith("?bad"):
            raise ValueError("planted")

    async def main():
        async with crawling(handler, retries=1) as (crawler, launched):

            @crawler.failed_request_handler
            async def failed(_, error):
                errors.append(str(error))

            told = await crawler.run([f"{site.url}/?{n}" for n in ("bad", "good")])
            assert (told.requests_finished, told.requests_failed) == (1, 1)
            (controller,) = launched
            closed(controller.session)

    asyncio.run(main())
    assert errors == ["planted"]


def test_a_pool_whose_playwright_died_closes_its_sessions(running):
    async def main():
        async with AsyncClient() as client:
            plugin = SessionBrowserPlugin(client, max_open_pages_per_browser=1)
            pool, launched = pool_of(plugin)
            async with pool:
                for _ in range(2):
                    await pool.new_page()
                os.kill(driver(), signal.SIGKILL)
            for controller in launched:
                closed(controller.session)
            assert not plugin.active
            assert running() == 0

    asyncio.run(main())


def driver():
    """The pid of the only driver of Playwright that this process runs."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (pid,) = [pid for pid in children if b"playwright" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(pid)


# --- what ends a crawl ------------------------------------------------------------------------------------------------


def test_a_cancelled_crawl_closes_its_session(site, running):
    async def main():
        reached, release = asyncio.Event(), asyncio.Event()

        async def handler(_):
            reached.set()
            await release.wait()

        async with crawling(handler) as (crawler, launched):
            run = asyncio.create_task(crawler.run([f"{site.url}/"]))
            await reached.wait()
            run.cancel()
            release.set()  # crawlee waits for the handlers that run
            await asyncio.wait([run])
            closed(launched[0].session)
            assert running() == 0

    asyncio.run(main())


def test_a_crawl_that_is_cancelled_in_every_tick_leaves_nothing_to_the_client(site, running):
    """Then crawlee does not close its pool; the end of the client is what ends the session."""

    async def main():
        reached = asyncio.Event()

        async def handler(context):
            reached.set()
            await context.page.wait_for_selector("#never")

        async with crawling(handler) as (crawler, launched):
            run = asyncio.create_task(crawler.run([f"{site.url}/"]))
            await reached.wait()
            while not run.done():
                run.cancel()
                await asyncio.sleep(0)
        assert launched[0].session.state is State.CLOSED
        assert [str(r.dest) for r in records(launched[0].session.session_id)] == ["active", "closed"]
        assert running() == 0

    asyncio.run(main())


SCRIPT = """
import asyncio
import sys
from pathlib import Path

from crawlee.browsers import BrowserPool
from crawlee.crawlers import PlaywrightCrawler
from crawlee.storage_clients import MemoryStorageClient

from lifecycle import AsyncClient
from lifecycle.embed.crawlee import SessionBrowserPlugin

url, gate = sys.argv[1], Path(sys.argv[2])


async def main():
    async with AsyncClient() as client:
        pool, sessions = BrowserPool([SessionBrowserPlugin(client)]), []

        @pool.post_launch_hook
        async def note(_, controller):
            sessions.append(controller.session)
            print(controller.session.session_id, flush=True)

        crawler = PlaywrightCrawler(browser_pool=pool, storage_client=MemoryStorageClient())

        @crawler.router.default_handler
        async def handler(context):
            print("ready", flush=True)
            while not gate.exists():
                await context.page.title()

        await crawler.run([url])
        print(*(session.state for session in sessions), flush=True)  # as the crawl leaves them to the client


asyncio.run(main())
"""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_crawl_and_closes_its_session(site, tmp_path, run_folder, times):
    """As a terminal sends it: to the process and to all that it started, Playwright's driver and the browser too."""
    script, gate, log = tmp_path / "crawl.py", tmp_path / "gate", tmp_path / "log"
    script.write_text(SCRIPT)
    with log.open("w") as errors:
        child = subprocess.Popen(
            [sys.executable, script, f"{site.url}/", gate],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        lines = [child.stdout.readline().strip() for _ in range(2)]
        assert lines[1:] == ["ready"], log.read_text()
        os.killpg(child.pid, signal.SIGINT)
        until(lambda: "Pausing" in log.read_text(), PATIENCE)
        if times == 1:
            gate.touch()  # crawlee waits for the handlers that run
        else:
            os.killpg(child.pid, signal.SIGINT)
        rest, _ = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    assert (rest.split(), child.returncode) == (["closed"], 0), log.read_text()
    assert_transitions(records(lines[0]), "start", "stop: active -> closed")
    assert records(lines[0])[-1].close_reason is CloseReason.MANUAL
    assert browsers(run_folder) == []


# --- bad use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"profile": "folder"}, "profile"),
        ({"idempotency_key": "one"}, "idempotency_key"),
        ({"browser_new_context_options": {"locale": "de"}}, "browser_new_context_options"),
        ({"fingerprint_generator": object()}, "fingerprint_generator"),
        ({"use_incognito_pages": True, "cookie_file": "cookies.json"}, "cookie_scope"),
        ({"timeout_minutes": -1}, "timeout_minutes"),
        ({"browser_launch_options": {}}, "browser_launch_options"),
    ],
)
def test_an_option_that_can_not_work_is_refused_when_the_plugin_is_made(options, named):
    async def main():
        async with AsyncClient() as client:
            with pytest.raises(ConfigError) as caught:
                SessionBrowserPlugin(client, **options)
            assert caught.value.option == named

    asyncio.run(main())


def test_it_needs_an_async_client():
    with Client() as client, pytest.raises(ConfigError, match="AsyncClient"):
        SessionBrowserPlugin(client)


def test_it_works_only_while_it_is_in_use():
    async def main():
        async with AsyncClient() as client:
            plugin = SessionBrowserPlugin(client)
            with pytest.raises(UsageError, match="enter it first"):
                await plugin.new_browser()
            for _ in range(2):  # one after the other it can be used again
                async with plugin:
                    with pytest.raises(UsageError, match="in use already"):
                        await plugin.__aenter__()
            await plugin.__aexit__(None, None, None)  # nothing to leave

    asyncio.run(main())
