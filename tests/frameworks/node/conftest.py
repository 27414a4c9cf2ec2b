"""What the tests of Node.js frameworks share: the packages, programs that end with the test, a page that counts."""

from __future__ import annotations

import node_rig
import pytest

COUNTER = b"""<!doctype html><html lang=en><title>A counter</title><link rel=icon href='data:,'>
<button>click</button><p id=told>not clicked</p>
<script>
  let n = 0;
  document.querySelector("button").onclick = () => {
    document.querySelector("#told").textContent = `clicked ${++n}`;
    document.cookie = "login=ada; max-age=3600";
  };
</script>"""


@pytest.fixture(scope="session")
def packages():
    """The packages of npm that the lock names."""
    failed = node_rig.install()
    if failed:
        pytest.fail(failed, pytrace=False)


@pytest.fixture
def begin(packages, site, tmp_path):
    """A function that starts a program of a framework on a session. None of them may connect elsewhere."""
    begun = []

    def begin(framework, url, **more):
        begun.append(node_rig.program(framework, url, site.url, tmp_path, **more))
        return begun[-1]

    site.pages["/counter"] = (200, {"Content-Type": "text/html"}, COUNTER)
    site.requests.clear()
    yield begin
    for program in begun:
        program.kill()
    assert node_rig.elsewhere(tmp_path) == []
