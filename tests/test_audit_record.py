"""A record survives being written and read, and its bytes are the same each time."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.audit import FIRST, SCHEMA_VERSION, GuardResult, Record, RecordKind, StepOutcome, StepResult
from lifecycle.audit.canonical import canonical
from lifecycle.states import CloseReason, Event, InFlight, State
from lifecycle.testing.store_suite import a_record, the_end

FIELDS = [field.name for field in dataclasses.fields(Record) if field.init]
text = st.text(st.characters(codec="utf-8"))
maybe_text = st.none() | text
count = st.integers(0, 2**53 - 1)
seconds = st.floats(-(2.0**53), 2.0**53, exclude_min=True, exclude_max=True)
times = st.datetimes(
    min_value=datetime(1970, 1, 2), max_value=datetime(9999, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001
)  # fmt: skip
records = st.builds(
    Record,
    kind=st.sampled_from(RecordKind),
    writer=text,
    writer_seq=count,
    attachment_id=text,
    attachment_seq=count,
    session_id=maybe_text,
    adapter=text,
    at=times,
    offset=seconds,
    event=st.sampled_from(Event),
    source=st.sampled_from(State),
    dest=st.sampled_from(State),
    in_flight=st.sampled_from(InFlight),
    cause=text,
    close_reason=st.none() | st.sampled_from(CloseReason),
    error=maybe_text,
    guards=st.lists(st.builds(GuardResult, guard=text, held=st.booleans())).map(tuple),
    steps=st.lists(
        st.builds(
            StepResult,
            step=text, outcome=st.sampled_from(StepOutcome), ms=seconds, attempts=count,
            error=maybe_text, note=maybe_text,
        )
    ).map(tuple),
    counts=st.dictionaries(text, count),
    pid=count,
    thread=text,
    host=text,
    labels=st.dictionaries(text, text),
    principal=maybe_text,
    library=text,
    table=count,
    prev=text,
    skew=st.none() | seconds,
)  # fmt: skip


def exact(digits):
    """As a language reads it that has one kind of numbers."""
    return int(digits) if abs(int(digits)) < 2**53 else float(digits)


@given(records)
def test_a_record_comes_back_equal_and_with_its_types(record):
    raw = record.to_json()
    back = Record.from_json(raw)
    assert back == record
    assert back.to_json() == raw  # the bytes that the chain of hashes is built from
    assert dataclasses.replace(back, note=back.note).to_json() == raw  # also where they are made anew
    assert Record.from_json(raw.decode()) == record
    for field in FIELDS:
        assert type(getattr(back, field)) is type(getattr(record, field)), field
    assert all(type(step.outcome) is StepOutcome for step in back.steps)
    assert json.loads(raw) == orjson.loads(raw)  # JSON for everybody, not only for the one that wrote it
    assert rfc8785.dumps(json.loads(raw, parse_int=exact)) == raw
    assert sorted(json.loads(raw)) == sorted(
        f for f in FIELDS if f not in ("said", "skew") or getattr(record, f) is not None
    )


@given(records, st.randoms())
def test_the_order_of_a_mapping_does_not_change_the_bytes(record, random):
    def shuffled(mapping):
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    other = dataclasses.replace(record, labels=shuffled(record.labels), counts=shuffled(record.counts))
    assert other.to_json() == record.to_json()


def test_the_bytes_of_a_record_are_these():
    """Written out by hand: a change of any byte breaks every chain of hashes, so it needs a new SCHEMA_VERSION."""
    record = a_record(7, 2, labels={"b": "2", "a": "ü"}, session_id=None, at=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert record.to_json().decode() == (
        '{"adapter":"memory","at":"2024-01-02T03:04:05.000000Z","attachment_id":"a","attachment_seq":2,"cause":"caller",'
        '"close_reason":null,"counts":{"cookies_loaded":3},"dest":"active","error":null,"event":"start",'
        '"guards":[{"guard":"idle","held":true},{"guard":"no session_id","held":false}],"host":"host",'
        '"in_flight":"start","kind":"intent","labels":{"a":"ü","b":"2"},"library":"1.0","note":"a look at the form",'
        '"offset":0.7000000000000001,"pid":42,'
        '"prev":"0000000000000000000000000000000000000000000000000000000000000000","principal":null,"schema":2,'
        '"session_id":null,"source":"not_started","steps":['
        '{"attempts":1,"error":null,"ms":12.5,"note":null,"outcome":"done","step":"open_backend"},'
        '{"attempts":2,"error":"OSError","ms":0.1,"note":"no","outcome":"failed","step":"open_viewer"}],'
        '"table":1,"thread":"MainThread","writer":"w","writer_seq":7}'
    )
    # printf '\\0%s' "$BYTES" | sha256sum
    assert record.hash.hex() == "062b89c9d7177cc255e59dd9afb5246850bc5c522a5c43bfb04430609502cfb8"


def test_the_bytes_do_not_depend_on_the_process():
    code = "import sys; from lifecycle.testing.store_suite import the_end; sys.stdout.buffer.write(the_end().to_json())"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        assert done.stdout == the_end().to_json()


def test_times_are_written_in_utc():
    record = a_record(at=datetime(2024, 1, 1, 14, 0, 0, 5, tzinfo=timezone(timedelta(hours=2))))
    assert b'"at":"2024-01-01T12:00:00.000005Z"' in record.to_json()
    assert Record.from_json(record.to_json()) == record
    assert record.at.utcoffset() == timedelta(hours=2)  # it was not changed for that


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        a_record(at=datetime(2024, 1, 1)).to_json()  # noqa: DTZ001


def test_any_mapping_will_do():
    record = a_record(labels=MappingProxyType({"b": "1", "a": "2"}), counts=MappingProxyType({"n": 1}))
    assert record.to_json() == a_record(labels={"a": "2", "b": "1"}, counts={"n": 1}).to_json()


@pytest.mark.parametrize("schema", [SCHEMA_VERSION + 1, 0, None, "1", "absent"])
def test_another_schema_is_refused(schema):
    fields = json.loads(a_record().to_json())
    fields["schema"] = schema
    if schema == "absent":
        del fields["schema"]
    with pytest.raises(ValueError, match=rf"schema .* unknown.*reads 1 to {SCHEMA_VERSION}"):
        Record.from_json(json.dumps(fields))


def test_a_record_of_the_first_schema_is_read_and_its_bytes_kept():
    """As version 0.0 wrote it: its bytes are not those that this version would make of it."""
    raw = (
        b'{"kind":"intent","writer":"w","writer_seq":7,"attachment_id":"a","attachment_seq":2,"session_id":null,'
        b'"adapter":"memory","at":"2024-01-02T03:04:05Z","offset":2.0,"event":"start",'
        b'"source":"not_started","dest":"active","in_flight":"start","cause":"caller","close_reason":null,"error":null,'
        b'"guards":[{"guard":"idle","held":true}],"steps":[],"counts":{},"note":null,"pid":42,"thread":"MainThread",'
        b'"host":"host","labels":{"b":"2","a":"1"},"library":"1.0","table":1,"schema":1}'
    )
    record = Record.from_json(raw)
    assert (record.schema, record.prev, record.principal, record.offset) == (1, FIRST, None, 2.0)
    assert record.to_json() == raw
    with pytest.raises(ValueError, match="writes records of schema 2 and not 1"):
        dataclasses.replace(record, note="another").to_json()


def test_the_time_of_a_store_with_a_clock_is_in_the_record_and_no_other():
    record = a_record(skew=-600.0)
    assert b'"session_id":"s","skew":-600,"source":' in record.to_json()
    assert Record.from_json(record.to_json()).skew == -600.0
    assert b"skew" not in a_record().to_json()
    with pytest.raises(ValueError, match="no time that is measured"):
        a_record(skew=float("nan")).to_json()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | text
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.floats(1e-8, 1e-2)
        | st.floats(1e14, 1e22),
        lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    )
)
def test_canonical_json_is_that_of_others(value):
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan"), float("inf"), float("-inf")])
def test_numbers_that_not_every_language_has_are_refused(value):
    with pytest.raises(ValueError, match=str(value)):
        canonical({"a": [value]})
    with pytest.raises(rfc8785.CanonicalizationError):
        rfc8785.dumps({"a": [value]})


@pytest.mark.parametrize("value", [2.0**53, -(2.0**53), 2.0**64, 1e300, float("nan"), float("inf")])
def test_times_that_not_every_language_reads_alike_are_refused(value):
    """Written without an exponent, one of 2**64 is read as a whole number by some and as a fraction by others."""
    for record in (a_record(offset=value), a_record(steps=(StepResult(step="s", outcome=StepOutcome.DONE, ms=value),))):
        with pytest.raises(ValueError, match=r"no time that is measured; .* below 2\*\*53"):
            record.to_json()


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xff"])
def test_what_is_no_record_is_refused(raw):
    with pytest.raises(ValueError):
        Record.from_json(raw)


@given(st.sampled_from([name for name in FIELDS if name != "schema"]))
def test_a_record_with_a_field_missing_or_wrong_is_refused(name):
    fields = json.loads(the_end().to_json())
    enums = {"kind", "event", "source", "dest", "in_flight", "close_reason"}
    if name in enums | {"at", "guards", "steps"}:
        with pytest.raises(ValueError):
            Record.from_json(json.dumps({**fields, name: "nonsense"}))
        with pytest.raises(ValueError):
            Record.from_json(json.dumps({key: value for key, value in fields.items() if key != name}))
    with pytest.raises(ValueError, match="no record of schema"):
        Record.from_json(json.dumps({**fields, f"{name}_of_the_future": 1}))


@pytest.mark.parametrize(
    ("kind", "dest", "terminal"),
    [
        (RecordKind.COMMIT, State.CLOSED, True),
        (RecordKind.COMMIT, State.ERROR, True),
        (RecordKind.COMMIT, State.TIMED_OUT, True),
        (RecordKind.RECOVERED, State.ERROR, True),
        (RecordKind.COMMIT, State.ACTIVE, False),
        (RecordKind.INTENT, State.CLOSED, False),
        (RecordKind.DIVERTED, State.ERROR, False),
        (RecordKind.IGNORED, State.CLOSED, False),
        (RecordKind.REJECTED, State.CLOSED, False),
        (RecordKind.JOINED, State.CLOSED, False),
        (RecordKind.EXTENDED, State.ACTIVE, False),
    ],
)
def test_one_kind_of_record_ends_an_attachment(kind, dest, terminal):
    assert a_record(kind=kind, dest=dest).terminal is terminal
