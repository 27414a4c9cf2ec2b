"""What a service does wrong: each is one typed error, one declared edge, and no session is left running."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
from both_ways import PATIENCE, WAYS, eventually, in_threads
from fake_host import FakeHost
from remote_service import KEY, RemoteService

from lifecycle import Client, RecordKind, ReleaseFailed, SessionEnded
from lifecycle.config import SessionOptions
from lifecycle.cookies import parse_cookies
from lifecycle.errors import (
    AuthenticationError,
    BackendError,
    CapacityError,
    ConnectionLost,
    LifecycleError,
    RemoteRejected,
    StartFailed,
    StoreError,
    UnsupportedOperation,
)
from lifecycle.states import CloseReason, State
from lifecycle.stores.memory import MemoryStore
from lifecycle_adapters.remote import RemoteAdapter
from lifecycle_adapters.remote import client as remote_client

pytestmark = pytest.mark.slow


@pytest.fixture
def service():
    service = RemoteService()
    yield service
    service.stop()
    assert service.wrong == []


@pytest.fixture
def adapters(service):
    made = []

    def make(**kwargs):
        kwargs = {
            "api_key": KEY, "base_url": service.url, "poll_seconds": 60, "timeout_seconds": 0.5,
            "reconcile_seconds": 0.25,
        } | kwargs  # fmt: skip
        made.append(RemoteAdapter(**kwargs))
        return made[-1]

    yield make
    from lifecycle.engine import supervisor

    async def work(_):
        for adapter in made:
            await adapter.aclose()

    supervisor().call(work)


@pytest.fixture
def client(adapters):
    with Client(adapter=adapters(), store="memory:") as client:
        yield client


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(remote_client, "_backoff", lambda _: 0.01)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(remote_client, "MAX_BODY", 4000)


def json_fault(status, detail, *, acts=False, **headers):
    return {"kind": "answer", "status": status, "body": {"detail": detail}, "headers": headers, "acts": acts}


LONG = {"Retry-After": "3600"}
FIELD = [{"loc": ["body", "viewport_width"], "msg": "Input should be greater than 499", "input": "secret"}]
HTML = {"kind": "answer", "body": "<html>hello</html>"}

REFUSALS = [
    ("401", json_fault(401, "no"), AuthenticationError, "NOTTE_API_KEY"),
    ("403", json_fault(403, "no"), AuthenticationError, "NOTTE_API_KEY"),
    ("404", json_fault(404, "nothing here"), RemoteRejected, "404 (nothing here)"),
    ("409", json_fault(409, "busy"), RemoteRejected, "409 (busy)"),
    ("422", json_fault(422, FIELD), RemoteRejected, "viewport_width: Input should be greater than 499"),
    ("429", json_fault(429, "slow down", **LONG), CapacityError, "asks to wait 3600 seconds"),
    ("529", json_fault(529, "full", **LONG), CapacityError, "no room now"),
    ("503", json_fault(503, "soon", **LONG), RemoteRejected, "503 (soon)"),
    (
        "302",
        {"kind": "answer", "status": 302, "headers": {"Location": "/x"}, "acts": False},
        RemoteRejected,
        "redirect",
    ),
    ("500", json_fault(500, "broken"), RemoteRejected, "500 (broken)"),
    ("500 with a message", {**json_fault(500, ""), "body": {"error": {"message": "oh"}}}, RemoteRejected, "500 (oh)"),
]

LOST = [
    ("closed", {"kind": "drop"}, "no whole answer"),
    ("cut", {"kind": "half"}, "no whole answer"),
    ("silent", {"kind": "stall"}, "no answer within 0.5 seconds"),
    ("slow", {"kind": "drip"}, "no answer within 0.5 seconds"),
    ("no HTTP", {"kind": "nonsense"}, "no whole answer"),
    ("no JSON", HTML, "no JSON"),
    ("nothing", {"kind": "answer"}, "no JSON"),
    ("no session", {"kind": "answer", "body": {"hello": 1}}, "session_id"),
    ("too large", {"kind": "answer", "body": {"x": "y" * 5000}}, "too large"),
    ("not what it says", {"kind": "answer", "body": "{}", "headers": {"Content-Encoding": "gzip"}}, "decoded"),
    ("500", {"kind": "answer", "status": 500}, "answered 500"),
    ("502", {"kind": "answer", "status": 502, "body": "<html>"}, "no JSON"),
    ("503", {"kind": "answer", "status": 503}, "answered 503"),
]


def names(table):
    return [row[0] for row in table]


def commit_of(session):
    return [r for r in session.history() if r.kind is RecordKind.COMMIT][-1]


def fails(session, error=LifecycleError):
    with pytest.raises(error) as caught:
        session.start()
    assert type(caught.value) is error or error is LifecycleError
    assert KEY not in str(caught.value)
    assert (session.state, commit_of(session).close_reason) == (State.ERROR, CloseReason.BACKEND)
    return caught.value


# --- start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", REFUSALS, ids=names(REFUSALS))
@pytest.mark.parametrize("way_name", WAYS)
def test_a_create_that_is_refused(service, adapters, way_name, row):
    _, fault, kind, words = row
    way = WAYS[way_name]()
    try:
        service.fail("start", **fault)
        error = fails(way.client(adapter=adapters()).Session(), kind)
        assert words in str(error)
        if kind is RemoteRejected:
            assert error.status == fault["status"]
        assert "secret" not in str(error)
        assert (service.count("start"), service.sessions) == (1, {})
    finally:
        way.finish()


@pytest.mark.parametrize("row", LOST, ids=names(LOST))
@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("tells_keys", [True, False], ids=["keys", "no keys"])
@pytest.mark.usefixtures("small")
def test_a_create_whose_answer_is_lost(service, client, row, made, tells_keys):
    _, fault, words = row
    service.tells_keys = tells_keys
    service.fail("start", **fault, acts=made)
    error = fails(client.Session(), StartFailed)
    assert words in str(error.__cause__)
    assert (service.count("start"), len(service.sessions), service.live) == (1, int(made), [])
    if made:
        assert f"{next(iter(service.sessions))}, has been released" in str(error)
        assert service.last("stop").query == {"close_reason": "error"}
    else:
        assert "no session of it was active" in str(error)


def test_a_session_that_comes_up_late_is_found(service, adapters):
    hold = service.fail("start", "hold")
    with Client(adapter=adapters(timeout_seconds=0.2, reconcile_seconds=PATIENCE), store="memory:") as client:
        thread = threading.Thread(target=lambda: fails(client.Session(), StartFailed), name="caller")
        thread.start()
        eventually(lambda: service.count("list") > 1)
        hold.go.set()
        thread.join(PATIENCE)
    assert (len(service.sessions), service.live) == (1, [])


def test_a_list_that_fails_is_asked_again(service, adapters):
    service.fail("start", "drop")
    service.fail("list", "answer", status=500, acts=False)
    with Client(adapter=adapters(reconcile_seconds=PATIENCE), store="memory:") as client:
        fails(client.Session(), StartFailed)
    assert (len(service.sessions), service.live) == (1, [])


def test_what_can_not_be_found_out_is_said(service, client):
    service.fail("start", "drop")
    for _ in range(9):
        service.fail("list", "answer", status=500, acts=False)
    assert "could not be found out" in str(fails(client.Session(), StartFailed))
    service.faults.clear()


def test_a_session_that_can_not_be_released_is_named(service, client):
    service.fail("start", "drop")
    service.fail("stop", "answer", status=500, acts=False)
    (session_id,) = [str(fails(client.Session(), StartFailed)) and next(iter(service.sessions))]
    assert service.live == [session_id]


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_create_that_was_clearly_refused_is_repeated(service, client, status):
    service.fail("start", **json_fault(status, "not now", **{"Retry-After": "0"}))
    service.fail("start", **json_fault(status, "not now"))
    with client.Session():
        assert (service.count("start"), len(service.live)) == (3, 1)
        keys = {r.headers["idempotency-key"] for r in service.requests if r.endpoint == "start"}
        assert len(keys) == 1


def test_what_the_service_asks_to_wait_is_waited(service, client):
    service.fail("start", **json_fault(429, "not now", **{"Retry-After": "1"}))
    began = time.monotonic()
    with client.Session():
        assert 1 <= time.monotonic() - began < PATIENCE


def test_a_service_that_is_not_there(adapters):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with Client(adapter=adapters(base_url=url), store="memory:") as client:
            error = fails(client.Session(start_timeout_minutes=0.02), StartFailed)
    assert "no connection" in str(error)
    assert isinstance(error.__cause__, ConnectionLost)


def test_a_create_that_never_reached_the_service_is_repeated(service, adapters):
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))
        port = later.getsockname()[1]
        adapter = adapters(base_url=f"http://127.0.0.1:{port}")
        with Client(adapter=adapter, store="memory:") as client:
            tried = threading.Event()
            exchange = adapter._service.exchange

            async def watched(*args, **kwargs):
                try:
                    return await exchange(*args, **kwargs)
                except remote_client.Lost:
                    adapter._service.base_url = service.url  # it comes up
                    tried.set()
                    raise

            adapter._service.exchange = watched
            with client.Session() as session:
                assert tried.is_set()
                assert service.live == [session.session_id]
            adapter._service.exchange = exchange


def test_a_session_that_is_over_at_once(service, client):
    body = {
        "session_id": "x", "idle_timeout_minutes": 3, "timeout_minutes": 3, "max_duration_minutes": 15,
        "created_at": "2026-01-01T00:00:00", "status": "error", "error": "no browser",
    }  # fmt: skip
    service.fail("start", "reply", body=body, acts=False)
    assert "no browser" in str(fails(client.Session(), StartFailed))


def test_a_ledger_that_can_not_be_written_releases_what_was_made(service, adapters):
    class Broken(MemoryStore):
        def write(self, records, rows):
            if rows:
                raise StoreError("no space left", store=self.url)
            super().write(records, rows)

    client = Client(adapter=adapters(), store=Broken())
    with pytest.raises(StoreError):
        client.Session().start()
    with pytest.raises(StoreError):  # of what could not be written
        client.close()
    assert (len(service.sessions), service.live) == (1, [])


# --- a service that does not tell keys ----------------------------------------------------------------------------


def test_sessions_of_others_are_left_alone(service, client):
    service.tells_keys = False
    long_ago = "2020-01-01T00:00:00+00:00"
    others = [service.make(created_at=long_ago), service.make(max_duration_minutes=99)]
    with client.Session() as own:
        service.fail("start", "drop")
        fails(client.Session(), StartFailed)
        assert set(service.live) == {*others, own.session_id}


def test_of_several_sessions_that_may_be_it_none_is_released(service, client):
    service.tells_keys = False
    other = service.make(proxies=False)
    service.fail("start", "drop")
    error = fails(client.Session(), StartFailed)
    assert len(service.live) == 2
    assert all(session_id in str(error) for session_id in (other, *service.live))


def test_creates_that_are_lost_together_are_all_released(service, client):
    service.tells_keys = False
    for _ in range(3):
        service.fail("start", "drop")
    errors = in_threads([client.Session().start for _ in range(3)])
    assert [type(e) for e in errors] == [StartFailed] * 3
    assert (len(service.sessions), service.live) == (3, [])


def test_a_create_on_its_way_is_not_taken_for_a_lost_one(service, adapters):
    service.tells_keys = False
    with Client(adapter=adapters(timeout_seconds=PATIENCE, reconcile_seconds=PATIENCE), store="memory:") as client:
        hold = service.fail("start", "hold")
        good = client.Session()
        starting = threading.Thread(target=good.start, name="caller-1")
        starting.start()
        assert hold.reached.wait(PATIENCE)
        service.fail("start", "drop", acts=False)
        losing = threading.Thread(target=lambda: fails(client.Session(), StartFailed), name="caller-2")
        losing.start()
        eventually(lambda: service.count("list") >= 1)
        unanswered = service.make()  # as what `good` asks for, and its answer is still on its way
        listed = service.count("list")
        eventually(lambda: service.count("list") > listed)
        assert service.live == [unanswered]
        service.end(unanswered, "closed", "manual")
        hold.go.set()
        starting.join(PATIENCE)
        assert service.live == [good.session_id]
        key = service.last("start").headers["idempotency-key"]
        late = service.make(idempotency_key=key)  # what the lost one made comes up, and is known by its key
        losing.join(PATIENCE)
        assert not losing.is_alive()
        assert (service.sessions[late]["status"], service.live) == ("closed", [good.session_id])
        good.stop()


# --- cancelled ----------------------------------------------------------------------------------------------------


def test_a_create_that_is_cancelled_in_any_tick_leaves_nothing(service):
    async def life() -> tuple[int, int]:
        adapter = RemoteAdapter(api_key=KEY, base_url=service.url, reconcile_seconds=0.2)
        opened = cancelled = 0
        try:
            for ticks in [*range(30), *range(30, 200, 7)]:
                task = asyncio.create_task(adapter.open("", SessionOptions(), FakeHost()))
                for _ in range(ticks):
                    await asyncio.sleep(0)
                    if task.done():
                        break
                task.cancel()
                try:
                    backend = await task
                except asyncio.CancelledError:
                    cancelled += 1
                else:
                    opened += 1
                    await backend.release()
                assert service.live == [], ticks
        finally:
            await adapter.aclose()
        return opened, cancelled

    _, cancelled = asyncio.run(asyncio.wait_for(life(), 60))
    assert cancelled > 10


@pytest.mark.parametrize("acts", ["answers", "drop", "stall"])
def test_a_start_that_is_stopped_while_the_service_works_on_it(service, adapters, acts):
    store = MemoryStore()
    fault = service.fail("start", "hold" if acts == "answers" else acts)
    with Client(adapter=adapters(timeout_seconds=PATIENCE if acts == "answers" else 0.3), store=store) as client:
        session = client.Session()
        errors = []

        def start() -> None:
            try:
                session.start()
            except LifecycleError as e:
                errors.append(e)

        thread = threading.Thread(target=start, name="caller")
        thread.start()
        assert fault.reached.wait(PATIENCE)
        stopping = threading.Thread(target=session.stop, name="stopper")
        stopping.start()
        fault.go.set()
        stopping.join(PATIENCE)
        thread.join(PATIENCE)
        assert isinstance(errors[0], (SessionEnded, StartFailed))
        assert session.state.terminal
        eventually(lambda: service.sessions and not service.live)


def test_a_task_that_is_cancelled_while_it_starts_leaves_nothing(service, adapters):
    from lifecycle import AsyncClient

    async def life() -> None:
        async with AsyncClient(adapter=adapters(timeout_seconds=PATIENCE), store="memory:") as client:
            for _ in range(3):
                hold = service.fail("start", "hold")
                session = client.Session()
                task = asyncio.create_task(session.start())
                while not hold.reached.is_set():
                    await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.sleep(0.01)
                hold.go.set()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert session.state.terminal

    asyncio.run(asyncio.wait_for(life(), 60))
    assert (len(service.sessions), service.live) == (3, [])


# --- operations ---------------------------------------------------------------------------------------------------

OPERATIONS = [
    *REFUSALS,
    ("closed", {"kind": "drop"}, ConnectionLost, "no whole answer"),
    ("cut", {"kind": "half"}, ConnectionLost, "no whole answer"),
    ("silent", {"kind": "stall"}, ConnectionLost, "no answer within 1 seconds"),
    ("slow", {"kind": "drip"}, ConnectionLost, "no answer within 1 seconds"),
    ("no HTTP", {"kind": "nonsense"}, ConnectionLost, "no whole answer"),
    ("too large", {"kind": "answer", "body": {"x": "y" * 5000}}, ConnectionLost, "too large"),
    ("no JSON", HTML, RemoteRejected, "no JSON"),
    ("no cookies", {"kind": "answer", "body": {"cookies": 7}}, RemoteRejected, "cookies is not a list"),
    ("no object", {"kind": "answer", "body": "[]"}, RemoteRejected, "cookies is not a list"),
    ("deep", {"kind": "answer", "body": "[" * 3900}, RemoteRejected, "no JSON"),
]


@pytest.mark.parametrize("row", OPERATIONS, ids=names(OPERATIONS))
@pytest.mark.usefixtures("small")
def test_an_operation_that_fails_leaves_the_session_active(service, adapters, row):
    _, fault, kind, words = row
    seconds = 1.0 if "no answer within" in words else PATIENCE
    with Client(adapter=adapters(timeout_seconds=seconds), store="memory:") as client, client.Session() as session:
        for _ in range(4):
            service.fail("get_cookies", **fault)
        with pytest.raises(BackendError) as caught:
            session.get_cookies()
        assert type(caught.value) is kind
        assert words in str(caught.value)
        assert session.state is State.ACTIVE
        service.faults.clear()
        assert session.get_cookies() == []


@pytest.mark.parametrize("kind", ["drop", "half", "nonsense"])
def test_what_is_safe_to_repeat_is_repeated(service, client, kind):
    with client.Session() as session:
        service.fail("get_cookies", kind)
        service.fail("get_cookies", "answer", status=502, body="<html>")
        assert session.get_cookies() == []
        assert service.count("get_cookies") == 3


def test_what_is_said_of_cookies_is_not_shown(service, client):
    with client.Session() as session:
        cookie = {"name": "a", "value": "cookie-secret", "domain": "example.com"}
        service.fail("set_cookies", **json_fault(500, "bad cookie-secret"))
        with pytest.raises(RemoteRejected) as caught:
            session.set_cookies(cookies=[cookie])
        assert "cookie-secret" not in str(caught.value)


@pytest.mark.parametrize("call", ["list", "get"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (json_fault(500, "broken"), RemoteRejected),
        (json_fault(401, "no"), AuthenticationError),
        (HTML, RemoteRejected),
        ({"kind": "answer", "body": {"items": 5}}, RemoteRejected),
        ({"kind": "answer", "body": "[1]"}, RemoteRejected),
    ],
)
def test_a_directory_that_can_not_tell(service, client, call, fault, kind):
    session_id = service.make()
    service.fail(call, **fault)
    with pytest.raises(kind):
        client.sessions.list() if call == "list" else client.sessions.get(session_id)


def test_attaching_where_the_service_does_not_answer(service, adapters):
    session_id = service.make()
    with Client(adapter=adapters(), store="memory:") as client:
        for _ in range(4):
            service.fail("get", "drop")
        with pytest.raises(ConnectionLost):
            client.Session(session_id).start()
        service.faults.clear()
    assert service.live == [session_id]


# --- stop ---------------------------------------------------------------------------------------------------------


def stopped(session):
    """Stop it; False when it could not be released."""
    try:
        session.stop()
    except ReleaseFailed:
        return False
    return True


def test_an_error_that_says_it_is_stopped_already_is_an_error(service, client):
    session = client.Session().start()
    for _ in range(3):
        service.fail("stop", **json_fault(500, "Session already stopped"))
    assert not stopped(session)
    assert (session.state, service.count("stop")) == (State.ERROR, 3)
    assert service.live == [session.session_id]


@pytest.mark.parametrize("status", [404, 409])
@pytest.mark.parametrize("over", [True, False], ids=["over", "active"])
def test_not_there_counts_only_when_the_session_is_over(service, client, status, over):
    session = client.Session().start()
    if over:
        service.end(session.session_id, "closed", "manual")
    for _ in range(3):
        service.fail("stop", **json_fault(status, "already stopped"))
    assert stopped(session) is over
    assert session.state is (State.CLOSED if over else State.ERROR)
    assert service.count("stop") == (1 if over else 3)
    service.faults.clear()


def test_a_session_that_the_service_does_not_know_is_released(service, client):
    session = client.Session().start()
    del service.sessions[session.session_id]
    assert stopped(session)
    assert session.state is State.CLOSED


def test_a_session_of_which_nothing_can_be_said_is_not_released(service, client):
    session = client.Session().start()
    for _ in range(3):
        service.fail("stop", **json_fault(404, "gone"))
        service.fail("get", **json_fault(500, "broken"))
    assert not stopped(session)


@pytest.mark.parametrize("kind", ["drop", "half", "nonsense", "stall"])
def test_a_stop_whose_answer_is_lost_is_repeated(service, client, kind):
    session = client.Session().start()
    service.fail("stop", kind)
    assert stopped(session)
    assert (session.state, service.count("stop"), service.live) == (State.CLOSED, 2, [])


@pytest.mark.parametrize("body", ["", "<html>", '{"odd": 1}'])
def test_a_good_status_is_enough(service, client, body):
    session = client.Session().start()
    service.fail("stop", "answer", status=204 if not body else 200, body=body)
    assert stopped(session)
    assert (service.count("stop"), service.live) == (1, [])


def test_a_stop_that_is_refused_for_its_key_says_so(service, client):
    session = client.Session().start()
    for _ in range(3):
        service.fail("stop", **json_fault(401, "no"))
    with pytest.raises(ReleaseFailed, match="NOTTE_API_KEY"):
        session.stop()
    assert session.state is State.ERROR


# --- what the wire has no call for --------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps", [False, True])
def test_cookies_are_cleared_by_letting_them_expire(service, keeps):
    async def life() -> None:
        adapter = RemoteAdapter(api_key=KEY, base_url=service.url)
        backend = await adapter.open("", SessionOptions(), FakeHost())
        try:
            await backend.clear_cookies()
            assert service.count("set_cookies") == 0
            cookies, _ = parse_cookies([{"name": n, "value": "1", "domain": "example.com"} for n in "ab"])
            assert await backend.set_cookies(cookies) == []
            if keeps:
                service.fail("set_cookies", "answer", body={"success": True}, acts=False)
                with pytest.raises(UnsupportedOperation, match="Storage.clearCookies"):
                    await backend.clear_cookies()
            else:
                await backend.clear_cookies()
                assert await backend.get_cookies() == []
        finally:
            await backend.release()
            await adapter.aclose()

    asyncio.run(life())


def test_a_service_without_a_cdp_url(service, client):
    service.gives_urls = False
    with client.Session() as session:
        service.fail("debug", "reply", body={"ws": None})
        with pytest.raises(UnsupportedOperation, match="no CDP URL"):
            session.cdp_url()
