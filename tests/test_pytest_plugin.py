"""The plugin for pytest, as a project that uses it has it: each test runs pytest in a project of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from lifecycle import Client

pytestmark = pytest.mark.slow  # a process for each; what it does with the version of Python, pytest sees to


@dataclass
class Done:
    """A run of pytest that is over."""

    code: int
    text: str

    @property
    def counts(self) -> dict[str, int]:
        """How many passed, failed, ..., as the last line says."""
        counts = re.findall(r"(\d+) ([a-z]+?)s?\b", self.text.splitlines()[-1])
        return {kind: int(n) for n, kind in counts if kind != "warning"}  # those of other plugins


class Project:
    """A folder with tests, and a way to run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.put("pytest.ini", "[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        self.without = ["schemathesis", "hypothesispytest", "playwright"]  # they take most of a second to load

    def put(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def run(self, *args: str, **env: str) -> Done:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-q", *args]
        for name in self.without:
            command += ["-p", f"no:{name}"]
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        return Done(done.returncode, done.stdout + done.stderr)

    def kept(self) -> list[Path]:
        """What was kept of tests that failed."""
        return sorted(path for path in self.folder.glob("test-results/lifecycle/*/*"))


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


# --- fixtures -------------------------------------------------------------------------------------------------------

BOTH = """
import pytest
from lifecycle import AsyncClient, Client

def test_a_client(lifecycle_client):
    assert isinstance(lifecycle_client, Client)
    with lifecycle_client.Session() as session:
        assert session.status().adapter == "memory"

@pytest.mark.lifecycle_session(name="seen", labels={"team": "blue"})
def test_a_session(lifecycle_session):
    assert lifecycle_session.state == "active"
    assert (lifecycle_session.status().name, lifecycle_session.status().labels) == ("seen", {"team": "blue"})

async def test_an_async_client(async_lifecycle_client):
    assert isinstance(async_lifecycle_client, AsyncClient)
    async with async_lifecycle_client.Session() as session:
        assert session.state == "active"

@pytest.mark.lifecycle_session(name="seen")
async def test_an_async_session(async_lifecycle_session):
    assert async_lifecycle_session.state == "active"
    assert (await async_lifecycle_session.status()).name == "seen"

def test_nothing_is_left_of_those_before():
    from lifecycle.testing import active_sessions
    assert active_sessions() == []
"""


def test_with_pytest_asyncio_in_auto_mode(project):
    project.put("test_both.py", BOTH)
    done = project.run("-o", "asyncio_mode=auto")
    assert done.counts == {"passed": 5}, done.text


def test_with_pytest_asyncio_in_strict_mode(project):
    project.put("test_both.py", BOTH.replace("async def test", "@pytest.mark.asyncio\nasync def test"))
    assert project.run().counts == {"passed": 5}


@pytest.mark.parametrize("installed", [True, False])
def test_with_anyio(project, installed):
    project.put("conftest.py", "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n")
    project.put("test_both.py", BOTH.replace("async def test", "@pytest.mark.anyio\nasync def test"))
    if not installed:
        project.put("pytest.ini", "[pytest]\n")
        project.without.append("asyncio")
    done = project.run()
    assert done.counts == {"passed": 5}, done.text


def test_where_nobody_runs_coroutines_it_says_what_to_do(project):
    project.put("test_it.py", "def test_it(async_lifecycle_client):\n    pass\n")
    project.without.append("asyncio")
    done = project.run()
    assert done.code == pytest.ExitCode.TESTS_FAILED
    assert "async_lifecycle_client needs somebody who runs coroutines: install pytest-asyncio" in done.text


def test_fixtures_are_made_to_be_overridden(project):
    project.put(
        "test_it.py",
        """
        import pytest
        from lifecycle import StartFailed
        from lifecycle.testing import ManualClock, transitions
        from lifecycle_adapters.memory import Fault, MemoryAdapter

        @pytest.fixture
        def lifecycle_adapter():
            return MemoryAdapter(faults=[Fault(step="open_backend", kind="fail", nth=2)])

        @pytest.fixture
        def clock():
            return ManualClock()

        @pytest.fixture
        def lifecycle_client_options(clock):
            return {"clock": clock}

        @pytest.fixture
        def lifecycle_session_options(lifecycle_session_options):
            return {"timeout_minutes": 1, **lifecycle_session_options}

        def test_it(lifecycle_client, lifecycle_session, clock):
            with pytest.raises(StartFailed):
                lifecycle_client.Session().start()
            clock.advance(61)
            lifecycle_session.wait_ended()
            assert transitions(lifecycle_session) == ["start: not_started -> active", "expire: active -> timed_out"]
        """,
    )
    done = project.run()
    assert done.counts == {"passed": 1}, done.text


# --- which adapter --------------------------------------------------------------------------------------------------

WHICH = """
from lifecycle import Client

def test_it(lifecycle_client):
    with Client(store="memory:") as own:
        names = {client._adapter.name for client in (own, lifecycle_client)}
    assert names == {"local"}
"""


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["--lifecycle-adapter", "local"], {}),
        (["--lifecycle-adapter", "local"], {"LIFECYCLE_ADAPTER": "memory"}),
        (["-o", "lifecycle_adapter=local"], {}),
        (["-o", "lifecycle_adapter=memory", "--lifecycle-adapter", "local"], {}),
        ([], {"LIFECYCLE_ADAPTER": "local"}),
    ],
)
def test_the_adapter_is_swapped_for_all_clients_by_option_configuration_or_environment(project, args, env):
    project.put("test_it.py", WHICH)
    assert project.run(*args, **env).counts == {"passed": 1}


