"""The check that nothing is left behind, run on tests that do leave something behind."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loopback_site import Site

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

LEAKY = """
import os, socket, subprocess, sys, tempfile, threading
import pytest
from lifecycle.engine import supervisor

kept = []

def test_thread():
    stop = threading.Event()
    threading.Thread(target=stop.wait, name="forgotten", daemon=True).start()
    kept.append(stop)

def test_lasting_thread():
    stop = threading.Event()
    threading.Thread(target=stop.wait, name="lifecycle-supervisor-worker-1", daemon=True).start()
    kept.extend([stop, socket.socket()])

def test_thread_that_ends_soon():
    threading.Thread(target=threading.Event().wait, args=(0.1,), daemon=True).start()

def test_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_descriptor():
    kept.append(os.open(os.devnull, os.O_RDONLY))

def test_folder():
    os.mkdir(tempfile.mkdtemp(prefix="lifecycle-") + "/profile")

def test_folder_of_the_process():
    tempfile.mkdtemp(prefix="lifecycle-")

def test_clean():
    with open(os.devnull):
        pass

def test_thread_of_the_gateway():
    supervisor().reserve_gateway()

def test_gateway_of_a_thread_that_ran_already():
    supervisor().gateway()

def test_end():
    for process in [k for k in kept if isinstance(k, subprocess.Popen)]:
        process.communicate()
    kept[0].set()
"""


def test_each_kind_of_leak_is_named_and_nothing_else(tmp_path: Path) -> None:
    for name in ("conftest.py", "loopback_site.py", "planted.py"):
        text = (HERE / name).read_text()
        (tmp_path / name).write_text(re.sub(r"^GRACE = .*", "GRACE = 0.3", text, flags=re.MULTILINE))
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    pytest_path = shutil.which("pytest", path=str(Path(sys.executable).parent))
    assert pytest_path is not None
    run = subprocess.run(
        [pytest_path, "-q", "-rE", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**environment, "COLUMNS": "200"},
        check=False,
        timeout=60,
    )
    named = dict(re.findall(r"^ERROR test_leaky.py::(\w+) - Failed: left behind: (\w+)", run.stdout, re.MULTILINE))
    assert named == {
        "test_thread": "thread",
        "test_process": "process",
        "test_descriptor": "descriptor",
        "test_folder": "temporary",
    }, run.stdout
    assert "11 passed, 4 errors" in run.stdout


def test_the_site_logs_in_by_a_cookie(site: Site) -> None:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def body(path: str, data: bytes | None = None) -> bytes:
        with opener.open(site.url + path, data) as answer:
            return answer.read()

    assert b"not logged in" in body("/account")
    assert b"logged in as <b id=user>ada" in body("/login", b"user=ada")
    assert b"logged in as <b id=user>ada" in body("/account")
    assert b"not logged in" in body("/logout")
    assert site.requests[-1] == "GET /account"


# --- parts of the tests -------------------------------------------------------------------------------------------


@functools.cache
def chosen(*args):
    """The tests that are run with these options."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "test_contract.py", "test_golden_table.py", *args],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.parametrize("option", ["--part", "--sweep"])
def test_the_parts_of_the_tests_are_all_of_them_and_none_twice(option):
    one, two, all_ = chosen(option, "1/2"), chosen(option, "2/2"), chosen()
    assert len(all_) > 100
    both = set(one) & set(two)
    assert set(one) | set(two) == set(all_)
    if option == "--part":
        assert not both
    else:  # only of what is slow, and one of many
        assert both == {t for t in all_ if "test_contract" not in t or "TestMemory" in t or "test_the_table" in t}
    assert abs(len(one) - len(two)) <= 1
