"""The public API as the type checkers see it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lifecycle
import lifecycle_adapters

SNIPPET = Path(__file__).with_name("typing_api.py")

CHECKERS = {
    "mypy": ["mypy", "--strict", "--no-incremental", "--cache-dir", os.devnull, "--config-file", os.devnull],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_public_api_is_typed(checker, tmp_path):
    """Each `assert_type` of the snippet holds, and each call that is meant to be wrong is refused."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    (tmp_path / SNIPPET.name).write_text(SNIPPET.read_text())
    homes = [str(Path(module.__file__).parent.parent) for module in (lifecycle, lifecycle_adapters)]
    environment = dict(os.environ)
    options = {"reportUnnecessaryTypeIgnoreComment": True, "enableTypeIgnoreComments": False}
    if not any("site-packages" in home for home in homes):  # else the checkers find it where Python does
        environment["MYPYPATH"] = os.pathsep.join(homes)
        options["extraPaths"] = homes
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    done = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], SNIPPET.name],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
