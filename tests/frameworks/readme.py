"""Runs a code block of the README as a newcomer would paste it, with example.com played by the site on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent.parent / "README.md"


def pasted(word: str, site: str, folder: Path, **env: str) -> str:
    """Run the one block that holds `word` in `folder`; what it printed.

    Raises:
        AssertionError: It did not end well.
    """
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    (code,) = (block for block in blocks if word in block)
    (folder / "pasted.py").write_text(code.replace("https://example.com", site))
    done = subprocess.run(
        [sys.executable, "pasted.py"], cwd=folder, env={**env}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
