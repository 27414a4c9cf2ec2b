"""A PostgreSQL server that goes down in the middle of an edge: at each write and each step of each."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing

import pytest
from postgres_rig import server as run_server

from lifecycle import Client, ConfigError, RecordKind, State, StoreError, journal
from lifecycle.audit import verify
from lifecycle.spill import read
from lifecycle.stores.postgres import PostgresStore
from lifecycle.testing import ManualClock
from lifecycle.testing.striking import StruckAdapter
from lifecycle.testing.ways import eventually
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.slow

COOKIE = {"name": "a", "value": "1", "domain": "site.test", "path": "/"}


@pytest.fixture(scope="module")
def own_server():
    """A server of this module's own, which its tests may end."""
    with run_server() as made:
        made.ask("CREATE DATABASE made")
        PostgresStore(made.url("made")).make()
        yield made


class Down:
    """Ends the server at the nth call of a method, of the store or of what the adapter opens."""

    def __init__(self, server, method, nth):
        self._server, self.method, self._left = server, method, nth
        self.struck = 0

    def armed(self, name):
        if name != self.method:
            return
        self._left -= 1
        if self._left == 0:
            self.struck += 1
            self._server.stop("immediate")

    async def through(self, method, call, *args):
        self.armed(method)
        return await call(*args)


class FallingStore(PostgresStore):
    """A store whose server is ended before or after a write."""

    down = None

    def write(self, records, rows):
        if self.down:
            self.down.armed("before write")
        super().write(records, rows)
        if self.down:
            self.down.armed("after write")


ENDINGS = {
    "stop": (lambda session, *_: session.stop(), (State.CLOSED, "manual")),
    "expire": (lambda session, adapter, clock: clock.advance(61), (State.TIMED_OUT, "idle_timeout")),
    "fail": (lambda session, adapter, clock: adapter.crash(session.session_id), (State.ERROR, "crash")),
    "detach": (lambda session, *_: session.detach(), (State.CLOSED, "detached")),
}
IN_START = [
    ("before write", 1),
    ("after write", 1),
    ("open", 1),
    ("set_cookies", 1),
    ("before write", 2),
    ("after write", 2),
]
IN_ENDING = [
    ("before write", 1), ("after write", 1), ("get_cookies", 1), ("close_connections", 1), ("release", 1),
    ("before write", 2), ("after write", 2),
]  # fmt: skip


def happens(event, method):
    """False for what an edge does not do: a browser that is gone or lives on is not asked everything."""
    return (event, method) not in {("fail", "get_cookies"), ("detach", "release")}


@pytest.fixture
def life(own_server, monkeypatch, tmp_path):
    """What a session is made with, on a database of its own, and a look at all that came of it."""
    monkeypatch.setattr(journal, "RETRY_SECONDS", (0.05, 0.2))
    (tmp_path / "cookies.json").write_text(json.dumps([COOKIE]))
    made = Life(own_server, tmp_path / "cookies.json")
    yield made
    if own_server.pid is None:
        own_server.start()


class Life:
    def __init__(self, server, cookies):
        self.server, self.cookies = server, cookies
        self.url = server.url(server.fresh())
        self.store, self.clock = FallingStore(self.url, seconds=5), ManualClock()
        self.adapter = MemoryAdapter(can_live_on=True)

    def client(self, down, *, spool):
        adapter = StruckAdapter(self.adapter, down)
        return Client(adapter=adapter, store=self.store, clock=self.clock, reap_on_start=False, spool=spool)

    def session(self, client):
        return client.Session(cookie_file=str(self.cookies), timeout_minutes=1, labels={"a": "b"})

    def is_whole(self, *, ends, spilled):
        """The log is whole, every attachment that began has one end, and what came late is said to have."""
        with closing(PostgresStore(self.url)) as store:
            store.open()
            found = verify(store)
            assert found.ok, found.problems
            records = [record for _, record in store.records()]
            assert Counter(r.attachment_id for r in records if r.terminal) == Counter(
                {r.attachment_id: 1 for r in records if r.opens}
            )
            assert [(r.dest, r.close_reason) for r in records if r.terminal] == ends
            late = [r for r in records if r.kind is RecordKind.SPILLED]
            assert [bool(late), sum(r.counts["records"] for r in late)] == [bool(spilled), spilled]
            assert store.open_attachments() == {}
            return records


def attached(client):
    """The journal of a client."""
    return client._core_now.journal


