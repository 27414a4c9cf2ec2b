"""Where the browser is.

Rule: looks at the disk and nothing else. Playwright's own download is found without importing Playwright.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lifecycle.errors import StartFailed

__all__ = ["FoundBrowser", "candidates", "find_browser"]

_ON_PATH: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_MAC_APPS: Final = (
    "Chromium.app/Contents/MacOS/Chromium",
    "Google Chrome.app/Contents/MacOS/Google Chrome",
    "Google Chrome for Testing.app/Contents/MacOS/Google Chrome for Testing",
)

_IN_DOWNLOAD: Final = (
    "chrome-linux/chrome",
    "chrome-linux64/chrome",
    "chrome-linux-arm64/chrome",
    *(f"{folder}/{app}" for folder in ("chrome-mac", "chrome-mac-arm64", "chrome-mac-x64") for app in _MAC_APPS),
)
"""Where Playwright puts the executable inside a ``chromium-REVISION`` folder, by version of Playwright and system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBrowser:
    """A browser on this machine.

    Attributes:
        path: Its executable.
        source: Where it was found, in words.
    """

    path: str
    source: str


def find_browser(executable_path: str | None) -> FoundBrowser:
    """The browser to run: the one named, else the first that is found.

    Args:
        executable_path: The option of that name; None to look.

    Raises:
        StartFailed: The one named can't be run, or there is none at all.
    """
    if executable_path is not None:
        return _named(executable_path, "executable_path")
    in_environment = os.environ.get("CHROMIUM_PATH")
    if in_environment:
        return _named(in_environment, "CHROMIUM_PATH")
    for found in candidates():
        return found
    places = f"Playwright's downloads ({_downloads()}) and {', '.join(_ON_PATH)} on the PATH"
    raise StartFailed(
        f"no Chromium was found: looked at executable_path, CHROMIUM_PATH, {places}; "
        "run `lifecycle install-browser`, or set CHROMIUM_PATH to a browser",
        adapter="local",
    )


def candidates() -> Iterator[FoundBrowser]:
    """Every browser that is found without being named, the best first."""
    yield from _downloaded()
    seen: set[str] = set()
    for name in _ON_PATH:
        path = shutil.which(name)
        if path is not None and (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            yield FoundBrowser(path=path, source=f"{name} on the PATH")
    if sys.platform == "darwin":
        for folder in (Path("/Applications"), Path.home() / "Applications"):
            for app in _MAC_APPS:
                if _runs(folder / app):
                    yield FoundBrowser(path=str(folder / app), source=str(folder))


def _named(path: str, by: str) -> FoundBrowser:
    """The browser at `path`, or what is wrong with it."""
    full = Path(path).expanduser()
    if not full.exists():
        wrong = "there is no such file"
    elif full.is_dir():
        wrong = "it is a folder; name the executable inside"
    elif not os.access(full, os.X_OK):
        wrong = "it may not be executed"
    else:
        return FoundBrowser(path=str(full), source=by)
    raise StartFailed(f"{by}={path!r} can't be run: {wrong}", adapter="local")


def _downloads() -> Path:
    """The folder that Playwright downloads browsers to (its documentation, "Managing browser binaries")."""
    chosen = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    if chosen == "0":  # inside the package itself
        spec = importlib.util.find_spec("playwright")
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        return Path(places[0] if places else ".", "driver", "package", ".local-browsers")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ms-playwright"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ms-playwright")


def _downloaded() -> Iterator[FoundBrowser]:
    """Playwright's complete downloads of Chromium, the newest revision first."""
    folder = _downloads()
    try:
        names = os.listdir(folder)  # noqa: PTH208 - one call that says both that it is a folder and what is in it
    except OSError:
        return
    revisions = sorted((int(m[1]) for name in names if (m := re.fullmatch(r"chromium-(\d+)", name))), reverse=True)
    for revision in revisions:
        home = folder / f"chromium-{revision}"
        if not (home / "INSTALLATION_COMPLETE").exists():
            continue
        for inside in _IN_DOWNLOAD:
            if _runs(home / inside):
                yield FoundBrowser(path=str(home / inside), source=f"Playwright's download, revision {revision}")
                break


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
