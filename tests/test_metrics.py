"""What /metrics tells: the numbers that OpenTelemetry is told too, to who may see them, whatever the store does."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from planted import TOKEN
from serve_rig import read
from server_rig import running
from waiting import until

from lifecycle import AsyncClient, Client, ReleaseFailed
from lifecycle.audit import verify
from lifecycle.cli import main
from lifecycle.otel import instrument
from lifecycle.server import create_app, metrics
from lifecycle.server.metrics import write_verification
from lifecycle.stores.memory import MemoryStore
from lifecycle_adapters.memory import Fault, MemoryAdapter

README = Path(__file__).parent.parent / "README.md"


def scraped(server):
    answer = server.http.get("/metrics")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return read(answer.text)


def of(found, name):
    """The samples of one metric, each by the values of its labels in the order of their names."""
    return {tuple(value for _, value in labels): number for (n, labels), number in found.items() if n == name}


def test_they_are_told_to_who_has_the_key_unless_the_server_was_told_otherwise():
    with running(adapter=MemoryAdapter(), store="memory:") as server:
        assert httpx.get(f"{server.url}/metrics", trust_env=False).status_code == 401
        assert httpx.get(f"{server.url}/metrics", params={"token": TOKEN}, trust_env=False).status_code == 400
        assert of(scraped(server), "lifecycle_store_up") == {(): 1}
    with running(adapter=MemoryAdapter(), store="memory:", metrics_without_token=True) as server:
        assert httpx.get(f"{server.url}/metrics", trust_env=False).status_code == 200
        assert httpx.get(f"{server.url}/sessions/", trust_env=False).status_code == 401


def test_what_was_done_is_counted_and_what_there_is_is_told():
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="fail", nth=3)])
    with running(adapter=adapter, store="memory:") as server:
        before = scraped(server)
        assert of(before, "lifecycle_sessions") == {("memory", "active"): 0, ("memory", "not_started"): 0}
        assert of(before, "lifecycle_transitions_total") == {}
        assert of(before, "lifecycle_checkpoint_age_seconds") == {}, "there is nothing that it must cover"
        first, _ = (server.start()["session_id"] for _ in range(2))
        assert server.http.post("/sessions/start", json={}).status_code == 502
        assert server.http.delete(f"/sessions/{first}/stop").status_code == 200
        found = scraped(server)
    assert of(found, "lifecycle_sessions") == {("memory", "active"): 1, ("memory", "not_started"): 0}
    held = {("memory", "active"): 1, ("memory", "error"): 0, ("memory", "not_started"): 0}
    assert of(found, "lifecycle_backends_unreleased") == held
    assert of(found, "lifecycle_transitions_total") == {  # adapter, close_reason, dest, kind, transition
        ("memory", "", "active", "commit", "start"): 2,
        ("memory", "manual", "closed", "commit", "stop"): 1,
        ("memory", "", "active", "diverted", "start"): 1,
        ("memory", "backend", "error", "commit", "fail"): 1,
    }
    assert of(found, "lifecycle_spool_depth") == {(): 0}
    assert 0 <= of(found, "lifecycle_lease_age_seconds")[()] < 30
    assert 0 <= of(found, "lifecycle_checkpoint_age_seconds")[()] < 30
    assert of(found, "lifecycle_clock_skew_seconds") == {}, "that store has no clock"


def test_they_are_the_numbers_that_opentelemetry_is_told():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    faults = [Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)]

    async def story():
        client = AsyncClient(adapter=MemoryAdapter(faults=faults), store="memory:")
        instrument(client, meter_provider=provider)
        app = create_app(token=None, client=client)
        async with client.Session():
            session = await client.Session().start()
            with pytest.raises(ReleaseFailed):
                await session.stop()
            await client._core.told()
            found = read((await app.state.metrics.scrape()).decode())
            (resource,) = reader.get_metrics_data().resource_metrics
        await client.close()
        return found, {m.name: m.data.data_points for scope in resource.scope_metrics for m in scope.metrics}

    found, told = asyncio.run(story())
    provider.shutdown()
    shared = {
        "lifecycle.transitions": "lifecycle_transitions_total",
        "lifecycle.backends.unreleased": "lifecycle_backends_unreleased",
        "lifecycle.spool.depth": "lifecycle_spool_depth",
    }
    for name, ours in shared.items():
        theirs = {
            frozenset((k.removeprefix("lifecycle."), v) for k, v in point.attributes.items()): point.value
            for point in told[name]
        }
        mine = {frozenset((k, v) for k, v in labels if v): number for (n, labels), number in found.items() if n == ours}
        assert mine == theirs, name
        assert mine
    assert of(found, "lifecycle_backends_unreleased")["memory", "error"] == 1
    active = of(found, "lifecycle_sessions")["memory", "active"]
    assert active == told["lifecycle.sessions.active"][0].value == 1
    assert told["lifecycle.checkpoint.age"][0].value == pytest.approx(
        of(found, "lifecycle_checkpoint_age_seconds")[()], abs=5
    )


def test_what_another_process_could_not_release_is_told_too():
    """It is in the ledger, and no server knows more of it once it has begun anew."""
    store = MemoryStore()
    faults = [Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)]
    with (
        Client(adapter=MemoryAdapter(faults=faults), store=store) as other,
        running(adapter=MemoryAdapter(), store=store) as server,
    ):
        session = other.Session().start()
        assert of(scraped(server), "lifecycle_backends_unreleased")["memory", "error"] == 0
        with pytest.raises(ReleaseFailed):
            session.stop()
        assert of(scraped(server), "lifecycle_backends_unreleased")["memory", "error"] == 1


class Stuck(MemoryStore):
    """A store that is asked for what is open, and does not answer until it is let go."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.asked = 0
        self.go.set()

    def open_attachments(self):
        self.asked += 1
        assert self.go.wait(60)
        return super().open_attachments()


