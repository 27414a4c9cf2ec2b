"""The ports: what an adapter, a store and a clock have to be.

Rule: adapters import this module and the other public ones below it (`states`, `errors`, `config`, `cookies`,
`audit`), never the engine; the engine knows adapters only through what is written here. All coroutines below are
run on the supervisor's event loop and must not block it: blocking work goes through `Host.run_blocking`.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, TypeVarTuple, runtime_checkable

from lifecycle.audit import Record
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from lifecycle.actions import Action, ActionResult, Observation, ObserveRequest, Scrape, ScrapeRequest
    from lifecycle.audit.query import Query
    from lifecycle.config import SessionOptions
    from lifecycle.cookies import Cookie

__all__ = [
    "Adapter",
    "Backend",
    "BackendEnd",
    "CdpEndpoint",
    "CdpPipe",
    "CdpSocket",
    "Claim",
    "Clock",
    "ContextCookies",
    "Directory",
    "Download",
    "DownloadCapture",
    "Host",
    "KnownSession",
    "Leases",
    "Operator",
    "Reaper",
    "SessionRow",
    "Store",
    "Timer",
    "Writer",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


# --- time -------------------------------------------------------------------------------------------------------


class Timer(Protocol):
    """A pending wake-up."""

    def cancel(self) -> None:
        """Drop it; silent when it has fired already."""
        ...


@runtime_checkable
class Clock(Protocol):
    """Time, as the lifecycle sees it. Inject `lifecycle.testing.ManualClock` in tests."""

    def monotonic(self) -> float:
        """Seconds that never go back; what deadlines and budgets are measured with."""
        ...

    def utcnow(self) -> datetime:
        """The wall clock as an aware UTC time; what records are stamped with."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the event loop of the calling thread once `monotonic()` reaches `when`."""
        ...


# --- browsers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEnd:
    """What a backend says when it ended by itself.

    Attributes:
        state: The terminal state this leads to: `error` for a crash, `timed_out`, or `closed`.
        reason: The close_reason to record.
        detail: A sentence for the error message, without secrets.
    """

    state: State
    reason: CloseReason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CdpPipe:
    """The two ends of a browser's ``--remote-debugging-pipe`` (NUL-separated JSON), owned by the receiver.

    Attributes:
        read_fd: Messages of the browser are read here.
        write_fd: Commands to the browser are written here.
    """

    read_fd: int
    write_fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CdpSocket:
    """The WebSocket of a browser that somebody else runs.

    Attributes:
        url: ``ws://`` or ``wss://``; a secret, since whoever has it drives the browser.
        headers: What the handshake carries, such as an ``Authorization``; secrets too.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextCookies:
    """What a browser context that a client made held when it was read last, as CDP writes cookies.

    Attributes:
        seeds: The cookies that it began with.
        cookies: The cookies in it.
    """

    seeds: Sequence[Mapping[str, object]]
    cookies: Sequence[Mapping[str, object]]


class CdpEndpoint(Protocol):
    """A gateway over one browser's CDP connection, made by `Host.serve_cdp`."""

    @property
    def url(self) -> str:
        """``ws://127.0.0.1:PORT/TOKEN``: a secret, for clients only."""
        ...

    @property
    def own_url(self) -> str:
        """As `url`, for the library's own clients: they see the default context, are not use, and disturb nobody."""
        ...

    @property
    def foreign_cookies(self) -> int:
        """Cookies seen in browser contexts that clients made, which are not in the default context."""
        ...

    def show(self, snapshot: Callable[[int], Awaitable[Mapping[str, Any]]], *, interactive: bool) -> str:
        """Serve a live view for as long as the session lives.

        Args:
            snapshot: Tells how the session stands; awaited on the gateway's loop, see `lifecycle.gateway.view`.
            interactive: True to let keyboard and mouse of the viewers through.

        Returns:
            The URL of its page: a secret, which shows all that the session shows.
        """
        ...

    async def capture_downloads(self, folder: str) -> DownloadCapture:
        """Learn of the downloads of the default context, and have them saved, until the capture is closed.

        Where a client has said where downloads go, they go there all the same.
        """
        ...

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, session_id: str | None = None
    ) -> dict[str, object]:
        """Send one CDP command as the library itself (invisible to clients, does not count as use).

        Raises:
            BackendError: The browser answered with an error.
            ConnectionLost: The pipe is closed.
        """
        ...

    async def seed_contexts(self, cookies: Sequence[Mapping[str, object]]) -> None:
        """Set these cookies (CDP's `CookieParam`) in every context that a client makes from now on.

        From the first call on, what is in such contexts is kept for `context_cookies` instead of counted.
        """
        ...

    async def context_cookies(self) -> Sequence[ContextCookies]:
        """What the contexts that clients made hold, and those that are gone held; the oldest first."""
        ...

    async def close_opened(self) -> None:
        """In a foreign browser (`CdpSocket`): close the pages and contexts that were opened through this endpoint.

        Raises:
            ReleaseFailed: Some may still be open.
        """
        ...

    async def close_clients(self, reason: str) -> None:
        """Close every client's WebSocket with `reason`; later connections get HTTP 410 with it. Idempotent."""
        ...

    async def aclose(self) -> None:
        """Close clients and the connection to the browser. Idempotent."""
        ...


