"""Actions as data: what is accepted, what is refused and in which words, and JSON that the client of others reads."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import zlib
from datetime import UTC, datetime, timedelta

import pytest

from lifecycle.actions import (
    ACTIONS,
    INTERACTIONS,
    NEEDS_SERVICE,
    Action,
    ActionResult,
    Element,
    Observation,
    ObserveRequest,
    Scrape,
    ScrapeRequest,
    Tab,
    Viewport,
    budget_of,
    parse_action,
    parse_observe,
    parse_scrape,
    refuse_service_only,
)
from lifecycle.errors import ConfigError, UnsupportedOperation

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

GOOD = [
    {"type": "goto", "url": "https://example.com/a?b=c"},
    {"type": "goto", "url": "about:blank", "wait_until": "commit"},
    {"type": "goto_new_tab", "url": "http://127.0.0.1:80/"},
    {"type": "close_tab"},
    {"type": "switch_tab", "tab_index": -1},
    {"type": "go_back"},
    {"type": "go_forward"},
    {"type": "reload"},
    {"type": "wait", "time_ms": 30_000},
    {"type": "press_key", "key": "Enter"},
    {"type": "scroll_up", "amount": 500},
    {"type": "scroll_down", "selector": "#results"},
    {"type": "click", "id": "B1"},
    {"type": "click", "selector": "text=Go", "timeout": 500, "press_enter": True},
    {"type": "fill", "id": "I1", "value": "", "clear_before_fill": False},
    {"type": "multi_factor_fill", "id": "I1", "value": "123456"},
    {"type": "fallback_fill", "selector": "input", "value": "x"},
    {"type": "check", "id": "I1", "value": False},
    {"type": "select_dropdown_option", "id": "I1", "value": "Large"},
    {"type": "upload_file", "selector": "input", "file_path": "a.pdf"},
    {"type": "download_file", "id": "L1"},
    {"type": "evaluate_js", "code": "document.title"},
    {"type": "form_fill", "value": {"email": "a@example.com"}},
    {"type": "scrape", "only_main_content": True, "ignored_tags": ["figure"]},
    {"type": "captcha_solve"},
    {"type": "help", "reason": "?"},
    {"type": "completion", "success": True, "answer": "done"},
    {"type": "email_read", "limit": 3},
    {"type": "sms_read"},
    {"type": "email_verification_read", "mailbox_id": "m", "sender_domain": "example.com"},
]


@pytest.mark.parametrize("told", GOOD, ids=lambda told: told["type"])
def test_an_action_is_accepted_as_a_mapping_and_as_fields_and_comes_back_from_its_json(told):
    action = parse_action(told, {})
    assert action == parse_action(None, told)
    assert action.type == told["type"]
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in action.fields.items()} == {
        k: v for k, v in told.items() if k != "type"
    }
    assert parse_action(action.to_json(), {}) == action
    assert parse_action(action, {}) is action


def test_every_type_is_in_the_examples():
    assert {told["type"] for told in GOOD} == set(ACTIONS)


BAD = [
    ({}, "type", "goto"),
    ({"type": "clik"}, "type", "did you mean 'click'?"),
    ({"type": 3}, "type", "known"),
    ({"type": "goto"}, "url", "goto needs it"),
    ({"type": "goto", "url": "file:///etc/passwd"}, "url", "http://"),
    ({"type": "goto_new_tab", "url": "javascript:alert(1)"}, "url", "https://"),
    ({"type": "goto", "url": "data:text/html,x"}, "url", "http://"),
    ({"type": "goto", "url": "chrome://version"}, "url", "http://"),
    ({"type": "goto", "url": "about:gpu"}, "url", "about:blank"),
    ({"type": "goto", "url": "example.com"}, "url", "begins with http"),
    ({"type": "goto", "url": "http://"}, "url", "http"),
    ({"type": "goto", "url": "http://[::1"}, "url", "http"),
    ({"type": "goto", "url": "https://a.example", "wait_until": "loaded"}, "wait_until", "did you mean 'load'?"),
    ({"type": "goto", "url": "https://a.example", "urll": "x"}, "urll", "did you mean 'url'?"),
    ({"type": "reload", "hard": True}, "hard", "reload"),
    ({"type": "wait"}, "time_ms", "wait needs it"),
    ({"type": "wait", "time_ms": 30_001}, "time_ms", "30000"),
    ({"type": "wait", "time_ms": True}, "time_ms", "whole number"),
    ({"type": "switch_tab", "tab_index": "1"}, "tab_index", "whole number"),
    ({"type": "click"}, "selector", "id="),
    ({"type": "click", "id": ""}, "selector", "id="),
    ({"type": "click", "selector": " "}, "selector", "not empty"),
    ({"type": "click", "selector": {"css": "a"}}, "selector", "css_selector"),
    ({"type": "click", "id": "B1", "timeout": 120_001}, "timeout", "120000"),
    ({"type": "click", "id": "B1", "timeout": -1}, "timeout", "from 0"),
    ({"type": "fill", "id": "I1"}, "value", "fill needs it"),
    ({"type": "fill", "id": "I1", "value": 3}, "value", "a text"),
    ({"type": "fill", "id": "I1", "value": "\ud800"}, "value", "UTF-8"),
    ({"type": "check", "id": "I1", "value": "yes"}, "value", "true or false"),
    ({"type": "form_fill", "value": {}}, "value", "at least one"),
    ({"type": "form_fill", "value": {"emial": "x"}}, "value.emial", "did you mean 'email'?"),
    ({"type": "form_fill", "value": {"password": "x", "current_password": "y"}}, "value", "one of"),
    ({"type": "scroll_up", "amount": -5}, "amount", "from 0"),
]


@pytest.mark.parametrize(("told", "option", "allowed"), BAD, ids=lambda v: json.dumps(v) if isinstance(v, dict) else "")
def test_a_bad_action_is_refused_by_name(told, option, allowed):
    with pytest.raises(ConfigError) as e:
        parse_action(told, {})
    assert e.value.option == option
    assert allowed in e.value.allowed


def test_what_is_no_mapping_is_refused():
    with pytest.raises(ConfigError) as e:
        parse_action(["goto"], {})  # type: ignore[arg-type]
    assert e.value.option == "action"


def test_no_refusal_repeats_what_may_be_a_secret():
    for told in (
        {"type": "form_fill", "value": {"pasword": "hunter2"}},
        {"type": "fill", "id": "I1", "value": "x", "secret": "hunter2"},
        {"type": "fill", "id": "I1", "value": b"hunter2"},
        {"type": "goto", "url": "ftp://me:hunter2@example.com/"},
    ):
        with pytest.raises(ConfigError) as e:
            parse_action(told, {})
        assert "hunter2" not in str(e.value)


def test_fields_that_only_describe_an_action_are_dropped():
    told = {
        "type": "click", "id": "B1[:]", "category": "Interaction Actions", "description": "Click", "text_label": "Go",
        "accessible_name": "Go", "param": None, "press_enter": None, "selector": None, "timeout": 0,
    }  # fmt: skip
    action = parse_action(told, {})
    assert dict(action.fields) == {"id": "B1", "timeout": 15_000}  # 0 would wait for ever


def test_fields_win_over_the_mapping():
    action = parse_action({"type": "goto", "url": "https://a.example"}, {"url": "https://b.example"})
    assert action.fields["url"] == "https://b.example"


@pytest.mark.parametrize(
    ("given", "selector"),
    [
        ("~Sign in", 'internal:text="Sign in"'),
        ("xpath=//a", "xpath=//a"),
        ({"css_selector": "#a", "xpath_selector": "//a", "playwright_selector": ""}, "css=#a"),
        ({"playwright_selector": "text=A", "css_selector": "#a"}, "text=A"),
        ({"xpath_selector": "//a"}, "xpath=//a"),
        (
            {"css_selector": "b", "iframe_parent_css_selectors": ["#one", "#two"]},
            "css=#one >> internal:control=enter-frame >> css=#two >> internal:control=enter-frame >> css=b",
        ),
    ],
)
def test_selectors_of_the_wire_become_one(given, selector):
    assert parse_action({"type": "click", "selector": given}, {}).fields["selector"] == selector


def test_a_password_is_the_current_password():
    action = parse_action(None, {"type": "form_fill", "value": {"password": "x", "email": None}})
    assert action.fields["value"] == {"current_password": "x"}


def test_options_of_observe_and_scrape():
    assert parse_observe({}) == ObserveRequest()
    assert parse_observe({"max_nb_actions": 5}).to_json() == {"max_nb_actions": 5}
    request = parse_scrape({"selector": "~A", "scrape_links": False, "ignored_tags": ["b"], "scrape_images": None})
    assert request.to_json() == {"selector": 'internal:text="A"', "scrape_links": False, "ignored_tags": ["b"]}
    assert parse_scrape(request.to_json()) == request
    for parse, told, option in (
        (parse_observe, {"max_actions": 5}, "max_actions"),
        (parse_observe, {"perception_type": "slow"}, "perception_type"),
        (parse_observe, {"max_nb_actions": 0}, "max_nb_actions"),
        (parse_scrape, {"main": True}, "main"),
        (parse_scrape, {"ignored_tags": "b"}, "ignored_tags"),
        (parse_scrape, {"only_images": True}, "only_images"),
    ):
        with pytest.raises(ConfigError) as e:
            parse(told)
        assert e.value.option == option


@pytest.mark.parametrize(
    "request_",
    [
        *(parse_action(told, {}) for told in GOOD if told["type"] in NEEDS_SERVICE),
        ObserveRequest(instructions="x"),
        ObserveRequest(perception_type="deep"),
        ScrapeRequest(instructions="x"),
        ScrapeRequest(response_format={"type": "object"}),
        ScrapeRequest(model="m"),
        ScrapeRequest(use_link_placeholders=True),
        Action("scrape", {"instructions": "x"}),
    ],
)
def test_what_needs_a_service_names_the_way_out(request_):
    with pytest.raises(UnsupportedOperation) as e:
        refuse_service_only(request_, "local")
    assert e.value.adapter == "local"
    assert 'adapter="remote"' in e.value.way_out


def test_what_needs_only_a_browser_is_not_refused():
    for told in GOOD:
        if told["type"] not in NEEDS_SERVICE:
            refuse_service_only(parse_action(told, {}), "local")
    refuse_service_only(ObserveRequest(), "local")
    refuse_service_only(ScrapeRequest(only_main_content=True), "local")


def test_every_budget_fits_what_the_action_may_wait_and_is_bounded():
    longest = parse_action({"type": "click", "id": "B1", "timeout": 120_000}, {})
    assert 240 < budget_of(longest) <= 300
    assert budget_of(parse_action({"type": "wait", "time_ms": 30_000}, {})) > 30 + 30
    for told in GOOD:
        assert 60 <= budget_of(parse_action(told, {})) <= 300
    for request in (ObserveRequest(), ScrapeRequest()):
        assert budget_of(request) == 90


# --- results ----------------------------------------------------------------------------------------------------


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\xff\0\0" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def result(told, **fields) -> ActionResult:
    fields = {"success": True, "message": "done", **fields}
    return ActionResult(
        action=parse_action(told, {}), started_at=NOW, ended_at=NOW + timedelta(milliseconds=1), **fields
    )


RESULTS = [
    *(result(told) for told in GOOD if told["type"] not in ("evaluate_js", "scrape")),
    result({"type": "click", "id": "B1"}, success=False, message="click failed: no", error="no"),
    *(
        result({"type": "evaluate_js", "code": "x"}, data=data)
        for data in (None, "", "text", "null", "3", 3, 0, 1.5, True, False, [], [1, None], {"a": {"b": [None]}})
    ),
    result({"type": "scrape"}, data="# A"),
    result({"type": "download_file", "id": "L1"}, data={"path": "/a/b", "filename": "b", "size": 3}),
]

OBSERVATION = Observation(
    url="https://example.com/",
    title="A",
    description="A\n...",
    elements=(
        Element(id="B1", role="button", name="Go", action="click", selector="css=#go", box=(1.0, 2.5, 3.0, 4.0)),
        Element(id="L1", role="link", name="", action="click", selector="css=a", disabled=True),
        Element(id="I1", role="textbox", name="Name", action="fill", selector="css=input", value="x"),
        Element(id="I2", role="checkbox", name="Yes", action="check", selector="css=b", checked=True),
        Element(
            id="I3", role="combobox", name="Size", action="select_dropdown_option", selector="css=select",
            value="M", options=("S", "M"),
        ),
        Element(id="I4", role="button", name="File", action="upload_file", selector="css=#f"),
    ),
    tabs=(Tab(tab_id=0, title="A", url="https://example.com/"),),
    viewport=Viewport(viewport_width=800, viewport_height=600, total_width=800, total_height=3000, scroll_y=12),
    screenshot=png(),
    fingerprint="abc",
    started_at=NOW,
    ended_at=NOW,
)  # fmt: skip


@pytest.mark.parametrize("told", RESULTS, ids=lambda r: f"{r.action.type} {r.data!r}"[:40])
def test_a_result_comes_back_from_its_json(told):
    again = ActionResult.from_json(json.loads(json.dumps(told.to_json())))
    assert again == ActionResult(**{**_fields(told), "action": again.action})
    assert type(again.data) is type(told.data)
    expected = {**told.action.fields}
    if told.action.type in INTERACTIONS:
        expected.setdefault("id", "")
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in again.action.fields.items()} == expected


def _fields(value) -> dict:
    return {name: getattr(value, name) for name in type(value).__slots__}


def test_an_observation_comes_back_from_its_json():
    assert Observation.from_json(json.loads(json.dumps(OBSERVATION.to_json()))) == OBSERVATION
    assert OBSERVATION.element("I2") is OBSERVATION.elements[3]
    assert OBSERVATION.element("B9") is None
    assert base64.b64decode(OBSERVATION.to_json()["screenshot"]["raw"]) == png()


def test_a_scrape_comes_back_from_its_json():
    for scraped in (Scrape(markdown="# A"), Scrape(markdown="", structured={"success": True, "data": {"a": 1}})):
        assert Scrape.from_json(json.loads(json.dumps(scraped.to_json()))) == scraped
    assert str(Scrape(markdown="# A")) == "# A"


def test_an_answer_of_another_server_is_read():
    told = {
        "action": {"type": "brand_new", "x": 1}, "success": False, "message": "m", "exception": None, "more": 1,
        "started_at": "2026-01-02T03:04:05Z", "ended_at": "2026-01-02T03:04:05",
    }  # fmt: skip
    read = ActionResult.from_json(told)
    assert (read.action.type, read.error, read.started_at.tzinfo) == ("brand_new", "m", UTC)
    assert read.ended_at == read.started_at
    with pytest.raises(TypeError):
        ActionResult.from_json({**told, "success": "no"})
    observation = OBSERVATION.to_json()
    for key in ("element_states", "fingerprint"):
        del observation[key]
    observation["screenshot"] = {"raw": ""}
    assert [e.id for e in Observation.from_json(observation).elements] == ["B1", "L1", "I1", "I2", "I3", "I4"]


CHILD = """
import json, sys
from notte_core.types import ExecutionResultResponse, ObserveResponse, ScrapeResponse
from notte_sdk._generated import models

