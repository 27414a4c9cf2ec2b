"""The program that ends browsers whose owner has lost its lease, run by file name in a process of its own.

Rule: it needs nothing of its owner but to be told, so a browser ends in time also where the owner is stopped (SIGSTOP,
a debugger, a machine that slept). It is told on stdin, one line for each: ``PID UNTIL STARTED`` to end that process
group at UNTIL, as seconds since the machine came up, and ``PID`` to forget it. When stdin ends its owner has, and
browsers end with that by themselves.
"""

from __future__ import annotations

import importlib.util
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

LOOK_SECONDS = 1.0
"""It looks at the clock so often: a wait stands still while a machine sleeps."""


def _procs() -> Any:  # noqa: ANN401 - a module
    """The module beside this one; its package would import the library."""
    spec = importlib.util.spec_from_file_location("procs", Path(__file__).with_name("procs.py"))
    assert spec is not None  # noqa: S101 - it is beside this file
    assert spec.loader is not None  # noqa: S101 - as above
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Watch until stdin ends."""
    procs = _procs()

    def now() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()

    watched: dict[int, tuple[float, str]] = {}
    rest = b""
    while True:
        nearest = min((until for until, _ in watched.values()), default=None)
        wait = None if nearest is None else max(0.0, min(nearest - now(), LOOK_SECONDS))
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                pid, *told = line.decode().split(" ", 2)
                if told:
                    watched[int(pid)] = (float(told[0]), told[1])
                else:
                    watched.pop(int(pid), None)
        for process, (until, started) in list(watched.items()):
            if now() >= until:
                procs.kill_group(process, started)
                del watched[process]


if __name__ == "__main__":
    main()
