"""Stagehand, Puppeteer and the MCP server of Playwright connect to a session, which outlives them and ends them.

All three are Node.js programs that only take a URL: no module of the library is for them, and each test here is about
what the gateway lets them see.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import node_rig
import pytest
from cdp_client import Ws

from lifecycle import Client, State
from lifecycle.stores import open_store
from lifecycle.testing import ManualClock, assert_transitions
from lifecycle.testing.ways import eventually

FRAMEWORKS = ("puppeteer", "stagehand", "mcp")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def client(clock):
    with Client(store="memory:", clock=clock) as client:
        yield client


@pytest.fixture
def session(client, tmp_path):
    """A session for any of the frameworks, with an idle timeout of five minutes by a clock that stands still."""
    file = tmp_path / "cookies.json"
    options = {"cookie_file": file, "cookie_scope": "all", "chrome_args": node_rig.CHROME_ARGS}
    with client.Session(timeout_minutes=5, **options) as session:
        yield session


def http(url):
    """The URL of a session as a debugging port has it."""
    return url.replace("ws://", "http://", 1)


def infos(url):
    """All targets of the browser, those too that no client sees unless it asks."""
    with Ws(url) as ws:
        return ws.call("Target.getTargets", {"filter": [{}]})["result"]["targetInfos"]


def let_go(url):
    """True when nobody is attached to anything any more, and nothing that a client had for itself is left."""
    left = infos(url)
    return not any(info["attached"] or "stagehand-client" in info["url"] for info in left)


def contexts(url):
    with Ws(url) as ws:
        return len(ws.call("Target.getBrowserContexts")["result"]["browserContextIds"])


def cookies(folder):
    return [(c["name"], c["value"]) for c in json.loads((folder / "cookies.json").read_text())["cookies"]]


@pytest.fixture
def all_waiting(begin, site):
    """A function that has a program of each framework, all on one session, wait for what never comes."""

    def all_waiting(url):
        programs = {framework: begin(framework, url) for framework in FRAMEWORKS}
        for program in programs.values():
            program.ask("connect")
            assert program.ask("work") == "clicked 1"
        site.requests.clear()
        for program in programs.values():
            program.send("hang")
        eventually(lambda: site.requests.count("GET /hanging") == len(programs))
        return programs

    return all_waiting


def browser_pid(folder):
    """The process of the one browser that this one has started, found by its profile's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if parent == os.getpid() and f"--user-data-dir={folder}".encode() in command:
            found.append(int(path.name))
    (pid,) = found
    return pid


# --- what is installed --------------------------------------------------------------------------------------------


def test_a_connection_to_another_machine_is_refused_and_noted(packages, tmp_path):
    for code in (
        "fetch('http://192.0.2.1/')",
        "new WebSocket('wss://example.invalid/')",
        "net.connect(9, '192.0.2.2')",
    ):
        done = subprocess.run(
            [node_rig.NODE, "--eval", f"{code}.on?.('error', () => 0)"],
            env=node_rig.environment(tmp_path), capture_output=True, timeout=node_rig.BOUND, check=False,
        )  # fmt: skip
        assert b"SyntaxError" not in done.stderr
    assert node_rig.elsewhere(tmp_path) == ["192.0.2.1", "example.invalid", "192.0.2.2"]


# --- a framework goes, and the session stays ----------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_session_outlives_programs_that_disconnect_and_that_close_the_browser(session, framework, begin, tmp_path):
    url = session.cdp_url()
    before = {info["targetId"] for info in infos(url) if info["type"] == "page"}
    for where, way in ((url, "leave"), (http(url), "close")):
        program = begin(framework, where, secretly=way == "close")
        program.ask("connect")
        assert program.ask("work") == "clicked 1"
        program.ask(way)
        assert program.end() == 0
        assert session.state is State.ACTIVE
        eventually(lambda: let_go(url))
    assert {info["targetId"] for info in infos(url) if info["type"] == "page"} == before
    assert session.page.title() == "A counter"
    session.stop()
    assert_transitions(session, "start", "stop")
    assert session.status().close_reason == "manual"
    assert cookies(tmp_path) == [("login", "ada")]


def test_a_session_outlives_programs_that_are_killed(session, begin, all_waiting):
    url = session.cdp_url()
    for number in (signal.SIGKILL, signal.SIGINT):
        programs = all_waiting(url)
        assert not let_go(url)
        for framework, program in programs.items():
            # The MCP server takes SIGINT for a wish to end.
            code = 0 if (framework, number) == ("mcp", signal.SIGINT) else -number
            assert program.killed(number) == code, framework
        eventually(lambda: let_go(url))
        assert session.state is State.ACTIVE
    following = begin("puppeteer", url)
    following.ask("connect")
    assert following.ask("work") == "clicked 1"
    assert_transitions(session, "start")


