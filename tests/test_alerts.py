"""The shipped alert rules, by Prometheus's own promtool, on what real servers tell: in trouble, and in health."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import children
import prometheus_rig
import pytest
from postgres_rig import server as run_server
from prometheus_rig import STEP, alerts
from serve_rig import WITHIN, every, read, served
from server_rig import running
from waiting import until

from lifecycle.cli import main
from lifecycle.server.deployment import alert_rules
from lifecycle.stores import postgres
from lifecycle.stores.postgres import PostgresStore
from lifecycle_adapters.memory import MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")]

RULES = alert_rules()
LONG = 8
"""Scrapes in which what is so stays so: two minutes, and no rule on the numbers of a server waits for longer."""

FAILING = """
import lifecycle_adapters.memory as memory
faults = [memory.Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)]
real = memory.MemoryAdapter
memory.MemoryAdapter = lambda: real(faults=faults)
"""
SPEED = 30
"""How many times as fast time passes in the tests of what grows old: leases and checkpoints, and the ages of both."""

FAST = f"""
import lifecycle.journal as journal
import lifecycle.lease as lease
lease.RENEW_SECONDS /= {SPEED}
journal.CHECKPOINT_SECONDS /= {SPEED}
"""
OWNER = """
import os, signal, sys
from lifecycle import Client
with Client(adapter="memory", store=sys.argv[1]) as client, client.Session() as session:
    print(session.session_id, flush=True)
    sys.stdin.readline()

    async def stop(_):  # by the thread that writes, so that it holds no lock of the store
        await client._core.read(lambda store: os.kill(os.getpid(), signal.SIGSTOP))

    client._core.supervisor.call(stop)
