"""The command line: ``lifecycle demo``, ``run``, ``serve``, ``sessions``, ``audit``, ``diagram``, ``doctor`` and more.

Rule: an error of the library is one clear line on stderr and an exit code (`lifecycle.cli.exits`), never a traceback;
with ``LIFECYCLE_DEBUG=1`` the traceback comes too. With ``--json``, stdout holds JSON and nothing else.

typer and rich come with the extra ``cli``, so nothing here imports them before `main` has looked for them.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Final

from lifecycle.errors import LifecycleError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

NEEDS_EXTRA: Final = 'lifecycle: the command line needs typer and rich: pip install "session-lifecycle[cli]"'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments, without the name of the program; by default those of the process.

    Returns:
        The exit code.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    from lifecycle.cli.signals import ending_on_signals  # noqa: PLC0415 - nothing before it that takes time

    with ending_on_signals() as struck:
        try:
            code = _run(args, struck)
        except SystemExit as e:
            code = _code(e)
        return _code(struck[0]) if struck else code


def _run(args: list[str], struck: Sequence[SystemExit]) -> int:
    try:
        import rich  # noqa: F401, PLC0415 - looked for here, used in what is imported below
        import typer  # noqa: F401, PLC0415 - likewise
    except ImportError:
        print(NEEDS_EXTRA, file=sys.stderr)
        return 2
    from lifecycle.cli.terminal import plain_warnings, tell_error  # noqa: PLC0415 - after the look for the extra

    with plain_warnings():
        try:
            from lifecycle.cli.app import command  # noqa: PLC0415 - likewise

            command()(args=args or ["--help"], prog_name="lifecycle")
        except Exception as e:  # noqa: BLE001 - the last place that can put it into words
            debug = os.environ.get("LIFECYCLE_DEBUG")
            if debug:
                traceback.print_exception(e)
            # What a signal broke off, such as Playwright's start, may fail in its own way as it is cleared away.
            if struck and not isinstance(e, LifecycleError):
                return _code(struck[0])
            return tell_error(e)
    return 0


def _code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
