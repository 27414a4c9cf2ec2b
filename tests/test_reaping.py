"""Sessions whose owner died: released and ended once, by whoever comes later."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from both_ways import PATIENCE, eventually, in_threads
from remote_service import KEY, RemoteService
from server_rig import running

from lifecycle import Client, lease, recovery
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
client = Client(adapter=sys.argv[2], store=sys.argv[1], reap_on_start=False)
session = client.Session(labels={"who": "child"}, principal="ada").start()
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
    assert (last.labels, last.principal) == ({"who": "child"}, "ada")
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
    monkeypatch.setattr(recovery, "left_behind", lambda store, **_: recovery.LeftBehind(stale, {}))
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
        patch.setattr(recovery, "left_behind", lambda store, **_: 1 / 0)
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


# --- attachments without a session of their own -------------------------------------------------------------------

GUEST = """
import sys
from lifecycle import Client
client = Client(adapter="memory", store=sys.argv[1], reap_on_start=False)
guest = client.Session(sys.argv[2]).start()
print(guest.attachment_id, flush=True)
sys.stdin.read()
"""


def killed_guest(url, session_id):
    """The attachment of a guest whose process has been killed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", GUEST, url, session_id], stdin=pipe, stdout=pipe, text=True
    ) as process:
        attachment_id = process.stdout.readline().strip()
        process.kill()
    assert attachment_id
    return attachment_id


def story(url, attachment_id):
    with closing(open_store(url)) as store:
        return [(r.kind, r.event, r.source, r.dest) for _, r in store.records(attachment_id=attachment_id)]


@pytest.mark.parametrize("owner_is", ["alive", "over"])
def test_a_guest_whose_process_was_killed_has_an_end_in_the_log(url, owner_is):
    """Seen: nobody looked for one whose session went on, or ended in order after it."""
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store=url) as client, client.Session() as session:
        attachment_id = killed_guest(url, session.session_id)
        if owner_is == "over":
            session.stop()
        with Client(adapter=Left(), store=url, reap_on_start=False) as other:
            events = other.events()
            assert list(other.sessions.reap(dry_run=True)) == []
            assert story(url, attachment_id)[-1][0] == "commit"
            assert list(other.sessions.reap()) == [], "no session has ended"
            assert events.get(timeout=PATIENCE).attachment_id == attachment_id
            assert list(other.sessions.reap()) == []
        assert session.state is (State.ACTIVE if owner_is == "alive" else State.CLOSED)
    assert story(url, attachment_id) == [
        ("intent", "attach", "not_started", "active"),
        ("commit", "attach", "not_started", "active"),
        ("recovered", "fail", "active", "error"),
    ]
    with closing(open_store(url)) as store:
        assert store.open_attachments() == {}
        *_, last = [r for _, r in store.records(attachment_id=attachment_id)]
    assert (last.session_id, last.close_reason, last.cause) == (session.session_id, "owner_died", "reaper")


def test_a_guest_that_lives_is_left_alone_also_by_the_command_line(url, capsys):
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store=url) as client, client.Session() as session:
        dead = killed_guest(url, session.session_id)
        with client.Session(session.session_id, on_exit="detach") as guest:
            main(["sessions", "reap", "--store", url])
            assert "nothing to reap" in capsys.readouterr().out
            assert guest.state is State.ACTIVE
            assert story(url, guest.attachment_id)[-1][0] == "commit"
    assert story(url, dead)[-1][0] == "recovered"


def test_a_start_that_no_service_had_answered_has_an_end_in_the_log(url, tmp_path):
    """There is no session id yet, so there is no row either."""
    code = """
import sys, threading
from lifecycle import Client
from lifecycle_adapters.remote import RemoteAdapter
client = Client(adapter=RemoteAdapter(api_key="k", base_url=sys.argv[2]), store=sys.argv[1], reap_on_start=False)
events = client.events()
session = client.Session()
threading.Thread(target=session.start, daemon=True).start()
events.get()
print(session.attachment_id, flush=True)
sys.stdin.read()
"""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code, url, base], stdin=pipe, stdout=pipe, text=True) as process:
            attachment_id = process.stdout.readline().strip()
            process.kill()
    with Client(adapter="memory", store=url, reap_on_start=False) as client:
        client.sessions.reap()
    assert story(url, attachment_id) == [
        ("intent", "start", "not_started", "active"),
        ("recovered", "fail", "not_started", "error"),
    ]


