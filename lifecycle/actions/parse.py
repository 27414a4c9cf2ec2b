"""The actions as a table, and the checks of what a caller hands over.

Rule: a name that is not in the table is refused, with the nearest one that is; a value is refused with what is
allowed. The one exception: fields that clients of the session API send beside an action for display are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from lifecycle.config import nearest
from lifecycle.errors import ConfigError, UnsupportedOperation

DEFAULT_TIMEOUT_MS: Final = 15_000
"""Milliseconds that an interaction waits for its element, where none are given or 0 is."""

MAX_TIMEOUT_MS: Final = 120_000
MAX_WAIT_MS: Final = 30_000
"""Longest `wait`, in milliseconds: that of the session API."""

NAVIGATION_SECONDS: Final = 30.0
"""Seconds that a navigation may take."""

SLACK_SECONDS: Final = 60.0
"""Seconds on top of what an action asks for: connecting to the browser, and all that follows the action itself."""

MAX_TEXT: Final = 1_000_000
"""Longest text of a field, in characters."""

Check = Callable[[str, object], Any]


def _text(option: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ConfigError(option=option, value=type(value).__name__, allowed=f"a text of at most {MAX_TEXT} characters")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise ConfigError(option=option, value="(half a surrogate pair)", allowed="a text that UTF-8 can hold") from e
    return value


def _some_text(option: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(option=option, value=value, allowed="a text that is not empty")
    return _text(option, value)


def _flag(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(option=option, value=value, allowed="true or false")
    return value


def _whole(least: int, most: int) -> Check:
    def check(option: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(option=option, value=value, allowed=f"a whole number from {least} to {most}")
        return value

    return check


def _one_of(*allowed: str) -> Check:
    def check(option: str, value: object) -> str:
        if value not in allowed:
            raise ConfigError(option=option, value=value, allowed=nearest(str(value), allowed))
        return str(value)

    return check


def _anything(_: str, value: object) -> object:
    return value


def _texts(option: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(option=option, value=value, allowed="a list of texts")
    return tuple(_some_text(option, item) for item in value)


def _timeout(option: str, value: object) -> int:
    return _whole(0, MAX_TIMEOUT_MS)(option, value) or DEFAULT_TIMEOUT_MS


def _element_id(option: str, value: object) -> str:
    return _text(option, value).removesuffix("[:]")


_SELECTORS: Final = (("playwright_selector", ""), ("css_selector", "css="), ("xpath_selector", "xpath="))


def playwright_selector(option: str, value: object) -> str:
    """`value` as one Playwright selector: a text, or the wire's object of a CSS, an XPath and a Playwright selector.

    Raises:
        ConfigError: It is neither, or empty.
    """
    if isinstance(value, Mapping):
        found = next(
            (prefix + text for key, prefix in _SELECTORS if isinstance(text := value.get(key), str) and text), ""
        )
        if not found:
            names = ", ".join(key for key, _ in _SELECTORS)
            raise ConfigError(option=option, value=sorted(map(str, value)), allowed=f"a text, or one of {names}")
        frames = value.get("iframe_parent_css_selectors") or ()
        if isinstance(frames, (list, tuple)) and "internal:control=enter-frame" not in found:
            found = "".join(f"css={_some_text(option, f)} >> internal:control=enter-frame >> " for f in frames) + found
        return _some_text(option, found)
    text = _some_text(option, value)
    if text.startswith("~"):
        quoted = text.removeprefix("~").strip().replace("\\", "\\\\").replace('"', '\\"')
        return f'internal:text="{quoted}"'
    return text


_SCHEMES: Final = ("http", "https")


def check_url(option: str, value: object) -> str:
    """`value` as a URL that a session may be sent to: http, https, or ``about:blank``.

    Raises:
        ConfigError: Another scheme, named, or no URL.
    """
    allowed = "a URL that begins with http:// or https://, or about:blank"
    url = _some_text(option, value).strip()
    if url == "about:blank":
        return url
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as e:
        raise ConfigError(option=option, value="(not a URL)", allowed=allowed) from e
    if parts.scheme not in _SCHEMES:
        shown = f"{parts.scheme}:..." if parts.scheme else url[:80]
        raise ConfigError(option=option, value=shown, allowed=allowed)
    if not host:
        raise ConfigError(option=option, value=f"{parts.scheme}:// without a host", allowed=allowed)
    return url


FORM_FIELDS: Final = (
    "title", "first_name", "middle_name", "last_name", "full_name", "email", "company", "address1", "address2",
    "address3", "city", "state", "postal_code", "country", "phone", "cc_name", "cc_number", "cc_exp_month",
    "cc_exp_year", "cc_exp", "cc_cvv", "username", "password", "current_password", "new_password", "totp",
)  # fmt: skip
"""The fields that `form_fill` knows, as the session API names them."""


def _form(option: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(option=option, value=type(value).__name__, allowed=f"a mapping with {', '.join(FORM_FIELDS)}")
    form: dict[str, str] = {}
    for key, text in value.items():
        if key not in FORM_FIELDS:
            raise ConfigError(option=f"{option}.{key}", value="(not shown)", allowed=nearest(str(key), FORM_FIELDS))
        if text is not None:
            form["current_password" if key == "password" else key] = _text(f"{option}.{key}", text)
    if not form:
        raise ConfigError(option=option, value={}, allowed="at least one field")
    if {"password", "current_password"} <= value.keys():
        raise ConfigError(option=option, value="(two passwords)", allowed="one of password and current_password")
    return MappingProxyType(form)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an action takes: the checks of its fields, and which of them it needs."""

    fields: Mapping[str, Check] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


