"""The options of a session, checked when the session is made.

Rule: every bad value is a ConfigError that names the option, the value and what is allowed; nothing here does I/O.
"""

from __future__ import annotations

import contextvars
import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict
from urllib.parse import urlsplit

from lifecycle.errors import ConfigError

__all__ = [
    "SessionKwargs",
    "SessionOptions",
    "check_labels",
    "check_minutes",
    "check_session_id",
    "nearest",
    "parse_options",
]

MAX_MINUTES: Final = 60.0 * 24 * 7
"""Longest deadline that is accepted, in minutes: one week."""

DEFAULT_TIMEOUT_MINUTES: Final = 3.0
DEFAULT_MAX_DURATION_MINUTES: Final = 15.0
DEFAULT_START_TIMEOUT_MINUTES: Final = 1.0

CONTEXT_LABELS: Final[contextvars.ContextVar[Mapping[str, str]]] = contextvars.ContextVar("lifecycle labels")
"""Labels of every session that is made in this context, for whoever runs the code of others; a session's own win."""

OnExit = Literal["stop", "detach"]
CookieScope = Literal["default", "all"]


class SessionKwargs(TypedDict, total=False):
    """The keyword arguments of `Client.Session` and `AsyncClient.Session`; see `SessionOptions` for each."""

    headless: bool
    timeout_minutes: float
    idle_timeout_minutes: float
    max_duration_minutes: float
    start_timeout_minutes: float
    viewport_width: int
    viewport_height: int
    user_agent: str
    proxy: str | Mapping[str, str]
    chrome_args: Sequence[str]
    executable_path: str | os.PathLike[str]
    profile: str | os.PathLike[str]
    downloads_folder: str | os.PathLike[str]
    cookie_file: str | os.PathLike[str]
    cookie_scope: CookieScope
    on_exit: OnExit
    prefetch_page: bool
    viewer_input: bool
    name: str
    labels: Mapping[str, str]
    principal: str
    idempotency_key: str


OWNERS: Final = frozenset({
    "headless", "timeout_minutes", "idle_timeout_minutes", "max_duration_minutes", "viewport_width",
    "viewport_height", "user_agent", "proxy", "chrome_args", "executable_path", "profile",
    "downloads_folder", "cookie_scope", "viewer_input", "name", "idempotency_key",
})  # fmt: skip
"""Options that the owner of a session decides; who attaches to it can't."""

