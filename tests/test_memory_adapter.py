"""The memory adapter: atomic opening, faults where they are scripted, cookies as in a browser, and no weight."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import tracemalloc
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from fake_host import FakeHost

from lifecycle import Client
from lifecycle.config import SessionOptions
from lifecycle.cookies import Cookie
from lifecycle.errors import BackendError, ConfigError, ConnectionLost, ReleaseFailed, StartFailed, UnsupportedOperation
from lifecycle.ports import Adapter, Backend, BackendEnd
from lifecycle.states import CloseReason, State
from lifecycle.testing import ManualClock
from lifecycle_adapters._faults import STEPS
from lifecycle_adapters.memory import Fault, MemoryAdapter

if TYPE_CHECKING:
    # Held by the type checker: the adapter is what the ports ask for.
    _adapter: Adapter = MemoryAdapter()
    _backend: Backend = asyncio.run(MemoryAdapter().open("", SessionOptions(), FakeHost()))

OPTIONS = SessionOptions()
CRASH = BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail="the browser crashed, as scripted")


def opened(adapter, session_id="s", host=None):
    return adapter.open(session_id, OPTIONS, host or FakeHost())


async def hangs(work):
    """Start `work` and return its task once it waits for something."""
    task = asyncio.ensure_future(work)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


# --- a session that goes well ---------------------------------------------------------------------------------------


def test_a_session_from_open_to_release():
    async def main():
        adapter, host = MemoryAdapter(), FakeHost()
        assert isinstance(adapter, Adapter)
        adapter.check(SessionOptions(headless=False, viewport_width=1, viewport_height=1, prefetch_page=True))
        backend = await opened(adapter, "s", host)
        assert isinstance(backend, Backend)
        assert (backend.session_id, backend.can_live_on) == ("s", False)
        assert (adapter.name, adapter.opened, adapter.live, adapter.released) == ("memory", ["s"], ["s"], [])
        adapter.use("s")
        assert host.uses == 1
        for _ in range(2):
            await backend.close_connections("stop")
        for _ in range(2):
            await backend.release()
        assert (adapter.opened, adapter.live, adapter.released) == (["s"], [], ["s"])
        assert host.ends == []  # an end that was asked for is not reported
        await adapter.aclose()

    asyncio.run(main())


def test_there_is_no_cdp_url():
    async def main():
        backend = await opened(MemoryAdapter())
        with pytest.raises(UnsupportedOperation) as e:
            await backend.cdp_url()
        assert (e.value.operation, e.value.adapter) == ("cdp_url", "memory")
        assert 'adapter="local"' in e.value.way_out

    asyncio.run(main())


def test_an_id_is_used_once_at_a_time():
    async def main():
        adapter = MemoryAdapter()
        await opened(adapter)
        with pytest.raises(StartFailed, match="'s' runs already"):
            await opened(adapter)
        assert adapter.opened == adapter.live == ["s"]

    asyncio.run(main())


@pytest.mark.parametrize("kind", [None, "hang"])
def test_open_that_is_cancelled_in_any_tick_releases_what_it_opened(kind):
    async def main():
        ticks = 0
        while True:
            faults = [Fault(step="open_backend", kind=kind)] if kind else []
            adapter, host = MemoryAdapter(faults=faults), FakeHost()
            task = asyncio.ensure_future(opened(adapter, "s", host))
            for _ in range(ticks):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if finished or ticks > 5:
                break
            assert task.cancelled()
            assert adapter.opened == adapter.released
            assert adapter.live == host.ends == []
            ticks += 1
        return ticks

    assert asyncio.run(main()) == (6 if kind else 2)


# --- scripted faults --------------------------------------------------------------------------------------------


async def at(step, adapter, host):
    """Do whatever `step` names, on session "s", which is opened first where the step needs it."""
    if step == "open_backend":
        return await opened(adapter, "s", host)
    backend = adapter.backend if hasattr(adapter, "backend") else None
    if backend is None:
        backend = adapter.backend = await opened(adapter, "s", host)
    calls = {
        "probe_backend": lambda: adapter.probe("s", host),
        "connect_backend": lambda: adapter.connect("s", OPTIONS, FakeHost()),
        "load_cookies": lambda: backend.set_cookies([Cookie(name="n", value="v", domain="example.com")]),
        "save_cookies": backend.get_cookies,
        "close_connections": lambda: backend.close_connections("stop"),
        "release_backend": backend.release,
    }
    return adapter.use("s") if step == "operate" else await calls[step]()


EXPECTED = {
    "open_backend": StartFailed,
    "probe_backend": BackendError,
    "connect_backend": StartFailed,
    "load_cookies": BackendError,
    "save_cookies": BackendError,
    "close_connections": BackendError,
    "release_backend": ReleaseFailed,
    "operate": BackendError,
}


def test_every_step_that_touches_a_backend_can_be_scripted():
    assert {str(step) for step in STEPS} == EXPECTED.keys()


@pytest.mark.parametrize("step", EXPECTED)
def test_fail_strikes_at_its_step_the_nth_time_only(step):
    async def main():
        adapter, host = MemoryAdapter(faults=[Fault(step=step, kind="fail", nth=2)]), FakeHost()
        await at(step, adapter, host)
        if step == "open_backend":  # the second time is another session's
            await (await adapter.connect("s", OPTIONS, host)).release()
        if step == "release_backend":
            del adapter.backend
        assert adapter.unused
        with pytest.raises(EXPECTED[step], match=f"{step} failed, as scripted") as e:
            await at(step, adapter, host)
        assert type(e.value) is EXPECTED[step]
        assert adapter.unused == []
        if step == "open_backend":
            assert (e.value.step, e.value.adapter) == ("open_backend", "memory")
            assert adapter.opened == adapter.released == ["s", "s"]
        if step == "release_backend":
            assert e.value.session_id == "s"
            assert adapter.live == ["s"]
        await at(step, adapter, host)
        assert host.ends == []

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["fail", "crash"])
@pytest.mark.parametrize("step", EXPECTED)
def test_an_error_of_ones_own_is_raised_as_it_is(step, kind):
    async def main():
        mine = OSError("mine")
        adapter = MemoryAdapter(faults=[Fault(step=step, kind=kind, error=mine)])
        if kind == "crash" and step in ("close_connections", "release_backend"):
            await at(step, adapter, FakeHost())
            return
        with pytest.raises(OSError, match="mine") as e:
            await at(step, adapter, FakeHost())
        assert e.value is mine

    asyncio.run(main())


@pytest.mark.parametrize("step", EXPECTED)
def test_crash_reports_the_end_and_loses_the_browser(step):
    async def main():
        adapter, host = MemoryAdapter(faults=[Fault(step=step, kind="crash")]), FakeHost()
        if step in ("close_connections", "release_backend"):
            await at(step, adapter, host)
        else:
            with pytest.raises(ConnectionLost):
                await at(step, adapter, host)
        assert host.ends == [CRASH]
        assert adapter.live == []
        if step == "open_backend":
            assert adapter.opened == adapter.released == ["s"]
            return
        backend = adapter.backend
        for call in (backend.get_cookies, lambda: backend.set_cookies([]), backend.clear_cookies):
            with pytest.raises(ConnectionLost, match="session s is gone: the browser crashed"):
                await call()
        if step != "release_backend":
            assert await adapter.probe("s", host) == CRASH
            with pytest.raises(ConnectionLost):
                adapter.use("s")
            with pytest.raises(StartFailed):
                await adapter.connect("s", OPTIONS, host)
        await backend.close_connections("stop")  # the end of a teardown goes well
        await backend.release()
        assert adapter.released == ["s"]
        assert await adapter.probe("s", host) == CRASH
        assert host.ends == [CRASH]  # told once

    asyncio.run(main())


@pytest.mark.parametrize("step", [step for step in EXPECTED if step != "operate"])
def test_hang_waits_until_it_is_cancelled(step):
    async def main():
        adapter, host = MemoryAdapter(faults=[Fault(step=step, kind="hang")]), FakeHost()
        task = await hangs(at(step, adapter, host))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert adapter._hanging == {}
        assert adapter.live == ([] if step == "open_backend" else ["s"])
        await at(step, adapter, host)

    asyncio.run(main())


@pytest.mark.parametrize("step", [step for step in EXPECTED if step != "operate"])
def test_hang_goes_on_when_it_is_released(step):
    async def main():
        adapter, host = MemoryAdapter(faults=[Fault(step=step, kind="hang")]), FakeHost()
        task = await hangs(at(step, adapter, host))
        thread = threading.Thread(target=adapter.release_hangs)
        thread.start()
        await asyncio.wait_for(task, 30)
        thread.join()
        assert host.ends == []
        assert adapter.released == (["s"] if step == "release_backend" else [])

    asyncio.run(main())


@pytest.mark.parametrize("step", ["open_backend", "connect_backend", "load_cookies", "save_cookies"])
def test_hang_ends_when_the_browser_is_gone(step):
    async def main():
        adapter, host = MemoryAdapter(faults=[Fault(step=step, kind="hang")]), FakeHost()
        task = await hangs(at(step, adapter, host))
        adapter.crash("s")
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(task, 30)

    asyncio.run(main())


@pytest.mark.parametrize("end", ["release_hangs", "crash", "release"])
def test_a_use_that_hangs_blocks_its_thread_until_then(end):
    adapter, host = MemoryAdapter(faults=[Fault(step="operate", kind="hang")]), FakeHost()
    backend = asyncio.run(opened(adapter, "s", host))
    results = []

    def use():
        try:
            adapter.use("s")
            results.append("used")
        except ConnectionLost as e:
            results.append(e)

    thread = threading.Thread(target=use)
    thread.start()
    while not adapter._hanging:
        time.sleep(0.001)
    assert results == []
    if end == "release_hangs":
        adapter.release_hangs()
    elif end == "crash":
        adapter.crash("s")
    else:
        asyncio.run(backend.release())
    thread.join(30)
    assert len(results) == 1
    assert isinstance(results[0], str if end == "release_hangs" else ConnectionLost)
    assert host.uses == (1 if end == "release_hangs" else 0)


def test_the_nth_time_is_counted_over_all_sessions():
    async def main():
        adapter = MemoryAdapter(faults=[Fault(step="save_cookies", kind="fail", nth=3)])
        backends = [await opened(adapter, f"s{n}") for n in range(3)]
        await backends[0].get_cookies()
        await backends[1].get_cookies()
        with pytest.raises(BackendError):
            await backends[2].get_cookies()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "option", "hint"),
    [
        ({"step": "open_bakend"}, "step", "did you mean 'open_backend'"),
        ({"step": "open_viewer"}, "step", "known:"),
        ({"kind": "crush"}, "kind", "did you mean 'crash'"),
        ({"nth": 0}, "nth", "from 1"),
        ({"nth": True}, "nth", "from 1"),
        ({"error": OSError}, "error", "an exception object"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused(fields, option, hint):
    with pytest.raises(ConfigError) as e:
        Fault(**{"step": "open_backend", "kind": "fail", **fields})
    assert e.value.option == option
    assert hint in e.value.allowed


def test_faults_that_collide_are_refused():
    fault = Fault(step="save_cookies", kind="fail")
    with pytest.raises(ConfigError):
        MemoryAdapter(faults=[fault, Fault(step="save_cookies", kind="hang")])
    with pytest.raises(ConfigError):
        MemoryAdapter(faults=["save_cookies"])


# --- ends and other attachments -----------------------------------------------------------------------------------


def test_a_session_ends_as_the_test_says():
    async def main():
        adapter, host = MemoryAdapter(), FakeHost()
        backend = await opened(adapter, "s", host)
        adapter.end("s", state=State.TIMED_OUT, reason=CloseReason.IDLE_TIMEOUT, detail="too long")
        end = BackendEnd(state=State.TIMED_OUT, reason=CloseReason.IDLE_TIMEOUT, detail="too long")
        adapter.crash("s")  # too late
        assert host.ends == [end]
        assert (adapter.live, adapter.released) == ([], [])
        with pytest.raises(ConnectionLost):
            await backend.get_cookies()
        await backend.release()
        assert adapter.opened == adapter.released
        assert await adapter.probe("s", host) == end

    asyncio.run(main())


def test_only_what_is_known_can_be_scripted():
    async def main():
        adapter = MemoryAdapter()
        for call in (adapter.crash, adapter.use):
            with pytest.raises(ConfigError, match="no session runs"):
                call("nobody")
        await opened(adapter, "session-1")
        with pytest.raises(ConfigError, match="did you mean 'session-1'"):
            adapter.crash("session-2")
        with pytest.raises(ConfigError) as e:
            adapter.end("session-1", state=State.ACTIVE, reason=CloseReason.BACKEND)
        assert e.value.option == "state"
        assert adapter.live == ["session-1"]

    asyncio.run(main())


def test_probe_and_connect_find_the_sessions_of_this_process():
    async def main():
        adapter, other = MemoryAdapter(), MemoryAdapter()
        owner_host, guest_host = FakeHost(), FakeHost()
        owner = await opened(adapter, "s", owner_host)
        for call in (lambda: other.probe("t", guest_host), lambda: other.connect("t", OPTIONS, guest_host)):
            with pytest.raises(ConfigError) as e:
                await call()
            assert (e.value.option, e.value.value) == ("session_id", "t")
        assert await other.probe("s", guest_host) is None
        guest = await other.connect("s", OPTIONS, guest_host)
        assert (guest.session_id, guest.can_live_on) == ("s", True)
        assert other.opened == []
        await owner.set_cookies([Cookie(name="n", value="v", domain="example.com")])
        assert [cookie.name for cookie in await guest.get_cookies()] == ["n"]
        adapter.use("s")
        assert (owner_host.uses, guest_host.uses) == (1, 1)
        await guest.close_connections("detach")
        adapter.use("s")
        assert (owner_host.uses, guest_host.uses) == (2, 1)
        assert adapter.live == ["s"]

        again = await other.connect("s", OPTIONS, guest_host)
        await again.release()  # a guest's stop is everybody's
        assert [end.state for end in owner_host.ends] == [State.CLOSED]
        assert guest_host.ends == []
        await owner.release()
        assert adapter.released == ["s"]
        ended = await adapter.probe("s", guest_host)
        assert ended is not None
        assert (ended.state, ended.reason) == (State.CLOSED, CloseReason.MANUAL)
        with pytest.raises(StartFailed):
            await adapter.connect("s", OPTIONS, guest_host)
        with pytest.raises(ConfigError):
            await other.probe("s", guest_host)

    asyncio.run(main())


def test_connect_that_is_cancelled_leaves_nobody_attached():
    async def main():
        adapter = MemoryAdapter(faults=[Fault(step="connect_backend", kind="hang")])
        owner_host, guest_host = FakeHost(), FakeHost()
        await opened(adapter, "s", owner_host)
        task = await hangs(adapter.connect("s", OPTIONS, guest_host))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        adapter.crash("s")
        assert (owner_host.ends, guest_host.ends) == ([CRASH], [])

    asyncio.run(main())


def test_sessions_may_live_on_without_their_opener():
    async def main():
        adapter = MemoryAdapter(can_live_on=True)
        assert "attach" in adapter.capabilities
        assert "attach" not in MemoryAdapter().capabilities
        backend = await opened(adapter)
        assert backend.can_live_on
        await backend.close_connections("detach")
        del backend
        gc.collect()
        assert adapter.live == ["s"]
        assert await adapter.probe("s", FakeHost()) is None
        await (await adapter.connect("s", OPTIONS, FakeHost())).release()
        assert adapter.live == []

    asyncio.run(main())


# --- cookies ----------------------------------------------------------------------------------------------------


def cookie(name="n", value="v", domain="example.com", **fields):
    return Cookie(name=name, value=value, domain=domain, **fields)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (cookie(domain=""), "domain"),
        (cookie(domain="."), "domain"),
        (cookie(path="x"), "path"),
        (cookie(path=""), "path"),
        (cookie("", ""), "neither"),
        (cookie("a=b"), "name"),
        (cookie("a;b"), "name"),
        (cookie("a\x01"), "name"),
        (cookie(value="a;b"), "value"),
        (cookie(value="a\nb"), "value"),
        (cookie(value=" a "), "spaces"),
        (cookie(value="x" * 4096), "4096 bytes"),
        (cookie(value="ü" * 2048), "4096 bytes"),
        (cookie(same_site="None"), "SameSite=None"),
        (cookie(partition_key="https://top.com"), "partitioned"),
        (cookie("__Secure-a"), "__Secure-"),
        (cookie("__Host-a"), "__Host-"),
        (cookie("__host-a"), "__Host-"),
        (cookie("__Host-a", secure=True, domain=".example.com"), "__Host-"),
        (cookie("__Host-a", secure=True, path="/x"), "__Host-"),
        (cookie(expires=1.0), "expired"),
        (cookie(expires=0), "expired"),
    ],
)
def test_one_bad_cookie_is_refused_and_keeps_no_other_out(bad, reason):
    async def main():
        backend = await opened(MemoryAdapter())
        good = [cookie("first"), cookie("last")]
        refused = await backend.set_cookies([good[0], bad, good[1]])
        assert [c for c, _ in refused] == [bad]
        assert reason in refused[0][1]
        assert await backend.get_cookies() == good

    asyncio.run(main())


def test_what_a_browser_takes_is_taken():
    async def main():
        backend = await opened(MemoryAdapter())
        good = [
            cookie(),
            cookie(domain=".example.com"),
            cookie(path="/x"),
            cookie("", "only a value"),
            cookie("only-a-name", ""),
            cookie(value="x" * 4095),
            cookie("b", same_site="None", secure=True),
            cookie("b", secure=True, partition_key="https://top.com"),
            cookie("b", secure=True, partition_key="https://top.com", partition_cross_site=True),
            cookie("__Host-a", secure=True),
            cookie("__Secure-a", secure=True, domain=".example.com"),
            cookie("u", "ü"),
        ]
        assert await backend.set_cookies(good) == []
        found = await backend.get_cookies()
        assert len(found) == len(good) - 1  # the first is replaced by the one with the long value
        assert found[-1] == good[-1]

    asyncio.run(main())


def test_a_cookie_is_replaced_by_its_key():
    async def main():
        backend = await opened(MemoryAdapter())
        other = cookie(domain=".example.com", value="other")
        await backend.set_cookies([cookie(value="old"), other, cookie(value="new")])
        assert {(c.domain, c.value) for c in await backend.get_cookies()} == {
            ("example.com", "new"), (".example.com", "other"),
        }  # fmt: skip
        await backend.set_cookies([cookie(expires=1.0)])  # an expired one takes the one before it along
        assert [c.domain for c in await backend.get_cookies()] == [".example.com"]
        await backend.clear_cookies()
        assert list(await backend.get_cookies()) == []

    asyncio.run(main())


def test_cookies_end_by_the_clock_of_the_host():
    async def main():
        clock = ManualClock()
        backend = await opened(MemoryAdapter(), host=FakeHost(clock=clock))
        now = clock.utcnow().timestamp()
        year = 365 * 86400
        soon, far = cookie("soon", expires=now + 60), cookie("far", expires=now + 9 * year)
        await backend.set_cookies([soon, cookie("session"), far])
        found = {c.name: c.expires for c in await backend.get_cookies()}
        assert found == {"soon": now + 60, "session": -1, "far": now + 400 * 86400}  # the longest a browser keeps
        clock.set_wall(clock.utcnow() + timedelta(seconds=59))
        assert len(await backend.get_cookies()) == 3
        clock.set_wall(clock.utcnow() + timedelta(seconds=1))
        assert [c.name for c in await backend.get_cookies()] == ["session", "far"]
        clock.set_wall(clock.utcnow() - timedelta(days=1))
        assert [c.name for c in await backend.get_cookies()] == ["session", "far"]  # gone is gone

    asyncio.run(main())


def test_a_site_sets_cookies_and_they_reach_the_file(tmp_path):
    adapter, clock, file = MemoryAdapter(), ManualClock(), tmp_path / "cookies.json"
    login = {"name": "login", "value": "anna", "domain": "shop.test", "path": "/"}
    with Client(adapter=adapter, store="memory:", clock=clock) as client:
        with client.Session(cookie_file=file, timeout_minutes=1) as session:
            clock.advance(40)
            adapter.visit(session.session_id, sets=[login])
            clock.advance(40)
            assert [c["name"] for c in session.get_cookies()] == ["login"]  # a visit is use: it has not timed out
            with pytest.raises(ConfigError, match="cookie odd"):
                adapter.visit(session.session_id, sets=[{"name": "odd", "value": "x"}])
            with pytest.raises(ConfigError, match="it has expired"):
                adapter.visit(session.session_id, sets=[{**login, "expires": 1}])
            adapter.visit(session.session_id, sets=[{**login, "value": "berta"}])
        with client.Session(cookie_file=file) as again:
            assert [c["value"] for c in again.get_cookies()] == ["berta"]
        with pytest.raises(ConfigError):
            adapter.visit("nobody", sets=[login])


def test_sessions_share_no_cookies():
    async def main():
        adapter = MemoryAdapter()
        one, two = await opened(adapter, "one"), await opened(adapter, "two")
        await one.set_cookies([cookie()])
        assert list(await two.get_cookies()) == []

    asyncio.run(main())


# --- weight -----------------------------------------------------------------------------------------------------


@pytest.mark.no_cover  # ten thousand times what other tests do once
def test_ten_thousand_sessions_are_light():
    async def main():
        adapter, host = MemoryAdapter(), FakeHost()
        threads, tasks = threading.active_count(), len(asyncio.all_tasks())
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            backends = [await opened(adapter, f"session-{n}", host) for n in range(10_000)]
            for backend in backends:
                assert await backend.get_cookies() == []
                await backend.set_cookies([])
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"{(after - before) / 10_000:.0f} bytes a session")
        assert len(adapter.live) == 10_000
        assert (after - before) / 10_000 < 1000
        assert (threading.active_count(), len(asyncio.all_tasks())) == (threads, tasks)
        assert not hasattr(backends[0], "__dict__")
        assert not hasattr(backends[0]._browser, "__dict__")
        for backend in backends:
            await backend.release()
        assert adapter.released == adapter.opened
        assert adapter.live == []

    asyncio.run(main())


def test_a_session_that_nobody_holds_is_freed():
    async def main():
        from lifecycle_adapters import memory

        adapter = MemoryAdapter()
        backend = await opened(adapter, "only-here")
        assert "only-here" in memory._running
        await backend.release()
        del backend
        gc.collect()
        assert "only-here" not in memory._running
        await opened(adapter, "dropped")
        del adapter
        gc.collect()
        assert "dropped" not in memory._running

    asyncio.run(main())
