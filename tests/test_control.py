"""What a guest, and a caller who has only an id, meet when the owner of a session is slow, stuck, dying or confused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from both_ways import eventually
from children import PRELUDE, environment

from lifecycle import Client, control
from lifecycle.errors import BackendError, ConnectionLost, ReleaseFailed
from lifecycle.ports import BackendEnd
from lifecycle.states import ENDING_BUDGET, STEPS, CloseReason, State, Step, StepRule
from lifecycle_adapters.memory import Fault, MemoryAdapter

STATUS = {"status": "active"}

OWNER = (
    PRELUDE
    + """
client = Client(adapter=MemoryAdapter(), store=sys.argv[1])
print(client.Session().start().session_id, flush=True)
sys.stdin.read()
"""
)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'lifecycle.db'}"


@pytest.fixture
def owner(url):
    """A process that owns a session: itself and the session's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, url], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


class Told:
    """A host that keeps what it is told."""

    def __init__(self):
        self.ends = []

    def ended(self, end):
        self.ends.append(end)


@asynccontextmanager
async def fake_owner(folder, answer):
    """A socket where `answer(request, writer)` says what comes back; a request it returns False for breaks it off."""

    async def serve(reader, writer):
        writers.add(writer)
        try:
            while line := await reader.readline():
                if answer(json.loads(line), writer) is False:
                    return
        finally:
            writer.close()

    writers = set()
    path = str(folder / "4242-fake.sock")
    server = await asyncio.start_unix_server(serve, path)
    try:
        yield path
    finally:
        server.close()
        for writer in writers:
            writer.close()


def run(main):
    """Run `main()` and let what it closed come to its end on the loop."""

    async def whole():
        await asyncio.wait_for(main(), 30)
        for _ in range(10):
            await asyncio.sleep(0.001)

    asyncio.run(whole())


def send(writer, **message):
    writer.write(json.dumps(message).encode() + b"\n")


# --- an owner that does not answer --------------------------------------------------------------------------------


def test_a_stopped_owner_keeps_nobody_waiting(owner, url, monkeypatch):
    process, session_id = owner
    monkeypatch.setattr(control, "STATUS_BUDGET", 0.3)
    monkeypatch.setattr(control, "BEGIN_BUDGET", 0.3)
    with Client(adapter=MemoryAdapter(), store=url) as client:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert client.sessions.get(session_id).status is State.ACTIVE  # what the ledger says
            with pytest.raises(ReleaseFailed, match=f"process {process.pid}.*did not answer within 0.3 seconds") as e:
                client.sessions.stop(session_id)
            assert e.value.session_id == session_id
        finally:
            os.kill(process.pid, signal.SIGCONT)
        monkeypatch.undo()
        assert client.sessions.stop(session_id).status is State.CLOSED


def test_the_status_of_a_guest_falls_back_to_the_ledger(owner, url, monkeypatch):
    process, session_id = owner
    with Client(adapter=MemoryAdapter(), store=url) as client:
        created = client.sessions.get(session_id).created_at
        guest = client.Session(session_id, on_exit="detach").start()
        monkeypatch.setattr(control, "STATUS_BUDGET", 0.3)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            status = guest.status()
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert (status.status, guest.state) == (State.ACTIVE, State.ACTIVE)
        assert status.created_at == created, "the session's own, not the guest's"
        guest.detach()


def test_an_operation_of_a_guest_is_not_asked_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(control.GuestBackend._ask, "__defaults__", (0.1,))

    async def main():
        def answer(request, writer):
            if request["op"] == "watch":
                send(writer, id=request["id"], result=STATUS)

        async with fake_owner(tmp_path, answer) as path:
            guest = await control.GuestBackend.connect(path, "s", "memory", Told())
            for ask in (guest.get_cookies, guest.clear_cookies, guest.cdp_url, lambda: guest.extend(1)):
                with pytest.raises(control.OwnerSilent, match="process 4242, which owns session s"):
                    await asyncio.wait_for(ask(), 5)
            await guest.close_connections("done")

    run(main)


