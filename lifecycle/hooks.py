"""The user's own hooks on the edges of the table.

Rule: a hook that can't be called is refused when it is registered, and no hook aborts a teardown. On an edge that a
caller takes, hooks run in that caller's thread or loop, so they may use its page; with no caller they run on a worker.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from lifecycle.config import nearest
from lifecycle.errors import ConfigError, UsageError
from lifecycle.states import CloseReason, Event, State

__all__ = ["Hook", "Transition", "inside_hook_of", "make_hooks", "refuse_in_hook"]

When = Literal["before", "after"]
OnError = Literal["raise", "log"]
HookFunction = Callable[..., object | Awaitable[object]]

DEFAULT_BUDGET: Final = 10.0
"""Seconds a hook may take before the edge goes on without it."""

EDGE_EVENTS: Final = tuple(e for e in Event if e is not Event.OPERATE)
_OPENING: Final = (Event.START, Event.ATTACH)


class _Mark:
    """A hook that runs. Contexts are copied (by tasks that a hook starts, say) and so outlive it: the mark says so."""

    __slots__ = ("attachment_id", "runs")

    def __init__(self, attachment_id: str) -> None:
        self.attachment_id = attachment_id
        self.runs = False

    def begin(self) -> None:
        """The hook runs from now on, in this context."""
        _running.set((*(m for m in _running.get() if m.runs), self))
        self.runs = True


_running: contextvars.ContextVar[tuple[_Mark, ...]] = contextvars.ContextVar("lifecycle_hooks_running", default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What a hook is told about the edge it runs on.

    Attributes:
        event: The event that takes the edge.
        source: The state it leaves.
        dest: The state it leads to.
        cause: Who sent the event: caller, deadline, backend, step, hook, signal, exit, abandoned, owner,
            cancelled, worker shutdown.
        close_reason: For endings, why.
        error: What went wrong, for `fail`.
    """

    event: Event
    source: State
    dest: State
    cause: str
    close_reason: CloseReason | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One registered hook on one event."""

    func: HookFunction
    event: Event
    when: When
    on_error: OnError
    needs_page: bool
    budget: float
    name: str
    arity: int
    is_async: bool

    def call(self, attachment_id: str, session: object, transition: Transition) -> object:
        """Call it, or begin it when it is a coroutine function, in a context that knows it is a hook."""
        mark = _Mark(attachment_id)
        try:
            try:
                mark.begin()
                return self.func(*(session, transition)[: self.arity])
            finally:
                mark.runs = False
        finally:
            mark.runs = False  # again: a Ctrl-C may strike on the threshold of the first

    async def call_async(self, attachment_id: str, session: object, transition: Transition) -> None:
        """Call it and await what it returns."""
        mark = _Mark(attachment_id)
        try:
            try:
                mark.begin()
                result = self.func(*(session, transition)[: self.arity])
                if inspect.isawaitable(result):
                    await result
            finally:
                mark.runs = False
        finally:
            mark.runs = False  # again: as in `call`


def inside_hook_of(attachment_id: str, context: contextvars.Context | None = None) -> bool:
    """True in a hook of this attachment, where an edge of its own would wait for itself.

    Args:
        attachment_id: The attachment.
        context: Where to look; by default here.
    """
    marks = _running.get() if context is None else context.get(_running, ())
    return any(mark.runs and mark.attachment_id == attachment_id for mark in marks)


def refuse_in_hook(what: str, attachment_id: str, context: contextvars.Context | None = None) -> None:
    """Raise UsageError in a hook of this attachment."""
    if inside_hook_of(attachment_id, context):
        msg = f"{what} in a hook of the same session would wait for the edge that waits for the hook"
        raise UsageError(msg)


def make_hooks(
    func: HookFunction,
    *,
    before: str | Iterable[str] | None,
    after: str | Iterable[str] | None,
    on_error: str,
    needs_page: bool,
    budget: float,
    allow_async: bool,
) -> list[Hook]:
    """The hooks that one registration makes, one for each event named.

    Raises:
        ConfigError: An event or option is unknown.
        UsageError: The function can't be called as a hook.
    """
    if not callable(func):
        msg = f"a hook must be a function, not {type(func).__name__}"
        raise UsageError(msg)
    name = getattr(func, "__qualname__", None) or repr(func)
    if on_error not in ("raise", "log"):
        raise ConfigError(option="on_error", value=on_error, allowed=nearest(str(on_error), ("raise", "log")))
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget <= 3600:
        raise ConfigError(option="budget", value=budget, allowed="seconds above 0, at most 3600")
    if not isinstance(needs_page, bool):
        raise ConfigError(option="needs_page", value=needs_page, allowed="True or False")
    arity = _arity(func, name)
    bare: object = func
    while isinstance(bare, functools.partial):
        bare = bare.func
    call = getattr(bare, "__call__", bare)  # noqa: B004 - a callable object
    is_async = inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(call)
    if is_async and not allow_async:
        msg = f"hook {name} is a coroutine function, which a Client can't await; use a plain function or an AsyncClient"
        raise UsageError(msg)
    hooks: list[Hook] = []
    wanted: tuple[tuple[When, str | Iterable[str] | None], ...] = (("before", before), ("after", after))
    for when, events in wanted:
        for event in _events(when, events):
            gone = when == "after" if event not in _OPENING else when == "before"
            if needs_page and gone:
                msg = f"hook {name} needs a page, but there is none {when} {event}; use {_page_time(event)}"
                raise UsageError(msg)
            hooks.append(
                Hook(
                    func=func,
                    event=event,
                    when=when,
                    on_error="raise" if on_error == "raise" else "log",
                    needs_page=needs_page,
                    budget=float(budget),
                    name=name,
                    arity=arity,
                    is_async=is_async,
                )
            )
    if not hooks:
        raise ConfigError(option="before", value=before, allowed=f"before= or after= one of {', '.join(EDGE_EVENTS)}")
    return hooks


def _page_time(event: Event) -> str:
    return f'after="{event}"' if event in _OPENING else f'before="{event}"'


def _events(option: str, events: str | Iterable[str] | None) -> list[Event]:
    if events is None:
        return []
    names: list[Any] = list(events) if isinstance(events, Iterable) and not isinstance(events, str) else [events]
    found: list[Event] = []
    for name in names:
        if name not in EDGE_EVENTS:
            raise ConfigError(option=option, value=name, allowed=nearest(str(name), EDGE_EVENTS))
        found.append(Event(name))
    return found


def _arity(func: HookFunction, name: str) -> int:
    """How many of (session, transition) the function takes: two where it can, else one."""
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        return 1  # a builtin that tells nothing of itself
    for count in (2, 1):
        try:
            signature.bind(*(None,) * count)
        except TypeError:
            continue
        return count
    msg = f"hook {name}{signature} can't be called as a hook; it must take (session) or (session, transition)"
    raise UsageError(msg)
