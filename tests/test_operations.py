"""Operations on a real page: each action, what `observe` tells and what `scrape` reads."""

from __future__ import annotations

import struct
import sys

import pytest
from both_ways import eventually
from operations_site import furnish

from lifecycle import Client, ConfigError, OperationFailed, UnsupportedOperation
from lifecycle.actions import ActionResult, Observation, OperationPolicy, Scrape

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(site):
    """One session for all of these tests; its driver has started."""
    furnish(site)
    with Client(store="memory:") as client, client.Session(viewport_width=1000, viewport_height=700) as session:
        session.observe()
        yield session


@pytest.fixture(autouse=True)
def _one_tab(page):
    yield
    while len(page.observe().tabs) > 1:
        page.execute(type="close_tab")


def text(page, selector="#out"):
    return page.execute(type="evaluate_js", code=f"document.querySelector({selector!r}).textContent").data


def failed(page, **fields) -> str:
    """The error of an action that has to fail."""
    result = page.execute(raise_on_failure=False, **fields)
    assert result.success is False
    assert result.data is None
    assert result.message == f"{fields['type']} failed: {result.error}"
    assert result.started_at <= result.ended_at
    return result.error


# --- navigation -------------------------------------------------------------------------------------------------


def test_goto_and_the_history(page, site):
    result = page.execute(type="goto", url=f"{site.url}/one")
    assert isinstance(result, ActionResult)
    assert result.success
    assert result.error is None
    assert page.observe().title == "One"
    page.execute({"type": "goto", "url": f"{site.url}/moved"})
    assert page.observe().url == f"{site.url}/two"
    page.execute(type="go_back")
    assert page.observe().title == "One"
    page.execute(type="go_forward")
    assert page.observe().title == "Two"
    assert failed(page, type="go_forward") == "there is no page to go forward to"
    before = site.requests.count("GET /two")
    page.execute(type="reload")
    assert site.requests.count("GET /two") == before + 1
    for wait_until in ("commit", "domcontentloaded", "networkidle"):
        page.execute(type="goto", url=f"{site.url}/one", wait_until=wait_until)


def test_a_page_that_answers_404_is_a_page(page, site):
    page.execute(type="goto", url=f"{site.url}/missing")
    assert page.observe().title == "Missing"


def test_what_can_not_be_reached_is_a_failure_and_raises_by_default(page):
    with pytest.raises(OperationFailed) as e:
        page.execute(type="goto", url="http://127.0.0.1:9/")
    assert e.value.action == "goto"
    assert "ERR_" in e.value.reason
    assert str(e.value) == f"goto failed: {e.value.reason}"
    assert "ERR_" in failed(page, type="goto", url="http://127.0.0.1:9/")


@pytest.mark.parametrize("path", ["/to-file", "/to-data"])
def test_no_redirect_leads_to_another_scheme(page, site, path):
    failed(page, type="goto", url=f"{site.url}{path}")
    assert not page.observe().url.startswith(("file:", "data:"))


@pytest.mark.parametrize("url", ["file:///etc/hostname", "view-source:http://127.0.0.1/", "data:text/html,x"])
def test_other_schemes_are_refused_by_name(page, url):
    with pytest.raises(ConfigError) as e:
        page.execute(type="goto", url=url, raise_on_failure=False)  # asking amiss is no failed action
    assert e.value.option == "url"
    assert url.split(":")[0] in str(e.value)


def test_a_policy_refuses_urls_redirects_and_clicks(page, site, monkeypatch):
    refuse = lambda url: "not there" if url.endswith(("/two", "/hop")) else None  # noqa: E731
    monkeypatch.setattr(page._att.operator, "_policy", OperationPolicy(refuse_url=refuse))
    for path in ("/two", "/moved", "/start"):  # the last one only passes by what is refused
        assert failed(page, type="goto", url=f"{site.url}{path}") == "not there"
    page.execute(type="goto", url=f"{site.url}/one")
    assert failed(page, type="click", selector="a") == "not there"
    assert page.observe().url == "about:blank"


def test_tabs(page, site):
    page.execute(type="goto", url=f"{site.url}/one")
    page.execute(type="goto_new_tab", url=f"{site.url}/two")
    seen = page.observe()
    assert [(t.tab_id, t.title, t.url) for t in seen.tabs] == [
        (0, "One", f"{site.url}/one"),
        (1, "Two", f"{site.url}/two"),
    ]
    assert seen.title == "Two"
    page.execute(type="switch_tab", tab_index=0)
    assert page.observe().title == "One"
    page.execute(type="switch_tab", tab_index=-1)
    assert page.observe().title == "Two"
    assert failed(page, type="switch_tab", tab_index=2) == "there is no tab 2; the tabs are 0 to 1"
    page.execute(type="close_tab")
    assert [t.title for t in page.observe().tabs] == ["One"]
    page.execute(type="close_tab")  # the last one leaves an empty one
    assert [t.url for t in page.observe().tabs] == ["about:blank"]
    failed(page, type="goto_new_tab", url="http://127.0.0.1:9/")
    assert len(page.observe().tabs) == 1


