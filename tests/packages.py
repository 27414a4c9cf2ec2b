"""Programs that tests need and no package index has: got from the packages of the system, where they are missing."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_APT = ("apt-get", "-o", "Acquire::Retries=1", "-o", "DPkg::Lock::Timeout=120")
APT_UPDATE = (*_APT, "update")
APT_INSTALL = (*_APT, "install", "-y", "--no-install-recommends")


def get(what: str, found: Callable[[], object], packages: Mapping[str, Sequence[Sequence[str]]]) -> bool:
    """Install something with whichever package manager is here.

    Args:
        what: What it is, for messages.
        found: Tells where it is; nothing where it is missing.
        packages: The commands that install it, by package manager.
    """
    from lifecycle.cli.install_browser import Way, as_root, run_command

    for manager, commands in packages.items():
        if shutil.which(manager) is None:
            continue
        print(f"no {what} yet, trying {manager} ...", flush=True)
        way = Way(name=manager, commands=commands, env={"DEBIAN_FRONTEND": "noninteractive"})
        for command in commands:
            full = command if manager == "brew" else as_root(command, way.env)
            if full is None:
                print("  it needs root, and there is no sudo", file=sys.stderr)
                break
            done = run_command(full, way)
            if not done.ok:  # the last one decides: lists of packages may be half out of reach
                print(f"  {' '.join(full)}: {done}", file=sys.stderr)
        if place := found():
            print(f"  done: {place}")
            return True
    return False