def test_a_stop_waits_as_long_as_the_longest_ending():
    teardown = (Step.SAVE_COOKIES, Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND)
    assert sum(STEPS[s].budget * STEPS[s].attempts for s in teardown) == 65.0
    assert ENDING_BUDGET >= 65.0
    assert control.STOP_BUDGET > ENDING_BUDGET


# --- an owner that takes its time ---------------------------------------------------------------------------------


def slow_stop(gate, **last):
    """Answers as an owner whose stop begins at once and is over when `gate` is set."""
    asked = []

    def answer(request, writer):
        if request["op"] == "watch":
            send(writer, id=request["id"], result=STATUS)
            return
        asked.append(request["op"])
        send(writer, id=request["id"], begun=True)

        async def finish():
            await gate.wait()
            send(writer, id=request["id"], **last)

        answer.tasks.append(asyncio.ensure_future(finish()))

    answer.tasks = []
    answer.asked = asked
    return answer


def short_release(monkeypatch, budget):
    rule = StepRule(policy=STEPS[Step.RELEASE_BACKEND].policy, budget=budget, attempts=3)
    monkeypatch.setattr(control, "STEPS", {**STEPS, Step.RELEASE_BACKEND: rule})


@pytest.mark.parametrize("failed", [False, True])
def test_a_later_attempt_waits_for_the_stop_that_the_first_one_began(tmp_path, monkeypatch, failed):
    short_release(monkeypatch, 4.0)  # the owner says that it has begun within the first three seconds
    last = {"error": {"kind": "ReleaseFailed", "message": "still runs"}} if failed else {"result": None}

    async def main():
        gate = asyncio.Event()
        answer = slow_stop(gate, **last)
        async with fake_owner(tmp_path, answer) as path:
            guest = await control.GuestBackend.connect(path, "s", "memory", Told())
            await guest.close_connections("stop")
            with pytest.raises(ReleaseFailed, match=r"process 4242.* has begun to stop it but has not finished"):
                await guest.release()
            gate.set()
            if failed:
                with pytest.raises(ReleaseFailed, match="still runs"):
                    await guest.release()
            else:
                await guest.release()
            assert answer.asked == ["stop"]

    run(main)


def test_after_the_last_attempt_nothing_waits_any_more(tmp_path, monkeypatch):
    short_release(monkeypatch, 4.0)  # as above

    async def main():
        answer = slow_stop(asyncio.Event())
        async with fake_owner(tmp_path, answer) as path:
            guest = await control.GuestBackend.connect(path, "s", "memory", Told())
            await guest.close_connections("stop")
            before = asyncio.all_tasks()
            for _ in range(3):
                with pytest.raises(ReleaseFailed, match="has begun"):
                    await guest.release()
                short_release(monkeypatch, 1.05)  # it has said so, and that is not forgotten
            for task in answer.tasks:
                task.cancel()
            await asyncio.sleep(0.1)
            assert not {t for t in asyncio.all_tasks() - before if "_exchange" in repr(t) or "stop(" in repr(t)}

    run(main)


def test_a_stop_that_begins_but_does_not_end_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "BEGIN_BUDGET", 5.0)
    monkeypatch.setattr(control, "STOP_BUDGET", 0.1)

    async def main():
        answer = slow_stop(asyncio.Event())
        async with fake_owner(tmp_path, answer) as path:
            with pytest.raises(ReleaseFailed, match=r"has begun to stop it but has not finished within 0\.1 seconds"):
                await asyncio.wait_for(control.stop(path, "s"), 4)
            for task in answer.tasks:
                task.cancel()

    run(main)


