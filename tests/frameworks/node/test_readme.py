"""The README's block for it runs as pasted."""

from __future__ import annotations

import os

from node_rig import NODE, PACKAGES
from readme import pasted


def test_the_block_of_the_readme_runs_as_pasted(packages, site, tmp_path):
    (tmp_path / "node_modules").symlink_to(PACKAGES)  # as `npm install puppeteer-core` there
    path = os.pathsep.join([str(NODE.parent), os.environ["PATH"]])
    printed = pasted("puppeteer-core", site.url, tmp_path, **{**os.environ, "PATH": path})
    assert printed.splitlines() == ["A small site", "active"]
