"""The handles of a session: `Session` for threads, `AsyncSession` for tasks.

Rule: no logic. A handle posts to the supervisor and waits; what it waits for is the same in both. The one thing a
handle owns is the Playwright page, which lives in the caller's own thread or loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lifecycle.actions import Action, ActionResult, Observation, Scrape, parse_action, parse_observe, parse_scrape
from lifecycle.attachment import Attachment, SessionStatus
from lifecycle.config import check_line, check_minutes
from lifecycle.errors import (
    CookieRejected,
    GuardRejected,
    InvalidTransition,
    LifecycleError,
    OperationFailed,
    StartFailed,
    UnsupportedOperation,
    UsageError,
)
from lifecycle.hooks import HookFunction, make_hooks, refuse_in_hook
from lifecycle.page import AsyncPageSlot, PageSlot
from lifecycle.states import Event, State
from lifecycle.steps import show_in_browser

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from playwright import async_api, sync_api

    from lifecycle.audit import Record
    from lifecycle.callers import Caller
    from lifecycle.client import AsyncClient, Client
    from lifecycle.cookies import Cookie, CookieDict
    from lifecycle.core import ClientCore
    from lifecycle.hooks import Hook
    from lifecycle.ports import Backend

__all__ = ["AsyncSession", "Session"]

F = TypeVar("F", bound=HookFunction)


class Exit:
    """``__exit__`` as a descriptor that outlives an interrupt at its own first line.

    A ``with`` statement looks ``__exit__`` up before it calls ``__enter__``, and holds what it finds until the block
    is left. What it finds here is an object of its own; when that is dropped without the block having been left as it
    should be (an exception struck between ``__enter__`` and the body, or in the first instruction of ``__exit__``),
    its finalizer does what is left to do on the supervisor.

    Args:
        leave: Takes the handle, what to pass to `left` once the end is on its way, and the arguments of ``__exit__``.
        rescue: Takes the handle and gives what the finalizer calls, None when the block has nothing to end.
    """

    def __init__(self, leave: Callable[..., Any], rescue: Callable[[Any], Callable[[], None] | None]) -> None:
        self._leave = leave
        self._rescue = rescue

    def __get__(self, handle: object, owner: type | None = None) -> Callable[..., Any]:
        """What a ``with`` statement holds while it runs."""
        if handle is None:  # as an ExitStack looks it up, which calls it with the handle first
            return lambda handle, *error: self._leave(handle, Finalizers(), *error)
        finalizers = Finalizers()
        leave = functools.partial(self._leave, handle, finalizers)
        rescue = self._rescue(handle)
        if rescue is not None:
            # An ``async with`` drops what it holds once that is called, before the coroutine has run a line: the
            # coroutine holds the list.
            held = finalizers if inspect.iscoroutinefunction(self._leave) else leave
            finalizers.append(weakref.finalize(held, rescue))
            finalizers[0].atexit = False  # at exit the supervisor ends what is active
        return leave


class Finalizers(list["weakref.finalize[..., Any]"]):
    """What ends a block that was not left as it should be; unlike a plain list, its own end can be seen."""


def left(finalizers: Finalizers) -> None:
    """The block was left as it should be. A finalizer that still ran would swallow a Ctrl-C that strikes in it."""
    for finalizer in finalizers:
        finalizer.detach()


def _rescue(session: Handle) -> Callable[[], None] | None:
    core, att = session._core, session._att  # noqa: SLF001 - a part of the handle
    if att.state is not State.NOT_STARTED:
        return None  # __enter__ refuses, and the session is not this block's to end

    def end() -> None:
        if not att.state.terminal and core.supervisor.thread.alive:
            core.supervisor.thread.post(core.left_block, att)

    return end


class Handle:
    """What both handles share: plain reads, and the work they ask the supervisor for."""

    def __init__(self, core: ClientCore, att: Attachment) -> None:
        self._core = core
        self._att = att
        self._hooks: list[Hook] = []

    @property
    def session_id(self) -> str:
        """The session's id.

        Raises:
            UsageError: The service gives it at the start, and the session was not started.
        """
        if self._att.session_id is None:
            msg = "the service gives the session its id when it starts; start it first"
            raise UsageError(msg)
        return self._att.session_id

    @property
    def made(self) -> bool | None:
        """True when its start opened the session, False when it found it; None while that is not settled.

        With an `idempotency_key` the start tells; with a session id it is False.
        """
        return self._att.made

    def ref(self) -> dict[str, str]:
        """What another process attaches by, with ``client.Session(ref)``: plain JSON, without secrets.

        Raises:
            UsageError: The service gives the session its id at the start, and it was not started.
        """
        return self._core.ref(self.session_id)

    @property
    def attachment_id(self) -> str:
        """The id of this attachment to the session."""
        return self._att.attachment_id

    @property
    def state(self) -> State:
        """The committed state, read without I/O. It compares equal to its name, such as ``"active"``."""
        return self._att.state

    @property
    def viewer_url(self) -> str | None:
        """The page of the session's live view, None while there is none. Read without I/O.

        It is a secret: whoever has it sees all that the session shows, and drives it where `viewer_input` is set.
        """
        return self._att.viewer_url

    def hook(
        self,
        *,
        before: str | Iterable[str] | None = None,
        after: str | Iterable[str] | None = None,
        on_error: str = "raise",
        needs_page: bool = False,
        budget: float = 10.0,
    ) -> Callable[[F], F]:
        """Register a hook on edges of this session; see `Client.hook`."""

        def register(func: F) -> F:
            self._hooks += make_hooks(
                func, before=before, after=after, on_error=on_error, needs_page=needs_page, budget=budget,
                allow_async=isinstance(self, AsyncSession),
            )  # fmt: skip
            return func

        return register

    def _check_hook(self, name: str) -> None:
        refuse_in_hook(f"{name}()", self._att.attachment_id)

    async def _do_start(self, caller: Caller) -> None:
        await self._core.start(self._att, caller)

    async def _do_stop(self, caller: Caller) -> None:
        await self._core.end(self._att, caller)

    async def _do_undo(self, caller: Caller) -> None:
        """A start was struck whose session is active already: a guest that would leave it running does."""
        leaves = self._att.guest and self._att.options.on_exit == "detach" and self._att.state is State.ACTIVE
        await self._core.end(self._att, caller, Event.DETACH if leaves else Event.STOP)

    async def _do_detach(self, caller: Caller) -> None:
        await self._core.end(self._att, caller, Event.DETACH)

    async def _do_leave(self, caller: Caller) -> None:
        """The end of a with block: what `on_exit` says, or nothing but telling when the session is over already."""
        await self._core.leave(self._att, caller)

    async def _do_touch(self, caller: Caller) -> None:
        await self._core.touch(self._att, caller)

    async def _do_status(self, _: Caller) -> SessionStatus:
        return await self._core.status(self._att)

    async def _do_history(self, _: Caller) -> list[Record]:
        return list(await self._core.history(self._att))

    async def _do_wait_ended(self, caller: Caller) -> SessionStatus:
        return await self._core.wait_ended(self._att, caller)

    async def _do_cdp_url(self, caller: Caller) -> str:
        async def work(backend: Backend) -> str:
            return await backend.cdp_url()

        return await self._core.operate(self._att, caller, work)

    async def _do_viewer(self, caller: Caller) -> str:
        await self._core.touch(self._att, caller)
        url = self._core.viewer(self._att)
        if url is None:
            raise UnsupportedOperation(
                operation="a live view",
                adapter=self._att.adapter.name,
                way_out='use Client(adapter="local") for a session with a browser and pages',
            )
        return url

    async def _do_get_cookies(self, caller: Caller) -> list[CookieDict]:
        from lifecycle.cookies import to_playwright  # noqa: PLC0415 - only who uses cookies pays for them

        async def work(backend: Backend) -> Sequence[Cookie]:
            return await backend.get_cookies()

        return [to_playwright(c) for c in await self._core.operate(self._att, caller, work)]

    def _do_set_cookies(
        self, cookies: Iterable[Mapping[str, object] | Cookie] | None, cookie_file: str | os.PathLike[str] | None
    ) -> Callable[[Caller], Awaitable[None]]:
        from lifecycle.cookies import parse_cookies  # noqa: PLC0415 - only who uses cookies pays for them

        if (cookies is None) == (cookie_file is None):
            msg = "set_cookies takes cookies=[...] or cookie_file=, one of them"
            raise UsageError(msg)

        async def work(caller: Caller) -> None:
            if cookie_file is not None:
                good, bad = await self._core.read_cookie_file(cookie_file)
            else:
                good, bad = parse_cookies(cookies or ())

            async def send(backend: Backend) -> Sequence[tuple[Cookie, str]]:
                return await backend.set_cookies(good)

            refused = await self._core.operate(self._att, caller, send)
            bad = [*bad, *((c.name, reason) for c, reason in refused)]
            if bad:
                raise CookieRejected(names=[n for n, _ in bad], reasons=[r for _, r in bad])

        return work

    def _do_execute(
        self, action: Mapping[str, object] | Action | None, fields: Mapping[str, object], *, raise_on_failure: bool
    ) -> Callable[[Caller], Awaitable[ActionResult]]:
        checked = parse_action(action, fields)

        async def work(caller: Caller) -> ActionResult:
            result = await self._core.execute(self._att, caller, checked)
            if raise_on_failure and not result.success:
                raise OperationFailed(action=checked.type, reason=result.error or result.message)
            return result

        return work

    def _do_observe(self, options: Mapping[str, object]) -> Callable[[Caller], Awaitable[Observation]]:
        request = parse_observe(options)

        async def work(caller: Caller) -> Observation:
            return await self._core.observe(self._att, caller, request)

        return work

    def _do_scrape(self, options: Mapping[str, object]) -> Callable[[Caller], Awaitable[Scrape]]:
        request = parse_scrape(options)

        async def work(caller: Caller) -> Scrape:
            return await self._core.scrape(self._att, caller, request)

        return work

    def _do_extend(self, minutes: float) -> Callable[[Caller], Awaitable[SessionStatus]]:
        checked = check_minutes("minutes", minutes)

        async def work(caller: Caller) -> SessionStatus:
            await self._core.extend(self._att, caller, checked)
            return await self._core.status(self._att)

        return work

    def _do_hold(self, reason: str, minutes: float) -> Callable[[Caller], Awaitable[SessionStatus]]:
        why, checked = check_line("reason", reason), check_minutes("minutes", minutes)

        async def work(caller: Caller) -> SessionStatus:
            await self._core.hold(self._att, caller, why, checked)
            return await self._core.status(self._att)

        return work

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._att.session_id} {self._att.state}>"


def _refused(error: BaseException, caller: Caller) -> bool:
    """True when a start changed nothing, so that there is nothing of its own to undo."""
    return isinstance(error, (InvalidTransition, GuardRejected)) or (
        isinstance(error, UsageError) and not caller.posted
    )


@contextlib.contextmanager
def _prefetching(att: Attachment) -> Iterator[None]:
    """Tell of a driver that does not start as of any part of the start that fails."""
    try:
        yield
    except LifecycleError:
        raise
    except Exception as e:
        msg = f"Playwright's driver did not start, which prefetch_page=True asks for: {type(e).__name__}: {e}"
        raise StartFailed(msg, step="prefetch_page", adapter=att.adapter.name) from e


def _leave(
    session: Session,
    finalizers: Finalizers,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    del kind, trace
    try:
        session._end(session._do_leave, None)  # noqa: SLF001 - this is the handle's own method
    except Exception as trouble:
        left(finalizers)
        if error is None:
            raise
        error.add_note(f"while the session was torn down: {type(trouble).__name__}: {trouble}")
    else:
        left(finalizers)


class Session(Handle):
    """A browser session, for use from threads. Made by `Client.Session`."""

    def __init__(self, client: Client, core: ClientCore, att: Attachment) -> None:
        super().__init__(core, att)
        self._client = client
        self._slot: PageSlot | None = None

    def _call(self, work: Callable[[Caller], Any], timeout: float | None = None) -> Any:  # noqa: ANN401
        return self._core.supervisor.call(work, timeout=timeout)

    def start(self) -> Self:
        """Start the session, or attach to it when it was made with an id; returns it active.

        Interrupted at any moment, what was opened is released and the interruption raised.

        Raises:
            CookieFileError: The cookie file can't be read; no browser was started.
            StartFailed: No browser came up, or it could not be connected to.
            SessionEnded: The session to attach to is over.
            InvalidTransition, GuardRejected: It was started already.
        """
        self._check_hook("start")
        caller = self._core.supervisor.begin(self._do_start)
        try:
            caller.post()
            self._client._keep(self)  # noqa: SLF001 - the client keeps active sessions alive
            if self._att.options.prefetch_page:
                self._slot = self._slot or self._new_slot()
                with _prefetching(self._att):
                    self._slot.prefetch()
            caller.wait()
            return self
        except BaseException as error:
            caller.leave(error)
            if not _refused(error, caller):
                self._undo_start(error)
            raise

    def _undo_start(self, error: BaseException) -> None:
        try:
            if not self._att.state.terminal:
                self._core.supervisor.begin(self._do_undo).wait_through()
        except Exception as trouble:  # noqa: BLE001 - a foreign adapter may raise anything; what struck wins
            error.add_note(f"while the session was torn down: {type(trouble).__name__}: {trouble}")
        finally:
            self._close_slot()

    def stop(self, timeout: float | None = None) -> None:
        """Stop the session: save cookies, close connections, release the browser. Idempotent, from any thread.

        Args:
            timeout: Seconds to wait at most; the teardown goes on past it.

        Raises:
            TimeoutError: The teardown takes longer than `timeout`.
            ReleaseFailed, CookieSaveError, HookError, AuditError: The session is over, but this went wrong.
        """
        self._check_hook("stop")
        self._end(self._do_stop, timeout)

    def detach(self) -> None:
        """Leave the session running, and end only this attachment.

        Raises:
            UnsupportedOperation: This attachment owns the session, which ends with it.
        """
        self._check_hook("detach")
        self._end(self._do_detach, None)

    def _end(self, work: Callable[[Caller], Any], timeout: float | None) -> None:
        try:
            if timeout is None:
                self._core.supervisor.begin(work).wait_through()
            else:
                self._call(work, timeout)
        finally:
            if self._att.state.terminal:
                self._close_slot()

    def _close_slot(self) -> None:
        if self._slot is not None and self._slot.close():
            self._slot = None

    def _new_slot(self) -> PageSlot:
        att = self._att
        return PageSlot(self._core.supervisor.thread, self, lambda: att.state.terminal)

    def __enter__(self) -> Self:
        return self.start()

    if TYPE_CHECKING:

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
            /,
        ) -> None:
            """Stop or detach, as `on_exit` says; an exception of the body arrives unchanged."""

    else:
        __exit__ = Exit(_leave, _rescue)

    @property
    def page(self) -> sync_api.Page:
        """The Playwright page of the session's default context, connected when it is first asked for.

        Raises:
            SessionEnded: The session is over.
            UsageError: Used in another thread than before, or inside a running event loop.
            UnsupportedOperation: The adapter has no browser.
        """
        if self._att.state is not State.ACTIVE or self._slot is None:
            self._call(self._do_touch)
        if self._slot is None:
            self._slot = self._new_slot()
        return self._slot.page(self.cdp_url)

    def cdp_url(self) -> str:
        """A WebSocket URL that speaks CDP, for Playwright, Puppeteer or any other client. It is a secret."""
        url: str = self._call(self._do_cdp_url)
        return url

    def status(self) -> SessionStatus:
        """Everything that is known about the session now."""
        status: SessionStatus = self._call(self._do_status)
        return status

    def history(self) -> list[Record]:
        """The transition log of the session, oldest first, of all its attachments."""
        records: list[Record] = self._call(self._do_history)
        return records

    def get_cookies(self) -> list[CookieDict]:
        """The cookies of the default context, in the shape of Playwright's ``BrowserContext.add_cookies``."""
        cookies: list[CookieDict] = self._call(self._do_get_cookies)
        return cookies

    def set_cookies(
        self,
        *,
        cookies: Iterable[Mapping[str, object] | Cookie] | None = None,
        cookie_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Set cookies of the default context, from a list in any known dialect or from a file.

        Raises:
            CookieRejected: Some were refused, by name; all others were set.
            CookieFileError: The file can't be read.
        """
        self._call(self._do_set_cookies(cookies, cookie_file))

    def execute(
        self,
        action: Mapping[str, object] | Action | None = None,
        *,
        raise_on_failure: bool = True,
        **fields: object,
    ) -> ActionResult:
        """Do one action on the current tab, such as ``execute(type="goto", url="https://example.com")``.

        Types: goto, goto_new_tab (`url`), close_tab, switch_tab (`tab_index`), go_back, go_forward, reload, wait
        (`time_ms`), press_key (`key`), scroll_up, scroll_down (`amount` in pixels, `selector`), click, fill (`value`,
        `clear_before_fill`), check (`value`), select_dropdown_option (`value`), upload_file (`file_path`),
        download_file, evaluate_js (`code`), form_fill (`value`: a mapping such as ``{"email": ...}``), scrape. Those
        that act on one element take `selector`, in Playwright's syntax, or `id`, as `observe` gave it; and
        `press_enter` and `timeout` in milliseconds (15,000 by default).

        It acts on the tab that ``switch_tab`` or ``goto_new_tab`` chose last, else on the first. Downloads lie in a
        folder that is removed when the session ends: move what is to be kept.

        Args:
            action: The action as a mapping, instead of keyword fields or together with them.
            raise_on_failure: True to raise when the action could not be done; False to look at the result's `success`.
            **fields: `type`, and the fields of the action.

        Raises:
            ConfigError: The action is unknown or a field is not allowed; names it.
            OperationFailed: The action could not be done. The session goes on.
            UnsupportedOperation: It needs a language model or an inbox, which only a service has.
            SessionEnded: The session is over.
        """
        result: ActionResult = self._call(self._do_execute(action, fields, raise_on_failure=raise_on_failure))
        return result

    def observe(self, /, **options: object) -> Observation:
        """Look at the current tab: its address and title, its elements with ids for `execute`, and a screenshot.

        Args:
            **options: `max_nb_actions`: at most so many elements (100). `min_nb_actions`. For services with a language
                model: `instructions`, `perception_type`.

        Raises:
            ConfigError: An option is not allowed.
            OperationFailed: The page could not be looked at. The session goes on.
        """
        found: Observation = self._call(self._do_observe(options))
        return found

    def scrape(self, /, **options: object) -> Scrape:
        """The content of the current tab as Markdown. Needs the extra ``scrape`` on a local browser.

        Args:
            **options: `selector`: only what is inside that element. `only_main_content`: without navigation, headers,
                footers and asides. `scrape_links` (True), `scrape_images` (False), `ignored_tags`: a list of HTML tags
                to leave out. For services with a language model: `instructions`, `response_format`, `model`.

        Raises:
            ConfigError: An option is not allowed.
            OperationFailed: The page could not be read. The session goes on.
            UnsupportedOperation: The extra is not installed.
        """
        found: Scrape = self._call(self._do_scrape(options))
        return found

    def viewer(self) -> bool:
        """Show the live view in your own browser; False where there is nothing to show it in.

        Raises:
            SessionEnded: The session is over.
            UnsupportedOperation: The adapter has no live view.
        """
        return show_in_browser(self._call(self._do_viewer))

    def extend(self, *, minutes: float) -> SessionStatus:
        """Move the maximum duration by `minutes`; recorded before it is acknowledged."""
        status: SessionStatus = self._call(self._do_extend(minutes))
        return status

    def hold(self, reason: str, minutes: float) -> SessionStatus:
        """Keep the session open for `minutes` from now, used or not, while a person looks at it.

        It holds the idle deadline alone, not the maximum duration. A later hold replaces an earlier one, a shorter
        one too. Recorded, with the reason, before it is acknowledged.

        Args:
            reason: What for, in one line; it goes into the log.
            minutes: How long; fractions are fine.

        Raises:
            ConfigError: The maximum duration ends before; `extend` moves that.
            SessionEnded: The session is over.
            StoreError: It could not be recorded, so it does not hold.
            UnsupportedOperation: A service keeps the session's time.
        """
        status: SessionStatus = self._call(self._do_hold(reason, minutes))
        return status

    def wait_ended(self, timeout: float | None = None) -> SessionStatus:
        """Wait until the session is over, for at most `timeout` seconds.

        Raises:
            TimeoutError: It is not over yet.
        """
        status: SessionStatus = self._call(self._do_wait_ended, timeout)
        return status


async def _aleave(
    session: AsyncSession,
    finalizers: Finalizers,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    del trace
    if kind is GeneratorExit:
        session._leave_to_supervisor()  # noqa: SLF001 - this is the handle's own method
        return
    try:
        await session._end(session._do_leave, None)  # noqa: SLF001 - this is the handle's own method
    except Exception as trouble:
        left(finalizers)
        if error is None:
            raise
        error.add_note(f"while the session was torn down: {type(trouble).__name__}: {trouble}")
    else:
        left(finalizers)


class AsyncSession(Handle):
    """A browser session, for use from tasks. Made by `AsyncClient.Session`; the methods are those of `Session`."""

    def __init__(self, client: AsyncClient, core: ClientCore, att: Attachment) -> None:
        super().__init__(core, att)
        self._client = client
        self._slot: AsyncPageSlot | None = None

    async def _call(self, work: Callable[[Caller], Any], timeout: float | None = None) -> Any:  # noqa: ANN401, ASYNC109
        return await self._core.supervisor.acall(work, timeout=timeout)

    async def start(self) -> Self:
        """Start or attach; see `Session.start`. Cancelled in any tick, what was opened is released."""
        self._check_hook("start")
        caller = self._core.supervisor.abegin(self._do_start)
        try:
            caller.post()
            self._client._keep(self)  # noqa: SLF001 - the client keeps active sessions alive
            if self._att.options.prefetch_page:
                self._slot = self._slot or AsyncPageSlot(self)
                with _prefetching(self._att):
                    await self._slot.prefetch()
            await caller.wait()
            return self
        except GeneratorExit as error:
            caller.leave(error)
            self._leave_to_supervisor()
            raise
        except BaseException as error:
            caller.leave(error)
            if not _refused(error, caller):
                await self._undo_start(error)
            raise

    def _leave_to_supervisor(self) -> None:
        """Nobody will run this coroutine again (its loop has ended), so nothing in it can be awaited any more."""
        if self._core.supervisor.thread.alive:
            self._core.supervisor.thread.post(self._core.left_block, self._att)

    async def _undo_start(self, error: BaseException) -> None:
        try:
            if not self._att.state.terminal:
                await self._core.supervisor.abegin(self._do_undo).wait_through()
        except Exception as trouble:  # noqa: BLE001 - a foreign adapter may raise anything; what struck wins
            error.add_note(f"while the session was torn down: {type(trouble).__name__}: {trouble}")
        finally:
            await self._close_slot()

    async def stop(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - bounds the wait, not the work
        """Stop the session; see `Session.stop`."""
        self._check_hook("stop")
        await self._end(self._do_stop, timeout)

    async def detach(self) -> None:
        """Leave the session running; see `Session.detach`."""
        self._check_hook("detach")
        await self._end(self._do_detach, None)

    async def _end(self, work: Callable[[Caller], Any], timeout: float | None) -> None:  # noqa: ASYNC109
        try:
            if timeout is None:
                await self._core.supervisor.abegin(work).wait_through()
            else:
                await self._call(work, timeout)
        except GeneratorExit:
            raise
        except BaseException:
            await self._close_slot_if_over()
            raise
        else:
            await self._close_slot_if_over()

    async def _close_slot_if_over(self) -> None:
        if self._att.state.terminal:
            await self._close_slot()

    async def _close_slot(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            await slot.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    if TYPE_CHECKING:

        async def __aexit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
            /,
        ) -> None:
            """Stop or detach, as `on_exit` says; an exception of the body arrives unchanged."""

    else:
        __aexit__ = Exit(_aleave, _rescue)

    async def page(self) -> async_api.Page:
        """The Playwright page of the default context; see `Session.page`."""
        if self._att.state is not State.ACTIVE or self._slot is None:
            await self._call(self._do_touch)
        if self._slot is None:
            self._slot = AsyncPageSlot(self)
        return await self._slot.page(self.cdp_url)

    async def cdp_url(self) -> str:
        """A WebSocket URL that speaks CDP; see `Session.cdp_url`."""
        url: str = await self._call(self._do_cdp_url)
        return url

    async def status(self) -> SessionStatus:
        """Everything that is known about the session now."""
        status: SessionStatus = await self._call(self._do_status)
        return status

    async def history(self) -> list[Record]:
        """The transition log of the session, oldest first, of all its attachments."""
        records: list[Record] = await self._call(self._do_history)
        return records

    async def get_cookies(self) -> list[CookieDict]:
        """The cookies of the default context; see `Session.get_cookies`."""
        cookies: list[CookieDict] = await self._call(self._do_get_cookies)
        return cookies

    async def set_cookies(
        self,
        *,
        cookies: Iterable[Mapping[str, object] | Cookie] | None = None,
        cookie_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Set cookies of the default context; see `Session.set_cookies`."""
        await self._call(self._do_set_cookies(cookies, cookie_file))

    async def execute(
        self,
        action: Mapping[str, object] | Action | None = None,
        *,
        raise_on_failure: bool = True,
        **fields: object,
    ) -> ActionResult:
        """Do one action on the current tab; see `Session.execute`."""
        result: ActionResult = await self._call(self._do_execute(action, fields, raise_on_failure=raise_on_failure))
        return result

    async def observe(self, /, **options: object) -> Observation:
        """Look at the current tab; see `Session.observe`."""
        found: Observation = await self._call(self._do_observe(options))
        return found

    async def scrape(self, /, **options: object) -> Scrape:
        """The content of the current tab as Markdown; see `Session.scrape`."""
        found: Scrape = await self._call(self._do_scrape(options))
        return found

    async def viewer(self) -> bool:
        """Show the live view in your own browser; see `Session.viewer`."""
        return await asyncio.to_thread(show_in_browser, await self._call(self._do_viewer))

    async def extend(self, *, minutes: float) -> SessionStatus:
        """Move the maximum duration by `minutes`; recorded before it is acknowledged."""
        status: SessionStatus = await self._call(self._do_extend(minutes))
        return status

    async def hold(self, reason: str, minutes: float) -> SessionStatus:
        """Keep the session open without use; see `Session.hold`."""
        status: SessionStatus = await self._call(self._do_hold(reason, minutes))
        return status

    async def wait_ended(self, timeout: float | None = None) -> SessionStatus:  # noqa: ASYNC109
        """Wait until the session is over; see `Session.wait_ended`."""
        status: SessionStatus = await self._call(self._do_wait_ended, timeout)
        return status
