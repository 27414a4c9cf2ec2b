"""What OpenTelemetry is told of sessions, with its own SDK; and that no session feels what becomes of it."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from datetime import UTC, datetime

import children
import pytest
from both_ways import FailingStore, eventually
from opentelemetry.metrics import NoOpHistogram, NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from remote_service import KEY, RemoteService
from test_exit import ends
from test_fork import FORK
from test_reaping import Left, killed

from lifecycle import Client, LifecycleError, ReleaseFailed, StartFailed, StoreError, UsageError, otel
from lifecycle.errors import ConfigError, InvalidTransition
from lifecycle.otel import instrument
from lifecycle.otel.meters import SECONDS, Meters
from lifecycle.otel.watch import Watch
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import Fault, MemoryAdapter

pytestmark = pytest.mark.slow


class Told:
    """What a provider was told: finished spans, and the numbers as they are now."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])

    def instrument(self, client):
        return instrument(client, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self):
        return [span for span in self.exporter.get_finished_spans() if span.name == "lifecycle.session"]

    def metrics(self):
        data = self.reader.get_metrics_data()
        found = data.resource_metrics if data is not None else []
        return {m.name: m for resource in found for scope in resource.scope_metrics for m in scope.metrics}

    def points(self, name):
        """Data points of a metric by their attributes, in the order of their names, without what they begin with."""
        if name not in (metrics := self.metrics()):
            return {}
        found = {}
        for point in metrics[name].data.data_points:
            assert all(key.startswith("lifecycle.") for key in point.attributes)
            found[tuple(value for _, value in sorted(point.attributes.items()))] = point
        return found

    def values(self, name):
        return {key: point.value for key, point in self.points(name).items()}


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(otel, "PATIENCE", 20.0)  # machines that run tests are slow
    told = Told()
    yield told
    told.tracers.shutdown()
    told.meters.shutdown()


def at(nanoseconds):
    """The time of a span or an event, which has whole microseconds."""
    assert nanoseconds % 1000 == 0
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).replace(
        microsecond=nanoseconds // 1000 % 1_000_000
    )


def unreleased(told):
    """Unreleased backends by the state of their session."""
    return {state: number for (_, state), number in told.values("lifecycle.backends.unreleased").items()}


def plain(attributes):
    assert all(key.startswith("lifecycle.") for key in attributes)
    return {key.removeprefix("lifecycle."): value for key, value in attributes.items()}


# --- spans ----------------------------------------------------------------------------------------------------------


def test_a_session_is_a_span_and_each_of_its_records_an_event(way, told):
    client = way.client()
    told.instrument(way.raw(client))
    with client.Session(principal="ada", labels={"team": "crawl", "run": "7"}) as session:
        session.hold("looking", 1)
        session_id, attachment_id = session.session_id, way.raw(session).attachment_id
    history = session.history()
    client.close()
    (span,) = told.spans()
    assert plain(span.attributes) == {
        "session_id": session_id,
        "attachment_id": attachment_id,
        "adapter": "memory",
        "principal": "ada",
        "label.team": "crawl",
        "label.run": "7",
        "close_reason": "manual",
    }
    assert (at(span.start_time), at(span.end_time)) == (history[0].at, history[-1].at)
    assert span.status.status_code is StatusCode.UNSET
    assert [(e.name, at(e.timestamp)) for e in span.events] == [(f"lifecycle.{r.kind}", r.at) for r in history]
    assert [r.kind for r in history] == ["intent", "commit", "held", "intent", "commit"]
    assert plain(span.events[3].attributes) == {
        "kind": "intent",
        "transition": "stop",
        "source": "active",
        "dest": "closed",
        "cause": "caller",
        "close_reason": "manual",
    }


def test_its_parent_is_the_span_in_which_it_is_started(way, told):
    client = way.client()
    told.instrument(way.raw(client))
    tracer = told.tracers.get_tracer("mine")
    session = client.Session()
    with tracer.start_as_current_span("starts") as parent:
        session.start()
    with tracer.start_as_current_span("stops"):
        session.stop()
    with client.Session():
        pass
    client.close()
    first, second = told.spans()
    assert first.parent == parent.get_span_context()
    assert first.context.trace_id == parent.get_span_context().trace_id
    assert second.parent is None


