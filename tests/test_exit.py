"""The end of the interpreter ends what is active: cookies saved, log complete, exit code unchanged."""

from __future__ import annotations

import json
import sqlite3
import textwrap
import time
from typing import TYPE_CHECKING, Any

import children
import pytest

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = """
folder = sys.argv[1]
client = Client(adapter="memory", store=f"sqlite:///{folder}/log.db")
from lifecycle.engine import supervisor
ended = supervisor()._at_exit

def begin(name="cookies"):
    session = client.Session(cookie_file=f"{folder}/{name}.json").start()
    session.set_cookies(cookies=[COOKIE])
    return session
"""

ABEGIN = """
import asyncio
folder = sys.argv[1]
client = AsyncClient(adapter="memory", store=f"sqlite:///{folder}/log.db")

async def begin(name="cookies"):
    session = await client.Session(cookie_file=f"{folder}/{name}.json").start()
    await session.set_cookies(cookies=[COOKIE])
    return session
"""


def ends(folder: Path) -> list[dict[str, Any]]:
    """The terminal records of the log, and that there is one for each attachment in it."""
    db = sqlite3.connect(folder / "log.db")
    try:
        bodies = [json.loads(body) for (body,) in db.execute("SELECT body FROM records WHERE terminal ORDER BY id")]
        begun = db.execute("SELECT count(DISTINCT attachment_id) FROM records").fetchone()[0]
        active = db.execute("SELECT count(*) FROM sessions WHERE state IN ('not_started', 'active')").fetchone()[0]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        db.close()
    assert (len(bodies), active) == (begun, 0)
    return bodies


def check(folder: Path, *, count: int = 1, reason: str = "abandoned", cause: str = "exit") -> None:
    found = [end for end in ends(folder) if end["source"] == "active"]
    assert [(e["dest"], e["close_reason"], e["cause"]) for e in found] == [("closed", reason, cause)] * count
    for end in found:
        assert [s["outcome"] for s in end["steps"] if s["step"] == "save_cookies"] == ["done"]
    saved = list(folder.glob("*.json"))
    assert len(saved) == count
    for path in saved:
        assert [c["name"] for c in json.loads(path.read_text())["cookies"]] == ["mine"]


