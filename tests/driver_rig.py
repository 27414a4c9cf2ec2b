"""A real chromedriver for tests: found or got, and ended with the run.

Run as a program, it gets the driver where there is none, from the packages of the system, whose Chromium is of the same
version.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from packages import APT_INSTALL, APT_UPDATE, get

_SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
SETTINGS = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": _SWITCHES}}}}
"""What the create of a session holds on a machine for tests, whoever runs them."""

_PACKAGES = {
    "apt-get": (APT_UPDATE, (*APT_INSTALL, "chromium-driver")),
    "dnf": (("dnf", "install", "-y", "chromedriver"),),
    "brew": (("brew", "install", "chromedriver"),),
}


def program() -> str | None:
    """The driver; None where there is none."""
    return shutil.which("chromedriver")


class Driver:
    """A driver on a port of loopback, with its browsers in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        found = program()
        assert found is not None, "no chromedriver is installed: make driver"
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [found, "--port=0"], stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env={**os.environ, "TMPDIR": str(folder)},
            )  # fmt: skip
        from waiting import until

        port = until(lambda: re.search(r"successfully on port (\d+)", self._said.read_text()), 20)
        self.url = f"http://127.0.0.1:{port[1]}"

    def end(self) -> None:
        """End it, and what it has left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def main() -> int:
    """Find the driver, or install it."""
    if program() is not None or get("chromedriver", program, _PACKAGES):
        return 0
    print("no chromedriver could be installed; install one, the tests need it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