def test_by_default_the_fixtures_are_on_memory_and_the_environment_is_left_alone(project):
    project.put(
        "test_it.py",
        """
        import os

        def test_it(lifecycle_client):
            assert lifecycle_client._adapter.name == "memory"
            assert "LIFECYCLE_ADAPTER" not in os.environ
        """,
    )
    assert project.run().counts == {"passed": 1}


@pytest.mark.parametrize("before", [{}, {"LIFECYCLE_ADAPTER": "local"}])
def test_the_environment_is_put_back(project, before):
    project.put("test_it.py", "def test_it(lifecycle_session):\n    pass\n")
    project.put(
        "run.py",
        """
        import os, pytest
        before = os.environ.get("LIFECYCLE_ADAPTER")
        code = pytest.main(["-q", "-p", "no:cacheprovider", "--lifecycle-adapter", "memory"])
        assert code == 0 and os.environ.get("LIFECYCLE_ADAPTER") == before, os.environ.get("LIFECYCLE_ADAPTER")
        """,
    )
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=project.folder, env={**os.environ, **before}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_adapter_that_there_is_not(project):
    project.put("test_it.py", "def test_it():\n    pass\n")
    done = project.run("--lifecycle-adapter", "memroy")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert "there is no such adapter; did you mean 'memory'? known: anchor, browserbase, " in done.text


def test_the_header_says_which(project):
    project.put("test_it.py", "def test_it():\n    pass\n")
    assert "lifecycle: adapter memory" in project.run("-v", "--lifecycle-adapter", "memory").text


def test_a_run_that_has_nothing_to_do_with_it_does_not_import_it(project):
    project.put(
        "test_it.py",
        """
        import sys

        def test_it():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "lifecycle_pytest" in loaded
            assert not loaded & {"lifecycle", "lifecycle_adapters", "playwright", "httpx", "structlog"}
        """,
    )
    project.put("pytest.ini", "[pytest]\n")
    project.without.append("asyncio")
    done = project.run()
    assert done.counts == {"passed": 1}, done.text


# --- markers --------------------------------------------------------------------------------------------------------


def test_what_the_adapter_can_not_do_is_skipped(project):
    project.put(
        "test_it.py",
        """
        import pytest

        @pytest.mark.lifecycle_needs("cookies", "pages", "cdp")
        def test_pages():
            pass

        @pytest.mark.lifecycle_needs("cookies")
        def test_cookies():
            pass

        @pytest.mark.lifecycle_adapter("local", "remote")
        def test_some():
            pass

        @pytest.mark.lifecycle_adapter("memory")
        def test_memory():
            pass
        """,
    )
    done = project.run("-rs", "--strict-markers")
    assert done.counts == {"passed": 2, "skipped": 2}
    assert "needs cdp and pages, which the memory adapter does not have" in done.text
    assert "runs on local or remote only: --lifecycle-adapter local" in done.text
    assert project.run("--lifecycle-adapter", "local").counts == {"passed": 3, "skipped": 1}


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ('lifecycle_needs("page")', "lifecycle_needs('page'): there is no such name; did you mean 'pages'?"),
        (
            'lifecycle_adapter("chrome")',
            "lifecycle_adapter('chrome'): there is no such name; known: anchor, browserbase",
        ),
        ("lifecycle_needs()", "lifecycle_needs() names nothing; known: assigns_ids, attach"),
    ],
)
def test_a_misspelt_marker_is_told_and_not_taken_for_a_reason_to_skip(project, marker, told):
    project.put("test_it.py", f"import pytest\n@pytest.mark.{marker}\ndef test_it():\n    pass\n")
    done = project.run()
    assert done.code != pytest.ExitCode.OK
    assert told in done.text