_ELEMENT: Final[Mapping[str, Check]] = {
    "id": _element_id,
    "selector": playwright_selector,
    "press_enter": _flag,
    "timeout": _timeout,
}
_FILL: Final = {**_ELEMENT, "value": _text, "clear_before_fill": _flag}
_SCROLL: Final[Mapping[str, Check]] = {"amount": _whole(0, 1_000_000), "selector": playwright_selector}
_SCRAPE: Final[Mapping[str, Check]] = {
    "selector": playwright_selector,
    "scrape_links": _flag,
    "scrape_images": _flag,
    "ignored_tags": _texts,
    "only_main_content": _flag,
    "response_format": _anything,
    "instructions": _some_text,
    "model": _some_text,
    "use_link_placeholders": _flag,
    "only_images": _flag,
}
_READ: Final[Mapping[str, Check]] = {"limit": _whole(1, 10_000), "timedelta": _anything, "only_unread": _flag}

ACTIONS: Final[Mapping[str, _Kind]] = MappingProxyType(
    {
        "goto": _Kind(
            {"url": check_url, "wait_until": _one_of("commit", "domcontentloaded", "load", "networkidle")}, ("url",)
        ),
        "goto_new_tab": _Kind({"url": check_url}, ("url",)),
        "close_tab": _Kind(),
        "switch_tab": _Kind({"tab_index": _whole(-10_000, 10_000)}, ("tab_index",)),
        "go_back": _Kind(),
        "go_forward": _Kind(),
        "reload": _Kind(),
        "wait": _Kind({"time_ms": _whole(0, MAX_WAIT_MS)}, ("time_ms",)),
        "press_key": _Kind({"key": _some_text}, ("key",)),
        "scroll_up": _Kind(_SCROLL),
        "scroll_down": _Kind(_SCROLL),
        "click": _Kind(_ELEMENT),
        "fill": _Kind(_FILL, ("value",)),
        "multi_factor_fill": _Kind(_FILL, ("value",)),
        "fallback_fill": _Kind(_FILL, ("value",)),
        "check": _Kind({**_ELEMENT, "value": _flag}, ("value",)),
        "select_dropdown_option": _Kind({**_ELEMENT, "value": _text, "option_id": _element_id}, ("value",)),
        "upload_file": _Kind({**_ELEMENT, "file_path": _some_text}, ("file_path",)),
        "download_file": _Kind(_ELEMENT),
        "evaluate_js": _Kind({"code": _some_text}, ("code",)),
        "form_fill": _Kind({"value": _form}, ("value",)),
        "scrape": _Kind(_SCRAPE),
        "captcha_solve": _Kind({"captcha_type": _some_text}),
        "help": _Kind({"reason": _text}, ("reason",)),
        "completion": _Kind({"success": _flag, "answer": _anything}, ("success", "answer")),
        "email_read": _Kind(_READ),
        "sms_read": _Kind(_READ),
        "email_verification_read": _Kind(
            {"mailbox_id": _some_text, "sender_domain": _some_text, "max_age_seconds": _whole(30, 900)},
            ("mailbox_id", "sender_domain"),
        ),
    }
)
"""Every type of action, with its fields."""

