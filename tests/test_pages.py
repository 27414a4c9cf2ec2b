"""Playwright pages on real sessions, in threads and loops: who shares a driver, and what is left when they end."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path

import children
import pytest

from lifecycle import AsyncClient, Client, ConnectionLost, SessionClosed, StartFailed, State, UsageError, driver_process
from lifecycle import page as page_module

BOUND = 60.0


def page_of(title: str) -> str:
    return f"data:text/html,<title>{title}</title>"


def drivers() -> list[int]:
    """Playwright drivers that this process runs."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            pids = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended meanwhile
        for pid in pids:
            try:
                command = Path("/proc", pid, "cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if b"run-driver" in command:
                found.append(int(pid))
    return found


@pytest.fixture
def client():
    with Client(store="memory:") as client:
        yield client


def test_two_sessions_with_pages_at_once_in_one_thread(client):
    with client.Session() as first:
        first.page.goto(page_of("first"))
        with client.Session() as second:
            second.page.goto(page_of("second"))
            assert (first.page.title(), second.page.title()) == ("first", "second")
            assert first.page is first.page
            assert len(drivers()) == 1
        assert first.page.title() == "first"  # the end of one leaves the driver to the other
        with pytest.raises(SessionClosed):
            second.page  # noqa: B018 - the property does the work
    assert len(drivers()) == 1  # the client's own block holds it for sessions to come
    with client.Session() as third:
        third.page.goto(page_of("third"))
        assert third.page.title() == "third"
        assert len(drivers()) == 1


def test_asyncio_run_works_right_after_the_block():
    client = Client(store="memory:")
    with client.Session() as session:
        session.page.goto(page_of("mine"))
        nothing = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="running event loop"):
            asyncio.run(nothing)  # Playwright's own loop runs in this thread: why this test is here
        nothing.close()
    assert drivers() == []
    assert asyncio.run(asyncio.sleep(0, "fine")) == "fine"
    client.close()


def test_asyncio_run_works_right_after_a_stop_and_a_crash():
    with Client(store="memory:") as client:
        stopped = client.Session().start()
        stopped.page.goto(page_of("mine"))
        stopped.stop()
    assert asyncio.run(asyncio.sleep(0, "fine")) == "fine"
    client = Client(store="memory:")
    session = client.Session().start()
    session.page.goto(page_of("mine"))
    client.close()
    assert session.state is State.CLOSED
    assert asyncio.run(asyncio.sleep(0, "fine")) == "fine"
    assert drivers() == []