WAYS = {
    "main returns": ("begin()", 0, ""),
    "the session object is dropped first": ("begin(); import gc; gc.collect()", 0, ""),
    "sys.exit": ("begin(); sys.exit(3)", 3, ""),
    "sys.exit with a message": ("begin(); sys.exit('enough')", 1, "enough\n"),
    "exit in a with block of the client": ("with client:\n    begin()\n    sys.exit(4)", 4, ""),
    "an exception": ("begin(); raise ZeroDivisionError('mine')", 1, "ZeroDivisionError: mine\n"),
    "sys.exit in a thread": (
        """
        def work():
            begin()
            sys.exit(5)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """,
        0,
        "",
    ),
    "a thread that outlives main": (
        """
        main = threading.main_thread()
        def work():
            session = begin()
            main.join()
            for _ in range(3):
                session.get_cookies()
        threading.Thread(target=work).start()
        """,
        0,
        "",
    ),
    "a thread that begins after main": (
        """
        main = threading.main_thread()
        def work():
            main.join()
            begin()
        threading.Thread(target=work).start()
        """,
        0,
        "",
    ),
    "a daemon thread in a call": (
        """
        session = begin()
        def work():
            session.wait_ended()
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        session.status()
        """,
        0,
        "",
    ),
    "daemon threads that call without end": (
        """
        session = begin()
        def work():
            try:
                while True:
                    session.get_cookies()
            except SessionEnded:
                pass
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        session.status()
        """,
        0,
        "",
    ),
    "a handler of atexit stops the session after us": (
        """
        session = begin()
        import atexit
        atexit.unregister(ended)
        atexit.register(session.stop)
        atexit.register(ended)
        """,
        0,
        "",
    ),
    "a handler of atexit begins a session after us": (
        """
        def late():
            try:
                begin("late")
            except UsageError as e:
                print(e)
        import atexit
        atexit.unregister(ended)
        atexit.register(late)
        atexit.register(ended)
        begin()
        """,
        0,
        "",
    ),
    "a handler of atexit uses the session": (
        """
        import atexit
        atexit.register(lambda: print(session.get_cookies()[0]["name"]))
        session = begin()
        """,
        0,
        "",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_end_of_the_process_ends_the_session(way, tmp_path):
    code, status, last = WAYS[way]
    began = time.monotonic()
    done = children.run(BEGIN + textwrap.dedent(code), tmp_path)
    took = time.monotonic() - began
    assert done.returncode == status, done.stderr
    assert done.stderr.endswith(last), done.stderr
    assert done.stderr.count("Traceback") == (way == "an exception"), done.stderr
    assert "Exception ignored" not in done.stderr
    assert bool(done.stderr) == bool(last), done.stderr
    assert took < 20
    check(tmp_path, reason="manual" if "client" in way else "abandoned", cause="caller" if "client" in way else "exit")


AWAYS = {
    "async main returns": ("asyncio.run(begin())", 0),
    "sys.exit in a task": (
        """
        async def main():
            await begin()
            sys.exit(6)
        asyncio.run(main())
        """,
        6,
    ),
    "a task that still waits": (
        """
        async def wait():
            session = await begin()
            begun.set()
            await session.wait_ended()
        async def main():
            global begun, task
            begun = asyncio.Event()
            task = asyncio.create_task(wait())
            await begun.wait()
        asyncio.run(main())
        """,
        0,
    ),
    "a loop that is closed with a task in the body": (
        """
        async def main():
            async with client.Session(cookie_file=f"{folder}/cookies.json") as session:
                await session.set_cookies(cookies=[COOKIE])
                asyncio.get_running_loop().stop()
                await session.wait_ended()
        loop = asyncio.new_event_loop()
        main_task = main()
        task = loop.create_task(main_task)
        loop.run_forever()
        task._log_destroy_pending = False
        loop.close()
        """,
        0,
    ),
}


@pytest.mark.parametrize("way", AWAYS)
def test_the_end_of_a_program_of_tasks_ends_the_session(way, tmp_path):
    code, status = AWAYS[way]
    done = children.run(ABEGIN + textwrap.dedent(code), tmp_path)
    assert (done.returncode, done.stderr) == (status, "")
    check(tmp_path)


def test_many_sessions_end_at_once(tmp_path):
    code = """
    for number in range(50):
        begin(f"cookies-{number}")
    """
    done = children.run(BEGIN + textwrap.dedent(code), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    check(tmp_path, count=50)


def test_an_exit_while_a_session_starts_and_another_stops(tmp_path):
    """Main ends in the middle of both: each gets one end, and what was opened is released."""
    code = """
    from children import SlowAdapter
    adapter = SlowAdapter(0.05)
    client = Client(adapter=adapter, store=f"sqlite:///{folder}/log.db")
    stopping = begin("a")
    reached = threading.Semaphore(0)
    adapter.on_step = reached.release
    threading.Thread(target=client.Session().start, daemon=True).start()
    threading.Thread(target=stopping.stop, daemon=True).start()
    reached.acquire()
    reached.acquire()
    import atexit
    def after():
        ended()
        print(sorted(adapter.opened) == sorted(adapter.released))
    atexit.register(after)
    """
    done = children.run(BEGIN + textwrap.dedent(code), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert "Exception ignored" not in done.stderr
    assert sorted((e["dest"], e["source"]) for e in ends(tmp_path)) == [("closed", "active"), ("closed", "not_started")]


def test_a_teardown_that_hangs_does_not_keep_the_process(tmp_path):
    """Each step has a budget, so the end of the interpreter has one as well."""
    code = """
    from lifecycle_adapters.memory import Fault
    import lifecycle.states as states
    import dataclasses
    rules = {step: dataclasses.replace(rule, budget=0.2) for step, rule in states.STEPS.items()}
    import lifecycle.steps, lifecycle.flow
    lifecycle.steps.STEPS = lifecycle.flow.STEPS = rules
    lifecycle.steps.GRACE = 0.1
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="hang", nth=n) for n in (1, 2, 3)])
    client = Client(adapter=adapter, store=f"sqlite:///{folder}/log.db")
    begin()
    """
    done = children.run(BEGIN + textwrap.dedent(code), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [e["dest"] for e in ends(tmp_path)] == ["error"]
    assert (tmp_path / "cookies.json").exists()


# --- with a browser -------------------------------------------------------------------------------------------------

BROWSER = """
folder = sys.argv[1]
client = Client(store=f"sqlite:///{folder}/log.db")

def begin():
    session = client.Session(cookie_file=f"{folder}/cookies.json").start()
    session.set_cookies(cookies=[COOKIE])
    return session

def use(session):
    session.page.goto("data:text/html,<title>mine</title>")
    assert session.page.title() == "mine"
"""

BROWSER_WAYS = {
    "main returns": ("begin()", 0),
    "main returns with a page open": ("use(begin())", 0),
    "sys.exit with a page open": ("use(begin()); sys.exit(3)", 3),
    "an exception with a page open": ("use(begin()); raise ZeroDivisionError", 1),
    "a thread with a page outlives main": (
        """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)  # it ends with its page open, which is to be warned of
        main = threading.main_thread()
        def work():
            session = begin()
            main.join()
            use(session)
        threading.Thread(target=work).start()
        """,
        0,
    ),
    "a daemon thread in a page call": (
        """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)  # it ends with its page open, which is to be warned of
        session = begin()
        reached = threading.Event()
        def work():
            use(session)
            reached.set()
            try:
                session.page.evaluate("new Promise(() => {})")
            except BaseException:
                pass
        threading.Thread(target=work, daemon=True).start()
        reached.wait()
        """,
        0,
    ),
    "async main returns with a page open": (
        """
        import asyncio
        async def main():
            client = AsyncClient(store=f"sqlite:///{folder}/log.db")
            session = await client.Session(cookie_file=f"{folder}/cookies.json").start()
            await session.set_cookies(cookies=[COOKIE])
            page = await session.page()
            await page.goto("data:text/html,<title>mine</title>")
            return client, session
        kept = asyncio.run(main())
        """,
        0,
    ),
}


@pytest.mark.parametrize("way", BROWSER_WAYS)
def test_the_end_of_the_process_ends_the_browser(way, tmp_path, run_folder):
    code, status = BROWSER_WAYS[way]
    done = children.run(BROWSER + textwrap.dedent(code), tmp_path)
    assert done.returncode == status, done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("Traceback") == (status == 1), done.stderr
    if status != 1:
        assert done.stderr == ""
    assert children.left_running(str(run_folder)) == []
    check(tmp_path)


def test_a_browser_dies_with_a_process_that_just_stops(tmp_path, run_folder):
    done = children.run(BROWSER + "begin(); os._exit(7)", tmp_path)
    assert (done.returncode, done.stderr) == (7, "")
    assert children.left_running(str(run_folder)) == []
    again = children.run(BROWSER + "begin()", tmp_path)  # it sweeps what that left on the disk
    assert (again.returncode, again.stderr) == (0, "")
