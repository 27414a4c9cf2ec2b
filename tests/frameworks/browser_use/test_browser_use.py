"""Sessions under browser-use: its agents, with a model that has a script, on a real browser and loopback pages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import scripted
from browser_use import BrowserProfile, Tools
from browser_use.browser.events import BrowserStopEvent
from cdp_use import CDPClient
from scripted import DONE, NO_NAMES, QUICK, agent, go, index_of
from websockets.exceptions import InvalidStatus

import lifecycle.embed.browser_use as embed
from lifecycle import AsyncClient, Client, SessionFailed, SessionTimedOut
from lifecycle.embed.browser_use import browser_session
from lifecycle.errors import ConfigError, UsageError
from lifecycle.testing import ManualClock, assert_transitions

PATIENCE = 60.0
"""Seconds in which browser-use has to give up; it takes about three, on a machine that has nothing else to do."""

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def nothing_calls_out():
    yield
    assert scripted.calls_out == []


@pytest.fixture
def asked(site):
    """What the site was asked for in this test."""
    before = len(site.requests)
    return lambda: site.requests[before:]


def run(main):
    """Run a coroutine function, within `PATIENCE`, and see that it leaves no task behind."""

    async def bounded():
        async with asyncio.timeout(PATIENCE):
            result = await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left
        return result

    return asyncio.run(bounded())


def make(client, **options):
    return client.Session(chrome_args=[NO_NAMES], **options)


def log_in(browser, site, name="ann"):
    """Steps that fill in the form of the site and send it."""

    async def fill():
        field, button = await index_of(browser, "input"), await index_of(browser, "button")
        return [{"input": {"index": field, "text": name}}, {"click": {"index": button}}]

    return go(f"{site.url}/login"), fill


def redials(caplog) -> list[str]:
    """What browser-use said of its dialing again."""
    return [r.getMessage() for r in caplog.records if "Reconnection attempt" in r.getMessage()]


def missed(caplog) -> bool:
    """True when browser-use was not told of the end, and took it for a lost connection."""
    return any("exited unexpectedly" in r.getMessage() for r in caplog.records)


# --- the normal job -----------------------------------------------------------------------------------------------


def test_an_agent_logs_in_and_the_session_ends_with_its_cookies(site, asked, running, caplog, tmp_path):
    async def main():
        async with AsyncClient() as client:
            async with browser_session(
                client,
                browser_profile=QUICK,
                chrome_args=[NO_NAMES],
                cookie_file=tmp_path / "cookies.json",
                labels={"job": "log in"},
            ) as browser:
                history = await agent(browser, *log_in(browser, site), DONE).run()
                assert running() == 1
            (status,) = await client.sessions.list(label="job=log in")
        return history, status

    history, status = run(main)
    assert history.is_successful() and history.final_result() == "did it" and not any(history.errors())
    assert (status.status, status.close_reason) == ("closed", "manual")
    assert running() == 0
    assert asked() == ["GET /login", "POST /login", "GET /account"]
    (cookie,) = json.loads((tmp_path / "cookies.json").read_text())["cookies"]
    assert (cookie["name"], cookie["value"]) == ("login", "ann")
    assert not missed(caplog)


def test_a_session_that_was_given_stays_and_agents_share_its_page(site, caplog):
    async def main():
        async with AsyncClient() as client:
            async with make(client) as session:
                page = await session.page()
                async with browser_session(session, browser_profile=QUICK) as browser:
                    assert (await agent(browser, *log_in(browser, site), DONE).run()).is_successful()
                    assert browser.is_cdp_connected  # an agent that ends leaves it to the next
                    assert await page.text_content("#user") == "ann"
                    assert (await agent(browser, go(f"{site.url}/logout"), DONE).run()).is_successful()
                    assert await page.text_content("#who") == "not logged in"
                assert not browser.is_cdp_connected
                assert session.state == "active"
                await page.goto(site.url)
                assert_transitions(session, "start")
            assert_transitions(session, "start", "stop")

    run(main)
    assert not missed(caplog)


def test_the_viewport_of_the_session_stands_and_its_downloads_folder_gets_the_file(site, tmp_path):
    site.pages["/link"] = 200, {"Content-Type": "text/html"}, b"<a href=/file download>file</a>"
    site.pages["/file"] = 200, {"Content-Disposition": "attachment; filename=told.txt"}, b"told"
    folder = tmp_path / "kept"

    async def main():
        async with AsyncClient() as client:
            options = {"viewport_width": 900, "viewport_height": 500, "downloads_folder": folder}
            async with make(client, **options) as session:
                profile = BrowserProfile(allowed_domains=["127.0.0.1"], viewport={"width": 320, "height": 200})
                async with browser_session(session, browser_profile=profile) as browser:

                    async def click():
                        return [{"click": {"index": await index_of(browser, "a")}}]

                    history = await agent(browser, go(f"{site.url}/link"), click, DONE).run()
                    assert history.is_successful()
                    assert [Path(path).name for path in browser.downloaded_files] == ["told.txt"]
                    assert browser.browser_profile.allowed_domains == ["127.0.0.1"]
                    page = await session.page()
                    assert await page.evaluate("[innerWidth, innerHeight]") == [900, 500]

    run(main)
    (kept,) = folder.iterdir()
    assert kept.name == "told.txt" and kept.read_text() == "told"


def test_a_block_without_an_agent(running):
    async def main():
        async with AsyncClient() as client, browser_session(client, chrome_args=[NO_NAMES]):
            assert running() == 1

    run(main)
    assert running() == 0


# --- deadlines, ends and crashes under an agent ---------------------------------------------------------------------


def test_what_the_agent_does_moves_the_idle_deadline_and_a_paused_agent_does_not(site, caplog):
    clock = ManualClock()

    async def main():
        async with AsyncClient(clock=clock) as client, make(client, timeout_minutes=3) as session:
            with pytest.raises(SessionTimedOut) as told:
                async with browser_session(session, browser_profile=QUICK) as browser:

                    async def two_minutes_later():
                        clock.advance(2 * 60)
                        assert session.state == "active"
                        return go(site.url)

                    async def pause():
                        worker.pause()
                        return go(site.url)

                    async def at_rest(_):
                        if worker.state.paused:
                            paused.set()

                    worker, paused = agent(browser, *[two_minutes_later] * 3, pause, DONE), asyncio.Event()
                    running = asyncio.create_task(worker.run(on_step_end=at_rest))
                    await paused.wait()
                    clock.advance(2 * 60)
                    assert await browser.cookies() == []  # as browser-use asks each minute, all by itself
                    clock.advance(60)
                    assert (await session.wait_ended(PATIENCE)).close_reason == "idle_timeout"
                    worker.stop()
                    history = await running
                    assert not history.is_done()
            assert told.value.deadline == "idle_timeout"
            assert_transitions(session, "start", "expire")

    run(main)


async def end_under_an_agent(end, site, **options):
    """What is left of a session of which `end` makes an end in the middle of an action, and of the agent on it."""
    clock, tools = ManualClock(), Tools()
    async with AsyncClient(clock=clock) as client, make(client, timeout_minutes=3, **options) as session:

        @tools.action("End the session, and go on.")
        async def strike(browser_session):
            await end(clock, session)
            await session.wait_ended(PATIENCE)
            await browser_session.navigate_to(f"{site.url}/never")

        told = None
        try:
            async with browser_session(session, browser_profile=QUICK) as browser:
                steps = [go(site.url), [{"strike": {}}], *[go(f"{site.url}/never")] * 9, DONE]
                history = await agent(browser, *steps, tools=tools).run()
        except (SessionTimedOut, SessionFailed) as e:
            told = e
        assert not history.is_done()  # and at times not even an error is in it
        assert not browser.is_cdp_connected
        with pytest.raises(InvalidStatus) as redial:
            await CDPClient(browser.cdp_url).start()  # as browser-use dials
        answer = redial.value.response
        assert answer.status_code == 410
        return await session.status(), answer.body.decode(), told


def test_an_agent_gives_up_when_the_session_ends_under_it(site, caplog, running, run_folder):
    """It dials up to three times, is told 410 each time, and returns what it has; the end of the block says why."""

    async def time_out(clock, session):
        clock.advance(3 * 60)

    async def stop(clock, session):
        await session.stop()

    async def crash(clock, session):
        profile = f"--user-data-dir={run_folder}/crash"
        processes = [p for p in psutil.process_iter(["cmdline"]) if profile in (p.info["cmdline"] or ())]
        (browser,) = [p for p in processes if not any(arg.startswith("--type=") for arg in p.info["cmdline"])]
        browser.kill()

    async def main():
        return await asyncio.gather(
            end_under_an_agent(time_out, site),
            end_under_an_agent(stop, site),
            end_under_an_agent(crash, site, profile=run_folder / "crash"),
        )

    timed_out, stopped, crashed = run(main)
    for (status, answer, told), state, reason, error in (
        (timed_out, "timed_out", "idle_timeout", SessionTimedOut),
        (stopped, "closed", "manual", None),
        (crashed, "error", "crash", SessionFailed),
    ):
        assert (status.status, status.close_reason) == (state, reason)
        assert reason in answer
        assert told is None if error is None else (type(told), told.close_reason) == (error, reason)
    assert len(redials(caplog)) >= 3 and all("HTTP 410" in line for line in redials(caplog))
    assert "GET /never" not in site.requests
    assert running() == 0


# --- ways out of a run ----------------------------------------------------------------------------------------------


def test_an_agent_that_is_stopped_leaves_the_session_to_the_block(site, asked, caplog):
    async def main():
        async with AsyncClient() as client:
            async with make(client) as session, browser_session(session, browser_profile=QUICK) as browser:

                async def stop():
                    worker.stop()
                    return go(f"{site.url}/account")

                worker = agent(browser, go(site.url), stop, DONE)
                history = await worker.run()
                assert not history.is_done()
                assert session.state == "active"
            assert_transitions(session, "start", "stop")

    run(main)
    assert asked() == ["GET /"]
    assert not missed(caplog)


def test_a_cancelled_run_ends_the_session_and_the_cancellation_arrives(site, running, caplog):
    async def main():
        asked = asyncio.Event()
        session = None

        async def hang():
            asked.set()
            await asyncio.Event().wait()

        async def job(client):
            nonlocal session
            async with make(client) as session, browser_session(session, browser_profile=QUICK) as browser:
                await agent(browser, go(site.url), hang).run()

        async with AsyncClient() as client:
            task = asyncio.create_task(job(client))
            await asked.wait()
            assert running() == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_transitions(session, "start", "stop")
            assert running() == 0

    run(main)
    assert not missed(caplog)


def test_an_exception_in_a_hook_of_the_agent_arrives_unchanged(site, running, caplog):
    class Broken(Exception):
        pass

    async def break_it(_):
        raise Broken

    async def main():
        async with AsyncClient() as client:
            with pytest.raises(Broken):
                async with make(client) as session, browser_session(session, browser_profile=QUICK) as browser:
                    await agent(browser, go(site.url), DONE).run(on_step_end=break_it)
            assert_transitions(session, "start", "stop")
            assert running() == 0

    run(main)
    assert not missed(caplog)


def test_a_model_that_fails_ends_the_run_and_not_the_session(site):
    async def broken():
        raise ValueError("the model is broken")

    async def main():
        async with AsyncClient() as client:
            async with make(client) as session, browser_session(session, browser_profile=QUICK) as browser:
                worker = agent(browser, go(site.url), broken, max_failures=1, final_response_after_failure=False)
                history = await worker.run()
                assert "the model is broken" in history.errors()[-1]
                assert session.state == "active"
            assert_transitions(session, "start", "stop")

    run(main)


def test_a_browser_session_that_hangs_at_its_end_is_let_go_all_the_same(site, monkeypatch):
    monkeypatch.setattr(embed, "LETTING_GO", 0.2)

    async def on_BrowserStopEvent(event):  # noqa: N802 - browser-use goes by this name
        await asyncio.Event().wait()

    async def main():
        async with AsyncClient() as client, make(client) as session:
            async with browser_session(session, browser_profile=QUICK) as browser:
                await browser.start()
                browser.event_bus.on(BrowserStopEvent, on_BrowserStopEvent)
            assert not browser.is_cdp_connected
            assert session.state == "active"
            await browser.event_bus.stop(clear=True)

    run(main)


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
sys.path.insert(0, {here!r})
from scripted import NO_NAMES, QUICK, agent, go
from lifecycle import AsyncClient
from lifecycle.embed.browser_use import browser_session

async def think():
    print("thinking")
    await asyncio.Event().wait()

async def main():
    async with AsyncClient() as client, client.Session(chrome_args=[NO_NAMES]) as session:
        print(session.session_id)
        async with browser_session(session, browser_profile=QUICK) as browser:
            await agent(browser, go({url!r}), think, enable_signal_handler={handler}).run()

asyncio.run(main())
"""