# --- leaks ----------------------------------------------------------------------------------------------------------


def test_a_test_that_leaves_a_session_active_fails_and_the_session_is_stopped(project):
    project.put(
        "test_it.py",
        """
        import pytest
        from lifecycle import Client
        from lifecycle.testing import active_sessions
        from lifecycle_adapters.memory import MemoryAdapter

        kept = []
        adapter = MemoryAdapter()

        def test_of_the_fixture(lifecycle_client):
            lifecycle_client.Session().start()

        def test_of_its_own():
            client = Client(adapter=adapter, store="memory:")
            session = client.Session()
            session.start()
            kept.append(client)

        @pytest.mark.asyncio
        async def test_of_the_async_fixture(async_lifecycle_client):
            await async_lifecycle_client.Session().start()

        def test_that_fails_as_well():
            kept.append(Client(adapter=adapter, store="memory:"))
            kept[-1].Session().start()
            raise RuntimeError("the first trouble")

        def test_they_were_stopped():
            assert active_sessions() == []
            assert len(adapter.opened) == 2 and sorted(adapter.opened) == sorted(adapter.released)
        """,
    )
    done = project.run()
    assert done.counts == {"passed": 4, "failed": 1, "error": 4}, done.text
    told = r"^left active: session [0-9a-f-]{36} on memory \(active\); stop what a test"
    assert len(re.findall(told, done.text, re.MULTILINE)) == 4
    assert "the first trouble" in done.text
    assert "by abandoned" in done.text


def test_a_session_of_a_wider_fixture_is_no_leak(project):
    project.put(
        "test_it.py",
        """
        import pytest
        from lifecycle import Client

        @pytest.fixture(scope="module")
        def shared():
            with Client(adapter="memory", store="memory:") as client, client.Session() as session:
                yield session

        def test_one(shared):
            assert shared.state == "active"

        def test_two(shared):
            assert shared.state == "active"
        """,
    )
    assert project.run().counts == {"passed": 2}


def test_what_a_test_is_marked_to_leave_is_no_leak(project):
    project.put(
        "test_it.py",
        """
        import pytest
        from lifecycle import Client

        client = Client(adapter="memory", store="memory:")

        @pytest.mark.lifecycle_leaves
        def test_one():
            client.Session().start()

        def test_two():
            pass

        def test_three():
            client.Session().start()
        """,
    )
    done = project.run("--strict-markers")
    assert done.counts == {"passed": 3, "error": 1}
    assert "ERROR at teardown of test_three" in done.text


def test_a_session_from_before_the_tests_is_no_leak(project):
    project.put("conftest.py", """
        from lifecycle import Client

        client = Client(adapter="memory", store="memory:")
        session = client.Session()
        session.start()
    """)  # fmt: skip
    project.put("test_it.py", "from conftest import session\ndef test_it():\n    assert session.state == 'active'\n")
    done = project.run()
    assert done.counts == {"passed": 1}, done.text


# --- what is kept of a failure --------------------------------------------------------------------------------------

FAILS = """
import pytest

def test_it(lifecycle_session):
    lifecycle_session.stop()
    assert lifecycle_session.state == "timed_out"

@pytest.fixture
def broken(lifecycle_session):
    raise RuntimeError("no set-up")

def test_that_never_begins(broken):
    pass

def test_that_passes(lifecycle_session):
    pass

def test_without_sessions():
    assert False
"""


def test_of_a_failed_test_the_log_and_the_diagram_are_kept(project):
    project.put("test_it.py", FAILS)
    done = project.run("--junitxml=junit.xml")
    assert done.counts == {"passed": 1, "failed": 2, "error": 1}
    assert [path.name for path in project.kept()] == ["diagram.svg", "transitions.txt"] * 2
    assert {path.parent.name.rpartition("-")[0] for path in project.kept()} == {
        "test_it.py-test_it", "test_it.py-test_that_never_begins",
    }  # fmt: skip
    diagram, log = project.kept()[:2]
    for line in log.read_text().splitlines():
        assert line in done.text
    assert re.search(r"0\.\d{3} s  commit    stop: active -> closed +by caller, manual", log.read_text())
    assert f"kept: {log}" in done.text
    picture = ET.parse(diagram).getroot()
    taken = [g.get("data-edge") for g in picture.iter() if "taken" in g.get("class", "").split()]
    assert taken == [
        "start: not_started -> active [idle, no session_id]", "stop: active -> closed [no ending in flight]",
    ]  # fmt: skip
    assert str(log.parent) in (project.folder / "junit.xml").read_text()


