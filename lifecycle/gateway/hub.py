"""One browser and its clients: which client gets what, and what it may send.

Rule: a client has a browser session of its own (`Target.attachToBrowserTarget`) and reaches the CDP sessions that were
attached through it, no others. Ids are rewritten on the way to the browser, so clients never collide. The pump never
waits for a client: one that does not read is dropped. Everything here runs on the gateway's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from lifecycle.errors import BackendError, ConnectionLost
from lifecycle.gateway import own, policy, wire
from lifecycle.gateway.contexts import Contexts
from lifecycle.gateway.downloads import EVENTS, Downloads
from lifecycle.gateway.opened import Opened
from lifecycle.gateway.pipe import Pipe
from lifecycle.gateway.waiting import Waiting
from lifecycle.gateway.websocket import Socket
from lifecycle.logs import get_logger
from lifecycle.ports import CdpPipe

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from lifecycle.gateway.wire import Message

_CLOSE_BUDGET: Final = 1.0
"""Seconds that clients get to answer the closing of their WebSocket."""

_LAST_WORDS: Final = 0.2
"""Seconds between the end of the connection and its report: the process ends in that time, which says more."""

_TRACKED: Final = frozenset({b"Target.attachedToTarget", b"Target.detachedFromTarget"})

_log: Final = get_logger(__name__)


class Link(Protocol):
    """A client's WebSocket, as far as the hub knows it."""

    def send(self, message: bytes) -> None:
        """Queue a message; never blocks, silent when the socket is closed."""

    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        ...

    def abort(self) -> None:
        """Cut the connection."""

    async def close(self, code: int, reason: str) -> None:
        """Close it politely."""


@dataclass(slots=True, eq=False)
class Client:
    """One WebSocket client.

    Attributes:
        link: Its socket.
        root: The CDP session that its messages without a ``sessionId`` go to. Never shown to it.
        sessions: The CDP sessions it may use, each with the session it was attached through.
        gone: It left; answers that still come for it are dropped.
        own: It is the library's own; see `lifecycle.gateway.own`.
        hears_dialogs: It has listened to a page, so it hears of the dialogs there.
        heard_at: When its last command came, by the clock of the loop.
        frozen: It let a target wait for it and has been silent since.
    """

    link: Link
    root: str
    sessions: dict[str, str] = field(default_factory=dict)
    gone: bool = False
    own: bool = False
    hears_dialogs: bool = False
    heard_at: float = 0.0
    frozen: bool = False