def test_a_guest_has_a_span_of_its_own(way, told):
    client = way.client()
    told.instrument(way.raw(client))
    with client.Session() as session:
        guest = client.Session(session.session_id)
        guest.start()
        eventually(lambda: told.values("lifecycle.sessions.active") == {("memory",): 2})
        assert unreleased(told)["active"] == 1, "there is one browser"
        guest.detach()
    client.close()
    of_guest, of_owner = (plain(span.attributes) for span in told.spans())
    assert of_guest["session_id"] == of_owner["session_id"] == session.session_id
    assert of_guest["attachment_id"] != of_owner["attachment_id"]
    assert (of_guest["close_reason"], of_owner["close_reason"]) == ("detached", "manual")
    assert told.spans()[0].events[0].attributes["lifecycle.transition"] == "attach"


def test_a_session_that_fails_has_status_error(way, told):
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="fail")])
    client = way.client(adapter=adapter)
    told.instrument(way.raw(client))
    with pytest.raises(StartFailed):
        client.Session().start()
    client.close()
    (span,) = told.spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "StartFailed")
    assert plain(span.attributes)["close_reason"] == "backend"
    assert [e.name for e in span.events] == [f"lifecycle.{kind}" for kind in ("intent", "diverted", "intent", "commit")]
    assert plain(span.events[-1].attributes)["error"] == "StartFailed"
    assert told.points("lifecycle.step.duration")["failed", "open_backend"].count == 1
    assert told.values("lifecycle.transitions") == {
        ("memory", "active", "diverted", "start"): 1,
        ("memory", "backend", "error", "commit", "fail"): 1,
    }


def test_a_session_that_crashes_has_status_error(way, told):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    told.instrument(way.raw(client))
    session = client.Session()
    session.start()
    adapter.crash(session.session_id)
    session.wait_ended(timeout=20)
    client.close()
    (span,) = told.spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ConnectionLost")
    assert plain(span.attributes)["close_reason"] == "crash"


def test_a_session_that_times_out_has_not_and_lasts_by_the_client_s_clock(way, told):
    clock = ManualClock()
    client = way.client(clock=clock)
    told.instrument(way.raw(client))
    session = client.Session(timeout_minutes=5)
    session.start()
    began = clock.utcnow()
    clock.advance(300)
    session.wait_ended(timeout=20)
    client.close()
    (span,) = told.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert plain(span.attributes)["close_reason"] == "idle_timeout"
    assert plain(span.events[-1].attributes)["transition"] == "expire"
    assert (at(span.start_time), (at(span.end_time) - at(span.start_time)).total_seconds()) == (began, 300)
    assert told.values("lifecycle.transitions")["memory", "idle_timeout", "timed_out", "commit", "expire"] == 1


def test_a_session_that_is_reaped_has_a_span_without_length(way, told, tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    session_id = killed(url)
    client = way.client(store=url, reap_on_start=False)
    told.instrument(way.raw(client))
    (status,) = client.sessions.reap()
    client.close()
    (span,) = told.spans()
    assert plain(span.attributes) == {
        "session_id": session_id,
        "attachment_id": plain(span.attributes)["attachment_id"],
        "adapter": "memory",
        "principal": "ada",
        "label.who": "child",
        "close_reason": "owner_died",
    }
    assert at(span.start_time) == at(span.end_time)
    assert abs((at(span.end_time) - status.closed_at).total_seconds()) < 60, "of the record, not of the export"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "owner_died")
    assert told.values("lifecycle.transitions") == {("memory", "owner_died", "error", "recovered", "fail"): 1}
    assert told.points("lifecycle.step.duration")["done", "release_backend"].count == 1


def test_an_id_that_a_service_gives_is_on_the_span(way, told, monkeypatch):
    service = RemoteService()
    monkeypatch.setenv("NOTTE_API_KEY", KEY)
    monkeypatch.setenv("NOTTE_API_URL", service.url)
    try:
        client = way.client(adapter="remote")
        told.instrument(way.raw(client))
        with client.Session() as session:
            session_id = session.session_id
        assert session.history()[0].session_id is None
        client.close()
    finally:
        service.stop()
    (span,) = told.spans()
    assert plain(span.attributes)["session_id"] == session_id is not None


def test_what_comes_after_the_end_is_counted_and_is_on_no_span(way, told):
    client = way.client()
    told.instrument(way.raw(client))
    session = client.Session()
    with pytest.raises(InvalidTransition):
        session.get_cookies()  # before it begins
    session.start()
    session.stop()
    session.stop()
    client.close()
    (span,) = told.spans()
    assert [e.name for e in span.events] == [f"lifecycle.{kind}" for kind in ("intent", "commit") * 2]
    assert told.values("lifecycle.transitions") == {
        ("memory", "not_started", "rejected", "operate"): 1,
        ("memory", "active", "commit", "start"): 1,
        ("memory", "manual", "closed", "commit", "stop"): 1,
        ("memory", "closed", "ignored", "stop"): 1,
    }