told = json.load(sys.stdin)
for each in told["results"]:
    read = ExecutionResultResponse.model_validate(each)
    assert read.success is each["success"] and read.message == each["message"], each
    assert (read.exception is None) is read.success, each
    assert read.action.type == each["action"]["type"], each
    assert (read.data.markdown if read.data else None) == (each["data"]["markdown"] if each["data"] else None)
    models.ApiExecutionResponse.model_validate(each)
seen = ObserveResponse.model_validate(told["observation"])
assert [a.id for a in seen.space.interaction_actions] == ["B1", "L1", "I1", "I2", "I3", "I4"]
assert [a.selector.playwright_selector for a in seen.space.interaction_actions][0] == "css=#go"
assert seen.screenshot.bytes()[:2] == bytes([255, 216]), "it makes a JPEG of every image"
assert seen.metadata.tabs[0].tab_id == 0 and seen.element_states["I3"].selected_options[0].label == "M"
assert seen.space.markdown
models.Observation.model_validate(told["observation"])
assert ScrapeResponse.model_validate(told["scrape"]).markdown == "# A"
models.DataSpace.model_validate(told["scrape"])
for action in told["offered"]:
    models.PageExecuteRequest.model_validate(action)
print("read", len(told["results"]))
"""


@pytest.mark.slow
def test_the_client_of_others_reads_our_json(tmp_path):
    """In a process of its own: it keeps a cache folder, and its telemetry has to be off before it is imported."""
    observation = OBSERVATION.to_json()
    told = {
        "results": [r.to_json() for r in RESULTS],
        "observation": observation,
        "scrape": Scrape(markdown="# A").to_json(),
        "offered": observation["space"]["interaction_actions"],
    }
    env = {**os.environ, "DISABLE_TELEMETRY": "true", "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(told), env=env, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == f"read {len(RESULTS)}"
