"""The contract of a store, as tests that a store's author inherits.

Rule: what is asserted here follows from `lifecycle.ports.Store` and holds for every store. Needs pytest::

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store(self):
            store = MyStore()
            store.open()
            yield store
            store.close()

A store that keeps its records past `close` also says ``durable = True`` and overrides `reopen`.
"""
# ruff: noqa: S101, ANN401 - a suite is made of asserts, and its builders take any field

from __future__ import annotations

import dataclasses
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson
import pytest

from lifecycle.audit import GuardResult, Record, RecordKind, StepOutcome, StepResult
from lifecycle.audit.merkle import leaf_hash
from lifecycle.audit.query import Query
from lifecycle.errors import ConfigError, StoreError
from lifecycle.ports import Claim, SessionRow, Store, Writer
from lifecycle.states import CloseReason, Event, InFlight, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["StoreSuite", "a_claim", "a_record", "a_row", "a_writer"]

T0: Final = datetime(2024, 1, 1, 12, 0, 0, tzinfo=UTC)

ODD_TEXTS: Final = ('"', "'", "a.b", "$", "[0]", "%", "\\", "", " ", "ü\u4e16\U0001f9ea", "--", "null", "1", "\n")
"""Label texts that a query built by hand, or by JSON path, gets wrong."""


def a_record(writer_seq: int = 1, attachment_seq: int = 1, **fields: Any) -> Record:
    """A record of writer ``w`` about attachment ``a``, with every field filled in; `fields` replace any of them."""
    given: dict[str, Any] = {
        "kind": RecordKind.INTENT,
        "writer": "w",
        "writer_seq": writer_seq,
        "attachment_id": "a",
        "attachment_seq": attachment_seq,
        "session_id": "s",
        "adapter": "memory",
        "at": T0 + timedelta(milliseconds=writer_seq),
        "offset": 0.1 * writer_seq,
        "event": Event.START,
        "source": State.NOT_STARTED,
        "dest": State.ACTIVE,
        "in_flight": InFlight.START,
        "guards": (GuardResult(guard="idle", held=True), GuardResult(guard="no session_id", held=False)),
        "steps": (
            StepResult(step="open_backend", outcome=StepOutcome.DONE, ms=12.5),
            StepResult(step="open_viewer", outcome=StepOutcome.FAILED, ms=0.1, attempts=2, error="OSError", note="no"),
        ),
        "counts": {"cookies_loaded": 3},
        "note": "a look at the form",
        "pid": 42,
        "thread": "MainThread",
        "host": "host",
        "labels": {"team": "blue"},
        "library": "1.0",
    }
    return Record(**{**given, **fields})


def the_end(writer_seq: int = 1, attachment_seq: int = 1, **fields: Any) -> Record:
    """The commit that ends an attachment."""
    given = {"kind": RecordKind.COMMIT, "event": Event.STOP, "source": State.ACTIVE, "dest": State.CLOSED}
    return a_record(writer_seq, attachment_seq, **{**given, "close_reason": CloseReason.MANUAL, **fields})


def a_row(session_id: str = "s", **fields: Any) -> SessionRow:
    """The ledger row of a session, with every field filled in; `fields` replace any of them."""
    given: dict[str, Any] = {
        "session_id": session_id,
        "attachment_id": "a",
        "adapter": "memory",
        "state": State.ACTIVE,
        "released": False,
        "name": "a name",
        "labels": {"team": "blue"},
        "created_at": T0,
        "closed_at": None,
        "last_accessed_at": T0 + timedelta(microseconds=1),
        "held_until": T0 + timedelta(minutes=7),
        "timeout_minutes": 0.1,
        "max_duration_minutes": 15.0,
        "close_reason": None,
        "error": None,
        "owner_pid": 42,
        "owner_started": "1234",
        "boot_id": "boot",
        "host": "host",
        "control": "a socket",
        "writer": "w",
        "address": "https://there",
        "facts": {"pid": "43"},
    }
    return SessionRow(**{**given, **fields})


def a_claim(**fields: Any) -> Claim:
    """The claim of attachment ``a`` on a key; `fields` replace any of it."""
    given: dict[str, Any] = {
        "key": "a key",
        "adapter": "memory",
        "attachment_id": "a",
        "session_id": "s",
        "owner_pid": 42,
        "owner_started": "1234",
        "boot_id": "boot",
        "host": "host",
        "writer": "w",
    }
    return Claim(**{**given, **fields})


def a_writer(**fields: Any) -> Writer:
    """The writer of `a_record`; `fields` replace any of it."""
    given: dict[str, Any] = {
        "writer": "w",
        "owner_pid": 42,
        "owner_started": "1234",
        "boot_id": "boot",
        "host": "host",
        "renewed_at": T0,
    }
    return Writer(**{**given, **fields})


