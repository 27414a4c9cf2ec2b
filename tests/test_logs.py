"""The host's log handlers never run on the library's own threads, whose work a caller may be waiting for."""

from __future__ import annotations

import logging
import threading

import structlog

from lifecycle import Client
from lifecycle.engine import supervisor
from lifecycle.logs import get_logger


class Noting(logging.Handler):
    """Notes the thread in which it is called, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []
        self.came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((threading.current_thread().name, self.format(record)))
        self.came.set()


def noting(name: str) -> Noting:
    handler = Noting()
    logging.getLogger(name).addHandler(handler)
    return handler


def test_what_the_supervisor_logs_is_emitted_on_a_worker() -> None:
    handler = noting("lifecycle_adapters.made_up")
    with Client(adapter="memory", store="memory:"):
        # The lock of every handler is held by a caller who waits for the supervisor: nothing may wait for it there.
        handler.acquire()
        done = threading.Event()

        def log() -> None:
            get_logger("lifecycle_adapters.made_up").warning("%d of %d", 1, 2)
            done.set()

        supervisor().thread.post(log)
        assert done.wait(10)
        handler.release()
        assert handler.came.wait(10)
    assert handler.seen == [("lifecycle-log", "1 of 2")]
    logging.getLogger("lifecycle_adapters.made_up").removeHandler(handler)


def test_an_error_in_a_callback_of_the_supervisor_is_logged_there_too() -> None:
    handler = noting("lifecycle.loops")
    with Client(adapter="memory", store="memory:"):

        def fail() -> None:
            raise ValueError("planted")

        supervisor().thread.post(fail)
        assert handler.came.wait(10)
    ((thread, text),) = handler.seen
    assert thread == "lifecycle-log"
    assert "ValueError: planted" in text
    logging.getLogger("lifecycle.loops").removeHandler(handler)


def test_what_the_host_has_bound_is_in_the_events_of_its_sessions():
    seen = []

    def keep(_logger, _method, event):
        seen.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        with Client(adapter="memory", store="memory:") as client:
            for request in ("one", "two"):
                with structlog.contextvars.bound_contextvars(request=request), client.Session():
                    pass
    finally:
        structlog.reset_defaults()
    told = {request: [e["event"] for e in seen if e.get("request") == request] for request in ("one", "two")}
    assert told["one"] == told["two"] == ["lifecycle.intent", "lifecycle.commit"] * 2
