"""The guard: a process beside this one that ends its browsers at the end of a lease, whatever has become of this one.

Rule: there is one while there is a browser under a lease, and it knows of each; one that has ended is made anew.
Nothing here waits for it, but the release of the last browser.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from lifecycle.logs import get_logger
from lifecycle_adapters.local import forks

__all__ = ["guard"]

_PROGRAM: Final = str(Path(__file__).with_name("guard_process.py"))

_MOST: Final = 1 << 20
"""Bytes that a guard may leave unread; one that leaves more is stuck."""

_END_BUDGET: Final = 5.0
"""Seconds that a guard gets to end once it has nothing to do."""

_log: Final = get_logger(__name__)


class _Guard:
    def __init__(self) -> None:
        self._watched: dict[int, tuple[float, str]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""

    def hold(self, pid: int, started: str, until: float) -> None:
        """End the browser at `until`, as boot seconds, and not before: called again it moves that."""
        self._watched[pid] = (until, started)
        if self._process is None:
            self._begin()
        else:
            self._send(f"{pid} {until} {started}\n".encode())

    def forget(self, pid: int) -> subprocess.Popen[bytes] | None:
        """The browser has ended.

        Returns:
            The guard, where this was the last: it ends, and somebody has to wait for it (`end`).
        """
        if self._watched.pop(pid, None) is None:
            return None
        if self._watched:
            self._send(f"{pid}\n".encode())
            return None
        return self._let_go()

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        """Wait for a guard that has been let go. Blocks."""
        try:
            process.wait(_END_BUDGET)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _begin(self) -> None:
        self._unsent = b""
        python = sys.executable if "python" in Path(sys.executable or "").name else shutil.which("python3")
        if not python:  # in another program that runs Python
            _log.warning("there is no Python to guard browsers with: one whose owner is stopped outlives its lease")
            return
        try:
            self._process = subprocess.Popen(
                [python, "-I", "-S", _PROGRAM],
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # what stops this process in a terminal does not stop it
            )
        except OSError as e:
            _log.warning("browsers can't be guarded: %s", e)
            return
        fd = self._fd()
        forks.keep(fd)
        os.set_blocking(fd, False)
        self._send("".join(f"{pid} {until} {started}\n" for pid, (until, started) in self._watched.items()).encode())

    def _fd(self) -> int:
        assert self._process is not None  # noqa: S101 - asked only while there is one
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        return self._process.stdin.fileno()

    def _send(self, lines: bytes) -> None:
        if self._process is None:
            return
        self._unsent += lines
        try:
            self._unsent = self._unsent[os.write(self._fd(), self._unsent) :]
            lost = False
        except BlockingIOError:  # it goes with what is sent next
            lost = len(self._unsent) > _MOST
        except OSError:
            lost = True
        if lost and (left := self._let_go()) is not None:
            _log.warning("the guard of the browsers is gone; there is another")
            left.kill()
            left.wait()
            self._begin()

    def _let_go(self) -> subprocess.Popen[bytes] | None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            forks.drop(process.stdin.fileno())
            process.stdin.close()
        return process

    def in_child(self) -> None:
        """In a forked child: it has no browsers, and its end of the pipe is closed already."""
        self._watched.clear()
        self._unsent = b""
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # of the parent's: nobody waits for it here
            if process.stdin is not None:
                _inherited.append(process.stdin)


_inherited: Final[list[object]] = []
"""Ends of pipes whose numbers a forked child has closed: they must never be closed by number again."""

guard: Final = _Guard()
forks.in_child(guard.in_child)