def test_a_stop_before_the_start_is_a_span_too(way, told):
    client = way.client()
    told.instrument(way.raw(client))
    client.Session().stop()
    client.close()
    (span,) = told.spans()
    assert plain(span.attributes)["close_reason"] == "manual"
    assert [e.name for e in span.events] == ["lifecycle.intent", "lifecycle.commit"]


def test_the_host_s_log_has_the_names_of_the_span(way, told, captured):
    client = way.client()
    told.instrument(way.raw(client))
    with client.Session(principal="ada", labels={"team": "crawl"}):
        pass
    client.close()
    (span,) = told.spans()
    last = [event for event in captured if event["event"] == "lifecycle.commit"][-1]
    assert plain(span.attributes).items() <= last.items()
    assert plain(span.events[-1].attributes).items() <= last.items()
    assert {*plain(span.attributes), *plain(span.events[-1].attributes)} == set(last) - {"event", "log_level"}


# --- numbers --------------------------------------------------------------------------------------------------------


def test_active_sessions_of_all_clients_are_one_number(way, told, caplog):
    first, second = way.client(), way.client()
    told.instrument(way.raw(first))
    told.instrument(way.raw(second))
    assert told.values("lifecycle.sessions.active") == {("memory",): 0}
    with first.Session(), second.Session():
        assert told.values("lifecycle.sessions.active") == {("memory",): 2}
    assert told.values("lifecycle.sessions.active") == {("memory",): 0}
    with first.Session():
        second.close()
        assert told.values("lifecycle.sessions.active") == {("memory",): 1}
        assert unreleased(told) == {"not_started": 0, "active": 1, "error": 0}
    first.close()
    assert told.values("lifecycle.sessions.active") == {("memory",): 0}, "a series that just stops looks as if it hung"
    assert unreleased(told) == {"not_started": 0, "active": 0, "error": 0}
    assert not caplog.records, "the SDK warns of instruments that are made twice"


def test_the_seconds_of_steps_are_those_of_the_records(way, told):
    client = way.client()
    told.instrument(way.raw(client))
    with client.Session() as session:
        pass
    steps = [step for record in session.history() for step in record.steps]
    client.close()
    points = told.points("lifecycle.step.duration")
    assert {key: (p.count, p.sum) for key, p in points.items()} == {
        (step.outcome.value, step.step): (1, step.ms / 1000) for step in steps
    }
    assert ("done", "open_backend") in points
    assert points["done", "open_backend"].explicit_bounds == SECONDS
    assert told.metrics()["lifecycle.step.duration"].unit == "s"


def test_an_api_that_takes_no_boundaries_is_enough():
    class Older(NoOpMeter):
        def create_histogram(self, name, unit="", description=""):
            return super().create_histogram(name, unit, description)

    assert isinstance(Meters(Older("lifecycle"))._steps, NoOpHistogram)


def test_a_backend_that_could_not_be_released_stays_in_the_numbers(way, told):
    faults = [Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)]
    client = way.client(adapter=MemoryAdapter(faults=faults))
    told.instrument(way.raw(client))
    session = client.Session()
    session.start()
    assert unreleased(told) == {"not_started": 0, "active": 1, "error": 0}
    with pytest.raises(ReleaseFailed):
        session.stop()
    eventually(lambda: unreleased(told) == {"not_started": 0, "active": 0, "error": 1})
    client.close()
    assert unreleased(told) == {"not_started": 0, "active": 0, "error": 1}
    (span,) = told.spans()
    assert span.status.status_code is StatusCode.ERROR