def _go_together(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """True for filters of which a query may have both."""
    both = {**one, **two}
    return not one.keys() & two.keys() and (
        "since" not in both or both["since"] < both.get("until", T0 + timedelta(days=9))
    )


def _varied() -> list[Record]:
    """Records that differ in what can be asked for."""
    records: list[Record] = []
    for n in range(4):
        ends = (Event.STOP, State.CLOSED, "caller") if n % 2 else (Event.EXPIRE, State.TIMED_OUT, "deadline")
        broken = {"kind": RecordKind.COMMIT, "event": Event.FAIL, "dest": State.ERROR, "error": "StartFailed"}
        known: dict[str, Any] = {
            "attachment_id": f"a{n}",
            "session_id": f"s{n // 2}" if n else None,
            "adapter": "local" if n == 3 else "memory",
            "labels": {"team": "red" if n == 2 else "blue", "run": str(n)} if n else {},
        }
        steps = (StepResult(step="open_backend", outcome=StepOutcome.DONE, ms=10.0**n),)
        lines: list[dict[str, Any]] = [{"steps": ()}]
        if n == 2:
            lines += [broken]
        else:
            lines += [
                {"kind": RecordKind.COMMIT, "steps": steps},
                {"kind": RecordKind.REJECTED, "source": State.ACTIVE, "dest": State.ACTIVE, "steps": ()},
                {
                    "kind": RecordKind.COMMIT,
                    "event": ends[0],
                    "source": State.ACTIVE,
                    "dest": ends[1],
                    "cause": ends[2],
                },
            ]
        for seq, line in enumerate(lines, 1):
            number = len(records) + 1
            at = T0 + timedelta(seconds=n + seq)
            records.append(a_record(number, seq, at=at, **{**known, **line}))
    return records


class StoreSuite:
    """Tests of one store. Inherit it, give it a fixture ``store`` that yields an open and empty one."""

    durable: ClassVar[bool] = False

    def reopen(self, store: Store) -> Store:
        """Close `store` and open what it kept, as another process would; for stores that are `durable`."""
        raise NotImplementedError

    # --- records ------------------------------------------------------------------------------------------------

    def test_a_new_store_is_empty(self, store: Store) -> None:
        """Nothing is in it, and nothing is not an error."""
        assert list(store.records()) == []
        assert list(store.sessions()) == []
        assert store.session("s") is None
        store.write([], [])

    def test_what_is_written_is_read(self, store: Store) -> None:
        """Every field comes back as it was, with its type."""
        records = [a_record(1, 1), the_end(2, 2), a_record(3, 1, attachment_id="b", session_id=None)]
        store.write(records, [])
        found = store.records()
        assert [record for _, record in found] == records
        assert [type(record.dest) for _, record in found] == [State] * 3
        assert found[0][1].at.tzinfo is UTC

    def test_numbers_rise(self, store: Store) -> None:
        """Numbers tell the order of writing, across writers and writes."""
        store.write([a_record(1, 1)], [])
        store.write([a_record(1, 1, writer="v", attachment_id="b"), a_record(2, 2, writer="v", attachment_id="b")], [])
        store.write([a_record(2, 2)], [])
        numbers = [number for number, _ in store.records()]
        assert numbers == sorted(set(numbers))
        assert [record.writer for _, record in store.records()] == ["w", "v", "v", "w"]

    def test_records_are_chosen(self, store: Store) -> None:
        """Each filter, the pages, and all of them together."""
        store.write([a_record(n, n) for n in range(1, 6)], [])
        store.write([a_record(n + 5, n, attachment_id="b") for n in range(1, 4)], [])
        store.write([a_record(n + 8, n, attachment_id="c", session_id="t") for n in range(1, 3)], [])
        numbers = [number for number, _ in store.records()]

        def seqs(**filters: Any) -> list[int]:
            return [record.writer_seq for _, record in store.records(**filters)]

        assert seqs(session_id="s") == [1, 2, 3, 4, 5, 6, 7, 8]
        assert seqs(session_id="t") == [9, 10]
        assert seqs(attachment_id="b") == [6, 7, 8]
        assert seqs(session_id="t", attachment_id="b") == []
        assert seqs(session_id="s", attachment_id="b") == [6, 7, 8]
        assert seqs(session_id="nobody") == seqs(attachment_id="nobody") == []
        assert seqs(limit=3) == [1, 2, 3]
        assert seqs(limit=3, newest=True) == [8, 9, 10]
        assert seqs(limit=0) == seqs(limit=0, newest=True) == []
        assert seqs(limit=99, newest=True) == list(range(1, 11))
        assert seqs(newest=True) == list(range(1, 11))
        assert seqs(after=numbers[3], limit=2) == [5, 6]
        assert seqs(after=numbers[3], attachment_id="b", limit=2, newest=True) == [7, 8]
        assert seqs(after=numbers[-1]) == []

    def test_a_negative_page_is_refused(self, store: Store) -> None:
        """A negative limit or offset is an error and not everything."""
        for ask in (
            lambda: store.records(limit=-1),
            lambda: store.sessions(limit=-1),
            lambda: store.sessions(offset=-1),
        ):
            with pytest.raises(ConfigError):
                ask()

    @pytest.mark.parametrize(
        "second",
        [
            pytest.param(lambda: a_record(3, 2), id="a gap in the writer's sequence"),
            pytest.param(lambda: a_record(1, 2), id="a repeat in the writer's sequence"),
            pytest.param(lambda: a_record(2, 3), id="a gap in the attachment's sequence"),
            pytest.param(lambda: a_record(2, 1), id="a repeat in the attachment's sequence"),
            pytest.param(lambda: a_record(2, 1, writer="v"), id="a new writer that does not begin with 1"),
            pytest.param(lambda: a_record(2, 2, attachment_id="b"), id="a new attachment that does not begin with 1"),
            pytest.param(lambda: a_record(2, 0, attachment_id="b"), id="a sequence that begins with 0"),
        ],
    )
    @pytest.mark.parametrize("together", [True, False], ids=["in one write", "in two writes"])
    def test_a_sequence_is_contiguous(self, store: Store, second: Callable[[], Record], *, together: bool) -> None:
        """A record that is missing or comes twice is refused, and with it everything beside it."""
        first = a_record(1, 1)
        if not together:
            store.write([first], [])
        with pytest.raises(StoreError):
            store.write([first, second()] if together else [second()], [a_row()])
        assert [record for _, record in store.records()] == ([] if together else [first])
        assert store.session("s") is None
        store.write([first, a_record(2, 2)] if together else [a_record(2, 2)], [a_row()])  # and it can go on
        assert len(store.records()) == 2
        assert store.session("s") == a_row()

    @pytest.mark.parametrize("kind", [RecordKind.COMMIT, RecordKind.RECOVERED])
    @pytest.mark.parametrize("dest", [State.CLOSED, State.ERROR, State.TIMED_OUT])
    @pytest.mark.parametrize("together", [True, False], ids=["in one write", "in two writes"])
    def test_an_attachment_ends_once(self, store: Store, kind: RecordKind, dest: State, *, together: bool) -> None:
        """One terminal commit for each attachment; what is said about it afterwards is no second end."""
        first, second = the_end(1, 1), the_end(2, 2, kind=kind, dest=dest)
        if not together:
            store.write([first], [])
        with pytest.raises(StoreError):
            store.write([first, second] if together else [second], [])
        assert len(store.records()) == (0 if together else 1)
        if together:
            store.write([first], [])
        store.write([a_record(2, 2, kind=RecordKind.IGNORED, event=Event.STOP, source=dest, dest=dest)], [])
        store.write([the_end(3, 1, attachment_id="b")], [])  # another attachment of the same session
        assert len(store.records(session_id="s")) == 3

    def test_the_error_names_the_record(self, store: Store) -> None:
        """A refusal says which record of which writer and attachment."""
        with pytest.raises(StoreError, match=r"number 7 of writer the-writer and 9 of attachment the-attachment") as e:
            store.write([a_record(7, 9, writer="the-writer", attachment_id="the-attachment")], [])
        assert e.value.store == store.url

    def test_what_has_no_json_form_is_refused(self, store: Store) -> None:
        """Half a surrogate pair is a StoreError too, and writes nothing."""
        with pytest.raises(StoreError):
            store.write([a_record(1, 1), a_record(2, 2, thread="\udcff")], [])
        for row in (a_row(name="\udcff"), a_row(labels={"\udcff": ""}), a_row(facts={"": "\udcff"})):
            with pytest.raises(StoreError):
                store.write([a_record(1, 1)], [row])
        assert list(store.records()) == []
        assert list(store.sessions()) == []

    # --- bytes and the register ---------------------------------------------------------------------------------

    def test_records_are_told_as_they_are_kept(self, store: Store) -> None:
        """Byte for byte, with the hash they were written with and what finds them; in pages, of one writer too."""
        records = [a_record(1, 1), a_record(1, 1, writer="v", attachment_id="b", session_id=None), the_end(2, 2)]
        for record in records:
            store.write([record], [])
        found = store.stored()
        assert [row.body for row in found] == [record.to_json() for record in records]
        assert [row.hash for row in found] == [record.hash for record in records]
        assert [row.number for row in found] == [number for number, _ in store.records()]
        for row, record in zip(found, records, strict=True):
            for name in row._fields[1:10]:
                assert getattr(row, name) == getattr(record, name), name
        assert list(store.stored(after=found[0].number, limit=1)) == [found[1]]
        assert list(store.stored(writer="w")) == [found[0], found[2]]
        assert list(store.stored(writer="w", after=1)) == [found[2]]
        assert list(store.stored(writer="w", limit=1)) == [found[0]]
        assert list(store.stored(writer="nobody")) == list(store.stored(limit=0)) == []
        with pytest.raises(ConfigError):
            store.stored(limit=-1)

    def test_a_record_of_the_first_schema_has_no_hash(self, store: Store) -> None:
        """It is in no chain; a process that died may have left some in a rescue file."""
        told = orjson.loads(a_record().to_json())
        old = Record.from_json(
            orjson.dumps({k: v for k, v in told.items() if k not in ("prev", "principal")} | {"schema": 1})
        )
        store.write([old], [])
        assert [(row.hash, row.body) for row in store.stored()] == [(None, old.to_json())]

    def test_the_register_is_added_to_by_one_at_a_time(self, store: Store) -> None:
        """Whoever did not see the last entry adds nothing, and is told."""
        assert store.last_entry() is None
        assert list(store.register()) == []
        assert store.enter([(None, b"one"), ("w", b"two")], after=0)
        for after in (0, 1, 3):
            assert not store.enter([("v", b"late")], after=after)
        assert store.enter([("v", b"three")], after=2)
        assert store.enter([], after=3)
        assert [(seq, body) for seq, _, body in store.register()] == [(1, b"one"), (2, b"two"), (3, b"three")]
        assert [hash_ for _, hash_, _ in store.register()] == [leaf_hash(b) for b in (b"one", b"two", b"three")]
        assert [seq for seq, _, _ in store.register(after=1)] == [2, 3]
        assert [seq for seq, _, _ in store.register(after=1, limit=1)] == [2]
        assert (store.last_entry(), store.last_entry("w"), store.last_entry("u")) == (b"three", b"two", None)
        with pytest.raises(ConfigError):
            store.register(limit=-1)
        if self.durable:
            again = self.reopen(store)
            assert again.last_entry() == b"three"
            again.close()

    def test_records_are_taken_out_together_with_the_entries_that_say_so(self, store: Store) -> None:
        """All of these writers up to there, rows of what is over, and nothing else; the sequences go on."""
        over = {"state": State.CLOSED, "released": True}
        store.write(
            [a_record(1, 1), the_end(2, 2), a_record(3, 1, attachment_id="b", session_id="t")], [a_row("s", **over)]
        )
        store.write([a_record(1, 1, writer="v", attachment_id="c", session_id="u")], [a_row("t"), a_row("u", **over)])
        assert store.enter([(None, b"one")], after=0)
        assert store.prune({"w": 2}, [(None, b"gone")], after=0) is None
        assert len(store.stored()) == 4
        assert store.prune({"w": 2}, [(None, b"gone")], after=1) == 2
        assert [(row.writer, row.writer_seq) for row in store.stored()] == [("w", 3), ("v", 1)]
        assert [row.writer_seq for row in store.stored(writer="w", after=2)] == [3]
        assert [record.writer_seq for _, record in store.records()] == [3, 1]
        assert list(store.records(attachment_id="a")) == list(store.records(session_id="s")) == []
        assert [record.writer_seq for _, record in store.query(Query(labels={"team": "blue"}))] == [3, 1]
        assert list(store.query(Query(attachment="a"))) == list(store.query(Query(state=State.CLOSED))) == []
        assert {row.session_id for row in store.sessions()} == {"t", "u"}
        assert {row.session_id for row in store.sessions(labels={"team": "blue"})} == {"t", "u"}
        assert [body for _, _, body in store.register()] == [b"one", b"gone"]
        assert store.last_entry("w") is None
        assert store.prune({"w": 3, "v": 1}, [(None, b"all")], after=2) == 2
        assert list(store.stored()) == []
        assert list(store.records()) == []
        assert {row.session_id for row in store.sessions()} == {"t"}  # it is not over, whatever became of its records
        for bad in (a_record(1, 1, attachment_id="d"), a_record(4, 1, attachment_id="b"), a_record(5, 3)):
            with pytest.raises(StoreError):
                store.write([bad], [])
        store.write([a_record(4, 2, attachment_id="b"), a_record(5, 3)], [])
        assert [row.number for row in store.stored()] == [5, 6]

    # --- queries ------------------------------------------------------------------------------------------------

    def test_each_filter_finds_what_it_says(self, store: Store) -> None:
        """Alone and in pairs, forwards and backwards, in pages: what `Query.matches` says of each record, no more."""
        store.write(_varied(), [])
        every = store.records()
        alone: list[dict[str, Any]] = [
            *({"state": state} for state in State),
            *({"kind": kind} for kind in RecordKind),
            *({"event": event} for event in (Event.START, Event.STOP, Event.FAIL, Event.DETACH)),
            {"session": "s1"}, {"session": "nobody"}, {"attachment": "a2"}, {"attachment": "nobody"},
            {"cause": "caller"}, {"cause": "deadline"}, {"cause": "nobody"},
            {"adapter": "memory"}, {"adapter": "local"}, {"adapter": "nobody"},
            {"error": "OSError"}, {"error": "StartFailed"}, {"error": "Start"}, {"error": "nobody"},
            {"labels": {"team": "blue"}}, {"labels": {"team": "red"}}, {"labels": {"team": "re"}},
            {"labels": {"team": "blue", "run": "1"}}, {"labels": {"run": "1", "team": "red"}},
            {"labels": {"run": "2", "team": "blue"}}, {"labels": {"run": "9"}},
            {"since": T0 + timedelta(seconds=3)}, {"until": T0 + timedelta(seconds=4)},
            {"since": T0 + timedelta(seconds=2), "until": T0 + timedelta(seconds=5)},
            {"since": T0 + timedelta(days=1)}, {"until": T0},
            {"slower_than": 0}, {"slower_than": 5.0}, {"slower_than": 50}, {"slower_than": 700.5}, {"slower_than": 1e6},
        ]  # fmt: skip
        pairs = [{**one, **two} for n, one in enumerate(alone) for two in alone[n + 1 :] if _go_together(one, two)]
        seen: set[int] = set()
        for filters in [{}, *alone, *pairs]:
            query = Query(**filters)
            wanted = [(number, record) for number, record in every if query.matches(record)]
            assert list(store.query(query)) == wanted, filters
            assert list(store.query(query, newest=True)) == wanted, filters
            assert list(store.query(query, limit=2)) == wanted[:2], filters
            assert list(store.query(query, limit=2, newest=True)) == wanted[-2:], filters
            middle = every[len(every) // 2][0]
            later = [pair for pair in wanted if pair[0] > middle]
            assert list(store.query(query, after=middle)) == later, filters
            assert list(store.query(query, after=middle, limit=3, newest=True)) == later[-3:], filters
            assert list(store.query(query, limit=0)) == list(store.query(query, after=every[-1][0])) == []
            seen.add(len(wanted))
        assert len(seen) > 10, "the records do not tell the filters apart"

    def test_what_a_filter_means(self, store: Store) -> None:
        """Each, written out by hand for one record."""
        steps = (
            StepResult(step="open_backend", outcome=StepOutcome.DONE, ms=12.5),
            StepResult(step="open_viewer", outcome=StepOutcome.FAILED, ms=40.0, error="OSError"),
        )
        intent = a_record(1, 1, steps=())
        commit = a_record(2, 2, kind=RecordKind.COMMIT, steps=steps, error="HookError", labels={"a": "1", "b": "2"})
        store.write([intent, commit, a_record(3, 3, at=T0, source=State.ACTIVE, kind=RecordKind.EXTENDED)], [])

        def seqs(**filters: Any) -> list[int]:
            return [record.writer_seq for _, record in store.query(Query(**filters))]

        assert seqs(state="not_started") == [1]  # where an intent finds it
        assert seqs(state="active") == [2, 3]  # where a commit leads, and where what changes nothing was
        assert seqs(error="OSError") == [2, 3]  # of a step
        assert seqs(error="HookError") == [2]  # of its own
        assert seqs(slower_than=39.9) == [2]
        assert seqs(slower_than=40) == []  # it took longer, not as long
        assert seqs(labels={"a": "1"}) == seqs(labels={"a": "1", "b": "2"}) == [2]
        assert seqs(labels={"a": "1", "b": "1"}) == seqs(labels={"a": "1", "team": "blue"}) == []
        assert seqs(since=commit.at) == [2]  # from that time on
        assert seqs(until=commit.at) == [1, 3]  # before it

    def test_labels_of_records_are_whole_and_exact(self, store: Store) -> None:
        """Whatever characters they are made of."""
        odd = {f"k{text}": text for text in ODD_TEXTS}
        store.write([a_record(1, 1, labels=odd), a_record(2, 2, labels={"k": "v"})], [])
        for key, value in odd.items():
            assert [r.writer_seq for _, r in store.query(Query(labels={key: value}))] == [1], key
            assert list(store.query(Query(labels={key: value + "x"}))) == []
        assert [r.writer_seq for _, r in store.query(Query(labels=odd))] == [1]
        assert list(store.query(Query(labels={**odd, "k": "v"}))) == []

    def test_records_that_are_late_are_found_by_their_time(self, store: Store) -> None:
        """Times need not rise with the numbers: several write, and what a store refused is written late."""
        minutes = [50, 10, 40, 20, 30, 0]
        store.write([a_record(n, n, at=T0 + timedelta(minutes=m)) for n, m in enumerate(minutes, 1)], [])
        query = Query(since=T0 + timedelta(minutes=20), until=T0 + timedelta(minutes=50))
        assert [r.writer_seq for _, r in store.query(query)] == [3, 4, 5]
        assert [r.writer_seq for _, r in store.query(query, limit=2, newest=True)] == [4, 5]
        assert [r.writer_seq for _, r in store.query(query, limit=2)] == [3, 4]

    def test_a_query_reaches_over_many_records(self, store: Store) -> None:
        """Pages are right where a store keeps records in blocks or by classes, at their bounds too."""
        kinds = (RecordKind.INTENT, RecordKind.COMMIT, RecordKind.REJECTED)
        records = [
            a_record(
                n, n, kind=kinds[n % 3], at=T0 + timedelta(seconds=n), labels={"half": str(n % 2)},
                steps=(StepResult(step="x", outcome=StepOutcome.DONE, ms=float(n % 1500)),),
            )
            for n in range(1, 3001)
        ]  # fmt: skip
        store.write(records, [])
        asked: tuple[dict[str, Any], ...] = (
            {"kind": kinds[1]},
            {"labels": {"half": "1"}},
            {"slower_than": 1497.0},
            {"since": T0 + timedelta(seconds=1020), "until": T0 + timedelta(seconds=1031)},
            {"slower_than": 1000.0, "kind": kinds[2], "labels": {"half": "0"}, "since": T0 + timedelta(seconds=1100)},
        )
        for filters in asked:
            query = Query(**filters)
            wanted = [record.writer_seq for record in records if query.matches(record)]
            assert wanted
            paged: list[int] = []
            after = 0
            while page := store.query(query, after=after, limit=7):
                paged += [record.writer_seq for _, record in page]
                after = page[-1][0]
            assert paged == wanted, filters
            assert [r.writer_seq for _, r in store.query(query, limit=7, newest=True)] == wanted[-7:], filters

    def test_bodies_are_the_bytes_that_are_stored(self, store: Store) -> None:
        """The same records as `query` finds, as they were written."""
        store.write(_varied(), [])
        since = T0 + timedelta(seconds=3)
        for query in (Query(), Query(session="s1"), Query(state=State.ACTIVE), Query(since=since)):
            assert list(store.bodies(query, limit=4, newest=True)) == [
                (number, record.to_json()) for number, record in store.query(query, limit=4, newest=True)
            ]

    def test_a_query_with_a_negative_page_is_refused(self, store: Store) -> None:
        """A negative limit is an error and not everything."""
        for ask in (lambda: store.query(Query(), limit=-1), lambda: store.bodies(Query(), limit=-1)):
            with pytest.raises(ConfigError):
                ask()

    def test_what_a_refused_write_would_have_added_is_found_by_no_filter(self, store: Store) -> None:
        """Nor does it lead later records astray."""
        new: dict[str, Any] = {"labels": {"new": "label"}, "cause": "signal"}
        with pytest.raises(StoreError):
            store.write([a_record(1, 1, **new), a_record(3, 2)], [])
        assert list(store.query(Query(labels={"new": "label"}))) == []
        store.write([a_record(1, 1, labels={"another": "one"}, cause="exit"), a_record(2, 2, **new)], [])
        for query in (Query(labels={"new": "label"}), Query(cause="signal")):
            assert [record.writer_seq for _, record in store.query(query)] == [2]

    # --- ledger rows --------------------------------------------------------------------------------------------

    def test_a_row_is_put_and_replaced(self, store: Store) -> None:
        """The last write of a row counts, in every field, and others stay as they were."""
        store.write([], [a_row("s"), a_row("t", name=None)])
        assert store.session("s") == a_row("s")
        later = a_row(
            "s",
            attachment_id="b",
            adapter="other",
            state=State.ERROR,
            released=True,
            name=None,
            labels={},
            created_at=T0 + timedelta(days=1),
            closed_at=T0 + timedelta(days=2),
            last_accessed_at=T0 + timedelta(days=3),
            held_until=None,
            timeout_minutes=4.0,
            max_duration_minutes=5.5,
            close_reason=CloseReason.CRASH,
            error="it broke",
            owner_pid=7,
            owner_started="8",
            boot_id="another",
            host="elsewhere",
            control=None,
            facts={},
        )
        store.write([], [later])
        assert store.session("s") == later
        assert store.session("t") == a_row("t", name=None)
        assert len(store.sessions()) == 2
        found = store.session("s")
        assert found is not None
        assert (type(found.state), type(found.close_reason), found.released) == (State, CloseReason, True)
        assert found.created_at.tzinfo is UTC

    def test_the_last_of_two_rows_in_one_write_counts(self, store: Store) -> None:
        """Rows of one write are put in their order."""
        store.write([], [a_row("s", state=State.ACTIVE), a_row("s", state=State.CLOSED)])
        assert [row.state for row in store.sessions()] == [State.CLOSED]

    def test_rows_come_newest_first_in_pages(self, store: Store) -> None:
        """By created_at, whatever the order of writing or time zone; of the same instant, the last written first."""
        berlin = datetime(2024, 1, 1, 14, 0, 3, tzinfo=timezone(timedelta(hours=2)))
        for name, at in (("c", berlin), ("a", T0), ("d", T0 + timedelta(seconds=9)), ("b", T0)):
            store.write([], [a_row(name, created_at=at)])
        store.write([], [a_row("a", created_at=T0, state=State.CLOSED)])  # a change does not make it newer
        assert [row.session_id for row in store.sessions()] == ["d", "c", "b", "a"]
        assert [row.session_id for row in store.sessions(limit=2)] == ["d", "c"]
        assert [row.session_id for row in store.sessions(limit=2, offset=1)] == ["c", "b"]
        assert list(store.sessions(limit=0)) == list(store.sessions(offset=4)) == []

    def test_rows_are_chosen_by_state(self, store: Store) -> None:
        """Each state alone, and together with labels and pages."""
        states = list(State)
        store.write(
            [], [a_row(str(state), state=state, created_at=T0 + timedelta(hours=len(state))) for state in states]
        )
        for state in states:
            assert [row.session_id for row in store.sessions(status=state)] == [str(state)]
        assert list(store.sessions(status=State.ACTIVE, labels={"team": "red"})) == []
        assert list(store.sessions(status=State.ACTIVE, offset=1)) == []

    def test_unfinished_are_those_that_somebody_has_to_do_something_about(self, store: Store) -> None:
        """Not over, or failed and not released; newest first."""
        put = [
            a_row(f"{state}{released}", state=state, released=released, created_at=T0 + timedelta(seconds=n))
            for n, (state, released) in enumerate((s, r) for s in State for r in (False, True))
        ]
        store.write([], put)
        expected = [row for row in put if row.state in (State.NOT_STARTED, State.ACTIVE)]
        expected += [row for row in put if row.state is State.ERROR and not row.released]
        assert list(store.unfinished()) == sorted(expected, key=lambda row: row.created_at, reverse=True)
        store.write([], [dataclasses.replace(row, state=State.CLOSED) for row in expected])
        assert list(store.unfinished()) == []

    def test_rows_are_chosen_by_labels(self, store: Store) -> None:
        """All of the labels, whole and exact, whatever characters they are made of."""
        odd = {f"k{text}": text for text in ODD_TEXTS}
        plain = {"k": "v", "n": "1"}
        store.write([], [a_row("odd", labels=odd), a_row("plain", labels=plain), a_row("none", labels={})])

        def ids(**labels: str) -> set[str]:
            return {row.session_id for row in store.sessions(labels=labels)}

        for key, value in odd.items():
            assert ids(**{key: value}) == {"odd"}, key
            assert ids(**{key: value + "x"}) == set(), key
        assert ids(**odd) == {"odd"}
        assert ids(k="v", n="1") == {"plain"}
        assert ids(k="v", n="2") == ids(k="V") == ids(K="v") == ids(v="k") == set()
        assert ids() == {"odd", "plain", "none"}
        found = store.session("odd")
        assert found is not None
        assert found.labels == odd

    def test_ids_are_found_by_their_beginning(self, store: Store) -> None:
        """Whole and exact letters of it, in alphabetical order, at most so many."""
        names = ["ab", "abc", "abd", "aB", "b", "a%", "a_", "\u00fc1", "\u00fc2", "\U0001f9ea"]
        store.write([], [a_row(name) for name in names])

        def ids(beginning: str, limit: int = 9) -> list[str]:
            return list(store.session_ids(beginning, limit=limit))

        assert ids("ab") == ["ab", "abc", "abd"]
        assert ids("ab", 2) == ["ab", "abc"]
        assert ids("a") == ["a%", "aB", "a_", "ab", "abc", "abd"]
        assert ids("a%") == ["a%"]
        assert ids("\u00fc") == ["\u00fc1", "\u00fc2"]
        assert ids("\U0001f9ea") == ["\U0001f9ea"]
        assert ids("abcd") == ids("A") == ids("a", 0) == []
        assert ids("", 99) == sorted(names)
        with pytest.raises(ConfigError):
            store.session_ids("a", limit=-1)

    def test_labelled_rows_come_newest_first_whatever_becomes_of_them(self, store: Store) -> None:
        """In pages, of one state or of all, after changes of state, labels and time; of one instant, the last first."""
        both = {"team": "blue", "run": "1"}
        for n in range(6):
            at = T0 + timedelta(seconds=n // 3)
            store.write([], [a_row(f"s{n}", created_at=at, labels=both if n % 2 else {"team": "blue"})])

        def ids(**filters: Any) -> list[str]:
            return [row.session_id for row in store.sessions(**filters)]

        assert ids(labels={"team": "blue"}) == ["s5", "s4", "s3", "s2", "s1", "s0"]
        assert ids(labels=both) == ids(labels={"run": "1"}) == ["s5", "s3", "s1"]
        assert ids(labels={"team": "blue"}, limit=2, offset=1) == ["s4", "s3"]
        assert ids(labels={"team": "blue"}, limit=2, offset=3) == ["s2", "s1"]
        assert ids(labels={"team": "blue"}, limit=0) == ids(labels={"team": "blue"}, offset=6) == []
        assert ids(labels={**both, "no": "such"}) == []
        store.write([], [a_row("s4", created_at=T0 + timedelta(seconds=1), labels=both, state=State.CLOSED)])
        store.write([], [a_row("s1", created_at=T0, labels={"team": "red"})])
        store.write([], [a_row("s0", created_at=T0 + timedelta(seconds=9), labels={"team": "blue"})])
        assert ids(labels={"team": "blue"}) == ["s0", "s5", "s4", "s3", "s2"]
        assert ids(labels={"team": "blue"}, limit=3) == ["s0", "s5", "s4"]
        assert ids(labels={"team": "blue"}, status=State.ACTIVE, limit=2) == ["s0", "s5"]
        assert ids(labels=both, status=State.CLOSED) == ["s4"]
        assert ids(labels={"team": "red"}) == ["s1"]

    # --- writes as a whole --------------------------------------------------------------------------------------

    def test_a_write_is_all_or_nothing(self, store: Store) -> None:
        """One bad record of a hundred leaves neither records nor rows, and does not spoil the next write."""
        batch = [a_record(n, n) for n in range(1, 100)]
        with pytest.raises(StoreError):
            store.write([*batch, a_record(101, 100)], [a_row("s"), a_row("t")])
        assert list(store.records()) == []
        assert list(store.sessions()) == []
        store.write(batch, [a_row("s")])
        assert [record for _, record in store.records()] == batch

    def test_what_a_caller_changes_later_changes_nothing(self, store: Store) -> None:
        """The store keeps what it was given at the time."""
        labels, counts, facts = {"team": "blue"}, {"operations": 1}, {"pid": "1"}
        store.write([a_record(labels=labels, counts=counts)], [a_row(labels=labels, facts=facts)])
        labels["team"], counts["operations"], facts["pid"] = "red", 2, "2"
        record, row = store.records()[0][1], store.session("s")
        assert row is not None
        assert (record.labels, record.counts) == ({"team": "blue"}, {"operations": 1})
        assert (row.labels, row.facts) == ({"team": "blue"}, {"pid": "1"})

    def test_threads_take_turns(self, store: Store) -> None:
        """It is used by one thread at a time, and not always the same."""
        errors: list[BaseException] = []

        def turn(n: int) -> None:
            try:
                store.write([a_record(n, n)], [a_row(f"s{n}")])
                assert len(store.records()) == n
            except BaseException as e:  # noqa: BLE001 - it is raised below, in the thread of the test
                errors.append(e)

        for n in range(1, 4):
            thread = threading.Thread(target=turn, args=(n,))
            thread.start()
            thread.join()
        assert errors == []
        assert len(store.sessions()) == 3

    # --- opening and closing ------------------------------------------------------------------------------------

    def test_open_and_close_may_be_repeated(self, store: Store) -> None:
        """A second open keeps what is there; a second close is silent; a closed store takes no record."""
        store.write([a_record(1, 1)], [])
        store.open()
        store.write([a_record(2, 2)], [])
        assert len(store.records()) == 2
        store.close()
        store.close()
        with pytest.raises(StoreError):
            store.write([a_record(3, 3)], [])

    def test_what_was_acknowledged_is_there_after_closing(self, store: Store) -> None:
        """Records, rows and the rules about them outlive the store object."""
        if not self.durable:
            pytest.skip("this store keeps nothing")
        store.write([a_record(1, 1), the_end(2, 2)], [a_row()])
        again = self.reopen(store)
        try:
            assert [record for _, record in again.records()] == [a_record(1, 1), the_end(2, 2)]
            assert again.session("s") == a_row()
            for bad in (a_record(2, 3), a_record(4, 3), a_record(3, 2), a_record(3, 4), the_end(3, 3)):
                with pytest.raises(StoreError):
                    again.write([bad], [])
            again.write([a_record(3, 3)], [])
        finally:
            again.close()

    # --- who holds a key --------------------------------------------------------------------------------------------

    def test_a_key_has_one_holder(self, store: Store) -> None:
        """Of several that ask one holds the key, and the others are told who."""
        assert store.claim(a_claim()) is None
        assert store.claim(a_claim(attachment_id="b")) == a_claim()
        assert store.claim(a_claim(attachment_id="b", adapter="local")) is None  # each adapter has keys of its own
        assert store.claim(a_claim(attachment_id="b", key="another")) is None
        assert store.claim(a_claim(session_id=None)) is None  # its own claim, renewed
        assert store.claim(a_claim(attachment_id="b")) == a_claim(session_id=None)

    def test_a_claim_that_is_void_is_taken_over_once(self, store: Store) -> None:
        """Two that saw the same claim to be void do not both take it over."""
        store.claim(a_claim())
        assert store.claim(a_claim(attachment_id="b"), replacing="a") is None
        assert store.claim(a_claim(attachment_id="c"), replacing="a") == a_claim(attachment_id="b")

    def test_a_key_is_given_up_by_its_holder_alone(self, store: Store) -> None:
        """Nobody gives up what somebody else holds."""
        store.claim(a_claim())
        store.unclaim(a_claim(attachment_id="b"))
        assert store.claim(a_claim(attachment_id="b")) == a_claim()
        store.unclaim(a_claim())
        store.unclaim(a_claim())
        assert store.claim(a_claim(attachment_id="b")) is None

    def test_an_attachment_is_open_from_its_beginning_to_its_end(self, store: Store) -> None:
        """Refused or rejected events open none, and each is told with the writer that began it, as it last renewed."""
        store.renew(a_writer())
        store.renew(a_writer(writer="x", owner_pid=43, renewed_at=T0 + timedelta(seconds=1)))
        store.write(
            [
                a_record(1, 1, kind=RecordKind.REJECTED),
                a_record(2, 2),
                a_record(3, 1, attachment_id="b", event=Event.ATTACH),
                a_record(4, 1, attachment_id="c", kind=RecordKind.IGNORED, event=Event.STOP),
                a_record(1, 1, attachment_id="d", writer="x"),
                a_record(1, 1, attachment_id="e", writer="of nobody"),
            ],
            [],
        )
        later = a_writer(renewed_at=T0 + timedelta(minutes=1, microseconds=5))
        store.renew(later)
        other = a_writer(writer="x", owner_pid=43, renewed_at=T0 + timedelta(seconds=1))
        assert store.open_attachments() == {"a": later, "b": later, "d": other}
        ends = [
            the_end(2, 3, writer="x"),
            a_record(3, 2, writer="x", attachment_id="b", kind=RecordKind.RECOVERED, dest=State.ERROR),
        ]
        store.write(ends, [])
        assert store.open_attachments() == {"d": other}
        if self.durable:
            again = self.reopen(store)
            assert again.open_attachments() == {"d": other}
            again.close()
