"""One contract over every kind of browser: memory, local, a service with either behind it, one that others run."""

from __future__ import annotations

import os
from pathlib import Path

import children
import httpx
import pytest
from driver_rig import SETTINGS, Driver
from foreign_browser import Foreign
from server_rig import remote, running

from lifecycle.engine import supervisor
from lifecycle.testing.contract import AdapterContract, capability_table
from lifecycle_adapters.cdp import CdpAdapter
from lifecycle_adapters.local import LocalAdapter
from lifecycle_adapters.memory import MemoryAdapter
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.kernel import KernelAdapter
from lifecycle_adapters.vendors.webdriver import WebDriverAdapter

ALL_OPTIONS = frozenset({"headed", "viewport", "user_agent", "proxy", "chrome_args", "profile", "downloads"})
REMOTE = ALL_OPTIONS - {"profile", "downloads"} | {"pages", "cookies", "attach", "assigns_ids", "fixed_duration"}


def browsers() -> int:
    """Chromiums that this process has started and that have not ended."""
    return children.running(b"--remote-debugging-pipe")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    foreign = Foreign(tmp_path_factory.mktemp("foreign"))
    yield foreign
    foreign.end()


class TestMemory(AdapterContract):
    declares = ALL_OPTIONS | {"cookies"}

    @pytest.fixture
    def adapter(self):
        return MemoryAdapter()

    def alive(self, adapter):
        return len(adapter.live)


class TestMemoryAsAService(TestMemory):
    declares = TestMemory.declares | {"attach"}

    @pytest.fixture
    def adapter(self):
        return MemoryAdapter(can_live_on=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no local browser on Windows")
class TestLocal(AdapterContract):
    declares = ALL_OPTIONS | {"pages", "cookies", "cdp"}

    @pytest.fixture
    def adapter(self):
        return LocalAdapter()

    def alive(self, adapter):
        return browsers()


@pytest.mark.slow
class TestRemoteToMemory(AdapterContract):
    declares = REMOTE
    lacks = frozenset({"pages"})

    @pytest.fixture
    def behind(self):
        return MemoryAdapter()

    @pytest.fixture
    def adapter(self, behind):
        with running(adapter=behind, store="memory:") as server, remote(server) as adapter:
            adapter.behind = behind
            yield adapter

    def alive(self, adapter):
        return len(adapter.behind.live)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no local browser on Windows")
class TestRemoteToLocal(AdapterContract):
    declares = REMOTE

    @pytest.fixture
    def adapter(self):
        with running(adapter="local", store="memory:") as server, remote(server) as adapter:
            yield adapter

    def alive(self, adapter):
        return browsers()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="starts a Chromium with a debugging port")
class TestCdp(AdapterContract):
    declares = frozenset({"pages", "cookies", "viewport", "cdp"})

    @pytest.fixture
    def adapter(self, foreign):
        adapter = CdpAdapter(url=foreign.url)
        adapter.foreign = foreign
        foreign.call("Storage.clearCookies")
        return adapter

    def alive(self, adapter):
        return len(adapter.foreign.pages()) - 1  # the page that was there


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    driver = Driver(tmp_path_factory.mktemp("driver"))
    yield driver
    driver.end()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="starts a chromedriver")
class TestWebDriver(AdapterContract):
    """A part of it, since each test starts a Chromium: what the CDP adapter does not share is tested."""

    declares = frozenset({"pages", "cookies", "viewport", "cdp", "headed", "user_agent", "chrome_args"})
    PART = frozenset({
        "test_it_is_an_adapter_and_declares_known_capabilities",
        "test_an_option_is_taken_or_refused_with_a_way_out",
        "test_a_whole_life",
        "test_a_stop_that_meets_the_start_leaves_nothing",
        "test_its_opener_detaches_where_it_lives_on",
        "test_a_cookie_file_is_loaded_and_saved",
        "test_its_options_reach_the_page",
        "test_a_release_that_fails_is_tried_again",
    })  # fmt: skip

    @pytest.fixture
    def adapter(self, driver):
        adapter = WebDriverAdapter(base_url=driver.url, settings=SETTINGS)
        adapter.driver = driver
        yield adapter
        supervisor().call(lambda _: adapter.aclose())

    def alive(self, adapter):
        return len(httpx.get(f"{adapter.driver.url}/sessions").json()["value"])


for _name in {name for name in dir(AdapterContract) if name.startswith("test_")} - TestWebDriver.PART:
    setattr(TestWebDriver, _name, None)


KINDS = {
    "memory": TestMemory,
    "local": TestLocal,
    "remote to memory": TestRemoteToMemory,
    "remote to local": TestRemoteToLocal,
    "cdp": TestCdp,
    "webdriver": TestWebDriver,
}
VENDORS = {"kernel": KernelAdapter.CAPABILITIES, "other vendors": VendorAdapter.CAPABILITIES}
"""What test_vendors holds to a contract of its own."""

TABLE = capability_table({name: kind.declares - kind.lacks for name, kind in KINDS.items()} | VENDORS)


def test_the_table_of_the_readme_is_what_is_tested():
    print(TABLE)
    assert TABLE in Path(__file__).parent.parent.joinpath("README.md").read_text()
