"""The README's block for it runs as pasted."""

from __future__ import annotations

import os

from readme import pasted


def test_the_block_of_the_readme_runs_as_pasted(site, tmp_path):
    printed = pasted("lifecycle.embed.scrapy", site.url, tmp_path, **os.environ)
    assert "A small site" in printed
