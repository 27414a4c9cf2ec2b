"""The user's own hooks: when they run, in which order, in whose thread, and that none of them harms a session."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time

import pytest
from both_ways import PATIENCE, FailingStore, eventually

from lifecycle import (
    AsyncClient,
    Client,
    ConfigError,
    Event,
    HookError,
    InvalidTransition,
    RecordKind,
    ReleaseFailed,
    SessionClosed,
    StartFailed,
    State,
    StepOutcome,
    StoreError,
    Transition,
    UsageError,
)
from lifecycle.callers import SyncCaller
from lifecycle.states import CloseReason
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import Fault, MemoryAdapter


def hook_results(records):
    return {s.step: s for r in records for s in r.steps if s.step.startswith(("before:", "after:"))}


FAILS = [Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)]


# --- on every edge ------------------------------------------------------------------------------------------------


def start(adapter, client, clock):
    return client.Session(timeout_minutes=1).start()


def attach(adapter, client, clock):
    return client.Session(start(adapter, client, clock).session_id).start()


def stop(adapter, client, clock):
    session = start(adapter, client, clock)
    session.stop()
    return session


def detach(adapter, client, clock):
    session = attach(adapter, client, clock)
    session.detach()
    return session


def expire(adapter, client, clock):
    session = start(adapter, client, clock)
    clock.advance(61)
    session.wait_ended(timeout=PATIENCE)
    return session


def fail(adapter, client, clock):
    session = start(adapter, client, clock)
    adapter.crash(session.session_id)
    session.wait_ended(timeout=PATIENCE)
    return session


EDGES = {
    "start": (start, State.NOT_STARTED, State.ACTIVE, "caller", None),
    "attach": (attach, State.NOT_STARTED, State.ACTIVE, "caller", None),
    "stop": (stop, State.ACTIVE, State.CLOSED, "caller", CloseReason.MANUAL),
    "detach": (detach, State.ACTIVE, State.CLOSED, "caller", CloseReason.DETACHED),
    "expire": (expire, State.ACTIVE, State.TIMED_OUT, "deadline", CloseReason.IDLE_TIMEOUT),
    "fail": (fail, State.ACTIVE, State.ERROR, "backend", CloseReason.CRASH),
}


@pytest.mark.parametrize("event", EDGES)
def test_hooks_run_before_and_after_each_edge(way, event):
    act, source, dest, cause, reason = EDGES[event]
    adapter, clock = MemoryAdapter(), ManualClock()
    client = way.client(adapter=adapter, clock=clock)
    told = []

    def before(session, transition):
        told.append(("before", session.state, transition))

    def after(session, transition):
        told.append(("after", session.state, transition))

    client.hook(before=event)(way.hook(before))
    client.hook(after=event)(way.hook(after))
    session = act(adapter, client, clock)
    assert [(when, state) for when, state, _ in told] == [("before", source), ("after", dest)]
    for _, _, transition in told:
        assert isinstance(transition, Transition)
        assert (transition.event, transition.source, transition.dest) == (Event(event), source, dest)
        assert (transition.cause, transition.close_reason) == (cause, reason)
        assert (transition.error is not None) == (event == "fail")
    assert session.state is dest


@pytest.mark.parametrize("waits", ["wait_ended", "close"])
def test_who_comes_after_the_commit_waits_for_the_hooks_too(way, waits):
    """Seen: `wait_ended` came back, or the store was closed, with a hook of the end still running."""
    adapter, store = MemoryAdapter(), MemoryStore()
    client = way.client(adapter=adapter, store=store)
    running, go_on = threading.Event(), threading.Event()

    def after(_):
        running.set()
        assert go_on.wait(PATIENCE)

    client.hook(after="fail")(way.hook(after))
    session = client.Session().start()
    adapter.crash(session.session_id)
    assert running.wait(PATIENCE)
    assert session.state is State.ERROR
    waited = threading.Event()

    def wait():
        session.wait_ended() if waits == "wait_ended" else client.close()
        waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not waited.wait(0.1)
    go_on.set()
    thread.join(PATIENCE)
    assert waited.is_set()
    assert any(name.startswith("after:") for name in hook_results(record for _, record in store.records()))


@pytest.mark.parametrize("event", EDGES)
def test_hooks_of_one_event_hear_nothing_of_the_others(way, event):
    for name, (act, *_) in EDGES.items():
        adapter, clock = MemoryAdapter(), ManualClock()
        client = way.client(adapter=adapter, clock=clock)
        told = []

        def hook(session, transition, told=told):
            told.append(transition.event)

        client.hook(before=event, after=event)(way.hook(hook))
        act(adapter, client, clock)
        taken = {name, "start"} | ({"attach"} if name == "detach" else set())
        assert set(told) == ({Event(event)} if event in taken else set())


def test_an_early_stop_runs_its_hooks(way):
    told = []
    session = way.client().Session()

    def hook(session, transition):
        told.append((transition.source, transition.dest))

    session.hook(before="stop", after="stop")(way.hook(hook))
    session.stop()
    assert told == [(State.NOT_STARTED, State.CLOSED)] * 2


def test_a_failed_start_runs_the_hooks_of_fail(way):
    told = []
    session = way.client(adapter=MemoryAdapter(faults=[Fault(step="open_backend", kind="fail")])).Session()

    def hook(session, transition):
        told.append((transition.event, transition.source, transition.dest, type(transition.error), transition.cause))

    session.hook(before=["fail", "stop"], after=["fail", "start"])(way.hook(hook))
    with pytest.raises(StartFailed):
        session.start()
    assert told == [(Event.FAIL, State.NOT_STARTED, State.ERROR, StartFailed, "step")] * 2


# --- order --------------------------------------------------------------------------------------------------------


def test_hooks_run_in_order_the_clients_first(way):
    told = []
    client = way.client()
    session = client.Session()

    def add(word):
        def hook(session):
            told.append(word)

        return way.hook(hook)

    session.hook(before="stop")(add("session one"))
    client.hook(before="stop")(add("client one"))
    session.hook(before="stop", after="stop")(add("session two"))
    client.hook(before="stop")(add("client two"))
    session.start()
    session.stop()
    assert told == ["client one", "client two", "session one", "session two", "session two"]
    assert [s.step.partition(":")[0] for s in session.history()[-2].steps] == [
        *["before"] * 4, "save_cookies", "close_connections", "release_backend"
    ]  # fmt: skip


def test_before_comes_ahead_of_the_steps_and_after_behind_the_commit(way):
    adapter, store = MemoryAdapter(), MemoryStore()
    session = way.client(adapter=adapter, store=store).Session()
    seen = []

    def look(session, transition):
        seen.append((len(adapter.opened), len(adapter.released), len(store.records()), session.state))

    session.hook(before=["start", "stop"], after=["start", "stop"])(way.hook(look))
    session.start()
    session.stop()
    assert seen == [
        (0, 0, 1, State.NOT_STARTED),  # the intent is durable, nothing is open
        (1, 0, 2, State.ACTIVE),  # so is the commit
        (1, 0, 4, State.ACTIVE),  # with what the hooks after the start did
        (1, 1, 5, State.CLOSED),
    ]


def test_one_function_on_several_events(way):
    told = []
    client = way.client()

    def hook(session, transition):
        told.append(transition.event)

    decorated = client.hook(before=("start", "stop"), after=["start"])(way.hook(hook))
    assert callable(decorated)
    with client.Session():
        pass
    assert told == ["start", "start", "stop"]


def test_a_hook_may_be_registered_while_the_session_runs(way):
    told = []
    with way.client().Session() as session:

        @session.hook(before="stop")
        @way.hook
        def late(session):
            told.append(session.state)

    assert told == [State.ACTIVE]


# --- in whose thread ----------------------------------------------------------------------------------------------

REQUEST = contextvars.ContextVar("request")


def test_hooks_run_in_the_thread_of_the_caller():
    where = []
    with Client(adapter=MemoryAdapter(), store="memory:") as client:

        @client.hook(before=["start", "stop"], after=["start", "stop"])
        def hook(session):
            where.append((threading.current_thread(), REQUEST.get(None)))

        REQUEST.set("mine")
        with client.Session():
            pass
        assert where == [(threading.main_thread(), "mine")] * 4


@pytest.mark.parametrize("coroutine", [True, False])
def test_hooks_run_on_the_loop_of_the_caller(coroutine):
    where = []

    async def main():
        async with AsyncClient(adapter=MemoryAdapter(), store="memory:") as client:

            def plain(session):
                where.append((asyncio.get_running_loop(), REQUEST.get(None)))

            async def waits(session):
                await asyncio.sleep(0)
                plain(session)

            client.hook(before=["start", "stop"], after=["start", "stop"])(waits if coroutine else plain)
            REQUEST.set("mine")
            async with client.Session() as session:
                pass
            assert where == [(asyncio.get_running_loop(), "mine")] * 4
            assert {r.thread for r in await session.history()} == {asyncio.current_task().get_name()}

    asyncio.run(main())


@pytest.mark.parametrize("event", ["expire", "fail"])
def test_hooks_without_a_caller_run_on_a_worker(way, event):
    where = []
    adapter, clock = MemoryAdapter(), ManualClock()
    client = way.client(adapter=adapter, clock=clock)

    def hook(session):
        where.append((threading.current_thread().name, REQUEST.get(None)))

    client.hook(before=event, after=event)(way.hook(hook))
    token = REQUEST.set("mine")
    EDGES[event][0](adapter, client, clock)
    REQUEST.reset(token)
    eventually(lambda: len(where) == 2)
    assert [name for name, _ in where] == [name for name, _ in where if name.startswith("lifecycle-supervisor-hook")]
    assert {request for _, request in where} == {"mine"}, "the context of the session's caller"


def test_sessions_stop_by_id_has_no_caller_for_hooks(way):
    where = []
    client = way.client()
    session = client.Session()

    def hook(session):
        where.append(threading.current_thread())

    session.hook(before="stop")(way.hook(hook))
    session.start()
    client.sessions.stop(session.session_id)
    assert where[0].name.startswith("lifecycle-supervisor-hook")


def test_the_first_callers_thread_when_several_stop_at_once():
    where = []
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        session = client.Session().start()
        inside, go_on = threading.Event(), threading.Event()

        @session.hook(before="stop")
        def hook(session):
            where.append(threading.current_thread().name)
            inside.set()
            assert go_on.wait(PATIENCE)

        threads = [threading.Thread(target=session.stop, name="first")]
        threads[0].start()
        assert inside.wait(PATIENCE)
        threads += [threading.Thread(target=session.stop, name=f"late-{n}") for n in range(5)]
        for thread in threads[1:]:
            thread.start()
        eventually(lambda: [r.kind for r in session.history()].count(RecordKind.JOINED) == 5)
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert where == ["first"]
        assert session.state is State.CLOSED


# --- needs_page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["expire", "fail"])
def test_a_hook_that_needs_a_page_is_skipped_without_a_caller_and_recorded(way, event):
    told = []
    adapter, clock = MemoryAdapter(), ManualClock()
    client = way.client(adapter=adapter, clock=clock)

    def with_page(session):
        told.append("with page")

    def without(session):
        told.append("without")

    client.hook(before=event, needs_page=True)(way.hook(with_page))
    client.hook(before=event)(way.hook(without))
    session = EDGES[event][0](adapter, client, clock)
    assert told == ["without"]
    results = [s for s in session.history()[-1].steps if s.step.startswith("before:")]
    assert [s.outcome for s in results] == [StepOutcome.SKIPPED, StepOutcome.DONE]
    assert results[0].note == "no caller whose page it could use"


def test_a_hook_that_needs_a_page_runs_where_there_is_a_caller(way):
    told = []
    client = way.client()

    def hook(session, transition):
        told.append(transition.event)

    client.hook(before=["stop"], after=["start"], needs_page=True)(way.hook(hook))
    with client.Session():
        pass
    assert told == [Event.START, Event.STOP]


@pytest.mark.parametrize(
    ("when", "event"), [("before", "start"), ("before", "attach"), ("after", "stop"), ("after", "fail")]
)
def test_a_hook_cant_need_a_page_where_there_is_none(way, when, event):
    def hook(session):
        raise AssertionError

    with pytest.raises(UsageError, match="needs a page"):
        way.client().hook(needs_page=True, **{when: event})(way.hook(hook))


# --- errors -------------------------------------------------------------------------------------------------------


class Oops(Exception):
    pass


def oops(session):
    raise Oops("in the hook")


def test_a_before_start_hook_that_fails_means_no_browser(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session()
    session.hook(before="start")(way.hook(oops))
    with pytest.raises(HookError) as caught:
        session.start()
    assert isinstance(caught.value.__cause__, Oops)
    assert caught.value.edge == "start: not_started -> active"
    assert "in the hook" in caught.value.reason
    assert adapter.opened == []
    assert session.state is State.ERROR
    assert [r.kind for r in session.history()] == [
        RecordKind.INTENT, RecordKind.DIVERTED, RecordKind.INTENT, RecordKind.COMMIT
    ]  # fmt: skip


def test_an_after_start_hook_that_fails_closes_what_was_opened(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session()
    session.hook(after="start")(way.hook(oops))
    with pytest.raises(HookError) as caught:
        session.start()
    assert isinstance(caught.value.__cause__, Oops)
    assert (adapter.opened, adapter.released) == ([session.session_id], [session.session_id])
    assert session.state is State.ERROR
    assert "HookError" in session.status().error


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failing_hook_never_aborts_a_teardown(way, when):
    adapter = MemoryAdapter()
    ran = []
    session = way.client(adapter=adapter).Session().start()

    def second(session):
        ran.append("second")

    session.hook(**{when: "stop"})(way.hook(oops))
    session.hook(**{when: "stop"})(way.hook(second))
    with pytest.raises(HookError) as caught:
        session.stop()
    assert isinstance(caught.value.__cause__, Oops)
    assert caught.value.edge == "stop: active -> closed"
    assert caught.value.hook
    assert ran == ["second"], "the other hooks run all the same"
    assert adapter.released == [session.session_id]
    assert session.state is State.CLOSED
    session.stop()  # told once


def test_several_hook_errors_are_one_error_and_notes(way):
    session = way.client().Session().start()
    for _ in range(3):
        session.hook(before="stop")(way.hook(oops))
    with pytest.raises(HookError) as caught:
        session.stop()
    assert len(caught.value.__notes__) == 2


def test_a_failed_release_weighs_more_than_a_hook(way):
    session = way.client(adapter=MemoryAdapter(faults=FAILS)).Session().start()
    session.hook(before="stop")(way.hook(oops))
    with pytest.raises(ReleaseFailed) as caught:
        session.stop()
    assert any("HookError" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("event", ["before_start", "after_start", "before_stop", "after_stop"])
def test_on_error_log_only_records(way, event):
    when, name = event.split("_")
    client = way.client()
    client.hook(**{when: name}, on_error="log")(way.hook(oops))
    with client.Session() as session:
        assert session.state is State.ACTIVE
    assert session.state is State.CLOSED
    failed = [s for r in session.history() for s in r.steps if s.outcome is StepOutcome.FAILED]
    assert [s.error for s in failed] == ["Oops"]


@pytest.mark.parametrize("event", ["start", "stop"])
def test_after_hooks_are_recorded(way, event):
    """What ran behind a commit can't be in it, and must not be lost for that."""
    client = way.client()
    client.hook(after=event, on_error="log")(way.hook(oops))
    with client.Session() as session:
        pass
    failed = [s for r in session.history() for s in r.steps if s.step.startswith("after:")]
    assert [(s.outcome, s.error) for s in failed] == [(StepOutcome.FAILED, "Oops")]


