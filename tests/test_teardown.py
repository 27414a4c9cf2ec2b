"""How a session ends when the save, the opening or the ending itself goes wrong, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import threading
import time
import weakref
from datetime import timedelta
from pathlib import Path

import pytest
from both_ways import PATIENCE, FailingStore, eventually, in_threads
from planted import COOKIE

from lifecycle import (
    AsyncClient,
    BackendError,
    Client,
    ConfigError,
    CookieSaveError,
    RecordKind,
    SessionTimedOut,
    State,
    StoreError,
)
from lifecycle.cookies import LoadedCookies
from lifecycle.states import CloseReason
from lifecycle.steps import Steps
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import Fault, MemoryAdapter, MemoryBackend

SID = {"name": "sid", "value": COOKIE, "domain": "example.com", "path": "/"}
NEW = {"name": "new", "value": f"{COOKIE}-2", "domain": "example.com", "path": "/"}


@pytest.fixture
def cookie_file(tmp_path):
    path = tmp_path / "cookies.json"
    path.write_text(json.dumps([SID]))
    return path


def end_of(store, session):
    """The terminal record of a session."""
    [end] = [r for _, r in store.records(attachment_id=session.attachment_id) if r.terminal]
    return end


def step_of(record, name):
    [step] = [s for s in record.steps if s.step == name]
    return step


# --- saving cookies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BackendError("Storage.getCookies: -32000"), RuntimeError(COOKIE)])
def test_cookies_that_the_browser_does_not_give_are_a_save_error(cookie_file, error):
    adapter = MemoryAdapter(faults=[Fault(step="save_cookies", kind="fail", error=error)])
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session(cookie_file=cookie_file).start()
        with pytest.raises(CookieSaveError) as caught:
            session.stop()
    assert caught.value.path == str(cookie_file)
    assert caught.value.rescue_path is None
    assert type(error).__name__ in caught.value.reason
    assert COOKIE not in str(caught.value)
    assert caught.value.__cause__ is error
    assert session.state is State.CLOSED
    assert adapter.opened == adapter.released


def test_cookies_whose_write_hangs_go_to_a_rescue_file(cookie_file, monkeypatch):
    clock, go_on, writing = ManualClock(), threading.Event(), threading.Event()

    def hangs(*args, **kwargs):
        writing.set()
        assert go_on.wait(PATIENCE)
        raise OSError

    monkeypatch.setattr("lifecycle.cookies.save_cookie_file", hangs)
    adapter, store = MemoryAdapter(), MemoryStore()
    with Client(adapter=adapter, store=store, clock=clock) as client:
        session = client.Session(cookie_file=cookie_file).start()
        session.set_cookies(cookies=[NEW])
        results = []
        stopper = threading.Thread(target=lambda: results.extend(in_threads([session.stop])))
        stopper.start()
        assert writing.wait(PATIENCE)
        clock.advance(15)
        stopper.join(PATIENCE)
        go_on.set()
    [error] = results
    assert isinstance(error, CookieSaveError)
    assert error.path == str(cookie_file)
    rescued = json.loads(Path(error.rescue_path).read_text())
    assert {c["name"] for c in rescued["cookies"]} == {"sid", "new"}
    assert adapter.opened == adapter.released
    assert step_of(end_of(store, session), "save_cookies").error == "CookieSaveError"


def test_cookies_that_were_read_are_written_even_if_the_browser_ends_meanwhile(cookie_file, monkeypatch):
    from lifecycle.cookies import save_cookie_file

    adapter, store = MemoryAdapter(), MemoryStore()

    def crashes_meanwhile(*args, **kwargs):
        adapter.crash(session.session_id)
        core = session._core
        core.supervisor.call(lambda _: asyncio.sleep(0.01))  # the report has arrived
        return save_cookie_file(*args, **kwargs)

    monkeypatch.setattr("lifecycle.cookies.save_cookie_file", crashes_meanwhile)
    with Client(adapter=adapter, store=store) as client:
        session = client.Session(cookie_file=cookie_file).start()
        session.set_cookies(cookies=[NEW])
        session.stop()
    assert step_of(end_of(store, session), "save_cookies").outcome == "done"
    assert NEW["value"] in cookie_file.read_text()


def test_cookies_in_contexts_of_clients_are_counted_in_the_record(cookie_file, monkeypatch):
    monkeypatch.setattr(MemoryBackend, "foreign_cookies", 3, raising=False)
    store = MemoryStore()
    with Client(adapter=MemoryAdapter(), store=store) as client:
        session = client.Session(cookie_file=cookie_file).start()
        session.stop()
        end = end_of(store, session)
        assert end.counts["cookies_elsewhere"] == 3
        assert step_of(end, "save_cookies").note == "3 cookies in contexts that clients made are not in the file"
        monkeypatch.setattr(MemoryBackend, "foreign_cookies", 0)
        other = client.Session(cookie_file=cookie_file).start()
        other.stop()
        assert "cookies_elsewhere" not in end_of(store, other).counts
        assert step_of(end_of(store, other), "save_cookies").note is None


def test_cookies_that_are_left_out_at_the_start_are_warned_of_by_name(tmp_path, caplog):
    path = tmp_path / "cookies.json"
    bad = {"name": "odd", "value": f"{COOKIE}-3", "domain": "example.com", "path": 7}
    refused = {"name": "__Host-x", "value": f"{COOKIE}-4", "domain": ".example.com", "path": "/"}
    path.write_text(json.dumps([SID, bad, refused]))
    with caplog.at_level(logging.INFO, "lifecycle"), Client(adapter=MemoryAdapter(), store="memory:") as client:
        client.Session(cookie_file=path).start().stop()
        client.Session().start().stop()
    [warning] = [r for r in caplog.records if "cookies_left_out" in r.getMessage()]
    assert warning.levelno == logging.WARNING
    assert "odd" in warning.getMessage()
    assert "__Host-x" in warning.getMessage()
    assert "sid" not in warning.getMessage().replace("session_id", "")
    assert "secret" not in caplog.text


# --- a backend that comes too late --------------------------------------------------------------------------------


class Late(MemoryAdapter):
    """Its `open` ignores cancellations and answers when it is told to."""

    def __init__(self, *, fails=False, faults=()):
        super().__init__(faults=faults)
        self.go_on = threading.Event()
        self.opening = threading.Event()
        self.fails = fails

    async def open(self, session_id, options, host):
        self.opening.set()
        while not self.go_on.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                continue
        if self.fails:
            raise BackendError("it did not open in the end")
        return await super().open(session_id, options, host)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", ["timeout", "stop"])
def test_a_backend_that_opens_after_the_end_is_released(how, fails, monkeypatch):
    monkeypatch.setattr("lifecycle.steps.GRACE", 0.02)
    clock, store, adapter = ManualClock(), MemoryStore(), Late(fails=fails)
    with Client(adapter=adapter, store=store, clock=clock) as client:
        session = client.Session(start_timeout_minutes=1)
        results = []
        starter = threading.Thread(target=lambda: results.extend(in_threads([session.start])))
        starter.start()
        assert adapter.opening.wait(PATIENCE)
        if how == "stop":
            session.stop()
        else:
            clock.advance(60)
        starter.join(PATIENCE)
        assert isinstance(results[0], SessionTimedOut) == (how == "timeout")
        row = store.session(session.session_id)
        assert row.state.terminal
        assert row.closed_at is not None
        assert not row.released, "nobody knows yet"
        assert "as soon as it is there" in step_of(end_of(store, session), "release_backend").note
        adapter.go_on.set()
        eventually(lambda: store.session(session.session_id).released, "the late backend is released")
        assert len(adapter.opened) == (0 if fails else 1)
        assert adapter.opened == adapter.released
        assert store.session(session.session_id).state is row.state


def test_a_late_backend_that_cant_be_released_keeps_its_row(monkeypatch, caplog):
    monkeypatch.setattr("lifecycle.steps.GRACE", 0.02)
    faults = [Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)]
    store, adapter = MemoryStore(), Late(faults=faults)
    with Client(adapter=adapter, store=store) as client:
        session = client.Session()
        starter = threading.Thread(target=lambda: in_threads([session.start]))
        starter.start()
        assert adapter.opening.wait(PATIENCE)
        session.stop()
        starter.join(PATIENCE)
        adapter.go_on.set()
        eventually(lambda: "late_backend_not_released" in caplog.text)
        assert adapter.unused == []
        assert not store.session(session.session_id).released


# --- a fault of ours in an ending ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["hooks", "steps", "row"])
@pytest.mark.parametrize("how", ["stop", "expire"])
def test_a_fault_of_ours_in_an_ending_is_recorded_and_releases(where, how, monkeypatch):
    clock, store, adapter = ManualClock(), MemoryStore(), MemoryAdapter()
    with Client(adapter=adapter, store=store, clock=clock) as client:
        session = client.Session(timeout_minutes=1).start()
        with monkeypatch.context() as patch:

            async def strikes(*args, **kwargs):
                raise KeyError("planted")

            if where == "row":
                core, count = session._core, []
                original = core.row_of

                def once(att, *, released):
                    count.append(released)
                    if len(count) == 1:
                        raise KeyError("planted")
                    return original(att, released=released)

                patch.setattr(core, "row_of", once)
            else:
                patch.setattr(Steps, "run_hooks" if where == "hooks" else "run", strikes)
            if how == "stop":
                with pytest.raises(KeyError):
                    session.stop()
            else:
                clock.advance(61)
                session.wait_ended(timeout=PATIENCE)
        end = end_of(store, session)
        row = store.session(session.session_id)
        assert (end.kind, end.error) == (RecordKind.COMMIT, "KeyError")
        assert step_of(end, "release_backend").outcome == "done"
        assert adapter.released == [session.session_id]
        expected = State.ERROR
        if where == "row":  # the edge was committed when the fault came
            expected = State.CLOSED if how == "stop" else State.TIMED_OUT
        assert end.dest is row.state is session.state is expected
        assert row.closed_at == session.status().closed_at is not None
        assert row.released
        client.Session().start().stop()  # the log takes what follows: no number is missing
        numbers = [r.writer_seq for _, r in store.records()]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_fault_of_ours_with_a_backend_that_cant_be_released_keeps_the_row(monkeypatch):
    store, adapter = MemoryStore(), MemoryAdapter(faults=[Fault(step="release_backend", kind="fail")])
    with Client(adapter=adapter, store=store) as client:
        session = client.Session().start()

        async def strikes(*args, **kwargs):
            raise KeyError("planted")

        with monkeypatch.context() as patch:
            patch.setattr(Steps, "run", strikes)
            with pytest.raises(KeyError):
                session.stop()
        assert adapter.unused == []
        assert step_of(end_of(store, session), "release_backend").outcome == "failed"
        row = store.session(session.session_id)
        assert (row.state, row.released) == (State.ERROR, False)


# --- what is left in memory ---------------------------------------------------------------------------------------


def cookies_held():
    """How many contents of cookie files are in memory."""
    return sum(type(thing) is LoadedCookies for thing in gc.get_objects())


@pytest.mark.parametrize("many", [1000, pytest.param(10_000, marks=[pytest.mark.campaign, pytest.mark.timeout(300)])])
def test_ended_sessions_leave_nothing_in_memory(cookie_file, many):
    """No attachment, cookie or context of a caller stays until a deadline that may be a week away."""
    value = contextvars.ContextVar("value")

    class Big:
        pass

    async def main():
        async with AsyncClient(adapter=MemoryAdapter(), store=MemoryStore(), clock=ManualClock()) as client:
            seen = []

            async def one(n):
                big = Big()
                value.set(big)
                session = client.Session(
                    timeout_minutes=9000, max_duration_minutes=10080, cookie_file=cookie_file if n % 100 == 0 else None
                )
                await session.start()
                await session.stop()
                seen.extend([weakref.ref(session._att), weakref.ref(big)])

            for start in range(0, many, 500):
                await asyncio.gather(*(asyncio.create_task(one(n)) for n in range(start, start + 500)))
            until = time.monotonic() + PATIENCE
            while True:  # guests are told of an end, and its events logged, a little after it
                await client._core.supervisor.acall(lambda caller: client._core.supervisor.logs_flushed())
                gc.collect()
                left = sum(ref() is not None for ref in seen)
                if left <= 10 or time.monotonic() > until:
                    return left, len(seen), cookies_held()

    gc.collect()
    before = cookies_held()
    left, seen, held = asyncio.run(main())
    assert seen == 2 * many
    assert left <= 10, f"{left} of {seen} are still there"
    assert held == before


def test_a_deadline_does_not_keep_a_session_that_is_over():
    with Client(adapter=MemoryAdapter(), store="memory:", clock=ManualClock()) as client:
        seen = []
        for _ in range(10):  # too few for a clearing of the deadlines
            session = client.Session(timeout_minutes=9000, max_duration_minutes=10080).start()
            session.stop()
            seen.append(weakref.ref(session._att))
        del session

        def left():
            gc.collect()
            return [ref for ref in seen if ref() is not None]

        eventually(lambda: not left(), "ended sessions are let go of")


def test_a_handle_that_is_kept_holds_no_cookies_after_its_end(cookie_file):
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        session = client.Session(cookie_file=cookie_file).start()
        assert session._att.loaded.cookies
        held = cookies_held()
        session.stop()
        gc.collect()
        assert cookies_held() < held
        assert (session._att.loaded, session._att.refused, session._att.unsaved) == (None, (), None)


# --- extensions ---------------------------------------------------------------------------------------------------


def test_an_extension_that_was_not_recorded_does_not_hold():
    clock, store = ManualClock(), FailingStore()
    with Client(adapter=MemoryAdapter(), store=store, clock=clock) as client:
        session = client.Session(timeout_minutes=5, max_duration_minutes=5).start()
        store.broken = True
        with pytest.raises(StoreError):
            session.extend(minutes=5)
        store.broken = False
        assert session.status().max_duration_minutes == 5
        client.Session().start().stop()
        assert store.session(session.session_id).max_duration_minutes == 5
        assert session.extend(minutes=2).max_duration_minutes == 7
        assert store.session(session.session_id).max_duration_minutes == 7
        kinds = [r.kind for _, r in store.records(attachment_id=session.attachment_id)]
        # The store took it later after all, and with it that it does not hold.
        late = RecordKind.SPILLED  # the extension that the store had refused is in the log, as is what became of it
        assert kinds[-4:] == [RecordKind.EXTENDED, RecordKind.REJECTED, late, RecordKind.EXTENDED]
        for _ in range(7):
            clock.advance(60)
            if session.state is State.ACTIVE:
                session._att.used()
        assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.MAX_DURATION


def test_a_hold_that_could_not_be_recorded_does_not_hold():
    clock, store = ManualClock(), FailingStore()
    with Client(adapter=MemoryAdapter(), store=store, clock=clock) as client:
        session = client.Session(timeout_minutes=5, max_duration_minutes=60).start()
        session.hold("a look", 10)
        store.broken = True
        with pytest.raises(StoreError):
            session.hold("a longer look", 30)
        store.broken = False
        assert session.status().expires_at == clock.utcnow() + timedelta(minutes=10)
        clock.advance(10 * 60)
        assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.IDLE_TIMEOUT


def test_a_deadline_that_passed_while_an_extension_was_refused_is_not_missed():
    """The timer looked while the longer duration seemed to hold; the shorter one is watched again."""
    clock, store = ManualClock(), FailingStore()
    writing, go_on = threading.Event(), threading.Event()
    with Client(adapter=MemoryAdapter(), store=store, clock=clock) as client:
        session = client.Session(timeout_minutes=30, max_duration_minutes=30).start()
        original = store.write

        def slow(records, rows):
            if any(r.kind is RecordKind.EXTENDED for r in records) and not go_on.is_set():
                writing.set()
                go_on.wait(PATIENCE)
                raise StoreError("no space left, as scripted", store=store.url)
            original(records, rows)

        store.write = slow
        results = []
        caller = threading.Thread(target=lambda: results.extend(in_threads([lambda: session.extend(minutes=60)])))
        caller.start()
        assert writing.wait(PATIENCE)
        session._att.used()
        clock.advance(29 * 60)
        session._att.used()
        clock.advance(70)
        go_on.set()
        caller.join(PATIENCE)
        assert isinstance(results[0], StoreError)
        assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.MAX_DURATION


# --- options ------------------------------------------------------------------------------------------------------

OWNERS = {
    "headless": False, "timeout_minutes": 2.5, "idle_timeout_minutes": 2.5, "max_duration_minutes": 20,
    "viewport_width": 800, "viewport_height": 600, "user_agent": "me/1", "proxy": "http://u:hidden@host:1",
    "chrome_args": ["--lang=de"], "executable_path": "/bin/chrome", "cookie_scope": "all", "name": "mine",
}  # fmt: skip


@pytest.mark.parametrize("option", OWNERS)
def test_an_option_that_only_an_opener_can_take_is_refused_to_a_guest(option):
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        owner = client.Session().start()
        with pytest.raises(ConfigError, match="the session's owner decides it") as caught:
            client.Session(owner.session_id, **{option: OWNERS[option]})
        assert caught.value.option == option
        if option in ("proxy", "chrome_args"):
            assert "hidden" not in str(caught.value)
        else:
            assert caught.value.value == OWNERS[option]
        client.Session(owner.session_id, **{option: None})  # as good as not given


def test_options_that_a_guest_may_give(cookie_file):
    store = MemoryStore()
    with Client(adapter=MemoryAdapter(), store=store) as client:
        owner = client.Session().start()
        guest = client.Session(
            owner.session_id, cookie_file=cookie_file, on_exit="detach", start_timeout_minutes=2,
            prefetch_page=False, labels={"job": "guest"},
        ).start()  # fmt: skip
        assert [c["name"] for c in owner.get_cookies()] == ["sid"]
        guest.detach()
        assert end_of(store, guest).labels == {"job": "guest"}


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(
    "option",
    ["locale", "timezone_id", "record_video_dir", "record_har_path", "geolocation", "permissions", "color_scheme",
     "storage_state", "http_credentials", "extra_http_headers"],
)  # fmt: skip
def test_an_option_of_a_context_is_refused_with_the_way_out(option, attached):
    with (
        Client(adapter=MemoryAdapter(), store="memory:") as client,
        pytest.raises(ConfigError, match="a context of your own") as caught,
    ):
        client.Session("some-id" if attached else None, **{option: {"password": "hidden"}})
    assert caught.value.option == option
    assert f"session.page.context.browser.new_context({option}=...)" in str(caught.value)
    if option in ("storage_state", "http_credentials", "extra_http_headers"):
        assert "hidden" not in str(caught.value)


def test_the_options_of_contexts_are_playwrights_and_none_of_ours():
    import inspect

    from playwright.sync_api import Browser

    from lifecycle.config import _CONTEXTS, OWNERS, SessionKwargs

    theirs = set(inspect.signature(Browser.new_context).parameters)
    ours = set(SessionKwargs.__annotations__)
    assert theirs - _CONTEXTS <= ours | {"self", "viewport", "no_viewport", "default_browser_type"}
    assert not _CONTEXTS & ours
    assert ours >= OWNERS
