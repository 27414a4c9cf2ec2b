"""One run of pytest, as far as it has to do with sessions: what each test records, leaves and fails with.

Rule: everything is seen through the records of all clients of the process and the sessions that they have active, so
code under test that makes a client of its own is watched as the fixtures are.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from lifecycle import AsyncClient
from lifecycle.adapters import CAPABILITIES, adapter_names, find_adapter
from lifecycle.config import nearest
from lifecycle.testing.coverage import TransitionCoverage
from lifecycle.testing.process import ActiveSession, active_sessions, flush, watching
from lifecycle_pytest import option
from lifecycle_pytest.kept import keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from lifecycle import AsyncSession, Client, Record
    from lifecycle.ports import Adapter

__all__ = ["Run", "async_client", "async_session", "check_adapter", "none_left"]

MOST: Final = 2_000
"""Records of a test that are kept for its report: the newest."""


def check_adapter(name: str) -> None:
    """Raise a usage error of pytest for an adapter that there is not."""
    known = adapter_names()
    if name not in known:
        raise pytest.UsageError(f"--lifecycle-adapter {name}: there is no such adapter; {nearest(name, known)}")


class Run:
    """What the plugin holds while pytest runs."""

    def __init__(self, config: pytest.Config) -> None:
        self.coverage = TransitionCoverage()
        self._config = config
        self._shown = bool(config.getoption("lifecycle_coverage"))
        self._least = _percent(option(config, "lifecycle_min_coverage"))
        self._records: deque[Record] = deque(maxlen=MOST)
        self._before: set[str] = set()
        self._kept: set[str] = set()
        self._watching = ExitStack()
        self._watching.enter_context(watching(self._take))

    def _take(self, record: Record) -> None:
        self._records.append(record)
        self.coverage.take(record)

    def end(self) -> None:
        """Watch no more."""
        self._watching.close()

    # --- one test -----------------------------------------------------------------------------------------------

    def begin(self, item: pytest.Item, adapter: str) -> None:
        """A test begins: skip it where the adapter can't run it."""
        self._before = _ids(active_sessions())
        flush()
        lasting = [record for record in list(self._records) if record.attachment_id in self._before]
        self._records = deque(lasting, maxlen=MOST)
        for marker in item.iter_markers("lifecycle_adapter"):
            _check_names(item, "lifecycle_adapter", marker.args, adapter_names())
            if adapter not in marker.args:
                pytest.skip(f"runs on {' or '.join(marker.args)} only: --lifecycle-adapter {marker.args[0]}")
        for marker in item.iter_markers("lifecycle_needs"):
            _check_names(item, "lifecycle_needs", marker.args, CAPABILITIES)
            lacks = sorted(set(marker.args) - find_adapter(adapter).capabilities)
            if lacks:
                pytest.skip(f"needs {' and '.join(lacks)}, which the {adapter} adapter does not have")

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """What becomes active in this block outlasts a test."""
        before = _ids(active_sessions())
        try:
            yield
        finally:
            self._kept |= _ids(active_sessions()) - before

    def left(self, item: pytest.Item) -> str | None:
        """Stop what the test has left active, unless it may; what to say of it."""
        if item.get_closest_marker("lifecycle_leaves"):
            self._kept |= _ids(active_sessions())
            return None
        return _stop(s for s in active_sessions() if s.attachment_id not in self._before | self._kept)

    def keep(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Add what the sessions of a failed test went through to its report."""
        if not flush():
            report.sections.append(("lifecycle", "records are still to be written: a store hangs, or the supervisor"))
        records = list(self._records)
        pages = [s for s in active_sessions() if report.when == "call" and s.has_pages]
        if not records:
            return
        folder = option(self._config, "lifecycle_output") or "test-results/lifecycle"
        try:
            keep(item, report, records, pages, self._config.rootpath / folder)
        except Exception as e:  # noqa: BLE001 - whatever it is, it must not hide the failure that it was to explain
            report.sections.append(("lifecycle", f"what the sessions went through can't be shown: {e!r}"))

    # --- its end ------------------------------------------------------------------------------------------------

    def finish(self, session: pytest.Session) -> None:
        """All tests have run, of this process."""
        flush()
        worker = getattr(self._config, "workeroutput", None)
        if worker is not None:
            worker["lifecycle_coverage"] = self.coverage.to_json()
        elif self._falls_short and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def _falls_short(self) -> bool:
        return self._least is not None and self.coverage.percent < self._least

    def show(self, reporter: pytest.TerminalReporter) -> None:
        """Print the coverage."""
        if not self._shown and self._least is None:
            return
        reporter.section("lifecycle: transition coverage")
        for line in self.coverage.lines() if self._shown else ():
            reporter.write_line(line)
        if self._least is not None:
            what = f"{self.coverage.percent:.1f} % of the table was taken, {self._least:g} % are asked for"
            reporter.write_line(what, red=self._falls_short, green=not self._falls_short)


def _percent(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise pytest.UsageError(f"--lifecycle-min-coverage {text}: give a number of percent, from 0 to 100")
    return value


def _ids(sessions: Sequence[ActiveSession]) -> set[str]:
    return {session.attachment_id for session in sessions}


def _check_names(item: pytest.Item, marker: str, given: Sequence[object], known: Iterable[str]) -> None:
    names = set(known)
    for name in given:
        if name not in names:
            told = f"{item.nodeid}: {marker}({name!r}): there is no such name; {nearest(str(name), names)}"
            raise pytest.UsageError(told)
    if not given:
        raise pytest.UsageError(f"{item.nodeid}: {marker}() names nothing; known: {', '.join(sorted(names))}")


def _stop(sessions: Iterator[ActiveSession]) -> str | None:
    """Stop sessions that nobody has stopped; what to say of them, None where there are none."""
    told = []
    for session in sessions:
        told.append(str(session))
        session.stop()
    if not told:
        return None
    return f"left active: {', '.join(told)}; stop what a test starts, with `with` or stop()"


# --- what fixtures do -----------------------------------------------------------------------------------------------


def none_left(client: Client | AsyncClient) -> None:
    """Fail the test that has left sessions of its client active, and stop them."""
    told = _stop(iter(active_sessions(client)))
    if told is not None:
        pytest.fail(told, pytrace=False)


@asynccontextmanager
async def async_client(adapter: str | Adapter, options: dict[str, Any]) -> AsyncIterator[AsyncClient]:
    """The client of the async fixtures."""
    async with AsyncClient(**{"adapter": adapter, "store": "memory:", **options}) as client:
        yield client
        none_left(client)


@asynccontextmanager
async def async_session(client: AsyncClient, options: dict[str, Any]) -> AsyncIterator[AsyncSession]:
    """The session of the async fixtures."""
    session = client.Session(**options)
    await session.start()
    try:
        yield session
    finally:
        await session.stop()
