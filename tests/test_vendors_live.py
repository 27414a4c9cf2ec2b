"""Vendors' sessions as a client lives them: a real Chromium behind a fake of each, and one behind a chromedriver."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cdp_client import Ws
from driver_rig import SETTINGS, Driver
from foreign_browser import Foreign
from planted import API_KEY as KEY
from test_import_lock import PROGRAM
from test_vendors import VENDORS, make
from vendor_service import SERVICES
from waiting import until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from lifecycle import Client, ReleaseFailed, State
from lifecycle.engine import supervisor
from lifecycle.errors import AuthenticationError, StartFailed
from lifecycle.states import CloseReason
from lifecycle_adapters.vendors import ending
from lifecycle_adapters.vendors.browserless import BrowserlessAdapter
from lifecycle_adapters.vendors.webdriver import WebDriverAdapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="starts a Chromium with a debugging port"),
]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    made = Foreign(tmp_path_factory.mktemp("foreign"))
    yield made
    made.end()


@pytest.fixture
def service(request, foreign):
    made = SERVICES[request.param]()
    made.cdp = foreign.url
    yield made
    made.stop()
    assert made.wrong == []


@pytest.fixture
def kept():
    """`kept(adapter)`: the adapter, whose connections are closed after the test."""
    made = []

    def keep(adapter):
        made.append(adapter)
        return adapter

    yield keep

    async def close(_):
        for adapter in made:
            await adapter.aclose()

    supervisor().call(close)


def living(session):
    """Use it as a client does."""
    session.set_cookies(cookies=[{"name": "a", "value": "1", "domain": "x.test", "path": "/"}])
    assert [c["name"] for c in session.get_cookies()] == ["a"]
    with Ws(session.cdp_url()) as ws:
        assert "Chrome" in ws.call("Browser.getVersion")["result"]["product"]


@pytest.mark.parametrize("service", VENDORS, indirect=True)
def test_a_session_at_a_vendor(service, foreign, kept):
    foreign.call("Storage.clearCookies")
    with Client(adapter=kept(make(service)), store="memory:") as client:
        with client.Session() as session:
            living(session)
            assert len(service.live) == 1
        assert (session.state, service.live, service.count("create")) == (State.CLOSED, [], 1)
        assert client.sessions.list(status="active") == []


@pytest.mark.parametrize("service", ["browserbase"], indirect=True)
def test_a_release_that_fails_ends_in_error_and_the_ledger_keeps_the_row(service, tmp_path, monkeypatch, kept):
    monkeypatch.setattr(ending, "BUDGET", 0.2)
    with Client(adapter=kept(make(service)), store=f"sqlite:///{tmp_path / 'log.db'}") as client:
        session = client.Session().start()
        service.keeps = True
        with pytest.raises(ReleaseFailed, match="it may still run"):
            session.stop()
        assert session.state is State.ERROR
        assert service.live
    from lifecycle.stores import open_store

    store = open_store(f"sqlite:///{tmp_path / 'log.db'}")
    (row,) = store.unfinished()
    store.close()
    assert (row.released, row.facts["id"]) == (False, service.live[0])


DIES = """
import os, sys
from lifecycle import Client
from lifecycle_adapters.vendors.browserbase import BrowserbaseAdapter

