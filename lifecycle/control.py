"""The control socket: how a guest reaches the owner of a session, in the same process or another.

Rule: one Unix socket per owning process, mode 0600 in a folder of mode 0700, one JSON object a line. Only the user
who owns the browser can open it. Secrets (the CDP URL, cookie values) go through it and are written nowhere. Nothing
that is asked waits for ever, however long the owner is stopped or stuck, by seconds of real time: the owner is a
process with a clock of its own.

A ``stop`` is answered twice: at once, when the ending has begun (``{"id": 1, "begun": true}``), and when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

import orjson

from lifecycle.actions import (
    Action,
    ActionResult,
    Observation,
    ObserveRequest,
    Scrape,
    ScrapeRequest,
    budget_of,
)
from lifecycle.errors import (
    BackendError,
    ConfigError,
    ConnectionLost,
    ReleaseFailed,
    SessionClosed,
    SessionFailed,
    SessionTimedOut,
    StartFailed,
    UnsupportedOperation,
)
from lifecycle.ports import BackendEnd
from lifecycle.states import ENDING_BUDGET, STEPS, CloseReason, State, Step

if TYPE_CHECKING:
    from lifecycle.cookies import Cookie
    from lifecycle.ports import Host

__all__ = ["ControlServer", "GuestBackend", "OwnerSilent", "ask", "stop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LINE_LIMIT: Final = 64 * 1024 * 1024
"""Longest line that is read, in bytes: a full cookie jar fits many times over."""

STATUS_BUDGET: Final = 5.0
"""Seconds in which an owner tells how a session stands."""

BEGIN_BUDGET: Final = STEPS[Step.RELEASE_BACKEND].budget
"""Seconds in which an owner begins to stop a session, or lets a guest in."""

STOP_BUDGET: Final = ENDING_BUDGET + 30.0
"""Seconds that an ending may take at its owner once it has begun: its steps, and some for the owner's hooks."""

ANSWER_BUDGET: Final = 65.0
"""Seconds for any other answer: a little more than the owner gives an operation on its backend."""

TELL_BUDGET: Final = 2.0
"""Seconds in which a guest reads that its session is over; one that is stuck keeps nobody waiting longer."""

UNFINISHED_AGE: Final = 3600.0
"""Seconds after which a socket that was bound and never put in its place has certainly been left behind."""

Handler = Callable[[str, str, Mapping[str, Any]], Awaitable[Any]]
"""Answers (operation, session id, arguments); raises BackendError or UnsupportedOperation."""


