"""The contract of an adapter, as tests that an adapter's author runs: the same for every kind of browser.

Rule: what is asserted here holds for every adapter, through `Client` and through `AsyncClient`. Where adapters differ,
they differ by a capability that they declare, and the suite tests both halves of it: what is declared works, what is
not declared is refused with a way out. Each call of the adapter is made to fail, and is cancelled while it waits.

Needs pytest, and one line in a file of tests::

    TestMyAdapter = adapter_contract(MyAdapter, declares={"pages", "cookies"})

With ``alive=``, a function that tells how many browsers run behind an adapter, leaks are seen too. An adapter that
needs a fixture of its own has a class::

    class TestMyAdapter(AdapterContract):
        declares = frozenset({"pages", "cookies"})

        @pytest.fixture
        def adapter(self, my_server):
            return MyAdapter(my_server.url)
"""
# ruff: noqa: S101, ANN401, D102 - a suite is made of asserts, its handles are of two kinds, names of tests say it all

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from lifecycle.adapters import CAPABILITIES
from lifecycle.audit import Record, RecordKind
from lifecycle.config import nearest
from lifecycle.errors import (
    ConfigError,
    CookieFileError,
    CookieRejected,
    InvalidTransition,
    LifecycleError,
    SessionClosed,
    SessionEnded,
    SessionTimedOut,
    StartFailed,
    UnsupportedOperation,
    UsageError,
)
from lifecycle.ports import Adapter
from lifecycle.states import CloseReason, Event, State
from lifecycle.testing.clock import ManualClock
from lifecycle.testing.striking import Strike, StruckAdapter
from lifecycle.testing.ways import PATIENCE, WAYS, Way, eventually

__all__ = ["CAPABILITIES", "AdapterContract", "adapter_contract", "capability_table"]

OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "headed": {"headless": False},
    "viewport": {"viewport_width": 800, "viewport_height": 600},
    "user_agent": {"user_agent": "contract/1.0"},
    "proxy": {"proxy": {"server": "http://127.0.0.1:9"}},
    "chrome_args": {"chrome_args": ["--lang=de"]},
    "profile": {"profile": "a-folder"},
    "downloads": {"downloads_folder": "downloads"},
}
"""For each capability that stands for an option: the option."""


def capability_table(adapters: Mapping[str, frozenset[str]]) -> str:
    """Adapters by capability, as Markdown.

    Args:
        adapters: What each declares, by the name of its column.
    """
    lines = [
        "| capability | " + " | ".join(adapters) + " |",
        "|---" * (len(adapters) + 1) + "|",
    ]
    for name, meaning in CAPABILITIES.items():
        marks = " | ".join("yes" if name in declared else "-" for declared in adapters.values())
        lines.append(f"| {name}: {meaning} | {marks} |")
    return "\n".join(lines)


WAITS: Final = (1, 2, 3, 4, 6)
"""The waits of a call in which it is cancelled, as far as it has so many."""


def a_cookie(**fields: Any) -> dict[str, Any]:
    """A cookie as `set_cookies` takes it; `fields` replace any of it."""
    return {"name": "sid", "value": "one", "domain": "example.com", "path": "/", **fields}


def commits(records: Sequence[Record]) -> list[tuple[Event | None, State | None]]:
    """The edges that were taken, in order."""
    return [(r.event, r.dest) for r in records if r.kind is RecordKind.COMMIT]