def test_an_owner_says_at_once_that_it_has_begun(url):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="hang")])
    begun = threading.Event()
    with Client(adapter=adapter, store=url) as client:
        session = client.Session().start()
        path = client._core.supervisor.control_path
        ending = threading.Thread(
            target=lambda: asyncio.run(control.stop(path, session.session_id, on_begun=begun.set)), name="asks"
        )
        ending.start()
        assert begun.wait(10)
        assert ending.is_alive()
        eventually(lambda: adapter._hanging)
        adapter.release_hangs()
        ending.join(10)
        assert session.state is State.CLOSED


def test_the_failed_release_of_the_owner_reaches_its_guest(url):
    faults = [Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)]
    with Client(adapter=MemoryAdapter(faults=faults), store=url) as client:
        owner = client.Session().start()
        guest = client.Session(owner.session_id).start()
        with pytest.raises(ReleaseFailed):
            guest.stop()
        assert owner.state is guest.state is State.ERROR


# --- a stop by id that does not stop ------------------------------------------------------------------------------


def test_a_session_that_can_not_be_reached_is_not_returned_as_stopped(owner, url):
    process, session_id = owner
    with Client(adapter=MemoryAdapter(), store=url) as client:
        path = Path(client._core.supervisor.call(lambda _: client._core.row(session_id)).control)
        path.rename(path.with_suffix(".away"))
        try:
            with pytest.raises(ReleaseFailed, match=f"still active .*process {process.pid}.*end that process"):
                client.sessions.stop(session_id)
        finally:
            path.with_suffix(".away").rename(path)
        assert client.sessions.stop(session_id).status is State.CLOSED


def test_the_stop_of_a_killed_owners_session_says_that_it_died(owner, url):
    process, session_id = owner
    with Client(adapter=MemoryAdapter(), store=url) as client:
        process.kill()
        assert client.sessions.stop(session_id).close_reason is CloseReason.OWNER_DIED


# --- an owner that dies in the middle -----------------------------------------------------------------------------

OPERATIONS = {
    "status": lambda g: g.status(),
    "extend": lambda g: g.extend(1),
    "hold": lambda g: g.hold("a look", 1),
    "get_cookies": lambda g: g.get_cookies(),
    "set_cookies": lambda g: g.set_cookies([]),
    "clear_cookies": lambda g: g.clear_cookies(),
    "cdp_url": lambda g: g.cdp_url(),
}


@pytest.mark.parametrize("half", [b"", b'{"id": 2, "res'], ids=["nothing", "half a line"])
@pytest.mark.parametrize("op", OPERATIONS)
def test_an_owner_that_dies_in_an_operation(tmp_path, op, half):
    async def main():
        def answer(request, writer):
            if request["op"] == "watch":
                send(writer, id=request["id"], result=STATUS)
                return True
            assert request["op"] == op
            writer.write(half)
            return False

        host = Told()
        async with fake_owner(tmp_path, answer) as path:
            guest = await control.GuestBackend.connect(path, "s", "memory", host)
            with pytest.raises(ConnectionLost):
                await asyncio.wait_for(OPERATIONS[op](guest), 5)
            await guest.close_connections("over")
        assert [(e.state, e.reason) for e in host.ends] == [(State.ERROR, CloseReason.OWNER_DIED)]

    run(main)


@pytest.mark.parametrize("half", [b"", b'{"id": 1, "res', b'{"id": 1, "begun": true}\n'])
def test_an_owner_that_dies_when_it_is_asked_once(tmp_path, half):
    async def main():
        def answer(request, writer):
            if request["op"] == "watch":
                send(writer, id=request["id"], result=STATUS)
                return True
            writer.write(half)
            return False

        async with fake_owner(tmp_path, answer) as path:
            with pytest.raises(ConnectionLost):
                await control.ask(path, "status", "s")
            with pytest.raises(ConnectionLost):
                await control.stop(path, "s")
            guest = await control.GuestBackend.connect(path, "s", "memory", Told())
            await guest.close_connections("stop")
            await guest.release()  # its browser is gone with it

    run(main)


