"""Sessions whose owner died: released and ended once, by whoever comes later."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from both_ways import PATIENCE, eventually, in_threads
from remote_service import KEY, RemoteService
from server_rig import running

from lifecycle import Client, recovery
from lifecycle.audit import RecordKind, StepOutcome
from lifecycle.cli import main
from lifecycle.errors import ConfigError, ReleaseFailed, SessionFailed, StoreError
from lifecycle.identity import boot_id, host_name, process_started, same_process
from lifecycle.ports import Claim
from lifecycle.states import STEPS, CloseReason, InFlight, State, Step, StepRule
from lifecycle.stores import open_store
from lifecycle_adapters.memory import MemoryAdapter
from lifecycle_adapters.remote import RemoteAdapter

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="no SIGKILL")]

ACTIVE = """
import sys
from lifecycle import Client
session = Client(adapter=sys.argv[2], store=sys.argv[1], reap_on_start=False).Session(labels={"who": "child"}).start()
print(session.session_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 's.db'}"


@contextmanager
def owner(url, adapter="memory", env=None):
    """A process that owns one active session, killed at the end of the block if not before."""
    command = [sys.executable, "-c", ACTIVE, url, adapter]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **(env or {})}) as process:
        try:
            process.session_id = process.stdout.readline().strip()
            assert process.session_id
            yield process
        finally:
            process.kill()


def killed(url, **options):
    """The id of a session whose owner has been killed."""
    with owner(url, **options) as process:
        return process.session_id


def row_of(url, session_id):
    with closing(open_store(url)) as store:
        return store.session(session_id)


def records_of(url, session_id):
    with closing(open_store(url)) as store:
        return [record for _, record in store.records(session_id=session_id)]


class Left(MemoryAdapter):
    """A memory adapter whose sessions leave something behind."""

    def __init__(self, *outcomes):
        super().__init__()
        self.outcomes = list(outcomes)
        self.reaped = []

    async def reap(self, session_id, facts):
        self.reaped.append(session_id)
        await asyncio.sleep(0)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome == "hang":
            await asyncio.Event().wait()
        if outcome is not None:
            raise outcome


def test_a_session_of_a_killed_process_is_ended_in_the_log(way, url):
    session_id = killed(url)
    client = way.client(store=url, reap_on_start=False)
    (would,) = client.sessions.reap(dry_run=True)
    assert (would.session_id, would.status, would.close_reason) == (session_id, "error", "owner_died")
    assert row_of(url, session_id).state is State.ACTIVE, "a dry run changes nothing"

    (status,) = client.sessions.reap()
    assert (status.session_id, status.status, status.close_reason) == (session_id, "error", "owner_died")
    assert "has ended" in status.error
    assert status.closed_at >= status.created_at
    *_, last = records = records_of(url, session_id)
    assert [r.attachment_seq for r in records] == [1, 2, 3]
    assert (last.kind, last.source, last.dest, last.cause) == ("recovered", "active", "error", "reaper")
    assert (last.close_reason, last.in_flight, last.terminal) == ("owner_died", InFlight.NOTHING, True)
    assert [(s.step, s.outcome) for s in last.steps] == [("release_backend", StepOutcome.DONE)]
    assert last.labels == {"who": "child"}
    row = row_of(url, session_id)
    assert (row.state, row.released, row.control) == (State.ERROR, True, None)

    assert list(client.sessions.reap()) == []
    assert [s.session_id for s in client.sessions.list(status="error")] == [session_id]
    assert client.sessions.get(session_id).close_reason is CloseReason.OWNER_DIED
    with pytest.raises(SessionFailed):
        client.Session(session_id).start()


def test_the_end_is_told_to_who_reads_the_events_and_to_the_log_of_the_host(url, caplog):
    session_id = killed(url)
    with Client(adapter=MemoryAdapter(), store=url) as client:
        events = client.events()
        client.sessions.reap()
        assert [(r.kind, r.session_id) for r in [events.get(timeout=PATIENCE)]] == [("recovered", session_id)]
    eventually(lambda: f"lifecycle.recovered kind=recovered session_id={session_id}" in caplog.text)


