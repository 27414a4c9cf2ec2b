"""What operations answer, and the JSON of the session API for it.

Rule: `from_json` takes what any server of that API answers, with fields it does not know; `to_json` is read by any
client of it. A failed action is a result like any other: `success` is False and `error` says why.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from lifecycle.actions.parse import Action

_TEXT_ACTIONS: Final = frozenset({"evaluate_js", "scrape"})


def _when(value: object) -> datetime:
    when = datetime.fromisoformat(str(value))
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _markdown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """How an action went.

    Attributes:
        action: What was done.
        success: Whether it was done.
        message: One sentence for people.
        error: Why it failed; None when it did not.
        data: What it gave: the value of ``evaluate_js``, the Markdown of ``scrape``, of ``download_file`` a mapping
            with `path`, `filename`, `url` and `size` in bytes; else None.
        started_at: When it began (UTC).
        ended_at: When it was done (UTC).
    """

    action: Action
    success: bool
    message: str
    error: str | None = None
    data: Any = None
    started_at: datetime
    ended_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As the wire has it (``ApiExecutionResponse``)."""
        told: dict[str, Any] = {
            "action": self.action.to_json(),
            "success": self.success,
            "message": self.message,
            "data": None,
            "exception": None if self.success else self.error or self.message,
            "exception_detail": None,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "action_executed": self.success,
        }
        if not self.success:
            text = self.error or self.message
            told["exception_detail"] = {
                "error_type": "ActionExecutionError", "dev_message": text, "user_message": text, "agent_message": text,
                "should_retry_later": False, "should_notify_team": False,
            }  # fmt: skip
        if self.success and (self.data is not None or self.action.type in _TEXT_ACTIONS):
            told["data"] = {"markdown": _markdown(self.data), "structured": None}
            if self.data is not None and (not isinstance(self.data, str) or self.data == "null"):
                # The text alone would not tell a number or an object from a text that looks like one.
                told["data"]["structured"] = {"success": True, "error": None, "data": self.data}
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> ActionResult:
        """What a server answered.

        Raises:
            KeyError, TypeError, ValueError: It is no such answer.
        """
        data: Any = None
        if isinstance(space := told.get("data"), Mapping):
            structured = space.get("structured")
            data = structured["data"] if isinstance(structured, Mapping) and structured.get("success") else None
            if data is None and (text := space.get("markdown")) is not None:
                data = None if text == "null" else text
        success = told["success"]
        if not isinstance(success, bool):
            msg = "success is not a boolean"
            raise TypeError(msg)
        message = str(told["message"])
        return cls(
            action=Action.from_json(told["action"]),
            success=success,
            message=message,
            error=None if success else _text(told.get("exception")) or message,
            data=data,
            started_at=_when(told["started_at"]),
            ended_at=_when(told["ended_at"]),
        )


# --- observe ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """An open tab. `tab_id` is its index, as ``switch_tab`` takes it."""

    tab_id: int
    title: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewport:
    """What part of the page is seen, in CSS pixels."""

    scroll_x: int = 0
    scroll_y: int = 0
    viewport_width: int = 0
    viewport_height: int = 0
    total_width: int = 0
    total_height: int = 0


_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "click": "Click",
    "fill": "Fill",
    "check": "Check or uncheck",
    "select_dropdown_option": "Select an option of",
    "upload_file": "Upload a file to",
}