# --- interaction ------------------------------------------------------------------------------------------------


@pytest.fixture
def form(page, site):
    page.execute(type="goto", url=f"{site.url}/form")
    return page


def by_name(session, name):
    return next(e for e in session.observe().elements if e.name == name)


def test_a_form_by_ids(form):
    ids = {e.name: e.id for e in form.observe().elements}
    form.execute(type="fill", id=ids["First name"], value="Ann")
    form.execute(type="fill", id=ids["Remarks"], value=" and new", clear_before_fill=False)
    form.execute(type="check", id=ids["I agree"], value=True)
    form.execute(type="check", id=ids["Small"], value=True)
    form.execute(type="select_dropdown_option", id=by_role(form, "combobox").id, value="France")
    form.execute(type="click", id=ids["Send"])
    told = form.execute(type="evaluate_js", code="JSON.parse(out.textContent)").data
    assert told == {
        "first": "Ann", "mail": "", "pass": "", "text": "old and new", "terms": "yes", "size": "s", "country": "fr",
        "secret": "x",
    }  # fmt: skip
    states = {e.name: e for e in form.observe().elements}
    assert (states["First name"].value, states["I agree"].checked) == ("Ann", True)
    form.execute(type="check", id=ids["I agree"], value=False)
    assert by_name(form, "I agree").checked is False


def by_role(session, role):
    return next(e for e in session.observe().elements if e.role == role)


def test_a_form_by_selectors(form):
    form.execute(type="fill", selector="#mail", value="a@example.com", press_enter=True)
    assert '"mail":"a@example.com"' in text(form)
    form.execute(type="multi_factor_fill", selector="[name=first]", value="123456")
    form.execute(type="fallback_fill", selector={"css_selector": "[name=pass]"}, value="hunter2")
    form.execute(type="click", selector="xpath=//button[text()='Send']")
    assert '"first":"123456"' in text(form)
    assert '"pass":"hunter2"' in text(form)
    form.execute(type="click", selector="~Made up")
    assert text(form) == "role"
    form.execute(type="fill", selector="[contenteditable]", value="new")
    assert text(form, "[contenteditable]") == "new"


def test_select_by_text_by_value_and_what_is_not_there(form):
    for value, wanted in (("France", "fr"), ("de", "de")):
        form.execute(type="select_dropdown_option", selector="select", value=value)
        assert form.execute(type="evaluate_js", code="form.country.value").data == wanted
    error = failed(form, type="select_dropdown_option", selector="select", value="Spain")
    assert error == "there is no option 'Spain'; there are: 'Germany', 'France'"


def test_form_fill(form):
    value = {"first_name": "Ann", "email": "a@example.com", "password": "hunter2", "country": "France"}
    result = form.execute(type="form_fill", value=value)
    assert "hunter2" not in result.message
    form.execute(type="click", selector="text=Send")
    told = form.execute(type="evaluate_js", code="JSON.parse(out.textContent)").data
    assert (told["first"], told["mail"], told["pass"], told["country"]) == ("Ann", "a@example.com", "hunter2", "fr")
    error = failed(form, type="form_fill", value={"first_name": "Bob", "cc_number": "4111"})
    assert error == "no field was found for cc_number; the other 1 were filled"
    assert form.execute(type="evaluate_js", code="form.first.value").data == "Bob"


def test_elements_in_shadow_roots_and_frames(form):
    form.execute(type="click", id=by_name(form, "Shadow").id)
    assert text(form) == "shadow"
    form.execute(type="click", id=by_name(form, "Inside").id)
    assert by_name(form, "pressed").role == "button"


def test_what_is_not_there_or_not_ready_fails_in_time(form):
    error = failed(form, type="click", selector="#nowhere", timeout=200)
    assert error == "the element '#nowhere' was not there, or not ready for it, within 200 milliseconds"
    assert "not ready" in failed(form, type="click", selector="text=Never", timeout=200)
    assert "B77" in failed(form, type="click", id="B77")
    assert "strict mode" in failed(form, type="click", selector="button", timeout=500)
    assert "hunter2" not in failed(form, type="fill", selector="form", value="hunter2", timeout=200)