class Program:
    """The program above, in a process of its own."""

    def __init__(self, site, *, handler):
        text = PROGRAM.format(here=str(HERE), url=site.url, handler=handler)
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.session_id = self.process.stdout.readline().strip()

    def wait_for(self, words):
        for line in self.process.stdout:
            if words in line:
                return
        raise AssertionError(f"it ended without {words!r}: {self.process.stderr.read()}")

    def interrupt(self):
        os.kill(self.process.pid, signal.SIGINT)

    def end(self):
        """How it ended, and what it wrote to stderr."""
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def test_ctrl_c_ends_the_session_where_browser_use_is_kept_from_handling_it(site, running):
    with Program(site, handler=False) as program:
        program.wait_for("thinking")
        assert running() == 1
        program.interrupt()
        code, err = program.end()
    assert code == -signal.SIGINT and "KeyboardInterrupt" in err
    assert "exited unexpectedly" not in err
    assert running() == 0
    with Client(reap_on_start=False) as client:
        status = client.sessions.get(program.session_id)
        assert (status.status, status.close_reason) == ("closed", "manual")


def test_with_the_handler_of_browser_use_a_second_ctrl_c_ends_the_process_alone(site, running):
    """The first one pauses the agent. The browser goes with its owner; the next look at the store ends the session."""
    with Program(site, handler=True) as program:
        program.wait_for("thinking")
        program.interrupt()
        program.wait_for("Paused the agent")
        assert running() == 1
        program.interrupt()
        assert program.end()[0] == 0
    with Client(reap_on_start=False) as client:
        (status,) = [s for s in client.sessions.reap() if s.session_id == program.session_id]
        assert (status.status, status.close_reason) == ("error", "owner_died")


