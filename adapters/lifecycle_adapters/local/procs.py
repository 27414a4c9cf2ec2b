"""Processes by more than their pid, and groups of them.

Rule: nothing is signalled by its pid alone. A pid stands for a process only together with its start time, or while
this process has not reaped it yet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Final

__all__ = ["command_line", "describe_exit", "group_ended", "kill_group", "same_process", "start_time", "wait_group"]

_POLL: Final = 0.01
"""Seconds between two looks at processes that are not our children: the system tells nobody when they end."""


def start_time(pid: int) -> str | None:
    """When `pid` was started, in the system's own words; None when there is no such process. A zombie counts.

    Source: field 22 of ``/proc/PID/stat`` (clock ticks since boot) on Linux, ``ps -o lstart`` elsewhere.
    """
    if sys.platform == "linux":
        fields = _stat(pid)
        return fields[19].decode() if fields is not None else None
    return _ps(pid, "lstart")


def command_line(pid: int) -> str:
    """The command line of `pid`; empty when there is no such process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - hot in sweeps
            return file.read().replace(b"\0", b" ").decode(errors="replace")
        return ""
    return _ps(pid, "command") or ""


def same_process(pid: int, started: str) -> bool:
    """True while `pid` is the process that was started then."""
    return start_time(pid) == started


def kill_group(pid: int, started: str) -> None:
    """Send SIGKILL to the process group that `pid` leads, if `pid` is still the process that was started then."""
    if same_process(pid, started):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def group_ended(group: int) -> bool:
    """True when no process of the group runs any more. Zombies do not run; their parent may be slow to look."""
    if sys.platform == "linux":
        for name in os.listdir("/proc"):  # noqa: PTH208 - hot, and only names are wanted
            if name.isdecimal():
                fields = _stat(int(name))
                if fields is not None and int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
                    return False
        return True
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return True  # what macOS says of a group of zombies
    return False


def wait_group(group: int, seconds: float) -> bool:
    """Wait until the group has ended, at most `seconds`. Blocks: for worker threads."""
    until = time.monotonic() + seconds
    while not group_ended(group):
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL)
    return True


def describe_exit(code: int) -> str:
    """How a process ended, from its `subprocess` return code."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"ended by signal {-code}"


def _stat(pid: int) -> list[bytes] | None:
    """The fields of ``/proc/PID/stat`` from the third (state) on."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - hot in sweeps
            data = file.read()
    except OSError:
        return None
    return data[data.rindex(b")") + 2 :].split()


def _ps(pid: int, column: str) -> str | None:
    out = subprocess.run(
        ["/bin/ps", "-ww", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return out.stdout.strip() or None