def test_a_hook_error_in_a_good_body_is_raised_and_in_a_bad_one_a_note(way):
    client = way.client()
    client.hook(before="stop")(way.hook(oops))
    with pytest.raises(HookError), client.Session():
        pass
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, client.Session():
        raise mine
    assert caught.value is mine
    assert mine.__context__ is None
    assert [note for note in mine.__notes__ if "HookError" in note]


def test_hook_errors_of_an_expiry_are_told_at_the_end_of_the_block(way):
    clock = ManualClock()
    client = way.client(clock=clock)
    client.hook(before="expire")(way.hook(oops))
    with pytest.raises(HookError), client.Session(timeout_minutes=1) as session:
        clock.advance(61)
        session.wait_ended(timeout=PATIENCE)


STRANGE = {
    "StopIteration": lambda: next(iter(())),
    "StopAsyncIteration": lambda: (_ for _ in ()).throw(StopAsyncIteration),
    "CancelledError": lambda: (_ for _ in ()).throw(asyncio.CancelledError("not yours")),
    "TimeoutError": lambda: (_ for _ in ()).throw(TimeoutError),
    "GeneratorExit": lambda: _throw(GeneratorExit()),
    "AssertionError": lambda: _throw(AssertionError()),
}


def _throw(error):
    raise error


