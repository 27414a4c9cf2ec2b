"""Operations through the server: by our own client, by notte-sdk, and by whoever asks for what is not allowed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from operations_site import FORM, HTML
from server_rig import TOKEN, notte, running, visiting

from lifecycle import Client, ConfigError, OperationFailed, RemoteRejected, SessionClosed, UnsupportedOperation
from lifecycle.actions import ActionResult
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lasting():
    with running(adapter="local", store="memory:") as up:
        with visiting(up) as once:  # what the process keeps for good comes with the first browser
            once.http.delete(f"/sessions/{once.start()['session_id']}/stop")
        yield up


@pytest.fixture
def page(site):
    site.pages["/form"] = (200, HTML, FORM.encode())
    return f"{site.url}/form"


@pytest.fixture
def remote(lasting, monkeypatch):
    monkeypatch.setenv("NOTTE_API_URL", lasting.url)
    monkeypatch.setenv("NOTTE_API_KEY", TOKEN)
    with Client(adapter="remote", store="memory:") as made:
        yield made


def test_our_own_client_operates_on_a_page_of_the_server(remote, page):
    with remote.Session() as session:
        assert session.execute(type="goto", url=page).success
        seen = session.observe()
        assert seen.url == page
        assert seen.screenshot.startswith(b"\x89PNG")
        first = next(e for e in seen.elements if e.name == "First name")
        assert session.execute(type="fill", id=first.id, value="Ada").success
        assert session.execute(type="click", selector="text=Send").success
        told = session.execute(type="evaluate_js", code="document.getElementById('out').textContent")
        assert "Ada" in str(told.data)
        assert "The form" in session.scrape().markdown
        assert "The end" not in session.scrape(only_main_content=True).markdown
        with pytest.raises(OperationFailed, match="nowhere"):
            session.execute(type="click", selector="#nowhere", timeout=100)
        failed = session.execute(type="click", selector="#nowhere", timeout=100, raise_on_failure=False)
        assert (failed.success, session.state) == (False, "active")
    with pytest.raises(SessionClosed):
        session.execute(type="reload")


def test_operations_of_a_remote_session_are_use_of_it(remote, page):
    with remote.Session() as session:
        before = session.status().last_accessed_at
        session.execute(type="goto", url=page)
        assert session.status().last_accessed_at > before


@pytest.mark.parametrize(
    ("options", "kind", "error"),
    [
        ({"type": "goto", "url": "file:///etc/passwd"}, (ConfigError, RemoteRejected), "url"),
        (
            {"type": "upload_file", "selector": "input", "file_path": "/etc/passwd"},
            (ConfigError, RemoteRejected),
            "file_path",
        ),
        ({"type": "captcha_solve"}, UnsupportedOperation, r"captcha_solve is not supported .*the service at .* says: "),
    ],
)
def test_what_is_not_allowed_over_the_wire(remote, page, options, kind, error):
    with remote.Session() as session:
        session.execute(type="goto", url=page)
        with pytest.raises(kind, match=error):
            session.execute(**options)
        assert session.execute(type="evaluate_js", code="location.href").data is not None
        assert session.state == "active"


def test_notte_sdk_operates(lasting, page, monkeypatch):
    monkeypatch.setenv("NOTTE_API_URL", lasting.url)
    monkeypatch.setenv("NOTTE_API_KEY", TOKEN)
    with notte().NotteClient() as client, client.Session() as session:
        assert session.execute(type="goto", url=page).success
        seen = session.observe()
        assert seen.metadata.url == page
        names = {action.description for action in seen.space.interaction_actions}
        assert names
        first = next(a for a in seen.space.interaction_actions if a.id.startswith("I"))
        assert session.execute(type="fill", id=first.id, value="Ada").success
        assert session.execute(type="click", selector="text=Send").success
        assert "Ada" in session.evaluate_js(code="document.getElementById('out').textContent")
        assert "The form" in session.scrape()
        result = session.execute(type="click", selector="#nowhere", timeout=100, raise_on_failure=False)
        assert result.success is False
        assert result.message
        with pytest.raises(Exception, match="nowhere"):
            session.execute(type="click", selector="#nowhere", timeout=100, raise_on_failure=True)


def test_a_fake_answers_by_its_script(monkeypatch):
    def results(operation):
        now = datetime.now(UTC)
        return ActionResult(action=operation, success=True, message="as scripted", started_at=now, ended_at=now)

    monkeypatch.setenv("NOTTE_API_KEY", TOKEN)
    with running(adapter=MemoryAdapter(results=results), store="memory:") as up:
        monkeypatch.setenv("NOTTE_API_URL", up.url)
        with Client(adapter="remote", store="memory:") as client, client.Session() as session:
            assert session.execute(type="reload").message == "as scripted"


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("execute", {"type": "fly"}, 422, "select_dropdown_option"),
        ("execute", {}, 422, "type"),
        ("execute", [], 422, "body"),
        ("execute", {"type": "goto"}, 422, "url"),
        ("execute", {"type": "goto", "url": "https://a.test", "self": 1}, 422, "self"),
        ("observe", {"self": 1}, 422, "self"),
        ("scrape", {"path": "/"}, 422, "path"),
        ("observe", {"instructions": "find it"}, 409, "remote"),
    ],
)
def test_what_can_t_be_asked(lasting, path, body, status, named):
    with visiting(lasting) as up:
        session_id = up.start()["session_id"]
        answer = up.http.post(f"/sessions/{session_id}/page/{path}", json=body)
        assert (answer.status_code, named in answer.text) == (status, True), answer.text
        assert "detail" in answer.json()
        up.http.delete(f"/sessions/{session_id}/stop")
        assert up.http.post(f"/sessions/{session_id}/page/{path}", json={"type": "reload"}).status_code in (410, 422)
        assert up.http.post(f"/sessions/unknown/page/{path}", json={"type": "reload"}).status_code in (404, 422)
