"""The drawings show the whole table, are the same each time, and can be read."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from lifecycle import diagram
from lifecycle.diagram import FILES, DiagramError, Format, check, render, svg, write
from lifecycle.diagram.__main__ import main
from lifecycle.states import EDGES, STEPS, TERMINAL, Edge, Event, Guard, State, Step

pytestmark = pytest.mark.slow

FORMATS = get_args(Format)
SVG = "{http://www.w3.org/2000/svg}"


def arrows(fmt: str, text: str) -> list[str]:
    """What a drawing says of each edge, without markup: ``source dest event guards steps``."""
    if fmt == "svg":
        groups = [g for g in ET.fromstring(text).iter(f"{SVG}g") if g.get("class") == "edge"]
        ends = [re.match(r"\w+: (\w+) -> (\w+) ", g.get("data-edge", "")).groups() for g in groups]
        # A label of several lines is written from its lowest line up.
        lines = [sorted(g.iter(f"{SVG}text"), key=lambda t: float(t.get("y", "0"))) for g in groups]
        said = [" ".join("".join(t.itertext()) for t in ts) for ts in lines]
    elif fmt == "markdown":
        rows = [
            line[2:-2].split(" | ") for line in text.partition("## Edges")[2].splitlines() if line.startswith("| `")
        ]
        rows = [row for row in rows if len(row) == 5]
        ends = [(row[1], row[2]) for row in rows]
        said = [" ".join([row[0], *row[3:]]) for row in rows]
    else:
        shape = {
            "mermaid": r'(\w+) --- edge\d+\["(.*)"\] --> (\w+)$',
            "dot": r'(\w+) -> (?P<d>\w+) \[label="(.*)"\];$',
            "plantuml": r"(\w+) --> (?P<d>\w+) : (.*)$",
        }[fmt]
        found = [m for line in text.splitlines() if (m := re.search(shape, line))]
        ends = [(m[1], m[3] if fmt == "mermaid" else m["d"]) for m in found]
        said = [m[2] if fmt == "mermaid" else m[3] for m in found]
    plain = [re.sub(r"<br/>|\\[nl]|→|\|", " ", html.unescape(s)) for s in said]
    plain = [re.sub(r"</?[bi]>|[`\[\],]", "", s) for s in plain]
    return [" ".join(f"{a} {b} {s}".replace("`", "").split()) for (a, b), s in zip(ends, plain, strict=True)]


def expected(edge: Edge) -> str:
    return " ".join(f"{edge.source} {edge.dest} {edge.event} {' '.join(edge.guards)} {' '.join(edge.steps)}".split())


def told(fmt: str, text: str) -> list[str]:
    """As `arrows`, without what is said of edges that have no steps."""
    return sorted(re.sub(r" (changes no state has )?no steps$", "", arrow) for arrow in arrows(fmt, text))


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_edge_is_drawn_once_with_its_guards_and_its_steps_in_order(fmt):
    assert told(fmt, render(fmt)) == sorted(map(expected, EDGES))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_new_edge_is_drawn_too(fmt):
    new = Edge(
        event=Event.DETACH,
        source=State.NOT_STARTED,
        dest=State.TIMED_OUT,
        guards=(Guard.CAN_LIVE_ON, Guard.BEFORE_DEADLINE),
        steps=(Step.OPEN_VIEWER, Step.CANCEL_START),
    )
    edges = (*EDGES, new)
    assert told(fmt, render(fmt, edges=edges)) == sorted(map(expected, edges))


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_state_is_drawn_even_without_an_edge(fmt):
    text = render(fmt, edges=EDGES[:3])
    for state in State:
        assert state in text


def test_the_final_states_have_a_double_border():
    groups = [g for g in ET.fromstring(render("svg")).iter(f"{SVG}g") if g.get("class", "").startswith("state ")]
    doubled = {g.get("class").split()[1] for g in groups if len(g.findall(f"{SVG}rect")) == 2}
    assert doubled == {state.value for state in TERMINAL}


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_same_table_gives_the_same_text_in_another_process(fmt):
    code = f"import sys; from lifecycle.diagram import render; sys.stdout.buffer.write(render({fmt!r}).encode())"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True, timeout=60)
    assert other.stdout == render(fmt).encode()
    assert other.stdout.endswith(b"\n")


@pytest.mark.parametrize(
    "edge",
    [
        replace(EDGES[0], source=State.ACTIVE, dest=State.NOT_STARTED),
        replace(EDGES[0], source=State.CLOSED, dest=State.ACTIVE),
        replace(EDGES[0], source=State.NOT_STARTED, dest=State.NOT_STARTED),
        EDGES[2],  # a second loop
    ],
    ids=lambda edge: edge.name,
)
def test_an_edge_without_a_place_is_never_dropped_in_silence(edge):
    with pytest.raises(DiagramError, match=re.escape(f"no place for the edge {edge.name}")):
        render("svg", edges=(*EDGES, edge))


def test_a_state_without_a_place_is_never_dropped_in_silence(monkeypatch):
    monkeypatch.setattr(svg, "_FINAL", (State.CLOSED, State.TIMED_OUT))
    with pytest.raises(DiagramError, match="no place for the state error"):
        render("svg")


def test_a_text_without_room_is_never_cut_off():
    # On the loop, which has two lines.
    busy = replace(EDGES[2], steps=tuple(Step))
    with pytest.raises(DiagramError, match="operate: active -> active does not fit"):
        render("svg", edges=(*EDGES[:2], busy, *EDGES[3:]))


def test_the_markdown_table_has_all_pairs_with_what_really_happens():
    text = render("markdown").split("## Edges")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [(row[0], row[1]) for row in rows] == [(f"`{s}`", f"`{e}`") for s in State for e in Event]
    cells = {(row[0].strip("`"), row[1].strip("`")): row[2:] for row in rows}
    assert cells["not_started", "start"] == ["→ **active** if no session_id, else rejected", "rejected", "rejected"]
    assert cells["not_started", "stop"] == ["→ **closed**", "→ **closed**", "joins"]
    late = "→ **timed_out** if a deadline passed or the backend says so, else ignored"
    assert cells["not_started", "expire"] == ["ignored", late, "ignored"]
    assert cells["active", "expire"] == [late, f"({late})", "ignored"]
    assert cells["active", "operate"][2] == "rejected"
    assert cells["timed_out", "stop"] == ["ignored", "(ignored)", "(ignored)"]
    assert cells["error", "start"] == ["rejected", "(rejected)", "(rejected)"]


def test_the_markdown_and_the_picture_say_what_follows_when_a_step_fails():
    rows = [line for line in render("markdown").split("## Steps")[1].splitlines() if line.startswith("| `")]
    assert len(rows) == len(STEPS)
    assert "| `release_backend` | it is tried 3 times, then the edge ends in `error` | 15 s |" in rows
    legend = "".join(ET.fromstring(render("svg")).itertext())
    assert all(legend.count(step) > sum(step in edge.steps for edge in EDGES) for step in Step)


def test_write_makes_the_files_and_check_names_the_stale_ones(tmp_path):
    folder = tmp_path / "new" / "diagrams"
    assert check(folder) == list(FILES)
    assert write(folder) == list(FILES)
    assert check(folder) == []
    assert {path.name for path in folder.iterdir()} == set(FILES)
    (folder / "lifecycle.dot").write_bytes((folder / "lifecycle.dot").read_bytes().replace(b"\n", b"\r\n"))
    (folder / "table.md").unlink()
    assert check(folder) == ["lifecycle.dot", "table.md"]
    assert write(folder) == ["lifecycle.dot", "table.md"]
    assert check(folder) == []


def test_a_changed_table_makes_every_file_stale(tmp_path, monkeypatch):
    write(tmp_path)
    for name, fmt in FILES.items():
        monkeypatch.setattr(diagram, "render", lambda fmt: render(fmt, edges=EDGES[:-1]))
        assert name in check(tmp_path), fmt


def test_the_command_checks_and_writes(tmp_path, capsys):
    assert main(["--check", "--folder", str(tmp_path)]) == 1
    assert f"{tmp_path / 'lifecycle.svg'} is stale" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["--folder", str(tmp_path)]) == 0
    assert f"wrote {tmp_path / 'lifecycle.svg'}" in capsys.readouterr().out
    assert main(["--check", "--folder", str(tmp_path)]) == 0
    assert main(["--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_the_files_of_the_project_are_what_the_table_says():
    assert check(Path(__file__).parent.parent / "diagrams") == []


# --- the picture, measured in a browser --------------------------------------------------------------------------

MEASURE = """() => [...document.querySelectorAll('text, g.state > rect')].map(e => {
    const b = e.getBBox();
    const size = Math.min(...[...e.querySelectorAll('tspan'), e].map(t => parseFloat(getComputedStyle(t).fontSize)));
    return {tag: e.tagName, state: e.closest('g.state') !== null, text: e.textContent, size,
            left: b.x, top: b.y, right: b.x + b.width, bottom: b.y + b.height};
})"""


@pytest.fixture(scope="module")
def page():
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM_PATH") or browser_path or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium on this machine")
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("font", ["as the reader has it", "DejaVu Sans"])
def test_no_text_is_small_or_cut_off_or_lies_on_another(page, font):
    picture = render("svg")
    if font != "as the reader has it":
        picture = re.sub(r"font-family:(ui-monospace[^}]*)", "font-family:'DejaVu Sans Mono'", picture)
        picture = re.sub(r"font-family:(-apple[^}]*)", "font-family:'DejaVu Sans'", picture)
    page.set_content(f"<body>{picture}</body>")
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', picture).groups())
    items = page.evaluate(MEASURE)
    texts = [item for item in items if item["tag"] == "text"]
    boxes = [item for item in items if item["tag"] == "rect"]
    assert len(texts) > len(EDGES) * 2
    for text in texts:
        assert text["size"] >= 12, text
        assert text["left"] >= 8, text
        assert text["right"] <= width - 8, text
        assert text["top"] >= 8, text
        assert text["bottom"] <= height - 8, text
    for n, one in enumerate(texts):
        others = texts[n + 1 :] + ([] if one["state"] else boxes)
        for other in others:
            # Line boxes have room above and below the letters, so neighbouring lines may touch by a little.
            apart = one["right"] <= other["left"] or other["right"] <= one["left"]
            apart = apart or one["bottom"] <= other["top"] + 3 or other["bottom"] <= one["top"] + 3
            assert apart, (one, other)