def test_an_id_does_not_outlive_its_document(form, site):
    gone = by_name(form, "Send").id
    form.execute(type="goto", url=f"{site.url}/two")
    assert gone in failed(form, type="click", id=gone)


def test_keys_and_waiting(form):
    form.execute(type="click", selector="[name=first]")
    form.execute(type="press_key", key="A")
    form.execute(type="press_key", key="Enter")
    assert '"first":"A"' in text(form)
    result = form.execute(type="wait", time_ms=30)
    assert (result.ended_at - result.started_at).total_seconds() >= 0.03
    assert "Unknown key" in failed(form, type="press_key", key="NoSuchKey")


def test_scrolling(page, site):
    page.execute(type="goto", url=f"{site.url}/long")

    def at(what="scrollY"):
        return page.execute(type="evaluate_js", code=what).data

    page.execute(type="scroll_down", amount=250)
    assert at() == 250
    page.execute(type="scroll_down")
    assert at() == 250 + page.observe().viewport.viewport_height
    page.execute(type="scroll_up", amount=10)
    assert page.observe().viewport.scroll_y == at() == 240 + page.observe().viewport.viewport_height
    page.execute(type="scroll_down", selector="#box", amount=70)
    assert at("box.scrollTop") == 70
    page.execute(type="scroll_up", selector="#box")
    assert at("box.scrollTop") == 0


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1", 2),
        ("'text'", "text"),
        ("null", None),
        ("undefined", None),
        ("NaN", None),
        ("12345678901234567890n", "12345678901234567890"),
        ("[1, {a: null}]", [1, {"a": None}]),
        ("(() => { const a = 1; return a; })()", 1),
        ("() => document.location.protocol", "http:"),
        ("Promise.resolve('later')", "later"),
        ("async () => { await null; return 3; } // said", 3),
    ],
)
def test_evaluate_js(page, site, code, value):
    if not page.observe().url.startswith(site.url):
        page.execute(type="goto", url=f"{site.url}/one")
    result = page.execute(type="evaluate_js", code=code)
    assert result.data == value
    assert ActionResult.from_json(result.to_json()).data == value


def test_javascript_that_throws_says_what(page):
    assert failed(page, type="evaluate_js", code="nothing.here") == "ReferenceError: nothing is not defined"
    assert failed(page, type="evaluate_js", code="throw 'a text'") == "a text"
    assert "SyntaxError" in failed(page, type="evaluate_js", code="(")


# --- observe and scrape -----------------------------------------------------------------------------------------


def test_observe_tells_roles_names_and_states(form):
    seen = form.observe()
    assert isinstance(seen, Observation)
    assert [(e.role, e.name, e.action) for e in seen.elements] == [
        ("link", "Home", "click"),
        ("textbox", "First name", "fill"),
        ("textbox", "E-mail", "fill"),
        ("textbox", "Password", "fill"),
        ("textbox", "Remarks", "fill"),
        ("checkbox", "I agree", "check"),
        ("radio", "Small", "check"),
        ("combobox", "", "select_dropdown_option"),
        ("button", "Send", "click"),
        ("button", "Never", "click"),
        ("textbox", "Editor", "fill"),
        ("button", "Made up", "click"),
        ("button", "Shadow", "click"),
        ("button", "Inside", "click"),
    ]
    assert {e.id[0] for e in seen.elements if e.role == "button"} == {"B"}
    assert [e.id for e in seen.elements if e.role == "link"] == ["L1"]
    assert seen.elements[1].id == "I1"
    assert len({e.id for e in seen.elements}) == len(seen.elements)
    assert [e.disabled for e in seen.elements if e.name == "Never"] == [True]
    assert seen.elements[7].options == ("Germany", "France")
    assert '[B1] button "Send"' in seen.description
    assert (seen.viewport.viewport_width, seen.viewport.viewport_height) == (1000, 700)
    assert seen.screenshot.startswith(b"\x89PNG")
    assert struct.unpack(">II", seen.screenshot[16:24]) == (1000, 700)
    for e in seen.elements:
        assert e.box is not None
        assert 0 <= e.box[0] < 1000
        assert e.box[2] > 0
    assert Observation.from_json(seen.to_json()) == seen


def test_a_password_is_never_told(form):
    form.execute(type="fill", selector="[name=pass]", value="hunter2")
    seen = form.observe()
    assert by_name(form, "Password").value is None
    assert "hunter2" not in repr(seen)


