"""Every code block of the README runs as it stands, with example.com played by the site on loopback.

Each block is its own process in its own folder, as a newcomer would paste it.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from foreign_browser import Foreign
from planted import API_KEY as KEY
from server_rig import TOKEN, running
from vendor_service import Browserbase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback_site import Site

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
FRAMEWORKS = {
    "browser_use": "lifecycle.embed.browser_use", "crawlee": "lifecycle.embed.crawlee",
    "scrapy": "lifecycle.embed.scrapy", "node": "puppeteer-core",
}  # fmt: skip
"""Blocks that need a framework run with its own tests; by a word of each."""
DATABASE = "postgresql://app@db.internal/sessions"
PYTHON = [
    code for language, code in BLOCKS if language == "python" and not any(word in code for word in FRAMEWORKS.values())
]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {language for language, _ in BLOCKS} <= {"python", "console", "text"}
    assert len(PYTHON) >= 8


def test_the_block_of_each_framework_runs_with_its_tests() -> None:
    for name, word in FRAMEWORKS.items():
        assert sum(word in code for _, code in BLOCKS) == 1
        assert f'pasted("{word}"' in (ROOT / "tests" / "frameworks" / name / "test_readme.py").read_text()
    folders = {path.parent.name for path in ROOT.glob("tests/frameworks/*/requirements.lock")}
    assert folders == FRAMEWORKS.keys()


@contextmanager
def service(code: str, folder: Path) -> Iterator[dict[str, str]]:
    """What a block that uses a service finds in its environment: a server of our own, or a fake of a vendor."""
    if 'adapter="browserbase"' in code:
        foreign, vendor = Foreign(folder), Browserbase()
        vendor.cdp = foreign.url
        try:
            yield {"BROWSERBASE_API_KEY": KEY, "BROWSERBASE_PROJECT_ID": "p", "BROWSERBASE_BASE_URL": vendor.url}
        finally:
            vendor.stop()
            foreign.end()
        assert (vendor.wrong, vendor.live, len(vendor.sessions)) == ([], [], 1)
        return
    if 'adapter="remote"' not in code:
        yield {}
        return
    with running(adapter="local", store="memory:") as server:
        yield {"NOTTE_API_URL": server.url, "NOTTE_API_KEY": TOKEN}


@pytest.mark.parametrize("code", PYTHON, ids=[f"block{n}" for n in range(1, len(PYTHON) + 1)])
def test_a_block_runs_as_pasted(code: str, site: Site, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    ast.parse(code)
    if DATABASE in code:  # such a server is ours here
        server = request.getfixturevalue("postgres")
        code = code.replace(DATABASE, server.url(server.fresh()))
    with service(code, tmp_path) as variables:
        ran = paste(code.replace("https://example.com", site.url), tmp_path, variables)
    assert (ran.returncode, ran.stderr) == (0, "")
    for line in re.findall(r"print\(.*\)\s+# (\w.*)$", code, re.MULTILINE):  # what the comment says is printed
        word = re.split(r"[:;(,\s]", line.removeprefix("... "))[0]
        if word in {"active", "closed", "idle_timeout"}:
            assert word in ran.stdout


def paste(code: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    tests = re.findall(r"^def test_|^Test\w+ =", code, re.MULTILINE)
    name = "test_pasted.py" if tests else "pasted.py"
    (folder / name).write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    with_pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    return subprocess.run(
        [sys.executable, "-W", "error", *(with_pytest if tests else ()), name],
        cwd=folder,
        env={**os.environ, "LIFECYCLE_STORE": f"sqlite:///{folder}/log.db", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_commands_exist() -> None:
    """A console block names only commands that are there."""
    makefile = (ROOT / "Makefile").read_text()
    plugin = (ROOT / "adapters" / "lifecycle_pytest" / "__init__.py").read_text()
    for command in re.findall(
        r"^\$ (.*?)(?:\s+#.*)?$", "\n".join(c for k, c in BLOCKS if k == "console"), re.MULTILINE
    ):
        program, *words = command.split()
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), command
        elif program == "pytest":
            for option in (word for word in words if word.startswith("--")):
                assert re.search(rf'"{option.removeprefix("--lifecycle-")}":', plugin), command
        else:
            assert program == "lifecycle", command
            path = []
            for word in words:
                if word.startswith("-"):
                    break
                path.append(word)
            ran = subprocess.run(
                [sys.executable, "-m", "lifecycle.cli", *path, "--help"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ran.returncode == 0, (command, ran.stderr)


def test_files_that_are_linked_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (ROOT / target).exists(), target
