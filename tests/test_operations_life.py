"""Operations and the life of a session: use, deadlines, endings, guests, other adapters, the driver's process."""

from __future__ import annotations

import inspect
import os
import queue
import threading
import time
from pathlib import Path

import children
import pytest
from both_ways import WAYS, eventually
from operations_site import furnish
from test_pages import drivers

from lifecycle import (
    ActionResult,
    AsyncSession,
    Client,
    ConfigError,
    ConnectionLost,
    InvalidTransition,
    OperationFailed,
    Scrape,
    Session,
    SessionClosed,
    SessionFailed,
    State,
    UnsupportedOperation,
)
from lifecycle.actions import Action, Observation, ObserveRequest
from lifecycle.testing import ManualClock
from lifecycle_adapters.local import LocalAdapter
from lifecycle_adapters.memory import Fault, MemoryAdapter

pytestmark = pytest.mark.slow


def in_thread(call):
    """What `call` returned or raised, from a thread of its own."""
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(call())
        except BaseException as e:
            answers.put(e)

    threading.Thread(target=run, name="site-caller").start()
    return answers


# --- scripted, without a browser --------------------------------------------------------------------------------


def scripted(request):
    clock = ManualClock()
    now = clock.utcnow()
    if isinstance(request, Action):
        if request.type == "reload":
            return None
        good = request.type != "click"
        return ActionResult(
            action=request, success=good, message="as scripted", error=None if good else "no", data={"a": 1},
            started_at=now, ended_at=now,
        )  # fmt: skip
    if isinstance(request, ObserveRequest):
        return Observation(url="http://site.test/", title="T", description="", started_at=now, ended_at=now)
    return Scrape(markdown=f"# {request.selector}")


def test_scripted_operations(way):
    client = way.client(adapter=MemoryAdapter(results=scripted))
    with client.Session() as session:
        result = session.execute(type="goto", url="http://site.test/")
        assert (result.success, result.data, result.action.fields["url"]) == (True, {"a": 1}, "http://site.test/")
        assert session.execute({"type": "go_back"}).action.type == "go_back"
        assert session.observe().title == "T"
        assert session.scrape(selector="#a").markdown == "# #a"
        with pytest.raises(OperationFailed) as e:
            session.execute(type="click", id="B1")
        assert (e.value.action, e.value.reason) == ("click", "no")
        assert session.execute(type="click", id="B1", raise_on_failure=False).error == "no"
        with pytest.raises(UnsupportedOperation, match="results="):
            session.execute(type="reload")
        with pytest.raises(ConfigError):
            session.execute(type="clik")
        assert session.state is State.ACTIVE
    for ask in (lambda: session.execute(type="go_back"), session.observe, session.scrape):
        with pytest.raises(SessionClosed):
            ask()


def test_a_guest_asks_the_owner(way):
    client = way.client(adapter=MemoryAdapter(results=scripted))
    with client.Session() as owner, client.Session(owner.session_id, on_exit="detach") as guest:
        assert guest.execute(type="goto", url="http://site.test/").data == {"a": 1}
        assert guest.observe().url == "http://site.test/"
        assert str(guest.scrape(selector="#a", scrape_links=False)) == "# #a"
        with pytest.raises(OperationFailed):
            guest.execute(type="click", id="B1")
        with pytest.raises(UnsupportedOperation) as e:
            guest.execute(type="reload")
        assert e.value.operation == "reload"


def test_an_adapter_without_pages_names_one_that_has(way):
    client = way.client(adapter=MemoryAdapter())
    with client.Session() as session:
        for ask in (lambda: session.execute(type="go_back"), session.observe, session.scrape):
            with pytest.raises(UnsupportedOperation, match='adapter="local"'):
                ask()
    unstarted = client.Session()
    with pytest.raises(InvalidTransition):
        unstarted.observe()


def test_faults_strike_operations_too():
    adapter = MemoryAdapter(faults=[Fault(step="operate", kind="crash", nth=2)], results=scripted)
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session().start()
        session.execute(type="go_back")
        with pytest.raises(SessionFailed):
            session.execute(type="go_back")
        assert session.state is State.ERROR
        assert adapter.unused == []


def test_an_operation_in_flight_holds_the_idle_deadline_and_its_budget_ends_it():
    clock = ManualClock()
    adapter = MemoryAdapter(faults=[Fault(step="operate", kind="hang"), Fault(step="operate", kind="hang", nth=2)],
                            results=scripted)  # fmt: skip
    with Client(adapter=adapter, store="memory:", clock=clock) as client:
        session = client.Session(timeout_minutes=1, max_duration_minutes=60).start()
        answers = in_thread(lambda: session.execute(type="wait", time_ms=30_000))
        eventually(lambda: session._att.busy)
        clock.advance(85)  # past the idle timeout, and past what other operations get
        adapter.release_hangs()
        answer = answers.get(timeout=20)
        assert isinstance(answer, ActionResult)
        assert answer.success
        assert session.state is State.ACTIVE
        answers = in_thread(lambda: session.execute(type="wait", time_ms=30_000))
        eventually(lambda: session._att.busy)
        clock.advance(91)
        answer = answers.get(timeout=20)
        assert isinstance(answer, ConnectionLost)
        assert "90 seconds" in str(answer)
        session.stop()