INTERACTIONS: Final = frozenset(name for name, kind in ACTIONS.items() if "timeout" in kind.fields)
"""The types that act on one element, named by `selector` or by the `id` that `observe` gave."""

NEEDS_SERVICE: Final = frozenset(
    {"captcha_solve", "help", "completion", "email_read", "sms_read", "email_verification_read"}
)
"""Types that need more than a browser: a mailbox, a language model, a person."""

TOLERATED: Final = frozenset({"category", "description", "text_label", "accessible_name", "param"})
"""Fields that describe an action to a reader and change nothing about it. They are dropped."""


@dataclass(frozen=True, slots=True)
class Action:
    """One checked action.

    Attributes:
        type: Its type, a key of `ACTIONS`.
        fields: Its fields, checked; those that were not given are left out.
    """

    type: str
    fields: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As the wire has it."""
        told: dict[str, object] = {"type": self.type}
        for key, value in self.fields.items():
            told[key] = (
                dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
            )
        if self.type in INTERACTIONS:
            told.setdefault("id", "")
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, object]) -> Action:
        """What an answer says was done; taken as it is, since an answer may know more than this version."""
        return cls(str(told.get("type", "")), {k: v for k, v in told.items() if k != "type" and v is not None})


def parse_action(action: Mapping[str, object] | Action | None, given: Mapping[str, object]) -> Action:
    """Check an action, given as a mapping, as keyword fields, or as both.

    Args:
        action: The action, or None when it is in `given`.
        given: Fields that were given one by one; they win over those in `action`.

    Raises:
        ConfigError: Names the field, its value and what is allowed.
    """
    if isinstance(action, Action):
        if not given:
            return action
        action = {"type": action.type, **action.fields}
    if action is not None and not isinstance(action, Mapping):
        raise ConfigError(option="action", value=type(action).__name__, allowed='a mapping such as {"type": "reload"}')
    merged = {str(key): value for key, value in {**(action or {}), **given}.items() if value is not None}
    kind_name = merged.pop("type", None)
    if kind_name is None:
        raise ConfigError(option="type", value=None, allowed=f"one of {', '.join(ACTIONS)}")
    if not isinstance(kind_name, str) or kind_name not in ACTIONS:
        raise ConfigError(option="type", value=kind_name, allowed=nearest(str(kind_name), ACTIONS))
    kind = ACTIONS[kind_name]
    checked = _checked(kind_name, kind, merged)
    for name in kind.needs:
        if name not in checked:
            raise ConfigError(option=name, value=None, allowed=f"a value: {kind_name} needs it")
    if kind_name in INTERACTIONS and not checked.get("id") and "selector" not in checked:
        raise ConfigError(
            option="selector",
            value=None,
            allowed=f"a Playwright selector, or id= with the id that observe() gave: {kind_name} needs an element",
        )
    return Action(kind_name, MappingProxyType(checked))


def _checked(kind_name: str, kind: _Kind, given: Mapping[str, object]) -> dict[str, object]:
    checked: dict[str, object] = {}
    for name, value in given.items():
        check = kind.fields.get(name)
        if check is not None:
            checked[name] = check(name, value)
        elif name not in TOLERATED:
            known = nearest(name, kind.fields) if kind.fields else "none"
            raise ConfigError(option=name, value="(not shown)", allowed=f"the fields of {kind_name}; {known}")
    if kind_name in INTERACTIONS and not checked.get("id"):
        checked.pop("id", None)
    return checked


# --- observe and scrape -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveRequest:
    """What is asked of `observe`.

    Attributes:
        min_nb_actions: List at least so many elements where there are; None for all up to the most.
        max_nb_actions: List at most so many elements.
        instructions: For a language model; needs a service.
        perception_type: ``fast``, or ``deep`` for a language model; needs a service.
    """

    min_nb_actions: int | None = None
    max_nb_actions: int = 100
    instructions: str | None = None
    perception_type: str = "fast"

    def to_json(self) -> dict[str, object]:
        """As the wire has it."""
        return _told(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeRequest:
    """What is asked of `scrape`.

    Attributes:
        selector: Only what is inside this element.
        scrape_links: Keep links.
        scrape_images: Keep images.
        ignored_tags: HTML tags to leave out, with what is in them.
        only_main_content: Leave out navigation, headers, footers and asides.
        response_format: A JSON schema for structured data; needs a service.
        instructions: For a language model; needs a service.
        model: Which language model; needs a service.
        use_link_placeholders: For a language model; needs a service.
    """

    selector: str | None = None
    scrape_links: bool = True
    scrape_images: bool = False
    ignored_tags: tuple[str, ...] = ()
    only_main_content: bool = False
    response_format: object = None
    instructions: str | None = None
    model: str | None = None
    use_link_placeholders: bool = False

    def to_json(self) -> dict[str, object]:
        """As the wire has it."""
        return _told(self)


def _told(request: ObserveRequest | ScrapeRequest) -> dict[str, object]:
    told: dict[str, object] = {}
    for item in fields(request):
        value = getattr(request, item.name)
        if value != item.default:
            told[item.name] = list(value) if isinstance(value, tuple) else value
    return told


_OBSERVE: Final[Mapping[str, Check]] = {
    "min_nb_actions": _whole(0, 10_000),
    "max_nb_actions": _whole(1, 10_000),
    "instructions": _some_text,
    "perception_type": _one_of("fast", "deep"),
}


def parse_observe(given: Mapping[str, object]) -> ObserveRequest:
    """Check what is asked of `observe`.

    Raises:
        ConfigError: Names the field, its value and what is allowed.
    """
    return ObserveRequest(**_options("observe", _OBSERVE, given))


def parse_scrape(given: Mapping[str, object]) -> ScrapeRequest:
    """Check what is asked of `scrape`.

    Raises:
        ConfigError: Names the field, its value and what is allowed.
    """
    checked = _options("scrape", _SCRAPE, given)
    if checked.pop("only_images", False):
        raise ConfigError(
            option="only_images", value=True, allowed="scrape_images=true, which keeps images in the text"
        )
    return ScrapeRequest(**checked)


def _options(what: str, known: Mapping[str, Check], given: Mapping[str, object]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(
                option=name, value="(not shown)", allowed=f"the options of {what}; {nearest(name, known)}"
            )
        if value is not None:
            checked[name] = known[name](name, value)
    return checked


# --- what an adapter without a service refuses ------------------------------------------------------------------


def refuse_service_only(request: Action | ObserveRequest | ScrapeRequest, adapter: str) -> None:
    """Raise UnsupportedOperation for what needs a language model, a mailbox or a person."""
    what: str | None = None
    if isinstance(request, Action):
        if request.type in NEEDS_SERVICE:
            what = request.type
        elif request.type == "scrape":
            return refuse_service_only(parse_scrape(request.fields), adapter)
    elif isinstance(request, ObserveRequest):
        if request.instructions is not None:
            what = "observe(instructions=...)"
        elif request.perception_type != "fast":
            what = f'observe(perception_type="{request.perception_type}")'
    else:
        for name in ("instructions", "response_format", "model"):
            if getattr(request, name) is not None:
                what = f"scrape({name}=...)"
                break
        else:
            if request.use_link_placeholders:
                what = "scrape(use_link_placeholders=True)"
    if what is not None:
        raise UnsupportedOperation(
            operation=what,
            adapter=adapter,
            way_out='use Client(adapter="remote"): a service answers it, with a language model or an inbox of its own',
        )
    return None


def budget_of(request: Action | ObserveRequest | ScrapeRequest) -> float:
    """Seconds that an operation may take in all, with what it waits for itself."""
    if isinstance(request, Action):
        if request.type == "wait":
            return SLACK_SECONDS + int(str(request.fields.get("time_ms", 0))) / 1000
        if request.type in INTERACTIONS:
            return SLACK_SECONDS + 2 * int(str(request.fields.get("timeout", DEFAULT_TIMEOUT_MS))) / 1000
        if request.type in NEEDS_SERVICE:
            return SLACK_SECONDS + 180.0
    return SLACK_SECONDS + NAVIGATION_SECONDS


def _accept(_: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationPolicy:
    """What a host allows operations to do beyond the page. The defaults are for a caller on this machine.

    Attributes:
        refuse_url: Takes a URL that a session is sent to, or was redirected to; says why it is refused, or None.
        upload_path: Takes the `file_path` of ``upload_file`` and gives the path of a file on this machine. May raise
            ConfigError or UnsupportedOperation.
    """

    refuse_url: Callable[[str], str | None] = _accept
    upload_path: Callable[[str], str] = str
