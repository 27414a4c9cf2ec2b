"""What a forked child must not keep of this process: the ends of browsers' pipes and the locks of profile folders.

Rule: a child that keeps the pipe keeps the browser alive after its owner died, and one that keeps a lock keeps dead
folders from being swept. So such descriptors are registered here while this process holds them, and closed by number
in the child before any of its code runs. Programs that are started never get them: all are close-on-exec.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final

__all__ = ["drop", "in_child", "keep"]

_kept: Final[set[int]] = set()
_callbacks: Final[list[Callable[[], None]]] = []


def keep(*fds: int) -> None:
    """Register descriptors that a child must close."""
    _kept.update(fds)


def drop(*fds: int) -> None:
    """Forget descriptors that were closed or handed over."""
    _kept.difference_update(fds)


def in_child(callback: Callable[[], None]) -> None:
    """Call `callback` in every child, once what is kept has been closed there."""
    _callbacks.append(callback)


def _after_fork() -> None:
    for fd in _kept:
        with contextlib.suppress(OSError):  # closed in the parent in the moment of the fork
            os.close(fd)
    _kept.clear()
    for callback in _callbacks:
        callback()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
