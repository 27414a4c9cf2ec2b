"""WebDriver servers: a Selenium Grid, or a chromedriver (https://www.w3.org/TR/webdriver2).

Rule: WebDriver makes, names and ends the session; its pages are driven over CDP, which a Grid passes on (``se:cdp``)
and a chromedriver gives on its own machine (``debuggerAddress``). Nobody here runs scripts by WebDriver, so the time
limit of scripts, which each server tells of each session, carries our tag.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from lifecycle.errors import RemoteRejected, StartFailed
from lifecycle.states import State
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.reach import reached
from lifecycle_adapters.vendors.told import REFUSED, Told, dig, items, text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lifecycle.config import SessionOptions

__all__ = ["WebDriverAdapter"]


def mark(tag: str) -> int:
    """Our tag as a time limit in milliseconds: a whole number of 52 bits, as each server can keep it."""
    return int(hashlib.sha256(tag.encode()).hexdigest()[:13], 16)


class WebDriverAdapter(VendorAdapter):
    """Sessions of Chromium at a WebDriver server, such as ``http://localhost:4444``. It has no time limits but ours.

    Args:
        given: As `Vendor` takes them; `base_url` may come from ``SELENIUM_REMOTE_URL``, and `api_key`, which most
            servers have not, is a bearer token.
    """

    NAME = "webdriver"
    KEY = ""
    PLACE = "SELENIUM_REMOTE_URL"
    URL = "http://localhost:4444"
    CREATE = "/session"
    CAPABILITIES = VendorAdapter.CAPABILITIES - {"fixed_duration"} | {"headed", "chrome_args", "user_agent"}
    STATUSES: ClassVar[Mapping[str, State]] = {"running": State.ACTIVE}
    """WebDriver has no statuses: a session is there or not."""

    REFUSES: ClassVar[Mapping[str, str]] = {
        "proxy": "give --proxy-server in chrome_args=",
        **{name: REFUSED[name] for name in ("profile", "downloads_folder")},
        "executable_path": "give goog:chromeOptions with a binary in settings= of the adapter",
    }

    def read_key(self, given: str | None, url: str) -> str | None:
        """None is needed."""
        return super().read_key(given, url) if given else None

    def body(self, tag: str, options: SessionOptions) -> dict[str, Any]:
        """A new session of Chromium."""
        args = ["--headless=new"] if options.headless else []
        args += [f"--user-agent={options.user_agent}"] if options.user_agent is not None else []
        wanted = {
            "browserName": "chrome",
            "timeouts": {"script": mark(tag)},
            "goog:chromeOptions": {"args": [*args, *options.chrome_args]},
        }
        return {"capabilities": {"alwaysMatch": wanted}}

    def told(self, data: object) -> Told:
        """The answer to a create."""
        return self._session(text(data, "value", "sessionId"), dig(data, "value", "capabilities"))

    def _session(self, session_id: str, capabilities: object) -> Told:
        cdp, debugger = dig(capabilities, "se:cdp"), dig(capabilities, "goog:chromeOptions", "debuggerAddress")
        url = cdp or (f"http://{debugger}" if debugger else None)
        script = dig(capabilities, "timeouts", "script")
        return Told(id=session_id, status="running", tag=str(script), cdp=str(url) if url else None)

    def cdp(self, told: Told) -> str:
        """By ``se:cdp``, or by ``debuggerAddress`` where that is of this machine."""
        url = super().cdp(told)
        if not url.startswith("http:"):
            return reached(url, self.service.base_url)
        if urlsplit(reached(url, self.service.base_url)).netloc != urlsplit(url).netloc:
            msg = (
                f"the browser of the driver at {self.service.host} can be reached on that machine only: run this there"
            )
            raise StartFailed(f"{msg}, or use a Selenium Grid, which passes CDP on", adapter=self.NAME)
        return url

    async def find(self, tag: str, since: datetime) -> list[Told]:
        """By our tag, in what a Grid tells of its slots, or a chromedriver of its sessions."""
        del since
        nodes = dig(await self._status(), "value", "nodes")
        if isinstance(nodes, list):
            slots = [dig(slot, "session") for node in nodes for slot in items(node, "slots")]
            found = [(text(s, "sessionId"), dig(s, "capabilities")) for s in slots if s is not None]
        else:
            data = await self.service.ask("GET", "/sessions", what="listing sessions")
            found = [(text(s, "id"), dig(s, "capabilities")) for s in items(data, "value")]
        return [told for told in (self._session(*one) for one in found) if told.tag == str(mark(tag))]

    async def _status(self) -> object:
        data = await self.service.ask("GET", "/status", what="asking for the server's status")
        if not isinstance(dig(data, "value", "ready"), bool):
            raise RemoteRejected(f"{self.service.host} is no WebDriver server: its /status tells no value.ready")
        return data

    async def look(self, session_id: str) -> Told | None:
        """By its time limits, which can be asked for whatever its page does."""
        if await self.get(f"/session/{self.part(session_id)}/timeouts") is not None:
            return Told(id=session_id, status="running")
        await self._status()  # a 404 counts only from a server that is one
        return None

    async def end(self, session_id: str) -> None:
        """``DELETE /session/{id}``."""
        path = f"/session/{self.part(session_id)}"
        await self.service.ask("DELETE", path, what="ending the session", once=True)
