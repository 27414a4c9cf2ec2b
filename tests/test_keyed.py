"""Get or create: sessions with an idempotency key, in one process and in several."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading

import children
import pytest
from both_ways import PATIENCE, WAYS, eventually
from server_rig import remote, running

from lifecycle import (
    Client,
    ConfigError,
    InvalidTransition,
    LifecycleError,
    SessionClosed,
    StartFailed,
    State,
    UsageError,
)
from lifecycle.audit import RecordKind
from lifecycle.engine import supervisor
from lifecycle.states import Event
from lifecycle_adapters.memory import Fault, MemoryAdapter


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'x.db'}"


@pytest.fixture
def clients(way, url):
    """Makes clients of one adapter on one store."""
    adapter = MemoryAdapter()
    return lambda: way.client(adapter=adapter, store=url)


def begun(session):
    return [r.event for r in session.history() if r.kind is RecordKind.COMMIT and r.dest is State.ACTIVE]


def test_the_first_makes_it_and_the_second_finds_it(clients):
    first = clients().Session(idempotency_key="job 1")
    second = clients().Session(idempotency_key="job 1")
    assert (first.made, second.made) == (None, None)
    first.start()
    second.start()
    assert (first.made, second.made) == (True, False)
    assert first.session_id == second.session_id
    assert begun(first) == [Event.START, Event.ATTACH]
    second.set_cookies(cookies=[{"name": "a", "value": "1", "domain": "example.com", "path": "/"}])
    assert [c["name"] for c in first.get_cookies()] == ["a"]
    second.stop()
    eventually(lambda: first.state is State.CLOSED)


def test_after_its_end_the_key_makes_a_new_one(clients):
    client = clients()
    ids = []
    for _ in range(3):
        with client.Session(idempotency_key="job") as session:
            assert session.made
            ids.append(session.session_id)
    assert len(set(ids)) == 3


def test_each_key_and_each_adapter_has_sessions_of_its_own(clients, way, url):
    client = clients()
    other = MemoryAdapter(can_live_on=True)
    other.__class__ = type("Other", (MemoryAdapter,), {"name": "other"})
    sessions = [
        client.Session(idempotency_key="a").start(),
        client.Session(idempotency_key="b").start(),
        way.client(adapter=other, store=url).Session(idempotency_key="a").start(),
        client.Session().start(),
    ]
    assert [s.made for s in sessions] == [True, True, True, None]
    assert len({s.session_id for s in sessions}) == 4


def test_starts_that_meet_make_one(way, clients):
    sessions = [clients().Session(idempotency_key="job") for _ in range(6)]
    way.together([(session, "start") for session in sessions])
    assert [session.state for session in sessions] == [State.ACTIVE] * 6
    assert sorted(session.made for session in sessions) == [False] * 5 + [True]
    assert len({session.session_id for session in sessions}) == 1


def test_a_start_that_fails_leaves_the_key_to_the_next(way, url):
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="fail", nth=1)])
    client = way.client(adapter=adapter, store=url)
    with pytest.raises(StartFailed):
        client.Session(idempotency_key="job").start()
    assert client.Session(idempotency_key="job").start().made is True


def test_a_start_that_is_refused_leaves_the_key_to_the_next(clients, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="interpreter is ending"):
        patch.setattr(supervisor(), "exiting", True)
        clients().Session(idempotency_key="job").start()
    assert clients().Session(idempotency_key="job", start_timeout_minutes=0.1).start().made is True


@pytest.fixture
def hanging():
    """An adapter whose first opening hangs until it is released."""
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang", nth=1)])
    yield adapter
    adapter.release_hangs()


def test_whoever_waits_can_be_stopped(hanging, url):
    adapter, way = hanging, WAYS["sync"]()
    clients = [way.client(adapter=adapter, store=url) for _ in range(2)]
    opener, waiter = (client.Session(idempotency_key="job") for client in clients)
    errors = []

    def start(session):
        try:
            session.start()
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=start, args=(session,)) for session in (opener, waiter)]
    threads[0].start()
    eventually(lambda: adapter.opened)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()  # it waits for the one that is being opened
    waiter.stop()
    threads[1].join(PATIENCE)
    assert waiter.state is State.CLOSED
    assert isinstance(errors[0], (SessionClosed, InvalidTransition))
    adapter.release_hangs()
    threads[0].join(PATIENCE)
    assert (opener.state, opener.made, waiter.made) == (State.ACTIVE, True, None)
    assert len(adapter.opened) == 1
    way.finish()


def test_a_wait_for_a_start_has_an_end(hanging, url):
    adapter, way = hanging, WAYS["sync"]()
    opener = way.client(adapter=adapter, store=url).Session(idempotency_key="job")
    thread = threading.Thread(target=opener.start)
    thread.start()
    eventually(lambda: adapter.opened)
    waiter = way.client(adapter=adapter, store=url).Session(idempotency_key="job", start_timeout_minutes=0.005)
    with pytest.raises(StartFailed, match=r"idempotency_key='job' is still being started by process \d+"):
        waiter.start()
    assert waiter.state is State.CLOSED
    adapter.release_hangs()
    thread.join(PATIENCE)
    assert way.client(adapter=adapter, store=url).Session(idempotency_key="job").start().made is False
    way.finish()


@pytest.mark.parametrize("key", ["", " ", "two\nlines", 7, "\ud800"])
def test_a_key_is_a_text(key):
    with Client(adapter="memory", store="memory:") as client, pytest.raises(ConfigError, match="idempotency_key"):
        client.Session(idempotency_key=key)


def test_a_key_and_an_id_exclude_each_other():
    with Client(adapter="memory", store="memory:") as client, pytest.raises(ConfigError, match="idempotency_key"):
        client.Session("some-id", idempotency_key="job")


# --- several processes --------------------------------------------------------------------------------------------

RACER = """
import json, sys
client = Client(adapter=sys.argv[2], store=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
session = client.Session(idempotency_key="job", timeout_minutes=5).start()
print(json.dumps([session.session_id, session.made]), flush=True)
sys.stdin.readline()
if session.made:
    session.stop()
elif session.state is State.ACTIVE:
    session.detach()
client.close()
"""


def racer(url, adapter="memory"):
    code = children.WATCHDOG + children.PRELUDE + textwrap.dedent(RACER)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, url, adapter],
        env=children.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def say(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def racers():
    made = []
    yield lambda *args: made.append(racer(*args)) or made[-1]
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("adapter", ["memory", pytest.param("local", marks=pytest.mark.slow)])
def test_racers_in_two_processes_get_one_browser(racers, url, adapter):
    processes = [racers(url, adapter) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        say(process)
    told = [json.loads(process.stdout.readline()) for process in processes]
    assert len({session_id for session_id, _ in told}) == 1
    assert sorted(made for _, made in told) == [False, True]
    for process, (_, made) in sorted(zip(processes, told, strict=True), key=lambda pair: pair[1][1]):
        say(process)
        assert process.wait(children.BOUND) == 0, made


def test_the_key_of_a_killed_process_is_taken_over(racers, url):
    process = racers(url)
    process.stdout.readline()
    say(process)
    lost, made = json.loads(process.stdout.readline())
    assert made
    process.kill()
    process.wait()
    with Client(adapter="memory", store=url) as client, client.Session(idempotency_key="job") as session:
        assert session.made
        assert session.session_id != lost


# --- a service ----------------------------------------------------------------------------------------------------


@pytest.fixture
def service():
    """A server on a memory adapter, and an adapter of it; to be asked for before the clients, which end first."""
    behind = MemoryAdapter()
    with running(adapter=behind, store="memory:") as server, remote(server) as adapter:
        yield behind, adapter
    assert behind.live == []


@pytest.mark.slow
def test_a_session_of_a_service_is_found_by_its_key(service, way, url):
    behind, adapter = service
    first = way.client(adapter=adapter, store=url).Session(idempotency_key="job").start()
    second = way.client(adapter=adapter, store=url).Session(idempotency_key="job").start()
    assert (first.made, second.made, first.session_id) == (True, False, second.session_id)
    assert len(behind.live) == 1
    first.detach()  # it goes on at its service, and so does its key
    third = way.client(adapter=adapter, store=url).Session(idempotency_key="job").start()
    assert third.made is False
    third.stop()
    assert way.client(adapter=adapter, store=url).Session(idempotency_key="job").start().made is True


@pytest.mark.slow
def test_a_service_that_gave_no_session_leaves_the_key_to_the_next(url):
    behind = MemoryAdapter(faults=[Fault(step="open_backend", kind="fail", nth=1)])
    with (
        running(adapter=behind, store="memory:") as server,
        remote(server) as adapter,
        Client(adapter=adapter, store=url) as client,
    ):
        with pytest.raises(LifecycleError):
            client.Session(idempotency_key="job").start()
        assert client.Session(idempotency_key="job").start().made is True
