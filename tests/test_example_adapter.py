"""The example adapter: it fits the contract, by one line, and is as small as the README says."""

from __future__ import annotations

import inspect
import os

import children
import pytest

from lifecycle import Client, StartFailed
from lifecycle.errors import ConfigError
from lifecycle.testing.contract import adapter_contract
from lifecycle_adapters import example
from lifecycle_adapters.example import ExampleAdapter
from lifecycle_adapters.local.find import find_browser

pytestmark = pytest.mark.slow


def the_adapter():
    command = [str(find_browser(None).path)]
    return ExampleAdapter([*command, "--no-sandbox"] if os.geteuid() == 0 else command)


def alive(_adapter):
    """Browsers that this process has started."""
    return children.running(b"/example-")


TestExample = adapter_contract(the_adapter, declares={"pages", "cdp", "cookies"}, alive=alive)


def test_it_is_under_100_lines():
    assert len([line for line in inspect.getsource(example).splitlines() if line.strip()]) < 100


def test_a_command_that_is_no_browser(tmp_path):
    for command, told in (("true", "true ended without saying where it listens"), (tmp_path / "none", "FileNotFound")):
        adapter = ExampleAdapter([str(command)])
        with Client(adapter=adapter, store="memory:") as client, pytest.raises(StartFailed, match=told):
            client.Session().start()


def test_what_an_adapter_may_not_declare():
    with pytest.raises(ConfigError, match="did you mean 'pages'"):
        adapter_contract(the_adapter, declares={"page"})