_EMPTY_VALUES: Final[Mapping[str, Mapping[str, object]]] = {
    "fill": {"value": ""},
    "check": {"value": True},
    "select_dropdown_option": {"value": ""},
    "upload_file": {"file_path": ""},
}
"""What the wire wants an offered action to hold besides its element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Something on a page that can be acted on.

    Attributes:
        id: ``B1`` for a button, ``L2`` for a link, ``I3`` for a field; the same as long as its document lives.
        role: Its ARIA role.
        name: Its accessible name; empty where it has none.
        action: The type of action that fits it, such as ``click`` or ``fill``.
        selector: A Playwright selector for it.
        value: What a field holds; None for passwords and for what is no field.
        checked: For check boxes, radio buttons and switches.
        disabled: It takes no input now.
        options: Of a dropdown: the labels of its options.
        box: x, y, width and height in CSS pixels of the viewport; None when it can't be told.
    """

    id: str
    role: str
    name: str
    action: str
    selector: str
    value: str | None = None
    checked: bool | None = None
    disabled: bool = False
    options: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None

    def describe(self) -> str:
        """One line for people, such as ``[B1] button "Submit"``."""
        line = f'[{self.id}] {self.role} "{self.name}"'
        if self.value:
            line += f" value={json.dumps(self.value, ensure_ascii=False)}"
        if self.checked is not None:
            line += " checked" if self.checked else " not checked"
        if self.options:
            line += f" options={json.dumps(self.options, ensure_ascii=False)}"
        return line + (" disabled" if self.disabled else "")

    def _to_json(self) -> dict[str, Any]:
        return {
            "type": self.action,
            "id": self.id,
            "category": "Interaction Actions",
            "description": f"{_DESCRIPTIONS.get(self.action, self.action)} the {self.role} {json.dumps(self.name)}",
            "selector": {
                "css_selector": "", "xpath_selector": "", "playwright_selector": self.selector, "notte_selector": "",
                "python_selector": "", "in_iframe": "internal:control=enter-frame" in self.selector,
                "in_shadow_root": False, "iframe_parent_css_selectors": [],
            },
            "text_label": self.name or None,
            "accessible_name": self.name or None,
            **_EMPTY_VALUES.get(self.action, {}),
        }  # fmt: skip

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"role": self.role, "disabled": self.disabled}
        if self.value is not None:
            state["value"] = self.value
        if self.checked is not None:
            state["checked"] = self.checked
        if self.options:
            state["options"] = [{"value": o, "label": o, "selected": o == self.value} for o in self.options]
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A page at one moment.

    Attributes:
        url: Its address.
        title: Its title.
        description: Its elements as text, one a line.
        elements: What can be acted on, in the order of the page.
        tabs: The open tabs.
        viewport: What part of the page is seen.
        screenshot: The visible part as PNG; empty where there is none.
        fingerprint: Changes when the page offers other elements or a field holds something else.
        started_at: When it was begun (UTC).
        ended_at: When it was done (UTC).
    """

    url: str
    title: str
    description: str
    elements: tuple[Element, ...] = ()
    tabs: tuple[Tab, ...] = ()
    viewport: Viewport = field(default_factory=Viewport)
    screenshot: bytes = field(default=b"", repr=False)
    fingerprint: str | None = None
    started_at: datetime
    ended_at: datetime

    def element(self, element_id: str) -> Element | None:
        """The element with this id, or None."""
        return next((e for e in self.elements if e.id == element_id), None)

    def to_json(self) -> dict[str, Any]:
        """As the wire has it (``Observation``)."""
        offered = [e._to_json() for e in self.elements]  # noqa: SLF001 - two halves of one document
        seen = self.viewport
        return {
            "metadata": {
                "title": self.title,
                "url": self.url,
                "timestamp": self.ended_at.isoformat(),
                "viewport": {name: getattr(seen, name) for name in Viewport.__slots__},
                "tabs": [{"tab_id": t.tab_id, "title": t.title, "url": t.url} for t in self.tabs],
            },
            "screenshot": {
                "raw": base64.b64encode(self.screenshot).decode(),
                "bboxes": [
                    {
                        "x": e.box[0], "y": e.box[1], "width": e.box[2], "height": e.box[3],
                        "scroll_x": seen.scroll_x, "scroll_y": seen.scroll_y, "iframe_offset_x": 0,
                        "iframe_offset_y": 0, "viewport_width": seen.viewport_width,
                        "viewport_height": seen.viewport_height, "notte_id": e.id,
                    }
                    for e in self.elements if e.box is not None
                ],
            },
            "space": {
                "description": self.description,
                "interaction_actions": offered,
                "category": None,
                "actions": offered,
                "browser_actions": [],
                "markdown": "\n".join(e.describe() for e in self.elements),
            },
            "element_states": {e.id: e._state() for e in self.elements},  # noqa: SLF001 - as above
            "fingerprint": self.fingerprint,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Observation:
        """What a server answered.

        Raises:
            KeyError, TypeError, ValueError: It is no such answer.
        """
        meta, space = told["metadata"], told["space"]
        states: Mapping[str, Any] = told.get("element_states") or {}
        shot = told.get("screenshot") or {}
        raw = shot.get("raw") if isinstance(shot, Mapping) else shot
        boxes = {b.get("notte_id"): b for b in (shot.get("bboxes") or ()) if isinstance(shot, Mapping)}
        return cls(
            url=str(meta["url"]),
            title=str(meta["title"]),
            description=str(space["description"]),
            elements=tuple(_element(e, states.get(e["id"]) or {}, boxes.get(e["id"])) for e in _offered(space)),
            tabs=tuple(Tab(tab_id=int(t["tab_id"]), title=str(t["title"]), url=str(t["url"])) for t in meta["tabs"]),
            viewport=Viewport(**{name: int((meta.get("viewport") or {}).get(name, 0)) for name in Viewport.__slots__}),
            screenshot=base64.b64decode(raw) if raw else b"",
            fingerprint=_text(told.get("fingerprint")),
            started_at=_when(told["started_at"]),
            ended_at=_when(told["ended_at"]),
        )


def _offered(space: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [e for e in space["interaction_actions"] if e.get("id")]


_ROLES: Final[Mapping[str, str]] = {
    "fill": "textbox",
    "check": "checkbox",
    "select_dropdown_option": "combobox",
    "upload_file": "button",
}


def _element(told: Mapping[str, Any], state: Mapping[str, Any], box: Mapping[str, Any] | None) -> Element:
    selector = told.get("selector")
    if isinstance(selector, Mapping):
        named = (("playwright_selector", ""), ("css_selector", "css="), ("xpath_selector", "xpath="))
        selector = next((prefix + str(selector[k]) for k, prefix in named if selector.get(k)), "")
    kind = str(told["type"])
    checked = state.get("checked")
    return Element(
        id=str(told["id"]),
        role=str(state.get("role") or ("link" if str(told["id"]).startswith("L") else _ROLES.get(kind, "button"))),
        name=_text(told.get("accessible_name")) or _text(told.get("text_label")) or "",
        action=kind,
        selector=str(selector or ""),
        value=state.get("value"),
        checked=checked if isinstance(checked, bool) else None,
        disabled=state.get("disabled") is True,
        options=tuple(str(o.get("label")) for o in state.get("options") or ()),
        box=(float(box["x"]), float(box["y"]), float(box["width"]), float(box["height"])) if box else None,
    )


# --- scrape -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """The content of a page. As a text it is its Markdown.

    Attributes:
        markdown: The content as Markdown.
        structured: What a service extracted as it was instructed, with `success`, `error` and `data`; else None.
    """

    markdown: str
    structured: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return self.markdown

    def to_json(self) -> dict[str, Any]:
        """As the wire has it (``DataSpace``)."""
        return {"markdown": self.markdown, "structured": dict(self.structured) if self.structured else None}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Scrape:
        """What a server answered.

        Raises:
            KeyError, TypeError: It is no such answer.
        """
        structured = told.get("structured")
        if not isinstance(told["markdown"], str):
            msg = "markdown is not a text"
            raise TypeError(msg)
        return cls(markdown=told["markdown"], structured=structured if isinstance(structured, Mapping) else None)
