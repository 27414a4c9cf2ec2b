"""`stop_on_signals`: what is active is stopped first, and then the signal does what it did before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import closing, contextmanager

import children
import pytest
from both_ways import PATIENCE, eventually

import lifecycle
from lifecycle import Client, UsageError
from lifecycle.states import State
from lifecycle.stores import open_store
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

PRELUDE = """
import asyncio, os, signal, sys, threading, time
import lifecycle
from lifecycle import *
from lifecycle_adapters.memory import Fault, MemoryAdapter
folder, adapter = sys.argv[1:]
COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}
url = f"sqlite:///{folder}/log.db"

def new(client=None):
    return (client or Client(adapter=adapter, store=url)).Session(cookie_file=f"{folder}/cookies.json")

def use(session):
    session.set_cookies(cookies=[COOKIE])
    print(session.session_id, flush=True)
    return session

def begin(client=None):
    return use(new(client).start())

def tell_when_it_waits(stops):
    def tell():
        while stops._waiting is None:
            time.sleep(0.01)
        print("waiting", flush=True)
    threading.Thread(target=tell, daemon=True).start()

def wait():
    while True:  # a signal that strikes right before a sleep begins is handled at its end
        time.sleep(0.05)

async def waits():
    while True:
        await asyncio.sleep(0.05)
"""


@contextmanager
def program(code, folder, adapter="memory"):
    """A program that has begun its session; its process, with the session's id."""
    text = children.WATCHDOG + PRELUDE + textwrap.dedent(code)
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", "-c", text, str(folder), adapter]
    env = children.environment(struck=True)
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            process.session_id = process.stdout.readline().strip()
            assert process.session_id, process.stderr.read()
            yield process
        finally:
            process.kill()


def story(folder, session_id):
    """The row and the last record of a session."""
    with closing(open_store(f"sqlite:///{folder}/log.db")) as store:
        return store.session(session_id), store.records(session_id=session_id)[-1][1]


def check_stopped(folder, session_id):
    row, last = story(folder, session_id)
    assert (row.state, row.close_reason, row.released) == (State.CLOSED, "manual", True)
    assert (last.kind, last.cause) == ("commit", "signal")
    assert [c["name"] for c in json.loads((folder / "cookies.json").read_text())["cookies"]] == ["mine"]


def ended(process):
    out, err = process.communicate(timeout=children.BOUND)
    return process.returncode, out, err


