"""Hosts on one PostgreSQL server that can be stopped, killed, cut off and set to a wrong time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import children

from lifecycle.identity import process_started

CHILD = str(Path(__file__).with_name("lease_child.py"))
PATIENCE = 60.0


def namespaces() -> bool:
    """True where this user may make network namespaces, so that a host has nothing but what it is given."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-n", "-u", "true"], capture_output=True, check=False).returncode == 0


class Wire:
    """The way of one host to the server: a socket in a folder of its own, that may be cut.

    While it is cut nothing goes through, and nobody is told: what is on its way arrives when it is healed.
    """

    def __init__(self, port: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="lifecycle-wire-", dir="/tmp")
        self._port = port
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.folder}/.s.PGSQL.5432")
        self._listener.listen()
        self._open = threading.Event()
        self._open.set()
        self._ended = False
        self._socks: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="wire")]
        self._threads[0].start()

    def url(self, database: str) -> str:
        return f"postgresql:///{database}?host={self.folder}&port=5432&user=postgres"

    def cut(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._ended = True
        self._open.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in list(self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()
        shutil.rmtree(self.folder)

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(near,), name="wire")
            self._threads.append(thread)
            thread.start()

    def _carry(self, near: socket.socket) -> None:
        self._open.wait()
        with near, socket.socket() as far:
            try:
                far.connect(("127.0.0.1", self._port))
                self._socks |= {near, far}
                while not self._ended:
                    for ready in select.select([near, far], [], [], 0.5)[0]:
                        data = ready.recv(65536)
                        self._open.wait()
                        if not data:
                            return
                        (far if ready is near else near).sendall(data)
            except OSError:
                return
            finally:
                self._socks -= {near, far}


class Host:
    """A process on a host of its own.

    Args:
        wire: Its way to the server.
        database: The database.
        name: The name of the host.
        isolated: True to give it a network and a host name of its own.
        **told: What `lease_child` is told.
    """

    def __init__(self, wire, database, name, *, isolated=False, env=None, **told):
        self.wire, self.name = wire, name
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue] = {}
        self._ready = queue.Queue()
        self.said: list[dict] = []
        told = {"url": wire.url(database), "lease": 4.0, "adapter": "memory", "host": name, **told}
        command = [sys.executable, CHILD, json.dumps(told)]
        if isolated:
            told.pop("host")
            command[2] = json.dumps(told)
            way = 'hostname "$0" && ip link set lo up && exec "$@"'
            command = ["unshare", "-n", "-u", "/bin/sh", "-c", way, name, *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**children.environment(), **(env or {})},
        )
        self._reader = threading.Thread(target=self._read, name=f"host-{name}")
        self._reader.start()
        self.pid = self._ready.get(timeout=PATIENCE).get("ready")
        assert self.pid, "the host did not come up"

    def _read(self):
        for line in self.process.stdout:
            told = json.loads(line)
            self.said.append(told)
            self._answers[told["n"]].put(told) if "n" in told else self._ready.put(told)
        self._ready.put({})
        for answers in self._answers.values():
            answers.put({"error": "Gone"})

    def order(self, do, **order):
        """Tell it something; the number of the order."""
        number = next(self._numbers)
        self._answers[number] = queue.Queue()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, "n": number, **order}) + "\n")
            self.process.stdin.flush()
        return number

    def answer(self, number):
        """What came of an order."""
        return self._answers[number].get(timeout=PATIENCE)

    def ask(self, do, **order):
        """Tell it something, and wait for what comes of it."""
        return self.answer(self.order(do, **order))

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self._gone()

    def end(self):
        """Have it end by itself."""
        self.go_on()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write('{"do": "end"}\n')
            self.process.stdin.flush()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.kill()

    def _gone(self):
        self.process.wait()
        self._reader.join(10)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def runs(pid, started):
    """True while that very process runs."""
    return process_started(int(pid)) == started


@contextlib.contextmanager
def hosts():
    """Makes wires and hosts, and ends them all with the block."""
    made = []

    def keep(thing):
        made.append(thing)
        return thing

    try:
        yield keep
    finally:
        for thing in reversed(made):
            if isinstance(thing, Host):
                os.kill(thing.process.pid, signal.SIGCONT) if thing.process.poll() is None else None
                thing.kill()
            else:
                thing.close()
