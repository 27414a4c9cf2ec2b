"""The library as a guest in a program of others: it leaves everything of the program's own as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = '''
import asyncio, builtins, logging, os, signal, socket, ssl, subprocess, sys, threading, time, warnings

def look():
    """What a program may have set up, and what somebody might patch."""
    modules = (asyncio, asyncio.events, asyncio.base_events, builtins, logging, os, signal, socket, ssl, subprocess,
               threading, time, warnings)
    root = logging.getLogger()
    return {
        "signal handlers": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "wake-up descriptor": signal.set_wakeup_fd(-1),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "logging": (root.level, list(root.handlers), list(root.filters), logging.root.manager.disable,
                    logging.getLoggerClass(), logging.getLogRecordFactory(), logging._nameToLevel),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook, sys.gettrace(),
                  sys.getprofile()),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "loop policy": type(asyncio.get_event_loop_policy()),
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
        "time-out of sockets": socket.getdefaulttimeout(),
        **{f"module {module.__name__}": {name: value for name, value in vars(module).items()
                                         if callable(value) and not name.startswith("__")} for module in modules},
    }
'''

LIFE = """
before = look()
from lifecycle import AsyncClient, Client

def page(session):
    if adapter == "local":
        session.page.set_content("<h1>x</h1>")
        session.observe()

async def main():
    async with AsyncClient(adapter=adapter, store="memory:") as client, client.Session() as session:
        if adapter == "local":
            await (await session.page()).set_content("<h1>x</h1>")
        assert session.state == "active"

adapter = sys.argv[1]
with Client(adapter=adapter, store="memory:") as client, client.Session() as session:
    during = look()
    page(session)
asyncio.run(main())
after = look()
for name in before:
    for when, seen in (("during", during), ("after", after)):
        if seen[name] != before[name]:
            different = seen[name]
            if isinstance(different, dict):
                different = {k: (before[name].get(k), v) for k, v in different.items() if before[name].get(k) != v}
            sys.exit(f"{name} {when}: {different}")
print("as it was")
"""


def ran(text: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", text, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("adapter", ["memory", "local"])
def test_nothing_of_the_program_is_changed(adapter):
    assert ran(LOOK + LIFE, adapter) == "as it was"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("signal.signal(signal.SIGTERM, lambda *_: None)", "signal handlers"),
        ("os.environ['X'] = '1'", "environment"),
        ("logging.basicConfig()", "logging"),
        ("warnings.simplefilter('ignore')", "warnings"),
        ("sys.excepthook = print", "hooks"),
        ("time.monotonic = lambda: 0", "module time"),
    ],
)
def test_a_change_would_be_seen(change, told):
    text = LOOK + LIFE.replace("asyncio.run(main())", f"asyncio.run(main())\n{change}")
    done = subprocess.run([sys.executable, "-c", text, "memory"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{told} after: ")


UVLOOP = """
import asyncio, sys, uvloop
from lifecycle import AsyncClient, SessionTimedOut

async def main():
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"
    async with AsyncClient(adapter=sys.argv[1], store="memory:") as client:
        async with client.Session() as session:
            if sys.argv[1] == "local":
                page = await session.page()
                await page.set_content("<title>seen</title>")
                assert await page.title() == "seen"
            assert session.state == "active"
        assert session.state == "closed"
        short = client.Session(timeout_minutes=0.01)
        await short.start()
        assert (await short.wait_ended()).close_reason == "idle_timeout"
        task = asyncio.ensure_future(client.Session().start())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

uvloop.run(main())
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop on Windows")
@pytest.mark.parametrize("adapter", ["memory", "local"])
def test_on_another_loop(adapter):
    assert ran(UVLOOP, adapter) == "done"
