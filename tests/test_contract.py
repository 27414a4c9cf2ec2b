"""One contract over every kind of browser: memory, local, a service with either behind it, one that runs already."""

from __future__ import annotations

import os
from pathlib import Path

import children
import pytest
from foreign_browser import Foreign
from server_rig import remote, running

from lifecycle.testing.contract import AdapterContract, capability_table
from lifecycle_adapters.cdp import CdpAdapter
from lifecycle_adapters.local import LocalAdapter
from lifecycle_adapters.memory import MemoryAdapter

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


KINDS = {
    "memory": TestMemory,
    "local": TestLocal,
    "remote to memory": TestRemoteToMemory,
    "remote to local": TestRemoteToLocal,
    "cdp": TestCdp,
}
TABLE = capability_table({name: kind.declares - kind.lacks for name, kind in KINDS.items()})


def test_the_table_of_the_readme_is_what_is_tested():
    print(TABLE)
    assert TABLE in Path(__file__).parent.parent.joinpath("README.md").read_text()
