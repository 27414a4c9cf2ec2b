"""``lifecycle adapters``: what is listed, and an adapter that is held to the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

from lifecycle import ConfigError
from lifecycle.adapters import CAPABILITIES, adapter_names, find_adapter
from lifecycle.cli import main
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.slow

OURS = [
    "anchor", "browserbase", "browserless", "cdp", "hyperbrowser", "kernel", "local", "memory", "remote", "steel",
    "webdriver",
]  # fmt: skip


def test_the_adapters_that_are_installed(capsys, monkeypatch):
    monkeypatch.delenv("NOTTE_API_KEY", raising=False)
    assert main(["adapters", "list", "--json"]) == 0
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(told) == OURS
    assert told["memory"]["capabilities"] == sorted(MemoryAdapter().capabilities)
    assert {each["origin"] for each in told.values()} == {f"session-lifecycle {metadata.version('session-lifecycle')}"}
    assert told["remote"]["error"].startswith("ConfigError: api_key=None is not allowed")
    monkeypatch.setenv("NOTTE_API_KEY", "k")
    assert main(["adapters", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index(f"remote  ({told['remote']['origin']})") + 1].startswith("    assigns_ids, attach, ")
    for name, meaning in CAPABILITIES.items():
        assert f"    {name}: {meaning}" in lines


def test_one_of_others_that_can_not_be_loaded_hides_no_other(capsys, monkeypatch):
    installed = metadata.entry_points

    def points(*, group, **given):
        broken = metadata.EntryPoint(name="broken", value="no_such_module:Adapter", group=group)
        found = [*installed(group=group), broken]
        return [point for point in found if given.get("name", point.name) == point.name]

    monkeypatch.setattr(metadata, "entry_points", points)
    assert adapter_names() == sorted([*OURS, "broken"])
    assert main(["adapters", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = lines.index("broken  (of no distribution)") + 1
    assert lines[told] == "    can't be used here: ModuleNotFoundError: No module named 'no_such_module'"
    assert any(line.startswith("memory  (") for line in lines)
    with pytest.raises(ModuleNotFoundError):
        find_adapter("broken")


def check(*args):
    command = [sys.executable, "-m", "lifecycle.cli", "adapters", "check", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_adapter_is_held_to_the_contract():
    done = check("memory", "--", "-k", "whole_life or capabilities")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert check("memory", "--", "-k", "xyzzy").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_one_that_does_not_keep_it_fails(tmp_path, monkeypatch):
    (tmp_path / "bad-1.0.dist-info").mkdir()
    (tmp_path / "bad-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (tmp_path / "bad-1.0.dist-info" / "entry_points.txt").write_text("[lifecycle.adapters]\nbad = bad:Bad\n")
    (tmp_path / "bad.py").write_text(
        "from lifecycle_adapters.memory import MemoryAdapter\n"
        "class Bad(MemoryAdapter):\n"
        "    name = 'Bad'\n"  # names are written small
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = check("bad", "--", "-k", "whole_life or capabilities")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 2 passed" in done.stdout
    assert "test_it_is_an_adapter_and_declares_known_capabilities" in done.stdout


def test_one_that_there_is_not(capsys):
    assert main(["adapters", "check", "memroy"]) == 2
    assert "did you mean 'memory'?" in capsys.readouterr().err


def test_an_environment_without_pytest(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["adapters", "check", "memory"]) == 2
    assert "pip install pytest" in capsys.readouterr().err


def test_an_object_that_is_no_adapter():
    with pytest.raises(ConfigError, match="the name of an adapter, or an object with its methods"):
        find_adapter(MemoryAdapter)
