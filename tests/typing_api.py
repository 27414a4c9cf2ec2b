"""What a type checker says of the public API. Never run: mypy and pyright read it, in `test_typing_api`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_type

from playwright import async_api, sync_api

from lifecycle import (
    AsyncClient,
    AsyncSession,
    Client,
    CloseReason,
    ConfigError,
    InvalidTransition,
    Record,
    Session,
    SessionStatus,
    SessionTimedOut,
    State,
    StepResult,
    Transition,
)
from lifecycle.adapters import find_adapter
from lifecycle.embed.temporal import SessionLabels, activity_session
from lifecycle.ports import Adapter
from lifecycle.states import Event
from lifecycle.testing import (
    ActiveSession,
    TransitionCoverage,
    active_sessions,
    assert_transitions,
    reset,
    transitions,
    watching,
)
from lifecycle.testing.contract import AdapterContract, adapter_contract
from lifecycle_adapters.memory import MemoryAdapter


def sync_side() -> None:
    with Client(adapter="memory", store="memory:") as client:
        assert_type(client, Client)
        with client.Session(headless=True, timeout_minutes=10, cookie_file="c.json", labels={"a": "b"}) as session:
            assert_type(session, Session)
            assert_type(session.session_id, str)
            assert_type(session.state, State)
            assert_type(session.page, sync_api.Page)
            assert_type(session.page.title(), str)
            assert_type(session.cdp_url(), str)
            status = session.status()
            assert_type(status, SessionStatus)
            assert_type(status.duration, timedelta)
            assert_type(status.created_at, datetime)
            assert_type(status.closed_at, datetime | None)
            assert_type(status.expires_at, datetime | None)
            assert_type(status.close_reason, CloseReason | None)
            assert_type(status.status, State)
            assert_type(session.extend(minutes=0.5), SessionStatus)
            assert_type(session.hold("a look", 0.5), SessionStatus)
            assert_type(session.wait_ended(timeout=1), SessionStatus)
            assert_type(session.history(), list[Record])
            assert_type(session.history()[0].steps, tuple[StepResult, ...])
            assert_type(session.get_cookies()[0]["name"], str)
            session.set_cookies(cookies=[{"name": "a"}])
            assert_type(session.start(), Session)
        assert_type(client.sessions.list(status="active", label="a=b", limit=5), list[SessionStatus])
        assert_type(client.sessions.get("id"), SessionStatus)
        assert_type(client.sessions.stop("id"), SessionStatus)
        assert_type(client.events().get(timeout=1), Record | None)
        for record in client.events():
            assert_type(record, Record)

        @client.hook(before=["stop", "expire"], on_error="log", needs_page=True, budget=5)
        def hook(session: Session, transition: Transition) -> int:
            assert_type(transition.event, Event)
            return len(session.session_id)

        assert_type(
            hook(session, Transition(event=Event.STOP, source=status.status, dest=status.status, cause="")), int
        )

        client.Session("an-id", on_exit="detach")
        client.Session(timeout=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        client.Session(headless="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        client.Session(on_exit="leave")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        client.Session("id", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def async_side() -> None:
    async with AsyncClient(adapter="memory", store="memory:") as client, client.Session(headless=True) as session:
        assert_type(session, AsyncSession)
        assert_type(session.state, State)
        assert_type(await session.page(), async_api.Page)
        assert_type((await session.status()).duration, timedelta)
        assert_type(await session.history(), list[Record])
        assert_type(await session.start(), AsyncSession)
        assert_type(await client.sessions.list(), list[SessionStatus])
        assert_type(await client.events().get(), Record | None)
        async for record in client.events():
            assert_type(record, Record)

        @client.hook(after="start")
        async def hook(session: AsyncSession) -> None:
            await session.status()


def errors(error: Exception) -> None:
    if isinstance(error, SessionTimedOut):
        assert_type(error.deadline, CloseReason | None)
        assert_type(error.minutes, float | None)
    if isinstance(error, InvalidTransition):
        assert_type(error.allowed, tuple[Event, ...])
    if isinstance(error, ConfigError):
        assert_type(error.option, str)


async def activities(client: Client, aclient: AsyncClient) -> None:
    with activity_session(client, earlier="stop", details=lambda: [1], timeout_minutes=5) as session:
        assert_type(session, Session)
    async with activity_session(aclient) as asession:
        assert_type(asession, AsyncSession)
    activity_session(client, earlier="leave")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    SessionLabels()


def tests_of_others() -> None:
    with Client(adapter="memory", store="memory:") as client, client.Session() as session:
        assert_type(transitions(session), list[str])
        assert_transitions(session, "start")
        assert_type(active_sessions(client), list[ActiveSession])
        assert_transitions(session, Event.START)
        assert_transitions("start")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        active_sessions("memory")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    coverage = TransitionCoverage()
    with watching(coverage.take):
        assert_type(reset(), int)
    assert_type(coverage.percent, float)
    assert_type(coverage.missing(), dict[str, list[str]])
    watching(print)
    watching(lambda: None)  # type: ignore[arg-type,misc]  # pyright: ignore[reportArgumentType]
    assert_type(adapter_contract(MemoryAdapter, declares={"cookies"}), type[AdapterContract])
    adapter_contract(MemoryAdapter())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(find_adapter("memory"), Adapter)