def test_the_folder_can_be_chosen_and_one_that_can_not_be_written_fails_nothing(project):
    project.put("test_it.py", FAILS)
    done = project.run("--lifecycle-output", "elsewhere", "-k", "test_it")
    assert len(list((project.folder / "elsewhere").glob("*/transitions.txt"))) == 2
    project.put("taken", "a file")
    done = project.run("--lifecycle-output", "taken", "-k", "test_it")
    assert done.counts == {"passed": 1, "failed": 2, "error": 1}
    assert "choose another folder with --lifecycle-output" in done.text
    assert "INTERNALERROR" not in done.text


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("lifecycle_pytest.kept.draw_way = lambda _: 1 / 0", "can't be shown: ZeroDivisionError"),
        (
            "process.PATIENCE = 0.1; supervisor().thread.post(time.sleep, 3)",
            "records are still to be written: a store hangs, or the supervisor",
        ),
    ],
)
def test_what_goes_wrong_with_it_hides_no_failure(project, broken, told):
    project.put(
        "test_it.py",
        f"""
        import time
        import lifecycle_pytest.kept
        from lifecycle.engine import supervisor
        from lifecycle.testing import process

        def test_it(lifecycle_session):
            {broken}
            assert False, "the failure itself"
        """,
    )
    done = project.run()
    assert done.counts == {"failed": 1}
    assert "the failure itself" in done.text
    assert told in done.text


def test_a_picture_of_the_page_is_kept(project):
    project.put(
        "test_it.py",
        """
        import pytest

        def test_sync(lifecycle_session):
            lifecycle_session.page.set_content("<h1>as it was</h1>")
            assert lifecycle_session.page.title() == "as it was"

        @pytest.mark.asyncio
        async def test_async(async_lifecycle_session):
            page = await async_lifecycle_session.page()
            await page.set_content("<h1>as it was</h1>")
            assert await page.title() == "as it was"
        """,
    )
    done = project.run("--lifecycle-adapter", "local", "--html=report.html", "--self-contained-html")
    assert done.counts == {"failed": 2}, done.text
    pictures = [path for path in project.kept() if path.suffix == ".png"]
    assert len(pictures) == 2
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 1_000
    page = (project.folder / "report.html").read_text()
    assert (page.count("data:image/png"), page.count("data:image/svg+xml")) == (2, 2)


# --- coverage -------------------------------------------------------------------------------------------------------

TWO = """
import pytest

def test_stop(lifecycle_session):
    lifecycle_session.stop()

def test_never_started(lifecycle_client):
    lifecycle_client.Session().stop()
"""


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_what_was_taken_of_the_table(project, processes):
    project.put("test_it.py", TWO)
    done = project.run("--lifecycle-coverage", *processes)
    assert re.search(r"^edges +3 +10$", done.text, re.MULTILINE), done.text
    assert "no edge: stop: not_started -> closed [start or attach in flight]" in done.text
    assert "no edge: stop: not_started -> closed [idle]" not in done.text
    assert "no diversion: open_backend on start: not_started -> active" in done.text


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
@pytest.mark.parametrize(("least", "code"), [("10", 0), ("60", 1)])
def test_a_run_that_takes_too_little_fails(project, processes, least, code):
    project.put("test_it.py", TWO)
    done = project.run("--lifecycle-min-coverage", least, *processes)
    assert done.code == code
    assert re.search(rf"^1\d\.\d % of the table was taken, {least} % are asked for$", done.text, re.MULTILINE)
    assert done.counts == {"passed": 2}


@pytest.mark.parametrize("least", ["many", "101", "-1", "nan"])
def test_a_least_that_is_no_percentage(project, least):
    done = project.run(f"--lifecycle-min-coverage={least}")
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert f"--lifecycle-min-coverage {least}: give a number of percent, from 0 to 100" in done.text


def test_a_failure_stays_the_failure_of_the_run(project):
    project.put("test_it.py", "def test_it():\n    assert False\n")
    assert project.run("--lifecycle-min-coverage", "50").code == pytest.ExitCode.TESTS_FAILED
    project.put("test_it.py", "")
    assert project.run("--lifecycle-min-coverage", "50").code == pytest.ExitCode.NO_TESTS_COLLECTED


# --- pytest-playwright ----------------------------------------------------------------------------------------------

PLAYWRIGHT = """
import os, pytest
from lifecycle import Client
from lifecycle.testing import ManualClock
from lifecycle_pytest.for_playwright import *

clock = ManualClock()

@pytest.fixture(scope="session")
def lifecycle_playwright_client():
    with Client(store="sqlite:///log.db", clock=clock) as client:
        yield client
"""


