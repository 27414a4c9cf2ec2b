"""Who this process is, beyond its pid, so that a reused pid is never taken for it."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

__all__ = ["boot_id", "host_name", "process_started", "same_process"]


@functools.cache
def boot_id() -> str:
    """Identity of the running boot; empty where the system tells none.

    Source: ``/proc/sys/kernel/random/boot_id`` on Linux, ``kern.boottime`` on macOS.
    """
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if sys.platform == "darwin":
        out = subprocess.run(["/usr/sbin/sysctl", "-n", "kern.boottime"], capture_output=True, text=True, check=False)
        return out.stdout.strip()
    return ""


@functools.cache
def host_name() -> str:
    """The host's name."""
    return platform.node()


def process_started(pid: int) -> str | None:
    """When process `pid` was started, in whatever unit the system counts; None when there is no such process.

    Source: field 22 of ``/proc/PID/stat`` (clock ticks since boot) on Linux, ``ps -o lstart`` elsewhere.
    """
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None  # a zombie has ended; only its parent has not looked yet
        return fields[19].decode()
    out = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return out.stdout.strip() or None


def same_process(pid: int, started: str, boot: str, host: str) -> bool | None:
    """Whether the process described is still the one running: None when it is on another host, so unknown."""
    if host != host_name():
        return None
    if boot != boot_id():
        return False
    if pid == os.getpid():
        return started == process_started(pid)
    return process_started(pid) == started