@pytest.mark.parametrize("event", ["before_start", "before_stop", "after_stop", "before_expire"])
@pytest.mark.parametrize("strange", STRANGE)
def test_no_kind_of_error_in_a_hook_keeps_a_session_from_its_end(way, strange, event):
    adapter, clock = MemoryAdapter(), ManualClock()
    when, name = event.split("_")
    session = way.client(adapter=adapter, clock=clock).Session(timeout_minutes=1)

    def hook(session):
        STRANGE[strange]()

    session.hook(**{when: name})(way.hook(hook))
    began = time.monotonic()
    try:
        session.start()
        if name == "expire":
            clock.advance(61)
            session.wait_ended(timeout=PATIENCE)
        session.stop()
    except BaseException as e:
        told = e
    else:
        told = None
    assert (told is not None) or name == "expire"
    assert isinstance(told, (HookError, asyncio.CancelledError, GeneratorExit, type(None)))
    assert session.state.terminal
    assert adapter.opened == adapter.released
    assert adapter.opened == ([] if event == "before_start" else [session.session_id])
    assert time.monotonic() - began < 5, "nothing waits for a budget"
    session.wait_ended(timeout=PATIENCE)
    assert sum(r.terminal for r in session.history()) == 1
    if name != "start":
        assert session.state is (State.TIMED_OUT if name == "expire" else State.CLOSED)


