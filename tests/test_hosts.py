"""Under the programs that run other people's code: gunicorn, Celery and a notebook's kernel, each the real one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import children
import httpx
import pytest
from campaign import names_in
from test_exit import ends
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")]

WITHIN = 30.0

PROGRAM = """
import os, sys
import lifecycle
from lifecycle import Client

FOLDER = os.path.dirname(__file__)
COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}
client = Client(adapter="local", store=f"sqlite:///{FOLDER}/log.db")  # made before the workers are forked
kept = []

def keep():
    '''A session that lives as long as its worker.'''
    if not kept:
        kept.append(client.Session(cookie_file=f"{FOLDER}/{os.getpid()}.json").start())
        kept[0].set_cookies(cookies=[COOKIE])
    return kept[0]
"""


@contextlib.contextmanager
def program(folder: Path, code: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of our own with what `PROGRAM` has, run by a command; whatever happens, it ends with the block."""
    (folder / "program.py").write_text(PROGRAM + textwrap.dedent(code))
    with (folder / "told").open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, stdout=told, stderr=told, start_new_session=True,
            env={**children.environment(struck=True), "HOME": str(folder)},
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def told(folder: Path) -> str:
    return (folder / "told").read_text(errors="replace")[-3000:]


def nothing_runs(pids: set[int]) -> None:
    """No browser of these processes runs, and none of their profiles is there."""
    for pid in pids:
        assert children.left_running(f"lifecycle-{os.getuid()}/{pid}-") == []


# --- gunicorn -----------------------------------------------------------------------------------------------------

APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/keep":
        keep()
    else:
        with client.Session() as session:
            session.get_cookies()
    return [str(os.getpid()).encode()]
"""

ASKED = """
import lifecycle
def post_worker_init(worker):
    lifecycle.stop_on_signals()  # after gunicorn's own handlers, to which it passes signals on
"""


def served(folder: Path, path: str) -> int:
    """The pid of the worker that answers."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(folder / "s")), timeout=WITHIN) as http:
        answer = http.get(f"http://localhost{path}")
        assert answer.status_code == 200, (answer.status_code, told(folder))
        return int(answer.text)


@contextlib.contextmanager
def gunicorn(folder: Path, conf: str) -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """A server whose two workers keep a session each, and their pids."""
    (folder / "gunicorn.conf.py").write_text(conf)
    options = ("--preload", "-w", "2", "-b", f"unix:{folder}/s", "--graceful-timeout", "20", "-t", "60")
    with program(folder, APP, "gunicorn", *options, "program:app") as process:
        until((folder / "s").exists, WITHIN)
        workers: set[int] = set()

        def both() -> bool:
            workers.add(served(folder, "/keep"))
            return len(workers) == 2

        until(both, WITHIN)
        yield process, workers


@pytest.mark.parametrize(
    ("name", "conf"), [("SIGTERM", ""), ("SIGTERM", ASKED), ("SIGINT", "")], ids=["SIGTERM", "asked", "SIGINT"]
)
def test_a_server_that_forks_its_workers_is_told_to_end(tmp_path, name, conf):
    with gunicorn(tmp_path, conf) as (process, workers):
        served(tmp_path, "/")
        process.send_signal(signal.Signals[name])
        assert process.wait(WITHIN) == 0, told(tmp_path)
    assert [names_in(tmp_path / f"{pid}.json") for pid in workers] == [{"mine"}] * 2
    nothing_runs(workers)
    over = ends(tmp_path)
    assert {end["pid"] for end in over} == workers
    reasons = ["manual"] * 3 if conf else ["abandoned", "abandoned", "manual"]
    assert sorted(end["close_reason"] for end in over) == reasons, told(tmp_path)


def test_a_worker_that_is_killed_is_followed_by_one_that_ends_what_it_left(tmp_path):
    with gunicorn(tmp_path, "") as (process, workers):
        killed = workers.pop()
        os.kill(killed, signal.SIGKILL)
        until(lambda: served(tmp_path, "/") not in {killed, *workers}, WITHIN)
        nothing_runs({killed})
        process.terminate()
        assert process.wait(WITHIN) == 0, told(tmp_path)
    reasons = Counter(end["close_reason"] for end in ends(tmp_path))
    assert (reasons["owner_died"], reasons["abandoned"]) == (1, 1)


# --- Celery -------------------------------------------------------------------------------------------------------

