"""``lifecycle adapters``: which there are, what each can do, and whether one keeps the contract.

Rule: an adapter of others is code that may do anything when it is loaded; one that can't be loaded is told in its line
and hides no other.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lifecycle.adapters import CAPABILITIES, adapter_names, find_adapter
from lifecycle.cli.terminal import print_json
from lifecycle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_adapter", "list_adapters"]

_ONE_LINE = """from lifecycle.adapters import find_adapter
from lifecycle.testing.contract import adapter_contract

TestAdapter = adapter_contract(lambda: find_adapter({name!r}), lacks={lacks!r})
"""


@dataclass(frozen=True, slots=True)
class _Told:
    """What is told of an adapter; `error` where it can't be used here."""

    name: str
    origin: str | None
    capabilities: list[str] | None = None
    error: str | None = None


def _told(name: str) -> _Told:
    try:
        return _Told(name, _origin(name), capabilities=sorted(find_adapter(name).capabilities))
    except Exception as e:  # noqa: BLE001 - of others: see the rule
        return _Told(name, _origin(name), error=f"{type(e).__name__}: {e}")


def _origin(name: str) -> str | None:
    """The distribution that an adapter comes from."""
    for point in metadata.entry_points(group="lifecycle.adapters", name=name):
        if point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return None


def list_adapters(*, as_json: bool) -> None:
    """Print the adapters that are installed, with their capabilities."""
    found = [_told(name) for name in adapter_names()]
    if as_json:
        print_json([asdict(told) for told in found])
        return
    for told in found:
        print(f"{told.name}  ({told.origin or 'of no distribution'})")
        what = f"can't be used here: {told.error}" if told.error else ", ".join(told.capabilities or ["nothing more"])
        print(f"    {what}")
    print("\nWhat each capability stands for:")
    for name, meaning in CAPABILITIES.items():
        print(f"    {name}: {meaning}")


def check_adapter(name: str, *, lacks: Sequence[str], arguments: Sequence[str]) -> int:
    """Hold an adapter to the contract; the exit code of the tests.

    Raises:
        ConfigError: There is no such adapter, or no pytest to run the tests.
    """
    find_adapter(name)
    if importlib.util.find_spec("pytest") is None:
        raise ConfigError(option="check", value=name, allowed="an environment with pytest: pip install pytest")
    with tempfile.TemporaryDirectory(prefix="lifecycle-check-") as folder:
        test = Path(folder, "test_adapter.py")
        test.write_text(_ONE_LINE.format(name=name, lacks=sorted(lacks)))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", str(test)]
        # Its own place for files, so that a configuration of the current folder is not taken for the adapter's.
        return subprocess.run(
            [*command, *arguments], cwd=folder, env={**os.environ, "PYTEST_ADDOPTS": ""}, check=False
        ).returncode