# --- leases -------------------------------------------------------------------------------------------------------


def renewed(url):
    with closing(open_store(url)) as store:
        (writer,) = store.open_attachments().values()
    return writer.renewed_at


def test_an_owner_renews_its_lease_while_a_session_is_open(url, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    with Client(adapter=MemoryAdapter(), store=url) as client:
        with client.Session():
            first = renewed(url)
            eventually(lambda: renewed(url) > first, "the lease is renewed")
        eventually(client._core.journal.lease._tasks[0].done, "nothing is open any more")


def moved_to_another_host(url, *, silent_for):
    """What is in the store, as if a process on another host had written it and been silent since."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db, db:
        for table in ("sessions", "writers"):
            db.execute(f"UPDATE {table} SET host = 'another.host'")
        at = datetime.now(UTC) - timedelta(seconds=silent_for)
        db.execute("UPDATE writers SET renewed_at = ?", (at.isoformat(timespec="microseconds"),))


@pytest.mark.parametrize(("silent_for", "ends"), [(320, True), (240, False)])
def test_what_runs_at_a_service_is_ended_for_an_owner_on_another_host_whose_lease_is_long_over(url, silent_for, ends):
    service = RemoteService()
    try:
        env = {"NOTTE_API_KEY": KEY, "NOTTE_API_URL": service.url}
        session_id = killed(url, adapter="remote", env=env)
        moved_to_another_host(url, silent_for=silent_for)
        with Client(adapter=RemoteAdapter(api_key=KEY, base_url=service.url), store=url) as client:
            assert [s.session_id for s in client.sessions.reap()] == [session_id] * ends
        assert service.live == [session_id] * (not ends)
    finally:
        service.stop()
    assert row_of(url, session_id).state is (State.ERROR if ends else State.ACTIVE)


def test_a_browser_on_another_host_is_left_to_that_host(url):
    session_id = killed(url)
    moved_to_another_host(url, silent_for=3600)
    adapter = Left()
    with Client(adapter=adapter, store=url) as client:
        assert list(client.sessions.reap()) == []
    assert adapter.reaped == []
    assert row_of(url, session_id).state is State.ACTIVE


# --- what was spilled ---------------------------------------------------------------------------------------------

SPILLS = """
import os, signal, sys
from lifecycle import Client
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.errors import StoreError

class Full(SQLiteStore):
    full = False

    def write(self, records, rows):
        if self.full:
            raise StoreError("no space left, as scripted", store=self.url)
        super().write(records, rows)

store = Full(sys.argv[1].removeprefix("sqlite:///"))
client = Client(adapter="memory", store=store, reap_on_start=False)
session = client.Session(labels={"who": "child"}).start()
store.full = True
try:
    session.stop()
except StoreError as error:
    print(session.session_id, error.rescue_path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def spilled(url):
    """The id of a session whose end the store did not take, and the rescue file; its owner is dead."""
    command = [sys.executable, "-c", SPILLS, url]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    session_id, path = told.stdout.split()
    return session_id, Path(path)


def test_what_a_dead_process_could_not_write_is_taken_in_by_the_next(way, url):
    session_id, path = spilled(url)
    assert row_of(url, session_id).state is State.ACTIVE
    assert path.stat().st_mode & 0o777 == 0o600
    client = way.client(store=url, reap_on_start=False)
    assert list(client.sessions.reap(dry_run=True)) != [], "a dry run takes nothing in"
    assert path.exists()
    assert list(client.sessions.reap()) == [], "it had ended in order"
    assert not path.exists()
    row = row_of(url, session_id)
    assert (row.state, row.released, row.close_reason) == (State.CLOSED, True, "manual")
    *_, stopped, last = records = records_of(url, session_id)
    assert [r.attachment_seq for r in records] == [1, 2, 3, 4, 5]
    assert [r.kind for r in records] == ["intent", "commit", "intent", "commit", "spilled"]
    assert (stopped.event, stopped.dest, stopped.pid) == ("stop", "closed", row.owner_pid)
    assert (last.source, last.dest, last.cause, last.counts) == ("closed", "closed", "rescue file", {"records": 2})
    assert last.labels == {"who": "child"}
    assert last.writer != stopped.writer
    client.sessions.reap()
    assert len(records_of(url, session_id)) == 5


@pytest.mark.parametrize(
    "why", ["another store's", "of a process that lives", "torn", "a symlink", "the store refuses"]
)
def test_a_rescue_file_that_is_not_to_be_taken_in_stays(url, tmp_path, why, caplog):
    session_id, path = spilled(url)
    whole = path.read_text()
    if why == "another store's":
        path.write_text(whole.replace(url, f"{url}2"))
    elif why == "of a process that lives":
        started = process_started(os.getpid())
        head, *rest = whole.splitlines()
        told = json.loads(head)
        told["writer"] |= {"owner_pid": os.getpid(), "owner_started": started}
        path.write_text("\n".join([json.dumps(told), *rest]) + "\n")
    elif why == "torn":
        path.write_text(whole[:-40])
    elif why == "a symlink":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        head, write, *rest = whole.splitlines()
        told = json.loads(write)
        del told["records"][0]
        path.write_text("\n".join([head, json.dumps(told), *rest]) + "\n")  # a gap
    before = path.read_text()
    try:
        with Client(adapter=MemoryAdapter(), store=url, reap_on_start=False) as client:
            assert [s.session_id for s in client.sessions.reap()] == [session_id], "it is ended as any other"
            assert path.read_text() == before
            if why in ("torn", "the store refuses"):
                eventually(lambda: f"lifecycle.rescue_file_left path={path}" in caplog.text)
    finally:
        path.unlink()
    assert records_of(url, session_id)[-1].kind is RecordKind.RECOVERED


def test_a_rescue_file_whose_records_are_in_the_store_already_only_goes(url):
    """A process that ends between its late write and the removal of the file leaves one."""
    session_id, path = spilled(url)
    kept = path.read_bytes()
    with Client(adapter=MemoryAdapter(), store=url, reap_on_start=False) as client:
        client.sessions.reap()
        told = records_of(url, session_id)
        path.write_bytes(kept)
        client.sessions.reap()
    assert not path.exists()
    assert records_of(url, session_id) == told


def test_many_that_start_at_once_take_it_in_once(url):
    session_id, path = spilled(url)

    def start():
        with Client(adapter=MemoryAdapter(), store=url, reap_on_start=False) as client:
            client.sessions.reap()

    in_threads([start] * 8)
    assert not path.exists()
    assert [r.kind for r in records_of(url, session_id)].count(RecordKind.SPILLED) == 1
    assert row_of(url, session_id).state is State.CLOSED


def held_by_this_process(url, what):
    with closing(open_store(url)) as store:
        claim = Claim(
            key=what, adapter="(reaper)", attachment_id="another", session_id=None, owner_pid=os.getpid(),
            owner_started=process_started(os.getpid()), boot_id=boot_id(), host=host_name(),
        )  # fmt: skip
        assert store.claim(claim) is None
        return claim


def test_what_another_reaper_is_at_is_left_to_it(url):
    session_id, path = spilled(url)
    writer = json.loads(path.read_text().splitlines()[0])["writer"]["writer"]
    claim = held_by_this_process(url, writer)
    with Client(adapter="memory", store=url, reap_on_start=False) as client:
        assert list(client.sessions.reap()) == []
        assert path.exists()
        assert row_of(url, session_id).state is State.ACTIVE, "its end is being written by the other one"
        with closing(open_store(url)) as store:
            store.unclaim(claim)
        client.sessions.reap()
    assert not path.exists()
    assert row_of(url, session_id).state is State.CLOSED


def test_a_guest_that_died_is_ended_once_by_many(url):
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store=url) as client, client.Session() as session:
        dead = killed_guest(url, session.session_id)
        claim = held_by_this_process(url, dead)

        def reap():
            with Client(adapter=MemoryAdapter(), store=url, reap_on_start=False) as other:
                other.sessions.reap()

        reap()
        assert story(url, dead)[-1][0] == "commit", "another one is at it"
        with closing(open_store(url)) as store:
            store.unclaim(claim)
        in_threads([reap] * 8)
    assert [kind for kind, *_ in story(url, dead)].count("recovered") == 1


def test_a_guest_that_another_has_ended_in_between_is_left(url, monkeypatch):
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store=url) as client, client.Session() as session:
        dead = killed_guest(url, session.session_id)
        with closing(open_store(url)) as store:
            stale = recovery.LeftBehind([], {dead: store.open_attachments()[dead]})
        monkeypatch.setattr(recovery, "left_behind", lambda store, **_: stale)
        for _ in range(2):
            client.sessions.reap()
    assert [kind for kind, *_ in story(url, dead)].count("recovered") == 1