def test_a_context_of_a_killed_program_stays_until_the_session_ends_and_its_cookies_are_kept(session, begin, tmp_path):
    url = session.cdp_url()
    program = begin("puppeteer", url)
    program.ask("connect")
    program.ask("context")
    assert program.ask("work") == "clicked 1"
    program.killed(signal.SIGKILL)
    eventually(lambda: let_go(url))
    assert contexts(url) == 1
    session.stop()
    assert_transitions(session, "start", "stop")
    assert cookies(tmp_path) == [("login", "ada")]


# --- the session ends, and the frameworks with it -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "event", "state"),
    [("manual", "stop", State.CLOSED), ("idle_timeout", "expire", State.TIMED_OUT), ("crash", "fail", State.ERROR)],
)
def test_the_end_of_a_session_ends_what_frameworks_wait_for(
    session, reason, event, state, all_waiting, clock, run_folder, tmp_path
):
    programs = all_waiting(session.cdp_url())
    match reason:
        case "manual":
            session.stop()
        case "idle_timeout":
            clock.advance(5 * 60)
        case "crash":
            os.kill(browser_pid(run_folder), signal.SIGKILL)
    assert session.wait_ended(node_rig.BOUND).close_reason == reason
    assert session.state is state
    assert_transitions(session, "start", event)
    # Two of them tell why.
    assert {framework: program.error() for framework, program in programs.items()} == {
        "puppeteer": "TargetCloseError: Protocol error (Runtime.evaluate): Target closed",
        "stagehand": f"CDPConnectionClosedError: CDP connection closed (close code 4000: {reason})",
        "mcp": f"### Error\nTarget page, context or browser has been closed\nBrowser logs:\n\n{reason}\n",
    }
    # Whoever dials again is refused, and told by all that look: the gateway's answer is 410 with the reason.
    refused = {framework: program.error("connect") for framework, program in programs.items()}
    assert refused["puppeteer"] == "ErrorEvent: Unexpected server response: 410"
    assert refused["stagehand"] == "Error: Failed to open CDP WebSocket"
    assert f"410 Gone\nThe session is over: {reason}\n" in refused["mcp"]
    assert {framework: program.end() for framework, program in programs.items()} == dict.fromkeys(FRAMEWORKS, 0)
    if reason == "crash":  # which takes the cookies of a browser with it
        assert not (tmp_path / "cookies.json").exists()
    else:
        assert cookies(tmp_path) == [("login", "ada")]


def test_a_connection_of_stagehand_that_is_only_kept_up_is_no_use_of_the_session(session, begin, clock):
    program = begin("stagehand", session.cdp_url())
    program.ask("connect")
    program.ask("work")
    clock.advance(4 * 60)
    program.ask("beats")
    clock.advance(60)
    assert session.wait_ended(node_rig.BOUND).close_reason == "idle_timeout"
    assert_transitions(session, "start", "expire")


# --- Ctrl-C -------------------------------------------------------------------------------------------------------

OWNER = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import node_rig
from lifecycle import Client
site, folder, *frameworks = sys.argv[2:]
with Client() as client:
    with client.Session(cookie_file=Path(folder, "cookies.json"), chrome_args=node_rig.CHROME_ARGS) as session:
        programs = [node_rig.program(framework, session.cdp_url(), site, Path(folder)) for framework in frameworks]
        for program in programs:
            program.ask("connect")
            program.ask("work")
        for program in programs:
            program.send("hang")
        print(session.session_id, *(program.process.pid for program in programs), flush=True)
        threading.Event().wait()
"""


def test_ctrl_c_ends_the_session_of_a_program_and_the_frameworks_that_it_runs(begin, site, tmp_path):
    arguments = [Path(__file__).parent, site.url, tmp_path, *FRAMEWORKS]
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as owner:  # fmt: skip
        try:
            session_id, *pids = owner.stdout.readline().split() or [""]
            assert len(pids) == len(FRAMEWORKS), owner.stderr.read()
            eventually(lambda: site.requests.count("GET /hanging") == len(FRAMEWORKS))
            os.killpg(owner.pid, signal.SIGINT)  # as a terminal does: to all of them at once
            _, errors = owner.communicate(timeout=node_rig.BOUND)
        finally:
            owner.kill()
    assert owner.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    eventually(lambda: not [pid for pid in pids if Path("/proc", pid).exists()])
    with closing(open_store(os.environ["LIFECYCLE_STORE"])) as store:
        row = store.session(session_id)
        assert_transitions([record for _, record in store.records(session_id=session_id)], "start", "stop")
    assert (row.state, row.close_reason, row.released) == (State.CLOSED, "manual", True)
    assert cookies(tmp_path) == [("login", "ada")]