def test_a_start_that_its_owner_did_not_live_to_see_is_closed_too(url):
    code = """
import sys, threading
from lifecycle import Client
from lifecycle_adapters.memory import Fault, MemoryAdapter
client = Client(adapter=MemoryAdapter(faults=[Fault(step="open_backend", kind="hang")]), store=sys.argv[1])
events = client.events()
threading.Thread(target=client.Session().start, daemon=True).start()
print(events.get().session_id, flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, url], stdin=pipe, stdout=pipe, text=True) as process:
        session_id = process.stdout.readline().strip()
        process.kill()
    with Client(adapter=MemoryAdapter(), store=url) as client:
        (status,) = client.sessions.reap()
    assert (status.session_id, status.close_reason) == (session_id, "owner_died")
    intent, last = records_of(url, session_id)
    assert (intent.kind, intent.event) == ("intent", "start")
    assert (last.kind, last.source, last.dest, last.in_flight) == ("recovered", "not_started", "error", InFlight.START)


def test_a_guest_that_died_with_the_owner_is_ended_too_and_one_elsewhere_ends_itself(url):
    code = """
import sys
from lifecycle import Client
client = Client(adapter="memory", store=sys.argv[1])
session = client.Session().start()
guest = client.Session(session.session_id).start()
over = client.Session(session.session_id, on_exit="detach").start()
over.detach()
print(session.session_id, guest.attachment_id, flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, url], stdin=pipe, stdout=pipe, text=True) as process:
        session_id, attachment_id = process.stdout.readline().split()
        with Client(adapter=MemoryAdapter(), store=url) as client:
            elsewhere = client.Session(session_id).start()
            process.kill()
            assert elsewhere.wait_ended(timeout=PATIENCE).close_reason is CloseReason.OWNER_DIED
            begun = next(r for r in records_of(url, session_id) if r.attachment_id == attachment_id)
            busy = dataclasses.replace(
                begun, writer="another", writer_seq=1, attachment_id="busy", attachment_seq=1, pid=os.getpid()
            )
            with closing(open_store(url)) as store:
                store.write([busy], [])  # one of a process that lives, and has not got to its end yet
            assert [s.session_id for s in client.sessions.reap()] == [session_id]
    records = records_of(url, session_id)
    ends = {}
    for r in records:
        if r.terminal:
            assert r.attachment_id not in ends
            ends[r.attachment_id] = r
    assert ends.keys() == {r.attachment_id for r in records} - {"busy"}
    assert (ends[attachment_id].kind, ends[attachment_id].source, ends[attachment_id].dest) == (
        "recovered", "active", "error",
    )  # fmt: skip
    assert ends[elsewhere.attachment_id].kind == "commit"
    assert [r.kind for r in records].count(RecordKind.RECOVERED) == 2


def test_a_live_owner_and_one_of_another_host_are_left_alone(url):
    with owner(url) as process:
        with closing(open_store(url)) as store:
            row = store.session(process.session_id)
            elsewhere = dataclasses.replace(row, session_id="elsewhere", host="another.example", owner_pid=2**22 + 1)
            reused = dataclasses.replace(
                row, session_id="reused", attachment_id="reused", owner_pid=os.getpid(), owner_started="1"
            )
            store.write([], [elsewhere, reused])
        with Client(adapter=MemoryAdapter(), store=url) as client, client.Session() as mine:
            assert [s.session_id for s in client.sessions.reap()] == ["reused"], "a pid says nothing by itself"
            assert mine.state is State.ACTIVE
            assert client.sessions.get(process.session_id).status is State.ACTIVE


def test_only_the_adapter_of_a_session_reaps_it(url):
    session_id = killed(url)

    class Other(MemoryAdapter):
        name = "other"

    with Client(adapter=Other(), store=url) as client:
        assert list(client.sessions.reap()) == []
    assert row_of(url, session_id).state is State.ACTIVE


