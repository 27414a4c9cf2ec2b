"""One session's Chromium, from its process to its cookies.

Rule: what was opened is released, however far the opening came. Its exit is an event: it is told to the host once,
and everything that waits for the browser ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

from lifecycle.errors import BackendError, ConnectionLost, ReleaseFailed, StartFailed
from lifecycle.logs import get_logger
from lifecycle.ports import BackendEnd
from lifecycle.states import CloseReason, State
from lifecycle_adapters.cdp_scopes import ScopedCookies
from lifecycle_adapters.local import forks, procs
from lifecycle_adapters.local.downloads import Kept
from lifecycle_adapters.local.guard import guard
from lifecycle_adapters.local.launch import close_pipe
from lifecycle_adapters.local.process import BrowserProcess
from lifecycle_adapters.local.profiles import profiles
from lifecycle_adapters.local.window import set_viewport, wait_for_page

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from lifecycle.config import SessionOptions
    from lifecycle.cookies import Cookie
    from lifecycle.ports import CdpEndpoint, Host
    from lifecycle_adapters.local.launch import Launched
    from lifecycle_adapters.local.profiles import Profile

__all__ = ["LocalBackend"]

_GRACE: Final = 3.0
"""Seconds that Chromium gets to close by itself; it takes about a tenth of one."""

_LAST_WORDS: Final = 1.0
"""Seconds between the end of the pipe and the end of its process, when it ends by itself."""

_GROUP_BUDGET: Final = 2.0
"""Seconds that the children of a browser get to be gone after it."""

_TAIL: Final = 5
"""How many of the last lines of Chromium's stderr go into an error."""

_ADVICE: Final = (
    (r"error while loading shared libraries", "install what it needs: `lifecycle install-browser`"),
    (
        r"No usable sandbox|setuid sandbox|Operation not permitted.*namespace|credentials\.cc",
        "the system gives Chromium no sandbox; allow user namespaces, or, for trusted pages, pass --no-sandbox",
    ),
    (
        r"Missing X server|cannot open display|ozone_platform",
        "there is no display to open a window on; use headless=True",
    ),
    (r"exec format error|Exec format error", "the executable is for another kind of machine"),
    (r"[Nn]o space left", "the disk is full"),
)

_log: Final = get_logger(__name__)


