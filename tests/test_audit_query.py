"""What can be asked of the transition log: the filters' values, before any store is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from lifecycle.audit import RecordKind
from lifecycle.audit.query import Query
from lifecycle.errors import ConfigError
from lifecycle.states import Event, State

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("state", "actve", "did you mean 'active'"),
        ("event", "begin", "known: attach, detach"),
        ("kind", "comit", "did you mean 'commit'"),
        ("kind", 7, "known: commit"),
        ("session", "", "non-empty"),
        ("attachment", 5, "non-empty"),
        ("cause", "a\nb", "one line"),
        ("adapter", " ", "non-empty"),
        ("error", "\udcff", "one line"),
        ("labels", "team=blue", "a mapping"),
        ("labels", {"team": 1}, "keys of 1 to 100"),
        ("since", "2024-01-01", "a datetime with a time zone"),
        ("since", datetime(2024, 1, 1), "datetime.now"),  # noqa: DTZ001 - without a zone, on purpose
        ("until", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), "from year 1"),
        ("slower_than", -1, "0 or more"),
        ("slower_than", float("nan"), "0 or more"),
        ("slower_than", True, "a number"),
        ("slower_than", "5", "a number"),
    ],
)
def test_a_bad_filter_is_named_with_its_way_out(option, value, allowed):
    with pytest.raises(ConfigError) as e:
        Query(**{option: value})
    assert e.value.option == option
    assert allowed in e.value.allowed
    assert repr(e.value.value) in str(e.value)


def test_a_time_that_ends_before_it_begins_is_refused():
    for until in (NOON, NOON - timedelta(seconds=1)):
        with pytest.raises(ConfigError, match="until=.*swap the two"):
            Query(since=NOON, until=until)


def test_a_query_is_plain_data():
    labels = {"team": "blue"}
    berlin = timezone(timedelta(hours=2))
    query = Query(state="active", event="stop", kind="commit", labels=labels, since=NOON.astimezone(berlin))
    labels["team"] = "red"
    assert (query.state, query.event, query.kind) == (State.ACTIVE, Event.STOP, RecordKind.COMMIT)
    assert query.labels == {"team": "blue"}
    assert query.since.tzinfo is UTC
    assert query == Query(state=State.ACTIVE, event="stop", kind="commit", labels={"team": "blue"}, since=NOON)
    assert list(query.given) == ["labels", "state", "event", "kind", "since"]
    assert Query().given == {}
    assert Query(slower_than=0).given == {"slower_than": 0.0}