def test_many_reapers_at_once_do_it_once(url):
    ids = {killed(url) for _ in range(3)}
    adapter = Left()
    barrier = threading.Barrier(6)

    def reap():
        with Client(adapter=adapter, store=url) as client:
            client.sessions.list()
            barrier.wait(PATIENCE)
            return {s.session_id for s in client.sessions.reap()}

    told = in_threads([reap] * 6)
    assert sorted(i for some in told for i in some) == sorted(ids)
    assert sorted(adapter.reaped) == sorted(ids)
    for session_id in ids:
        assert [r.kind for r in records_of(url, session_id)].count(RecordKind.RECOVERED) == 1
    with closing(open_store(url)) as store:
        claim = Claim(
            key=row_of(url, ids.pop()).attachment_id, adapter="(reaper)", attachment_id="me", session_id=None,
            owner_pid=os.getpid(), owner_started="", boot_id="", host="",
        )  # fmt: skip
        assert store.claim(claim) is None, "nobody holds a claim for longer than it takes"


def test_what_another_has_reaped_in_between_is_left(url, monkeypatch):
    stale = [row_of(url, killed(url))]
    monkeypatch.setattr(recovery, "left_behind", lambda store: stale)
    adapter = Left()
    with Client(adapter=adapter, store=url) as client:
        assert [len(client.sessions.reap()) for _ in range(2)] == [1, 0]
    assert adapter.reaped == [stale[0].session_id]


@pytest.mark.parametrize("alive", [True, False])
def test_a_reaper_that_died_at_it_is_followed_by_another(url, alive):
    session_id = killed(url)
    pid = os.getppid()
    started = process_started(pid) if alive else "1"
    held = Claim(
        key=row_of(url, session_id).attachment_id, adapter="(reaper)", attachment_id="another", session_id=session_id,
        owner_pid=pid, owner_started=started, boot_id=boot_id(), host=host_name(),
    )  # fmt: skip
    with closing(open_store(url)) as store:
        assert store.claim(held) is None
    with Client(adapter=MemoryAdapter(), store=url) as client:
        assert [s.session_id for s in client.sessions.reap()] == ([] if alive else [session_id])


@pytest.mark.parametrize("how", ["refused", "hang"])
def test_what_could_not_be_released_is_told_kept_and_tried_again(url, how, monkeypatch):
    session_id = killed(url)
    if how == "hang":
        rule = StepRule(policy=STEPS[Step.RELEASE_BACKEND].policy, budget=0.05)
        monkeypatch.setattr(recovery, "STEPS", {**STEPS, Step.RELEASE_BACKEND: rule})
    outcome = "hang" if how == "hang" else ReleaseFailed("the service is away")
    with Client(adapter=Left(outcome, outcome, None), store=url, reap_on_start=False) as client:
        (first,) = client.sessions.reap()
        assert (first.status, first.close_reason) == ("error", "owner_died")
        assert ("the service is away" if how == "refused" else "not within 0.05 seconds") in first.error
        assert row_of(url, session_id).released is False
        *_, last = records_of(url, session_id)
        assert (last.terminal, last.error, last.steps[0].outcome) == (True, "ReleaseFailed", StepOutcome.FAILED)

        (again,) = client.sessions.reap()
        assert again.error == first.error
        assert len(records_of(url, session_id)) == 3, "nothing new, nothing written"

        (third,) = client.sessions.reap()
        assert (third.close_reason, third.closed_at) == ("owner_died", first.closed_at)
        *_, last = records_of(url, session_id)
        assert (last.kind, last.source, last.dest, last.terminal) == ("recovered", "error", "error", False)
        assert row_of(url, session_id).released is True
        assert list(client.sessions.reap()) == []


def test_a_store_that_takes_nothing_is_told(url, monkeypatch):
    session_id = killed(url)
    with Client(adapter=MemoryAdapter(), store=url, reap_on_start=False) as client:
        client.sessions.list()
        store = client._core._opened.store

        def full(records, rows):
            raise StoreError("the disk is full", store=url)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write", full)
            with pytest.raises(StoreError, match="the disk is full"):
                client.sessions.reap()
        assert row_of(url, session_id).state is State.ACTIVE


