"""A Chromium with a debugging port on loopback, as somebody else would run it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from urllib.parse import urlsplit

from cdp_client import Ws
from waiting import until

from lifecycle_adapters.local import find_browser


class Foreign:
    """A Chromium with a debugging port on loopback, as somebody else would run it."""

    def __init__(self, folder):
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [find_browser(None).path, "--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu",
                 "--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-port=0",
                 f"--user-data-dir={folder / 'profile'}", "data:text/html,<title>theirs</title>"],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(lambda: self.process.poll() is None and re.search(r"listening on (ws://\S+)", self.log.read_text()), 20)
        self.url = re.search(r"listening on (ws://\S+)", self.log.read_text())[1]
        self.http_url = f"http://{urlsplit(self.url).netloc}"
        until(lambda: [info for info in self.pages().values() if info["title"] == "theirs"])

    def call(self, method, params=None):
        with Ws(self.url) as ws:
            return ws.call(method, params)["result"]

    def pages(self):
        return {i["targetId"]: i for i in self.call("Target.getTargets")["targetInfos"] if i["type"] == "page"}

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
