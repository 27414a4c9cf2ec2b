"""With operations attached, a user's client sees what it would see without: dialogs, downloads, choosers, routes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from both_ways import eventually
from cdp_client import Ws
from operations_site import furnish
from test_pages import drivers

from lifecycle import Client, OperationFailed
from lifecycle.gateway import own
from lifecycle.gateway.policy import REFUSED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["with", "without"])
def both(request, site):
    """A session with a user's page, with operations attached and, to compare, without."""
    furnish(site)
    with Client(store="memory:") as client, client.Session(viewport_width=900, viewport_height=600) as session:
        if request.param == "with":
            session.observe()
        session.page.goto(f"{site.url}/one")
        yield session, request.param == "with"


def operate(session, attached: bool) -> None:
    """Something in between, where operations are attached at all."""
    if attached:
        session.observe()
        session.execute(type="evaluate_js", code="1")


def test_dialogs_are_the_users(both, site):
    session, attached = both
    page = session.page
    page.goto(f"{site.url}/dialogs")
    operate(session, attached)
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#asks")
    assert page.inner_text("#said") == "true"
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#asks")
    assert page.inner_text("#said") == "false"
    page.click("#alerts")  # without a listener Playwright dismisses by itself
    assert page.inner_text("#said") == "alerted"


def test_downloads_are_the_users(both, site, tmp_path):
    session, attached = both
    page = session.page
    page.goto(f"{site.url}/files")
    for round_ in range(2):
        operate(session, attached)
        with page.expect_download() as downloading:
            page.click("#plain")
        downloading.value.save_as(tmp_path / f"{round_}.bin")
        assert (tmp_path / f"{round_}.bin").read_bytes() == b"0123456789"


def test_file_choosers_are_the_users(both, site, tmp_path):
    session, attached = both
    page = session.page
    page.goto(f"{site.url}/files")
    operate(session, attached)
    (tmp_path / "mine.txt").write_text("mine")
    with page.expect_file_chooser() as choosing:
        page.click("#asks")
    choosing.value.set_files(tmp_path / "mine.txt")
    page.wait_for_function("said.textContent === 'asked:mine.txt'")


def test_routes_are_the_users(both, site):
    session, attached = both
    page = session.page
    page.route("**/routed", lambda route: route.fulfill(body="<title>Routed</title>", content_type="text/html"))
    operate(session, attached)
    page.goto(f"{site.url}/routed")
    assert page.title() == "Routed"
    page.goto(f"{site.url}/one")
    if attached:  # an operation's own navigation is routed too; the route runs in this thread, so the operation can't
        going = threading.Thread(
            target=session.execute, kwargs={"type": "goto", "url": f"{site.url}/routed"}, name="site-goto"
        )
        going.start()
        page.wait_for_url("**/routed")
        going.join(15)
        assert session.observe().title == "Routed"
    page.unroute_all()


def test_overrides_of_the_user_stay(both, site):
    session, attached = both
    page = session.page
    page.goto(f"{site.url}/two")
    page.set_viewport_size({"width": 555, "height": 444})
    page.emulate_media(color_scheme="dark")
    operate(session, attached)
    if attached:
        session.scrape()
    assert page.evaluate("[innerWidth, innerHeight, matchMedia('(prefers-color-scheme: dark)').matches]") == [
        555, 444, True,
    ]  # fmt: skip
    page.set_viewport_size({"width": 900, "height": 600})
    page.emulate_media(color_scheme="null")


def test_new_pages_and_contexts_are_the_users(both, site):
    session, attached = both
    session.page.goto(f"{site.url}/one")
    browser = session.page.context.browser
    operate(session, attached)
    context = browser.new_context(user_agent="mine")
    other = context.new_page()
    other.goto(f"{site.url}/two")
    assert other.evaluate("navigator.userAgent") == "mine"
    with session.page.expect_popup() as opening:
        session.page.evaluate("void open('/two')")
    popup = opening.value
    popup.wait_for_load_state()
    assert popup.title() == "Two"
    if attached:  # a context of a client's own is not the session's
        assert [t.title for t in session.observe().tabs].count("Two") == 1
    popup.close()
    context.close()