def test_one_that_a_reaper_releases_in_the_end_does_not(way, told, tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    killed(url)
    client = way.client(adapter=Left(ReleaseFailed("no", session_id="x")), store=url, reap_on_start=False)
    told.instrument(way.raw(client))
    client.sessions.reap()
    assert unreleased(told)["error"] == 1
    client.sessions.reap()
    assert unreleased(told)["error"] == 0
    client.close()
    assert len(told.spans()) == 1, "its end was told of the first time"
    assert told.values("lifecycle.transitions") == {("memory", "owner_died", "error", "recovered", "fail"): 2}


def checkpoint(client):
    core = client._core

    async def work(_):
        await core.journal.checkpoint()

    core.supervisor.call(work)


def test_by_how_much_the_clocks_of_stores_are_apart(told):
    stores = [MemoryStore(), MemoryStore(), MemoryStore()]
    with Client(adapter="memory", store=stores[0]) as one, Client(adapter="memory", store=stores[1]) as two:
        told.instrument(one)
        assert told.values("lifecycle.clock.skew") == {}, "it has no clock of its own"
        stores[0].skew, stores[1].skew = 0.25, -3.5
        assert told.values("lifecycle.clock.skew") == {(): 0.25}
        told.instrument(two)
        assert told.values("lifecycle.clock.skew") == {(): -3.5}, "the largest"


def test_the_age_of_the_last_checkpoint(told):
    clock, refused = ManualClock(), []

    def publish(_):
        if refused:
            raise OSError(refused[0])

    with Client(adapter=MemoryAdapter(), store="memory:", clock=clock, checkpoints=publish) as client:
        told.instrument(client)
        assert told.values("lifecycle.checkpoint.age") == {}, "there is nothing that it must cover"
        with client.Session():
            clock.advance(30)
            assert told.values("lifecycle.checkpoint.age") == {(): 30}, "since the first record"
            checkpoint(client)
            assert told.values("lifecycle.checkpoint.age") == {(): 0}
            clock.advance(20)
            refused.append("disk full")
            client.Session().stop()
            checkpoint(client)
            assert told.values("lifecycle.checkpoint.age") == {(): 20}, "one that nobody got is none"
            refused.clear()
            checkpoint(client)
            assert told.values("lifecycle.checkpoint.age") == {(): 0}
    assert told.values("lifecycle.checkpoint.age") == {}


def test_records_that_the_store_refused_are_the_depth_of_the_spool(way, told):
    store = FailingStore()
    client = way.client(store=store)
    told.instrument(way.raw(client))
    first, second = client.Session(), client.Session()
    first.start()
    second.start()
    assert told.values("lifecycle.spool.depth") == {(): 0}
    store.broken = True
    with pytest.raises(StoreError):
        first.stop()
    assert told.values("lifecycle.spool.depth") == {(): 2}
    store.broken = False
    second.stop()
    assert told.values("lifecycle.spool.depth") == {(): 0}
    client.close()
    assert len(told.spans()) == 2


def test_what_a_closed_client_leaves_in_the_spool_stays_in_the_numbers(told):
    store = FailingStore()
    client = Client(adapter=MemoryAdapter(), store=store)
    told.instrument(client)
    session = client.Session().start()
    store.broken = True
    with pytest.raises(StoreError):
        session.stop()
    with pytest.raises(StoreError):
        client.close()
    assert told.values("lifecycle.spool.depth") == {(): 2}


# --- what a provider does is felt by no session ---------------------------------------------------------------------


class Raises(SpanProcessor):
    def __init__(self, error):
        self.error = error

    def on_start(self, span, parent_context=None):
        raise self.error

    def on_end(self, span):
        raise self.error


class Blocks(SpanProcessor):
    """Blocks at the first end of a span until it is let go."""

    def __init__(self):
        self.reached, self.free = threading.Event(), threading.Event()
        self.ended = []

    def on_end(self, span):
        self.reached.set()
        assert self.free.wait(60)
        self.ended.append(span)


def test_the_end_of_a_client_waits_for_what_is_queued(way, told, monkeypatch):
    class Busy(SpanProcessor):
        waited_for = threading.Event()

        def on_start(self, span, parent_context=None):
            assert self.waited_for.wait(60)

    async def flushed(watch, wait=Watch._flushed):
        Busy.waited_for.set()
        await wait(watch)

    monkeypatch.setattr(Watch, "_flushed", flushed)
    told.tracers.add_span_processor(Busy())
    client = way.client()
    told.instrument(way.raw(client))
    with client.Session():
        pass
    assert not told.spans()
    client.close()
    assert len(told.spans()) == 1


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3)])
def test_a_provider_that_raises_hurts_nothing_and_is_counted(way, told, error, captured):
    told.tracers.add_span_processor(Raises(error))
    client = way.client()
    came = told.instrument(way.raw(client))
    for _ in range(2):
        with client.Session() as session:
            pass
        assert session.state == "closed"
    client.close()
    assert came.errors >= 2
    assert [e["error"] for e in captured if e["event"] == "lifecycle.telemetry_failed"] == [type(error).__name__]
    assert told.values("lifecycle.transitions")["memory", "manual", "closed", "commit", "stop"] == 2, "the rest goes on"


