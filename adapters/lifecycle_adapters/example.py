"""A complete adapter, to begin one of your own with: a Chromium that a command starts, behind the library's gateway.

Rule: `open` is atomic. Whatever strikes it, in any tick, the process that it had started is ended and its folder gone.
"""
# ruff: noqa: ARG002, D102 - what each method is for, `lifecycle.ports` says

import asyncio
import contextlib
import queue
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence

from lifecycle.config import SessionOptions
from lifecycle.cookies import Cookie
from lifecycle.errors import StartFailed, UnsupportedOperation
from lifecycle.ports import BackendEnd, CdpEndpoint, CdpSocket, Host
from lifecycle_adapters import cdp_cookies

SWITCHES = ("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-background-networking")
REFUSED = ("headless", "viewport_width", "user_agent", "proxy", "chrome_args", "executable_path", "profile",
           "downloads_folder")  # fmt: skip


class ExampleBackend:
    """One Chromium. When it ends by itself, the gateway sees its connection break and reports a crash."""

    can_live_on = False
    endpoint: CdpEndpoint

    def __init__(self, session_id: str, command: Sequence[str], host: Host) -> None:
        self.session_id = session_id
        self._host = host
        self._folder = tempfile.mkdtemp(prefix="example-")
        self._command = [*command, *SWITCHES, f"--user-data-dir={self._folder}"]

    def launch(self) -> str:
        """Start it, and read where it listens. Blocks."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(self._process, said), daemon=True).start()
        if found := re.search(r"DevTools listening on (ws://\S+)", said.get()):
            return found[1]
        raise StartFailed(f"{self._command[0]} ended without saying where it listens", adapter="example")

    def _listen(self, process: subprocess.Popen[str], said: queue.SimpleQueue[str]) -> None:
        with process:  # reads to the end, so that it never waits for a reader
            for line in process.stderr or ():
                if "DevTools listening" in line:
                    said.put(line)
        said.put("it ended")

    def end(self) -> None:
        """End it, and remove its folder. Blocks; may be called again."""
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def get_cookies(self) -> Sequence[Cookie]:
        return await cdp_cookies.get_cookies(self.endpoint)

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        return await cdp_cookies.set_cookies(self.endpoint, cookies)

    async def clear_cookies(self) -> None:
        await cdp_cookies.clear_cookies(self.endpoint)

    async def cdp_url(self) -> str:
        return self.endpoint.url

    async def close_connections(self, reason: str) -> None:
        await self.endpoint.close_clients(reason)

    async def release(self) -> None:
        await self.endpoint.aclose()
        await self._host.run_blocking(self.end)


class ExampleAdapter:
    """Starts `command`, a Chromium with switches of its own, for each session."""

    name = "example"
    capabilities = frozenset({"pages", "cdp", "cookies"})

    def __init__(self, command: Sequence[str] = ("chromium",)) -> None:
        self._command = command

    def check(self, options: SessionOptions) -> None:
        for option in REFUSED:
            if getattr(options, option) != getattr(SessionOptions(), option):
                way_out = 'give its switch in the command, or use Client(adapter="local")'
                raise UnsupportedOperation(operation=f"{option}=", adapter=self.name, way_out=way_out)

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> ExampleBackend:
        backend = ExampleBackend(session_id, self._command, host)
        launching = asyncio.ensure_future(host.run_blocking(backend.launch))
        try:
            url = await asyncio.shield(launching)
            backend.endpoint = await host.serve_cdp(CdpSocket(url=url))
            return backend
        except BaseException:
            undoing = asyncio.ensure_future(self._undo(launching, backend, host))
            while not undoing.done():
                with contextlib.suppress(asyncio.CancelledError):  # to the end, however often it is cancelled
                    await asyncio.wait({undoing})
            raise

    async def _undo(self, launching: asyncio.Future[str], backend: ExampleBackend, host: Host) -> None:
        await asyncio.wait({launching})  # it runs in a thread, which nobody can cancel
        await host.run_blocking(backend.end)

    async def probe(self, session_id: str, host: Host) -> BackendEnd | None:
        raise UnsupportedOperation(operation="probe", adapter=self.name, way_out="attach in the process that owns it")

    async def connect(self, session_id: str, options: SessionOptions, host: Host) -> ExampleBackend:
        raise UnsupportedOperation(operation="connect", adapter=self.name, way_out="attach in the process that owns it")

    async def aclose(self) -> None:
        pass
