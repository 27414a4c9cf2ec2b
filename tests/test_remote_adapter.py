"""The remote adapter in the hands of a program: a whole life, attach and detach, lists, its poller, its pool."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from both_ways import PATIENCE, eventually, in_threads
from planted import TOKEN
from remote_service import KEY, RemoteService

from lifecycle import (
    Client,
    ConfigError,
    RecordKind,
    SessionClosed,
    SessionFailed,
    SessionTimedOut,
    UnsupportedOperation,
)
from lifecycle.errors import CookieRejected
from lifecycle.ports import Directory
from lifecycle.states import CloseReason, State
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.remote import RemoteAdapter

pytestmark = pytest.mark.slow


@pytest.fixture
def service():
    service = RemoteService()
    yield service
    service.stop()
    assert service.wrong == []


@pytest.fixture
def adapters(service):
    """Makes adapters of the service, whose connections are closed after the test."""
    made = []

    def make(**kwargs):
        kwargs = {"api_key": KEY, "base_url": service.url, "poll_seconds": 0.05, "reconcile_seconds": 0.4} | kwargs
        made.append(RemoteAdapter(**kwargs))
        return made[-1]

    yield make
    for adapter in made:
        close(adapter)


def close(adapter) -> None:
    from lifecycle.engine import supervisor

    async def work(_):
        await adapter.aclose()

    supervisor().call(work)


@pytest.fixture
def client(adapters):
    with Client(adapter=adapters(), store="memory:") as client:
        yield client


def commit_of(session):
    return [r for r in session.history() if r.kind is RecordKind.COMMIT][-1]


COOKIE = {"name": "sid", "value": "cookie-secret", "domain": "example.com", "path": "/"}


# --- a whole life -------------------------------------------------------------------------------------------------


def test_a_session_goes_from_start_to_stop(way, service, adapters):
    session = way.client(adapter=adapters()).Session(
        timeout_minutes=2.5, max_duration_minutes=7.2, viewport_width=800, viewport_height=600, user_agent="me/1",
        chrome_args=["--lang=de"], proxy={"server": "http://10.0.0.1:3128", "username": "u", "password": "p"},
        headless=False,
    )  # fmt: skip
    session.start()
    assert service.live == [session.session_id]
    assert session.cdp_url() == service.sessions[session.session_id]["cdp_url"]
    status = session.status()
    assert (status.status, status.timeout_minutes, status.max_duration_minutes) == (State.ACTIVE, 2.5, 7.2)
    start = service.last("start")
    assert start.body == {
        "idle_timeout_minutes": 3,
        "max_duration_minutes": 8,
        "viewport_width": 800,
        "viewport_height": 600,
        "user_agent": "me/1",
        "chrome_args": ["--lang=de"],
        "proxies": [{"type": "external", "server": "http://10.0.0.1:3128", "username": "u", "password": "p"}],
    }
    assert service.sessions[session.session_id]["idempotency_key"] == start.headers["idempotency-key"]
    session.stop()
    session.stop()
    assert (session.state, service.live) == (State.CLOSED, [])
    assert service.count("stop") == 1
    assert service.last("stop").query == {"close_reason": "manual"}


def test_its_history_begins_with_the_intent_of_before_it_had_an_id(client):
    session = client.Session()
    session.start()
    session.stop()
    told = [(r.kind, r.event, r.session_id) for r in session.history()]
    assert told[0] == (RecordKind.INTENT, "start", None)
    assert [i for _, _, i in told[1:]] == [session.session_id] * 3
    assert [r.attachment_seq for r in session.history()] == [1, 2, 3, 4]


def test_the_ledger_knows_the_session_as_soon_as_it_exists(service, adapters):
    store = MemoryStore()
    hold = service.fail("set_cookies", "hold")
    with Client(adapter=adapters(), store=store) as client:
        cookie_file = os.path.join(os.environ["TMPDIR"], "early.json")
        with open(cookie_file, "w") as f:
            json.dump([COOKIE], f)
        session = client.Session(cookie_file=cookie_file, name="shop")
        thread = threading.Thread(target=session.start, name="caller")
        thread.start()
        assert hold.reached.wait(PATIENCE)
        (session_id,) = service.live
        row = store.session(session_id)
        assert (row.state, row.released, row.name) == (State.NOT_STARTED, False, "shop")
        assert row.facts == {"session_id": session_id, "service": service.url}
        hold.go.set()
        thread.join(PATIENCE)
        session.stop()
    os.unlink(cookie_file)
    assert store.session(session_id).released


def test_cookies_are_loaded_from_the_file_and_saved_to_it(service, client, tmp_path):
    file = tmp_path / "cookies.json"
    file.write_text(json.dumps([COOKIE, {**COOKIE, "name": "dropped"}, {**COOKIE, "name": "bad"}]))
    with client.Session(cookie_file=file) as session:
        assert [c["name"] for c in session.get_cookies()] == ["sid"]
        until = datetime.now(UTC).timestamp() + 3600
        session.set_cookies(cookies=[
            {"name": "new", "value": "2", "domain": ".example.org", "path": "/x", "expires": until, "secure": True,
             "sameSite": "None", "httpOnly": True, "partitionKey": "https://top.example"},
        ])  # fmt: skip
        sent = service.last("set_cookies").body["cookies"][0]
        assert sent == {
            "name": "new", "value": "2", "domain": ".example.org", "path": "/x", "expirationDate": until,
            "secure": True, "sameSite": "None", "httpOnly": True, "partitionKey": "https://top.example",
            "hostOnly": False, "session": False,
        }  # fmt: skip
    saved = {c["name"]: c for c in json.loads(file.read_text())}
    assert set(saved) == {"sid", "new", "bad", "dropped"}  # what was refused stays in the file
    assert saved["new"]["domain"] == ".example.org"


def test_cookies_that_do_not_take_are_named_and_the_others_are_set(service, client):
    past = 1_000_000_000
    with client.Session() as session:
        with pytest.raises(CookieRejected) as caught:
            session.set_cookies(cookies=[
                COOKIE, {**COOKIE, "name": "bad"}, {**COOKIE, "name": "dropped"}, {**COOKIE, "name": "two"},
                {**COOKIE, "name": "old", "expires": past},
            ])  # fmt: skip
        assert set(caught.value.names) == {"bad", "dropped", "old"}
        assert "cookies.0.domain" in str(caught.value)
        assert "cookie-secret" not in str(caught.value)
        assert {c["name"] for c in session.get_cookies()} == {"sid", "two"}


def test_the_cdp_url_comes_from_the_debug_endpoint_where_the_session_has_none(service, client):
    service.gives_urls = False
    with client.Session() as session:
        assert session.cdp_url().endswith(f"/{session.session_id}/cdp?token={TOKEN}")
        assert service.count("debug") == 1


def test_a_session_that_ends_in_an_error_is_stopped_as_one(service, client):
    with pytest.raises(SessionFailed), client.Session() as session:
        service.sessions[session.session_id].update(status="meditating", odd=True)
        session.wait_ended(timeout=PATIENCE)
        session.get_cookies()
    assert service.last("stop").query == {"close_reason": "error"}


def test_extend_says_that_the_service_can_not(client):
    with client.Session() as session, pytest.raises(UnsupportedOperation, match="max_duration_minutes="):
        session.extend(minutes=5)


# --- attach, detach, lists ----------------------------------------------------------------------------------------


def test_the_owner_detaches_and_another_client_attaches(way, service, adapters):
    first = way.client(adapter=adapters()).Session(name="shop", labels={"team": "a"})
    first.start()
    session_id = first.session_id
    first.detach()
    assert (first.state, service.live) == (State.CLOSED, [session_id])
    asked = service.count("get")
    second = way.client(adapter=adapters()).Session(session_id)
    second.start()
    assert second.status().status is State.ACTIVE
    assert service.count("get") > asked
    assert second.cdp_url() == service.sessions[session_id]["cdp_url"]
    second.detach()
    assert service.live == [session_id]
    third = way.client(adapter=adapters()).Session(session_id)
    third.start()
    third.stop()
    assert service.live == []


def test_a_guest_stops_the_session_for_its_owner(service, adapters):
    with Client(adapter=adapters(), store="memory:") as one, Client(adapter=adapters(), store="memory:") as two:
        owner = one.Session().start()
        two.Session(owner.session_id).start().stop()
        assert owner.wait_ended(timeout=PATIENCE).close_reason is CloseReason.MANUAL
        assert commit_of(owner).cause == "backend"
    assert service.count("stop") == 1


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [("closed", "manual", SessionClosed), ("timed_out", None, SessionTimedOut), ("error", None, SessionFailed)],
)
def test_attaching_to_a_session_that_is_over_tells_how_it_ended(service, client, status, reason, error):
    session_id = service.make()
    service.end(session_id, status, reason)
    with pytest.raises(error):
        client.Session(session_id).start()


@pytest.mark.parametrize("session_id", ["nobody", "..", "a/../../health", "ä b?c#d"])
def test_attaching_to_nobody(service, client, session_id):
    with pytest.raises(ConfigError, match="client.sessions.list"):
        client.Session(session_id).start()
    assert {r.endpoint for r in service.requests} <= {"get"}


def test_sessions_are_told_by_the_service_with_names_from_the_ledger(way, service, adapters):
    client = way.client(adapter=adapters())
    foreign = service.make(idle_timeout_minutes=9)
    mine = client.Session(name="shop", labels={"team": "a"}).start()
    gone = service.make()
    service.end(gone, "closed", "idle_timeout")
    listed = client.sessions.list()
    assert [s.session_id for s in listed] == [gone, mine.session_id, foreign]
    assert [(s.name, s.labels) for s in listed] == [(None, {}), ("shop", {"team": "a"}), (None, {})]
    assert listed[0].status is State.TIMED_OUT and listed[0].close_reason is CloseReason.IDLE_TIMEOUT
    assert [s.session_id for s in client.sessions.list(status="active")] == [mine.session_id, foreign]
    assert service.last("list").query["only_active"] == "True"
    assert [s.session_id for s in client.sessions.list(status="timed_out")] == [gone]
    assert [s.session_id for s in client.sessions.list(label="team=a")] == [mine.session_id]
    assert client.sessions.get(foreign).timeout_minutes == 9
    assert client.sessions.get(mine.session_id).name == "shop"
    with pytest.raises(ConfigError):
        client.sessions.get("nobody")
    assert client.sessions.stop(foreign).status is State.CLOSED
    assert client.sessions.stop(foreign).status is State.CLOSED
    assert service.count("stop") == 1
    assert client.sessions.stop(mine.session_id).status is State.CLOSED
    assert (mine.state, service.live) == (State.CLOSED, [])
    with pytest.raises(ConfigError):
        client.sessions.stop("nobody")


def test_lists_go_through_the_pages_of_the_service(service, client):
    made = [service.make() for _ in range(250)][::-1]
    assert [s.session_id for s in client.sessions.list(limit=120, offset=90)] == made[90:210]
    assert service.count("list") == 3
    assert [s.session_id for s in client.sessions.list(limit=50, offset=240)] == made[240:]


def test_what_the_service_has_forgotten_is_told_as_lost(service, adapters):
    store = MemoryStore()
    with Client(adapter=adapters(), store=store) as client:
        session = client.Session(name="shop", labels={"team": "a"}).start()
        row = store.session(session.session_id)
        session.stop()
        store.write([], [row])  # as after a process that died
        del service.sessions[session.session_id]
        told = [client.sessions.get(session.session_id), *client.sessions.list(), *client.sessions.list(label="team=a")]
        assert [(s.status, s.name, "does not know" in s.error) for s in told] == [(State.ERROR, "shop", True)] * 3


def test_rows_of_other_adapters_in_the_store_stay_what_they_are(service, adapters):
    store = MemoryStore()
    with Client(adapter="memory", store=store) as memory:
        other = memory.Session().start()
        other.stop()
    with Client(adapter=adapters(), store=store) as client:
        assert [s.session_id for s in client.sessions.list()] == [other.session_id]
        assert client.sessions.get(other.session_id).adapter == "memory"
        assert client.sessions.stop(other.session_id).status is State.CLOSED
    assert service.count("get") == 0


def test_the_adapter_is_a_directory(adapters):
    assert isinstance(adapters(), Directory)


# --- the service's word -------------------------------------------------------------------------------------------

ENDS = [
    ("timed_out", "idle_timeout", State.TIMED_OUT, CloseReason.IDLE_TIMEOUT, "expire"),
    ("timed_out", "max_duration", State.TIMED_OUT, CloseReason.MAX_DURATION, "expire"),
    ("timed_out", None, State.TIMED_OUT, CloseReason.IDLE_TIMEOUT, "expire"),
    ("closed", "idle_timeout", State.TIMED_OUT, CloseReason.IDLE_TIMEOUT, "expire"),
    ("closed", "max_duration", State.TIMED_OUT, CloseReason.MAX_DURATION, "expire"),
    ("closed", "manual", State.CLOSED, CloseReason.MANUAL, "stop"),
    ("closed", "error", State.CLOSED, CloseReason.BACKEND, "stop"),
    ("error", "error", State.ERROR, CloseReason.BACKEND, "fail"),
    ("meditating", None, State.ERROR, CloseReason.BACKEND, "fail"),
]


@pytest.mark.parametrize(("status", "reason", "state", "why", "event"), ENDS)
def test_an_end_that_the_service_reports_is_taken_along_its_edge(service, client, status, reason, state, why, event):
    session = client.Session().start()
    service.sessions[session.session_id]["odd"] = True
    service.end(
        session.session_id, status, reason, f"see https://x.example/?token={TOKEN}" if status == "error" else None
    )
    ended = session.wait_ended(timeout=PATIENCE)
    assert (ended.status, ended.close_reason) == (state, why)
    record = commit_of(session)
    assert (record.event, record.cause, record.close_reason) == (event, "backend", why)
    if state is State.ERROR:
        assert "secret" not in ended.error
        assert status in ended.error
    # What ended by the service's own word is not stopped again, unless it may still hold something.
    assert service.count("stop") == (1 if state is State.ERROR else 0)


def test_an_operation_on_a_session_that_is_over_asks_how_it_ended(service, adapters):
    with Client(adapter=adapters(poll_seconds=60), store="memory:") as client:
        session = client.Session().start()
        service.end(session.session_id, "closed", "idle_timeout")
        with pytest.raises(SessionTimedOut) as caught:
            session.get_cookies()
        assert caught.value.close_reason is CloseReason.IDLE_TIMEOUT
        other = client.Session().start()
        del service.sessions[other.session_id]
        with pytest.raises(SessionFailed, match="does not know the session any more"):
            other.get_cookies()


def test_a_lost_connection_is_no_lost_session(service, client):
    session = client.Session().start()
    for kind in ("drop", "half", "nonsense"):
        service.fail("get", kind)
    service.fail("get", "answer", status=503, acts=False)
    service.fail("get", "answer", status=401, body={"detail": "no"}, acts=False)
    service.drop_connections()
    eventually(lambda: not service.faults["get"] and service.count("get") > 8)
    assert session.state is State.ACTIVE
    assert session.get_cookies() == []
    session.stop()


def armed(clock, seconds) -> bool:
    """True once a timer is set for `seconds` from now: the poller has read its answer and waits again."""
    _ = clock.next_due  # takes up what was set meanwhile
    due = clock.monotonic() + seconds
    return any(timer.pending and abs(order[0] - due) < 1e-3 for order, timer in list(clock._heap))


def test_use_that_only_the_service_sees_holds_the_idle_deadline(service, adapters):
    clock = ManualClock()
    with Client(adapter=adapters(poll_seconds=19), store="memory:", clock=clock) as client:
        session = client.Session(timeout_minutes=1).start()
        for _ in range(8):  # two and a half minutes
            eventually(lambda: armed(clock, 19))
            service.use(session.session_id)
            clock.advance(19)
            eventually(lambda: armed(clock, 19))
            assert session.status().last_accessed_at == clock.utcnow()
        for _ in range(3):
            eventually(lambda: armed(clock, 19))
            assert session.state is State.ACTIVE
            clock.advance(19)
        eventually(lambda: armed(clock, 19))
        clock.advance(3)
        assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.IDLE_TIMEOUT
        assert commit_of(session).cause == "deadline"
    assert service.live == []


def test_a_short_idle_timeout_is_looked_at_more_often(service, adapters):
    clock = ManualClock()
    with Client(adapter=adapters(poll_seconds=300), store="memory:", clock=clock) as client:
        session = client.Session(timeout_minutes=0.5).start()
        clock.advance(9.9)
        session.status()
        assert service.count("get") == 0
        clock.advance(0.2)
        eventually(lambda: service.count("get") == 1)


def test_nobody_is_asked_any_more_after_the_end(service, client):
    one, two = client.Session().start(), client.Session().start()
    one.stop()
    two.detach()
    asked = service.count("get")
    third = client.Session().start()
    eventually(lambda: service.count("get") >= asked + 3)
    assert {r.path.rpartition("/")[2] for r in service.requests[-3:] if r.endpoint == "get"} == {third.session_id}


# --- one pool -----------------------------------------------------------------------------------------------------


def test_sessions_share_few_connections(service, adapters):
    with Client(adapter=adapters(poll_seconds=60), store="memory:") as client:
        sessions = [client.Session() for _ in range(20)]
        assert not [e for e in in_threads([s.start for s in sessions]) if isinstance(e, BaseException)]
        assert len(service.live) == 20
        opened = service.connections
        assert opened <= 20
        for session in sessions:
            session.get_cookies()
        assert service.connections == opened
        in_threads([s.stop for s in sessions])
        assert service.live == []


def test_a_closed_pool_is_opened_anew(service, adapters):
    adapter = adapters()
    with Client(adapter=adapter, store="memory:") as client:
        with client.Session():
            close(adapter)
            close(adapter)
        assert service.live == []


def test_a_client_that_was_told_a_name_closes_the_connections(service, monkeypatch):
    monkeypatch.setenv("NOTTE_API_KEY", KEY)
    monkeypatch.setenv("NOTTE_API_URL", service.url)
    with Client(adapter="remote", store="memory:") as client, client.Session() as session:
        assert service.live == [session.session_id]
    eventually(lambda: not service._writers)


def test_a_dropped_adapter_closes_its_connections(service):
    async def life() -> None:
        adapter = RemoteAdapter(api_key=KEY, base_url=service.url)
        assert await adapter.get("nobody") is None
        assert service._writers
        del adapter
        gc.collect()
        async with asyncio.timeout(PATIENCE):
            while service._writers:
                await asyncio.sleep(0.001)

    asyncio.run(life())


def test_a_request_that_is_broken_off_in_any_tick_keeps_no_connection(service):
    """Seen: a look at a session was cancelled with its end, and every request after that waited in vain."""

    async def life() -> None:
        for ticks, warm in itertools.product(range(60), (False, True)):
            adapter = RemoteAdapter(api_key=KEY, base_url=service.url)
            if warm:
                await adapter.get("nobody")
            asked = asyncio.ensure_future(adapter.get("nobody"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait({asked})
            async with asyncio.timeout(PATIENCE):
                assert await adapter.get("nobody") is None
            await adapter.aclose()

    asyncio.run(life())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_opens_connections_of_its_own(service):
    code = """