def test_a_store_that_does_not_answer_holds_no_scrape_up(monkeypatch):
    monkeypatch.setattr(metrics, "STORE_BUDGET", 0.1)
    store = Stuck()
    with running(adapter=MemoryAdapter(), store=store) as server:
        server.start()
        asked = store.asked
        store.go.clear()
        for _ in range(3):
            found = scraped(server)
            assert of(found, "lifecycle_store_up") == {(): 0}
            assert of(found, "lifecycle_lease_age_seconds") == {}
            assert of(found, "lifecycle_sessions")["memory", "active"] == 1
        store.go.set()
        later = []
        until(lambda: later.append(scraped(server)) or of(later[-1], "lifecycle_store_up") == {(): 1})
        assert store.asked <= asked + 1 + len(later), "one question at a time"


def test_an_application_that_is_dropped_takes_its_client_with_it():
    app = create_app(token=TOKEN, adapter=MemoryAdapter(), store="memory:")
    client, core = weakref.ref(app.state.hosting.client), app.state.hosting.client._core
    del app
    gc.collect()
    assert client() is None
    until(lambda: core.closed and core not in core.supervisor.cores)


def test_nothing_of_an_application_stays_with_a_client_that_goes_on():
    async def story():
        async with AsyncClient(adapter=MemoryAdapter(), store="memory:") as client:
            for _ in range(2):
                app = create_app(token=TOKEN, client=client)
                assert len(client._core.subscribers) == len(client._watchers) == 1
                async with app.router.lifespan_context(app):
                    pass
                assert client._core.subscribers == client._watchers == []

    asyncio.run(story())


def test_the_readme_tells_each_of_them_and_no_other(tmp_path):
    rows = re.findall(r"^\| `(lifecycle_\w+)` \| ([\w, ]*)\|", README.read_text(), re.MULTILINE)
    told = {name: {label for label in labels.strip().split(", ") if label} for name, labels in rows}
    with running(adapter=MemoryAdapter(), store="memory:") as server:
        server.http.delete(f"/sessions/{server.start()['session_id']}/stop")
        text = server.http.get("/metrics").text
    store = MemoryStore()
    store.open()
    write_verification(tmp_path / "lifecycle.prom", verify(store), at=0)
    store.close()
    text += (tmp_path / "lifecycle.prom").read_text()
    assert set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) == told.keys()
    for name, labels in read(text):
        assert {label for label, _ in labels} == told[name], name


@pytest.mark.parametrize(
    ("name", "word"), [("lifecycle.txt", ".prom"), ("missing/lifecycle.prom", "a folder that is there")]
)
def test_a_check_that_could_not_tell_is_refused_before_it_begins(tmp_path, capsys, name, word):
    command = ["audit", "verify", "--store", f"sqlite:///{tmp_path / 'none.db'}", "--metrics", str(tmp_path / name)]
    assert main(command) == 2
    told = capsys.readouterr()
    assert word in told.err
    assert told.out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("prometheus_client", ["audit", "verify", "--metrics", "x.prom"]),
        ("uvicorn", ["serve", "--print", "kubernetes"]),
    ],
)
def test_without_the_extra_it_says_how_to_get_it(module, arguments):
    code = f"import sys; sys.modules[{module!r}] = None\nfrom lifecycle.cli import main; sys.exit(main({arguments!r}))"
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    assert 'pip install "session-lifecycle[server]"' in run.stderr
