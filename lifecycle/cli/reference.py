"""The help of all commands as one plain text, for the README.

Rule: the same on every machine: 80 columns, no colours, whatever the terminal and the environment say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

__all__ = ["commands", "help_text"]

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


if __name__ == "__main__":
    print(help_text(), end="")
