"""Strikes a caller at a chosen point of the library's own code, as Ctrl-C does at a point that nobody chose.

Rule: a `Strike` counts the points that its own thread passes in files of the library, and raises at the one it was
made for. It raises once, and never again in that run.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import lifecycle

HOME = str(Path(lifecycle.__file__).parent)


class Strike:
    """Raises `error` at the `nth` point of the library's code that this thread reaches inside the ``with``.

    Args:
        nth: Which point, counted from 1; 0 only counts.
        error: What is raised there.
        opcodes: Points are bytecode instructions; else they are the entries, lines and returns of functions.

    Attributes:
        passed: Points that were reached.
        where: The point at which it raised, None while it has not.
    """

    def __init__(self, nth: int, error: BaseException, *, opcodes: bool = False) -> None:
        self.nth = nth
        self.error = error
        self.passed = 0
        self.where: str | None = None
        self._opcodes = opcodes
        self._before: Any = None
        self._ours: dict[str, bool] = {}

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        file = frame.f_code.co_filename
        ours = self._ours.get(file)
        if ours is None:
            ours = self._ours[file] = file.startswith(HOME)
        if not ours or event == "exception":
            return self._trace if ours else None
        if self._opcodes:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event != "opcode":
                return self._trace
        self.passed += 1
        if self.passed == self.nth:
            self.where = f"{Path(file).name}:{frame.f_lineno} ({event} in {frame.f_code.co_qualname})"
            raise self.error
        return self._trace

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


class Swallowed:
    """Collects what Python could only print: errors of finalizers, of threads and of the supervisor's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.errors: list[str] = []
        self._loop = loop

    def __enter__(self) -> Self:
        if self._loop is not None:
            self._handler = self._loop.get_exception_handler()
            self._loop.set_exception_handler(self._of_loop)
        self._before = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = lambda u: self._add(f"in {u.object!r}", u.exc_value, u.exc_traceback)
        threading.excepthook = lambda u: self._add(f"in thread {u.thread}", u.exc_value, u.exc_traceback)
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook, threading.excepthook = self._before
        if self._loop is not None:
            self._loop.set_exception_handler(self._handler)

    def _of_loop(self, _: object, context: dict[str, Any]) -> None:
        self._add(context.get("message", ""), context.get("exception"), None)

    def _add(self, what: str, error: BaseException | None, trace: TracebackType | None) -> None:
        lines = []
        while trace is not None:
            lines.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
            trace = trace.tb_next
        self.errors.append(f"{what}: {error!r} at {' > '.join(lines)}")
