"""The README's block for it runs as pasted."""

from __future__ import annotations

import os

import scripted  # noqa: F401 - switches that keep browser-use from calling home
from readme import pasted


def test_the_block_of_the_readme_runs_as_pasted(site, tmp_path):
    printed = pasted("lifecycle.embed.browser_use", site.url, tmp_path, **os.environ)
    assert site.url in printed
    assert printed.splitlines()[-1] == "active"