TASKS = """
import signal
from celery import Celery
from celery.signals import worker_process_shutdown

for name in ("queue", "done", "results"):
    os.makedirs(f"{FOLDER}/{name}", exist_ok=True)
app = Celery("program", broker="filesystem://", backend=f"file://{FOLDER}/results", broker_transport_options={
    "data_folder_in": f"{FOLDER}/queue", "data_folder_out": f"{FOLDER}/queue", "processed_folder": f"{FOLDER}/done",
    "control_folder": f"{FOLDER}/done"})

@worker_process_shutdown.connect
def close(**kwargs):
    client.close()  # Celery ends its workers without the end of an interpreter

@app.task
def once():
    with client.Session(cookie_file=f"{FOLDER}/{os.getpid()}.json") as session:
        session.set_cookies(cookies=[COOKIE])
    return os.getpid()

@app.task
def left_open():
    keep()
    return os.getpid()

@app.task
def too_long():
    with client.Session() as session:
        session.page.evaluate("new Promise(() => {})")

if __name__ == "__main__":
    which, count, limit = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    asked = [globals()[which].apply_async(soft_time_limit=limit) for _ in range(count)]
    print(*[r.get(timeout=30, propagate=False) for r in asked])
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    options = ("-P", "prefork", "-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO")
    with program(tmp_path, TASKS, "celery", "-A", "program", "worker", *options) as process:
        until(lambda: " ready." in told(tmp_path), WITHIN)
        yield process


def done(folder: Path, which: str, count: int, limit: float = 60) -> list[str]:
    """What came of some tasks, each of which may take `limit` seconds."""
    asked = subprocess.run(
        [sys.executable, "program.py", which, str(count), str(limit)], cwd=folder,
        env=children.environment(struck=True), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr + told(folder)
    return asked.stdout.split()


def test_workers_of_a_queue(tmp_path, queue):
    workers = {int(pid) for pid in [*done(tmp_path, "once", 4), *done(tmp_path, "left_open", 1)]}
    # The limit is an exception out of a signal handler, in whatever call is under way.
    assert done(tmp_path, "too_long", 1, limit=4) == ["SoftTimeLimitExceeded()"]
    queue.terminate()
    assert queue.wait(WITHIN) == 0, told(tmp_path)
    nothing_runs(workers)
    assert [end["close_reason"] for end in ends(tmp_path)] == ["manual"] * 6
    for pid in workers:
        assert names_in(tmp_path / f"{pid}.json") == {"mine"}


# --- a notebook ---------------------------------------------------------------------------------------------------

KERNEL = """
import json, sys, time
from jupyter_client import KernelManager

manager = KernelManager()
manager.start_kernel(cwd=sys.argv[1])
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready(timeout=30)

def cell(code, interrupt_at=None):
    '''What a cell printed, and the name and the words of the error that ended it.'''
    printed = []

    def hook(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])
            if interrupt_at is not None and interrupt_at in "".join(printed):
                manager.interrupt_kernel()

    reply = client.execute_interactive(code, timeout=60, output_hook=hook)["content"]
    return ["".join(printed).strip(), reply.get("ename"), reply.get("evalue")]

told = {name: cell(code, at) for name, code, at in json.loads(sys.argv[2])}
client.shutdown()
while manager.is_alive():
    time.sleep(0.05)
client.stop_channels()
manager.shutdown_kernel(now=True)
print(json.dumps(told))
"""

CELLS = {
    "begin": """
        import os, asyncio, time
        from lifecycle import AsyncClient, Client
        client = Client(adapter="local", store="sqlite:///log.db")
        session = client.Session(cookie_file="cookies.json").start()
        session.set_cookies(cookies=[{"name": "mine", "value": "1", "domain": "site.test", "path": "/"}])
        print(os.getpid())
    """,
    "the next": "print(session.state, [c['name'] for c in session.get_cookies()])",
    "a sync page": "session.page",
    "async": """
        aclient = AsyncClient(adapter="local", store="sqlite:///log.db")
        asession = await aclient.Session(cookie_file="async.json").start()
        page = await asession.page()
        await page.goto("data:text/html,<title>A page</title>")
        print(await page.title())
    """,
    "a sync page elsewhere": """
        def other():
            with client.Session(labels={"cell": "thread"}) as s:
                s.page.goto("data:text/html,<title>In a thread</title>")
                return s.page.title()
        print(await asyncio.to_thread(other))
    """,
    "a block that is interrupted": """
        with client.Session(labels={"cell": "sync"}) as s:
            print("now", flush=True)
            time.sleep(60)
    """,
    "the last": "print(session.state, asession.state, await page.title())",
}


def test_a_notebook(tmp_path, monkeypatch):
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    cells = [(name, textwrap.dedent(code).strip(), "now" if "now" in code else None) for name, code in CELLS.items()]
    asked = subprocess.run(
        [sys.executable, "-c", KERNEL, str(tmp_path), json.dumps(cells)], cwd=tmp_path,
        env=children.environment(struck=True), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    printed = json.loads(asked.stdout.splitlines()[-1])
    pid = int(printed.pop("begin")[0])
    hint = printed.pop("a sync page")
    assert (hint[1], "await session.page()" in hint[2]) == ("UsageError", True)
    assert {name: (text, error) for name, (text, error, _) in printed.items()} == {
        "the next": ("active ['mine']", None),
        "async": ("A page", None),
        "a sync page elsewhere": ("In a thread", None),
        "a block that is interrupted": ("now", "KeyboardInterrupt"),
        "the last": ("active active A page", None),
    }
    nothing_runs({pid})
    assert names_in(tmp_path / "cookies.json") == {"mine"}
    reasons = {end["labels"].get("cell"): end["close_reason"] for end in ends(tmp_path)}
    assert reasons == {"thread": "manual", "sync": "manual", None: "abandoned"}
