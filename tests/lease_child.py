"""One host of many on one store: a process that does what it is told on stdin, and tells all that becomes of it.

Its name, its clock and its browsers are its own. With the adapter ``process`` a browser is a process that ends with its
stdin, as a browser on a pipe does, and that the real guard ends with the lease.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys
import threading
import time

import psycopg  # noqa: F401 - compiled parts look at the real datetime

TOLD = json.loads(sys.argv[1])

# Before anything of the library binds what reads the time and the name of the host.
SHIFT = TOLD.get("shift", 0)
if TOLD.get("host"):
    platform.node = lambda: TOLD["host"]
if SHIFT:
    real_time, real_datetime = time.time, dt.datetime

    class Shifted(real_datetime):
        @classmethod
        def now(cls, tz=None):
            return real_datetime.now(tz) + dt.timedelta(seconds=SHIFT)

    time.time = lambda: real_time() + SHIFT
    dt.datetime = Shifted

from lifecycle import Client, journal  # noqa: E402
from lifecycle.audit import RecordKind  # noqa: E402
from lifecycle.engine import Supervisor  # noqa: E402
from lifecycle.stores.postgres import PostgresStore  # noqa: E402
from lifecycle_adapters.local import procs  # noqa: E402
from lifecycle_adapters.local.guard import guard  # noqa: E402
from lifecycle_adapters.memory import MemoryAdapter  # noqa: E402

journal.RETRY_SECONDS = (0.1, 0.5)

_said = threading.Lock()


def say(**told):
    with _said:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


class ProcessAdapter(MemoryAdapter):
    """A memory adapter whose sessions each have a process."""

    @property
    def name(self):
        return "process"

    async def open(self, session_id, options, host):
        backend = await super().open(session_id, options, host)
        process = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, bufsize=0
        )
        started = procs.start_time(process.pid)
        host.follow_lease(lambda until: guard.hold(process.pid, started, until) if process.returncode is None else None)
        await host.journal({"pid": str(process.pid), "started": started})
        return Backed(backend, process, host)


class Backed:
    """A session with a process."""

    def __init__(self, backend, process, host):
        self._backend, self._process, self._host = backend, process, host

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def release(self):
        await self._backend.release()
        self._process.kill()
        self._process.stdin.close()
        await self._host.run_blocking(self._process.wait)
        if (left := guard.forget(self._process.pid)) is not None:
            await self._host.run_blocking(guard.end, left)

    # found by the class, not the object
    session_id = property(lambda self: self._backend.session_id)
    can_live_on = property(lambda self: False)

    async def get_cookies(self):
        return await self._backend.get_cookies()

    async def set_cookies(self, cookies):
        return await self._backend.set_cookies(cookies)

    async def clear_cookies(self):
        await self._backend.clear_cookies()

    async def cdp_url(self):
        return await self._backend.cdp_url()

    async def close_connections(self, reason):
        await self._backend.close_connections(reason)


def record_told(record):
    """It was acknowledged: durable, or in the rescue file."""
    if record.kind is not RecordKind.SPILLED:
        with open(TOLD["told"], "a") as file:
            kind = record.said or record.kind
            file.write(json.dumps([record.attachment_id.partition("~")[0], kind, record.at.isoformat()]) + "\n")


def main():
    if TOLD.get("told"):
        Supervisor.watchers.append(record_told)
    adapter = ProcessAdapter() if TOLD["adapter"] == "process" else TOLD["adapter"]
    store = PostgresStore(TOLD["url"], seconds=TOLD.get("seconds", 2))
    client = Client(
        adapter=adapter, store=store, lease_seconds=TOLD["lease"], spool=TOLD.get("spool", False),
        reap_on_start=TOLD.get("reaps", True),
    )  # fmt: skip
    sessions = {}

    def do(order):
        name, number = order["do"], order["n"]
        try:
            if name == "start":
                options = {"idempotency_key": order["key"]} if order.get("key") else {}
                session = client.Session(labels={"key": order.get("key") or "none"}, **options)
                sessions[number] = session
                session.start()
                pid = getattr(session._att.backend, "pid", None)
                say(n=number, session_id=session.session_id, pid=pid, created=session._att.made)
            elif name == "stop":
                session = sessions[order["of"]]
                session.stop()
                say(n=number, status=session.status().to_json())
            elif name == "status":
                say(n=number, status=sessions[order["of"]].status().to_json())
            elif name == "operate":
                sessions[order["of"]].get_cookies()
                say(n=number)
            elif name == "reap":
                say(n=number, reaped=[s.session_id for s in client.sessions.reap()])
            elif name == "list":
                say(n=number, statuses=[s.to_json() for s in client.sessions.list()])
        except Exception as e:
            say(n=number, error=type(e).__name__, why=str(e), notes=getattr(e, "__notes__", []))

    say(ready=os.getpid())
    working = []
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "end":
            break
        working.append(threading.Thread(target=do, args=(order,), daemon=True))
        working[-1].start()
    for thread in working:
        thread.join(30)
    try:
        client.close()
    except Exception as e:
        say(closing=type(e).__name__, why=str(e))
    say(ended=True)


main()