client = Client(adapter=BrowserbaseAdapter(project_id="p", base_url=sys.argv[1]), store=sys.argv[2])
print(client.Session().start().session_id, flush=True)
os._exit(1)
"""


@pytest.mark.parametrize("service", ["browserbase"], indirect=True)
def test_the_session_of_an_owner_that_died_is_ended_by_the_next_client(service, tmp_path, kept):
    store = f"sqlite:///{tmp_path / 'log.db'}"
    env = {**os.environ, "BROWSERBASE_API_KEY": KEY}
    command = [sys.executable, "-c", DIES, service.url, store]
    died = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert len(service.live) == 1, died.stderr
    with Client(adapter=kept(make(service)), store=store) as client:
        client.sessions.reap()
        until(lambda: not service.live)
        told = client.sessions.get(died.stdout.strip())
        assert (told.status, told.close_reason) == (State.ERROR, CloseReason.OWNER_DIED)


@pytest.mark.parametrize("when", ["start", "stop"])
@pytest.mark.parametrize("service", ["browserbase"], indirect=True)
def test_a_held_import_lock_holds_no_edge(service, when, tmp_path):
    env = {**os.environ, "BROWSERBASE_API_KEY": KEY, "BROWSERBASE_PROJECT_ID": "p", "BROWSERBASE_BASE_URL": service.url}
    command = [sys.executable, "-c", PROGRAM, "browserbase", when, str(tmp_path)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "closed True\n", "")
    assert service.live == []


# --- Browserless ----------------------------------------------------------------------------------------------------


class Browserless:
    """A browser for each connection, as long as it lasts, and for whoever has the token."""

    def __init__(self, url):
        self._url = url
        self.live = 0
        self.asked = []
        self._server = serve(self._serve, "127.0.0.1", 0, process_request=self._let_in, max_size=None)
        self._thread = threading.Thread(target=self._server.serve_forever, name="site-browserless")
        self._thread.start()
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def _let_in(self, connection, request):
        query = parse_qs(urlsplit(request.path).query)
        self.asked.append(query)
        if query.get("token") != [KEY]:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "no")
        return None

    def _serve(self, client):
        self.live += 1
        with connect(self._url, proxy=None, max_size=None, compression=None) as browser:
            back = threading.Thread(target=self._pump, args=(browser, client), name="site-pump")
            back.start()
            self._pump(client, browser)
            browser.close()
            back.join()
        self.live -= 1

    def _pump(self, one, other):
        try:
            for message in one:
                other.send(message)
        except ConnectionClosed:
            return

    def stop(self):
        self._server.shutdown()
        self._thread.join(10)


@pytest.fixture
def browserless(foreign):
    made = Browserless(foreign.url)
    yield made
    made.stop()


def test_a_session_at_browserless_is_its_connection(browserless, foreign):
    foreign.call("Storage.clearCookies")
    adapter = BrowserlessAdapter(api_key=KEY, base_url=browserless.url)
    with Client(adapter=adapter, store="memory:") as client, client.Session(max_duration_minutes=20) as session:
        living(session)
        assert browserless.live == 1
    assert session.state is State.CLOSED
    until(lambda: browserless.live == 0)
    assert browserless.asked == [{"timeout": ["1260000"], "token": [KEY]}]
    with (
        Client(adapter=BrowserlessAdapter(api_key="bad", base_url=browserless.url), store="memory:") as client,
        pytest.raises(AuthenticationError, match="BROWSERLESS_TOKEN"),
    ):
        client.Session().start()


# --- chromedriver ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    made = Driver(tmp_path_factory.mktemp("driver"))
    yield made
    made.end()


def sessions(driver):
    return [s["id"] for s in httpx.get(f"{driver.url}/sessions").json()["value"]]


class Lossy:
    """What stands before a driver, and lets the answer to a create go lost."""

    def __init__(self, adapter):
        self._exchange = adapter.service.exchange
        self.times = 0
        adapter.service.exchange = self._lose

    async def _lose(self, method, path, **given):
        answer = await self._exchange(method, path, **given)
        if (method, path) == ("POST", "/session"):
            self.times += 1
            from lifecycle_adapters.remote.client import Lost

            raise Lost("no answer", sent=True)
        return answer


def test_a_create_whose_answer_is_lost_is_found_at_a_driver_by_its_tag(driver, kept):
    adapter = kept(WebDriverAdapter(base_url=driver.url, settings=SETTINGS))
    lossy = Lossy(adapter)
    with Client(adapter=adapter, store="memory:") as client:
        with client.Session() as session:
            assert len(sessions(driver)) == 1
            session.execute(type="goto", url="about:blank")
        assert (lossy.times, sessions(driver)) == (1, [])


def test_a_session_that_was_ended_at_the_driver_is_over(driver, kept):
    with Client(adapter=kept(WebDriverAdapter(base_url=driver.url, settings=SETTINGS)), store="memory:") as client:
        session = client.Session().start()
        httpx.delete(f"{driver.url}/session/{sessions(driver)[0]}")
        assert session.wait_ended(timeout=20).status is State.ERROR
        assert sessions(driver) == []


def test_a_driver_that_can_start_no_browser_says_why(driver, kept):
    settings = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"binary": "/nowhere"}}}}
    with (
        Client(
            adapter=kept(WebDriverAdapter(base_url=driver.url, settings=settings, reconcile_seconds=0.2)),
            store="memory:",
        ) as client,
        pytest.raises(StartFailed, match="500"),
    ):
        client.Session().start()
    assert sessions(driver) == []
