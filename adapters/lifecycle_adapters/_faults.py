"""What goes wrong in a memory session, and when: the script of `lifecycle_adapters.memory.MemoryAdapter`.

Rule: a fault strikes once, and what could never strike is refused when it is written down.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from lifecycle.config import nearest
from lifecycle.errors import ConfigError
from lifecycle.states import Event, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["GOODBYES", "KINDS", "STEPS", "Fault", "Script"]

Kind = Literal["fail", "hang", "crash"]

KINDS: Final = ("fail", "hang", "crash")

STEPS: Final = (
    Step.OPEN_BACKEND,
    Step.PROBE_BACKEND,
    Step.CONNECT_BACKEND,
    Step.LOAD_COOKIES,
    Step.SAVE_COOKIES,
    Step.CLOSE_CONNECTIONS,
    Step.RELEASE_BACKEND,
    Event.OPERATE,
)
"""Where a fault can strike: each step that touches a backend, and ``operate``, a use of the browser."""

GOODBYES: Final = frozenset({Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND})
"""The two last steps of a teardown: they have nothing left to do, and so succeed, once the browser is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong, once.

    Attributes:
        step: Where: ``open_backend``, ``probe_backend``, ``connect_backend``, ``load_cookies`` (any setting of
            cookies), ``save_cookies`` (any reading of them), ``close_connections``, ``release_backend``, or
            ``operate`` (`MemoryAdapter.use`, and each operation on a page).
        kind: How. ``fail``: it raises. ``hang``: it waits until it is cancelled or `MemoryAdapter.release_hangs` is
            called. ``crash``: the browser is gone and its end is reported, then it raises ConnectionLost. The two last
            steps of a teardown succeed on a browser that is gone; in all others a hang ends with ConnectionLost.
        nth: The time it strikes, counted from 1 for each step over all sessions of the adapter.
        error: What is raised by ``fail`` and ``crash`` instead of the error a real backend would raise.

    Raises:
        ConfigError: There is no such step, kind or time.
    """

    step: str
    kind: Kind
    nth: int = 1
    error: BaseException | None = None

    def __post_init__(self) -> None:
        for option, value, known in (("step", self.step, STEPS), ("kind", self.kind, KINDS)):
            if value not in known:
                raise ConfigError(option=option, value=value, allowed=nearest(str(value), map(str, known)))
        if isinstance(self.nth, bool) or not isinstance(self.nth, int) or self.nth < 1:
            raise ConfigError(option="nth", value=self.nth, allowed="a whole number from 1")
        if self.error is not None and not isinstance(self.error, BaseException):
            raise ConfigError(option="error", value=self.error, allowed="an exception object")


class Script:
    """Faults by the time at which they strike."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults: dict[tuple[str, int], Fault] = {}
        for fault in faults:
            if not isinstance(fault, Fault):
                raise ConfigError(option="faults", value=fault, allowed="Fault(step=..., kind=..., nth=...)")
            if (fault.step, fault.nth) in self._faults:
                allowed = f"one fault for time {fault.nth} of {fault.step}"
                raise ConfigError(option="faults", value=fault, allowed=allowed)
            self._faults[fault.step, fault.nth] = fault
        self._counts = {str(step): itertools.count(1) for step in STEPS}

    def next(self, step: str) -> Fault | None:
        """Count one more time at `step`; the fault that strikes now. Any thread."""
        return self._faults.pop((step, next(self._counts[step])), None)

    def left(self) -> list[Fault]:
        """The faults that have not struck yet."""
        return list(self._faults.values())