async def _run_blocking(func: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run `func` on a worker of the loop that this runs on."""
    return await asyncio.get_running_loop().run_in_executor(None, func, *args)


def _folder() -> Path:
    """A folder that only this user can enter, short enough for a socket path (about 100 bytes)."""
    uid = os.getuid()
    for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - guarded by owner and mode just below
        folder = base / f"lifecycle-control-{uid}"
        if len(os.fsencode(folder)) > 70:
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            info = folder.lstat()
        except OSError:  # something else has the name, or nothing can be made there
            continue
        if stat.S_ISDIR(info.st_mode) and info.st_uid == uid and not info.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="lifecycle-control-"))


def _put_in_place(bound: Path, path: Path) -> None:
    bound.chmod(0o600)  # the folder keeps others out meanwhile; umask is not ours to change
    bound.rename(path)


def _owner(path: str) -> str:
    """Words for the owner that listens at `path`."""
    pid = Path(path).name.partition("-")[0]
    return f"process {pid}" if pid.isdigit() else "the process"


def _unfinished(folder: Path) -> list[Path]:
    """Sockets whose owner died between binding and listening, as far as their age tells."""
    found = []
    for path in folder.glob("*.new"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > UNFINISHED_AGE:
                found.append(path)
    return found


async def sweep(folder: Path) -> int:
    """Remove sockets in `folder` that nobody listens on any more; how many.

    A socket gets its name ending in ``.sock`` after its owner listens on it, so one that refuses has lost its owner.
    """
    gone = await _run_blocking(_unfinished, folder)
    for path in await _run_blocking(lambda: list(folder.glob("*.sock"))):
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except ConnectionRefusedError:
            gone.append(path)
        except OSError:
            continue  # gone meanwhile, or nothing can be said of it now
        else:
            writer.close()
    count = 0
    for path in gone:
        with contextlib.suppress(OSError):
            await _run_blocking(path.unlink)
            count += 1
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
        self._sweeping: asyncio.Task[None] | None = None
        self.path: str | None = None

    async def start(self) -> str:
        """Listen; the path of the socket. What others left behind is swept meanwhile."""
        if self.path is None:
            folder = await _run_blocking(_folder)
            path = folder / f"{os.getpid()}-{secrets.token_hex(8)}.sock"
            bound = path.with_suffix(".new")  # until it listens, for a sweep takes one that refuses away
            server: asyncio.Server | None = None
            try:
                server = await asyncio.start_unix_server(self._serve, str(bound), limit=LINE_LIMIT)
                await _run_blocking(_put_in_place, bound, path)
            except BaseException:
                if server is not None:
                    server.close()
                for left in (bound, path):
                    left.unlink(missing_ok=True)  # here and now: nothing may come between
                raise
            self._server = server
            self.path = str(path)
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(folder))
        return self.path

    async def _sweep(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # what can't be swept now is swept by a later process
            await sweep(folder)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        watching: set[str] = set()
        tasks: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                number, op, session_id, args = _request(line)
                if op == "watch":
                    self._watchers.setdefault(session_id, set()).add(writer)
                    watching.add(session_id)
                task = asyncio.get_running_loop().create_task(self._answer(number, op, session_id, args, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (OSError, ValueError):
            return  # a peer that breaks off or talks nonsense is dropped; its session goes on
        finally:
            for session_id in watching:
                self._watchers.get(session_id, set()).discard(writer)
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, number: int, op: str, session_id: str, args: Mapping[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        answer: dict[str, Any] = {"id": number}
        try:
            work = asyncio.ensure_future(self._handle(op, session_id, args))
            if op == "stop":
                await asyncio.sleep(0)  # the handler has had its turn: it decides before it waits for anything
                if not work.done():
                    _write(writer, {"id": number, "begun": True})
            answer["result"] = await work
        except UnsupportedOperation as e:
            answer["error"] = {
                "kind": "unsupported", "operation": e.operation, "adapter": e.adapter, "way_out": e.way_out
            }  # fmt: skip
        except ConfigError as e:
            value = e.value if isinstance(e.value, (str, int, float)) else repr(e.value)
            answer["error"] = {"kind": "config", "option": e.option, "value": value, "allowed": e.allowed}
        except Exception as e:  # noqa: BLE001 - told to the guest, who raises it
            answer["error"] = {"kind": type(e).__name__, "message": _sendable(str(e))}
        try:
            _write(writer, answer)
        except (TypeError, ValueError) as e:
            reason = f"the answer to {_sendable(op)!r} can't be sent: {_sendable(str(e))}"
            _write(writer, {"id": number, "error": {"kind": type(e).__name__, "message": reason}})
        await _drain(writer)

    async def ended(self, session_id: str, end: BackendEnd) -> None:
        """Tell every guest of a session that it is over."""
        message = {
            "ended": session_id, "state": end.state, "reason": end.reason, "detail": _sendable(end.detail)
        }  # fmt: skip
        told = self._watchers.pop(session_id, set())
        for writer in told:
            _write(writer, message)  # to all of them first: one that does not read keeps no other waiting
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_BUDGET):
                await asyncio.gather(*map(_drain, told))

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()
            self._server = None
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)
            self.path = None


def _request(line: bytes) -> tuple[int, str, str, Mapping[str, Any]]:
    """A line as (number, operation, session id, arguments).

    Raises:
        ValueError: It is no request.
    """
    told = orjson.loads(line)
    if not isinstance(told, dict):
        msg = "a request is an object"
        raise ValueError(msg)
    number, op, session_id, args = told.get("id"), told.get("op"), told.get("session_id"), told.get("args") or {}
    if not (isinstance(number, int) and isinstance(op, str) and isinstance(session_id, str) and isinstance(args, dict)):
        msg = "a request has an id, an op and a session_id"
        raise ValueError(msg)
    return number, op, session_id, args


def _sendable(text: str) -> str:
    """`text` without half surrogate pairs, which no UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def _write(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    """Put a message on its way; silent when the other side is gone.

    Raises:
        TypeError: It can't be written as JSON.
    """
    line = orjson.dumps(message) + b"\n"
    if not writer.is_closing():
        writer.write(line)


async def _drain(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # the reading side sees the same and cleans up
        await writer.drain()


_OVER: Final = frozenset({SessionClosed.__name__, SessionTimedOut.__name__, SessionFailed.__name__})


class OwnerSilent(ConnectionLost):
    """The owner runs, as far as is known, but does not answer."""


class _SessionOver(ConnectionLost):
    """The owner says that the session is over or ending; how it ended is told to every guest when it has."""


def _silent(path: str, session_id: str, seconds: float) -> OwnerSilent:
    return OwnerSilent(
        f"{_owner(path)}, which owns session {session_id}, did not answer within {seconds:g} seconds: it is stopped or "
        "stuck; let it go on (kill -CONT), or end it, and its browser with it"
    )


def _raise(error: Mapping[str, Any]) -> None:
    if error["kind"] == "unsupported":
        raise UnsupportedOperation(operation=error["operation"], adapter=error["adapter"], way_out=error["way_out"])
    if error["kind"] == "config":
        raise ConfigError(option=error["option"], value=error["value"], allowed=error["allowed"])
    if error["kind"] == "ReleaseFailed":
        raise ReleaseFailed(error["message"])
    if error["kind"] in _OVER:
        raise _SessionOver(error["message"])
    msg = f"the owner of the session answered: {error['message']}"
    raise BackendError(msg)


def _result(answer: Mapping[str, Any], path: str, session_id: str) -> Any:  # noqa: ANN401 - JSON
    """The result in an answer; raises the error in it, and BackendError where it holds neither."""
    try:
        if "error" in answer:
            _raise(answer["error"])
        return answer["result"]
    except (KeyError, TypeError) as e:
        msg = f"{_owner(path)}, which owns session {session_id}, gave an answer that can't be read"
        raise BackendError(msg) from e


async def _exchange(
    path: str, op: str, session_id: str, args: Mapping[str, Any] | None, on_begun: Callable[[], None]
) -> Any:  # noqa: ANN401 - JSON
    lost = f"{_owner(path)}, which owns session {session_id}, "
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
    except OSError as e:
        raise ConnectionLost(lost + "can't be reached: it has ended") from e
    try:
        _write(writer, {"id": 1, "op": op, "session_id": session_id, "args": args})
        await _drain(writer)
        while True:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionLost(lost + f"ended while it was asked to {op}")
            answer = orjson.loads(line)
            if "begun" not in answer:
                break
            on_begun()
        return _result(answer, path, session_id)
    except OSError as e:
        raise ConnectionLost(lost + f"broke off while it was asked to {op}") from e
    except (ValueError, KeyError, TypeError) as e:
        msg = lost + f"gave no answer that can be read when it was asked to {op}"
        raise BackendError(msg) from e
    finally:
        writer.close()


async def ask(path: str, op: str, session_id: str, args: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """One request on a connection of its own, answered within `STATUS_BUDGET` seconds.

    Raises:
        OwnerSilent: No answer came in time.
        ConnectionLost: Nobody listens there any more.
        BackendError: The owner answered with an error.
    """
    try:
        async with asyncio.timeout(STATUS_BUDGET):
            return await _exchange(path, op, session_id, args, lambda: None)
    except TimeoutError as e:
        raise _silent(path, session_id, STATUS_BUDGET) from e


async def stop(path: str, session_id: str, *, on_begun: Callable[[], None] = lambda: None) -> None:
    """Ask the owner for a normal stop, and wait for its end.

    Args:
        path: The owner's socket.
        session_id: The session.
        on_begun: Called when the owner has begun to end the session; from then on nothing else can end it.

    Raises:
        OwnerSilent: It has not begun within `BEGIN_BUDGET` seconds.
        ReleaseFailed: The owner could not release its backend, or took longer than `STOP_BUDGET` seconds.
        ConnectionLost: Nobody listens there any more, or the owner ended meanwhile.
    """
    begun = False

    def begins() -> None:
        nonlocal begun
        begun = True
        timeout.reschedule(asyncio.get_running_loop().time() + STOP_BUDGET)
        on_begun()

    try:
        async with asyncio.timeout(BEGIN_BUDGET) as timeout:
            await _exchange(path, "stop", session_id, None, begins)
    except TimeoutError as e:
        if not begun:
            raise _silent(path, session_id, BEGIN_BUDGET) from e
        raise _unfinished_stop(path, session_id, STOP_BUDGET) from e


def _unfinished_stop(path: str, session_id: str, seconds: float) -> ReleaseFailed:
    return ReleaseFailed(
        f"{_owner(path)}, which owns session {session_id}, has begun to stop it but has not finished within "
        f"{seconds:g} seconds; look again with client.sessions.get(), or end that process",
        session_id=session_id,
    )


def _patience(request: Action | ObserveRequest | ScrapeRequest) -> float:
    """Seconds that a guest waits for an operation: a little more than the owner gives it."""
    return budget_of(request) + ANSWER_BUDGET - 60.0


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
        self._stopping: asyncio.Task[None] | None = None
        self._begun = False
        self._attempts = 0
        self.viewer_url: str | None = None
        """The live view that the owner serves."""

    @classmethod
    async def connect(cls, path: str, session_id: str, adapter: str, host: Host) -> GuestBackend:
        """Connect to the owner and follow the session.

        Raises:
            OwnerSilent: The owner does not answer.
            ConnectionLost: The owner has ended.
            StartFailed: The owner does not hold the session any more.
        """
        self = cls(path, session_id, adapter, host)
        try:
            reader, self._writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
        except OSError as e:
            msg = f"{_owner(path)}, which owns session {session_id}, can't be reached: it has ended"
            raise ConnectionLost(msg) from e
        self._pump = asyncio.get_running_loop().create_task(self._read(reader))
        try:
            status = await self._ask("watch", BEGIN_BUDGET)
            if status["status"] != State.ACTIVE:
                msg = f"session {session_id} is {status['status']} at its owner"
                raise StartFailed(msg, step="connect_backend", adapter=adapter)
            self.viewer_url = status.get("viewer_url")
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
        except (OSError, ValueError, KeyError, TypeError) as e:  # it broke, or what came is no message
            lost = f"the connection to the owner of the session broke: {type(e).__name__}"
        finally:
            if self._writer is not None:
                self._writer.close()  # nobody reads answers any more, so nothing more is asked
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionLost(lost))
            self._waiting.clear()
            if not self._over:
                self._over = True
                self._host.ended(BackendEnd(state=State.ERROR, reason=CloseReason.OWNER_DIED, detail=lost))
            self._told.set()

    async def _ask(self, op: str, seconds: float = ANSWER_BUDGET, **args: Any) -> Any:  # noqa: ANN401 - JSON
        """One request on the connection that follows the session, answered within `seconds`."""
        if self._writer is None or self._writer.is_closing():
            msg = f"the connection to the owner of session {self._session_id} is closed"
            raise ConnectionLost(msg)
        number = next(self._ids)
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            async with asyncio.timeout(seconds):
                _write(self._writer, {"id": number, "op": op, "session_id": self._session_id, "args": args})
                await _drain(self._writer)
                answer = await waiting
                if "error" in answer and op != "watch" and answer["error"]["kind"] in _OVER:
                    await self._told.wait()
        except TimeoutError as e:
            raise _silent(self._path, self._session_id, seconds) from e
        finally:
            self._waiting.pop(number, None)
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # seen, where the connection broke before it was awaited
        return _result(answer, self._path, self._session_id)

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
        result: dict[str, Any] = await self._ask("status", STATUS_BUDGET)
        return result

    async def extend(self, minutes: float) -> None:
        """Move the session's maximum duration."""
        await self._ask("extend", minutes=minutes)

    async def hold(self, reason: str, minutes: float) -> None:
        """Keep the session open without use."""
        await self._ask("hold", reason=reason, minutes=minutes)

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

    async def execute(self, action: Action) -> ActionResult:
        """Do one action on the page, by way of the owner."""
        return ActionResult.from_json(await self._ask("execute", _patience(action), request=action.to_json()))

    async def observe(self, request: ObserveRequest) -> Observation:
        """Look at the page, by way of the owner."""
        return Observation.from_json(await self._ask("observe", _patience(request), request=request.to_json()))

    async def scrape(self, request: ScrapeRequest) -> Scrape:
        """Read the page, by way of the owner."""
        return Scrape.from_json(await self._ask("scrape", _patience(request), request=request.to_json()))

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

        One stop for all attempts: an attempt that is over before the owner is leaves the next one waiting for it.

        Raises:
            ReleaseFailed: The owner could not release its backend, has not finished, or does not answer.
        """
        await self.close_connections("released")  # where the step that does it failed, nobody else would
        rule = STEPS[Step.RELEASE_BACKEND]
        self._attempts += 1
        if self._stopping is None:
            self._begun = False
            self._stopping = asyncio.get_running_loop().create_task(
                stop(self._path, self._session_id, on_begun=self._begins)
            )
        stopping = self._stopping
        waited = rule.budget - 1.0  # this says why; the end of the step's budget would not
        try:
            await asyncio.wait({stopping}, timeout=waited)
        finally:
            if stopping.done() or self._attempts >= rule.attempts:
                stopping.cancel()
                self._stopping = None
        if not stopping.done():
            waited *= self._attempts
            if self._begun:
                raise _unfinished_stop(self._path, self._session_id, waited)
            raise ReleaseFailed(str(_silent(self._path, self._session_id, waited)), session_id=self._session_id)
        try:
            stopping.result()
        except OwnerSilent as e:
            raise ReleaseFailed(str(e), session_id=self._session_id) from e
        except ConnectionLost:
            return  # the owner ended, and its browser with it
        except BackendError as e:
            self._stopping = stopping  # the answer stands: asked again, the owner does not know the session
            raise ReleaseFailed(str(e), session_id=self._session_id) from e

    def _begins(self) -> None:
        self._begun = True
