"""The machine as Mermaid, Graphviz DOT and PlantUML: text that another tool lays out."""

from __future__ import annotations

from collections.abc import Sequence

from lifecycle.states import INITIAL, TERMINAL, Edge, State

_HEAD = "Drawn from the table in lifecycle/states.py by `python -m lifecycle.diagram`; do not edit."


def _arrow_text(edge: Edge, newline: str) -> str:
    """`event [guards]`, and the steps in order on a line of their own."""
    guards = f" [{', '.join(edge.guards)}]" if edge.guards else ""
    return f"{edge.event}{guards}" + (f"{newline}{' → '.join(edge.steps)}" if edge.steps else "")


def draw_mermaid(edges: Sequence[Edge]) -> str:
    """A ``flowchart``. https://mermaid.js.org/syntax/flowchart.html.

    Not a ``stateDiagram-v2``: its layout lets the labels of arrows lie on each other. Here each edge is a node without
    a border, which stands in the middle of its arrow.
    """
    lines = [f"%% {_HEAD}", "flowchart LR", f'    begin((" ")) --> {INITIAL}']
    lines += [f"    {state}{f'[[{state}]]' if state in TERMINAL else f'([{state}])'}" for state in State]
    for n, edge in enumerate(edges, 1):
        text = "<br/>".join([f"<b>{edge.event}</b>", *_mermaid_guards(edge), *edge.steps])
        lines.append(f'    {edge.source} --- edge{n}["{text}"] --> {edge.dest}')
    names = ",".join(f"edge{n}" for n in range(1, len(edges) + 1))
    lines += ["    classDef label fill:none,stroke:none", f"    class {names} label"]
    return "\n".join(lines) + "\n"


def _mermaid_guards(edge: Edge) -> list[str]:
    return [f"<i>[{',<br/>'.join(edge.guards)}]</i>"] if edge.guards else []


def draw_dot(edges: Sequence[Edge]) -> str:
    """A directed graph for ``dot``. https://graphviz.org/doc/info/lang.html."""
    lines = [
        f"// {_HEAD}",
        "digraph lifecycle {",
        "    rankdir=LR;",
        "    nodesep=0.4;",
        "    ranksep=1.2;",
        '    node [shape=box, style=rounded, fontname="Helvetica", margin="0.2,0.1"];',
        '    edge [fontname="Helvetica", fontsize=11];',
        '    begin [shape=point, width=0.15, label=""];',
        *(f"    {state}{' [peripheries=2]' if state in TERMINAL else ''};" for state in State),
        f"    begin -> {INITIAL};",
    ]
    for edge in edges:
        label = _arrow_text(edge, "\n").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\l")
        lines.append(f'    {edge.source} -> {edge.dest} [label="{label}\\l"];')
    return "\n".join([*lines, "}"]) + "\n"


def draw_plantuml(edges: Sequence[Edge]) -> str:
    """A state diagram. https://plantuml.com/state-diagram."""
    lines = [f"' {_HEAD}", "@startuml", "left to right direction", "hide empty description", f"[*] --> {INITIAL}"]
    lines += [f"{edge.source} --> {edge.dest} : {_arrow_text(edge, chr(92) + 'n')}" for edge in edges]
    lines += [f"{state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join([*lines, "@enduml"]) + "\n"
