"""The plugin for pytest: sessions as fixtures, on the browser that the command line names.

Rule: it loads with every run of pytest in an environment that has the library, so it imports nothing of it until a run
uses it: by a fixture or marker of this plugin, by one of its options, or by importing the library itself.

    def test_it_is_active(lifecycle_session):
        assert lifecycle_session.state == "active"

    $ pytest --lifecycle-adapter local

What a run uses it for is in `lifecycle_pytest.run`; what is kept of a test that failed, in `lifecycle_pytest.kept`.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from lifecycle import AsyncClient, AsyncSession, Client, Session
    from lifecycle.ports import Adapter
    from lifecycle_pytest.run import Run

__all__: list[str] = []

_OURS = ("lifecycle_client", "lifecycle_session", "async_lifecycle_client", "async_lifecycle_session")
_MARKERS = (
    "lifecycle_adapter(*names): run the test on these adapters only; on others it is skipped",
    "lifecycle_needs(*capabilities): skip the test on an adapter that lacks one of them, such as pages",
    "lifecycle_leaves: sessions that the test starts may outlast it, as those of a server that all tests share do",
    "lifecycle_session(**options): options of the session that lifecycle_session starts",
)
_RUN = pytest.StashKey["Run"]()
_BEFORE = pytest.StashKey[str | None]()


# --- options --------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options; each can be given in the configuration too."""
    group = parser.getgroup("lifecycle", "sessions of browsers")
    texts = {
        "adapter": "what runs the browsers of this run: memory, local, remote, cdp, or the name of an installed "
        "adapter; by default LIFECYCLE_ADAPTER of the environment, else memory",
        "min-coverage": "fail the run where its sessions took less than so many percent of the declared table",
        "output": "the folder for what is kept of tests that fail; by default test-results/lifecycle",
    }
    for name, text in texts.items():
        key = f"lifecycle_{name.replace('-', '_')}"
        group.addoption(f"--lifecycle-{name}", dest=key, metavar=name.upper(), help=text)
        parser.addini(key, text)
    group.addoption(
        "--lifecycle-coverage", action="store_true", help="show which edges, guards, steps and diversions were taken"
    )


def option(config: pytest.Config, name: str) -> str | None:
    """An option of the command line, else of the configuration; None where neither has it."""
    return config.getoption(name) or config.getini(name) or None


def asked_adapter(config: pytest.Config) -> str | None:
    """The adapter that was asked for."""
    return option(config, "lifecycle_adapter") or os.environ.get("LIFECYCLE_ADAPTER") or None