@pytest.mark.parametrize("spool", [False, True], ids=["refuse", "spool"])
@pytest.mark.parametrize(("method", "nth"), IN_START)
def test_a_start(life, method, nth, spool):
    down = Down(life.server, method, nth)
    with life.client(down, spool=spool) as client:
        life.store.down = down
        session = life.session(client)
        refused = not spool and (method, nth) != ("after write", 2)
        if refused:
            with pytest.raises(StoreError) as e:
                session.start()
            assert session.state is State.ERROR
            assert life.adapter.live == [], "no browser without a record of it"
            assert (life.adapter.opened == []) == ((method, nth) == ("before write", 1))
            assert e.value.rescue_path
        else:
            session.start()
            assert session.state is State.ACTIVE
            assert len(life.adapter.live) == 1
        spilled = attached(client).refused()
        if spilled:
            assert len(read(attached(client)._rescue).records) == spilled
        life.server.start()
        eventually(lambda: attached(client).refused() == 0)
        eventually(lambda: attached(client)._rescue is None)
        session.stop()
    assert down.struck == 1
    assert life.adapter.live == []
    life.is_whole(ends=[(State.ERROR, "backend") if refused else (State.CLOSED, "manual")], spilled=spilled)


@pytest.mark.parametrize("spool", [False, True], ids=["refuse", "spool"])
@pytest.mark.parametrize(
    ("event", "method", "nth"), [(e, m, n) for e in ENDINGS for m, n in IN_ENDING if happens(e, m)]
)
def test_an_ending(life, event, method, nth, spool):
    end, expected = ENDINGS[event]
    down = Down(life.server, method, nth)
    with life.client(down, spool=spool) as client:
        session = life.session(client).start()
        life.store.down = down
        told = []
        try:
            end(session, life.adapter, life.clock)
        except StoreError as e:
            told.append(e)
        session.wait_ended(timeout=30)
        eventually(lambda: down.struck)
        eventually(attached(client)._flusher.done)
        assert session.state is expected[0]
        assert life.adapter.live == ([session.session_id] if event == "detach" else [])
        late = (method, nth) != ("after write", 2)
        asked = event in ("stop", "detach")
        assert len(told) == (1 if late and asked and not spool else 0), "who ended it is told, once it is released"
        spilled = attached(client).refused()
        assert bool(spilled) == late
        if late:
            kept = read(attached(client)._rescue)
            assert [r.terminal for r in kept.records][-1]
            assert kept.rows[-1].state is expected[0]
        assert json.loads(life.cookies.read_text())[0]["name"] == "a"
        life.server.start()
        eventually(lambda: attached(client).refused() == 0)
    records = life.is_whole(ends=[expected], spilled=spilled)
    assert [r.kind for r in records if r.event == event][:2] == [RecordKind.INTENT, RecordKind.COMMIT]


@pytest.mark.parametrize("spool", [False, True], ids=["refuse", "spool"])
def test_while_it_is_down_and_afterwards(life, spool, captured):
    """Session after session; a program that is told to spool is held up by none of it, and loses none of it."""
    with life.client(Down(life.server, "", 0), spool=spool) as client:
        life.session(client).start().stop()
        life.server.stop("immediate")
        for n in range(5):
            session = life.session(client)
            if spool:
                session.start()
                session.stop()
            else:
                with pytest.raises(StoreError) as e:
                    session.start()
                assert "lifecycle-records-" in e.value.rescue_path
                assert session.state is State.ERROR
            assert len(life.adapter.opened) == (n + 2 if spool else 1)
        with pytest.raises(StoreError):
            client.sessions.list()
        life.server.start()
        eventually(lambda: attached(client).refused() == 0)
        life.session(client).start().stop()
    down = [(State.CLOSED, "manual") if spool else (State.ERROR, "backend")] * 5
    ends = [(State.CLOSED, "manual"), *down, (State.CLOSED, "manual")]
    life.is_whole(ends=ends, spilled=20)
    assert [e["event"] for e in captured].count("lifecycle.store_refused") == 1


def test_a_process_that_ends_while_it_is_down_is_followed_by_one_that_takes_it_in(life):
    client = life.client(Down(life.server, "", 0), spool=True)
    session = life.session(client).start()
    life.server.stop("immediate")
    session.stop()
    with pytest.raises(StoreError, match=r"2 record\(s\) could not be written; they are kept in"):
        client.close()
    path = attached(client)._rescue
    assert [r.event for r in read(path).records] == ["stop", "stop"]
    life.server.start()
    whole = path.read_bytes()
    head, *rest = whole.split(b"\n")
    told = json.loads(head)
    told["writer"] |= {"owner_pid": 2**22 + 1}  # as of a process that has ended
    path.write_bytes(b"\n".join([json.dumps(told).encode(), *rest]))
    with Client(adapter="memory", store=life.url) as later:
        later.sessions.reap()
    assert not path.exists()
    life.is_whole(ends=[(State.CLOSED, "manual")], spilled=2)


def test_a_client_is_not_made_while_it_is_down(life):
    life.server.stop("immediate")
    with pytest.raises(ConfigError, match="can't be reached"):
        Client(adapter="memory", store=life.url, spool=True)