import os, sys
from lifecycle import Client
client = Client(adapter="remote", store="memory:")
with client.Session() as ours:
    pid = os.fork()
    if pid == 0:
        with client.Session() as theirs:
            pass
        os._exit(0 if theirs.state == "closed" and ours.session_id != theirs.session_id else 1)
    assert os.waitpid(pid, 0)[1] == 0
    ours.get_cookies()
client.close()
"""
    run = _python(code, service)
    assert run.returncode == 0, run.stderr
    assert (len(service.sessions), service.live) == (2, [])


def test_what_is_left_at_the_exit_is_stopped(service):
    code = (
        'from lifecycle import Client\nclient = Client(adapter="remote", store="memory:")\nclient.Session().start()\n'
    )
    run = _python(code, service)
    assert (run.returncode, run.stderr) == (0, "")
    assert (len(service.sessions), service.live) == (1, [])


def test_httpx_comes_with_the_adapter_and_nothing_later(service, tmp_path):
    code = f"""
import sys
import lifecycle, lifecycle_adapters.remote
heavy = {{"httpx", "tenacity", "anyio", "httpcore"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
client = lifecycle.Client(adapter="remote", store="memory:")
had = set(sys.modules)
with client.Session(cookie_file={str(tmp_path / "c.json")!r}) as session:
    session.cdp_url(), session.get_cookies(), session.status()
    client.sessions.list(), client.sessions.get(session.session_id)
client.close()
late = {{name for name in set(sys.modules) - had if name.partition(".")[0] not in {{"lifecycle", "playwright"}}}}
print(*sorted(late))
"""
    run = _python(code, service)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def _python(code, service):
    env = os.environ | {"NOTTE_API_KEY": KEY, "NOTTE_API_URL": service.url}
    path = os.pathsep.join(p for p in sys.path if p)
    env = env | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )


# --- what it is told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "option", "allowed"),
    [
        ({"timeout_minutes": 31, "max_duration_minutes": 60}, "timeout_minutes", "at most 30 minutes"),
        ({"max_duration_minutes": 1441}, "max_duration_minutes", "at most 1440 minutes"),
        ({"viewport_width": 499, "viewport_height": 500}, "viewport_width", "at least 500"),
        ({"viewport_width": 500, "viewport_height": 1}, "viewport_height", "at least 500"),
    ],
)
def test_numbers_that_the_wire_does_not_take(service, client, options, option, allowed):
    with pytest.raises(ConfigError, match=allowed) as caught:
        client.Session(**options)
    assert caught.value.option == option
    assert service.requests == []


@pytest.mark.parametrize("options", [{"executable_path": "/usr/bin/x"}, {"cookie_scope": "all"}])
def test_options_that_the_wire_has_no_place_for(client, options):
    with pytest.raises(UnsupportedOperation) as caught:
        client.Session(**options)
    assert next(iter(options)) in caught.value.operation


def test_minutes_are_rounded_up_on_the_wire(service, client):
    with client.Session(timeout_minutes=29.01, max_duration_minutes=1439.5):
        body = service.last("start").body
    assert (body["idle_timeout_minutes"], body["max_duration_minutes"]) == (30, 1440)


def test_a_missing_key_says_where_it_may_come_from():
    with pytest.raises(ConfigError, match="NOTTE_API_KEY.*lifecycle serve") as caught:
        Client(adapter="remote", store="memory:")
    assert caught.value.option == "api_key"


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", 7])
def test_a_bad_key_is_not_shown(key):
    with pytest.raises(ConfigError, match="hidden") as caught:
        RemoteAdapter(api_key=key)
    assert str(key) not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("http://127.0.0.1:1", True), ("http://[::1]:1/", True), ("http://localhost:1/api/", True),
        ("http://a.localhost", True), ("https://api.example.com", True),
        ("http://api.example.com", False), ("http://10.0.0.1", False), ("http://127.0.0.1.example.com", False),
        ("ftp://127.0.0.1", False), ("api.example.com", False), ("https://u:p@example.com", False),
        ("https://example.com/?a=b", False), ("https://example.com:99999", False), ("https://", False),
    ],
)  # fmt: skip
def test_where_a_key_is_sent(url, fine):
    if fine:
        assert repr(RemoteAdapter(api_key=KEY, base_url=url)) == f"<RemoteAdapter {url.rstrip('/')}>"
    else:
        with pytest.raises(ConfigError) as caught:
            RemoteAdapter(api_key=KEY, base_url=url)
        assert caught.value.option == "base_url"


def test_a_key_goes_unencrypted_only_when_that_is_asked_for():
    assert RemoteAdapter(api_key=KEY, base_url="http://api.example.com", allow_http=True)


@pytest.mark.parametrize("option", ["poll_seconds", "timeout_seconds", "reconcile_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5"])
def test_bad_numbers_are_refused(option, value):
    with pytest.raises(ConfigError) as caught:
        RemoteAdapter(api_key=KEY, **{option: value})
    assert caught.value.option == option


def test_secrets_are_in_no_record_row_or_log_line(service, adapters, caplog):
    caplog.set_level(logging.DEBUG)
    store = MemoryStore()
    adapter = adapters()
    with Client(adapter=adapter, store=store) as client, client.Session() as session:
        session.set_cookies(cookies=[COOKIE])
        session.cdp_url()
        for status in (500, 403, 422):
            body = {"detail": f"{KEY} wss://x/?token={TOKEN}"}
            service.fail("get_cookies", "answer", status=status, body=body, acts=False)
            with pytest.raises(Exception, match=str(status)) as caught:
                session.get_cookies()
            assert KEY not in str(caught.value) and TOKEN not in str(caught.value)
    told = " ".join(r.to_json().decode() for _, r in store.records()) + repr(store.sessions()) + caplog.text
    told += repr(adapter) + repr(adapter._service) + repr(vars(adapter))
    for secret in (KEY, "cookie-secret", TOKEN):
        assert secret not in told
    assert "HTTP Request" not in caplog.text  # no handler of the host's runs on the library's own threads