def test_one_that_raises_at_the_numbers_leaves_the_spans(way, told, monkeypatch):
    client = way.client()
    came = told.instrument(way.raw(client))
    (watch,) = way.raw(client)._core.telling
    monkeypatch.setattr(watch.__self__._meters._transitions, "add", lambda *_: 1 / 0)
    with client.Session():
        pass
    client.close()
    assert came.errors == 2
    assert len(told.spans()) == 1


def test_a_provider_that_blocks_holds_no_edge_up_and_what_is_dropped_is_counted(way, told, monkeypatch, captured):
    monkeypatch.setattr(otel, "QUEUE", 3)
    monkeypatch.setattr(otel, "PATIENCE", 0.0)
    blocks = Blocks()
    told.tracers.add_span_processor(blocks)
    client = way.client()
    came = told.instrument(way.raw(client))
    try:
        with client.Session():
            pass
        assert blocks.reached.wait(20)
        sessions = []
        for _ in range(5):
            with client.Session() as session:
                sessions.append(session.session_id)
            assert session.state == "closed"
        client.close()
        assert not blocks.ended
        assert [e["records"] > 0 for e in captured if e["event"] == "lifecycle.telemetry_late"] == [True]
        assert came.dropped > 0
        assert told.values("lifecycle.telemetry.dropped") == {(): came.dropped}
    finally:
        blocks.free.set()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "lifecycle-otel"])
    first, *others = blocks.ended
    assert len(first.events) == 4
    assert [plain(span.attributes)["session_id"] for span in others] == sessions[: len(others)]
    assert others and all(plain(span.attributes)["close_reason"] == "manual" for span in others)
    taken = sum(len(span.events) for span in others)
    assert taken + came.dropped == 5 * 4, "each record was told or counted"


def test_it_keeps_no_client_alive(told):
    client = Client(adapter=MemoryAdapter(), store="memory:")
    told.instrument(client)
    session = client.Session().start()
    gone, ended = weakref.ref(client), session._att
    with pytest.warns(ResourceWarning, match="dropped with 1 session"):
        del client, session
        gc.collect()
    assert gone() is None
    eventually(lambda: ended.state.terminal)
    eventually(lambda: len(told.spans()) == 1)
    assert plain(told.spans()[0].attributes)["close_reason"] == "abandoned"


# --- processes ------------------------------------------------------------------------------------------------------

EXPORT = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry import metrics, trace

class Prints(SpanExporter):
    def export(self, spans):
        for span in spans:
            os.write(1, f"{os.getpid() == main} {span.attributes['lifecycle.close_reason']}\\n".encode())
        return SpanExportResult.SUCCESS

main = os.getpid()
"""

BUSY = """
from opentelemetry.sdk.trace import SpanProcessor
from lifecycle.otel.watch import Watch

class Busy(SpanProcessor):  # until somebody waits for what is queued
    waited_for = threading.Event()

    def on_start(self, span, parent_context=None):
        assert self.waited_for.wait(60)

async def flushed(self, wait=Watch._flushed):
    Busy.waited_for.set()
    await wait(self)

Watch._flushed = flushed
"""


def ran(code, *args, forks=False):
    done = children.run(EXPORT + code, *args, forks=forks)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split("\n")[:-1]


def test_nothing_is_loaded_and_no_thread_runs_unless_it_is_asked_for():
    done = children.run(
        """
        import lifecycle.otel
        with Client(adapter="memory", store="memory:") as client, client.Session():
            assert not [m for m in sys.modules if m.partition(".")[0] == "opentelemetry"]
            assert not [t for t in threading.enumerate() if "otel" in t.name]
            assert not client._core.subscribers and not client._core.telling
            assert "lifecycle.otel.watch" not in sys.modules
        """
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    done = children.run("assert 'lifecycle.otel' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_without_the_extra_the_error_says_how_to_get_it():
    done = children.run(
        """
        sys.modules["opentelemetry"] = None
        from lifecycle.otel import instrument
        with Client(adapter="memory", store="memory:") as client:
            try:
                instrument(client)
            except UsageError as e:
                print(e)
        """
    )
    assert "pip install 'session-lifecycle[otel]'" in done.stdout
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_what_can_not_be_instrumented_is_refused(way, told):
    with pytest.raises(UsageError, match="takes a Client or an AsyncClient, and not str"):
        told.instrument("client")
    client = way.client()
    told.instrument(way.raw(client))
    with pytest.raises(UsageError, match="instrumented already"):
        told.instrument(way.raw(client))
    client.close()
    closed = way.client()
    closed.close()
    with pytest.raises(UsageError, match="closed"):
        told.instrument(way.raw(closed))
    for option in ("tracer_provider", "meter_provider"):
        with pytest.raises(ConfigError, match=f"{option}.*an OpenTelemetry"):
            instrument(way.raw(way.client()), **{option: "global"})


@pytest.mark.parametrize("first", ["client", "provider"])
def test_a_session_that_is_active_at_exit_is_exported(first):
    client = 'client = Client(adapter="memory", store="memory:")\n'
    provider = (
        f"{BUSY}provider = TracerProvider()\n"
        "provider.add_span_processor(Busy())\n"
        "provider.add_span_processor(BatchSpanProcessor(Prints()))\n"
    )
    code = (client + provider if first == "client" else provider + client) + (
        "from lifecycle.otel import instrument\n"
        "instrument(client, tracer_provider=provider)\n"
        "session = client.Session().start()\n"
    )
    assert ran(code) == ["True abandoned"]


def test_a_provider_that_hangs_does_not_keep_a_process(tmp_path):
    code = """