# --- bad use --------------------------------------------------------------------------------------------------------


def refused(error, words, owner, **arguments):
    async def main():
        with pytest.raises(error, match=words):
            async with browser_session(owner(), **arguments):
                raise AssertionError("it was let in")

    run(main)


def test_only_an_async_client_or_session_is_taken(running):
    with Client(adapter="memory") as client:
        refused(UsageError, "AsyncClient", lambda: client)
        refused(UsageError, "AsyncSession", client.Session)
    refused(ConfigError, "owner='str' .* an AsyncClient", lambda: "ws://127.0.0.1/a-secret")
    assert running() == 0


def test_a_session_that_was_not_started_or_comes_with_options_is_refused():
    client = AsyncClient(adapter="memory")
    refused(UsageError, "start it first", client.Session)
    refused(UsageError, "timeout_minutes; leave them out", client.Session, timeout_minutes=5)
    refused(ConfigError, "timeout_minutes", lambda: client, timeout_minutes=-1)
    run(client.close)


def test_a_profile_that_says_how_to_start_a_browser_is_refused():
    client = AsyncClient(adapter="memory")
    for settings, words in (
        ({"args": ["--lang=de"], "user_agent": "x"}, r"\['args', 'user_agent'\].*chrome_args=, user_agent="),
        ({"cdp_url": "ws://127.0.0.1/"}, "leave them out"),
        ({"use_cloud": True}, "leave them out"),
        ({"keep_alive": False}, "keep_alive=False"),
    ):
        refused(ConfigError, words, lambda: client, browser_profile=BrowserProfile(**settings))
    refused(ConfigError, "browser_use.BrowserProfile", lambda: client, browser_profile={"headless": True})
    run(client.close)
