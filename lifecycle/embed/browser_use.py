"""browser-use on a session: its agents drive the browser, and the session owns it.

`browser_session` gives a ``browser_use.BrowserSession`` on the CDP URL of a session. At the end of the block it lets go
of the browser, whatever the agents did.

Rule: browser-use lets go first, then the session is stopped, on each way out of the block. The other way round,
browser-use takes the end for a lost connection and dials again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final, Unpack

from browser_use.browser import BrowserProfile, BrowserSession  # pyright: ignore[reportMissingImports]

from lifecycle.client import AsyncClient, Client
from lifecycle.config import SessionKwargs
from lifecycle.errors import ConfigError, UsageError
from lifecycle.session import AsyncSession, Session
from lifecycle.states import State

__all__ = ["browser_session"]

LETTING_GO: Final = 10.0
"""Seconds that browser-use has to let go; it takes some milliseconds, unless one of its handlers hangs."""

_STARTED_WITH: Final = {
    "args": "chrome_args=",
    "cdp_url": "",
    "channel": "executable_path=",
    "chromium_sandbox": "chrome_args=",
    "cloud_browser_params": "",
    "devtools": "chrome_args=",
    "disable_security": "chrome_args=",
    "enable_default_extensions": "chrome_args=",
    "env": "",
    "executable_path": "executable_path=",
    "ignore_default_args": "",
    "is_local": "",
    "profile_directory": "profile=",
    "proxy": "proxy=",
    "use_cloud": "",
    "user_agent": "user_agent=",
    "user_data_dir": "profile=",
}
"""Fields of a ``BrowserProfile`` that say how a browser is started or found, and the option of a session instead."""


@asynccontextmanager
async def browser_session(
    owner: AsyncClient | AsyncSession,
    *,
    browser_profile: BrowserProfile | None = None,
    **options: Unpack[SessionKwargs],
) -> AsyncIterator[BrowserSession]:
    """Give a ``browser_use.BrowserSession`` on a session, for ``Agent(browser_session=...)``, one or several.

    At the end of the block browser-use disconnects, which leaves the browser running. Then a session that was made here
    is stopped; one that was given stays active. Give each agent ``enable_signal_handler=False``: its own handler
    answers the first Ctrl-C with a pause, and the second with ``os._exit``, before any block is left.

    Args:
        owner: A client, to make a session for the block, or an active session.
        browser_profile: Settings of browser-use, such as ``BrowserProfile(allowed_domains=[...])``. What the session
            says of `headless` and its viewport stands.
        **options: Options of the session to make; see `lifecycle.config.SessionOptions`.

    Raises:
        ConfigError: An option of the session is not allowed, or the profile says how to start or find a browser.
        UsageError: The client or session is not async, or the session was not started.
        SessionEnded: The session is over. At the end of the block too, when it timed out or failed in there: an agent
            raises nothing then, it gives up and returns the steps that it made.
        StartFailed: No browser came up.
    """
    _check_owner(owner, options)
    _check_profile(browser_profile)
    opened: AbstractAsyncContextManager[AsyncSession]
    opened = nullcontext(owner) if isinstance(owner, AsyncSession) else owner.Session(**options)
    async with opened as session:
        browser = BrowserSession(browser_profile=browser_profile, **await _settings(session))
        try:
            yield browser
        finally:
            await _let_go(browser)
        if session.state in (State.TIMED_OUT, State.ERROR):
            await session.cdp_url()  # raises what became of it


async def _settings(session: AsyncSession) -> dict[str, Any]:
    options = session._att.options  # noqa: SLF001 - how the session was started, which browser-use can't see
    settings: dict[str, Any] = {
        "cdp_url": await session.cdp_url(),
        "keep_alive": True,  # else the first agent to end disconnects
        "headless": options.headless,
    }
    if options.viewport_width is not None:
        settings["viewport"] = {"width": options.viewport_width, "height": options.viewport_height}
    return settings


async def _let_go(browser: BrowserSession) -> None:
    try:
        async with asyncio.timeout(LETTING_GO):
            await browser.stop()
    except TimeoutError:
        await browser.reset()  # what `stop` ends with: no more dialing, and the connection closed


def _check_owner(owner: object, options: SessionKwargs) -> None:
    if isinstance(owner, (Client, Session)):
        kind = type(owner).__name__
        msg = f"browser_session runs in an event loop, which a {kind} would block; give it an Async{kind}"
        raise UsageError(msg)
    if not isinstance(owner, (AsyncClient, AsyncSession)):
        kind = type(owner).__name__  # no more of it: a CDP URL is a secret
        raise ConfigError(option="owner", value=kind, allowed="an AsyncClient, or an active AsyncSession of one")
    if isinstance(owner, AsyncSession):
        if options:
            names = ", ".join(options)
            msg = f"browser_session was given a session, which has its options already, and {names}; leave them out"
            raise UsageError(msg)
        if owner.state is State.NOT_STARTED:
            msg = "browser_session was given a session that was not started; start it first, or give the client"
            raise UsageError(msg)


def _check_profile(profile: BrowserProfile | None) -> None:
    if profile is None:
        return
    if not isinstance(profile, BrowserProfile):
        raise ConfigError(
            option="browser_profile", value=type(profile).__name__, allowed="a browser_use.BrowserProfile"
        )
    given = sorted(_STARTED_WITH.keys() & profile.model_fields_set)
    if given:
        instead = sorted({_STARTED_WITH[name] for name in given} - {""})
        way_out = f"give the session {', '.join(instead)}" if instead else "leave them out"
        raise ConfigError(
            option="browser_profile", value=given, allowed=f"what a browser that runs already can take; {way_out}"
        )
    if profile.keep_alive is False:
        raise ConfigError(option="keep_alive", value=False, allowed="True, or nothing: the end of the block lets go")