class AdapterContract:
    """Tests of one adapter. Inherit it and give it a fixture ``adapter``; see the module.

    Attributes:
        declares: The capabilities it is to have.
        lacks: Those of them that the service behind it does not have at the time, such as pages.
    """

    declares: ClassVar[frozenset[str]] = frozenset()
    lacks: ClassVar[frozenset[str]] = frozenset()

    def alive(self, adapter: Adapter) -> int | None:
        """How many browsers run behind `adapter`; None where that can't be told. Override it: leaks show here."""
        del adapter
        return None

    # --- what the tests are given -----------------------------------------------------------------------------------

    @pytest.fixture(params=WAYS)
    def way(self, request: pytest.FixtureRequest) -> Iterator[Way]:
        way = WAYS[request.param]()
        yield way
        way.finish()

    @pytest.fixture
    def store(self, tmp_path: Path) -> str:
        """The store of all clients of a test."""
        return f"sqlite:///{tmp_path / 'contract.db'}"

    @pytest.fixture
    def client(self, way: Way, adapter: Adapter, store: str) -> Iterator[Any]:
        """A client on the adapter; after the test nothing of it runs."""
        yield way.client(adapter=adapter, store=store)
        for client in way.clients:
            client.close()
        self.gone(adapter)

    @classmethod
    def can(cls, capability: str) -> bool:
        """True where the tests are to find `capability`."""
        return capability in cls.declares - cls.lacks

    def gone(self, adapter: Adapter) -> None:
        """Wait until nothing runs behind `adapter`."""
        if self.alive(adapter) is not None:
            eventually(lambda: self.alive(adapter) == 0, "the browsers are gone")

    def timed_out(self, session: Any, reason: CloseReason) -> None:
        """Wait for the end of a session whose deadline has passed."""
        told = session.wait_ended(timeout=PATIENCE)
        assert (told.status, told.close_reason) == (State.TIMED_OUT, reason)
        with pytest.raises(SessionTimedOut):
            session.get_cookies()

    # --- what it says of itself -------------------------------------------------------------------------------------

    def test_it_is_an_adapter_and_declares_known_capabilities(self, adapter: Adapter) -> None:
        assert isinstance(adapter, Adapter)
        assert adapter.name
        assert adapter.name == adapter.name.lower()
        assert adapter.capabilities == self.declares
        assert adapter.capabilities <= CAPABILITIES.keys()

    @pytest.mark.parametrize("capability", OPTIONS)
    def test_an_option_is_taken_or_refused_with_a_way_out(self, client: Any, capability: str) -> None:
        if self.can(capability):
            client.Session(**OPTIONS[capability])
            return
        with pytest.raises(UnsupportedOperation) as caught:
            client.Session(**OPTIONS[capability])
        assert next(iter(OPTIONS[capability])).partition("_")[0] in str(caught.value)
        assert caught.value.way_out

    # --- a life -----------------------------------------------------------------------------------------------------

    def test_a_whole_life(self, client: Any, adapter: Adapter) -> None:
        session = client.Session(timeout_minutes=2, max_duration_minutes=5, name="a life", labels={"team": "blue"})
        assert session.state is State.NOT_STARTED
        if self.can("assigns_ids"):
            with pytest.raises(UsageError, match="start it first"):
                session.session_id  # noqa: B018 - the property does the work
        else:
            assert session.session_id
        session.start()
        told = session.status()
        assert (session.state, told.status, told.session_id) == (State.ACTIVE, "active", session.session_id)
        assert (told.timeout_minutes, told.max_duration_minutes) == (2, 5)
        assert (told.adapter, told.name, told.labels) == (adapter.name, "a life", {"team": "blue"})
        assert told.closed_at is None
        assert told.close_reason is None
        assert told.error is None
        assert told.created_at <= told.last_accessed_at
        assert told.expires_at is not None
        assert self.alive(adapter) in (None, 1)
        session.stop()
        told = session.status()
        assert (session.state, told.status, told.close_reason) == (State.CLOSED, "closed", "manual")
        assert told.closed_at is not None
        assert told.expires_at is None
        assert commits(session.history()) == [(Event.START, State.ACTIVE), (Event.STOP, State.CLOSED)]
        self.gone(adapter)

    def test_the_end_of_the_block_stops_and_an_error_of_the_body_wins(self, client: Any) -> None:
        session = client.Session()
        with pytest.raises(ZeroDivisionError), session:
            raise ZeroDivisionError
        assert session.state is State.CLOSED

    def test_it_is_started_and_stopped_once(self, client: Any) -> None:
        session = client.Session().start()
        with pytest.raises(InvalidTransition):
            session.start()
        session.stop()
        session.stop()
        with pytest.raises(InvalidTransition):
            session.start()
        assert commits(session.history()) == [(Event.START, State.ACTIVE), (Event.STOP, State.CLOSED)]

    def test_stops_that_meet_give_one_end(self, way: Way, client: Any) -> None:
        session = client.Session().start()
        assert way.together([(session, "stop")] * 8) == [None] * 8
        assert commits(session.history())[1:] == [(Event.STOP, State.CLOSED)]

    def test_a_stop_before_the_start_is_an_end(self, client: Any, adapter: Adapter) -> None:
        session = client.Session()
        session.stop()
        assert session.state is State.CLOSED
        with pytest.raises(InvalidTransition):
            session.start()
        assert self.alive(adapter) in (None, 0)

    def test_a_stop_that_meets_the_start_leaves_nothing(self, way: Way, client: Any, adapter: Adapter) -> None:
        session = client.Session()
        results = way.together([(session, "start"), (session, "stop")])
        assert results[1] is None
        assert isinstance(results[0], (SessionEnded, InvalidTransition)) or results[0] is way.raw(session)
        assert session.state is State.CLOSED
        self.gone(adapter)

    def test_several_sessions_at_once(self, way: Way, client: Any, adapter: Adapter) -> None:
        sessions = [client.Session() for _ in range(4)]
        way.together([(session, "start") for session in sessions])
        assert [session.state for session in sessions] == [State.ACTIVE] * 4
        assert len({session.session_id for session in sessions}) == 4
        assert self.alive(adapter) in (None, 4)
        way.together([(session, "stop") for session in sessions])
        assert [session.state for session in sessions] == [State.CLOSED] * 4
        self.gone(adapter)

    def test_the_end_of_the_client_ends_its_sessions(self, client: Any, adapter: Adapter) -> None:
        session = client.Session().start()
        client.close()
        assert session.state is State.CLOSED
        self.gone(adapter)

    def test_an_operation_on_what_is_over_says_so(self, client: Any) -> None:
        session = client.Session().start()
        session.stop()
        for operation in (session.get_cookies, session.cdp_url, lambda: session.execute(type="reload")):
            with pytest.raises(SessionClosed) as caught:
                operation()
            assert caught.value.close_reason is CloseReason.MANUAL

    # --- deadlines --------------------------------------------------------------------------------------------------

    def test_nobody_uses_it_so_it_ends(self, way: Way, adapter: Adapter, store: str) -> None:
        clock = ManualClock()
        session = (
            way.client(adapter=adapter, store=store, clock=clock)
            .Session(timeout_minutes=1, max_duration_minutes=5)
            .start()
        )
        clock.advance(61)
        self.timed_out(session, CloseReason.IDLE_TIMEOUT)
        self.gone(adapter)

    def test_it_is_used_and_ends_all_the_same(self, way: Way, adapter: Adapter, store: str) -> None:
        clock = ManualClock()
        session = (
            way.client(adapter=adapter, store=store, clock=clock)
            .Session(timeout_minutes=1, max_duration_minutes=1.5)
            .start()
        )
        clock.advance(59)
        session.get_cookies()
        clock.advance(30)
        assert session.state is State.ACTIVE
        clock.advance(2)
        self.timed_out(session, CloseReason.MAX_DURATION)
        self.gone(adapter)

    def test_the_longest_duration_moves_where_it_can(self, client: Any) -> None:
        with client.Session(timeout_minutes=1, max_duration_minutes=5) as session:
            if self.can("fixed_duration"):
                with pytest.raises(UnsupportedOperation) as caught:
                    session.extend(minutes=2)
                assert caught.value.way_out
                with pytest.raises(UnsupportedOperation) as caught:
                    session.hold("a look", 2)
                assert caught.value.way_out
            else:
                assert session.extend(minutes=2).max_duration_minutes == 7
                left = session.hold("a look", 2).expires_at - session.status().created_at
                assert left.total_seconds() > 100

    # --- cookies ----------------------------------------------------------------------------------------------------

    def test_cookies_come_back_as_they_were_set(self, client: Any) -> None:
        with client.Session() as session:
            session.set_cookies(
                cookies=[
                    a_cookie(expires=4102444800, httpOnly=True, secure=True, sameSite="Lax"),
                    a_cookie(name="plain", domain=".sub.example.com", path="/a"),
                ]
            )
            found = {c["name"]: c for c in session.get_cookies()}
        assert set(found) == {"sid", "plain"}
        sid = found["sid"]
        assert (sid["value"], sid["domain"], sid["path"]) == ("one", "example.com", "/")
        assert (sid["httpOnly"], sid["secure"], sid["sameSite"]) == (True, True, "Lax")
        assert sid["expires"] > 1_700_000_000  # a browser may shorten it
        assert (found["plain"]["domain"], found["plain"]["path"]) == (".sub.example.com", "/a")

    def test_a_bad_cookie_keeps_no_other_out(self, client: Any) -> None:
        with client.Session() as session:
            with pytest.raises(CookieRejected, match="__Host-bad"):
                session.set_cookies(cookies=[a_cookie(name="__Host-bad", secure=False), a_cookie(name="good")])
            assert [c["name"] for c in session.get_cookies()] == ["good"]

    def test_a_cookie_file_is_loaded_and_saved(self, client: Any, tmp_path: Path) -> None:
        file = tmp_path / "cookies.json"
        file.write_text(json.dumps([a_cookie(expires=4102444800)]))
        with client.Session(cookie_file=file) as session:
            assert [c["name"] for c in session.get_cookies()] == ["sid"]
            session.set_cookies(cookies=[a_cookie(name="later", value="two", expires=4102444800)])
        assert {c["name"]: c["value"] for c in json.loads(file.read_text())} == {"sid": "one", "later": "two"}

    def test_a_torn_cookie_file_starts_nothing(self, client: Any, adapter: Adapter, tmp_path: Path) -> None:
        file = tmp_path / "cookies.json"
        file.write_text('[{"name": "sid", "val')
        session = client.Session(cookie_file=file)
        with pytest.raises(CookieFileError):
            session.start()
        assert session.state is State.ERROR
        assert file.read_text() == '[{"name": "sid", "val'
        assert self.alive(adapter) in (None, 0)

    # --- finding it again -------------------------------------------------------------------------------------------

    def test_it_is_listed_and_stopped_by_id(self, client: Any, adapter: Adapter) -> None:
        session = client.Session().start()
        assert session.session_id in [s.session_id for s in client.sessions.list(status="active")]
        assert client.sessions.get(session.session_id).status is State.ACTIVE
        client.sessions.stop(session.session_id)
        eventually(lambda: session.state is State.CLOSED)
        assert client.sessions.get(session.session_id).status is State.CLOSED
        assert session.session_id not in [s.session_id for s in client.sessions.list(status="active")]
        client.sessions.stop(session.session_id)
        self.gone(adapter)

    def test_a_guest_shares_it_and_its_stop_is_everybodys(
        self, way: Way, client: Any, adapter: Adapter, store: str
    ) -> None:
        session = client.Session().start()
        session.set_cookies(cookies=[a_cookie()])
        guest = way.client(adapter=adapter, store=store).Session(session.session_id).start()
        assert guest.session_id == session.session_id
        assert [c["name"] for c in guest.get_cookies()] == ["sid"]
        guest.stop()
        assert guest.state is State.CLOSED
        eventually(lambda: session.state is State.CLOSED)
        self.gone(adapter)

    def test_a_guest_that_detaches_leaves_it_running(self, way: Way, client: Any, adapter: Adapter, store: str) -> None:
        session = client.Session().start()
        guest = way.client(adapter=adapter, store=store).Session(session.session_id).start()
        guest.detach()
        assert (guest.state, guest.status().close_reason) == (State.CLOSED, "detached")
        assert session.state is State.ACTIVE
        session.get_cookies()
        session.stop()

    def test_its_opener_detaches_where_it_lives_on(self, way: Way, client: Any, adapter: Adapter, store: str) -> None:
        session = client.Session().start()
        if not self.can("attach"):
            with pytest.raises(LifecycleError) as caught:
                session.detach()
            assert session.state is State.ACTIVE, caught.value
            return
        session.detach()
        assert session.state is State.CLOSED
        assert self.alive(adapter) in (None, 1)
        guest = way.client(adapter=adapter, store=store).Session(session.session_id).start()
        guest.stop()
        self.gone(adapter)

    def test_a_key_makes_it_and_finds_it_again(self, way: Way, client: Any, adapter: Adapter, store: str) -> None:
        first = client.Session(idempotency_key="job").start()
        second = way.client(adapter=adapter, store=store).Session(idempotency_key="job").start()
        assert (first.made, second.made) == (True, False)
        assert first.session_id == second.session_id
        assert self.alive(adapter) in (None, 1)
        first.stop()
        eventually(lambda: second.state.terminal)
        self.gone(adapter)

    def test_an_unknown_id_is_refused_by_name(self, client: Any) -> None:
        with pytest.raises(ConfigError, match="no-such-session"):
            client.Session("no-such-session").start()

    def test_what_is_over_is_not_attached_to(self, client: Any) -> None:
        session = client.Session().start()
        session.stop()
        with pytest.raises((SessionEnded, ConfigError)):
            client.Session(session.session_id).start()

    # --- hooks, events ----------------------------------------------------------------------------------------------

    def test_hooks_run_around_its_edges(self, way: Way, client: Any) -> None:
        seen: list[str] = []
        session = client.Session()
        edges: list[tuple[dict[str, str], str]] = [
            ({"after": "start"}, "started"), ({"before": "stop"}, "stopping"), ({"after": "stop"}, "stopped"),
        ]  # fmt: skip
        for when, word in edges:
            way.raw(session).hook(**when)(way.hook(_note(seen, word)))
        with session:
            assert seen == ["started"]
        assert seen == ["started", "stopping", "stopped"]

    def test_whoever_waits_for_its_end_is_told(self, client: Any, way: Way) -> None:
        session = client.Session().start()
        told = way.together([(session, "wait_ended"), (session, "stop")])[0]
        assert getattr(told, "close_reason", told) == "manual"

    # --- pages ------------------------------------------------------------------------------------------------------

    def test_operations_work_or_name_a_way_out(self, client: Any) -> None:
        with client.Session() as session:
            if not self.can("pages"):
                for operation in (lambda: session.execute(type="reload"), session.observe, session.scrape):
                    with pytest.raises(UnsupportedOperation) as caught:
                        operation()
                    assert caught.value.way_out
                return
            assert session.execute(type="goto", url="about:blank").success
            page = "<button onclick=\"document.title = 'pressed'\">Press</button>"
            session.execute(type="evaluate_js", code=f"document.body.innerHTML = {json.dumps(page)}")
            (button,) = session.observe().elements
            session.execute(type="click", id=button.id)
            assert session.execute(type="evaluate_js", code="document.title").data == "pressed"
            failed = session.execute(type="click", selector="#none", timeout=200, raise_on_failure=False)
            assert not failed.success
            assert failed.error
            assert session.state is State.ACTIVE

    def test_its_cdp_url_works_for_as_long_as_it_lives(self, client: Any) -> None:
        with client.Session() as session:
            if not self.can("pages"):
                with pytest.raises(UnsupportedOperation) as caught:
                    session.cdp_url()
                assert caught.value.way_out
                return
            url = session.cdp_url()
            with connect(url, proxy=None) as socket:
                socket.send(json.dumps({"id": 1, "method": "Browser.getVersion"}))
                assert "product" in json.loads(socket.recv(timeout=PATIENCE))["result"]
        with pytest.raises(InvalidStatus) as caught_:
            connect(url, proxy=None).close()
        assert caught_.value.response.status_code == HTTPStatus.GONE

    def test_its_options_reach_the_page(self, client: Any) -> None:
        known = [name for name in ("viewport", "user_agent") if self.can("pages") and self.can(name)]
        options: dict[str, Any] = {}
        for name in known:
            options |= OPTIONS[name]
        with client.Session(**options) as session:
            if "viewport" in known:
                size = session.execute(type="evaluate_js", code="[innerWidth, innerHeight]").data
                assert size == [options["viewport_width"], options["viewport_height"]]
            if "user_agent" in known:
                agent = session.execute(type="evaluate_js", code="navigator.userAgent").data
                assert agent == options["user_agent"]

    # --- what goes wrong in it ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("wait", WAITS)
    def test_an_opening_that_is_cancelled_leaves_nothing(
        self, way: Way, adapter: Adapter, store: str, wait: int
    ) -> None:
        strike = Strike("open", wait=wait)
        session = self.struck(way, adapter, store, strike).Session()
        try:
            session.start()
        except StartFailed:
            assert session.state is State.ERROR
        assert session.state is (State.ERROR if strike.struck else State.ACTIVE)
        session.stop()
        self.gone(adapter)

    @pytest.mark.parametrize("wait", WAITS)
    def test_a_release_that_is_cancelled_can_be_repeated(
        self, way: Way, adapter: Adapter, store: str, wait: int
    ) -> None:
        session = self.struck(way, adapter, store, Strike("release", wait=wait)).Session().start()
        session.stop()
        assert session.state is State.CLOSED
        self.gone(adapter)

    def test_a_release_that_fails_is_tried_again(self, way: Way, adapter: Adapter, store: str) -> None:
        strike = Strike("release", times=2)
        session = self.struck(way, adapter, store, strike).Session().start()
        session.stop()
        assert (session.state, strike.struck) == (State.CLOSED, 2)
        self.gone(adapter)

    @pytest.mark.parametrize("method", ["get_cookies", "close_connections"])
    @pytest.mark.parametrize("wait", [None, 1, 2])
    def test_what_fails_before_the_release_does_not_keep_it_from_being_made(
        self, way: Way, adapter: Adapter, store: str, tmp_path: Path, method: str, wait: int | None
    ) -> None:
        if not self.can("cookies") and method == "get_cookies":
            return
        client = self.struck(way, adapter, store, Strike(method, wait=wait))
        session = client.Session(**({"cookie_file": tmp_path / "cookies.json"} if self.can("cookies") else {})).start()
        with contextlib.suppress(LifecycleError, OSError):  # it is told of what was not done
            session.stop()
        assert session.state is State.CLOSED
        self.gone(adapter)

    def test_cookies_that_can_not_be_set_start_nothing(
        self, way: Way, adapter: Adapter, store: str, tmp_path: Path
    ) -> None:
        if not self.can("cookies"):
            return
        file = tmp_path / "cookies.json"
        file.write_text(json.dumps([a_cookie()]))
        session = self.struck(way, adapter, store, Strike("set_cookies")).Session(cookie_file=file)
        with pytest.raises(LifecycleError):
            session.start()
        assert session.state is State.ERROR
        assert json.loads(file.read_text()) == [a_cookie()]
        self.gone(adapter)

    def struck(self, way: Way, adapter: Adapter, store: str, strike: Strike) -> Any:
        """A client on the adapter, of which a call is struck."""
        return way.client(adapter=StruckAdapter(adapter, strike), store=store)


