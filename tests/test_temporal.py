"""Temporal activities: what an attempt leaves is found, gone on with or stopped by the next, and every end has a cause.

No server of Temporal's is needed: activities run in its own `ActivityEnvironment`, which calls what a worker would.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import timedelta
from pathlib import Path

import children
import pytest
from both_ways import PATIENCE, eventually
from planted import TOKEN
from server_rig import remote, running
from temporalio import activity
from temporalio.exceptions import CancelledError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from lifecycle import (
    AsyncClient,
    Client,
    CloseReason,
    ConfigError,
    ReleaseFailed,
    SessionClosed,
    SessionTimedOut,
    State,
    UsageError,
)
from lifecycle.audit import RecordKind
from lifecycle.embed.temporal import SessionLabels, activity_session
from lifecycle.states import Event
from lifecycle.stores import open_store
from lifecycle_adapters.memory import Fault, MemoryAdapter

BEAT = timedelta(seconds=0.6)


def environment(attempt=1, details=(), **info):
    env = ActivityEnvironment()
    env.beats = []
    env.on_heartbeat = lambda *given: env.beats.append(json.loads(json.dumps(given)))
    given = {
        "workflow_id": "order 7",
        "workflow_run_id": "run-1",
        "activity_id": "3",
        "heartbeat_timeout": BEAT,
        **info,
    }
    env.info = dataclasses.replace(env.info, attempt=attempt, heartbeat_details=list(details), **given)
    return env


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'x.db'}"


@pytest.fixture(params=["sync", "async"])
def run(request):
    """Runs an activity with a session, in a thread or a loop: `body` is called with it, between enter and exit.

    What `body` returns is waited for in the way that the activity can be struck in: an event.
    """

    def in_thread(env, client_options, body, **options):
        def work():
            with Client(**client_options) as client, activity_session(client, **options) as session:
                wait = body(session)
                while wait is not None and not wait.wait(0.02):  # an exception of Temporal's strikes between two lines
                    pass

        env.run(work)

    def in_task(env, client_options, body, **options):
        async def work():
            async with AsyncClient(**client_options) as client, activity_session(client, **options) as session:
                wait = body(session)
                while wait is not None and not wait.is_set():
                    await asyncio.sleep(0.02)

        async def whole():
            try:
                await env.run(work)
            finally:
                assert "lifecycle-temporal" not in {task.get_name() for task in asyncio.all_tasks()}

        asyncio.run(whole())

    return in_thread if request.param == "sync" else in_task


CANCELLED = (CancelledError, asyncio.CancelledError)


def records(url, session_id):
    store = open_store(url)
    try:
        return [r for _, r in store.records(session_id=session_id)]
    finally:
        store.close()


def end(url, session_id):
    """Cause and close reason of the record that ends a session for its owner."""
    told = [r for r in records(url, session_id) if r.kind is RecordKind.COMMIT]
    owners = {r.attachment_id for r in told if r.event is Event.START}
    [over] = [r for r in told if r.dest.terminal and r.attachment_id in owners]
    return over.dest, over.cause, over.close_reason


def unfinished(url):
    store = open_store(url)
    try:
        return [row.session_id for row in store.unfinished()]
    finally:
        store.close()


# --- labels and heartbeats ----------------------------------------------------------------------------------------


def test_the_interceptor_labels_what_is_begun_in_an_activity():
    seen = []

    class Last(ActivityInboundInterceptor):
        def __init__(self):
            pass

        async def execute_activity(self, given):
            # As the worker does it: a thread gets the context of the task.
            await asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, given.fn)

    def work():
        with Client(adapter="memory", store="memory:") as client:
            with client.Session(labels={"mine": "1", "temporal.activity": "own"}) as session:
                seen.append(session.status().labels)
            seen.append([s.session_id for s in client.sessions.list(label="temporal.workflow=order 7")])
            seen.append([session.session_id])

    async def execute():
        chain = SessionLabels().intercept_activity(Last())
        await chain.execute_activity(ExecuteActivityInput(fn=work, args=[], executor=None, headers={}))

    asyncio.run(environment(attempt=4).run(execute))
    labels, listed, own = seen
    assert labels == {
        "temporal.workflow": "order 7", "temporal.run": "run-1", "temporal.activity": "own", "temporal.attempt": "4",
        "mine": "1",
    }  # fmt: skip
    assert listed == own
    with Client(adapter="memory", store="memory:") as client, client.Session() as session:
        assert session.status().labels == {}  # nothing of it stays


def test_heartbeats_carry_the_reference_while_the_block_runs_and_end_with_it(run, url):
    env, progress, enough = environment(), [0], threading.Event()
    seen = {}

    def beaten(*details):
        env.beats.append(json.loads(json.dumps(details)))
        progress[0] += 1
        if len(env.beats) == 4:
            enough.set()

    env.on_heartbeat = beaten

    def body(session):
        seen.update(ref=session.ref(), labels=session._att.options.labels)
        return enough

    run(env, {"adapter": "memory", "store": url}, body, details=lambda: [progress[0]], labels={"a": "b"})
    told = [beat for beat in env.beats if beat]
    assert [beat[0] for beat in told] == [{"lifecycle": seen["ref"]}] * len(told)
    assert [beat[1] for beat in told] == sorted({beat[1] for beat in told})  # the details as they were at each
    assert seen["labels"] == {
        "temporal.workflow": "order 7", "temporal.run": "run-1", "temporal.activity": "3", "temporal.attempt": "1",
        "a": "b",
    }  # fmt: skip
    assert end(url, seen["ref"]["session_id"]) == (State.CLOSED, "caller", CloseReason.MANUAL)
    names = {thread.name for thread in threading.enumerate()}
    assert "lifecycle-temporal" not in names


def test_a_heartbeat_that_fails_is_logged_and_the_next_one_sent(run, captured):
    env, went = environment(), threading.Event()

    def details():
        if not any(event["event"] == "lifecycle.heartbeat_failed" for event in captured):
            raise ZeroDivisionError
        went.set()
        return ()

    run(env, {"adapter": "memory", "store": "memory:"}, lambda _: went, details=details)
    assert next(e["error"] for e in captured if e["event"] == "lifecycle.heartbeat_failed") == "ZeroDivisionError"
    assert env.beats[-1][0]["lifecycle"]["adapter"] == "memory"


# --- cancellation and shutdown ------------------------------------------------------------------------------------


def strike(env, how):
    """Has the environment do it as soon as the session is active, from another thread, as a worker's loop does."""

    def body(session):
        env.session = session
        loop = asyncio._get_running_loop()
        call = getattr(env, how)
        if loop is None:
            threading.Thread(target=call).start()
        else:
            loop.call_soon(call)
        return threading.Event()  # never set

    return body