@pytest.fixture
def beside(project):
    """A project with pytest-playwright."""
    project.without.remove("playwright")
    project.put("conftest.py", PLAYWRIGHT)
    return project


def ends(project):
    """How each session of the run ended."""
    with Client(adapter="memory", store=f"sqlite:///{project.folder}/log.db", reap_on_start=False) as client:
        return [(s.status, s.close_reason) for s in client.sessions.list()]


def test_pages_of_pytest_playwright_are_in_a_session(beside):
    beside.put(
        "test_it.py",
        """
        import pytest
        from lifecycle.testing import active_sessions

        @pytest.mark.parametrize("title", ["one", "two"])
        def test_a_page(page, title):
            page.set_content(f"<title>{title}</title>")
            assert page.title() == title
            assert [s.adapter for s in active_sessions()] == ["local"]

        def test_contexts_are_apart(new_context):
            one, two = new_context(), new_context()
            one.add_cookies([{"name": "a", "value": "1", "url": "http://x.test/"}])
            assert [len(c.cookies("http://x.test/")) for c in (one, two)] == [1, 0]

        def test_its_browser_is_a_session_that_lasts(browser, lifecycle_playwright_client):
            (session,) = lifecycle_playwright_client.sessions.list()
            assert (session.status, session.max_duration_minutes) == ("active", 24 * 60)
        """,
    )
    done = beside.run()
    assert done.counts == {"passed": 4}, done.text
    assert ends(beside) == [("closed", "manual")]


def test_a_failure_has_the_log_of_the_session_that_began_before_it(beside):
    beside.put("test_it.py", "def test_one(page):\n    pass\ndef test_two(page):\n    assert page.title() == 'x'\n")
    done = beside.run()
    assert done.counts == {"passed": 1, "failed": 1}
    assert [path.suffix for path in beside.kept()] == [".svg", ".png", ".txt"]
    assert "commit    start: not_started -> active" in done.text


@pytest.mark.parametrize(
    ("fixture", "body", "expected"),
    [
        ("", "os.kill(browser_pid(), 9)", ("error", "crash")),
        # Playwright is still preparing a new page when it hands it out; a title it gives when it is done with that.
        ('{"timeout_minutes": 1}', "page.title(); clock.advance(61)", ("timed_out", "idle_timeout")),
        (
            '{"max_duration_minutes": 1}',
            "clock.advance(40); page.title(); clock.advance(40)",
            ("timed_out", "max_duration"),
        ),
    ],
)
def test_a_session_that_ends_fails_the_tests_that_need_it(beside, fixture, body, expected):
    if fixture:
        override = "@pytest.fixture(scope='session')\ndef lifecycle_playwright_options():\n    return " + fixture
        beside.put("conftest.py", f"{PLAYWRIGHT}\n{override}\n")
    beside.put(
        "test_it.py",
        f"""
        import os
        from pathlib import Path
        import pytest
        from conftest import clock
        from lifecycle.testing import active_sessions
        from lifecycle.testing.ways import eventually
        from playwright.sync_api import Error

        def browser_pid():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    told = path.read_bytes()
                    parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if b"--remote-debugging-pipe" in told and int(parent) == os.getpid():
                    return int(path.parent.name)

        def test_one(page):
            {body}
            eventually(lambda: not active_sessions())
            with pytest.raises(Error):
                page.title()
        """,
    )
    done = beside.run()
    assert "INTERNALERROR" not in done.text
    assert ends(beside) == [expected], done.text


def test_ctrl_c_stops_the_session_of_the_run(beside):
    """It strikes while Playwright waits for an answer: in the middle of a message of its own it can't go on."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        beside.put("test_it.py", f"def test_it(page):\n    page.goto({url!r}, timeout=60_000)\n")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
        with subprocess.Popen(command, cwd=beside.folder, stdout=subprocess.PIPE, text=True) as process:
            silent.settimeout(60)
            asked, _ = silent.accept()
            with asked:
                assert asked.recv(1)
                process.send_signal(signal.SIGINT)
                process.stdout.read()
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert ends(beside) == [("closed", "manual")]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--browser", "firefox"], "sessions run Chromium, not firefox"),
        (["--browser-channel", "msedge"], "a session can't be launched with channel; known: args, downloads_path"),
    ],
)
def test_what_a_session_can_not_be_is_told(beside, args, told):
    beside.put("test_it.py", "def test_it(page):\n    pass\n")
    done = beside.run(*args)
    assert done.counts == {"error": 1}
    assert told in done.text
