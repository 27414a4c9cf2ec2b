"""`lifecycle serve` as a process of its own, with what a test prepares in it; and what it tells at /metrics."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, TypeVar

import children
import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Series = tuple[str, tuple[tuple[str, str], ...]]

T = TypeVar("T")

WITHIN = 30.0

PROGRAM = """
import os, sys, threading, time
{prelude}
from lifecycle.cli import main
code = main(["serve", "--port", "0", *sys.argv[1:]])
{after}
sys.exit(code)
"""


def read(text: str) -> dict[Series, float]:
    """The samples in a text of metrics, by name and labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


class Served:
    """A server that runs.

    Attributes:
        process: It.
        url: Where it listens.
        http: A client that sends its token.
    """

    def __init__(self, process: subprocess.Popen[str], url: str, http: httpx.Client) -> None:
        self.process = process
        self.url = url
        self.http = http

    def start(self) -> str:
        """Start a session, and give its id."""
        answer = self.http.post("/sessions/start", json={})
        assert answer.status_code == 200, answer.text
        session_id: str = answer.json()["session_id"]
        return session_id

    def stop(self, session_id: str) -> httpx.Response:
        return self.http.delete(f"/sessions/{session_id}/stop")

    def metrics(self) -> dict[Series, float]:
        answer = self.http.get("/metrics")
        assert answer.status_code == 200, answer.text
        return read(answer.text)

    def value(self, name: str, **labels: str) -> float | None:
        """One number, None where there is none."""
        return self.metrics().get((name, tuple(sorted(labels.items()))))

    @contextlib.contextmanager
    def anew(self) -> Iterator[Served]:
        """The same, over connections that are made in the block."""
        with httpx.Client(base_url=self.url, headers=self.http.headers, timeout=WITHIN, trust_env=False) as http:
            yield Served(self.process, self.url, http)

    def once(self, path: str) -> httpx.Response:
        """Ask over a connection of its own, without the token."""
        return httpx.get(f"{self.url}{path}", timeout=WITHIN, trust_env=False)

    def told(self) -> str:
        """Let it go on, where it waits for a line, and give what it writes until its end."""
        out, err = self.process.communicate("go on\n", timeout=WITHIN)
        return out + err

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.told()


@contextlib.contextmanager
def served(*arguments: str, prelude: str = "", after: str = "", env: dict[str, str] | None = None) -> Iterator[Served]:
    """A server for the time of the block; the block may end it, or it is ended.

    Args:
        *arguments: Those of the command.
        prelude: What is done in the process before.
        after: What is done in it once the command has returned, with its `code`.
        env: Added to its environment.
    """
    text = PROGRAM.format(prelude=textwrap.dedent(prelude), after=textwrap.dedent(after))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, *arguments], env={**children.environment(), **(env or {})},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            first, url, key = (process.stdout.readline().strip() for _ in range(3))  # type: ignore[union-attr]
            assert first.startswith("serving "), process.communicate(timeout=WITHIN)
            headers = {"Authorization": f"Bearer {key.removeprefix('export NOTTE_API_KEY=')}"}
            url = url.removeprefix("export NOTTE_API_URL=")
            with httpx.Client(base_url=url, headers=headers, timeout=WITHIN, trust_env=False) as http:
                yield Served(process, url, http)
            if process.poll() is None:
                process.terminate()
                process.communicate("go on\n", timeout=WITHIN)
        except BaseException:
            process.kill()
            raise


def every(seconds: float, times: int, look: Callable[[], T]) -> list[T]:
    """What `look` gives so many times, each so many seconds after the one before; what comes late makes no haste."""
    found = []
    for n in range(times):
        time.sleep(seconds if n else 0)
        found.append(look())
    return found


def gone(pid: int) -> list[str]:
    """Browsers of a process that still run."""
    return children.left_running(f"lifecycle-{os.getuid()}/{pid}-")
