"""Lives of sessions drawn at random: whatever meets whatever, each has one end, nothing leaks, the log has no gap."""

from __future__ import annotations

import random
import threading

import pytest
from both_ways import PATIENCE, FailingStore, eventually

from lifecycle import Client, LifecycleError, RecordKind, State
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import Fault, MemoryAdapter

pytestmark = pytest.mark.slow

STEPS = ["open_backend", "load_cookies", "save_cookies", "close_connections", "release_backend"]
KINDS = ["fail", "hang", "crash"]
COOKIE = {"name": "sid", "value": "42", "domain": "example.com", "path": "/"}


class Life:
    """One client, a few sessions and guests, and threads that do to them what the seed says."""

    def __init__(self, seed, tmp_path):
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.store = FailingStore()
        places = [(step, nth) for step in STEPS for nth in range(1, 9)]
        drawn = {place: self.rng.choice(KINDS) for place in self.rng.sample(places, self.rng.randrange(0, 14))}
        if self.rng.random() < 0.4:  # a release that fails for good
            first = self.rng.randrange(1, 6)
            drawn |= {("release_backend", nth): "fail" for nth in range(first, first + 3)}
        self.faults = [Fault(step=step, kind=kind, nth=nth) for (step, nth), kind in drawn.items()]
        self.adapter = MemoryAdapter(faults=self.faults)
        self.client = Client(adapter=self.adapter, store=self.store, clock=self.clock)
        self.cookie_file = tmp_path / f"cookies-{seed}.json"
        self.sessions = [self.make() for _ in range(3)]
        self.guests = []
        self.surprises = []
        self.over = threading.Event()

    def make(self):
        options = {"timeout_minutes": self.rng.choice([0.5, 1, 3]), "start_timeout_minutes": self.rng.choice([0.2, 1])}
        if self.rng.random() < 0.6:
            options["cookie_file"] = self.cookie_file
        session = self.client.Session(**options)
        for event in ("start", "stop", "expire", "fail"):
            if self.rng.random() < 0.2:
                session.hook(before=event, on_error=self.rng.choice(["raise", "log"]))(
                    self.hook(self.rng.random() < 0.5)
                )
        return session

    def hook(self, bad):
        def hook(session):
            if bad:
                raise ValueError("a bad hook")

        return hook

    def act(self, rng):
        session = rng.choice(self.sessions)
        match rng.randrange(12):
            case 0 | 1 | 2:
                session.start()
            case 3:
                session.stop(timeout=rng.choice([None, 0.01, 1]))
            case 4:
                session.set_cookies(cookies=[COOKIE])
            case 5:
                session.get_cookies()
            case 6:
                self.adapter.crash(session.session_id)
            case 7:
                guest = self.client.Session(session.session_id, on_exit="detach")
                self.guests.append(guest)
                guest.start()
                guest.get_cookies()
                guest.stop() if rng.random() < 0.3 else guest.detach()
            case 8:
                session.extend(minutes=1)
            case 9:
                session.status()
                session.history()
            case 10:
                self.client.sessions.stop(session.session_id)
            case 11:
                self.store.broken = rng.random() < 0.3

    def work(self, seed):
        rng = random.Random(seed)
        for _ in range(12):
            try:
                self.act(rng)
            except (LifecycleError, TimeoutError):
                continue  # told, as it should be
            except BaseException as e:
                self.surprises.append(e)

    def weather(self, seed):
        """Time passes, and what hangs goes on some time."""
        rng = random.Random(seed)
        while not self.over.wait(0.002):
            self.clock.advance(rng.choice([0, 0.5, 3, 8, 20]))
            if rng.random() < 0.05:
                self.adapter.release_hangs()

    def live(self):
        seeds = [self.rng.random() for _ in range(4)]
        sky = threading.Thread(target=self.weather, args=(seeds[0],))
        workers = [threading.Thread(target=self.work, args=(seed,)) for seed in seeds[1:]]
        sky.start()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
        stuck = [w for w in workers if w.is_alive()]
        self.store.broken = False
        try:
            self.client.close()
        except LifecycleError as e:
            self.told = e
        self.over.set()
        sky.join()
        assert not stuck, "a call has not come back"

    def check(self):
        assert self.surprises == []
        by_attachment = {}
        numbers = {}
        for _, r in self.store.records():
            numbers.setdefault(r.writer, []).append(r.writer_seq)
            by_attachment.setdefault(r.attachment_id, []).append(r)
        for seqs in numbers.values():
            assert seqs == list(range(1, len(seqs) + 1))
        for handle in [*self.sessions, *self.guests]:
            records = by_attachment.get(handle.attachment_id, [])
            begun = any(r.kind is RecordKind.INTENT for r in records)
            assert [r.attachment_seq for r in records] == list(range(1, len(records) + 1))
            assert sum(r.terminal for r in records) == begun, [(r.kind, r.event, r.dest) for r in records]
            assert handle.state.terminal == begun
            if begun:
                [end] = [r for r in records if r.terminal]
                assert end.dest is handle.state
                assert end.close_reason is handle.status().close_reason
                entered = [r for r in records if r.kind is RecordKind.COMMIT and r.dest is State.ACTIVE]
                assert len(entered) <= 1
                assert end.source is (State.ACTIVE if entered else State.NOT_STARTED)
        owners = {s.session_id: s for s in self.sessions}
        kept = [i for i in self.adapter.opened if i not in self.adapter.released]
        for session_id in kept:
            assert owners[session_id].state is State.ERROR
            assert self.store.session(session_id).released is False
        for session_id in self.adapter.released:
            row = self.store.session(session_id)
            assert row is None or row.state.terminal
            assert row is None or row.state is owners[session_id].state
        assert len(self.adapter.released) == len(set(self.adapter.released))
        core = self.client._core_now
        assert core.active == {}
        eventually(lambda: not any(i in core.supervisor.owned for i in owners))


@pytest.mark.parametrize("start", range(0, 60, 10))
def test_lives_drawn_at_random(start, tmp_path):
    for seed in range(start, start + 10):
        life = Life(seed, tmp_path)
        life.live()
        try:
            life.check()
        except AssertionError as e:
            e.add_note(f"seed {seed}, faults {life.faults}")
            raise