"""


@pytest.fixture(scope="module")
def database():
    with run_server() as made:
        made.ask("CREATE DATABASE made")
        PostgresStore(made.url("made")).make()
        yield made


def test_the_rules_and_the_numbers_are_what_prometheus_takes(tmp_path):
    (tmp_path / "rules.yml").write_text(RULES)
    assert "8 rules found" in prometheus_rig.run("check", "rules", str(tmp_path / "rules.yml"))
    with running(adapter=MemoryAdapter(), store="memory:") as server:
        server.http.delete(f"/sessions/{server.start()['session_id']}/stop")
        assert prometheus_rig.run("check", "metrics", given=server.http.get("/metrics").text) == ""


def test_a_backend_that_is_not_released(tmp_path):
    store = f"sqlite:///{tmp_path / 'log.db'}"
    with served("--adapter", "memory", "--store", store, prelude=FAILING) as server:
        healthy = server.metrics()
        first, second = server.start(), server.start()
        assert server.stop(first).status_code == 502
        bad = server.metrics()
        assert server.stop(second).status_code == 200
    fired = {"LifecycleBackendUnreleased": {"adapter": "memory", "state": "error"}}
    alerts(tmp_path, RULES, [healthy] * LONG + [bad] * LONG, {LONG - 1: {}, 2 * LONG - 1: fired})


def test_a_store_that_refuses_and_a_clock_that_is_wrong(tmp_path, database, monkeypatch):
    url = database.url(database.fresh())
    with served("--adapter", "memory", "--store", url) as server:
        session_id = server.start()
        healthy = server.metrics()
        database.stop("immediate")
        assert server.stop(session_id).json()["status"] == "closed"  # an ending waits for no store
        refused = server.metrics()
        database.start()
        mended = until(lambda: well(server.metrics()), WITHIN)
        told = server.end()
    assert server.process.returncode == 0, told
    down: dict[str, dict[str, str]] = {"LifecycleRecordsRefused": {}, "LifecycleStoreDown": {}}
    ends = [LONG - 1, 2 * LONG - 1, 3 * LONG - 1]
    alerts(
        tmp_path,
        RULES,
        [healthy] * LONG + [refused] * LONG + [mended] * LONG,
        dict(zip(ends, ({}, down, {}), strict=True)),
    )
    assert refused[("lifecycle_spool_depth", ())] == 2
    assert ("lifecycle_lease_age_seconds", ()) not in refused
    monkeypatch.setattr(postgres, "_time", (lambda: time.time() + 600,))
    with running(adapter=MemoryAdapter(), store=url) as server:
        server.start()
        skewed = read(server.http.get("/metrics").text)
    alerts(tmp_path, RULES, [mended] * LONG + [skewed] * LONG, {LONG - 1: {}, 2 * LONG - 1: {"LifecycleClockSkew": {}}})
    assert abs(healthy[("lifecycle_clock_skew_seconds", ())]) < 1
    assert abs(skewed[("lifecycle_clock_skew_seconds", ())] + 600) < 1


def well(found):
    """What was scraped, once the store answers and has taken all."""
    return found if (found[("lifecycle_store_up", ())], found[("lifecycle_spool_depth", ())]) == (1, 0) else None


@contextlib.contextmanager
def owner(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process with a session in the store, which is stopped when it gets a line."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FAST + OWNER, url], env=children.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline().strip()
            yield process
        finally:
            process.kill()


def test_an_owner_that_was_stopped_and_checkpoints_that_nobody_gets(tmp_path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    notes = tmp_path / "notes.txt"

    def scrape():
        told = server.metrics()
        return {key: value * SPEED if key[0].endswith("_age_seconds") else value for key, value in told.items()}

    arguments = ("--adapter", "memory", "--store", url)
    with (
        served(*arguments, prelude=FAST, env={"LIFECYCLE_CHECKPOINTS": str(notes)}) as server,
        owner(url) as other,
    ):
        server.start()
        until(notes.read_text)
        healthy = every(STEP / SPEED, LONG, scrape)
        other.stdin.write("stop\n")
        other.stdin.flush()
        assert os.WIFSTOPPED(os.waitpid(other.pid, os.WUNTRACED)[1])
        notes.rename(tmp_path / "kept.txt")
        notes.mkdir()
        server.start()
        bad = every(STEP / SPEED, 21, scrape)
        notes.rmdir()
        other.send_signal(signal.SIGCONT)
    old: dict[str, dict[str, str]] = {"LifecycleLeaseOld": {}, "LifecycleCheckpointOld": {}}
    quiet = {n: {} for n in range(LONG)}  # at each time: a lease grows older until it is renewed
    alerts(tmp_path, RULES, [*healthy, *bad], {**quiet, LONG + 20: old})


def test_a_log_that_was_changed(tmp_path, capsys):
    path, told = tmp_path / "log.db", tmp_path / "lifecycle.prom"
    with running(adapter=MemoryAdapter(), store=f"sqlite:///{path}") as server:
        server.http.delete(f"/sessions/{server.start()['session_id']}/stop")
    command = ["audit", "verify", "--store", f"sqlite:///{path}", "--metrics", str(told)]

    def checked(code: int) -> dict:
        """What a check tells, by a clock that begins with the first."""
        assert main(command) == code
        return read(told.read_text())

    healthy = checked(0)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TRIGGER records_never_change")
        db.execute("UPDATE records SET body = CAST(replace(body, 'memory', 'local!') AS BLOB) WHERE writer_seq = 1")
    bad = checked(1)
    when = ("lifecycle_verification_timestamp_seconds", ())
    began = healthy[when]
    assert abs(began - time.time()) < 60
    for told_ in (healthy, bad):
        told_[when] -= began
    fired = {"LifecycleVerificationFailed": {}}
    alerts(tmp_path, RULES, [healthy] * LONG + [bad] * LONG, {LONG - 1: {}, LONG: fired})
    assert bad[("lifecycle_verification_records", ())] == 4
    old = {"LifecycleVerificationOld": {}}
    alerts(tmp_path, RULES, [healthy] * (24 * 2 + 3), {24 * 2: {}, 24 * 2 + 2: old}, step=3600)