def test_a_cancellation_ends_the_session_with_its_cause_and_arrives(run, url):
    env = environment()
    with pytest.raises(CANCELLED):
        run(env, {"adapter": "memory", "store": url}, strike(env, "cancel"))
    assert end(url, env.session.session_id) == (State.CLOSED, "cancelled", CloseReason.MANUAL)
    assert unfinished(url) == []


def test_a_shutdown_of_the_worker_ends_the_session_while_the_block_goes_on(run, url):
    env, over = environment(), threading.Event()

    def body(session):
        session.hook(after="stop")(lambda *_: over.set())
        strike(env, "worker_shutdown")(session)
        return over  # the block ends once the session has

    run(env, {"adapter": "memory", "store": url}, body)
    assert end(url, env.session.session_id) == (State.CLOSED, "worker shutdown", CloseReason.MANUAL)


def test_what_uses_the_session_after_a_shutdown_is_told_that_it_is_closed(url):
    env = environment()

    def work():
        with Client(adapter="memory", store=url) as client, activity_session(client) as session:
            env.worker_shutdown()
            session.wait_ended(PATIENCE)
            session.get_cookies()

    with pytest.raises(SessionClosed):
        env.run(work)


def test_a_worker_that_is_shut_down_and_cancels_tells_the_first_as_the_cause(run, url):
    env = environment()
    cancel = env.cancel
    env.cancel = lambda: (env.worker_shutdown(), cancel())
    with pytest.raises(CANCELLED):
        run(env, {"adapter": "memory", "store": url}, strike(env, "cancel"))
    assert end(url, env.session.session_id)[1] == "worker shutdown"


