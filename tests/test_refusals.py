"""Every event that no edge takes, in every state, on every kind of backend: it is refused or ignored, and on record."""

from __future__ import annotations

import os

import pytest
from both_ways import PATIENCE, WAYS
from server_rig import remote, running

from lifecycle import LifecycleError, RecordKind
from lifecycle.engine import supervisor
from lifecycle.errors import GuardRejected, InvalidTransition, SessionEnded, UnsupportedOperation
from lifecycle.machine import decide
from lifecycle.ports import BackendEnd
from lifecycle.states import CloseReason, Event, Outcome, State
from lifecycle_adapters.local import LocalAdapter
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="there is no local browser on Windows")]

ENDS = {
    State.ERROR: BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail="it crashed, as scripted"),
    State.TIMED_OUT: BackendEnd(state=State.TIMED_OUT, reason=CloseReason.IDLE_TIMEOUT, detail=""),
}
REFUSALS = (GuardRejected, InvalidTransition, SessionEnded, UnsupportedOperation)


@pytest.fixture(params=["memory", "local", "remote"])
def adapter(request):
    if request.param == "memory":
        yield MemoryAdapter()
    elif request.param == "local":
        yield LocalAdapter()
    else:
        with running(adapter=MemoryAdapter(), store="memory:") as server, remote(server) as made:
            yield made


@pytest.fixture(params=WAYS)
def way(request):
    way = WAYS[request.param]()
    yield way
    way.finish()


def reach(way, session, state):
    """Bring a session into a state."""
    core, att = way.raw(session)._core, way.raw(session)._att
    if state is State.NOT_STARTED:
        return core, att
    session.start()
    if state is State.CLOSED:
        session.stop()
    elif state in ENDS:
        core.supervisor.thread.post(core.flow.backend_ended, att, ENDS[state])
        session.wait_ended(timeout=PATIENCE)
    assert session.state is state
    return core, att


def send(core, att, event):
    """Send an event as it comes from nobody; what it raises."""

    async def nothing(backend):
        return None

    async def work(caller):
        if event in (Event.START, Event.ATTACH):
            await core.flow.start(att, None)
        elif event is Event.OPERATE:
            await core.flow.operate(att, None, nothing)
        else:
            await core.flow.stop(att, None, event=event)

    try:
        supervisor().call(work)
    except LifecycleError as e:
        return e
    return None


@pytest.mark.parametrize("state", State)
def test_an_event_that_no_edge_takes_changes_nothing_and_is_on_record(adapter, way, state, counted, request):
    client = way.client(adapter=adapter)
    session = client.Session()
    core, att = reach(way, session, state)
    cases = [(session, core, att, event) for event in Event if event is not Event.ATTACH]
    if state in (State.ACTIVE, State.CLOSED):
        owner = session if state is State.ACTIVE else client.Session().start()
        guest = client.Session(owner.session_id)
        cases.append((guest, *reach(way, guest, state), Event.ATTACH))
    tried = []
    for handle, core_of, att_of, event in cases:
        decision = decide(att_of.state, event, att_of.facts())
        if decision.outcome not in (Outcome.IGNORED, Outcome.REJECTED):
            continue
        tried.append(f"{event} in {state}, {request.node.callspec.id}")
        before = len(handle.history())
        error = send(core_of, att_of, event)
        assert handle.state is state
        told = handle.history()[before:]
        kind = RecordKind.REJECTED if decision.outcome is Outcome.REJECTED else RecordKind.IGNORED
        assert [(r.kind, r.event, r.source, r.dest) for r in told] == [(kind, event, state, state)]
        assert isinstance(error, REFUSALS) if decision.outcome is Outcome.REJECTED else error is None, (event, error)
    assert len(tried) >= 3  # a session of a service may be left running, so there `detach` is an edge
    counted("A: what no edge takes", tried)