def test_an_owner_that_dies_while_a_guest_comes_in(tmp_path):
    async def main():
        async with fake_owner(tmp_path, lambda request, writer: False) as path:
            with pytest.raises(ConnectionLost):
                await control.GuestBackend.connect(path, "s", "memory", Told())

    run(main)


@pytest.mark.parametrize("line", [b"7\n", b'{"id": 1}\n', b'{"id": 2}\n', b'{"ended": "s"}\n', b"[]\n", b"\xff\n"])
def test_an_owner_that_talks_nonsense_is_left(tmp_path, line, monkeypatch):
    monkeypatch.setattr(control.GuestBackend._ask, "__defaults__", (0.3,))

    async def main():
        def answer(request, writer):
            if request["op"] == "watch":
                send(writer, id=request["id"], result=STATUS)
            writer.write(line)

        host = Told()
        async with fake_owner(tmp_path, answer) as path:
            with pytest.raises(BackendError):
                await asyncio.wait_for(control.ask(path, "status", "s"), 5)
            try:
                guest = await control.GuestBackend.connect(path, "s", "memory", host)
            except ConnectionLost:
                return
            with pytest.raises(BackendError) as e:
                await asyncio.wait_for(guest.cdp_url(), 5)
            if host.ends:  # it was left, so it is not asked any more and waited for
                assert not isinstance(e.value, control.OwnerSilent)
            await guest.close_connections("over")

    run(main)


# --- a guest that talks nonsense ----------------------------------------------------------------------------------


@asynccontextmanager
async def served(handle):
    """A control server in a loop that fails the test for every exception that nobody handled."""
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    server = control.ControlServer(handle)
    path = await server.start()
    try:
        yield server, path
    finally:
        # Its own sweep knocks at its door too; what that opened is closed before the loop ends.
        await asyncio.wait({server._sweeping}, timeout=5)
        server.close()
        await asyncio.sleep(0.05)
        for _ in range(1000):
            if not server._writers:
                break
            await asyncio.sleep(0.005)
    assert not unhandled


async def line_back(path, line):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line + b"\n")
    try:
        return await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "line",
    [
        b"7", b"[]", b"null", b"{}", b"nonsense", b"\xff\xfe",
        b'{"op": "status", "session_id": "s"}',
        b'{"id": 1, "session_id": "s"}',
        b'{"id": 1, "op": "status"}',
        b'{"id": 1, "op": ["watch"], "session_id": "s"}',
        b'{"id": 1, "op": "watch", "session_id": ["s"]}',
        b'{"id": 1, "op": "status", "session_id": "s", "args": [1]}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_request_is_dropped(line):
    async def handle(op, session_id, args):
        return STATUS

    async def main():
        async with served(handle) as (_, path):
            assert await line_back(path, line) == b""
            assert await control.ask(path, "status", "s") == STATUS  # others are served as before

    run(main)


def test_an_answer_that_can_not_be_sent_is_an_error_and_no_silence():
    async def handle(op, session_id, args):
        if op == "raise":
            raise BackendError("half a pair: \ud800")
        return {"title": "\ud800"}

    async def main():
        async with served(handle) as (server, path):
            with pytest.raises(BackendError, match="can't be sent"):
                await asyncio.wait_for(control.ask(path, "status", "s"), 4)
            with pytest.raises(BackendError, match="half a pair: \\?"):
                await asyncio.wait_for(control.ask(path, "raise", "s"), 4)
            reader, writer = await asyncio.open_unix_connection(path)
            send(writer, id=1, op="watch", session_id="s")
            await reader.readline()
            await server.ended("s", BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail="it was \ud800"))
            assert json.loads(await asyncio.wait_for(reader.readline(), 5))["detail"] == "it was ?"
            writer.close()

    run(main)