# --- budget -------------------------------------------------------------------------------------------------------


def test_a_hook_that_outlasts_its_budget_is_left_behind(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session()
    go_on = threading.Event()
    if way.is_async:

        async def slow(session):
            await asyncio.sleep(60)

    else:

        def slow(session):
            eventually(lambda: adapter.released)  # the edge goes on without this hook
            go_on.set()

    session.hook(before="stop", budget=0.05)(slow)
    session.start()
    with pytest.raises(HookError) as caught:
        session.stop()
    assert "longer than its budget of 0.05 seconds" in caught.value.reason
    assert session.state is State.CLOSED
    [result] = hook_results(session.history()).values()
    assert (result.outcome, result.error) == (StepOutcome.TIMED_OUT, "StepTimeout")
    assert way.is_async or go_on.is_set()


def test_a_late_hook_does_not_end_the_one_after_it(monkeypatch):
    adapter = MemoryAdapter()
    told, asked = [], []
    second_asked = threading.Event()

    def begin_hook(caller, turn):
        asked.append(turn)
        if len(asked) == 2:
            second_asked.set()
        original(caller, turn)

    original = SyncCaller._begin_hook
    monkeypatch.setattr(SyncCaller, "_begin_hook", begin_hook)
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session().start()

        @session.hook(before="stop", budget=0.05, on_error="log")
        def first(session):
            assert second_asked.wait(PATIENCE)  # the edge has gone on to the second hook meanwhile
            told.append(("first", len(adapter.released)))

        @session.hook(before="stop", budget=PATIENCE)
        def second(session):
            told.append(("second", len(adapter.released)))

        session.stop()
        assert told == [("first", 0), ("second", 0)]
        by_name = {name.rpartition(".")[2]: s for name, s in hook_results(session.history()).items()}
        assert by_name["first"].outcome is StepOutcome.TIMED_OUT
        assert by_name["second"].outcome is StepOutcome.DONE


def test_an_async_hook_past_its_budget_is_cancelled():
    ended = []

    async def main():
        async with AsyncClient(adapter=MemoryAdapter(), store="memory:") as client:
            session = await client.Session().start()

            @session.hook(before="stop", budget=0.05, on_error="log")
            async def slow(session):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise

            await session.stop()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait({task}, timeout=PATIENCE)

    asyncio.run(main())
    assert ended == ["cancelled"]


@pytest.mark.parametrize("event", ["expire", "fail"])
def test_a_hook_on_a_worker_has_a_budget_too(way, event):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    go_on = threading.Event()
    if way.is_async:

        async def slow(session):
            await asyncio.to_thread(go_on.wait, PATIENCE)

    else:

        def slow(session):
            go_on.wait(PATIENCE)

    client.hook(before=event, budget=0.05)(slow)
    session = client.Session(timeout_minutes=0.1 / 60 if event == "expire" else 3).start()
    if event == "fail":
        adapter.crash(session.session_id)
    try:
        status = session.wait_ended(timeout=5)
    finally:
        go_on.set()
    assert status.status is EDGES[event][2]
    assert adapter.released == [session.session_id]


def test_hooks_that_hang_on_workers_keep_no_other_session_from_its_files(tmp_path):
    """However many hooks are stuck without a caller, cookie files are read and saved."""
    adapter = MemoryAdapter()
    go_on = threading.Event()
    with Client(adapter=adapter, store="memory:") as client:
        try:
            for _ in range(8):
                session = client.Session()

                @session.hook(before="fail", budget=0.01, on_error="log")
                def stuck(session):
                    go_on.wait(PATIENCE)

                session.start()
                adapter.crash(session.session_id)
                session.wait_ended(timeout=PATIENCE)
            began = time.monotonic()
            with client.Session(cookie_file=tmp_path / "cookies.json") as session:
                pass
            assert time.monotonic() - began < 5
            assert session.state is State.CLOSED
        finally:
            go_on.set()


# --- a hook that calls its own session ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["start", "stop", "detach", "by_id", "wait_ended", "close", "guest"])
@pytest.mark.parametrize("event", ["before_start", "after_start", "before_stop", "after_stop"])
def test_a_hook_that_ends_or_awaits_its_own_session_is_told_so_at_once(way, call, event):
    when, name = event.split("_")
    client = way.client()
    session = client.Session()
    guests = []
    raw, raw_session = way.raw(client), way.raw(session)

    def act():
        match call:
            case "by_id":
                return raw.sessions.stop(raw_session.session_id)
            case "close":
                return raw.close()
            case "guest":
                return guests[0].stop()
            case "wait_ended":
                return raw_session.wait_ended()
        return getattr(raw_session, call)()

    if way.is_async:

        async def hook(session):
            await act()

    else:

        def hook(session):
            act()

    if call == "guest":
        if event != "before_stop":
            pytest.skip("there is no guest yet, or no session any more")
        session.start()
        guests.append(way.raw(client.Session(session.session_id).start()))
    session.hook(**{when: name})(hook)
    began = time.monotonic()
    with pytest.raises(HookError) as caught:
        if session.state is State.NOT_STARTED:
            session.start()
        session.stop()
    assert time.monotonic() - began < 5, "it was told at once, and nothing waited for a budget"
    assert isinstance(caught.value.__cause__, UsageError)
    assert "hook" in str(caught.value.__cause__)


@pytest.mark.parametrize("call", ["stop", "by_id"])
def test_a_hook_on_a_worker_that_stops_its_own_session_is_told_so(call):
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session()
        told = []

        @session.hook(before="fail")
        def hook(session):
            try:
                session.stop() if call == "stop" else client.sessions.stop(session.session_id)
            except UsageError as e:
                told.append(e)

        session.start()
        adapter.crash(session.session_id)
        session.wait_ended(timeout=5)
        assert len(told) == 1


def test_a_hook_may_start_and_stop_another_session(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    session = client.Session()
    raw = way.raw(client)
    if way.is_async:

        async def hook(session):
            async with raw.Session():
                pass

    else:

        def hook(session):
            with raw.Session():
                pass

    session.hook(before="stop", after="start")(hook)
    session.start()
    session.stop()
    assert len(adapter.opened) == 3
    assert sorted(adapter.opened) == sorted(adapter.released)


def test_what_a_hook_left_running_may_end_the_session_later():
    """A task inherits the context of the hook that started it, but not its being inside of the edge."""

    async def main():
        async with AsyncClient(adapter=MemoryAdapter(), store="memory:") as client:
            session = client.Session()
            go_on = asyncio.Event()
            tasks = []

            async def watchdog():
                await go_on.wait()
                await session.stop()

            @session.hook(after="start")
            async def hook(session):
                tasks.append(asyncio.create_task(watchdog()))

            await session.start()
            go_on.set()
            await tasks[0]
            assert session.state is State.CLOSED

    asyncio.run(main())


def test_a_session_that_a_hook_started_is_not_inside_of_that_hook(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    started, told = [], []
    raw = way.raw(client)

    def on_fail(session):
        told.append(session.session_id)

    def make():
        inner = raw.Session()
        inner.hook(before="fail")(way.hook(on_fail))
        started.append(inner)
        return inner.start()

    if way.is_async:

        async def hook(session):
            await make()

    else:

        def hook(session):
            make()

    outer = client.Session()
    outer.hook(after="start")(hook)
    outer.start()
    adapter.crash(started[0].session_id)
    eventually(lambda: started[0].state is State.ERROR)
    assert told == [started[0].session_id]
    outer.stop()


def test_a_hook_may_read_its_session(way):
    seen = []
    client = way.client()
    session = client.Session(name="shop")
    if way.is_async:

        async def hook(session):
            seen.append((await session.status()).name)
            seen.append(len(await session.history()))

    else:

        def hook(session):
            seen.append(session.status().name)
            seen.append(len(session.history()))

    session.hook(before="stop")(hook)
    session.start()
    session.stop()
    assert seen == ["shop", 3]


# --- interrupts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("event", ["before_start", "after_start", "before_stop", "after_stop"])
def test_an_interrupt_in_a_hook_arrives_unchanged_and_the_session_is_torn_down(event, kind):
    adapter = MemoryAdapter()
    when, name = event.split("_")
    mine = kind("mine")
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session()

        @session.hook(**{when: name})
        def hook(session):
            raise mine

        with pytest.raises(kind) as caught:
            session.start()
            session.stop()
        assert caught.value is mine
        assert session.state.terminal
        assert adapter.opened == adapter.released
        assert adapter.opened == ([] if event == "before_start" else [session.session_id])
        [result] = [s for r in session.history() for s in r.steps if s.step.startswith(when)] or [None]
        assert result is None or result.error in (kind.__name__, "HookStruck")


def test_a_later_hook_runs_on_a_worker_when_its_caller_was_interrupted():
    where = []
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        session = client.Session()

        @session.hook(before="stop")
        def first(session):
            raise KeyboardInterrupt

        @session.hook(before="stop")
        def second(session):
            where.append(threading.current_thread().name)

        @session.hook(before="stop", needs_page=True)
        def third(session):
            where.append("third")

        session.start()
        with pytest.raises(KeyboardInterrupt):
            session.stop()
        assert [name.startswith("lifecycle-supervisor-hook") for name in where] == [True]
        assert session.state is State.CLOSED


def test_cancelling_a_stop_while_its_hook_runs_ends_the_session_all_the_same():
    adapter = MemoryAdapter()

    async def main():
        async with AsyncClient(adapter=adapter, store="memory:") as client:
            session = await client.Session().start()
            inside, go_on = asyncio.Event(), asyncio.Event()

            @session.hook(before="stop")
            async def hook(session):
                inside.set()
                await go_on.wait()

            task = asyncio.create_task(session.stop())
            await inside.wait()
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert session.state is State.CLOSED
            assert adapter.released == [session.session_id]

    asyncio.run(main())


# --- refused when registered --------------------------------------------------------------------------------------


def takes_nothing():
    raise AssertionError


def takes_three(a, b, c):
    raise AssertionError


def needs_keyword(session, *, flag):
    raise AssertionError


@pytest.mark.parametrize("func", [takes_nothing, takes_three, needs_keyword, lambda: None])
@pytest.mark.parametrize("on", ["client", "session"])
def test_a_hook_with_the_wrong_arity_is_refused_when_registered(way, func, on):
    client = way.client()
    target = client if on == "client" else client.Session()
    with pytest.raises(UsageError, match=r"must take \(session\) or \(session, transition\)") as caught:
        target.hook(before="stop")(func)
    assert func.__qualname__ in str(caught.value)


class CallableObject:
    async def __call__(self, session):
        raise AssertionError


async def coroutine_hook(session):
    raise AssertionError


@pytest.mark.parametrize(
    "func", [coroutine_hook, CallableObject(), functools.partial(coroutine_hook), functools.partial(CallableObject())]
)
def test_a_coroutine_hook_in_a_sync_client_is_refused_when_registered(func):
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        for target in (client, client.Session()):
            with pytest.raises(UsageError, match="coroutine"):
                target.hook(before="stop")(func)


@pytest.mark.parametrize("func", [None, 5, "stop"])
def test_what_is_no_function_is_refused(way, func):
    with pytest.raises(UsageError, match="must be a function"):
        way.client().hook(before="stop")(func)


@pytest.mark.parametrize(
    ("kwargs", "option"),
    [
        ({"before": "strat"}, "before"),
        ({"after": "operate"}, "after"),
        ({"after": ["stop", "nonsense"]}, "after"),
        ({"before": "stop", "on_error": "ignore"}, "on_error"),
        ({"before": "stop", "budget": 0}, "budget"),
        ({"before": "stop", "budget": True}, "budget"),
        ({"before": "stop", "budget": float("nan")}, "budget"),
        ({}, "before"),
        ({"before": []}, "before"),
        ({"before": 5}, "before"),
        ({"after": [5]}, "after"),
        ({"before": "stop", "needs_page": "yes"}, "needs_page"),
    ],
)
def test_a_bad_registration_is_named(way, kwargs, option):
    def hook(session):
        raise AssertionError

    with pytest.raises(ConfigError) as caught:
        way.client().hook(**kwargs)(way.hook(hook))
    assert caught.value.option == option
    if kwargs.get("before") == "strat":
        assert "did you mean 'start'" in caught.value.allowed


FORMS = {
    "one": lambda session: FOUND.append(1),
    "two": lambda session, transition: FOUND.append(2),
    "any": lambda *args: FOUND.append(len(args)),
    "default": lambda session, transition=None: FOUND.append(2 if transition is not None else 1),
    "partial": functools.partial(lambda word, session: FOUND.append(1), "x"),
}
FOUND: list[int] = []


@pytest.mark.parametrize(("form", "expected"), [("one", 1), ("two", 2), ("any", 2), ("default", 2), ("partial", 1)])
def test_a_hook_takes_the_session_or_the_transition_too(way, form, expected):
    del FOUND[:]
    client = way.client()
    client.hook(before="stop")(FORMS[form])
    with client.Session():
        pass
    assert [expected] == FOUND


def test_a_bound_method_is_a_hook(way):
    class Recorder:
        def __init__(self):
            self.seen = []

        def on_stop(self, session, transition):
            self.seen.append(transition.dest)

    recorder = Recorder()
    client = way.client()
    client.hook(before="stop")(recorder.on_stop)
    with client.Session():
        pass
    assert recorder.seen == [State.CLOSED]


def test_hooks_get_the_handle_itself(way):
    seen = []
    client = way.client()

    def hook(session):
        seen.append(session)

    client.hook(before="start")(way.hook(hook))
    session = client.Session().start()
    assert seen == [way.raw(session)]


def test_hooks_of_a_guest_and_its_owner_are_apart(way):
    seen = []
    client = way.client()
    owner = client.Session().start()
    guest = client.Session(owner.session_id)

    def add(word):
        def hook(session):
            seen.append(word)

        return way.hook(hook)

    owner.hook(before="stop")(add("owner"))
    guest.hook(before=["attach", "detach", "stop"])(add("guest"))
    guest.start()
    guest.detach()
    assert seen == ["guest", "guest"]
    owner.stop()
    assert seen == ["guest", "guest", "owner"]


def test_hooks_see_the_store_failure_but_run(way):
    """Ending fails open, and that includes the user's hooks."""
    store = FailingStore()
    ran = []
    session = way.client(store=store).Session().start()

    def hook(session):
        ran.append(session.state)

    session.hook(before="stop", after="stop")(way.hook(hook))
    store.broken = True
    with pytest.raises(StoreError):
        session.stop()
    store.broken = False
    assert ran == [State.ACTIVE, State.CLOSED]


def test_a_session_that_ended_meanwhile_refuses_the_hooks_operations(way):
    """While an ending is in flight the session takes no operations; the hook learns it as everybody does."""
    told = []
    session = way.client().Session()
    raw = way.raw(session)
    if way.is_async:

        async def hook(session):
            with pytest.raises(SessionClosed):
                await raw.get_cookies()
            told.append("told")

    else:

        def hook(session):
            with pytest.raises(SessionClosed):
                raw.get_cookies()
            told.append("told")

    session.hook(before="stop")(hook)
    session.start()
    session.stop()
    assert told == ["told"]
    with pytest.raises(InvalidTransition):
        session.start()