_CONTEXTS: Final = frozenset({
    "accept_downloads", "base_url", "bypass_csp", "client_certificates", "color_scheme", "contrast",
    "device_scale_factor", "extra_http_headers", "forced_colors", "geolocation", "has_touch", "http_credentials",
    "ignore_https_errors", "is_mobile", "java_script_enabled", "locale", "offline", "permissions",
    "record_har_content", "record_har_mode", "record_har_omit_content", "record_har_path", "record_har_url_filter",
    "record_video_dir", "record_video_fps", "record_video_size", "reduced_motion", "screen", "service_workers",
    "storage_state", "strict_selectors", "timezone_id",
})  # fmt: skip
"""Options of Playwright's ``Browser.new_context`` that the default context of a browser can't take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy for the browser's traffic.

    Attributes:
        server: ``scheme://host:port`` with scheme http, https, socks4 or socks5; no credentials.
        bypass: Comma-separated hosts that are reached directly, or None.
        username: For proxies that ask for one. Never logged.
        password: Never logged.
    """

    server: str
    bypass: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Checked options of one session.

    Attributes:
        session_id: The session to attach to; None to start a new one.
        headless: False for a browser window, where a display exists.
        timeout_minutes: Idle timeout in minutes, fractions allowed; any use of the session moves it.
        max_duration_minutes: Absolute limit in minutes from the start.
        start_timeout_minutes: Limit in minutes for start or attach.
        viewport_width: Width of the page in CSS pixels, None for the browser's own.
        viewport_height: Height likewise; given together with the width or not at all.
        user_agent: User agent string, None for the browser's own.
        proxy: Proxy of the browser, or None.
        chrome_args: Further command-line switches for Chromium.
        executable_path: The browser to run, None to look for one.
        profile: A folder in which the browser's profile is kept between sessions, one session at a time; None for a
            new one that goes with the session.
        downloads_folder: Where what the pages of the default context download is kept, under the names that the sites
            suggest; made if it is not there. None to keep nothing.
        cookie_file: Cookies are loaded from it on start and saved to it on stop, expire and fail.
        cookie_scope: ``default``: the default context's cookies; ``all``: those of contexts that clients make too.
        on_exit: What the end of a ``with`` block does: ``stop`` or ``detach``.
        prefetch_page: Start Playwright in the caller's thread while the browser starts.
        viewer_input: Let keyboard and mouse of whoever has the live view's URL through to the page.
        name: A name for people to find the session by.
        labels: Labels to filter sessions and records by.
        principal: Whom the session acts for, such as a user or a service account; it is in each record, and nothing is
            decided by it.
        idempotency_key: Get or create: start a session, or attach to the one that was started with this key on this
            adapter and store and is not over. The other options are those of whoever made it.
    """

    session_id: str | None = None
    headless: bool = True
    timeout_minutes: float = DEFAULT_TIMEOUT_MINUTES
    max_duration_minutes: float = DEFAULT_MAX_DURATION_MINUTES
    start_timeout_minutes: float = DEFAULT_START_TIMEOUT_MINUTES
    viewport_width: int | None = None
    viewport_height: int | None = None
    user_agent: str | None = None
    proxy: Proxy | None = None
    chrome_args: tuple[str, ...] = ()
    executable_path: str | None = None
    profile: str | None = None
    downloads_folder: str | None = None
    cookie_file: str | None = None
    cookie_scope: CookieScope = "default"
    on_exit: OnExit = "stop"
    prefetch_page: bool = False
    viewer_input: bool = False
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    principal: str | None = None
    idempotency_key: str | None = None


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known one first, then all of them."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def parse_options(session_id: str | None, kwargs: Mapping[str, Any]) -> SessionOptions:
    """Check the arguments of a new session.

    Raises:
        ConfigError: Names the option, the value and what is allowed.
    """
    for key in kwargs:
        if key in _CONTEXTS:
            raise ConfigError(
                option=key,
                value=_shown(key, kwargs[key]),
                allowed="a context of your own, which takes it: "
                f"session.page.context.browser.new_context({key}=...); cookies of the session: cookie_file=",
            )
        if key not in SessionKwargs.__annotations__:
            raise ConfigError(option=key, value=kwargs[key], allowed=nearest(key, SessionKwargs.__annotations__))
    given: dict[str, Any] = {k: v for k, v in kwargs.items() if v is not None}
    if session_id is not None:
        check_session_id(session_id)

    for key in given if session_id is not None else ():
        if key in OWNERS:
            raise ConfigError(
                option=key,
                value=_shown(key, given[key]),
                allowed="nothing together with a session_id: the session's owner decides it. "
                "Leave it out, or give it where the session is started",
            )
    idle_name = "idle_timeout_minutes" if "idle_timeout_minutes" in given else "timeout_minutes"
    both_given = {"idle_timeout_minutes", "timeout_minutes"} <= given.keys()
    if both_given and given["idle_timeout_minutes"] != given["timeout_minutes"]:
        raise ConfigError(
            option="idle_timeout_minutes",
            value=given["idle_timeout_minutes"],
            allowed="one of timeout_minutes and idle_timeout_minutes: they are two names of one option",
        )
    idle = _minutes(idle_name, given.get(idle_name, DEFAULT_TIMEOUT_MINUTES))
    longest = _minutes(
        "max_duration_minutes", given.get("max_duration_minutes", max(DEFAULT_MAX_DURATION_MINUTES, idle))
    )
    if idle > longest:
        raise ConfigError(option=idle_name, value=idle, allowed=f"at most max_duration_minutes, which is {longest:g}")
    width, height = _viewport(given)
    return SessionOptions(
        session_id=session_id,
        headless=check_flag("headless", given.get("headless", True)),
        timeout_minutes=idle,
        max_duration_minutes=longest,
        start_timeout_minutes=_minutes(
            "start_timeout_minutes", given.get("start_timeout_minutes", DEFAULT_START_TIMEOUT_MINUTES)
        ),
        viewport_width=width,
        viewport_height=height,
        user_agent=_text("user_agent", given.get("user_agent")),
        proxy=_proxy(given.get("proxy")),
        chrome_args=_chrome_args(given.get("chrome_args", ())),
        executable_path=_path("executable_path", given.get("executable_path")),
        profile=_path("profile", given.get("profile")),
        downloads_folder=_path("downloads_folder", given.get("downloads_folder")),
        cookie_file=_path("cookie_file", given.get("cookie_file")),
        cookie_scope=_one_of("cookie_scope", given.get("cookie_scope", "default"), ("default", "all")),
        on_exit=_one_of("on_exit", given.get("on_exit", "stop"), ("stop", "detach")),
        prefetch_page=check_flag("prefetch_page", given.get("prefetch_page", False)),
        viewer_input=check_flag("viewer_input", given.get("viewer_input", False)),
        name=_text("name", given.get("name")),
        labels={**CONTEXT_LABELS.get({}), **check_labels("labels", given.get("labels", {}))},
        principal=_text("principal", given.get("principal")),
        idempotency_key=_text("idempotency_key", given.get("idempotency_key")),
    )


_SECRET: Final = frozenset({"proxy", "chrome_args", "client_certificates", "extra_http_headers", "http_credentials"})


def _shown(option: str, value: object) -> object:
    """`value` as an error may show it: one that may hold a secret only by its type."""
    return type(value).__name__ if option in _SECRET or option == "storage_state" else value


def check_session_id(value: object) -> str:
    """`value` as the id of a session, known or not."""
    if not isinstance(value, str) or not value.strip() or not _utf8(value):
        raise ConfigError(option="session_id", value=value, allowed="the id of a session, a non-empty string")
    return value


def check_minutes(option: str, value: object) -> float:
    """`value` as a number of minutes, for `extend` and the like."""
    return _minutes(option, value)


def check_line(option: str, value: object) -> str:
    """`value` as a text in one line."""
    text = _text(option, value)
    if text is None:
        raise ConfigError(option=option, value=value, allowed="a non-empty text in one line")
    return text


def _minutes(option: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(option=option, value=value, allowed=f"a number of minutes above 0, at most {MAX_MINUTES:g}")
    if not 0 < value <= MAX_MINUTES:
        raise ConfigError(option=option, value=value, allowed=f"above 0 and at most {MAX_MINUTES:g} minutes")
    return float(value)


def check_seconds(option: str, value: object, *, least: float) -> float:
    """`value` as a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= MAX_MINUTES * 60:
        allowed = f"a number of seconds, {least:g} to {MAX_MINUTES * 60:g}"
        raise ConfigError(option=option, value=value, allowed=allowed)
    return float(value)