class LocalBackend:
    """A Chromium on a pipe. Made by `LocalAdapter.open`.

    Attributes:
        headed: It has a window.
    """

    def __init__(self, session_id: str, host: Host, profile: Profile, launched: Launched, *, headed: bool) -> None:
        self._session_id = session_id
        self._host = host
        self._profile = profile
        self._pipe = launched.pipe
        self._pipe_is_ours = True
        self._endpoint: CdpEndpoint | None = None
        self._cookies: ScopedCookies | None = None
        self._kept: Kept | None = None
        self._active = False
        self.headed: Final = headed
        self._started = launched.started
        self._guard: subprocess.Popen[bytes] | None = None
        self._process = BrowserProcess(launched, self._exited)

    @property
    def session_id(self) -> str:
        """The id that the engine gave it."""
        return self._session_id

    @property
    def can_live_on(self) -> bool:
        """False: the browser ends with the process that holds its pipe."""
        return False

    @property
    def pid(self) -> int:
        """Chromium's pid."""
        return self._process.pid

    @property
    def endpoint(self) -> CdpEndpoint | None:
        """The gateway in front of it; None before it is up."""
        return self._endpoint

    @property
    def foreign_cookies(self) -> int:
        """Cookies seen in contexts that clients made, which no cookie file holds."""
        return self._endpoint.foreign_cookies if self._endpoint is not None else 0

    @property
    def cookie_conflicts(self) -> int:
        """With ``cookie_scope="all"``: cookies that differed between contexts at the last reading."""
        return self._cookies.conflicts if self._cookies is not None else 0

    @property
    def cookies_of_contexts(self) -> Sequence[int]:
        """With ``cookie_scope="all"``: cookies that each context held at the last reading, the default first."""
        return self._cookies.of_contexts if self._cookies is not None else ()

    @property
    def cookies_lost(self) -> bool:
        """The process that held the cookies for the browser has ended meanwhile, and took the newest with it."""
        return self._cookies is not None and self._cookies.lost

    # --- opening

    async def start(self, options: SessionOptions, executable: str) -> None:
        """Go on from the started process to a browser that answers and has its page.

        Raises:
            StartFailed: It did not come up.
        """
        self._host.follow_lease(self._hold)
        facts = {"pid": str(self.pid), "profile": str(self._profile.folder), "executable": executable}
        await self._host.journal({**facts, "headed": str(self.headed).lower()})
        self._pipe_is_ours = False  # from here on it is the gateway's, which closes it whatever happens
        forks.drop(self._pipe.read_fd, self._pipe.write_fd)
        self._endpoint = endpoint = await self._host.serve_cdp(self._pipe)
        self._cookies = ScopedCookies(endpoint, everywhere=options.cookie_scope == "all")
        coming_up = asyncio.ensure_future(self._come_up(endpoint, options))
        try:
            either: set[asyncio.Future[Any]] = {coming_up, self._process.exited}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if coming_up.done() and coming_up.exception() is None:
                self._active = not self._process.exited.done()
            if self._active:
                return
            if not self._process.exited.done():  # the pipe broke: the process ends too, and can say why
                await asyncio.wait({self._process.exited}, timeout=_LAST_WORDS)
            raise await self._start_failed(executable) from (coming_up.exception() if coming_up.done() else None)
        finally:
            coming_up.cancel()

    async def _come_up(self, endpoint: CdpEndpoint, options: SessionOptions) -> None:
        await self._jar().begin()
        if options.downloads_folder is not None:
            self._kept = Kept(self._profile.downloads, options.downloads_folder, self._host)
            await self._kept.begin(endpoint)
        page = await wait_for_page(endpoint)
        width, height = options.viewport_width, options.viewport_height
        if width is not None and height is not None:
            await set_viewport(endpoint, page, width, height, headed=self.headed)

    async def _start_failed(self, executable: str) -> StartFailed:
        exited = self._process.exited
        how = procs.describe_exit(exited.result()) if exited.done() else "does not answer on its pipe"
        said = await self._host.run_blocking(self._last_lines)
        advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, said)), None)
        message = f"{executable} {how} before it was ready"
        if said:
            message += f"; its last lines: {said}"
        return StartFailed(message + (f"; {advice}" if advice else "; `lifecycle doctor` tells more"), adapter="local")

    def _last_lines(self) -> str:
        """The end of Chromium's stderr, without its time stamps."""
        try:
            lines = self._profile.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        lines = [re.sub(r"^\[[\d:/.]+:(\w+):", r"[\1:", line.strip())[:300] for line in lines if line.strip()]
        return " | ".join(lines[-_TAIL:])

    def _hold(self, until: float) -> None:
        """The lease lasts until then."""
        if not self._process.exited.done():
            guard.hold(self.pid, self._started, until)

    def _exited(self, code: int) -> None:
        self._guard = guard.forget(self.pid)
        if not self._active:
            return
        self._active = False
        detail = "Chromium was closed" if code == 0 else f"Chromium {procs.describe_exit(code)}"
        self._host.ended(BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail=detail))

    # --- while it is active

    def _reach(self) -> CdpEndpoint:
        if self._endpoint is None:
            raise ConnectionLost("the browser is gone")
        return self._endpoint

    def _jar(self) -> ScopedCookies:
        if self._cookies is None:
            raise ConnectionLost("the browser is gone")
        return self._cookies

    async def get_cookies(self) -> Sequence[Cookie]:
        """All cookies of the scope: the default context's, or those of contexts that clients make too."""
        return await self._jar().get()

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        """Set cookies, read them back, and return those that did not take, each with the reason."""
        return await self._jar().set(cookies)

    async def clear_cookies(self) -> None:
        """Remove every cookie of the default context."""
        await self._jar().clear()

    async def cdp_url(self) -> str:
        """The gateway's URL for this browser: a secret."""
        return self._reach().url

    # --- ending

    async def close_connections(self, reason: str) -> None:
        """Close what clients have open to the browser. Idempotent."""
        if self._endpoint is not None:
            await self._endpoint.close_clients(reason)

    async def release(self, *, grace: float = _GRACE) -> None:
        """End the browser and remove its folder. Idempotent, and safe to repeat after a failure.

        Args:
            grace: Seconds that it gets to close by itself before it is killed; 0 kills it at once.

        Raises:
            ReleaseFailed: The process is still there.
        """
        self._active = False
        try:
            await self._close(grace)
        finally:  # whatever went wrong above, and also when this is cancelled
            gone = await self._process.kill()
        if not gone:
            raise ReleaseFailed(
                f"Chromium (pid {self.pid}) is still there after SIGKILL; it may hang in the kernel, end it by hand",
                session_id=self._session_id,
            )
        if self._kept is not None:
            await self._kept.end()
        await self._host.run_blocking(self._clean_up)

    async def _close(self, grace: float) -> None:
        """Ask the browser to close, for `grace` seconds, then close the connection to it."""
        if grace > 0 and self._endpoint is not None and not self._process.exited.done():
            with contextlib.suppress(TimeoutError, BackendError):  # frozen or half gone: it will be killed
                async with asyncio.timeout(grace):
                    await self._endpoint.call("Browser.close")
                    await asyncio.shield(self._process.exited)
        if self._endpoint is not None:
            await self._endpoint.aclose()
        elif self._pipe_is_ours:
            self._pipe_is_ours = False
            close_pipe(self._pipe)

    def _clean_up(self) -> None:
        """Remove the folder, once nobody writes to it any more. A folder that stays is a matter for the next sweep."""
        if self._guard is not None:
            guard.end(self._guard)
            self._guard = None
        if not procs.wait_group(self.pid, _GROUP_BUDGET):
            _log.warning("children of Chromium (process group %d) outlived it", self.pid)
        profiles.remove(self._profile)
