"""Adapters of vendors, each against a fake of its vendor: one contract, and what each of them has for itself."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
import vendor_facts
from fake_host import FakeHost
from planted import API_KEY as KEY
from vendor_facts import FACTS
from vendor_service import SERVICES

import lifecycle_adapters
from lifecycle.config import parse_options
from lifecycle.errors import (
    AuthenticationError,
    BackendError,
    CapacityError,
    ConfigError,
    ConnectionLost,
    ReleaseFailed,
    RemoteRejected,
    StartFailed,
    UnsupportedOperation,
)
from lifecycle.ports import Adapter, Reaper
from lifecycle.states import CloseReason, State
from lifecycle.testing.striking import Strike, StruckAdapter
from lifecycle_adapters.remote import client as remote_client
from lifecycle_adapters.vendors import ending, watching
from lifecycle_adapters.vendors.anchor import AnchorAdapter
from lifecycle_adapters.vendors.browserbase import BrowserbaseAdapter
from lifecycle_adapters.vendors.browserless import BrowserlessAdapter
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.hyperbrowser import HyperbrowserAdapter
from lifecycle_adapters.vendors.kernel import KernelAdapter
from lifecycle_adapters.vendors.reach import reached
from lifecycle_adapters.vendors.steel import SteelAdapter
from lifecycle_adapters.vendors.told import merged, units
from lifecycle_adapters.vendors.webdriver import WebDriverAdapter

pytestmark = pytest.mark.slow

SESSION = "0b8f2b1e-3c55-4a2e-9d5e-6a2f0c9d7e11"
OTHER = "7d1a1d54-91a0-4a8e-8f86-2b8e3f0f5b22"

ADAPTERS = {
    "browserbase": lambda **given: BrowserbaseAdapter(api_key=KEY, project_id="p", **given),
    "steel": lambda **given: in_the_cloud(SteelAdapter(api_key=KEY, **given)),
    "steel self-hosted": SteelAdapter,
    "hyperbrowser": lambda **given: HyperbrowserAdapter(api_key=KEY, **given),
    "kernel": lambda **given: KernelAdapter(api_key=KEY, **given),
    "anchor": lambda **given: AnchorAdapter(api_key=KEY, **given),
    "webdriver": WebDriverAdapter,
}
VENDORS = list(ADAPTERS)
WITH_STATUSES = [name for name in VENDORS if name not in ("kernel", "webdriver")]
ADOPTED = [name for name in VENDORS if name not in ("hyperbrowser", "anchor")]


def in_the_cloud(adapter):
    """At another address than the cloud's it would be a server of one's own."""
    adapter._cloud, adapter.alone = True, False
    return adapter


@dataclass(eq=False)
class Endpoint:
    """A gateway in front of a browser that does as it is told."""

    url: str = "ws://127.0.0.1:9/gateway"
    foreign_cookies: int = 0
    fails: bool = False
    closed: int = 0
    asked: list = field(default_factory=list)

    async def call(self, method, params=None, *, session_id=None):
        del params, session_id
        await asyncio.sleep(0)
        self.asked.append(method)
        if self.fails:
            raise ConnectionLost("it hung up")
        return {"targetId": "t"} if method == "Target.createTarget" else {"cookies": [], "processInfo": []}

    async def close_clients(self, reason):
        del reason

    async def aclose(self):
        await asyncio.sleep(0)
        self.closed += 1


@dataclass(eq=False)
class VendorHost(FakeHost):
    endpoints: list = field(default_factory=list)
    sockets: list = field(default_factory=list)
    journalled: list = field(default_factory=list)
    trouble: BaseException | None = None
    hangs_up: bool = False

    async def journal(self, facts):
        await asyncio.sleep(0)
        self.journalled.append(dict(facts))
        await super().journal(facts)

    async def serve_cdp(self, connection):
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble
        self.sockets.append(connection)
        self.endpoints.append(Endpoint(fails=self.hangs_up))
        return self.endpoints[-1]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(remote_client, "_backoff", lambda _: 0.01)
    for name in ("KEY", "PLACE"):
        for adapter in (AnchorAdapter, BrowserbaseAdapter, HyperbrowserAdapter, KernelAdapter, SteelAdapter):
            monkeypatch.delenv(getattr(adapter, name), raising=False)
    for name in ("SELENIUM_REMOTE_URL", "BROWSERLESS_TOKEN", "BROWSERLESS_URL", "BROWSERBASE_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=VENDORS)
def vendor(request):
    return request.param


@pytest.fixture
def service(vendor):
    service = SERVICES[vendor]()
    yield service
    service.stop()
    assert service.wrong == []


def make(service, **given):
    given = {"base_url": service.url, "timeout_seconds": 3.0, "reconcile_seconds": 0.25} | given
    return ADAPTERS[service.vendor](**given)


def options(**given):
    return parse_options(None, given)


def run(work, *adapters):
    """Run it, and close the adapters on its loop."""

    async def whole():
        try:
            return await work
        finally:
            for adapter in adapters:
                await adapter.aclose()

    return asyncio.run(whole())


def opened(adapter, host, **given):
    return adapter.open(SESSION, options(**given), host)


# --- one contract ---------------------------------------------------------------------------------------------------


def test_a_session_is_created_with_its_tag_used_and_released(vendor, service):
    adapter, host = make(service), VendorHost()
    assert isinstance(adapter, Adapter)
    assert isinstance(adapter, Reaper)

    async def live():
        backend = await opened(adapter, host)
        assert (backend.session_id, backend.can_live_on, len(service.live)) == (SESSION, False, 1)
        assert await backend.cdp_url() == host.endpoints[0].url
        await backend.close_connections("manual")
        await backend.release()
        await backend.release()

    run(live(), adapter)
    first, second = host.journalled
    assert first["tag"] == SESSION
    assert second == {**first, "id": next(iter(service.sessions))}
    assert first["service"] == service.url
    assert (service.live, service.count("create"), service.count("end")) == ([], 1, 1)
    assert [e.closed for e in host.endpoints] == [2]
    assert "Target.createTarget" in host.endpoints[0].asked


def test_the_tag_is_journalled_before_the_create_and_the_id_before_the_browser_is_reached(vendor, service):
    adapter, seen = make(service), []

    class Noting(VendorHost):
        async def journal(self, facts):
            seen.append((sorted(facts), service.count("create"), len(self.sockets)))

    async def live():
        await (await opened(adapter, Noting())).release()

    run(live(), adapter)
    assert [(set(names) >= {"tag"}, "id" in names, made, reached) for names, made, reached in seen] == [
        (True, False, 0, 0), (True, True, 1, 0),
    ]  # fmt: skip


LOST = {
    "drop": {},
    "half": {},
    "nonsense": {},
    "reply": {"body": {"hello": "world"}},
    "answer": {"status": 502, "body": "<html>bad gateway</html>"},
    "stall": {},
}


@pytest.mark.parametrize("kind", LOST)
def test_a_create_whose_answer_is_lost_is_not_repeated_and_leaves_one_session_or_none(vendor, service, kind):
    # As long as a slow machine may take for what is answered; where one is not, it is waited for.
    adapter, host = make(service, timeout_seconds=1.0 if kind == "stall" else 3.0), VendorHost()
    fault = service.fail("create", kind, **LOST[kind])

    async def live():
        if vendor not in ADOPTED:
            with pytest.raises(StartFailed, match="not repeated|no CDP URL"):
                await opened(adapter, host)
            return
        backend = await opened(adapter, host)
        assert host.facts["id"] in service.live
        assert len(service.live) == 1
        await backend.release()

    run(live(), adapter)
    fault.go.set()
    assert (service.count("create"), service.live, len(service.sessions)) == (1, [], 1)


def test_a_create_that_made_nothing_says_that_none_is_there(vendor, service):
    adapter = make(service)
    service.fail("create", "drop", acts=False)
    with pytest.raises(StartFailed, match=r"not repeated: no session of it ran within 0.25 seconds"):
        run(opened(adapter, VendorHost()), adapter)
    assert (service.count("create"), service.sessions) == (1, {})


def test_where_it_can_not_be_told_whether_one_was_made_the_error_says_so(vendor, service):
    adapter = make(service)
    # A server of one's own is asked for what it runs before, too.
    looked = "get" if vendor == "steel" else "list"
    service.fail("create", "drop")
    service.faults.setdefault(looked, [])
    host = VendorHost()

    async def live():
        task = asyncio.ensure_future(opened(adapter, host))
        while not service.count("create"):
            await asyncio.sleep(0.001)
        for _ in range(60):
            service.fail(looked, "answer", status=500, body={"message": "we are down"})
        with pytest.raises(StartFailed, match="could not be found out .*500"):
            await task

    run(live(), adapter)
    assert service.count("create") == 1


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"message": "no"}, RemoteRejected),
        (401, {"message": "no such key KEY"}, AuthenticationError),
        (402, {"message": "pay"}, RemoteRejected),
        (429, {"message": "full"}, CapacityError),
        (503, {"message": "full"}, RemoteRejected),
    ],
)
def test_a_refusal_is_told_and_nothing_is_looked_for(vendor, service, status, body, error):
    adapter = make(service)
    body = {"message": body["message"].replace("KEY", KEY if adapter.key else "")}
    service.fail("create", "answer", status=status, body=body, acts=False)
    with pytest.raises(error, match=str(status)):
        run(opened(adapter, VendorHost()), adapter)
    assert service.count("create") == 1
    assert service.count("list") == (vendor == "steel self-hosted")


def test_a_server_that_is_not_there_is_named(vendor, service):
    adapter = make(service, base_url="http://127.0.0.1:9")
    with pytest.raises(BackendError, match=r"127\.0\.0\.1:9"):
        run(opened(adapter, VendorHost()), adapter)
    assert service.requests == []


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "lost"])
def test_an_opening_that_is_cancelled_at_any_wait_leaves_nothing(vendor, service, lost):
    waits = 0

    async def live():
        nonlocal waits
        while True:
            if lost:
                service.fail("create", "drop")
            strike = Strike("open", wait=waits + 1)
            adapter, host = make(service), VendorHost()
            try:
                backend = await StruckAdapter(adapter, strike).open(SESSION, options(), host)
            except StartFailed:
                backend = None
            if backend is not None:
                await backend.release()
            await adapter.aclose()
            assert service.live == [], f"wait {waits + 1}"
            assert all(e.closed for e in host.endpoints)
            service.faults.clear()
            service.sessions.clear()
            if not strike.struck:
                return
            waits += 1

    asyncio.run(live())
    assert waits >= 2


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "lost"])
def test_an_opening_that_is_cancelled_in_any_tick_leaves_nothing(vendor, service, lost):
    """In the first ticks one by one, then in fewer of them, until one is not reached."""

    async def cancelled_after(ticks):
        if lost:
            service.fail("create", "drop")
        adapter, host = make(service), VendorHost()
        task = asyncio.ensure_future(opened(adapter, host))
        for _ in range(ticks):
            await asyncio.sleep(0)
        in_time = task.cancel()
        (done,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(done, BaseException):
            await done.release()
        await adapter.aclose()
        assert service.live == [], f"after {ticks} ticks"
        assert all(e.closed for e in host.endpoints)
        assert service.count("create") <= 1
        service.faults.clear()
        service.sessions.clear()
        service.requests.clear()
        return in_time

    async def live():
        ticks, times = 0, 0
        while await cancelled_after(ticks):
            ticks, times = int(ticks * 1.4) + 1, times + 1
        return times

    assert asyncio.run(live()) >= 8


def test_a_start_that_is_given_up_while_the_vendor_works_on_it_leaves_nothing(vendor, service):
    adapter, host = make(service, timeout_seconds=5), VendorHost()
    fault = service.fail("create", "hold")

    async def live():
        task = asyncio.ensure_future(opened(adapter, host))
        while not fault.reached.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()  # whoever cancels twice gets no less
        fault.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(live(), adapter)
    assert (service.count("create"), len(service.sessions), service.live) == (1, 1, [])
    # Its answer was waited for, and nothing was looked for; what is asked here for other reasons is listed.
    assert service.count("list") == {"steel self-hosted": 2, "webdriver": 1}.get(vendor, 0)


@pytest.mark.parametrize("trouble", [ConnectionLost("refused"), RemoteRejected("no", status=403), OSError("odd")])
def test_a_session_whose_browser_can_not_be_reached_is_released(vendor, service, trouble):
    adapter = make(service)
    with pytest.raises((StartFailed, OSError)) as caught:
        run(opened(adapter, VendorHost(trouble=trouble)), adapter)
    assert "9/" not in str(caught.value)
    assert (service.live, len(service.sessions)) == ([], 1)


def test_a_browser_that_hangs_up_while_it_starts_is_released(vendor, service):
    adapter, host = make(service), VendorHost(hangs_up=True)
    with pytest.raises(StartFailed, match="hung up"):
        run(opened(adapter, host), adapter)
    assert (service.live, [e.closed for e in host.endpoints]) == ([], [1])


def test_a_row_that_can_not_be_written_keeps_nothing_running(vendor, service):
    class Full(VendorHost):
        async def journal(self, facts):
            if "id" in facts:
                raise OSError("the disk is full")

    adapter = make(service)
    with pytest.raises(OSError, match="full"):
        run(opened(adapter, Full()), adapter)
    assert (service.live, len(service.sessions)) == ([], 1)


# --- its end --------------------------------------------------------------------------------------------------------


def test_a_session_that_ended_by_itself_is_released_by_its_status(vendor, service):
    adapter, host = make(service), VendorHost()

    async def live():
        backend = await opened(adapter, host)
        service.finish(host.facts["id"])
        await backend.release()
        await backend.release()
        assert asyncio.all_tasks() == {asyncio.current_task()}  # nobody watches it any more

    run(live(), adapter)
    assert service.live == []


@pytest.mark.parametrize("vendor", WITH_STATUSES, indirect=True)
def test_each_status_of_an_end_is_an_end(vendor, service):
    adapter, host = make(service), VendorHost()
    over = [word for word in FACTS[vendor].statuses if adapter.STATUSES[word] is not State.ACTIVE]

    async def live():
        for word in over:
            backend = await opened(adapter, host)
            service.finish(host.facts["id"], word)
            service.fail("end", "answer", status=500, body={"message": "it is over already"}, acts=False)
            await backend.release()
            service.faults.clear()
            service.sessions.clear()

    run(live(), adapter)
    assert over


def test_an_end_that_comes_later_is_waited_for(vendor, service):
    adapter, host = make(service), VendorHost()
    service.ends_after = 3

    async def live():
        await (await opened(adapter, host)).release()
        assert service.live == []

    run(live(), adapter)
    assert service.count("get") >= 2


@pytest.mark.parametrize(("status", "keeps"), [(500, True), (401, True), (404, True), (409, True), (0, True)])
def test_a_release_is_not_believed_but_looked_at(vendor, service, monkeypatch, status, keeps):
    monkeypatch.setattr(ending, "BUDGET", 0.3)
    adapter, host = make(service), VendorHost()
    service.keeps = keeps

    async def live():
        backend = await opened(adapter, host)
        if status:
            service.fail("end", "answer", status=status, body={"message": "session is already stopped"})
        with pytest.raises(ReleaseFailed) as caught:
            await backend.release()
        assert caught.value.session_id == SESSION
        assert host.facts["id"] in str(caught.value)
        service.keeps = False
        await backend.release()

    run(live(), adapter)
    assert service.live == []


def test_a_release_that_nobody_answers_may_be_repeated(vendor, service, monkeypatch):
    monkeypatch.setattr(ending, "BUDGET", 0.3)
    adapter, host = make(service), VendorHost()

    async def live():
        backend = await opened(adapter, host)
        before = service.count("get")
        for _ in range(40):
            service.fail("get", "drop")
        with pytest.raises(ReleaseFailed):
            await backend.release()
        assert service.count("get") > before
        service.faults.clear()
        await backend.release()

    run(live(), adapter)
    assert service.live == []


@pytest.mark.parametrize("vendor", WITH_STATUSES, indirect=True)
def test_an_unknown_status_is_an_error_that_names_it(vendor, service):
    adapter, host = make(service), VendorHost()

    async def live():
        backend = await opened(adapter, host)
        service.odd = "PURPLE"
        with pytest.raises(ReleaseFailed, match="'PURPLE', which this version does not know; it knows "):
            await backend.release()
        service.odd = None
        await backend.release()

    run(live(), adapter)


@pytest.mark.parametrize("vendor", [v for v in WITH_STATUSES if v != "anchor"], indirect=True)
def test_a_create_with_an_unknown_status_is_no_session(vendor, service):
    adapter = make(service)
    service.odd = "PURPLE"
    with pytest.raises(RemoteRejected, match="'PURPLE'"):
        run(opened(adapter, VendorHost()), adapter)
    assert (service.count("end"), service.live) == (1, [])


@pytest.mark.parametrize(
    "vendor", [v for v in WITH_STATUSES if v not in ("anchor", "steel self-hosted")], indirect=True
)
def test_a_session_that_was_over_at_once_is_none(vendor, service):
    adapter = make(service)
    service.odd = service.ended
    with pytest.raises(StartFailed, match=f"over at once, as '{service.ended}'"):
        run(opened(adapter, VendorHost()), adapter)


def test_the_end_that_the_vendor_tells_of_is_passed_on(vendor, service, monkeypatch):
    monkeypatch.setattr(watching, "EVERY", 60.0)
    adapter, host = make(service), VendorHost()
    states = dict(adapter.STATUSES)

    async def watched(word):
        host.ends.clear()
        backend = await opened(adapter, host)
        looked = service.count("get")
        while service.count("get") == looked:
            host.clock.advance(61)
            await asyncio.sleep(0.005)
        assert host.ends == []
        service.finish(host.facts["id"], word)
        while not host.ends:
            host.clock.advance(61)
            await asyncio.sleep(0.005)
        (end,) = host.ends
        await backend.release()
        service.sessions.clear()
        return end

    async def live():
        for word, state in states.items():
            if state is State.ACTIVE or word == "idle":
                continue
            end = await watched(word)
            if vendor in ("kernel", "steel self-hosted"):  # it tells nothing more of a session that is over
                assert end.reason is CloseReason.BACKEND
                continue
            reason = CloseReason.MAX_DURATION if state is State.TIMED_OUT else CloseReason.BACKEND
            assert (end.state, end.reason) == (state, reason)
            assert word in end.detail

    run(live(), adapter)


def test_what_goes_wrong_in_watching_says_nothing_of_the_session(vendor, service, caplog):
    adapter, host = make(service), VendorHost()

    async def live():
        backend = await opened(adapter, host)
        for _ in range(8):  # two looks, of four attempts each
            service.fail("get", "drop")
        while service.faults["get"]:
            host.clock.advance(61)
            await asyncio.sleep(0.005)
        looked = service.count("get")
        while service.count("get") == looked:
            host.clock.advance(61)
            await asyncio.sleep(0.005)
        assert len([r for r in caplog.records if "can't be watched" in r.getMessage()]) == 1
        assert host.ends == []
        await backend.release()

    run(live(), adapter)


# --- reaping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["by its id", "by its tag"])
def test_another_client_ends_what_a_dead_owner_left(vendor, service, known):
    owner, reaper, host = make(service), make(service), VendorHost()

    async def live():
        backend = await opened(owner, host)
        await backend._watch.stop()
        facts = host.facts if known else {k: v for k, v in host.facts.items() if k != "id"}
        if vendor == "hyperbrowser" and not known:
            with pytest.raises(ReleaseFailed, match="never heard; it ends it by 20"):
                await reaper.reap(SESSION, facts)
            facts["ends"] = "2020-01-01T00:00:00+00:00"
            await reaper.reap(SESSION, facts)
            service.finish(host.facts["id"])
            return
        await reaper.reap(SESSION, facts)
        assert service.live == []
        await reaper.reap(SESSION, facts)

    run(live(), owner, reaper)


def test_a_reaper_at_another_address_says_where(vendor, service):
    adapter = make(service)
    with pytest.raises(ReleaseFailed, match=r"runs at http://127.0.0.1:1: reap with a client whose adapter"):
        run(adapter.reap(SESSION, {"service": "http://127.0.0.1:1", "id": "x"}), adapter)
    assert service.requests == []


def test_a_session_that_never_came_to_its_create_leaves_nothing_to_reap(vendor, service):
    adapter = make(service)
    run(adapter.reap(SESSION, {}), adapter)
    assert service.requests == []


def test_a_reaper_that_is_not_answered_keeps_the_row(vendor, service):
    adapter = make(service, base_url="http://127.0.0.1:9")
    facts = {"service": "http://127.0.0.1:9", "tag": SESSION, "id": "x"}
    with pytest.raises(ReleaseFailed, match="may still run"):
        run(adapter.reap(SESSION, facts), adapter)
    assert service.requests == []


# --- options, keys, time --------------------------------------------------------------------------------------------


def test_what_it_can_do_is_what_the_readme_says(vendor, service):
    can = {"pages", "cdp", "cookies", "viewport", "fixed_duration"}
    assert can == VendorAdapter.CAPABILITIES == BrowserlessAdapter(base_url="ws://localhost:3000").capabilities
    unlimited = {"fixed_duration"} if vendor in ("kernel", "steel self-hosted", "webdriver") else set()
    more = {"webdriver": {"headed", "chrome_args", "user_agent"}, "kernel": {"headed"}}.get(vendor, set())
    assert make(service).capabilities == can - unlimited | more


REFUSED = {
    "headless": False, "proxy": "http://127.0.0.1:9", "chrome_args": ["--x"], "user_agent": "x", "profile": "x",
    "downloads_folder": "x", "executable_path": "/x",
}  # fmt: skip


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_is_taken_or_refused_by_name_with_a_way_out(vendor, service, option):
    adapter = make(service)
    if {"headless": "headed"}.get(option, option) in adapter.capabilities:
        adapter.check(options(**{option: REFUSED[option]}))
        return
    with pytest.raises(UnsupportedOperation, match=f"{option}=") as caught:
        adapter.check(options(**{option: REFUSED[option]}))
    assert caught.value.way_out
    with pytest.raises(UnsupportedOperation):
        run(adapter.open(SESSION, options(**{option: REFUSED[option]}), VendorHost()), adapter)
    assert service.requests == []


LIMITS = {
    # 10.01 minutes at most, 2.5 without use: never less, up to a minute more, whole units
    "browserbase": lambda body: body["timeout"] == 661,
    "steel": lambda body: body["timeout"] == 660_600,
    "steel self-hosted": lambda body: set(body) == {"sessionId"},
    "hyperbrowser": lambda body: body["timeoutMinutes"] == 12,
    "kernel": lambda body: body["timeout_seconds"] == 210,
    "anchor": lambda body: body["session"]["timeout"] == {"max_duration": 12, "idle_timeout": 4},
    "webdriver": lambda body: set(body["capabilities"]["alwaysMatch"]) == {
        "browserName", "timeouts", "goog:chromeOptions",
    },
}  # fmt: skip


def test_a_time_limit_is_in_the_vendors_unit_and_never_shorter_than_ours(vendor, service):
    adapter = make(service)

    async def live():
        backend = await opened(adapter, VendorHost(), timeout_minutes=2.5, max_duration_minutes=10.01)
        await backend.release()

    run(live(), adapter)
    assert LIMITS[vendor](service.last("create").body), service.last("create").body


@pytest.mark.parametrize("minutes", [1 / 60, 0.5, 1, 1.001, 59.99, 360, 1000.5])
@pytest.mark.parametrize("unit", [0.001, 1, 60])
def test_units_are_whole_and_long_enough(minutes, unit):
    assert minutes * 60 <= units(minutes, unit, option="x") * unit <= minutes * 60 + 60 + unit
    assert units(minutes, 1, option="x", least=90) >= 90
    most = math.ceil(Decimal(str(minutes)) * 60 / Decimal(str(unit)))
    assert units(minutes, unit, option="x", most=most) == most
    with pytest.raises(ConfigError, match="at most"):
        units(minutes, unit, option="x", most=most - 1)


@pytest.mark.parametrize(
    ("vendor", "given", "most"),
    [("browserbase", {"max_duration_minutes": 361}, 360), ("kernel", {"timeout_minutes": 4321}, 4320)],
    indirect=["vendor"],
)
def test_a_deadline_that_the_vendor_does_not_take_is_refused_before_anything_is_sent(service, given, most):
    with pytest.raises(ConfigError, match=f"{next(iter(given))}=.*at most {most} minutes"):
        make(service).check(options(**given))


def test_settings_are_sent_and_what_the_adapter_sets_itself_is_refused(vendor, service):
    adapter = make(service, settings={"extra": {"of": "mine"}})
    assert merged(adapter.body(SESSION, options()), adapter.settings)["extra"] == {"of": "mine"}
    body = adapter.body(SESSION, options())

    def leaf(value):
        return {name: leaf(inner) if isinstance(inner, dict) else "another" for name, inner in value.items()}

    with pytest.raises(ConfigError, match="settings="):
        make(service, settings=leaf(body)).check(options())


def test_merged_puts_lists_together_and_leaves_what_it_is_given():
    body, mine = {"a": {"b": [1]}, "c": 1}, {"a": {"b": [2], "d": 3}}
    assert merged(body, mine) == {"a": {"b": [1, 2], "d": 3}, "c": 1}
    assert (body, mine) == ({"a": {"b": [1]}, "c": 1}, {"a": {"b": [2], "d": 3}})


def test_a_key_comes_from_the_environment_or_the_error_says_how(vendor, service, monkeypatch):
    adapter = type(make(service))
    if vendor in ("webdriver", "steel self-hosted"):
        assert make(service).key is None
        return
    monkeypatch.setenv("BROWSERBASE_PROJECT_ID", "p")
    with pytest.raises(ConfigError, match=f"{adapter.__name__}.api_key=...|{adapter.KEY}"):
        adapter()
    monkeypatch.setenv(adapter.KEY, KEY)
    made = adapter()
    assert made.key == KEY
    assert made.service.base_url == adapter.URL
    monkeypatch.setenv(adapter.PLACE, service.url)
    assert adapter().service.base_url == service.url


def test_a_key_is_sent_as_the_vendor_wants_it_and_is_in_no_text(vendor, service):
    adapter, host = make(service), VendorHost()

    async def live():
        backend = await opened(adapter, host)
        texts = [repr(adapter), repr(backend), repr(host.sockets), repr(adapter.told(service_answer(service)))]
        await backend.release()
        assert not [text for text in texts if KEY in text or "c4n4ry" in text]

    run(live(), adapter)
    header = FACTS[vendor].header
    sent = {request.headers.get(header or "authorization", "").removeprefix("Bearer ") for request in service.requests}
    assert sent == {KEY if header else ""}
    assert not [f for facts in host.journalled for f in facts.values() if "c4n4ry" in f]


def service_answer(service):
    return service.shown(service.live[0], first=True)


def test_nothing_is_sent_unencrypted_to_another_machine_unless_asked(vendor, service):
    with pytest.raises(ConfigError, match="allow_http=True"):
        make(service, base_url="http://vendor.example")
    assert make(service, base_url="http://vendor.example", allow_http=True).service.base_url == "http://vendor.example"


# --- facts ----------------------------------------------------------------------------------------------------------


def test_the_statuses_are_all_that_the_vendor_has(vendor, service):
    known = set(make(service).STATUSES)
    if vendor.startswith("steel"):
        assert known == FACTS["steel"].statuses | FACTS["steel self-hosted"].statuses
    else:
        assert known == FACTS[vendor].statuses


def test_the_facts_are_what_the_vendors_document():
    there = {name: facts for name, facts in FACTS.items() if vendor_facts.document(facts.file) is not None}
    if not there:
        pytest.skip("the vendors' own documents are not here")
    for name, facts in there.items():
        whole = vendor_facts.document(facts.file)
        text = str(whole)
        for call in facts.calls.values():
            told = vendor_facts.operation(facts, call)
            assert told is not None, (name, call)
            assert str(call.status) in told["responses"], (name, call)
            assert all(f"'{part.rpartition('.')[2]}'" in text for part in (*call.needs, *call.tells)), (name, call)
        schemes = whole["components"].get("securitySchemes", {}).values()
        headers = {s.get("name", "authorization").lower() for s in schemes}
        assert facts.header is None or facts.header in headers, (name, headers)
        statuses = set(enums_of(whole, "status", facts))
        for file, _, _ in facts.models.values():
            statuses |= set(enums_of(vendor_facts.document(file), "status", facts))
        if name == "kernel":
            statuses -= {"all"}  # a filter, and no status
        if name == "anchor":
            assert statuses <= facts.statuses | {"ready"}
        else:
            assert statuses == facts.statuses, name


def enums_of(whole, field_name, facts):
    """The words that the calls of a document, and what they refer to, have for a field or a filter of that name."""
    seen, found = set(), set()
    paths = [whole["paths"][c.path] for c in facts.calls.values()] if "paths" in whole else [whole]
    if facts.file == "anchorbrowser.yaml":
        paths = [whole["components"]["schemas"]["BatchSessionItemSchema"]]

    def walk(node):
        if isinstance(node, list):
            for each in node:
                walk(each)
        elif isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str) and ref not in seen:
                seen.add(ref)
                at = whole
                for part in ref.removeprefix("#/").split("/"):
                    at = at[part]
                walk(at)
            inner = node.get("properties", {})
            for told in (inner.get(field_name), node.get("schema") if node.get("name") == field_name else None):
                if isinstance(told, dict):
                    found.update(told.get("enum", ()))
            for value in node.values():
                walk(value)

    walk(paths)
    return found - {"REQUEST_RELEASE"}


def test_each_module_is_small():
    folder = Path(lifecycle_adapters.__file__).parent / "vendors"
    sizes = {path.name: len(path.read_text().splitlines()) for path in folder.glob("*.py")}
    assert len(sizes) >= 12
    assert {name: size for name, size in sizes.items() if size > 150} == {}


def test_nothing_is_imported_in_the_middle_of_an_edge():
    for path in (Path(lifecycle_adapters.__file__).parent / "vendors").glob("*.py"):
        tree = ast.parse(path.read_text())
        inner = [
            n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)
        ]
        assert not [n for n in inner if isinstance(n, (ast.Import, ast.ImportFrom))], path


# --- what each has for itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["steel self-hosted"], indirect=True)
class TestSteelServer:
    def test_a_second_session_is_refused_and_the_first_runs_on(self, service):
        one, two = make(service), make(service)

        async def live():
            backend = await opened(one, VendorHost())
            for adapter in (one, two):
                with pytest.raises(CapacityError, match=f"runs session {SESSION}"):
                    await adapter.open(OTHER, options(), VendorHost())
            assert service.live == [SESSION]
            await backend.release()
            await (await two.open(OTHER, options(), VendorHost())).release()

        run(live(), one, two)

    def test_of_two_that_are_asked_for_at_once_one_is_made(self, service):
        adapter = make(service)

        async def live():
            both = [adapter.open(i, options(), VendorHost()) for i in (SESSION, OTHER)]
            done = await asyncio.gather(*both, return_exceptions=True)
            (refused,) = [d for d in done if isinstance(d, CapacityError)]
            (backend,) = [d for d in done if d is not refused]
            assert service.live == [backend.session_id]
            await backend.release()

        run(live(), adapter)
        assert service.count("create") == 1

    def test_it_does_not_release_another_ones_session(self, service):
        adapter, host = make(service), VendorHost()

        async def live():
            backend = await opened(adapter, host)
            service.finish(SESSION)  # somebody else ended it, and has the browser now
            service.make({}, id=OTHER)
            await backend.release()
            await adapter.reap(SESSION, host.facts)

        run(live(), adapter)
        assert (service.live, service.count("end")) == ([OTHER], 0)

    def test_it_takes_no_time_limit_so_ours_can_be_moved(self, service):
        assert "fixed_duration" not in make(service).capabilities
        assert "fixed_duration" in in_the_cloud(make(service)).capabilities


@pytest.mark.parametrize(
    ("told", "base", "seen"),
    [
        ("ws://0.0.0.0:3000/", "http://127.0.0.1:8000", "ws://127.0.0.1:3000/"),
        ("ws://localhost:3000", "https://steel.example", "wss://steel.example/"),
        ("ws://0.0.0.0:3000/x?y=1", "http://steel.example:88", "ws://steel.example:88/x?y=1"),
        ("wss://cdp.example/x", "https://steel.example", "wss://cdp.example/x"),
        ("ws://127.0.0.1:3000/", "http://localhost:3000", "ws://127.0.0.1:3000/"),
    ],
)
def test_its_browser_is_reached_as_the_server_is(told, base, seen):
    assert reached(told, base) == seen


@pytest.mark.parametrize("vendor", ["steel"], indirect=True)
def test_steel_takes_our_id_and_its_cdp_url_gets_the_key(service):
    adapter, host = make(service), VendorHost()
    service.cdp = "wss://127.0.0.1:9/?sessionId=x"

    async def live():
        await (await opened(adapter, host)).release()

    run(live(), adapter)
    assert list(service.sessions) == [SESSION]
    assert host.sockets[0].url == f"wss://127.0.0.1:9/?sessionId=x&apiKey={KEY}"


@pytest.mark.parametrize("vendor", ["hyperbrowser"], indirect=True)
class TestHyperbrowser:
    def test_what_others_have_running_is_left_alone(self, service):
        adapter = make(service)
        old = [service.make({}, created_at="2020-01-01T00:00:00Z") for _ in range(5)]

        async def live():
            backend = await adapter.open(OTHER, options(), VendorHost())
            service.fail("create", "drop")
            with pytest.raises(StartFailed, match="has been released"):
                await opened(adapter, VendorHost())
            assert len(service.live) == 6
            await backend.release()

        run(live(), adapter)
        assert service.live == old

    def test_where_it_may_be_one_of_two_none_is_released_and_both_are_named(self, service):
        adapter = make(service)

        async def live():
            service.fail("create", "drop")
            theirs = service.make({}, created_at="2999-01-01T00:00:00Z")
            with pytest.raises(StartFailed, match="one of these may be what it made") as caught:
                await opened(adapter, VendorHost())
            assert set(service.live) == {theirs, *service.sessions}
            assert all(i in str(caught.value) for i in service.live)

        run(live(), adapter)
        assert len(service.live) == 2


@pytest.mark.parametrize("vendor", ["kernel"], indirect=True)
def test_a_session_that_kernel_still_tells_of_is_over_once_it_was_deleted(service):
    adapter, host = make(service), VendorHost()
    service.tells_deleted = True

    async def live():
        backend = await opened(adapter, host)
        service.finish(host.facts["id"])
        await backend.release()

    run(live(), adapter)
    body = service.last("create").body
    assert (body["name"], body["headless"]) == (f"lifecycle-{SESSION}", True)
    assert adapter.body(SESSION, options(headless=False))["headless"] is False


@pytest.mark.parametrize("vendor", ["anchor"], indirect=True)
def test_anchors_401_for_a_session_that_is_over_is_no_bad_key(service):
    adapter, host = make(service), VendorHost()

    async def live():
        backend = await opened(adapter, host)
        service.finish(host.facts["id"], "failed")
        await backend.release()
        await adapter.reap(SESSION, {**host.facts, "id": "unknown"})

    run(live(), adapter)
    assert service.count("end") == 2


@pytest.mark.parametrize("vendor", ["browserbase"], indirect=True)
def test_browserbase_is_asked_for_a_release_once(service):
    adapter, host = make(service), VendorHost()
    service.ends_after = 5

    async def live():
        await (await opened(adapter, host)).release()

    run(live(), adapter)
    assert service.last("end").body == {"projectId": "p", "status": "REQUEST_RELEASE"}
    assert (service.count("end"), service.live) == (1, [])
    with pytest.raises(ConfigError, match="BROWSERBASE_PROJECT_ID"):
        BrowserbaseAdapter(api_key=KEY)


@pytest.mark.parametrize("vendor", ["webdriver"], indirect=True)
class TestGrid:
    def test_a_404_of_what_is_no_webdriver_server_is_no_end(self, service):
        adapter, host = make(service), VendorHost()

        async def live():
            backend = await opened(adapter, host)
            for name in ("get", "end"):
                service.fail(name, "answer", status=404, body={"message": "nginx"}, acts=False)
            service.fail("list", "answer", status=200, body={"hello": "world"}, acts=False)
            with pytest.raises(ReleaseFailed, match="no WebDriver server"):
                await backend.release()
            await backend.release()

        run(live(), adapter)

    def test_options_are_switches(self, service):
        adapter = make(service)

        async def live():
            await (await opened(adapter, VendorHost(), chrome_args=["--a"], user_agent="me")).release()
            assert args(service) == ["--headless=new", "--user-agent=me", "--a"]
            await (await opened(adapter, VendorHost(), headless=False)).release()
            assert args(service) == []

        def args(service):
            return service.last("create").body["capabilities"]["alwaysMatch"]["goog:chromeOptions"]["args"]

        run(live(), adapter)

    def test_a_driver_elsewhere_gives_no_browser_that_can_be_reached(self, service):
        adapter = make(service, base_url="https://driver.example")
        told = dataclasses.replace(adapter.told(driver_answer()), cdp="http://localhost:1234")
        with pytest.raises(StartFailed, match="use a Selenium Grid"):
            adapter.cdp(told)


def driver_answer():
    capabilities = {"goog:chromeOptions": {"debuggerAddress": "localhost:1234"}}
    return {"value": {"sessionId": "x", "capabilities": capabilities}}


class TestBrowserless:
    def open(self, host, given=None, **more):
        adapter = BrowserlessAdapter(**{"api_key": KEY, "base_url": "http://127.0.0.1:9/chromium", **more})
        return adapter, adapter.open(SESSION, options(**(given or {})), host)

    def test_to_connect_is_to_create_and_to_hang_up_is_to_end(self):
        host = VendorHost()

        async def live():
            adapter, opening = self.open(host, {"max_duration_minutes": 10}, settings={"stealth": "true"})
            backend = await opening
            assert isinstance(adapter, Reaper)
            assert KEY not in repr(adapter) + repr(host.sockets) + repr(host.journalled)
            await backend.release()
            await backend.release()
            await adapter.reap(SESSION, host.facts)
            await adapter.aclose()

        asyncio.run(live())
        assert host.sockets[0].url == f"ws://127.0.0.1:9/chromium?stealth=true&timeout=660000&token={KEY}"
        assert host.facts == {"service": "http://127.0.0.1:9/chromium"}
        assert host.endpoints[0].closed == 2

    @pytest.mark.parametrize(
        ("trouble", "error", "says"),
        [
            (RemoteRejected("it answered 401", status=401), AuthenticationError, "BROWSERLESS_TOKEN"),
            (RemoteRejected("it answered 429", status=429), CapacityError, "no room"),
            (RemoteRejected("it answered 400", status=400), StartFailed, "max_duration_minutes="),
            (ConnectionLost("refused"), StartFailed, "base_url="),
        ],
    )
    def test_a_refusal_says_what_to_do(self, trouble, error, says):
        with pytest.raises(error, match=says):
            asyncio.run(self.open(VendorHost(trouble=trouble))[1])

    def test_cancelled_at_any_wait_it_has_hung_up(self):
        async def live():
            for wait in range(1, 40):
                host, strike = VendorHost(), Strike("open", wait=wait)
                adapter, opening = self.open(host)
                opening.close()
                with contextlib.suppress(StartFailed):
                    await StruckAdapter(adapter, strike).open(SESSION, options(), host)
                if not strike.struck:
                    return wait
                assert all(e.closed for e in host.endpoints)
            raise AssertionError

        assert asyncio.run(live()) > 4

    def test_its_token_and_what_it_can_not_take(self, monkeypatch):
        with pytest.raises(ConfigError, match="BROWSERLESS_TOKEN"):
            BrowserlessAdapter()
        monkeypatch.setenv("BROWSERLESS_TOKEN", KEY)
        assert repr(BrowserlessAdapter()) == "<BrowserlessAdapter https://production-sfo.browserless.io>"
        monkeypatch.delenv("BROWSERLESS_TOKEN")
        adapter = BrowserlessAdapter(base_url="ws://localhost:3000")
        for option, value in REFUSED.items():
            with pytest.raises(UnsupportedOperation, match=f"{option}="):
                adapter.check(options(**{option: value}))
        for name in ("token", "timeout"):
            with pytest.raises(ConfigError, match=f"settings='{name}'"):
                BrowserlessAdapter(base_url="ws://localhost:3000", settings={name: "x"})
        with pytest.raises(ConfigError, match="allow_http"):
            BrowserlessAdapter(base_url="ws://browserless.example", api_key=KEY)

    def test_a_browser_that_hangs_up_while_it_starts_is_named(self):
        host = VendorHost(hangs_up=True)
        with pytest.raises(StartFailed, match=re.escape("Browserless at 127.0.0.1:9 hung up")):
            asyncio.run(self.open(host)[1])
        assert host.endpoints[0].closed == 1
