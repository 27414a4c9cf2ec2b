"""The browser's end of the gateway: NUL-separated JSON over two pipes.

Rule: reading never waits for anyone and writing never blocks the loop. Messages keep their order; each byte is looked
at once, however long the message. The two descriptors belong to this object and are closed by it alone. Whatever goes
wrong while reading, an exception of the code that takes the messages included, is reported as a loss, once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

from lifecycle.gateway import policy
from lifecycle.logs import get_logger
from lifecycle.loops import close_fd
from lifecycle.ports import CdpPipe

_READ_SIZE: Final = 1024 * 1024
_HIGH_WATER: Final = 8 * 1024 * 1024
"""Bytes that may wait to be written before the clients that send them are no longer read."""

_log: Final = get_logger(__name__)


class Pipe:
    """One browser connection; made and used on the gateway's loop.

    Args:
        loop: The gateway's loop.
        pipe: The descriptors; taken over at once.
        on_message: Called with each message, without its NUL.
        on_oversize: Called with the first bytes of a message above `policy.MAX_MESSAGE`, which is then skipped.
        on_lost: Called once with the reason when the connection breaks, but not when `close` ended it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: CdpPipe,
        *,
        on_message: Callable[[bytes], None],
        on_oversize: Callable[[bytes], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._read_fd = pipe.read_fd
        self._write_fd = pipe.write_fd
        self._on_message = on_message
        self._on_oversize = on_oversize
        self._on_lost = on_lost
        self._buffer = bytearray(_READ_SIZE)
        self._view = memoryview(self._buffer)
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False
        self._backlog: collections.deque[memoryview] = collections.deque()
        self._backlog_size = 0
        self._drained: asyncio.Future[None] | None = None
        self.closed = False

    def start(self) -> None:
        """Begin to read."""
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)
            _widen(fd)
        self._loop.add_reader(self._read_fd, self._readable)

    def fds(self) -> tuple[int, ...]:
        """The descriptors that are open."""
        return () if self.closed else (self._read_fd, self._write_fd)

    # --- reading

    def _readable(self) -> None:
        try:
            count = os.readv(self._read_fd, (self._buffer,))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self._lose(f"reading from the browser failed: {e.strerror}")
            return
        if count == 0:
            self._lose("the browser closed its connection")
            return
        try:
            self._feed(self._view[:count].tobytes())
        except Exception as e:  # noqa: BLE001 - a pump that stopped must not look like one that runs
            _log.exception("the gateway could not route a message of the browser")
            self._lose(f"the gateway failed: {type(e).__name__}")

    def _feed(self, data: bytes) -> None:
        start = 0
        while (end := data.find(0, start)) >= 0:
            piece = data[start:end]
            start = end + 1
            if self._skipping:
                self._skipping = False
            elif self._parts:
                self._parts.append(piece)
                piece = b"".join(self._parts)
                self._parts.clear()
                self._size = 0
                self._on_message(piece)
            else:
                self._on_message(piece)
            if self.closed:  # the taker may close us
                return
        if start < len(data) and not self._skipping:
            self._parts.append(data[start:])
            self._size += len(data) - start
            if self._size > policy.MAX_MESSAGE:
                first = self._parts[0]
                self._parts.clear()
                self._size = 0
                self._skipping = True
                self._on_oversize(first)

    # --- writing

    def write(self, message: bytes) -> None:
        """Send one message. Silent when the connection is closed."""
        if self.closed:
            return
        data = memoryview(message + b"\0")
        if not self._backlog:
            sent = self._try_write(data)
            if sent == len(data) or self.closed:
                return
            data = data[sent:]
            self._loop.add_writer(self._write_fd, self._writable)
        self._backlog.append(data)
        self._backlog_size += len(data)

    def _try_write(self, data: memoryview) -> int:
        try:
            return os.write(self._write_fd, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as e:
            # Not from inside the caller: a loss closes clients, and the caller may be one of them.
            self._loop.call_soon(self._lose, f"writing to the browser failed: {e.strerror}")
            return len(data)

    def _writable(self) -> None:
        while self._backlog:
            data = self._backlog[0]
            sent = self._try_write(data)
            if self.closed:
                return
            self._backlog_size -= sent
            if sent < len(data):
                self._backlog[0] = data[sent:]
                break
            self._backlog.popleft()
        else:
            self._loop.remove_writer(self._write_fd)
        if self._drained is not None and self._backlog_size <= _HIGH_WATER // 2:
            self._drained.set_result(None)
            self._drained = None

    @property
    def crowded(self) -> bool:
        """True when so much waits to be written that senders should wait for `drained`."""
        return self._backlog_size > _HIGH_WATER

    async def drained(self) -> None:
        """Wait until there is room again, or the connection is closed."""
        while self.crowded and not self.closed:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    # --- ending

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._on_lost(reason)

    def close(self) -> None:
        """Close both descriptors. Idempotent; Chromium ends itself when its pipe closes."""
        if self.closed:
            return
        self._loop.remove_reader(self._read_fd)
        self._loop.remove_writer(self._write_fd)
        self.closed = True
        close_fd(self._read_fd)
        close_fd(self._write_fd)
        self._parts.clear()
        self._backlog.clear()
        self._backlog_size = 0
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    async def wait_closed(self) -> None:
        """Wait for the end of a `close`, which is at once."""


def _widen(fd: int) -> None:
    """Ask Linux for a larger pipe, so that a long message takes fewer wake-ups; the default does as well."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 - there is none on Windows

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _READ_SIZE)