class Hub:
    """The pump between one browser and its clients.

    Args:
        pipe: The browser's connection; taken over at once. With a WebSocket the browser is a foreign one: see
            `lifecycle.gateway.opened`.
        token: What clients prove with that they may connect.
        on_use: Called for each command of a client that counts as use.
        on_lost: Called once when the connection breaks by itself.
    """

    def __init__(
        self,
        pipe: CdpPipe | ClientConnection,
        *,
        token: str,
        on_use: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.token = token
        self.own_token = secrets.token_urlsafe(32)
        """What the library's own clients prove with that they may connect."""
        self.downloads = Downloads(self.call)
        self.ended: str | None = None
        """The close_reason, once clients are no longer served."""
        self.contexts = Contexts(self.call)
        self.opened = None if isinstance(pipe, CdpPipe) else Opened(self.call)
        """What was opened through us, where the browser is not ours."""
        self._on_use = on_use
        self._on_lost = on_lost
        self._last_id = 0
        self._commands: dict[int, tuple[Client, int, str]] = {}
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._owners: dict[str, Client] = {}
        self._clients: set[Client] = set()
        self._waiting = Waiting(self._loop, self._resume)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._report: asyncio.TimerHandle | None = None
        self._pipe: Pipe | Socket
        if isinstance(pipe, CdpPipe):
            take, skip = self._received, self._oversize
            self._pipe = Pipe(self._loop, pipe, on_message=take, on_oversize=skip, on_lost=self._lost)
        else:
            self._pipe = Socket(self._loop, pipe, on_message=self._received, on_lost=self._lost)
        self._pipe.start()

    def used(self) -> None:
        """Count use that no client's command tells of."""
        self._on_use()

    def fds(self) -> tuple[int, ...]:
        """The browser's descriptors, while they are open."""
        return self._pipe.fds()

    # --- commands of the library

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, session_id: str | None = None
    ) -> dict[str, object]:
        """Send a command as the library itself and await its result.

        Raises:
            BackendError: The browser answered with an error.
            ConnectionLost: The connection is closed.
        """
        reply = await self._ask({"method": method, "params": params or {}}, session_id)
        error = reply.get("error")
        if error is not None:
            raise BackendError(f"{method}: {error.get('message', 'unknown error')}")
        result: dict[str, object] = reply.get("result", {})
        return result

    async def _ask(self, message: Message, session: str | None) -> Message:
        """Send a command under an id of ours and await its answer."""
        if self.opened is None or message["method"] != "Target.createTarget":
            return await self._exchange(message, session)
        # Even when nobody waits for the answer any more, the page has to be known, or nobody would close it.
        asking = self._loop.create_task(self.opened.note(self._exchange(message, session)))
        self._tasks.add(asking)
        asking.add_done_callback(self._tasks.discard)
        return await asyncio.shield(asking)

    async def _exchange(self, message: Message, session: str | None) -> Message:
        method = message["method"]
        if self._pipe.closed:
            raise ConnectionLost(f"{method}: the connection to the browser is closed")
        number = self._next_id()
        message = {"id": number, **{key: message[key] for key in ("method", "params") if key in message}}
        if session is not None:
            message["sessionId"] = session
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._calls[number] = answer
        try:
            self._pipe.write(wire.dumps(message))
            return await answer
        finally:
            self._calls.pop(number, None)

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % policy.MAX_ID + 1
            if self._last_id not in self._commands and self._last_id not in self._calls:
                return self._last_id

    # --- from the browser

    def _received(self, raw: bytes) -> None:
        number, method, id_end = wire.head(raw)
        if number is not None:
            self._answered(number, raw, id_end)
            return
        session = wire.tail_session(raw)
        if method is None or session is None:
            self._odd_shape(raw)
            return
        client = self._owners.get(session)
        if client is None:
            return
        if method in _TRACKED and not self._track(client, session, wire.loads(raw)):
            return
        self._deliver(client, wire.without_tail(raw) if session == client.root else raw)

    def _answered(self, number: int, raw: bytes, id_end: int) -> None:
        call = self._calls.get(number)
        if call is not None:
            if not call.done():
                call.set_result(wire.loads(raw))
            return
        command = self._commands.pop(number, None)
        if command is None:
            return
        client, their_id, session = command
        tail = wire.tail_session(raw)
        if session == client.root and tail is None:  # a browser whose session ids have another shape
            message = wire.loads(raw)
            message["id"] = their_id
            message.pop("sessionId", None)
            self._deliver(client, wire.dumps(message))
            return
        ours = session == client.root and tail == session
        self._deliver(client, wire.with_id(raw, their_id, id_end, cut_session=ours))

    def _odd_shape(self, raw: bytes) -> None:
        """A message that is not shaped as expected, or one that belongs to no session."""
        message = wire.loads(raw)
        number = message.get("id")
        if number in self._calls:
            if not self._calls[number].done():
                self._calls[number].set_result(message)
            return
        command = self._commands.pop(number, None) if isinstance(number, int) else None
        if command is not None:
            client, message["id"], _ = command
        else:
            session: str | None = message.get("sessionId")
            method = message.get("method")
            if session is None and method == "Target.detachedFromTarget":
                # The browser ended a client's own session: the page that a page connection is about was closed.
                left = self._owners.get(message["params"].get("sessionId"))
                if left is not None:
                    self._spawn(left.link.close(1000, "the target is gone"))
                return
            if session is None and method in EVENTS:
                self.downloads.event(str(method), message["params"])
                return
            if session is None and self.opened is not None:
                self.opened.event(str(method), message.get("params", {}))
            owner = self._owners.get(session) if session is not None else None
            if session is None or owner is None:
                return
            client = owner
            if str(method).encode() in _TRACKED and not self._track(client, session, message):
                return
        if message.get("sessionId") == client.root:
            del message["sessionId"]
        self._deliver(client, wire.dumps(message))

    def _oversize(self, first: bytes) -> None:
        """A message too long to carry: the request that asked for it fails, an event is left out."""
        number, method, _ = wire.head(first)
        limit = policy.MAX_MESSAGE // (1024 * 1024)
        if number is None:
            _log.warning("an event of the browser (%s) above %d MB was left out", (method or b"?").decode(), limit)
            return
        error = {"code": policy.SERVER_ERROR, "message": f"the answer is longer than the {limit} MB that are carried"}
        self._answered(number, wire.dumps({"id": number, "error": error}), len(b'{"id":%d' % number))

    def _deliver(self, client: Client, message: bytes) -> None:
        if client.gone:
            return
        if client.link.backlog() > policy.MAX_BACKLOG:
            _log.warning(
                "a CDP client was dropped: it left more than %d MB unread", policy.MAX_BACKLOG // (1024 * 1024)
            )
            client.gone = True
            client.link.abort()
            return
        client.link.send(message)

    def _track(self, client: Client, parent: str, message: Message) -> bool:
        """Keep the record of which session belongs to whom; False when the client shall not hear of it."""
        session = message["params"].get("sessionId")
        if message["method"] == "Target.attachedToTarget":
            info = message["params"].get("targetInfo", {})
            theirs = info.get("browserContextId") in self.contexts
            hidden = client.own and theirs  # contexts that clients made are theirs alone
            if self.opened is not None and parent == client.root:
                hidden = hidden or not self.opened.shows(info, ours=theirs)
            if hidden:
                self._detach(session, parent)
                return False
            client.sessions[session] = parent
            self._owners[session] = client
            if message["params"].get("waitingForDebugger") is True and not client.own:
                self._waiting.add(client, session)
        elif session not in client.sessions and (client.own or self.opened is not None):
            return False
        else:
            self._forget(client, session)
        return True

    def _detach(self, session: str, parent: str | None = None) -> None:
        """End a session that hangs on `parent`, or on the browser itself, without waiting for the answer."""
        message: Message = {"id": self._next_id(), "method": "Target.detachFromTarget"}
        message["params"] = {"sessionId": session}
        if parent is not None:
            message["sessionId"] = parent
        self._pipe.write(wire.dumps(message))

    def _resume(self, session: str) -> None:
        """Let the target of `session` go, which waits for a client."""
        method = "Runtime.runIfWaitingForDebugger"
        self._pipe.write(wire.dumps({"id": self._next_id(), "method": method, "params": {}, "sessionId": session}))

    def _forget(self, client: Client, session: str) -> None:
        """A session ended, and with it all that were attached through it."""
        ended = [session]
        while ended:
            gone = ended.pop()
            if client.sessions.pop(gone, None) is not None:
                del self._owners[gone]
                self._waiting.done(gone)
            ended.extend(child for child, parent in client.sessions.items() if parent == gone)

    # --- from clients

    async def join(self, link: Link, target_id: str | None, *, own: bool = False) -> Client:
        """Give `link` a session of its own: on the browser, or on the page `target_id`.

        With `own` it is one of the library's own clients.

        Raises:
            BackendError: There is no such page, or no browser any more.
        """
        if target_id is None:
            result = await self.call("Target.attachToBrowserTarget")
        else:
            result = await self.call("Target.attachToTarget", {"targetId": target_id, "flatten": True})
        client = Client(link=link, root=str(result["sessionId"]), own=own, heard_at=self._loop.time())
        self._clients.add(client)
        self._owners[client.root] = client
        return client

    async def leave(self, client: Client) -> None:
        """A client's socket closed: end its session, as the browser does for a closed connection.

        Chromium then ends the sessions below it, drops what they had switched on, and disposes of the contexts that
        were made with ``disposeOnDetach``; their cookies are counted first.
        """
        if client not in self._clients:
            return
        self._clients.discard(client)
        client.gone = True
        self.downloads.left(client)
        for number in [n for n, command in self._commands.items() if command[0] is client]:
            del self._commands[number]
        for session in client.sessions:
            self._waiting.done(session)
        await self.contexts.leave_with(client)
        for session in (client.root, *client.sessions):
            self._owners.pop(session, None)
        client.sessions.clear()
        if not self._pipe.closed:
            self._detach(client.root)
            self._spawn(self._downloads_again())

    async def _downloads_again(self) -> None:
        with contextlib.suppress(BackendError):  # the browser is gone, and with it what would be said
            await self.downloads.again()

    def command(self, client: Client, raw: bytes) -> Awaitable[None] | None:
        """Take one message of a client. What is returned has to be awaited before its next message is read."""
        client.heard_at = self._loop.time()
        client.frozen = False
        try:
            message = wire.loads(raw)
        except ValueError as e:
            self._refuse(client, None, policy.PARSE_ERROR, f"JSON: {e}")
            return None
        if not isinstance(message, dict):
            self._refuse(client, None, policy.INVALID_REQUEST, "Message must be an object")
            return None
        number = message.get("id")
        if type(number) is not int or not -policy.MAX_ID <= number <= policy.MAX_ID:
            self._refuse(client, None, policy.INVALID_REQUEST, "Message must have integer 'id' property")
            return None
        method = message.get("method")
        if not isinstance(method, str):
            self._refuse(client, message, policy.INVALID_REQUEST, "Message must have string 'method' property")
            return None
        session = message.get("sessionId")
        if session is None:
            session = message["sessionId"] = client.root
        elif not isinstance(session, str) or session not in client.sessions:
            message.pop("sessionId")
            self._refuse(client, message, policy.SESSION_NOT_FOUND, "Session with given id not found.")
            return None
        params = message.get("params")
        return self._accepted(client, message, session, params if isinstance(params, dict) else {}, len(raw))

    def _accepted(
        self, client: Client, message: Message, session: str, params: Message, size: int
    ) -> Awaitable[None] | None:
        method: str = message["method"]
        why = policy.refusal(method, params)
        if why is not None:
            self._refuse(client, message, policy.SERVER_ERROR, why)
            return None
        if method == "Browser.close":
            # The lifecycle owns the browser: for this client it is closed, for everyone else it goes on.
            self._reply(client, message, {"result": {}})
            return client.link.close(1000, "Browser.close")
        if method == "Runtime.runIfWaitingForDebugger":
            self._waiting.done(session)
        if client.own:
            others = any(c.hears_dialogs for c in self._clients)
            if own.kept_back(method, others_answer_dialogs=others):
                self._reply(client, message, {"result": {}})
                return None
            message["params"] = params = dict(own.tamed(method, params))
            if method == "Target.createTarget" and self.opened is not None:
                return self._answer(client, message, session, size)
            return self._send(client, message, session, size)
        if method == "Page.enable":
            client.hears_dialogs = True
        elif method == "Browser.setDownloadBehavior":
            self.downloads.told(client, params)
        if policy.is_use(method):
            self._on_use()
        if method == "Target.createBrowserContext" or (method == "Target.createTarget" and self.opened is not None):
            return self._answer(client, message, session, size)
        context = params.get("browserContextId")
        if method == "Target.disposeBrowserContext" and isinstance(context, str) and context in self.contexts:
            return self._dispose(client, message, session, size, context)
        return self._send(client, message, session, size)

    def _send(self, client: Client, message: Message, session: str, size: int) -> Awaitable[None] | None:
        their_id = message["id"]
        message["id"] = number = self._next_id()
        try:
            raw = wire.dumps(message)
        except ValueError as e:
            message["id"] = their_id
            self._refuse(client, message, policy.PARSE_ERROR, str(e))
            return None
        if size > policy.MAX_COMMAND or len(raw) > policy.MAX_COMMAND:
            message["id"] = their_id
            limit = f"{policy.MAX_COMMAND:,} bytes that Chromium takes"
            self._refuse(client, message, policy.INVALID_REQUEST, f"the message is longer than the {limit}")
            return None
        self._commands[number] = (client, their_id, session)
        self._pipe.write(raw)
        return self._pipe.drained() if self._pipe.crowded else None

    async def _answer(self, client: Client, message: Message, session: str, size: int) -> None:
        """Carry out a command whose answer the gateway has to know before its client does."""
        if size > policy.MAX_COMMAND:
            self._send(client, message, session, size)  # which refuses it
            return
        try:
            reply = await self._ask(message, session)
        except ConnectionLost:
            return  # as for every command: the end of the session is told to all
        except ValueError as e:
            self._refuse(client, message, policy.PARSE_ERROR, str(e))
            return
        made = reply.get("result", {}).get("browserContextId")
        if isinstance(made, str) and message["method"] == "Target.createBrowserContext":
            dispose = (message.get("params") or {}).get("disposeOnDetach") is True
            await self.contexts.add(made, client, dispose_on_detach=dispose)
        self._reply(client, message, {key: reply[key] for key in ("result", "error") if key in reply})

    def _refuse(self, client: Client, message: Message | None, code: int, text: str) -> None:
        self._reply(client, message, {"error": {"code": code, "message": text}})

    def _reply(self, client: Client, message: Message | None, outcome: Message) -> None:
        """Answer a client in the browser's place, shaped as the browser does it."""
        reply: Message = {} if message is None else {"id": message["id"]}
        reply.update(outcome)
        session = None if message is None else message.get("sessionId")
        if session is not None and session != client.root:
            reply["sessionId"] = session
        self._deliver(client, wire.dumps(reply))

    # --- contexts that clients make, and pages in a foreign browser

    async def _dispose(self, client: Client, message: Message, session: str, size: int, context: str) -> None:
        """Read the cookies of a context, then let the client dispose of it.

        Chromium often answers neither when the two commands follow each other at once, so the reading comes first.
        """
        await self.contexts.read([context])
        self.contexts.drop(context)
        waiting = self._send(client, message, session, size)
        if waiting is not None:
            await waiting

    async def seed_contexts(self, cookies: Sequence[Mapping[str, object]]) -> None:
        """See `lifecycle.ports.CdpEndpoint`."""
        self.contexts.seed_with(cookies)

    async def close_opened(self) -> None:
        """See `lifecycle.ports.CdpEndpoint`; nothing to do where the whole browser is ours."""
        if self.opened is not None and not self._pipe.closed:
            await self.opened.close(self.contexts.ids())

    # --- ending

    async def close_clients(self, reason: str) -> None:
        """Close every client's socket with `reason`; nobody can connect from now on. Idempotent."""
        if self.ended is None:
            self.ended = reason
        clients = list(self._clients)
        if not self._pipe.closed:
            await self.contexts.read(self.contexts.ids())
        closing = [
            self._loop.create_task(c.link.close(policy.CLOSED_BY_OWNER, policy.close_text(self.ended))) for c in clients
        ]
        if not closing:
            return
        await asyncio.wait(closing, timeout=_CLOSE_BUDGET)
        for client, task in zip(clients, closing, strict=True):
            if not task.done():
                client.link.abort()
                task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)

    async def aclose(self) -> None:
        """Close the clients and the connection to the browser. Idempotent."""
        if self._report is not None:
            self._report.cancel()
        await self.close_clients(self.ended or "manual")
        self._waiting.close()
        self._pipe.close()
        await self._pipe.wait_closed()
        self.downloads.lost()
        self._fail_calls("the connection to the browser was closed")
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_CLOSE_BUDGET)

    def _lost(self, reason: str) -> None:
        if self.ended is None:
            self.ended = "crash"
        self._fail_calls(reason)
        if self.opened is not None:
            self.opened.lost()
        self.downloads.lost()
        self._waiting.close()
        self._report = self._loop.call_later(_LAST_WORDS, self._on_lost, reason)
        self._spawn(self.close_clients(self.ended))

    def _fail_calls(self, reason: str) -> None:
        for answer in list(self._calls.values()):
            if not answer.done():
                answer.set_exception(ConnectionLost(reason))

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