def test_a_cancellation_that_no_exception_tells_of_ends_the_session_and_arrives_at_its_next_use(url):
    env, seen = environment(), []

    @activity.defn(no_thread_cancel_exception=True)
    def work():
        with Client(adapter="memory", store=url) as client, activity_session(client) as session:
            seen.append(session.session_id)
            env.cancel()
            session.wait_ended(PATIENCE)
            session.get_cookies()

    with pytest.raises(CancelledError) as raised:
        env.run(work)
    assert isinstance(raised.value.__cause__, SessionClosed)
    assert end(url, seen[0])[1] == "cancelled"


def test_a_cancellation_in_the_start_ends_it_there(run, url):
    adapter, env = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang", nth=1)]), environment()
    env.on_heartbeat = lambda *_: env.cancel() if adapter.opened else None  # where a worker would: in loop or thread
    with pytest.raises(CANCELLED):
        run(env, {"adapter": adapter, "store": url}, lambda _: pytest.fail("the block was entered"))
    adapter.release_hangs()
    assert unfinished(url) == []
    [session_id] = adapter.opened
    assert [r.cause for r in records(url, session_id) if r.dest is State.CLOSED] != []


def test_a_cancellation_that_strikes_before_the_block_is_entered_arrives_there(url):
    env, thread, entered = environment(), threading.current_thread(), []

    def beaten(*details):
        if details and threading.current_thread() is thread:
            env.cancel()
            for _ in range(100):
                pass  # an exception that waits for this thread strikes here

    env.on_heartbeat = beaten

    def work():
        with Client(adapter="memory", store=url) as client, activity_session(client):
            entered.append(True)

    with pytest.raises(CancelledError):
        env.run(work)
    assert (entered, unfinished(url)) == ([], [])


def test_a_cancellation_that_strikes_in_the_teardown_arrives_after_it(url):
    env, ended = environment(), []

    def work():
        with Client(adapter="memory", store=url) as client:

            @client.hook(after="stop", on_error="log")
            def cancel(session):
                env.cancel()
                ended.append(session.session_id)  # whatever strikes this thread now

            with activity_session(client):
                pass

    with pytest.raises(CancelledError):
        env.run(work)
    assert end(url, ended[0])[0] is State.CLOSED


def test_an_error_of_the_block_arrives_with_trouble_in_the_teardown_as_its_note(run, url):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])

    def body(session):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        run(environment(), {"adapter": adapter, "store": url}, body)
    assert any("ReleaseFailed" in note for note in raised.value.__notes__)


def test_trouble_in_the_teardown_alone_is_raised(run, url):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    with pytest.raises(ReleaseFailed):
        run(environment(), {"adapter": adapter, "store": url}, lambda _: None)


# --- the next attempt ---------------------------------------------------------------------------------------------

WORKER = """
    import dataclasses, json
    from datetime import timedelta
    from temporalio.testing import ActivityEnvironment
    from lifecycle.embed.temporal import activity_session

    def tell(**what):
        print(json.dumps(what), flush=True)

    env = ActivityEnvironment()
    env.info = dataclasses.replace(
        env.info, workflow_id="order 7", workflow_run_id="run-1", activity_id="3",
        heartbeat_timeout=timedelta(seconds=0.6),
    )
    env.on_heartbeat = lambda *details: tell(beat=details)

    def work():
        with Client(adapter=sys.argv[1], store=sys.argv[2]) as client, activity_session(client) as session:
            tell(session=session.session_id, made=session.made)
            sys.stdin.readline()
            session.get_cookies()

    try:
        env.run(work)
    except SessionClosed:
        tell(closed=True)
"""