from lifecycle import otel
from opentelemetry.sdk.trace import SpanProcessor

class Hangs(SpanProcessor):
    def on_start(self, span, parent_context=None):
        threading.Event().wait()

otel.PATIENCE = 0.1
provider = TracerProvider()
provider.add_span_processor(Hangs())
client = Client(adapter="memory", store=f"sqlite:///{sys.argv[1]}/log.db")
otel.instrument(client, tracer_provider=provider)
session = client.Session().start()
"""
    assert ran(code, tmp_path) == []
    assert [end["close_reason"] for end in ends(tmp_path)] == ["abandoned"]


def test_a_session_that_a_signal_stops_has_been_told_of_before_the_process_ends():
    code = """
from lifecycle.otel import instrument
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
import signal
stop_on_signals()
client = Client(adapter="memory", store="memory:")
provider = TracerProvider()
provider.add_span_processor(Busy())
provider.add_span_processor(SimpleSpanProcessor(Prints()))
instrument(client, tracer_provider=provider)
session = client.Session().start()
os.kill(os.getpid(), signal.SIGTERM)
session.wait_ended()
"""
    done = children.run(EXPORT + BUSY + code)
    assert (done.returncode, done.stdout, done.stderr) == (-15, "True manual\n", "")


def test_a_session_that_begins_holds_its_backend_in_a_number_of_its_own(told):
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang")])
    with Client(adapter=adapter, store="memory:") as client:
        told.instrument(client)
        session = client.Session()

        def start():
            with pytest.raises(LifecycleError):
                session.start()

        starting = threading.Thread(target=start)
        starting.start()
        eventually(lambda: unreleased(told) == {"not_started": 1, "active": 0, "error": 0})
        assert told.values("lifecycle.sessions.active") == {("memory",): 0}
        session.stop()
        starting.join()


def test_the_global_providers_may_be_set_later():
    code = """
from lifecycle.otel import instrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
with Client(adapter="memory", store="memory:") as client:
    instrument(client)
    provider, reader = TracerProvider(), InMemoryMetricReader()
    provider.add_span_processor(BatchSpanProcessor(Prints()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    with client.Session():
        pass
names = {m.name for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics}
assert {"lifecycle.transitions", "lifecycle.sessions.active", "lifecycle.step.duration"} <= names, names
"""
    assert ran(code) == ["True manual"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_is_told_of_its_own_sessions_alone(tmp_path):
    instrumented = """
from lifecycle.otel import instrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
provider, reader = TracerProvider(), InMemoryMetricReader()
provider.add_span_processor(BatchSpanProcessor(Prints()))
instrument(client, tracer_provider=provider, meter_provider=MeterProvider([reader]))
"""
    work = """
def active():
    (found,) = [m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics
                if m.name == "lifecycle.sessions.active"]
    return [point.value for point in found.data.data_points]

def work():
    with client.Session():
        assert active() == [1], active()
    client.close()
    provider.force_flush()

assert active() == [1]
assert fork(work) == 0
assert active() == [1]
session.stop()
client.close()
provider.shutdown()
"""
    # In the way of tests of forks: the session of the parent begins last.
    head, begin = FORK.rsplit("session = begin()", 1)
    code = f"{head}{instrumented}session = begin(){begin}{work}"
    assert ran(code, tmp_path, forks=True) == ["False manual", "True manual"]