def check_flag(option: str, value: object) -> bool:
    """`value` as a yes or no."""
    if not isinstance(value, bool):
        raise ConfigError(option=option, value=value, allowed="True or False")
    return value


def _text(option: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or any(ord(c) < 32 for c in value) or not _utf8(value):
        raise ConfigError(option=option, value=value, allowed="a non-empty text in one line")
    return value


def _utf8(text: str) -> bool:
    """True for a text that can be written down; half a surrogate pair can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(option: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(option=option, value=value, allowed="a path")
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(option=option, value=value, allowed="a non-empty path")
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - keeps the user's own spelling of links


def _one_of(option: str, value: Any, allowed: tuple[str, ...]) -> Any:  # noqa: ANN401 - the literal's own type
    if value not in allowed:
        raise ConfigError(option=option, value=value, allowed=nearest(str(value), allowed))
    return value


def _viewport(given: Mapping[str, Any]) -> tuple[int | None, int | None]:
    width, height = given.get("viewport_width"), given.get("viewport_height")
    for option, value in (("viewport_width", width), ("viewport_height", height)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000):
            raise ConfigError(option=option, value=value, allowed="a whole number of CSS pixels from 1 to 10000")
    if (width is None) != (height is None):
        missing = "viewport_width" if width is None else "viewport_height"
        raise ConfigError(option=missing, value=None, allowed="both of viewport_width and viewport_height, or neither")
    return width, height


def _chrome_args(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(option="chrome_args", value=value, allowed='a list of switches such as ["--lang=de"]')
    for arg in value:
        if not isinstance(arg, str) or not arg.startswith("--") or "\0" in arg:
            shown = arg.partition("=")[0] if isinstance(arg, str) else type(arg).__name__  # a value may be a secret
            raise ConfigError(option="chrome_args", value=shown, allowed="switches that start with --")
        name = arg.split("=", 1)[0]
        if name in _OWN_SWITCHES:
            raise ConfigError(option="chrome_args", value=name, allowed=f"anything but {name}: {_OWN_SWITCHES[name]}")
    return tuple(value)


_OWN_SWITCHES: Final = {
    "--remote-debugging-port": "any user of the machine could drive the browser; use session.cdp_url()",
    "--remote-debugging-pipe": "the lifecycle holds the pipe itself",
    "--remote-debugging-address": "there is no debugging port; use session.cdp_url()",
    "--user-data-dir": "each session has a profile folder of its own",
    "--headless": "use headless=",
    "--proxy-server": "use proxy=",
}


def _proxy(value: object) -> Proxy | None:
    if value is None:
        return None
    allowed = 'a URL such as "http://host:3128" or a mapping with server, bypass, username, password'
    if isinstance(value, str):
        value = {"server": value}
    if not isinstance(value, Mapping):
        raise ConfigError(option="proxy", value=type(value).__name__, allowed=allowed)
    unknown = set(value) - {"server", "bypass", "username", "password"}
    if unknown or not isinstance(value.get("server"), str):
        raise ConfigError(option="proxy", value=sorted(map(str, value)), allowed=allowed)
    try:
        parts = urlsplit(value["server"] if "://" in value["server"] else f"http://{value['server']}")
        port, host = parts.port, parts.hostname
    except ValueError as e:
        raise ConfigError(option="proxy", value="(not a URL)", allowed=allowed) from e
    if parts.scheme not in ("http", "https", "socks4", "socks5") or not host:
        raise ConfigError(
            option="proxy",
            value=f"{parts.scheme}://{host or ''}",
            allowed="schemes http, https, socks4, socks5 and a host",
        )
    shown = f"[{host}]" if ":" in host else host
    return Proxy(
        server=f"{parts.scheme}://{shown}" + (f":{port}" if port else ""),
        bypass=value.get("bypass"),
        username=value.get("username") or parts.username,
        password=value.get("password") or parts.password,
    )


def check_labels(option: str, value: object) -> Mapping[str, str]:
    """A copy of `value`, which is a mapping of labels."""
    if not isinstance(value, Mapping):
        raise ConfigError(option=option, value=value, allowed="a mapping of short texts to short texts")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str) or not 0 < len(key) <= 100 or len(text) > 1000:
            raise ConfigError(
                option=option, value={key: text}, allowed="keys of 1 to 100 characters, values of at most 1000"
            )
        if not _utf8(key + text):
            raise ConfigError(option=option, value={key: text}, allowed="texts that can be written as UTF-8")
    return dict(value)