class Worker:
    """A worker of its own process, in the middle of an attempt."""

    def __init__(self, adapter, url, env=()):
        code = children.PRELUDE + textwrap.dedent(WORKER)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, adapter, url],
            env={**children.environment(), **dict(env)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.details = []
        told = self.read("session")
        self.session_id, self.made = told["session"], told["made"]

    def read(self, what):
        for line in self.process.stdout:
            told = json.loads(line)
            if "beat" in told:
                self.details = told["beat"]
            if what in told:
                return told
        pytest.fail(f"the worker ended and told nothing of {what!r}")

    def descendants(self):
        found, todo = [], [self.process.pid]
        while todo:
            for task in Path("/proc", str(todo.pop()), "task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    pids = [int(pid) for pid in task.read_text().split()]
                    found += pids
                    todo += pids
        return found

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(children.BOUND)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


def runs(pid):
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


CASES = pytest.mark.parametrize(
    ("run", "adapter", "delivered"),
    [
        ("sync", "memory", True),
        ("async", "memory", False),
        pytest.param("async", "local", True, marks=pytest.mark.slow),
        pytest.param("sync", "local", False, marks=pytest.mark.slow),
    ],
    indirect=["run"],
)
"""How the second attempt runs, on what, and whether a heartbeat of the first came to Temporal."""


@CASES
def test_after_a_killed_worker_the_second_attempt_leaves_no_orphans(run, url, adapter, delivered):
    with Worker(adapter, url) as first:
        if delivered:
            first.read("beat")
        family = first.descendants()
        assert bool(family) == (adapter == "local")
        first.kill()
    env, seen = environment(2, first.details if delivered else ()), []
    assert (len(env.info.heartbeat_details) == 1) == delivered

    def body(session):
        eventually(lambda: not any(map(runs, family)))  # the browser of the first ends with its owner
        seen.append((session.session_id, session.made, unfinished(url)))

    # It does not look for what others left when it starts, as a worker that has run for long does not.
    run(env, {"adapter": adapter, "store": url, "reap_on_start": False}, body)
    [(second, made, meanwhile)] = seen
    assert made is True
    assert second != first.session_id
    assert meanwhile == [second]  # that of the first is ended in the log before there is another
    assert unfinished(url) == []
    [reaped] = [r for r in records(url, first.session_id) if r.kind is RecordKind.RECOVERED]
    assert (reaped.close_reason, reaped.cause) == (CloseReason.OWNER_DIED, "reaper")


@CASES
def test_a_session_whose_worker_lives_is_stopped_before_there_is_another(run, url, adapter, delivered):
    with Worker(adapter, url) as first:
        if delivered:
            first.read("beat")
        env, seen = environment(2, first.details if delivered else ()), []
        run(env, {"adapter": adapter, "store": url}, lambda s: seen.append((s.session_id, s.made, unfinished(url))))
        [(second, made, meanwhile)] = seen
        assert (made, meanwhile) == (True, [second])
        first.process.stdin.write("\n")
        first.process.stdin.flush()
        assert first.read("closed")  # whoever drove it is told
        assert first.process.wait(children.BOUND) == 0
    assert second != first.session_id
    assert end(url, first.session_id)[:2] == (State.CLOSED, "guest")
    assert unfinished(url) == []


def test_a_session_whose_worker_lives_can_be_gone_on_with(run, url):
    with Worker("memory", url) as first:
        seen = []
        run(
            environment(2, first.details), {"adapter": "memory", "store": url},
            lambda s: seen.append((s.session_id, s.made, unfinished(url))), earlier="attach",
        )  # fmt: skip
        assert seen == [(first.session_id, False, [first.session_id])]
        eventually(lambda: unfinished(url) == [])  # the end of the block is its end


@pytest.mark.slow
@pytest.mark.parametrize("run", ["sync"], indirect=True)
def test_while_the_first_worker_is_paused_no_other_session_begins(run, url):
    with Worker("memory", url) as first:
        first.process.send_signal(signal.SIGSTOP)
        options = {"adapter": "memory", "store": url}
        with pytest.raises(SessionTimedOut):  # for Temporal to try again
            run(environment(2), options, lambda _: pytest.fail("there are two"), start_timeout_minutes=0.02)
        assert unfinished(url) == [first.session_id]
        first.process.send_signal(signal.SIGCONT)
        seen = []
        run(environment(3), options, lambda s: seen.append(unfinished(url)))
        assert len(seen[0]) == 1
        assert seen[0] != [first.session_id]
    assert unfinished(url) == []


def test_before_it_has_a_session_an_attempt_sends_on_what_the_one_before_knew(url):
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang", nth=1)])
    ref = {"lifecycle": {"session_id": "gone", "adapter": "memory", "store": url}}
    env = environment(2, [ref, 7])
    work = threading.Thread(target=lambda: env.run(attempt))

    def attempt():
        with Client(adapter=adapter, store=url) as client, activity_session(client):
            pass

    work.start()
    eventually(lambda: env.beats)
    assert env.beats[0] == [ref, 7]
    adapter.release_hangs()
    work.join(PATIENCE)
    assert env.beats[-1][0]["lifecycle"]["session_id"] != "gone"


@pytest.mark.parametrize("earlier", ["attach", "stop"])
def test_at_a_service_the_heartbeat_finds_the_session_without_a_common_store(run, tmp_path, earlier):
    here, there = (f"sqlite:///{tmp_path / name}" for name in ("here.db", "there.db"))
    with running(adapter="memory", store="memory:") as server, remote(server) as adapter:
        first = Client(adapter=adapter, store=there)
        session = first.Session().start()
        env, seen = environment(2, [{"lifecycle": session.ref()}]), []
        run(
            env, {"adapter": adapter, "store": here},
            lambda s: seen.append((s.session_id, server.get(session.session_id)["status"])),
            earlier=None if earlier == "attach" else earlier, timeout_minutes=5,
        )  # fmt: skip
        [(second, status)] = seen
        assert (second == session.session_id, status) == (
            (True, "active") if earlier == "attach" else (False, "closed")
        )
        assert [server.get(each)["status"] for each in (second, session.session_id)] == ["closed", "closed"]
        again = []  # what the heartbeat tells of is over: another one
        env = environment(3, [{"lifecycle": session.ref()}])
        run(env, {"adapter": adapter, "store": here}, lambda s: again.append((s.session_id, s.made)))
        assert again[0][0] not in (second, session.session_id)
        assert again[0][1] is True
        first.close()


def test_a_session_at_a_service_that_is_not_come_to_in_time_is_not_taken_for_over(run, url, monkeypatch):
    async def connect(*_):
        await asyncio.Event().wait()

    with (
        running(adapter="memory", store="memory:") as server,
        remote(server) as adapter,
        Client(adapter=adapter, store="memory:") as client,
        client.Session() as session,
    ):
        monkeypatch.setattr(adapter, "connect", connect)
        env = environment(2, [{"lifecycle": session.ref()}])
        with pytest.raises(SessionTimedOut):
            run(env, {"adapter": adapter, "store": url}, lambda _: None, start_timeout_minutes=0.005)
        assert [s.session_id for s in client.sessions.list()] == [session.session_id]
        assert server.get(session.session_id)["status"] == "active"


@pytest.mark.slow
@pytest.mark.parametrize("run", ["async"], indirect=True)
def test_at_a_service_the_session_of_a_worker_that_was_killed_here_is_ended(run, url):
    with running(adapter="memory", store="memory:") as server, remote(server) as adapter:
        with Worker("remote", url, env={"NOTTE_API_URL": server.url, "NOTTE_API_KEY": TOKEN}) as first:
            first.read("beat")
            first.kill()
        assert server.get(first.session_id)["status"] == "active"
        env, seen = environment(2, first.details), []

        def body(session):
            seen.append((session.session_id, server.get(first.session_id)["status"]))

        run(env, {"adapter": adapter, "store": url, "reap_on_start": False}, body)
        [(second, status)] = seen
        assert (second != first.session_id, status) == (True, "closed")
        assert server.get(second)["status"] == "closed"
    assert unfinished(url) == []


# --- what is refused ----------------------------------------------------------------------------------------------


def test_an_attempt_is_in_one_block_at_a_time():
    def work():
        with Client(adapter="memory", store="memory:") as client:
            for _ in range(2):
                with activity_session(client) as session:
                    with pytest.raises(UsageError, match="client.Session"), activity_session(client):
                        pass
                    assert session.state == "active"

    environment().run(work)


@pytest.mark.parametrize(
    "options", [{"earlier": "leave"}, {"idempotency_key": "k"}, {"on_exit": "detach"}, {"timeout": 1}]
)
def test_options_that_are_not_allowed_are_named(run, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        run(environment(), {"adapter": "memory", "store": "memory:"}, lambda _: None, **options)


def test_outside_an_activity_it_says_where_it_belongs():
    with Client(adapter="memory", store="memory:") as client, pytest.raises(UsageError, match="inside an activity"):
        activity_session(client)
