"""The control socket: how a guest reaches the owner of a session, in the same process or another.

Rule: one Unix socket per owning process, mode 0600 in a folder of mode 0700, one JSON object a line. Only the user
who owns the browser can open it. Secrets (the CDP URL, cookie values) go through it and are written nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.errors import (
    BackendError,
    ConnectionLost,
    ReleaseFailed,
    SessionClosed,
    SessionFailed,
    SessionTimedOut,
    StartFailed,
    UnsupportedOperation,
)
from lifecycle.ports import BackendEnd
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from lifecycle.cookies import Cookie
    from lifecycle.ports import Host

__all__ = ["ControlServer", "GuestBackend", "ask"]

LINE_LIMIT: Final = 64 * 1024 * 1024
"""Longest line that is read, in bytes: a full cookie jar fits many times over."""

Handler = Callable[[str, str, Mapping[str, Any]], Awaitable[Any]]
"""Answers (operation, session id, arguments); raises BackendError or UnsupportedOperation."""


def _folder() -> Path:
    """A folder that only this user can enter, short enough for a socket path (about 100 bytes)."""
    uid = os.getuid()
    for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - guarded by owner and mode just below
        folder = base / f"lifecycle-control-{uid}"
        if len(os.fsencode(folder)) > 70:
            continue
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
        if stat.S_ISDIR(info.st_mode) and info.st_uid == uid and not info.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="lifecycle-control-"))


async def sweep(folder: Path) -> int:
    """Remove sockets in `folder` that nobody listens on any more; how many."""
    count = 0
    for path in folder.glob("*.sock"):  # noqa: ASYNC240 - a folder of few files, once in a process
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            count += 1
        else:
            writer.close()
    return count


class ControlServer:
    """The owner's end.

    Args:
        handle: Answers one request.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._watchers: dict[str, set[asyncio.StreamWriter]] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self.path: str | None = None

    async def start(self) -> str:
        """Listen; the path of the socket."""
        if self.path is None:
            folder = _folder()
            path = str(folder / f"{os.getpid()}-{secrets.token_hex(8)}.sock")
            self._server = await asyncio.start_unix_server(self._serve, path, limit=LINE_LIMIT)
            os.chmod(path, 0o600)  # noqa: PTH101 - the folder keeps others out meanwhile; umask is not ours to change
            self.path = path
            await sweep(folder)
        return self.path

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        watching: set[str] = set()
        tasks: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                request = orjson.loads(line)
                if request["op"] == "watch":
                    self._watchers.setdefault(request["session_id"], set()).add(writer)
                    watching.add(request["session_id"])
                task = asyncio.get_running_loop().create_task(self._answer(request, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (ConnectionError, ValueError, KeyError):
            return  # a peer that breaks off or talks nonsense is dropped; its session goes on
        finally:
            for session_id in watching:
                self._watchers.get(session_id, set()).discard(writer)
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, request: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["result"] = await self._handle(request["op"], request["session_id"], request.get("args") or {})
        except UnsupportedOperation as e:
            answer["error"] = {
                "kind": "unsupported", "operation": e.operation, "adapter": e.adapter, "way_out": e.way_out
            }  # fmt: skip
        except Exception as e:  # noqa: BLE001 - told to the guest, who raises it
            answer["error"] = {"kind": type(e).__name__, "message": str(e)}
        await _send(writer, answer)

    async def ended(self, session_id: str, end: BackendEnd) -> None:
        """Tell every guest of a session that it is over."""
        for writer in self._watchers.pop(session_id, set()):
            await _send(
                writer,
                {"ended": session_id, "state": end.state, "reason": end.reason, "detail": end.detail},
            )

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()
            self._server = None
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)
            self.path = None


async def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    if writer.is_closing():
        return
    writer.write(orjson.dumps(message) + b"\n")
    with contextlib.suppress(ConnectionError):  # the reading side sees the same and cleans up
        await writer.drain()


_OVER: Final = frozenset({SessionClosed.__name__, SessionTimedOut.__name__, SessionFailed.__name__})


class _SessionOver(ConnectionLost):
    """The owner says that the session is over or ending; how it ended is told to every guest when it has."""


def _raise(error: Mapping[str, Any]) -> None:
    if error["kind"] == "unsupported":
        raise UnsupportedOperation(operation=error["operation"], adapter=error["adapter"], way_out=error["way_out"])
    if error["kind"] == "ReleaseFailed":
        raise ReleaseFailed(error["message"])
    if error["kind"] in _OVER:
        raise _SessionOver(error["message"])
    msg = f"the owner of the session answered: {error['message']}"
    raise BackendError(msg)


async def ask(path: str, op: str, session_id: str, args: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """One request on a connection of its own.

    Raises:
        ConnectionLost: Nobody listens there any more.
        BackendError: The owner answered with an error.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
    except OSError as e:
        msg = f"the process that owns session {session_id} does not answer: it has ended"
        raise ConnectionLost(msg) from e
    try:
        await _send(writer, {"id": 1, "op": op, "session_id": session_id, "args": args})
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        msg = f"the process that owns session {session_id} ended while it was asked"
        raise ConnectionLost(msg)
    answer = orjson.loads(line)
    if "error" in answer:
        _raise(answer["error"])
    return answer["result"]


class GuestBackend:
    """A session that another attachment owns, as a `lifecycle.ports.Backend`."""

    def __init__(self, path: str, session_id: str, adapter: str, host: Host) -> None:
        self._path = path
        self._session_id = session_id
        self._adapter = adapter
        self._host = host
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._pump: asyncio.Task[None] | None = None
        self._over = False
        self._told = asyncio.Event()

    @classmethod
    async def connect(cls, path: str, session_id: str, adapter: str, host: Host) -> GuestBackend:
        """Connect to the owner and follow the session.

        Raises:
            ConnectionLost: The owner has ended.
            StartFailed: The owner does not hold the session any more.
        """
        self = cls(path, session_id, adapter, host)
        try:
            reader, self._writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
        except OSError as e:
            msg = f"the process that owns session {session_id} does not answer: it has ended"
            raise ConnectionLost(msg) from e
        self._pump = asyncio.get_running_loop().create_task(self._read(reader))
        try:
            status = await self._ask("watch")
            if status["status"] != State.ACTIVE:
                msg = f"session {session_id} is {status['status']} at its owner"
                raise StartFailed(msg, step="connect_backend", adapter=adapter)
        except _SessionOver as e:
            await self.close_connections("connect failed")
            raise StartFailed(str(e), step="connect_backend", adapter=adapter) from e
        except BaseException:
            await self.close_connections("connect failed")
            raise
        return self

    async def _read(self, reader: asyncio.StreamReader) -> None:
        lost = "the process that owns the session ended"
        try:
            while line := await reader.readline():
                message = orjson.loads(line)
                if "ended" in message:
                    self._over = True
                    self._host.ended(
                        BackendEnd(
                            state=State(message["state"]),
                            reason=CloseReason(message["reason"]),
                            detail=message["detail"],
                        )
                    )
                    self._told.set()  # after it was posted: who waits for this finds the attachment ending
                elif (waiting := self._waiting.pop(message["id"], None)) is not None and not waiting.done():
                    waiting.set_result(message)
        except (ConnectionError, ValueError) as e:
            lost = f"the connection to the owner of the session broke: {type(e).__name__}"
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionLost(lost))
            self._waiting.clear()
            if not self._over:
                self._over = True
                self._host.ended(BackendEnd(state=State.ERROR, reason=CloseReason.OWNER_DIED, detail=lost))
            self._told.set()

    async def _ask(self, op: str, **args: Any) -> Any:  # noqa: ANN401 - JSON
        if self._writer is None or self._writer.is_closing():
            msg = f"the connection to the owner of session {self._session_id} is closed"
            raise ConnectionLost(msg)
        number = next(self._ids)
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        await _send(self._writer, {"id": number, "op": op, "session_id": self._session_id, "args": args})
        try:
            answer = await waiting
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            if op != "watch" and answer["error"]["kind"] in _OVER:
                await self._told.wait()
            _raise(answer["error"])
        return answer["result"]

    @property
    def session_id(self) -> str:
        """The session."""
        return self._session_id

    @property
    def can_live_on(self) -> bool:
        """A guest may always leave."""
        return True

    async def status(self) -> dict[str, Any]:
        """The owner's status of the session, as JSON."""
        result: dict[str, Any] = await self._ask("status")
        return result

    async def extend(self, minutes: float) -> None:
        """Move the session's maximum duration."""
        await self._ask("extend", minutes=minutes)

    async def get_cookies(self) -> Sequence[Cookie]:
        """Cookies of the default context, by way of the owner."""
        from lifecycle.cookies import from_cdp  # noqa: PLC0415 - only who uses cookies pays for them

        return [from_cdp(c) for c in await self._ask("get_cookies")]

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        """Set cookies by way of the owner."""
        from lifecycle.cookies import sendable, to_cdp  # noqa: PLC0415 - only who uses cookies pays for them

        good = [c for c in cookies if sendable(c)]
        refused = await self._ask("set_cookies", cookies=[to_cdp(c) for c in good])
        bad = [(c, "it holds half a surrogate pair") for c in cookies if not sendable(c)]
        return [*bad, *((good[index], reason) for index, reason in refused)]

    async def clear_cookies(self) -> None:
        """Remove every cookie by way of the owner."""
        await self._ask("clear_cookies")

    async def cdp_url(self) -> str:
        """The owner's CDP URL."""
        return str(await self._ask("cdp_url"))

    async def close_connections(self, reason: str) -> None:
        """Leave: the owner and its other guests go on."""
        del reason
        self._over = True
        if self._writer is not None:
            self._writer.close()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})

    async def release(self) -> None:
        """Ask the owner for a normal stop, and wait for it; nothing to do when the session is over.

        Raises:
            ReleaseFailed: The owner could not release its backend.
        """
        try:
            await ask(self._path, "stop", self._session_id)
        except ConnectionLost:
            return  # the owner ended, and its browser with it
        except BackendError as e:
            raise ReleaseFailed(str(e), session_id=self._session_id) from e