def test_the_handles_have_the_same_operations():
    for name in ("execute", "observe", "scrape"):
        one, other = inspect.signature(getattr(Session, name)), inspect.signature(getattr(AsyncSession, name))
        assert one.parameters == other.parameters
        assert one.return_annotation == other.return_annotation


# --- on a browser -----------------------------------------------------------------------------------------------


def test_both_ways_on_a_page(way, site):
    furnish(site)
    client = way.client(adapter=LocalAdapter())
    with client.Session() as session:
        session.execute(type="goto", url=f"{site.url}/one")
        session.execute(type="click", id=session.observe().elements[0].id)
        assert session.scrape().markdown == "# Two\n"
        with client.Session(session.session_id, on_exit="detach") as guest:
            assert guest.observe().title == "Two"
            guest.execute(type="go_back")
            assert guest.observe().screenshot.startswith(b"\x89PNG")
        assert session.observe().title == "One"
    eventually(lambda: drivers() == [])


def test_one_driver_for_all_sessions_and_none_after_the_last(site):
    furnish(site)
    with Client(store="memory:") as client:
        first = client.Session().start()
        assert drivers() == []
        first.observe()
        second = client.Session().start()
        second.execute(type="goto", url=f"{site.url}/two")
        assert len(drivers()) == 1
        first.stop()
        assert second.observe().title == "Two"
        assert len(drivers()) == 1
        second.stop()
        eventually(lambda: drivers() == [])
        with client.Session() as third:  # and it can start again
            third.observe()
        eventually(lambda: drivers() == [])


def test_a_stop_ends_an_operation_in_flight(site):
    furnish(site)
    with Client(store="memory:") as client:
        session = client.Session().start()
        session.observe()
        answers = in_thread(lambda: session.execute(type="wait", time_ms=30_000))
        eventually(session._att.operator._turn.locked)
        waiting = in_thread(lambda: session.execute(type="click", selector="#nowhere", timeout=30_000))
        eventually(lambda: session._att.busy == 2)
        began = time.monotonic()
        session.stop()
        for each in (answers, waiting):
            assert isinstance(each.get(timeout=20), SessionClosed)
        assert time.monotonic() - began < 10
        assert session.state is State.CLOSED
        assert [r.error for r in session.history() if r.error] == []


def test_a_crash_ends_an_operation_in_flight(site):
    furnish(site)
    with Client(store="memory:") as client:
        session = client.Session().start()
        session.observe()
        answers = in_thread(lambda: session.execute(type="click", selector="#nowhere", timeout=30_000))
        eventually(session._att.operator._turn.locked)
        os.kill(session._att.backend.pid, 9)
        assert isinstance(answers.get(timeout=20), SessionFailed)
        assert session.state is State.ERROR
    eventually(lambda: drivers() == [])


def test_a_stop_while_the_first_operation_connects(site):
    for _ in range(2):
        with Client(store="memory:") as client:
            session = client.Session().start()
            answers = in_thread(session.observe)
            eventually(lambda: session._att.busy)  # noqa: B023 - looked at in the same round
            session.stop()
            assert isinstance(answers.get(timeout=20), (SessionClosed, Observation))
    eventually(lambda: drivers() == [])


def test_a_caller_that_leaves_keeps_nobody_else_waiting(site):
    """Given up by its caller, an operation goes on to its own end; the next one comes after it."""
    furnish(site)
    way = WAYS["async"]()
    client = way.client(adapter=LocalAdapter())
    with client.Session() as session:
        session.observe()

        async def give_up() -> None:
            import asyncio

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await way.raw(session).execute(type="click", selector="#nowhere", timeout=700)

        way.run(give_up)
        assert session.execute(type="goto", url=f"{site.url}/two").success
    way.finish()


def test_an_own_connection_that_broke_is_made_anew(site):
    furnish(site)
    with Client(store="memory:") as client, client.Session() as session:
        session.execute(type="goto", url=f"{site.url}/two")
        hub = session._att.backend.endpoint._hub
        for own in [c for c in hub._clients if c.own]:
            hub._loop.call_soon_threadsafe(own.link.abort)
        eventually(lambda: not session._att.operator._tabs.connected)
        assert session.observe().title == "Two"


# --- the end of a process ---------------------------------------------------------------------------------------


def test_at_exit_the_driver_is_gone_and_nothing_is_said():
    done = children.run(
        """
        client = Client(store="memory:")
        session = client.Session().start()
        session.execute(type="goto", url="about:blank")
        print(os.getpid(), flush=True)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    me = done.stdout.strip()
    eventually(lambda: not [p for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) == me])


def _parent(path: Path) -> str:
    try:
        return path.read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


def test_a_fork_touches_nothing_of_it():
    done = children.run(
        """
        client = Client(store="memory:")
        with client.Session() as session:
            session.observe()
            pid = os.fork()
            if pid == 0:
                try:
                    session.observe()
                except UsageError as e:
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            print(session.observe().url)
        client.close()
        """,
        forks=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "about:blank"


def test_importing_the_library_loads_no_browser_driver():
    done = children.run(
        """
        heavy = {"playwright", "markdownify", "lifecycle.operator"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    assert done.returncode == 0, done.stderr
