"""One driver over both clients, so that a test that is written once runs on `Client` and on `AsyncClient`.

Rule: `Way.client` makes a client whose calls look blocking in both: for the async one each coroutine is run to its end
on a loop of the way's own, in the test's thread. `Way.together` makes several calls at once, from threads or tasks.

    @pytest.fixture(params=WAYS)
    def way(request):
        way = WAYS[request.param]()
        yield way
        way.finish()
"""
# ruff: noqa: ANN401 - one face for two kinds of client

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from lifecycle.client import AsyncClient, AsyncEventStream, AsyncSessions, Client
from lifecycle.session import AsyncSession

__all__ = ["PATIENCE", "WAYS", "AsyncWay", "Way", "eventually", "in_threads"]

PATIENCE: Final = 20.0
"""Seconds after which something that should have happened is taken not to happen; machines that run tests are slow."""


def eventually(true: Callable[[], object], what: str = "") -> None:
    """Wait until `true()` is, looking again and again.

    Raises:
        AssertionError: It was not, for `PATIENCE` seconds.
    """
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            msg = f"not within {PATIENCE:g} seconds: {what or inspect.getsource(true).strip()}"
            raise AssertionError(msg)
        time.sleep(0.001)


def in_threads(calls: Sequence[Callable[[], object]]) -> list[object]:
    """Make `calls` at once, each in a thread of its own; what each returned or raised.

    Raises:
        AssertionError: One has not come back within `PATIENCE` seconds.
    """
    gate = threading.Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def run(n: int, call: Callable[[], object]) -> None:
        gate.wait(PATIENCE)
        try:
            results[n] = call()
        except BaseException as e:  # noqa: BLE001 - handed to the test
            results[n] = e

    threads = [threading.Thread(target=run, args=(n, call), name=f"caller-{n}") for n, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if any(thread.is_alive() for thread in threads):
        raise AssertionError("a call has not come back")
    return results


class _Blocking:
    """An async object whose coroutines are run to their end."""

    def __init__(self, way: AsyncWay, target: Any) -> None:
        self._way = way
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value) or isinstance(value, type):
            return self._way.wrap(value)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._way.wrap(self._way.run(value, *args, **kwargs))

        return call

    def __enter__(self) -> Any:
        self._way.run(self._target.__aenter__)
        return self

    def __exit__(self, *error: object) -> Any:
        return self._way.run(self._target.__aexit__, *error)


class Way:
    """The sync client."""

    name: ClassVar[str] = "sync"
    is_async: ClassVar[bool] = False

    def __init__(self) -> None:
        self.clients: list[Any] = []

    def client(self, **kwargs: Any) -> Any:
        """A client, on a store in memory unless told otherwise; `finish` closes it."""
        kwargs.setdefault("store", "memory:")
        client = self._make(kwargs)
        self.clients.append(client)
        return client

    def _make(self, kwargs: dict[str, Any]) -> Any:
        return Client(**kwargs)

    def raw(self, wrapped: Any) -> Any:
        """The client or session itself."""
        return wrapped

    def hook(self, func: Callable[..., object]) -> Callable[..., Any]:
        """`func` as a hook of this client's own kind: a coroutine function for the async one."""
        return func

    def together(self, calls: Sequence[tuple[Any, str]]) -> list[object]:
        """Call a method without arguments on each object, all at once; what each returned or raised."""
        return in_threads([getattr(target, name) for target, name in calls])

    def finish(self) -> None:
        """Close the clients."""
        for client in self.clients:
            client.close()


class AsyncWay(Way):
    """The async client, on a loop of its own in the test's thread."""

    name = "async"
    is_async = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()

    def run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func`, and await what it returns where that can be awaited."""

        async def call() -> Any:
            result = func(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return self.loop.run_until_complete(call())

    def wrap(self, value: Any) -> Any:
        """`value`, made to look blocking where it is one of the library's async objects."""
        if isinstance(value, (AsyncSession, AsyncSessions, AsyncEventStream)):
            return _Blocking(self, value)
        return value

    def _make(self, kwargs: dict[str, Any]) -> Any:
        return _Blocking(self, AsyncClient(**kwargs))

    def raw(self, wrapped: Any) -> Any:  # noqa: D102 - as the base class says
        return wrapped._target if isinstance(wrapped, _Blocking) else wrapped  # noqa: SLF001 - of this module

    def hook(self, func: Callable[..., object]) -> Callable[..., Any]:  # noqa: D102 - as the base class says
        if len(inspect.signature(func).parameters) == 1:

            async def one(session: object) -> None:
                func(session)

            return one

        async def two(session: object, transition: object) -> None:
            func(session, transition)

        return two

    def together(self, calls: Sequence[tuple[Any, str]]) -> list[object]:  # noqa: D102 - as the base class says
        async def gather() -> list[object]:
            coros = [getattr(self.raw(target), name)() for target, name in calls]
            return list(await asyncio.gather(*coros, return_exceptions=True))

        return self.loop.run_until_complete(asyncio.wait_for(gather(), PATIENCE))

    def finish(self) -> None:  # noqa: D102 - as the base class says
        try:
            super().finish()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


WAYS: Final[dict[str, type[Way]]] = {"sync": Way, "async": AsyncWay}
