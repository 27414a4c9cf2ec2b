"""pytest-playwright on sessions: its fixtures ``browser``, ``context`` and ``page`` are in a browser that one owns.

Rule: what pytest-playwright calls a launch is a session that starts; it is stopped when the run ends. In a
``conftest.py``, where it takes the place of the fixture of the same name::

    from lifecycle_pytest.for_playwright import *

The browsers run on the adapter of the run, else on the local one. Override ``lifecycle_playwright_options`` (scope
session) for other options of the session, such as ``{"cookie_file": "cookies.json", "cookie_scope": "all"}``: the pages
are in contexts of pytest-playwright's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserType

from lifecycle import Client, UsageError
from lifecycle_pytest import asked_adapter

__all__ = ["launch_browser", "lifecycle_playwright_client", "lifecycle_playwright_options"]

_SESSION: Final = {
    "headless": "headless", "args": "chrome_args", "executable_path": "executable_path", "proxy": "proxy",
    "downloads_path": "downloads_folder",
}  # fmt: skip
"""Options of Playwright's launch, and of a session."""

_CONNECT: Final = frozenset({"slow_mo", "timeout"})
"""Options of Playwright's launch that connecting has as well."""

LONG: Final = 24 * 60
"""Minutes that a run of tests may take; so long, too, no test of it may use the browser."""


@pytest.fixture(scope="session")
def lifecycle_playwright_options() -> dict[str, Any]:
    """Override it: options of the sessions that pytest-playwright's browsers are."""
    return {}


@pytest.fixture(scope="session")
def lifecycle_playwright_client(pytestconfig: pytest.Config) -> Iterator[Client]:
    """The client that makes them; override it for a store of your own."""
    with Client(adapter=asked_adapter(pytestconfig) or "local", store="memory:") as client:
        yield client


@pytest.fixture(scope="session")
def launch_browser(
    browser_type: BrowserType,
    browser_type_launch_args: dict[str, Any],
    lifecycle_playwright_client: Client,
    lifecycle_playwright_options: dict[str, Any],
) -> Iterator[Callable[..., Browser]]:
    """Start a session, and connect Playwright to its browser.

    Raises:
        UsageError: Playwright's browser is another than Chromium, or an option of its launch is none of a session.
    """
    with ExitStack() as stack:

        def launch(**kwargs: Any) -> Browser:  # noqa: ANN401 - as Playwright takes them
            if browser_type.name != "chromium":
                raise UsageError(f"sessions run Chromium, not {browser_type.name}: leave --browser out, or chromium")
            given = {**browser_type_launch_args, **kwargs}
            unknown = sorted(given.keys() - _SESSION.keys() - _CONNECT)
            if unknown:
                known = ", ".join(sorted([*_SESSION, *_CONNECT]))
                raise UsageError(f"a session can't be launched with {', '.join(unknown)}; known: {known}")
            options = {_SESSION[name]: value for name, value in given.items() if name in _SESSION}
            options = {"max_duration_minutes": LONG, **options, **lifecycle_playwright_options}
            if "idle_timeout_minutes" not in options:
                options.setdefault("timeout_minutes", options["max_duration_minutes"])
            session = lifecycle_playwright_client.Session(**options)
            stack.enter_context(session)
            url = session.cdp_url()
            return browser_type.connect_over_cdp(url, **{n: v for n, v in given.items() if n in _CONNECT})

        yield launch