def test_an_operation_is_use_and_its_traffic_is_not(site):
    furnish(site)
    with Client(store="memory:") as client, client.Session() as session:
        session.execute(type="goto", url=f"{site.url}/one")
        used: list[float] = []
        was, session._att.backend.endpoint._hub._on_use = (
            session._att.backend.endpoint._hub._on_use,
            lambda: used.append(time.monotonic()),
        )
        for _ in range(3):
            session.observe()
        assert used == []
        session._att.backend.endpoint._hub._on_use = was
        before = session.status().last_accessed_at
        session.observe()
        assert session.status().last_accessed_at > before


def test_a_dialog_that_nobody_else_hears_of_is_dismissed(site):
    furnish(site)
    with Client(store="memory:") as client, client.Session() as session:
        session.execute(type="goto", url=f"{site.url}/dialogs")
        session.execute(type="click", selector="#asks", timeout=5000)
        said = "document.querySelector('#said').textContent"
        assert session.execute(type="evaluate_js", code=said).data == "false"
        session.execute(type="click", selector="#alerts", timeout=5000)
        assert session.execute(type="evaluate_js", code=said).data == "alerted"


def test_a_dialog_that_a_client_hears_of_is_left_to_it(site):
    furnish(site)
    with Client(store="memory:") as client, client.Session() as session:
        session.execute(type="goto", url=f"{site.url}/dialogs")
        with Ws(session.cdp_url()) as user:
            target = next(
                t for t in user.call("Target.getTargets")["result"]["targetInfos"] if t["url"].endswith("/dialogs")
            )
            attached = user.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
            mine = attached["result"]["sessionId"]
            user.call("Page.enable", session_id=mine)
            clicking = threading.Thread(
                target=session.execute,
                kwargs={"type": "click", "selector": "#asks", "timeout": 10_000},
                name="site-click",
            )
            clicking.start()
            assert user.wait_event("Page.javascriptDialogOpening")["params"]["message"] == "sure?"
            answer = user.call("Page.handleJavaScriptDialog", {"accept": True}, mine)
            assert "error" not in answer, "somebody else has answered"
            clicking.join(15)
            said = session.execute(type="evaluate_js", code="document.querySelector('#said').textContent").data
            assert said == "true"


def test_operations_whose_driver_is_frozen_hold_up_no_page_of_the_user(site):
    furnish(site)
    with Client(store="memory:") as client, client.Session() as session:
        known = set(drivers())
        session.observe()
        (driver,) = set(drivers()) - known
        session.page.goto(f"{site.url}/one")
        os.kill(driver, signal.SIGSTOP)
        try:
            page = session.page.context.new_page()
            page.goto(f"{site.url}/two", timeout=15_000)
            assert page.title() == "Two"
            with session.page.expect_popup(timeout=15_000) as opening:
                session.page.evaluate("void open('/two')")
            opening.value.wait_for_load_state(timeout=15_000)
        finally:
            os.kill(driver, signal.SIGCONT)
        assert [t.title for t in session.observe().tabs] == ["One", "Two", "Two"]


