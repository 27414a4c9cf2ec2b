"""The audit trail of a store, read without a client: pages of records, numbers, and what is new.

Rule: nothing here writes. Every method blocks, and reads a page at a time, so that a log of any length is read in a
bounded memory. In a coroutine, call them by `asyncio.to_thread`.

    with AuditTrail("sqlite:///log.db") as trail:
        for entry in trail.entries(Query(state="error")):
            print(entry.number, entry.record.at, entry.record.error)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple, Self

from lifecycle.audit import Record
from lifecycle.audit.query import Query
from lifecycle.audit.stats import Stats, summarize
from lifecycle.errors import ConfigError, StoreError
from lifecycle.ports import Store
from lifecycle.stores import open_store
from lifecycle.stores.common import decode

__all__ = ["AuditTrail", "Entry", "News", "Page", "Query"]

PAGE: Final = 1000
"""Records that are read at a time."""

POLL: Final = 0.2
"""Seconds between two looks for new records, each a look at the number of the newest one."""

_ALL: Final = Query()


class Entry(NamedTuple):
    """A record, and its number in the store."""

    number: int
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some records, oldest first.

    Attributes:
        entries: The records.
        after: What the next page is asked for with, as ``after``.
        more: True when there may be one.
    """

    entries: tuple[Entry, ...]
    after: int
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What has come since the last look.

    Attributes:
        bodies: The records that are wanted with their numbers, as they are stored, oldest first.
        after: All records up to this number have been looked at.
    """

    bodies: tuple[tuple[int, bytes], ...]
    after: int


class AuditTrail:
    """Reads the transition log of a store.

    Args:
        store: As for `lifecycle.Client`: a URL, None for the default one, or a store object, which stays open.

    Raises:
        ConfigError: The store is not known or can't be opened.
    """

    def __init__(self, store: str | Store | None = None) -> None:
        self._store = open_store(store)
        self._ours = store is None or isinstance(store, str)

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._store.url

    def page(self, query: Query = _ALL, *, after: int = 0, limit: int = 100, newest: bool = False) -> Page:
        """Some records that a query wants, oldest first.

        Args:
            query: Which; by default all.
            after: Only records that are numbered above this: `Page.after` of the page before.
            limit: At most so many, 1 or more.
            newest: The last `limit` of them, and not the first.

        Raises:
            ConfigError: `limit` is below 1.
            StoreError: The store or a record can't be read.
        """
        if limit < 1:
            raise ConfigError(option="limit", value=limit, allowed="1 or more")
        found = self._store.query(query, after=after, limit=limit, newest=newest)
        more = len(found) == limit and not newest
        return Page(entries=tuple(Entry(*pair) for pair in found), after=found[-1][0] if found else after, more=more)

    def entries(self, query: Query = _ALL, *, after: int = 0, last: int | None = None) -> Iterator[Entry]:
        """Every record that a query wants, oldest first, those that are written meanwhile included.

        Args:
            query: Which; by default all.
            after: Only records that are numbered above this.
            last: The last so many of them, which are read at once.

        Raises:
            ConfigError: `last` is negative.
            StoreError: The store or a record can't be read.
        """
        for number, body in self.bodies(query, after=after, last=last):
            yield Entry(number, decode(number, body, store=self.url))

    def bodies(self, query: Query = _ALL, *, after: int = 0, last: int | None = None) -> Iterator[tuple[int, bytes]]:
        """As `entries`, as the very bytes that are stored and hashed."""
        if last is not None:
            yield from self._store.bodies(query, after=after, limit=last, newest=True)
            return
        while found := self._store.bodies(query, after=after, limit=PAGE):
            yield from found
            after = found[-1][0]

    def stats(self, query: Query = _ALL) -> Stats:
        """Times in states, times of steps, endings and failures; see `lifecycle.audit.stats`.

        Raises:
            StoreError: The store or a record can't be read.
        """
        try:
            return summarize(body for _, body in self.bodies(query))
        except ValueError as e:
            message = f"the log in {self.url} can't be summed up: {e}; use the version of lifecycle that wrote it"
            raise StoreError(message, store=self.url) from e

    def newest(self) -> int:
        """The number of the newest record, 0 where there is none."""
        found = self._store.bodies(_ALL, limit=1, newest=True)
        return found[-1][0] if found else 0

    def at(self, number: int) -> bytes | None:
        """The record with a number, as it is stored; None where there is none.

        Raises:
            StoreError: The store can't be read.
        """
        found = self._store.bodies(_ALL, after=max(number - 1, 0), limit=1)
        return found[0][1] if found and found[0][0] == number else None

    def news(self, query: Query = _ALL, *, after: int, limit: int = PAGE) -> News:
        """What has come since `after`, as far as `limit` records that are wanted.

        Raises:
            StoreError: The store can't be read.
        """
        newest = self.newest()  # before the look: what is written after it may be found or not
        if newest <= after:
            return News(bodies=(), after=after)
        found = tuple(self._store.bodies(query, after=after, limit=limit))
        seen = found[-1][0] if found else after
        return News(bodies=found, after=seen if len(found) == limit else max(seen, newest))

    def follow(
        self, query: Query = _ALL, *, after: int = 0, wait: Callable[[float], object] = time.sleep
    ) -> Iterator[News]:
        """What comes, as it comes, for ever: each record once, in the order of the log.

        Keep `News.after` once its records are dealt with, and go on from there: none is missed.

        Args:
            query: Which records.
            after: Those numbered above this; 0 begins with the first, `newest` with what is still to come.
            wait: Called with seconds when there is nothing new; what it raises ends this.

        Raises:
            StoreError: The store can't be read.
        """
        while True:
            news = self.news(query, after=after)
            if news.after == after:
                wait(POLL)
                continue
            after = news.after
            yield news

    def close(self) -> None:
        """Close the store, unless it was given as an object. Idempotent."""
        if self._ours:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
