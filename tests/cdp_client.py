"""A plain CDP client over a WebSocket, for tests."""

from __future__ import annotations

import json

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


class Ws:
    """One connection; events that come while an answer is awaited are kept in `events`."""

    def __init__(self, url: str, **options):
        self.opening = connect(url, proxy=None, compression=None, max_size=None, ping_interval=None, **options)
        self.events: list[dict] = []
        self.last = 0

    def __enter__(self):
        self.socket = self.opening.__enter__()
        return self

    def __exit__(self, *exc):
        self.opening.__exit__(*exc)

    def send(self, method, params=None, session_id=None, *, number=None):
        """Send a command; returns its id."""
        self.last = self.last + 1 if number is None else number
        message = {"id": self.last, "method": method, "params": params or {}}
        if session_id is not None:
            message["sessionId"] = session_id
        self.socket.send(json.dumps(message))
        return self.last

    def receive(self, timeout=5.0):
        """The next message."""
        return json.loads(self.socket.recv(timeout=timeout))

    def reply(self, number, timeout=10.0):
        """The answer to command `number`."""
        while True:
            message = self.receive(timeout)
            if message.get("id") == number:
                return message
            self.events.append(message)

    def call(self, method, params=None, session_id=None, timeout=10.0):
        """Send a command and await its answer."""
        return self.reply(self.send(method, params, session_id), timeout)

    def wait_event(self, method, timeout=10.0):
        """The first event of that name that was not taken yet."""
        for event in self.events:
            if event.get("method") == method:
                self.events.remove(event)
                return event
        while True:
            message = self.receive(timeout)
            if message.get("method") == method:
                return message
            self.events.append(message)

    def closed(self, timeout=5.0):
        """Wait for the end; the code and reason that the socket was closed with."""
        try:
            while True:
                self.socket.recv(timeout=timeout)
        except ConnectionClosed as e:
            return (e.rcvd.code, e.rcvd.reason) if e.rcvd is not None else (1006, "")