def adapter_name(config: pytest.Config) -> str:
    """The adapter of the run."""
    return asked_adapter(config) or "memory"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and have clients that name no adapter use the one that was asked for."""
    for line in _MARKERS:
        config.addinivalue_line("markers", line)
    if config.pluginmanager.hasplugin("asyncio"):
        from lifecycle_pytest import for_asyncio  # noqa: PLC0415 - imports pytest-asyncio

        config.pluginmanager.register(for_asyncio, "lifecycle-asyncio")
    config.stash[_BEFORE] = os.environ.get("LIFECYCLE_ADAPTER")
    asked = option(config, "lifecycle_adapter")
    if asked is not None:
        from lifecycle_pytest.run import check_adapter  # noqa: PLC0415 - imports the library

        check_adapter(asked)
        os.environ["LIFECYCLE_ADAPTER"] = asked
    if config.getoption("lifecycle_coverage") or option(config, "lifecycle_min_coverage") is not None:
        _run(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put the environment back."""
    before = config.stash.get(_BEFORE, None)
    if before is not None:
        os.environ["LIFECYCLE_ADAPTER"] = before
    elif option(config, "lifecycle_adapter") is not None:
        os.environ.pop("LIFECYCLE_ADAPTER", None)
    if (run := config.stash.get(_RUN, None)) is not None:
        run.end()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Which adapter the run is on, where it was asked for."""
    asked = option(config, "lifecycle_adapter")
    return f"lifecycle: adapter {asked}" if asked is not None else None


# --- the run --------------------------------------------------------------------------------------------------------


def _run(config: pytest.Config) -> Run:
    """What watches the run, begun when it is first asked for."""
    found = config.stash.get(_RUN, None)
    if found is None:
        from lifecycle_pytest.run import Run  # noqa: PLC0415 - imports the library

        found = config.stash[_RUN] = Run(config)
    return found


def _used(item: pytest.Item) -> Run | None:
    """What watches the run, where this test or one before it has to do with the library."""
    uses = any(name in getattr(item, "fixturenames", ()) for name in _OURS)
    marked = any(item.get_closest_marker(re.split(r"\W", line)[0]) for line in _MARKERS)
    if uses or marked or "lifecycle.engine" in sys.modules:
        return _run(item.config)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the adapter can't run, and look at what is active before."""
    if (run := _used(item)) is not None:
        run.begin(item, adapter_name(item.config))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """What a fixture of a wider scope starts is not left behind by the test that comes first."""
    run = request.config.stash.get(_RUN, None)
    if run is None or fixturedef.scope == "function":
        return (yield)
    with run.keeping():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """After all fixtures: fail a test that has left a session active, and stop it."""
    try:
        yield
    finally:
        run = item.config.stash.get(_RUN, None)
        left = run.left(item) if run is not None else None
    if left is not None:
        pytest.fail(left, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a test that failed what its sessions went through."""
    report = yield
    run = item.config.stash.get(_RUN, None)
    if run is not None and report.failed:
        run.keep(item, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the coverage on to the process that sums it up; there, hold it against the least that is asked for."""
    if (run := session.config.stash.get(_RUN, None)) is not None:
        run.finish(session)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - a worker of pytest-xdist
    """Take the coverage of a worker of pytest-xdist."""
    told = getattr(node, "workeroutput", {}).get("lifecycle_coverage")
    if told is not None:
        _run(node.config).coverage.add(told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the coverage, where it was asked for."""
    if (run := config.stash.get(_RUN, None)) is not None:
        run.show(terminalreporter)


# --- fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lifecycle_adapter(pytestconfig: pytest.Config) -> str | Adapter:
    """The adapter of the run, by its name. Override it to use another, such as one with faults."""
    return adapter_name(pytestconfig)


@pytest.fixture
def lifecycle_client_options() -> dict[str, Any]:
    """Override it: more arguments for the clients of the fixtures, such as ``{"clock": ManualClock()}``."""
    return {}


@pytest.fixture
def lifecycle_session_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of the sessions of the fixtures: those of the marker ``lifecycle_session``. Override it for all tests."""
    marker = request.node.get_closest_marker("lifecycle_session")
    return dict(marker.kwargs) if marker is not None else {}


@pytest.fixture
def lifecycle_client(lifecycle_adapter: str | Adapter, lifecycle_client_options: dict[str, Any]) -> Iterator[Client]:
    """A `Client` on the adapter of the run, with a log in memory. A test that leaves a session of it active fails."""
    from lifecycle import Client  # noqa: PLC0415 - paid for when it is used
    from lifecycle_pytest.run import none_left  # noqa: PLC0415

    with Client(**{"adapter": lifecycle_adapter, "store": "memory:", **lifecycle_client_options}) as client:
        yield client
        none_left(client)


@pytest.fixture
def lifecycle_session(lifecycle_client: Client, lifecycle_session_options: dict[str, Any]) -> Iterator[Session]:
    """An active `Session` of `lifecycle_client`, which is stopped after the test."""
    session = lifecycle_client.Session(**lifecycle_session_options)
    session.start()
    try:
        yield session
    finally:
        session.stop()


@pytest.fixture
def async_lifecycle_client(request: pytest.FixtureRequest) -> AsyncClient:
    """As `lifecycle_client`, an `AsyncClient`; for tests that pytest-asyncio or anyio runs."""
    found: AsyncClient = request.getfixturevalue(f"_lifecycle_client_for_{_runner(request)}")
    return found


@pytest.fixture
def async_lifecycle_session(request: pytest.FixtureRequest) -> AsyncSession:
    """As `lifecycle_session`, an `AsyncSession`; for tests that pytest-asyncio or anyio runs."""
    found: AsyncSession = request.getfixturevalue(f"_lifecycle_session_for_{_runner(request)}")
    return found


def _runner(request: pytest.FixtureRequest) -> str:
    """Who runs the coroutine of this test."""
    if "anyio_backend" in request.fixturenames:
        return "anyio"
    if request.config.pluginmanager.hasplugin("lifecycle-asyncio"):
        return "asyncio"
    pytest.fail(
        f"{request.fixturename} needs somebody who runs coroutines: install pytest-asyncio, or mark the test with "
        "pytest.mark.anyio; a test that calls asyncio.run itself makes its own AsyncClient",
        pytrace=False,
    )


@pytest.fixture
async def _lifecycle_client_for_anyio(
    lifecycle_adapter: str | Adapter, lifecycle_client_options: dict[str, Any]
) -> Any:  # noqa: ANN401 - an async generator
    from lifecycle_pytest.run import async_client  # noqa: PLC0415

    async with async_client(lifecycle_adapter, lifecycle_client_options) as client:
        yield client


@pytest.fixture
async def _lifecycle_session_for_anyio(
    _lifecycle_client_for_anyio: AsyncClient, lifecycle_session_options: dict[str, Any]
) -> Any:  # noqa: ANN401 - an async generator
    from lifecycle_pytest.run import async_session  # noqa: PLC0415

    async with async_session(_lifecycle_client_for_anyio, lifecycle_session_options) as session:
        yield session