# --- downloads of operations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_attached", [False, True])
def test_a_download_lands_in_the_sessions_folder_and_the_users_own_still_work(site, tmp_path, user_attached):
    furnish(site)
    with Client(store="memory:") as client, client.Session() as session:
        if user_attached:
            session.page.goto(f"{site.url}/files")
        else:
            session.execute(type="goto", url=f"{site.url}/files")
        kept = []
        for selector, name, content in (
            ("#plain", "file.bin", b"0123456789"),
            ("#evil", "_.._evil.txt", b"evil"),  # a path is no name: the browser has taken the slashes out
            ("#blob", "made.txt", b"made here"),
            ("#plain", "1-file.bin", b"0123456789"),
        ):
            result = session.execute(type="download_file", selector=selector)
            path = Path(result.data["path"])
            kept.append(path)
            assert path.name == name == result.data["filename"]
            assert path.read_bytes() == content
            assert result.data["size"] == len(content)
        assert len({path.parent for path in kept}) == 1
        assert sorted(p.name for p in kept[0].parent.iterdir()) == [
            "1-file.bin",
            "_.._evil.txt",
            "file.bin",
            "made.txt",
        ]
        with pytest.raises(OperationFailed, match="no download"):
            session.execute(type="download_file", selector="#nothing", timeout=300)
        session.page.goto(f"{site.url}/files")
        with session.page.expect_download() as downloading:
            session.page.click("#plain")
        downloading.value.save_as(tmp_path / "users.bin")
        assert (tmp_path / "users.bin").read_bytes() == b"0123456789"
    assert not kept[0].parent.exists(), "the folder is removed with the session"


def test_a_download_that_a_client_forbids_fails(site):
    furnish(site)
    with Client(store="memory:") as client, client.Session() as session:
        session.execute(type="goto", url=f"{site.url}/files")
        with Ws(session.cdp_url()) as user:
            user.call("Browser.setDownloadBehavior", {"behavior": "deny"})
            with pytest.raises(OperationFailed, match="does not allow downloads"):
                session.execute(type="download_file", selector="#plain", timeout=5000)
        hub = session._att.backend.endpoint._hub
        eventually(lambda: all(c.own for c in list(hub._clients)))
        assert session.execute(type="download_file", selector="#plain").data["size"] == 10


# --- the table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        "Browser.setDownloadBehavior", "Emulation.setDeviceMetricsOverride", "Emulation.setFocusEmulationEnabled",
        "Fetch.enable", "Network.setCacheDisabled", "Page.setBypassCSP", "Runtime.runIfWaitingForDebugger",
        "Security.setIgnoreCertificateErrors", "Storage.setCookies",
    ],
)  # fmt: skip
def test_what_would_disturb_others_is_kept_back(method):
    assert own.kept_back(method, others_answer_dialogs=False)


@pytest.mark.parametrize(
    "method", ["Page.enable", "Page.navigate", "Input.dispatchMouseEvent", "Runtime.evaluate", "Target.createTarget"]
)
def test_what_operations_need_is_not_kept_back(method):
    assert not own.kept_back(method, others_answer_dialogs=True)


def test_dialogs_and_waiting_pages():
    assert own.kept_back("Page.handleJavaScriptDialog", others_answer_dialogs=True)
    assert not own.kept_back("Page.handleJavaScriptDialog", others_answer_dialogs=False)
    told = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
    assert own.tamed("Target.setAutoAttach", told) == {**told, "waitForDebuggerOnStart": False}
    assert own.tamed("Page.navigate", {"url": "x"}) == {"url": "x"}


def test_an_own_client_has_no_more_rights_than_others(site):
    """Another token, the same refusals, and it opens nothing once the session is over."""
    with Client(store="memory:") as client, client.Session() as session:
        endpoint = session._att.backend.endpoint
        assert endpoint.own_url != endpoint.url
        with Ws(endpoint.own_url) as mine, Ws(endpoint.url) as user:
            for method in REFUSED:
                assert "refused" in mine.call(method)["error"]["message"]
            assert mine.call("Emulation.setFocusEmulationEnabled", {"enabled": True}) == {"id": mine.last, "result": {}}
            attached = user.call("Target.createTarget", {"url": "about:blank"})
            found = mine.call("Target.attachToTarget", {"targetId": attached["result"]["targetId"], "flatten": True})
            stolen = user.call("Runtime.evaluate", {"expression": "1"}, found["result"]["sessionId"])
            assert stolen["error"]["code"] == -32001
        url = endpoint.own_url
    with pytest.raises(Exception, match="40[04]|410"), Ws(url):
        pass