def test_a_guest_that_does_not_read_keeps_no_other_from_hearing_of_the_end(monkeypatch):
    monkeypatch.setattr(control, "TELL_BUDGET", 0.1)

    async def handle(op, session_id, args):
        return "x" * 8_000_000 if op == "much" else STATUS

    async def main():
        async with served(handle) as (server, path):
            stuck = [await asyncio.open_unix_connection(path) for _ in range(4)]
            for _, writer in stuck:
                send(writer, id=1, op="watch", session_id="s")
                send(writer, id=2, op="much", session_id="s")
            reader, writer = await asyncio.open_unix_connection(path, limit=2**20)
            send(writer, id=1, op="watch", session_id="s")
            await reader.readline()
            end = BackendEnd(state=State.CLOSED, reason=CloseReason.MANUAL)
            await asyncio.wait_for(server.ended("s", end), 5)
            assert json.loads(await asyncio.wait_for(reader.readline(), 5))["ended"] == "s"
            for _, w in [*stuck, (reader, writer)]:
                w.close()

    run(main)


# --- the socket ---------------------------------------------------------------------------------------------------


async def nothing(op, session_id, args):
    return None


def test_a_sweep_in_the_middle_of_a_start_takes_nothing_that_lives(monkeypatch):
    start = asyncio.start_unix_server
    seen = []

    async def main():
        async def bound_and_swept(serve, path, **options):
            server = await start(serve, path, start_serving=False, **options)  # bound, but it does not listen yet
            await control.sweep(Path(path).parent)
            seen.append(os.path.exists(path))
            await server.start_serving()
            return server

        monkeypatch.setattr(asyncio, "start_unix_server", bound_and_swept)
        async with served(nothing) as (_, path):
            assert seen == [True]
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            await control.sweep(Path(path).parent)
            assert await control.ask(path, "status", "s") is None

    run(main)


def test_a_sweep_takes_what_nobody_listens_on_and_skips_what_it_can_not_tell(tmp_path, monkeypatch):
    for name in ("1-dead.sock", "2-dead.sock", "3-young.new", "4-old.new"):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(tmp_path / name))
    os.utime(tmp_path / "4-old.new", (time.time() - 7200,) * 2)
    (tmp_path / "0-odd.sock").symlink_to("0-odd.sock")  # a loop: an OSError of its own
    connect = asyncio.open_unix_connection

    async def refused(path, **options):
        if "1-dead" in path:
            raise PermissionError(path)
        return await connect(path, **options)

    monkeypatch.setattr(asyncio, "open_unix_connection", refused)
    assert asyncio.run(control.sweep(tmp_path)) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0-odd.sock", "1-dead.sock", "3-young.new"]


def test_a_start_does_not_wait_for_the_sweep(monkeypatch):
    async def main():
        swept = asyncio.Event()

        async def slow(folder):
            swept.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(control, "sweep", slow)
        server = control.ControlServer(nothing)
        await asyncio.wait_for(server.start(), 5)
        await asyncio.wait_for(swept.wait(), 5)
        server.close()
        await asyncio.sleep(0)

    run(main)


def test_a_start_that_fails_after_it_listens_leaves_no_server(monkeypatch):
    bound = []

    def fails(before, after):
        bound.append(before)
        raise PermissionError(str(after))

    monkeypatch.setattr(control, "_put_in_place", fails)

    async def main():
        server = control.ControlServer(nothing)
        with pytest.raises(PermissionError):
            await server.start()
        assert server.path is None
        assert not bound[0].exists()
        await asyncio.sleep(0)

    def open_now():
        return len(list(Path("/dev/fd").iterdir()))

    before = open_now()
    run(main)
    eventually(lambda: open_now() <= before)


def test_no_file_is_touched_on_the_loop(monkeypatch):
    loops = []
    for name in ("_folder", "_put_in_place"):
        real = getattr(control, name)

        def watched(*args, real=real):
            loops.append(threading.current_thread() is threading.main_thread())
            return real(*args)

        monkeypatch.setattr(control, name, watched)

    async def main():
        async with served(nothing):
            pass

    run(main)
    assert loops == [False, False]