def test_the_start_of_a_client_reaps_and_the_next_reap_tells_of_it_once(way, url):
    session_id = killed(url)
    client = way.client(store=url)
    eventually(lambda: row_of(url, session_id).state is State.ERROR)
    assert row_of(url, session_id).released is True
    assert [s.session_id for s in client.sessions.reap()] == [session_id]
    assert list(client.sessions.reap()) == []
    assert [r.kind for r in records_of(url, session_id)].count(RecordKind.RECOVERED) == 1


def test_whether_it_does_is_yes_or_no(url):
    with pytest.raises(ConfigError, match=r"reap_on_start.*'no'.*True or False"):
        Client(adapter=MemoryAdapter(), store=url, reap_on_start="no")


def test_the_start_of_a_client_does_not_wait_for_it_and_its_end_not_long(url, monkeypatch):
    session_id = killed(url)
    monkeypatch.setattr("lifecycle.core.REAP_GRACE", 0.05)
    adapter = Left("hang")
    began = time.monotonic()
    with Client(adapter=adapter, store=url) as client, client.Session() as session:
        assert session.state is State.ACTIVE
        eventually(lambda: adapter.reaped == [session_id])
    assert time.monotonic() - began < STEPS[Step.RELEASE_BACKEND].budget
    assert row_of(url, session_id).state is State.ACTIVE, "left to the next"
    with Client(adapter=adapter, store=url) as client:
        assert [s.session_id for s in client.sessions.reap()] == [session_id]
    assert adapter.reaped == [session_id] * 2


def test_one_that_is_given_up_as_it_takes_its_claim_holds_nobody_else_up(url, monkeypatch):
    session_id = killed(url)
    monkeypatch.setattr("lifecycle.core.REAP_GRACE", 0.0)
    claiming, go_on = threading.Event(), threading.Event()
    client = Client(adapter=MemoryAdapter(), store=url, reap_on_start=False)
    store, core = client._core._opened.store, client._core
    original = store.claim

    def slow(claim, **options):
        claiming.set()
        assert go_on.wait(PATIENCE)
        return original(claim, **options)

    monkeypatch.setattr(store, "claim", slow)

    async def reaping(_):
        core._reaping = core.supervisor.spawn(core._reap(dry_run=False), "reap")

    core.supervisor.call(reaping)
    assert claiming.wait(PATIENCE)
    closing = threading.Thread(target=client.close)
    closing.start()
    eventually(core._reaping.cancelling)
    go_on.set()
    closing.join(PATIENCE)
    monkeypatch.undo()
    assert row_of(url, session_id).state is State.ACTIVE
    with Client(adapter=MemoryAdapter(), store=url) as later:
        assert [s.session_id for s in later.sessions.reap()] == [session_id]


def test_one_at_the_start_that_fails_is_told_to_the_log_of_the_host_and_tried_again(url, caplog, monkeypatch):
    session_id = killed(url)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "left_behind", lambda store: 1 / 0)
        with Client(adapter=MemoryAdapter(), store=url):
            eventually(lambda: "lifecycle.reap_failed error=ZeroDivisionError" in caplog.text)
    assert row_of(url, session_id).state is State.ACTIVE
    with Client(adapter=MemoryAdapter(), store=url) as client:
        assert [s.session_id for s in client.sessions.reap()] == [session_id]


def test_a_server_ends_what_the_one_before_left(url):
    session_id = killed(url)
    with running(adapter="memory", store=url) as server:
        eventually(lambda: server.get(session_id)["status"] == "error")
        listed = server.http.get("/sessions/", params={"only_active": "true"}).json()
        assert listed["items"] == []
    assert row_of(url, session_id).close_reason is CloseReason.OWNER_DIED


