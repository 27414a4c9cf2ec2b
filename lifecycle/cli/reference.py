"""The help of all commands as one plain text, for the README.

Rule: the same on every machine: 80 columns, no colours, whatever the terminal and the environment say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

__all__ = ["commands", "embedded", "help_text"]

WIDTH: Final = 80


def commands() -> Iterator[tuple[str, Any]]:
    """Each command's full name and context, groups before what is in them, in the order of the help."""
    from lifecycle.cli.app import command  # noqa: PLC0415 - typer comes with an extra

    def walk(name: str, found: Any, parent: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - of typer's own classes
        if found.hidden:
            return
        width = {"terminal_width": WIDTH, "max_content_width": WIDTH}
        context = found.make_context(name, [], parent, resilient_parsing=True, **width)
        yield f"{parent.command_path} {name}" if parent is not None else name, context
        for part, inner in getattr(found, "commands", {}).items():
            yield from walk(part, inner, context)

    yield from walk("lifecycle", command(), None)


def help_text() -> str:
    """What ``--help`` prints, for each command in turn."""
    parts = []
    for name, context in commands():
        lines = [line.rstrip() for line in context.get_help().splitlines()]
        parts.append(f"$ {name} --help\n" + "\n".join(lines).strip() + "\n")
    return "\n".join(parts)


def embedded(readme: str) -> str:
    """`readme` with the help between its ``<!-- cli -->`` marks."""
    before, begin, rest = readme.partition("<!-- cli -->\n")
    _, end, after = rest.partition("<!-- /cli -->")
    if not begin or not end:
        msg = "there are no marks <!-- cli --> and <!-- /cli --> for the help"
        raise ValueError(msg)
    return f"{before}{begin}```text\n{help_text()}```\n{end}{after}"


def main(arguments: list[str]) -> int:
    """Print the help; with ``--write FILE`` put it into a README, with ``--check FILE`` say whether it is current."""
    if not arguments:
        print(help_text(), end="")
        return 0
    way, name = arguments
    path = Path(name)
    text = path.read_text()
    if way == "--write":
        path.write_text(embedded(text))
    elif text != embedded(text):
        print(f"{name} does not show the help as it is; run: python -m lifecycle.cli.reference --write {name}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
