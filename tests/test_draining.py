"""A server that is told to end: it says so first, answers for its sessions while they end, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from contextlib import closing

import pytest
from serve_rig import WITHIN, gone, served
from waiting import until

from lifecycle import AsyncClient, CapacityError, Client, RecordKind
from lifecycle.server import create_app
from lifecycle.server.deployment import longest_drain, manifest
from lifecycle.server.run import _Server, config_of
from lifecycle.stores import open_store, postgres
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")]

HELD = """
import lifecycle_adapters.memory as memory
made = []

class Held(memory.MemoryAdapter):
    '''Memory sessions of which a step waits, until a line comes on stdin and so many wait.'''
    def __init__(self):
        super().__init__(faults=[memory.Fault(step="{step}", kind="hang", nth=n + 1) for n in range({number})])
        made.append(self)

memory.MemoryAdapter = Held

def let_go():
    sys.stdin.readline()
    while len(made[0]._hanging) < {number}:
        time.sleep(0.01)
    made[0].release_hangs()

threading.Thread(target=let_go, daemon=True).start()
"""
COUNT = "print(len(made[0].opened), 'opened,', len(made[0].live), 'left')"


def ends(url: str) -> list[tuple[str, str, str, str | None]]:
    """How each attachment in a log ended: its session, state, cause and reason."""
    with closing(open_store(url)) as store:
        store.open()
        records = [record for _, record in store.records()]
    kinds = (RecordKind.COMMIT, RecordKind.RECOVERED, RecordKind.DIVERTED)
    over = [r for r in records if r.terminal and r.kind in kinds]
    return sorted((r.session_id or "", r.dest.value, r.cause, r.close_reason) for r in over)


def in_thread(ask):
    """Where the answer will be, and the thread that asks."""
    found = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    return found, thread


def test_it_is_not_ready_and_answers_for_its_sessions_until_they_are_over(tmp_path):
    store = f"sqlite:///{tmp_path / 'log.db'}"
    arguments = ("--adapter", "memory", "--store", store)
    with served(*arguments, prelude=HELD.format(step="release_backend", number=3), after=COUNT) as server:
        ids = [server.start() for _ in range(3)]
        assert server.once("/ready").json() == {"status": "ready"}
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        refusal = until(lambda: (answer := server.once("/ready")).status_code == 503 and answer)
        assert refusal.headers["Retry-After"] == "1"
        with server.anew() as late:
            assert late.once("/health").json() == {"status": "ok"}
            assert [late.http.get(f"/sessions/{i}").json()["status"] for i in ids] == ["active"] * 3
            assert late.value("lifecycle_backends_unreleased", adapter="memory", state="active") == 3
            refused = late.http.post("/sessions/start", json={})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert "the server is ending" in refused.json()["message"]
            stopped, asking = in_thread(lambda: late.stop(ids[0]))
            told = server.told()
            asking.join()
        assert time.monotonic() - began < longest_drain()
    assert (stopped[0].status_code, stopped[0].json()["status"]) == (200, "closed")
    assert told == "3 opened, 0 left\nlifecycle: SIGTERM, stopping all sessions\n"
    assert server.process.returncode == 0
    assert ends(store) == sorted((session_id, "closed", "signal", "manual") for session_id in ids)


def test_a_start_that_is_under_way_is_undone_and_told_to_try_elsewhere(tmp_path):
    store = f"sqlite:///{tmp_path / 'log.db'}"
    prelude = HELD.format(step="open_backend", number=1)
    with served("--adapter", "memory", "--store", store, prelude=prelude, after=COUNT) as server:
        answers, asking = in_thread(lambda: server.http.post("/sessions/start", json={}))
        with server.anew() as other:
            until(lambda: other.value("lifecycle_sessions", adapter="memory", state="not_started") == 1)
            assert other.value("lifecycle_sessions", adapter="memory", state="active") == 0
        server.process.send_signal(signal.SIGTERM)
        asking.join()
        out, err = server.process.communicate(timeout=WITHIN)
    assert (answers[0].status_code, answers[0].headers["Retry-After"]) == (503, "1")
    assert "the server is ending" in answers[0].json()["message"]
    assert out == "1 opened, 0 left\n", err
    assert server.process.returncode == 0
    assert [end[1:] for end in ends(store)] == [("closed", "signal", "manual")]


def test_one_that_could_not_release_a_backend_does_not_say_that_all_went_well(tmp_path):
    prelude = HELD.replace('"hang"', '"fail"').format(step="release_backend", number=3)
    with served("--adapter", "memory", "--store", f"sqlite:///{tmp_path / 'log.db'}", prelude=prelude) as server:
        server.start()
        told = server.end()
    assert server.process.returncode == 5, told
    assert "release_backend failed" in told


HANGING = """
import dataclasses
import lifecycle.steps as steps
import lifecycle_adapters.memory as memory
steps.STEPS = {{step: dataclasses.replace(rule, budget=rule.budget / {speed}) for step, rule in steps.STEPS.items()}}
steps.GRACE /= {speed}
faults = [memory.Fault(step="close_connections", kind="hang", nth=n + 1) for n in range(3)]
faults += [memory.Fault(step="release_backend", kind="hang", nth=n + 1) for n in range(9)]
real = memory.MemoryAdapter
memory.MemoryAdapter = lambda: real(faults=faults)
"""


def test_sessions_that_hang_at_each_step_end_in_the_time_that_a_pod_gets(tmp_path):
    """With budgets of a tenth, in a tenth of it."""
    store, speed = f"sqlite:///{tmp_path / 'log.db'}", 10
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", manifest())
    prelude = HANGING.format(speed=speed)
    with served("--adapter", "memory", "--store", store, prelude=prelude) as server:
        ids = [server.start() for _ in range(3)]
        began = time.monotonic()
        told = server.end()
        took = time.monotonic() - began
    assert (5 + 3 * 15) / speed <= took < int(grace) / speed
    assert server.process.returncode == 5, told
    assert ends(store) == sorted((session_id, "error", "signal", "manual") for session_id in ids)


def test_real_browsers_are_ended_too(tmp_path):
    store = f"sqlite:///{tmp_path / 'log.db'}"
    with served("--adapter", "local", "--store", store) as server:
        ids = [server.start() for _ in range(3)]
        pid = server.process.pid
        assert server.value("lifecycle_backends_unreleased", adapter="local", state="active") == 3
        told = server.end()
    assert server.process.returncode == 0, told
    assert gone(pid) == []
    assert ends(store) == sorted((session_id, "closed", "signal", "manual") for session_id in ids)


def test_nothing_begins_between_the_signal_and_the_next_look_of_the_loop(capfd):
    async def story():
        async with AsyncClient(adapter=MemoryAdapter(), store="memory:") as client:
            app = create_app(token=None, client=client)
            server = _Server(config_of(app, allow_remote=False), lambda: None, app.state.hosting)
            server._strike(signal.SIGTERM, None)
            assert server.should_exit
            with pytest.raises(CapacityError, match="ending"):
                app.state.hosting.check_open()

    asyncio.run(story())
    assert "SIGTERM, stopping all sessions" in capfd.readouterr().err


def test_the_longest_drain_is_what_its_parts_may_take():
    """By the table, and not by the sum that the code takes."""
    ending = 15 + 5 + 3 * 15
    unwinding, rescue = 5 * 2, 5
    requests, reaping, telling, checkpoint = 10, 2, 2, 10
    store = 5 * postgres.SECONDS
    assert longest_drain() == ending + unwinding + rescue + requests + reaping + telling + checkpoint + store
    with closing(Client(adapter="memory", store="memory:")) as client:

        @client.hook(before="stop", after=["start", "stop"], budget=7)
        def hook(session):
            """Two of the three are on the way of a stop."""

        assert longest_drain(client._hooks) == longest_drain() + 2 * (7 + 2)
    app = create_app(token=None, adapter="memory", store="memory:")
    assert app.state.hosting.client._hooks == []
    asyncio.run(app.state.hosting.close(client_too=True))
