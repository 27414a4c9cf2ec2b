"""The two ways of `lifecycle.testing.ways` on the memory adapter, and a store whose writes fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lifecycle.errors import StoreError
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ways
from lifecycle.testing.ways import PATIENCE, eventually, in_threads
from lifecycle_adapters.memory import MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifecycle.audit import Record
    from lifecycle.ports import SessionRow

__all__ = ["PATIENCE", "WAYS", "FailingStore", "eventually", "in_threads"]


class FailingStore(MemoryStore):
    """A store in memory that refuses some writes.

    Args:
        failing: Numbers of the writes that fail, counted from 1. `broken` makes all of them fail while it is set.
    """

    def __init__(self, *failing: int, error: BaseException | None = None) -> None:
        super().__init__()
        self.failing = set(failing)
        self.broken = False
        self.writes = 0
        self.error = error

    def write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        self.writes += 1
        if self.broken or self.writes in self.failing:
            raise self.error or StoreError("no space left, as scripted", store=self.url)
        super().write(records, rows)


class _OnMemory(ways.Way):
    """On the memory adapter unless told otherwise; a client may fail to close where its store was meant to fail."""

    def client(self, **kwargs: Any) -> Any:
        client = super().client(**{"adapter": MemoryAdapter(), **kwargs})
        if isinstance(self.raw(client)._store, FailingStore):
            self.clients.remove(client)
            self.clients.append(_MayFail(client))
        return client


class _MayFail:
    def __init__(self, client: Any) -> None:
        self._client = client

    def close(self) -> None:
        try:
            self._client.close()
        except StoreError:
            return  # as it was told


class _AsyncWay(_OnMemory, ways.AsyncWay):
    pass


WAYS = {"sync": _OnMemory, "async": _AsyncWay}
