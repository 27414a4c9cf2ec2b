"""An adapter in front of another, of which one call fails or is cancelled where a test says.

Rule: it strikes as often as it is told, and passes everything else on as it is. A cancellation is a real one: the call
runs in a task of its own, which is cancelled while it waits, so what the call itself waits for is cancelled as well.
"""
# ruff: noqa: ANN401 - it stands for adapters and backends of any kind

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from lifecycle.errors import StartFailed

if TYPE_CHECKING:
    from lifecycle.config import SessionOptions
    from lifecycle.ports import Adapter, Backend, BackendEnd, Host

__all__ = ["Strike", "StruckAdapter"]

T = TypeVar("T")

_STRUCK: Final = "struck by a test"


class Strike:
    """What is struck, and how.

    Args:
        method: A method of `Adapter` or `Backend`, such as ``open`` or ``release``.
        wait: The call is cancelled while it waits for this time, counted from 1; None: it fails, before it begins.
        times: So many calls are struck, one after the other.

    Attributes:
        struck: How many calls were.
    """

    def __init__(self, method: str, *, wait: int | None = None, times: int = 1) -> None:
        self.method = method
        self.struck = 0
        self._wait = wait
        self._times = times

    async def through(self, method: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Make a call, or strike it."""
        if method != self.method or self.struck >= self._times:
            return await call(*args)
        if self._wait is None:
            self.struck += 1
            raise OSError(_STRUCK)
        task = asyncio.get_running_loop().create_task(self._counted(_begun(call, args)))
        try:
            return await task
        except asyncio.CancelledError:
            if not self.struck or not task.cancelled():
                task.cancel()
                raise  # whoever made the call was cancelled
            # As a backend says it whose own work was given up.
            raise (StartFailed if method in ("open", "connect") else OSError)(_STRUCK) from None

    async def _counted(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs in one

        def waits(number: int) -> None:
            if number == self._wait:
                self.struck += 1
                asyncio.get_running_loop().call_soon(task.cancel)

        return cast("T", await _Watched(work, waits))


async def _begun(call: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    return await call(*args)


class _Watched:
    """Awaits `work`, and tells each time it waits."""

    def __init__(self, work: Coroutine[Any, Any, Any], waits: Callable[[int], None]) -> None:
        self._work = work
        self._waits = waits

    def __await__(self) -> Generator[Any, Any, Any]:
        number = 0
        answer: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731
        while True:
            try:
                waiting = answer()
            except StopIteration as done:
                return done.value
            number += 1
            self._waits(number)
            try:
                value = yield waiting
            except BaseException as e:  # noqa: BLE001 - it is thrown on
                answer = partial(self._work.throw, e)
            else:
                answer = partial(self._work.send, value)


class StruckAdapter:
    """Another adapter, struck.

    Args:
        adapter: The other.
        strike: What is struck.
    """

    def __init__(self, adapter: Adapter, strike: Strike) -> None:
        self._adapter = adapter
        self._strike = strike

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    @property
    def name(self) -> str:
        """The name of the other."""
        return self._adapter.name

    @property
    def capabilities(self) -> frozenset[str]:
        """Those of the other."""
        return self._adapter.capabilities

    def check(self, options: SessionOptions) -> None:
        """As the other."""
        self._adapter.check(options)

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        """As the other, struck or not."""
        opened = await self._strike.through("open", self._adapter.open, session_id, options, host)
        return cast("Backend", _StruckBackend(opened, self._strike))

    async def probe(self, session_id: str, host: Host) -> BackendEnd | None:
        """As the other, struck or not."""
        return await self._strike.through("probe", self._adapter.probe, session_id, host)

    async def connect(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        """As the other, struck or not."""
        found = await self._strike.through("connect", self._adapter.connect, session_id, options, host)
        return cast("Backend", _StruckBackend(found, self._strike))

    async def aclose(self) -> None:
        """As the other."""
        await self._adapter.aclose()


class _StruckBackend:
    """A backend of the other; what it has beyond the port is passed on."""

    def __init__(self, backend: Backend, strike: Strike) -> None:
        self._backend = backend
        self._strike = strike

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name != self._strike.method:
            return found
        return lambda *args: self._strike.through(name, found, *args)