def _note(seen: list[str], word: str) -> Callable[[object], None]:
    return lambda session: seen.append(word)  # noqa: ARG005 - a hook takes the session


def adapter_contract(
    adapter: Callable[[], Adapter],
    *,
    declares: Collection[str] | None = None,
    lacks: Collection[str] = (),
    alive: Callable[[Any], int] | None = None,
) -> type[AdapterContract]:
    """The contract for one adapter: a class of tests, for a name that begins with ``Test``.

    Args:
        adapter: Makes one, for each test; such as its class.
        declares: The capabilities it is to have; by default, whatever it says.
        lacks: Those of them that the service behind it does not have at the time, such as pages.
        alive: Tells how many browsers run behind an adapter.

    Raises:
        ConfigError: There is no such capability.
    """
    declared = frozenset(declares if declares is not None else adapter().capabilities)
    for name in sorted({*declared, *lacks} - CAPABILITIES.keys()):
        raise ConfigError(option="declares", value=name, allowed=nearest(name, CAPABILITIES))

    class Contract(AdapterContract):
        @pytest.fixture
        def adapter(self) -> Adapter:
            return adapter()

        def alive(self, adapter: Adapter) -> int | None:
            return alive(adapter) if alive is not None else None

    Contract.declares, Contract.lacks = declared, frozenset(lacks)
    return Contract
