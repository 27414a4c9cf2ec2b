from __future__ import annotations

import pytest
from shop import watch

from lifecycle import InvalidTransition, SessionClosed
from lifecycle.testing import assert_transitions, transitions


def test_it_is_active(lifecycle_session):
    assert lifecycle_session.state == "active"


def test_it_is_over_after_its_stop(lifecycle_session):
    lifecycle_session.stop()
    assert_transitions(lifecycle_session, "start", "stop")


def test_a_block(lifecycle_client):
    with lifecycle_client.Session() as session:
        assert session.state == "active"
    assert (session.state, session.status().close_reason) == ("closed", "manual")


def test_an_error_in_the_block_arrives(lifecycle_client):
    with pytest.raises(KeyError), lifecycle_client.Session() as session:
        raise KeyError("price")
    assert session.state == "closed"


def test_never_started(lifecycle_client):
    session = lifecycle_client.Session()
    session.stop()
    assert_transitions(session, "stop")


@pytest.mark.parametrize("times", [2, 3])
def test_stopped_more_than_once(lifecycle_session, times):
    for _ in range(times):
        lifecycle_session.stop()
    assert_transitions(lifecycle_session, "start", "stop")


def test_started_twice(lifecycle_session):
    with pytest.raises(InvalidTransition):
        lifecycle_session.start()
    assert lifecycle_session.state == "active"


def test_used_after_its_end(lifecycle_session):
    lifecycle_session.stop()
    with pytest.raises(SessionClosed):
        lifecycle_session.get_cookies()


@pytest.mark.lifecycle_session(name="prices", labels={"team": "blue"}, principal="anna")
def test_what_it_is_called(lifecycle_session):
    told = lifecycle_session.status()
    assert (told.name, told.labels) == ("prices", {"team": "blue"})
    assert {record.principal for record in lifecycle_session.history()} == {"anna"}


def test_found_by_its_id(lifecycle_client, lifecycle_session):
    assert lifecycle_client.sessions.get(lifecycle_session.session_id).status == "active"


def test_stopped_by_its_id(lifecycle_client, lifecycle_session):
    lifecycle_client.sessions.stop(lifecycle_session.session_id)
    assert lifecycle_session.wait_ended().close_reason == "manual"


@pytest.mark.parametrize("count", [2, 3])
def test_several_at_once(lifecycle_client, count):
    sessions = [lifecycle_client.Session().start() for _ in range(count)]
    assert len({session.session_id for session in sessions}) == count
    for session in sessions:
        session.stop()


def test_hooks_run_around_the_edges(lifecycle_client):
    seen = []
    lifecycle_client.hook(after="start")(lambda session: seen.append(str(session.state)))
    lifecycle_client.hook(after="stop")(lambda session: seen.append(str(session.state)))
    with lifecycle_client.Session():
        pass
    assert seen == ["active", "closed"]


def test_a_client_of_its_own_is_swapped_too():
    assert watch("http://shop.test/") == ["active", "closed"]


async def test_async(async_lifecycle_session):
    assert async_lifecycle_session.state == "active"
    await async_lifecycle_session.stop()
    assert transitions(async_lifecycle_session) == ["start: not_started -> active", "stop: active -> closed"]


async def test_async_block(async_lifecycle_client):
    async with async_lifecycle_client.Session() as session:
        assert session.state == "active"
    assert_transitions(session, "start", "stop")
