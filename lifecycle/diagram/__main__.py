"""``python -m lifecycle.diagram``: write the generated files, or check that they are what the table says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lifecycle.diagram import check, write


def main(argv: Sequence[str] | None = None) -> int:
    """Run it.

    Returns:
        0, or 1 when ``--check`` finds a stale file.
    """
    parser = argparse.ArgumentParser(prog="python -m lifecycle.diagram", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    parser.add_argument("--folder", type=Path, default=Path("diagrams"), help="where the files are (default: diagrams)")
    options = parser.parse_args(argv)
    if not options.check:
        for name in write(options.folder):
            sys.stdout.write(f"wrote {options.folder / name}\n")
        return 0
    stale = check(options.folder)
    for name in stale:
        sys.stderr.write(f"{options.folder / name} is stale; write it with: python -m lifecycle.diagram\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
