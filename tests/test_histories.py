"""Histories of several hosts on one store that are stopped, killed, cut off and wrong about the time.

Each run is decided by its seed. While it goes on it is watched: no browser without an owner, past its lease; no two
browsers for one key. What is left at the end is checked: nothing ended twice, nothing acknowledged and lost, nothing
left behind.
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import threading
import time
from contextlib import closing

import psycopg
import pytest
from lease_rig import Host, Wire, hosts, namespaces, runs

from lifecycle import RecordKind
from lifecycle.audit import verify
from lifecycle.stores.postgres import PostgresStore
from lifecycle.testing.ways import eventually

pytestmark = pytest.mark.slow

NAMES = ("one", "two", "three")
KEYS = ("blue", "green")
LEASE = 4.0
SHIFTS = {"one": -600, "two": 0, "three": 600}

HELD = """
SELECT s.session_id, s.labels::json->>'key', s.facts::json->>'pid', s.facts::json->>'started',
    w.fenced_at IS NOT NULL OR w.seen_at + make_interval(secs => w.lease_seconds) < clock_timestamp()
FROM sessions s JOIN records r ON r.attachment_id = s.attachment_id AND (r.kind, r.event) = ('intent', 'start')
JOIN writers w ON w.writer = r.writer
WHERE s.facts::json->>'started' IS NOT NULL
"""


class Watch:
    """Looks at every browser and its lease, again and again."""

    def __init__(self, url):
        self.wrong: list[str] = []
        self.looks = 0
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url,), name="watch")
        self._thread.start()

    def _run(self, url):
        with closing(psycopg.connect(url, autocommit=True)) as db:
            db.execute("SET search_path = lifecycle, pg_temp")
            while not self._over.is_set():
                self.looks += 1
                found = db.execute(HELD).fetchall()
                # The lease was over before it is looked whether the browser is there.
                for session_id, _, pid, started, over in found:
                    if over and runs(pid, started):
                        self.wrong.append(f"the browser of {session_id} runs, and its lease is over")
                alive = [row for row in found if runs(row[2], row[3])]
                both = collections.Counter(key for _, key, pid, started, _ in alive if runs(pid, started))
                self.most = max(self.most, sum(both.values()))
                self.wrong += [f"{n} browsers for the key {key}" for key, n in both.items() if key != "none" and n > 1]
                time.sleep(0.02)

    def end(self):
        self._over.set()
        self._thread.join(30)
        return sorted(set(self.wrong))


class History:
    """Hosts, and what is done to them."""

    def __init__(self, postgres, database, keep, seed, folder):
        self.random = random.Random(seed)
        self.database, self.keep, self.folder = database, keep, folder
        self.isolated = namespaces()
        self.wires = {name: keep(Wire(postgres.port)) for name in NAMES}
        self.at: dict[str, Host] = {}
        self.begun: dict[str, list[int]] = {}
        self.done: list[str] = []
        for name in NAMES:
            self.begin(name)

    def begin(self, name, **more):
        state = self.folder / name
        state.mkdir(exist_ok=True)
        shift = SHIFTS[name]
        self.at[name] = self.keep(
            Host(
                self.wires[name],
                self.database,
                name,
                isolated=self.isolated,
                adapter="process",
                lease=LEASE,
                shift=shift,
                seconds=1,
                told=str(state / "told.jsonl"),
                env={"XDG_STATE_HOME": str(state), "TMPDIR": str(state)},
                **more,
            )
        )
        self.begun[name] = []

    def step(self):
        """One thing, at one host, that the seed says."""
        name, what = self.random.choice(NAMES), self.random.choices(*zip(*DEEDS.items(), strict=True))[0]
        self.done.append(f"{what} {name}")
        getattr(self, f"_{what}")(name, self.at[name])
        time.sleep(self.random.uniform(0.02, 0.4))  # what of it comes first is for the seed to try

    def _start(self, name, host):
        key = self.random.choice((*KEYS, None))
        self.begun[name].append(host.order("start", key=key))

    def _stop(self, name, host):
        if self.begun[name]:
            host.order("stop", of=self.random.choice(self.begun[name]))

    def _operate(self, name, host):
        if self.begun[name]:
            host.order("operate", of=self.random.choice(self.begun[name]))

    def _reap(self, _, host):
        host.order("reap")

    def _pause(self, _, host):
        host.pause()

    def _go_on(self, _, host):
        host.go_on()

    def _cut(self, name, _):
        self.wires[name].cut()

    def _heal(self, name, _):
        self.wires[name].heal()

    def _kill(self, name, host):
        host.kill()
        self.wires[name].heal()  # else it would not come up
        self.begin(name)

    def settle(self):
        """Let all go on, have all end, and have one more look at each host for what is still to be done there."""
        for wire in self.wires.values():
            wire.heal()
        for host in self.at.values():
            host.go_on()
        for host in self.at.values():
            host.end()
        for name in NAMES:
            self.begin(name)


DEEDS = {
    "start": 8, "stop": 3, "operate": 2, "reap": 1, "pause": 3, "go_on": 4, "cut": 3, "heal": 4, "kill": 1,
}  # fmt: skip


def told_by(folder):
    """What hosts were told was written down, or kept: attachment, kind and time."""
    for file in folder.glob("*/told.jsonl"):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last line of one that was killed
                yield tuple(json.loads(line))


def run_history(postgres, tmp_path, seed, seconds):
    with postgres.database() as database, closing(PostgresStore(postgres.url(database))) as store, hosts() as keep:
        store.open()
        history = History(postgres, database, keep, seed, tmp_path)
        watch = Watch(postgres.url(database))
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                history.step()
            history.settle()
            for host in history.at.values():
                answer = host.ask("reap")
                assert "error" not in answer, answer
            eventually(lambda: not store.unfinished() and not store.open_attachments(), "all is over")
        finally:
            wrong = watch.end()
        for host in history.at.values():
            host.end()
        check(store, tmp_path, history, watch, wrong)


def check(store, folder, history, watch, wrong):
    assert wrong == [], history.done
    assert verify(store).problems == []
    records = [record for _, record in store.records()]
    ends = collections.Counter(r.attachment_id for r in records if r.terminal)
    assert [a for a, n in ends.items() if n > 1] == []
    begun = {r.attachment_id for r in records if r.opens}
    assert begun <= set(ends), "each that began has an end"
    assert store.unfinished() == []
    assert store.open_attachments() == {}
    there = {
        (r.attachment_id.partition("~")[0], (r.said or r.kind).value, r.at.isoformat())
        for r in records
        if r.kind is not RecordKind.SPILLED
    }
    told = set(told_by(folder))
    assert told - there == set(), "what was acknowledged is in the log"
    assert told
    assert watch.looks > 10
    assert watch.most > 0, "it has seen browsers"
    for row in store.sessions(limit=10_000):
        assert row.state.terminal
        assert row.released
        if "started" in row.facts:
            assert not runs(row.facts["pid"], row.facts["started"]), "nothing runs any more"


def test_a_history_of_hosts_that_fail_is_sound(postgres, tmp_path):
    run_history(postgres, tmp_path, 1, seconds=8)


@pytest.mark.campaign
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(100, 130))
def test_many_histories_of_hosts_that_fail_are_sound(postgres, tmp_path, seed):
    run_history(postgres, tmp_path, seed, seconds=40)