def test_a_service_that_has_many_to_release_is_asked_for_a_few_at_a_time(url):
    row = row_of(url, killed(url))
    many = [dataclasses.replace(row, session_id=f"s{n}", attachment_id=f"a{n}") for n in range(100)]
    with closing(open_store(url)) as store:
        store.write([], many)

    class Busy(Left):
        now = most = 0
        enough = threading.Event()

        async def reap(self, session_id, facts):
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now >= recovery._AT_ONCE:
                self.enough.set()
            while not self.enough.is_set():
                await asyncio.sleep(0.001)
            await super().reap(session_id, facts)
            self.now -= 1

    adapter = Busy()
    with Client(adapter=adapter, store=url) as client:
        assert len(client.sessions.reap()) == 101
    assert adapter.most == recovery._AT_ONCE


def test_a_stopped_chromium_that_outlived_its_owner_is_ended(url):
    with owner(url, adapter="local") as process:
        row = row_of(url, process.session_id)
        pid, folder = int(row.facts["pid"]), Path(row.facts["profile"])
        started = process_started(pid)
        assert folder.is_dir()
        os.killpg(pid, signal.SIGSTOP)
        process.kill()
        process.wait(PATIENCE)
        assert process_started(pid) == started, "stopped, it can't see that its owner is gone"
    try:
        with Client(adapter="local", store=url) as client:
            (status,) = client.sessions.reap()
        assert (status.status, status.close_reason) == ("error", "owner_died")
        assert row_of(url, process.session_id).released is True
        eventually(lambda: not same_process(pid, started, boot_id(), host_name()))
        assert not folder.exists()
    finally:
        if same_process(pid, started, boot_id(), host_name()):
            os.killpg(pid, signal.SIGKILL)  # stopped as it is, nothing else would end it


def test_a_session_of_a_service_is_stopped_there_and_nowhere_else(url):
    service = RemoteService()
    other = RemoteService()
    try:
        env = {"NOTTE_API_KEY": KEY, "NOTTE_API_URL": service.url}
        session_id = killed(url, adapter="remote", env=env)
        assert service.live == [session_id]
        with Client(adapter=RemoteAdapter(api_key=KEY, base_url=other.url), store=url) as client:
            (status,) = client.sessions.reap()
            assert f"runs at {service.url}" in status.error
        assert service.live == [session_id]
        with Client(adapter=RemoteAdapter(api_key=KEY, base_url=service.url), store=url) as client:
            (status,) = client.sessions.reap()
        assert service.live == []
        assert row_of(url, session_id).released is True
    finally:
        service.stop()
        other.stop()


def test_the_command(url, capsys, monkeypatch):
    def command(*args):
        code = main(("sessions", "reap", "--store", url, *args))
        return code, capsys.readouterr()

    code, printed = command()
    assert (code, printed.out.startswith("nothing to reap in ")) == (0, True)
    session_id = killed(url)
    code, printed = command("--dry-run")
    assert (code, session_id[:8] in printed.out, "nothing was changed" in printed.err) == (0, True, True)
    assert row_of(url, session_id).state is State.ACTIVE
    code, printed = command("--json")
    (told,) = json.loads(printed.out)
    assert (code, told["session_id"], told["close_reason"], told["released"]) == (0, session_id, "owner_died", True)

    async def refuse(self, session_id, facts):
        raise ReleaseFailed("it is stuck")

    monkeypatch.setattr(MemoryAdapter, "reap", refuse, raising=False)
    session_id = killed(url)
    code, printed = command()
    assert (code, "not released" in printed.out, "it is stuck" in printed.err) == (1, True, True)


def test_the_command_reaps_what_it_has_an_adapter_for(url, capsys):
    session_id = killed(url)
    with closing(open_store(url)) as store:
        row = store.session(session_id)
        theirs = [dataclasses.replace(row, session_id=n, attachment_id=n, adapter=n) for n in ("aliens", "remote")]
        store.write([], theirs)
    code = main(("sessions", "reap", "--store", url, "--json"))
    printed = capsys.readouterr()
    assert (code, [told["session_id"] for told in json.loads(printed.out)]) == (1, [session_id])
    assert "sessions of the adapter aliens are left" in printed.err
    assert "sessions of the adapter remote are left" in printed.err
    assert "NOTTE_API_KEY" in printed.err
    assert row_of(url, "aliens").state is State.ACTIVE