def test_ids_are_stable_while_the_document_lives(form):
    before = form.observe()
    form.execute(
        type="evaluate_js",
        code="document.querySelector('header').innerHTML = '<button>New</button><a href=/x>Newer</a>'",
    )
    after = form.observe()
    kept = {e.id: e.name for e in after.elements}
    for e in before.elements[1:]:
        assert kept[e.id] == e.name
    assert before.elements[0].id not in kept
    assert [e.name for e in after.elements[:2]] == ["New", "Newer"]
    assert before.fingerprint != after.fingerprint == form.observe().fingerprint
    assert [e.id for e in form.observe(max_nb_actions=2).elements] == [e.id for e in after.elements[:2]]
    assert "and 13 more" in form.observe(max_nb_actions=2).description


def test_observing_leaves_no_mark_on_the_page(form):
    probe = "document.documentElement.outerHTML + Object.keys(window).length"
    form.execute(type="evaluate_js", code="globalThis.changes = 0; new MutationObserver(() => changes++)"
                 ".observe(document, {subtree: true, childList: true, attributes: true})")  # fmt: skip
    before = form.execute(type="evaluate_js", code=probe).data
    form.observe()
    form.scrape()
    assert form.execute(type="evaluate_js", code=probe).data == before
    assert form.execute(type="evaluate_js", code="[changes, typeof lifecycleOperator]").data == [0, "undefined"]


ALL = """[Away]({url}/elsewhere)

# A title

Some **bold** text, [a link]({url}/there?a=1) and .

- one
- two
  - deep

| A | B |
| --- | --- |
| 1 | 2 |

```python
print("x")
if True:
    pass
```

A figure

Beside

Below
"""


def test_scrape(page, site):
    page.execute(type="goto", url=f"{site.url}/article")
    scraped = page.scrape()
    assert isinstance(scraped, Scrape)
    assert scraped.markdown == ALL.format(url=site.url)
    main = page.scrape(only_main_content=True).markdown
    assert main == scraped.markdown.partition("\n\n")[2].partition("\nBeside")[0]
    assert "some **bold** text, a link and ." in page.scrape(scrape_links=False).markdown.lower()
    assert f"![a picture]({site.url}/pixel.png)" in page.scrape(scrape_images=True).markdown
    assert page.scrape(selector="li >> nth=0").markdown.strip() in ("- one", "one")
    assert "figure" not in page.scrape(ignored_tags=["FIGURE"]).markdown
    assert page.execute(type="scrape", only_main_content=True).data == main
    with pytest.raises(OperationFailed, match="scrape failed"):
        page.scrape(selector="::")


def test_scrape_without_its_extra_names_it(page, monkeypatch):
    monkeypatch.setitem(sys.modules, "markdownify", None)
    with pytest.raises(UnsupportedOperation) as e:
        page.scrape()
    assert e.value.way_out == 'pip install "session-lifecycle[scrape]"'
    with pytest.raises(UnsupportedOperation):
        page.execute(type="scrape", raise_on_failure=False)


def test_what_needs_a_service_is_refused_here(page):
    for ask in (
        lambda: page.execute(type="captcha_solve", raise_on_failure=False),
        lambda: page.execute(type="scrape", instructions="the price"),
        lambda: page.observe(perception_type="deep"),
        lambda: page.observe(instructions="the price"),
        lambda: page.scrape(response_format={"type": "object"}),
    ):
        with pytest.raises(UnsupportedOperation) as e:
            ask()
        assert e.value.adapter == "local"
        assert 'adapter="remote"' in e.value.way_out


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(page, site):
    page.execute(type="goto", url=f"{site.url}/files")
    return page


@pytest.mark.parametrize(
    ("selector", "said"), [("#direct", "a.txt:3"), ("#label", "a.txt:3"), ("#asks", "asked:a.txt")]
)
def test_upload(files, tmp_path, selector, said):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    files.execute(type="upload_file", selector=selector, file_path=str(path))
    eventually(lambda: text(files, "#said") == said)


def test_upload_of_what_is_not_there_and_of_what_a_policy_maps(files, tmp_path, monkeypatch):
    error = failed(files, type="upload_file", selector="#direct", file_path=str(tmp_path / "none.txt"))
    assert error == "there is no file 'none.txt' where file_path says"
    assert str(tmp_path) not in error
    (tmp_path / "b.txt").write_text("b")
    policy = OperationPolicy(upload_path=lambda name: str(tmp_path / name))
    monkeypatch.setattr(files._att.operator, "_policy", policy)
    files.execute(type="upload_file", selector="#direct", file_path="b.txt")
    eventually(lambda: text(files, "#said") == "b.txt:1")