@pytest.mark.parametrize("where", ["in a block", "in a sleep", "in an event loop", "in a thread"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_ends_the_process_ends_its_sessions_first(tmp_path, name, where):
    code = {
        "in a block": """
            lifecycle.stop_on_signals()
            with new() as session:
                use(session)
                wait()
            """,
        "in a sleep": """
            lifecycle.stop_on_signals()
            session = begin()
            wait()
            """,
        "in an event loop": """
            async def main():
                lifecycle.stop_on_signals()
                async with AsyncClient(adapter=adapter, store=url) as client:
                    session = await client.Session(cookie_file=f"{folder}/cookies.json").start()
                    await session.set_cookies(cookies=[COOKIE])
                    print(session.session_id, flush=True)
                    await waits()
            asyncio.run(main())
            """,
        "in a thread": """
            lifecycle.stop_on_signals()
            def work():
                with new() as session:
                    use(session)
                    time.sleep(60)
            threading.Thread(target=work, daemon=True).start()
            wait()
            """,
    }[where]
    number = getattr(signal, name)
    with program(code, tmp_path) as process:
        process.send_signal(number)
        code, _, err = ended(process)
    assert (code, err) == (-number, "")
    check_stopped(tmp_path, process.session_id)


def test_without_being_asked_nothing_is_installed(tmp_path):
    code = """
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    session = begin()
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    wait()
    """
    with program(code, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == -signal.SIGTERM
    assert story(tmp_path, process.session_id)[0].state is State.ACTIVE


@pytest.mark.parametrize("way", ["block", "task"])
def test_ctrl_c_arrives_once_all_is_over(tmp_path, way):
    code = {
        "block": """
            lifecycle.stop_on_signals()
            try:
                with new() as session:
                    use(session)
                    wait()
            except KeyboardInterrupt:
                print("struck", session.state)
            """,
        "task": """
            async def main():
                lifecycle.stop_on_signals()  # in the loop, whose own handler cancels the task
                client = AsyncClient(adapter=adapter, store=url)
                session = await client.Session(cookie_file=f"{folder}/cookies.json").start()
                await session.set_cookies(cookies=[COOKIE])
                print(session.session_id, flush=True)
                try:
                    await waits()
                except asyncio.CancelledError:
                    print("struck", session.state)
                    await client.close()
                    raise
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                pass
            """,
    }[way]
    with program(code, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        assert ended(process) == (0, "struck closed\n", "")
    check_stopped(tmp_path, process.session_id)


def test_a_handler_that_was_there_is_called_and_the_program_goes_on(tmp_path):
    code = """
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: told.set())
    lifecycle.stop_on_signals()
    client = Client(adapter=adapter, store=url)
    session = begin(client)
    while not told.is_set():
        time.sleep(0.01)
    assert session.state is State.CLOSED
    with client.Session() as another:
        assert another.state is State.ACTIVE
    print("went on")
    """
    with program(code, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        code, out, err = ended(process)
    assert (code, out, err) == (0, "went on\n", "")
    check_stopped(tmp_path, process.session_id)


@pytest.mark.parametrize("how", ["by the system", "by a handler"])
def test_a_second_signal_waits_for_nothing(tmp_path, how):
    code = f"""
    def leave(signum, frame):
        print("handled", flush=True)
        if {how == "by a handler"}:
            os._exit(3)
    if {how == "by a handler"}:
        signal.signal(signal.SIGTERM, leave)
    client = Client(adapter=MemoryAdapter(faults=[Fault(step="save_cookies", kind="hang")]), store=url)
    stops = lifecycle.stop_on_signals()
    tell_when_it_waits(stops)
    session = begin(client)
    wait()
    """
    with program(code, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        code, out, _ = ended(process)
    assert (code, out) == ((3, "handled\n") if how == "by a handler" else (-signal.SIGTERM, ""))
    assert story(tmp_path, process.session_id)[0].state is State.ACTIVE
    with Client(adapter=MemoryAdapter(), store=f"sqlite:///{tmp_path}/log.db") as client:
        assert [s.session_id for s in client.sessions.reap()] == [process.session_id]


def test_a_handler_hears_of_both_signals_and_the_first_waits_no_longer(tmp_path):
    code = """
    told = []
    signal.signal(signal.SIGTERM, lambda signum, frame: told.append(stops._waiting is not None))
    client = Client(adapter=MemoryAdapter(faults=[Fault(step="save_cookies", kind="hang")]), store=url)
    stops = lifecycle.stop_on_signals()
    tell_when_it_waits(stops)
    session = begin(client)
    while not told:
        time.sleep(0.01)
    print(told, session.state, flush=True)
    os._exit(0)
    """
    with program(code, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        code, out, _ = ended(process)
    assert (code, out) == (0, "[True, False] active\n"), "the second inside the first, while the teardown hangs"


def test_a_browser_and_its_profile_are_gone(tmp_path):
    code = """
    lifecycle.stop_on_signals()
    session = begin()
    session.page.goto("about:blank")
    print("there", flush=True)
    wait()
    """
    with program(code, tmp_path, adapter="local") as process:
        assert process.stdout.readline() == "there\n"
        row, _ = story(tmp_path, process.session_id)
        assert os.path.isdir(row.facts["profile"])
        process.send_signal(signal.SIGTERM)
        code, _, err = ended(process)
    assert (code, err) == (-signal.SIGTERM, "")
    check_stopped(tmp_path, process.session_id)
    assert not os.path.exists(row.facts["profile"])
    eventually(lambda: not os.path.exists(f"/proc/{row.facts['pid']}"))


def test_a_forked_worker_stops_its_own_sessions_and_none_of_its_parent(tmp_path):
    """As servers that fork their workers do: the handlers are inherited, the sessions are not."""
    code = """
    import warnings
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of a fork with threads, which is the point
    lifecycle.stop_on_signals()
    session = begin()
    for own in (False, True):
        pid = os.fork()
        if pid == 0:  # it tells when it is ready: a signal that comes while Python is still at the fork is lost
            if own:
                mine = Client(adapter=adapter, store=url).Session(cookie_file=f"{folder}/of_the_worker.json").start()
            print(os.getpid(), mine.session_id if own else "-", flush=True)
            wait()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert session.state is State.ACTIVE
    assert session.get_cookies()
    session.stop()
    print("done")
    """
    text = code.replace(
        "    import warnings", "    import warnings, faulthandler\n    faulthandler.cancel_dump_traceback_later()"
    )
    with program(text, tmp_path) as process:
        for _ in range(2):
            pid, session_id = process.stdout.readline().split()
            os.kill(int(pid), signal.SIGTERM)
        assert ended(process)[:2] == (0, "done\n")
    row, last = story(tmp_path, session_id)
    assert (row.state, last.cause) == (State.CLOSED, "signal")
    row, last = story(tmp_path, process.session_id)
    assert (row.state, last.cause) == (State.CLOSED, "caller")


@pytest.fixture
def handlers():
    """What the handlers are before the test, and put back after it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def now():
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def test_they_are_removed(handlers):
    with lifecycle.stop_on_signals() as stops:
        assert stops.signals == set(handlers)
        assert not any(now()[number] == handlers[number] for number in handlers)
    assert now() == handlers
    assert stops.signals == frozenset()
    stops.remove()
    assert now() == handlers


def test_asked_twice_they_are_there_once(handlers):
    first = lifecycle.stop_on_signals()
    installed = now()
    second = lifecycle.stop_on_signals()
    assert (now(), second.signals) == (installed, frozenset())
    second.remove()
    assert now() == installed
    first.remove()
    assert now() == handlers


def test_what_is_ignored_stays_ignored(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with lifecycle.stop_on_signals() as stops:
        assert signal.SIGHUP not in stops.signals
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_one_that_was_wrapped_since_passes_signals_on(handlers):
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("first"))
    stops = lifecycle.stop_on_signals()
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *args: (told.append("last"), ours(*args)))
    stops.remove()
    with Client(adapter=MemoryAdapter(), store="memory:") as client, client.Session() as session:
        signal.raise_signal(signal.SIGTERM)
        assert told == ["last", "first"]
        assert session.state is State.ACTIVE


def test_other_threads_are_told_where_to_call_it(handlers):
    errors = []

    def work():
        for call in (lifecycle.stop_on_signals, stops.remove):
            try:
                call()
            except UsageError as e:
                errors.append(str(e))

    stops = lifecycle.stop_on_signals()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert ["main thread" in error for error in errors] == [True, True]
