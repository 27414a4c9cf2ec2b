"""What this machine offers a browser: a display, and what stands for one.

Rule: it looks at the environment and starts nothing.
"""

from __future__ import annotations

import os
import sys

__all__ = ["display"]


def display() -> str | None:
    """The display that a window would open on, None where there is none: as the local adapter sees it."""
    if sys.platform == "darwin":
        return "the screen of this Mac"
    for name in ("WAYLAND_DISPLAY", "DISPLAY"):
        if value := os.environ.get(name):
            return f"{name}={value}"
    return None