def test_pages_in_many_threads():
    seen: queue.SimpleQueue[object] = queue.SimpleQueue()
    with Client(store="memory:") as client:

        def live(name: str) -> None:
            try:
                with client.Session() as session:
                    session.page.goto(page_of(name))
                    seen.put(session.page.title() == name)
                seen.put(asyncio.run(asyncio.sleep(0, True)))
            except BaseException as e:
                seen.put(e)

        threads = [threading.Thread(target=live, args=(f"thread {n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
    assert [seen.get_nowait() for _ in range(6)] == [True] * 6
    assert drivers() == []


def test_a_page_belongs_to_its_thread(client):
    with client.Session() as session:
        session.page.goto(page_of("mine"))
        errors: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def use() -> None:
            try:
                session.page.title()
            except BaseException as e:
                errors.put(e)
            else:
                errors.put(None)

        thread = threading.Thread(target=use, name="a foreign thread")
        thread.start()
        thread.join(BOUND)
        error = errors.get_nowait()
        assert isinstance(error, UsageError)
        assert "a foreign thread" in str(error) and "MainThread" in str(error)
        assert session.page.title() == "mine"


def test_a_session_with_a_page_is_stopped_from_another_thread():
    """The page can be closed in its own thread only; the driver goes when that thread comes by, or ends."""
    with Client(store="memory:") as client:
        session = client.Session().start()
        session.page.goto(page_of("mine"))
        thread = threading.Thread(target=session.stop)
        thread.start()
        thread.join(BOUND)
        assert session.state is State.CLOSED
        with pytest.raises(SessionClosed):
            session.page  # noqa: B018 - the property does the work
    assert drivers() == []
    assert asyncio.run(asyncio.sleep(0, "fine")) == "fine"


def test_a_sync_page_inside_a_running_loop_is_refused_and_nothing_else_is():
    with Client(store="memory:") as client:
        sessions = []

        async def main() -> None:
            with client.Session() as session:
                with pytest.raises(UsageError, match="AsyncClient"):
                    session.page  # noqa: B018 - the property does the work
                assert session.status().status is State.ACTIVE
                assert session.get_cookies() == []
            sessions.append(client.Session().start())
            with pytest.raises(UsageError, match="AsyncClient"):
                sessions[0].page  # noqa: B018 - the property does the work

        asyncio.run(main())
        sessions[0].page.goto(page_of("later"))  # outside of the loop it is a page like any other
        assert sessions[0].page.title() == "later"
    assert drivers() == []


def test_a_thread_that_ends_with_a_page_open_leaves_no_driver():
    """It can't be told any more, so it is warned of."""
    done = children.run(
        """
        import test_pages, warnings
        client = Client(store="memory:")
        kept = []
        def work():
            session = client.Session().start()
            session.page.goto(test_pages.page_of("mine"))
            kept.append(session)
            assert len(test_pages.drivers()) == 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            session = kept.pop()
            assert session.status().status == "active"  # the session is not the thread's
            session.stop()
            del session
            import gc
            gc.collect()
            client.close()
        until = time.monotonic() + 20
        while test_pages.drivers():
            assert time.monotonic() < until, test_pages.drivers()
            time.sleep(0.01)
        print([str(w.message) for w in caught])
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "a thread ended with Playwright pages open" in done.stdout


def test_async_pages_share_the_driver_of_their_loop():
    async def main() -> None:
        async with AsyncClient(store="memory:") as client:
            async with client.Session() as first, client.Session() as second:
                pages = await asyncio.gather(first.page(), second.page())
                await asyncio.gather(*(p.goto(page_of(t)) for p, t in zip(pages, ("first", "second"), strict=True)))
                assert [await p.title() for p in pages] == ["first", "second"]
                assert (await asyncio.gather(first.page(), first.page())) == [pages[0], pages[0]]
                assert len(drivers()) == 1
            assert drivers() == []

    asyncio.run(main())
    assert drivers() == []


@pytest.mark.parametrize("sync", [True, False])
def test_prefetch_starts_the_driver_while_the_browser_starts(sync):
    async def main() -> None:
        async with AsyncClient(store="memory:") as client, client.Session(prefetch_page=True) as session:
            assert len(drivers()) == 1
            page = await session.page()
            await page.goto(page_of("mine"))
            assert await page.title() == "mine"

    if sync:
        with Client(store="memory:") as client, client.Session(prefetch_page=True) as session:
            assert len(drivers()) == 1
            session.page.goto(page_of("mine"))
            assert session.page.title() == "mine"
    else:
        asyncio.run(main())
    assert drivers() == []


@pytest.mark.parametrize("sync", [True, False])
def test_a_prefetch_that_fails_is_a_start_that_failed(sync, monkeypatch):
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", "/bin/false")

    async def main() -> None:
        async with AsyncClient(store="memory:") as client:
            session = client.Session(prefetch_page=True)
            with pytest.raises(StartFailed, match="driver did not start, which prefetch_page=True asks for") as caught:
                await session.start()
            assert (caught.value.step, caught.value.adapter, session.state) == ("prefetch_page", "local", State.CLOSED)

    if sync:
        with Client(store="memory:") as client:
            session = client.Session(prefetch_page=True)
            with pytest.raises(StartFailed, match="driver did not start, which prefetch_page=True asks for") as caught:
                session.start()
            assert (caught.value.step, caught.value.adapter, session.state) == ("prefetch_page", "local", State.CLOSED)
    else:
        asyncio.run(main())
    assert drivers() == []


@pytest.mark.parametrize("way", ["sync", "async", "operation"])
def test_a_driver_that_never_answers_is_ended(way, tmp_path, monkeypatch):
    silent = tmp_path / "run-driver"
    silent.write_text("#!/bin/sh\nexec sleep 1000 # run-driver\n")
    silent.chmod(0o700)
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", str(silent))
    monkeypatch.setattr(driver_process, "START_PATIENCE", 0.5)

    async def main() -> None:
        async with AsyncClient(store="memory:") as client:
            with pytest.raises(StartFailed, match="Connection closed while reading from the driver"):
                await client.Session(prefetch_page=True).start()

    if way == "async":
        asyncio.run(main())
    else:
        with Client(store="memory:") as client:
            if way == "sync":
                with pytest.raises(StartFailed, match="Connection closed while reading from the driver"):
                    client.Session(prefetch_page=True).start()
            else:
                with client.Session() as session, pytest.raises(ConnectionLost, match="driver could not be started"):
                    session.observe()
    assert children.left_running("sleep 1000") == []


def test_playwright_is_not_imported_before_a_page_is_asked_for():
    done = children.run(
        """
        with Client(store="memory:") as client, client.Session() as session:
            session.cdp_url()
            session.get_cookies()
            assert "playwright" not in sys.modules
            session.page
            assert "playwright" in sys.modules
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_after_ctrl_c_in_a_connect_the_next_page_has_a_driver_of_its_own(monkeypatch):
    """Unless another page of the thread still needs it."""

    def struck(*args, **kwargs):
        raise KeyboardInterrupt

    with Client(adapter="local", store="memory:") as client, client.Session() as session:
        session.page.goto("about:blank")
        driver = page_module._local.driver
        kind, needed = type(driver.playwright.chromium), driver.playwright
        with client.Session() as another:
            with monkeypatch.context() as patch:
                patch.setattr(kind, "connect_over_cdp", struck)
                with pytest.raises(KeyboardInterrupt):
                    _ = another.page
            assert driver.playwright is needed, "the first session's page needs it"
            session.stop()
            with monkeypatch.context() as patch:
                patch.setattr(kind, "connect_over_cdp", struck)
                with pytest.raises(KeyboardInterrupt):
                    _ = another.page
            assert driver.playwright is None
            another.page.goto("about:blank")
            assert driver.playwright is not None