class DownloadCapture(Protocol):
    """The downloads that begin while it is open; made by `CdpEndpoint.capture_downloads`."""

    async def next(self) -> Download:
        """Wait for the next download to begin and to end.

        Raises:
            OperationFailed: Its end was not a file: it was cancelled or is not allowed.
            ConnectionLost: The browser is gone.
        """
        ...

    async def aclose(self) -> None:
        """Look no more. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A finished download.

    Attributes:
        url: Where it came from.
        filename: The name that the site suggests; not to be trusted as a path.
        path: Where the browser saved it.
    """

    url: str
    filename: str
    path: str

    def keep(self, folder: Path) -> Path:
        """Put the file into a folder as well, under its name or, where that is taken, with a number before it.

        Args:
            folder: Where; it has to be there.

        Raises:
            OSError: The file is gone, or there is no room for it.
        """
        source, name = Path(self.path), Path(self.filename.replace("\\", "/")).name.replace("\0", "")[-150:]
        if name in ("", ".", ".."):
            name = "download"
        number, target = 0, folder / name
        while True:
            try:
                _link(source, target)
            except FileExistsError:
                number += 1
                target = folder / f"{number}-{name}"
            else:
                return target


def _link(source: Path, target: Path) -> None:
    """Make one file known by a second name, or copy it where that can't be; never over another."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links
        with source.open("rb") as one, target.open("xb") as other:
            shutil.copyfileobj(one, other)


class Host(Protocol):
    """What the engine offers an adapter for one session."""

    @property
    def clock(self) -> Clock:
        """The clock of the client."""
        ...

    def ended(self, end: BackendEnd) -> None:
        """Report that the backend ended by itself. Any thread; only the first report counts."""
        ...

    def used(self) -> None:
        """Report use: moves the idle deadline. Any thread, and cheap enough for every CDP command."""
        ...

    async def journal(self, facts: Mapping[str, str]) -> None:
        """Keep `facts` (a pid, a folder, a remote id) durably in the session's ledger row before going on."""
        ...

    def follow_lease(self, follow: Callable[[float], None]) -> None:
        """Have `follow` called with the time at which the lease ends that the session is held under, as it moves.

        For a browser that lives on while this process is stopped: at that time it has to be gone, whatever this process
        does, since others take the session over then. The time is in seconds since the machine came up, sleep included
        (``CLOCK_BOOTTIME``). `follow` is called at once, unless there is no lease yet or at all, and on the loop each
        time that the lease is renewed; it must be quick.
        """
        ...

    async def run_blocking(self, func: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `func` on one of the supervisor's own worker threads (they live until the very exit)."""
        ...

    async def serve_cdp(self, connection: CdpPipe | CdpSocket) -> CdpEndpoint:
        """Put a gateway in front of a browser's CDP connection and take that connection over.

        The gateway reports use by itself, and a broken connection as a crash.

        Raises:
            ConnectionLost: The browser of a `CdpSocket` can't be reached.
            RemoteRejected: Something is there, and refuses or speaks no WebSocket.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """One opened or connected browser session.

    It may have attributes more. ``viewer_url: str | None``: the live view of a service. ``headed: bool``: it has a
    window, so nobody needs a live view. ``foreign_cookies: int``, which counts as 0 where there is none: the cookies in
    contexts that clients made, which `get_cookies` does not return; the record of a save says how many there are.
    ``cookie_conflicts: int``: with ``cookie_scope="all"``, cookies that differed between contexts at the last reading.
    ``cookies_of_contexts: Sequence[int]``: with it, how many each context held then, the default one first.
    ``cookies_lost: bool``: the browser lost some and went on, so that one that is absent was not removed by anybody.
    ``endpoint: CdpEndpoint | None``: the gateway in front of its browser, by which the library operates on its pages.
    """

    @property
    def session_id(self) -> str:
        """The id of the session; for most adapters the one that `Adapter.open` was given."""
        ...

    @property
    def can_live_on(self) -> bool:
        """True when the session goes on without this process (the guard of `detach`)."""
        ...

    async def get_cookies(self) -> Sequence[Cookie]:
        """All cookies of the default context."""
        ...

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        """Set cookies, read them back, and return those that did not take, each with the reason.

        One bad cookie never keeps the others out.
        """
        ...

    async def clear_cookies(self) -> None:
        """Remove every cookie of the default context."""
        ...

    async def cdp_url(self) -> str:
        """A WebSocket URL that speaks CDP.

        Raises:
            UnsupportedOperation: This backend has none.
        """
        ...

    async def close_connections(self, reason: str) -> None:
        """Close what clients have open to the browser. Idempotent."""
        ...

    async def release(self) -> None:
        """Give the browser up: end it, remove its folder, tell the service. Idempotent, safe to repeat.

        Raises:
            ReleaseFailed: It may still run.
        """
        ...


@runtime_checkable
class Operator(Protocol):
    """Who carries out operations on pages.

    A backend may have these methods itself. For one that has not, and whose adapter has the capability ``pages``, the
    library drives the browser through `CdpEndpoint.own_url`; see `Backend` for how it finds that.
    """

    async def execute(self, action: Action) -> ActionResult:
        """Do one action. One that fails is an answer too: its `success` is False.

        Raises:
            UnsupportedOperation: This backend does not know the action.
            ConnectionLost: The browser or the service is gone.
        """
        ...

    async def observe(self, request: ObserveRequest) -> Observation:
        """Look at the page."""
        ...

    async def scrape(self, request: ScrapeRequest) -> Scrape:
        """Read the page."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """A kind of backend. One instance may serve many clients and sessions at once."""

    @property
    def name(self) -> str:
        """Short name: ``local``, ``memory``, ``remote``."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do: ``pages`` (has a CDP URL), ``headed``, ``proxy``, ...

        ``attach``: it probes ids by itself. ``assigns_ids``: the service gives a session its id; `open` is given an
        empty one, and journals the fact ``session_id`` the moment it is known. ``fixed_duration``: the maximum
        duration can't be moved later on.
        """
        ...

    def check(self, options: SessionOptions) -> None:
        """Refuse options that this adapter can't carry out; called when the session is made, does no I/O.

        Raises:
            ConfigError: An option is not allowed here.
            UnsupportedOperation: An option needs another adapter.
        """
        ...

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        """Open a new browser session.

        Atomic: when it raises or is cancelled, in any tick, what it had opened has been released.

        Raises:
            StartFailed: No browser came up; says why and what to do.
            CapacityError: No room.
        """
        ...

    async def probe(self, session_id: str, host: Host) -> BackendEnd | None:
        """Ask the service about a session it owns: None when it is active, else how it ended.

        Raises:
            ConfigError: There is no such session.
        """
        ...

    async def connect(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        """Connect to a session that `probe` found active. Atomic like `open`."""
        ...

    async def aclose(self) -> None:
        """Give up what the adapter itself holds (pooled connections). Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSession:
    """A session as the service that owns it tells of it.

    Attributes:
        session_id: The session.
        state: Its state.
        created_at: When it was started (UTC).
        closed_at: When it ended (UTC), or None.
        last_accessed_at: Its last use (UTC).
        timeout_minutes: Idle timeout.
        max_duration_minutes: Absolute limit.
        close_reason: Why it ended, or None.
        error: A message for `error`, or None.
    """

    session_id: str
    state: State
    created_at: datetime
    closed_at: datetime | None
    last_accessed_at: datetime
    timeout_minutes: float
    max_duration_minutes: float
    close_reason: CloseReason | None
    error: str | None


@runtime_checkable
class Directory(Protocol):
    """What an adapter has beside `Adapter` when it can tell of sessions by id, whoever opened them."""

    def list(self, *, active: bool) -> AsyncIterator[KnownSession]:
        """Its sessions, newest first; with `active`, only those that are. Raises BackendError as `get` does."""
        ...

    async def get(self, session_id: str) -> KnownSession | None:
        """One session, None when there is none with this id.

        Raises:
            BackendError: The service can't tell.
        """
        ...

    async def stop(self, session_id: str) -> None:
        """Stop a session. Done as well when it is over or unknown.

        Raises:
            ReleaseFailed: It may still run.
        """
        ...


@runtime_checkable
class Reaper(Protocol):
    """What an adapter has beside `Adapter` when something of a session can outlive the process that owned it."""

    async def reap(self, session_id: str, facts: Mapping[str, str]) -> None:
        """Release what a session left whose owner has ended. Idempotent, and done as well when nothing is left.

        Args:
            session_id: The session.
            facts: What its backend journalled.

        Raises:
            ReleaseFailed: Something of it may still be there.
        """
        ...


# --- records ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """The ledger row of a session: what is known of it outside its owner.

    Attributes:
        session_id: The session.
        attachment_id: The owner's attachment.
        adapter: Name of the adapter.
        state: The last committed state.
        released: True once the backend was released, or never existed.
        name: Given by the user, or None.
        labels: Given by the user.
        created_at: When its start became durable (UTC).
        closed_at: When it ended (UTC), or None.
        last_accessed_at: Last use that is known here (UTC); the owner knows better while the session is active.
        held_until: Until when it needs no use to stay open (UTC), or None.
        timeout_minutes: Idle timeout.
        max_duration_minutes: Absolute limit.
        close_reason: Why it ended, or None.
        error: A message for `error`, or None.
        owner_pid: Process that owns it.
        owner_started: Identity of that process beside its pid: its start time in clock ticks or epoch text.
        boot_id: Identity of the boot it ran under.
        host: Host name of the owner.
        control: Path of the owner's control socket, or None.
        writer: The writer under whose lease it is held, as in its records; None in rows of before there were leases.
        address: URL of the server that owns it and lets other hosts in, or None.
        facts: What the adapter journalled (browser pid, profile folder, remote id).
    """

    session_id: str
    attachment_id: str
    adapter: str
    state: State
    released: bool = False
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime
    closed_at: datetime | None = None
    last_accessed_at: datetime
    held_until: datetime | None = None
    timeout_minutes: float
    max_duration_minutes: float
    close_reason: CloseReason | None = None
    error: str | None = None
    owner_pid: int
    owner_started: str
    boot_id: str
    host: str
    control: str | None = None
    writer: str | None = None
    address: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SessionRow:
        """The row of values as they were kept: its state, its reason and its times may be texts.

        Raises:
            ValueError: One of them is none that this version reads.
            TypeError: There are others, or too few.
        """
        known: dict[str, Any] = {n: datetime.fromisoformat(values[n]) for n in ROW_TIMES if isinstance(values[n], str)}
        known |= {"state": State(values["state"]), "released": bool(values["released"])}
        if values["close_reason"] is not None:
            known["close_reason"] = CloseReason(values["close_reason"])
        return cls(**{**values, **known})


ROW_TIMES: Final = ("created_at", "closed_at", "last_accessed_at", "held_until")
"""The times in a `SessionRow`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who holds an idempotency key.

    Attributes:
        key: The key.
        adapter: Name of the adapter; each has keys of its own.
        attachment_id: The attachment that opens the session, or has opened it.
        session_id: The session; None while a service has not given it one.
        owner_pid: Process id of the owner.
        owner_started: Its start time, as the system tells it; tells it from a later process with the same pid.
        boot_id: The boot of the machine in which that pid means something.
        host: Host name of the owner.
        writer: The writer under whose lease it is held; None in claims of before there were leases.
    """

    key: str
    adapter: str
    attachment_id: str
    session_id: str | None
    owner_pid: int
    owner_started: str
    boot_id: str
    host: str
    writer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Who writes to a store: one process on it, and the lease that tells other hosts that it lives.

    Attributes:
        writer: Its id, as in its records.
        owner_pid: Its process id.
        owner_started: The start time of that process, as the system tells it.
        boot_id: The boot of the machine in which that pid means something.
        host: Its host name.
        renewed_at: When it last said that it lives, by the clock of its host (UTC).
        silent: Seconds since then when it was read, by the clock of the store; None where that has none. It tells more
            than `renewed_at`, which is of another host's clock.
        lease_seconds: For how long it counts as alive after that, by the clock of the store; None where it took no
            lease.
        fenced: True once another process has taken over what it held, and the store takes nothing of it any more.
    """

    writer: str
    owner_pid: int
    owner_started: str
    boot_id: str
    host: str
    renewed_at: datetime
    silent: float | None = field(default=None, compare=False)
    lease_seconds: float | None = field(default=None, compare=False)
    fenced: bool = field(default=False, compare=False)

    @property
    def lease_over(self) -> bool:
        """True when it took a lease, and that has ended."""
        return self.fenced or (
            self.lease_seconds is not None and self.silent is not None and self.silent > self.lease_seconds
        )


class Stored(NamedTuple):
    """A record as a store keeps it: its bytes, and what the store finds it by.

    Attributes:
        number: Its number in the store.
        writer: As in the record; so are those that follow.
        writer_seq: ...
        attachment_id: ...
        attachment_seq: ...
        session_id: ...
        kind: ...
        event: ...
        source: ...
        dest: ...
        hash: `Record.hash` when it was written; None for a record of schema 1.
        body: The bytes of the record.
    """

    number: int
    writer: str
    writer_seq: int
    attachment_id: str
    attachment_seq: int
    session_id: str | None
    kind: str
    event: str
    source: str
    dest: str
    hash: bytes | None
    body: bytes


@runtime_checkable
class Store(Protocol):
    """Where records and ledger rows are kept, and the register that proves them (`lifecycle.audit.register`).

    All methods block and are called from one worker thread at a time; none is called on an event loop.

    It may have more. ``skew: float | None``, for one with a clock of its own: the seconds by which that was ahead of
    this host's when they were compared last; each record says it. ``make(*, roles: bool)`` and ``upgrade(*, roles:
    bool)``, for one that is not made by `open`: what ``lifecycle store init`` and ``upgrade`` call, which tell whether
    anything was done.

    And one that hosts share has leases, by its own clock: `Leases`.
    """

    @property
    def url(self) -> str:
        """What the store was opened with, without secrets."""
        ...

    def open(self) -> None:
        """Open or create it. Raises StoreError naming the place and the way out."""
        ...

    def write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        """Append `records` and put `rows` (inserted or replaced by session_id), all or nothing, durable on return.

        Raises:
            StoreError: Nothing was written. Also raised for a second terminal commit of one attachment, and for a
                gap or a repeat in a writer's or attachment's sequence.
        """
        ...

    def records(
        self,
        *,
        session_id: str | None = None,
        attachment_id: str | None = None,
        after: int = 0,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[tuple[int, Record]]:
        """Records with their number in the store, oldest first, numbered above `after`.

        With `newest`, the last `limit` of them (still oldest first).
        """
        ...

    def stored(self, *, writer: str | None = None, after: int = 0, limit: int | None = None) -> Sequence[Stored]:
        """Records as they are kept, none of them looked into, by their number in the store, above `after`.

        With `writer`, those of one writer; `after` is a `writer_seq` then, and so is their order.
        """
        ...

    def register(self, *, after: int = 0, limit: int | None = None) -> Sequence[tuple[int, bytes, bytes]]:
        """Entries of the register, in their order, numbered above `after`: number, hash when written, and bytes."""
        ...

    def last_entry(self, writer: str | None = None) -> bytes | None:
        """The last entry of the register, or the last about one writer; None where there is none."""
        ...

    def enter(self, entries: Sequence[tuple[str | None, bytes]], *, after: int) -> bool:
        """Add entries to the register, each with the writer that it is about: all or nothing, durable on return.

        Returns:
            False where the last entry has not the number `after`: another process was faster, and nothing was added.
        """
        ...

    def prune(self, upto: Mapping[str, int], entries: Sequence[tuple[str | None, bytes]], *, after: int) -> int | None:
        """Take out the records of each of these writers up to that `writer_seq`, and add entries that say so.

        All or nothing, durable on return. Rows of sessions that are over, and have no record left, go too.

        Returns:
            How many records; None where the last entry has not the number `after`, and nothing was changed.
        """
        ...

    def query(
        self, query: Query, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> Sequence[tuple[int, Record]]:
        """Records that `query` wants, with their number in the store, oldest first, numbered above `after`.

        All of it is read at one moment: no record that was written before the last one found is missing.

        Args:
            query: Which records.
            after: A number; 0 for all.
            limit: At most so many; None for all.
            newest: The last `limit` of them (still oldest first), and not the first.

        Raises:
            ConfigError: `limit` is negative.
            StoreError: The store or a record can't be read.
        """
        ...

    def bodies(
        self, query: Query, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> Sequence[tuple[int, bytes]]:
        """What `query` finds, as the very bytes that are stored and hashed; arguments and errors as there."""
        ...

    def session(self, session_id: str) -> SessionRow | None:
        """The ledger row of a session."""
        ...

    def sessions(
        self,
        *,
        status: State | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[SessionRow]:
        """Ledger rows, newest first. With `labels`, those that carry all of them."""
        ...

    def session_ids(self, beginning: str, *, limit: int) -> Sequence[str]:
        """Ids of sessions that have a ledger row and begin with these letters, at most `limit`, in alphabetical order.

        Raises:
            ConfigError: `limit` is negative.
        """
        ...

    def unfinished(self) -> Sequence[SessionRow]:
        """Ledger rows of which something is still to be done, newest first: not over, or failed and not released."""
        ...

    def renew(self, writer: Writer) -> None:
        """Take note of a writer, or of its new `renewed_at`. Durable on return."""
        ...

    def open_attachments(self) -> Mapping[str, Writer]:
        """Attachments of which a start or an attach is in the log and no end, each with the writer of that.

        Those of a writer that `renew` was never called with are left out.
        """
        ...

    def claim(self, claim: Claim, *, replacing: str | None = None) -> Claim | None:
        """Hold a key, unless somebody else does. Atomic over all processes, durable on return.

        Args:
            claim: Who wants to hold it; its own claim it may always renew.
            replacing: The attachment whose claim is void: its session is over, or its owner is gone.

        Returns:
            Who holds it, None when that is `claim` now.
        """
        ...

    def unclaim(self, claim: Claim) -> None:
        """Give a key up; silent when `claim` does not hold it."""
        ...

    def close(self) -> None:
        """Close it. Idempotent."""
        ...


@runtime_checkable
class Leases(Protocol):
    """What a store has beside `Store` when processes of several hosts share it.

    A writer that has called `renew` holds a lease from then on for its `lease_seconds`, by the clock of the store. Once
    it is over, any other may `fence` the writer and take over what it held. Of a fenced writer `write`, `renew` and
    `claim` raise LeaseLost: each writer is one epoch of its process, and what comes after its end is stale.
    """

    def fence(self, writer: str) -> bool:
        """Take a writer's lease, where it is over. Atomic; what it was writing has come to an end on return.

        Returns:
            False where its lease has not ended, or it took none, and nothing was changed. True also where it was
            fenced before.
        """
        ...

    def lease(self, writer: str) -> Writer | None:
        """How a writer stands by the clock of the store; None for one that is not known."""
        ...
