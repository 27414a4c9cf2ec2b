"""The page: what was verified, what was found, the paths, the filters, and the list of sessions.

Rule: sessions are written to a file aside first and counted meanwhile, so that the head of the page agrees with them
and no more than one is in memory. The policy of the page names its one style and its one script by their hashes.
"""

from __future__ import annotations

import shutil
import tempfile
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING, Final

from lifecycle.audit import RecordKind
from lifecycle.journal import library_version
from lifecycle.report.paths import DIAGRAM_STYLE, Paths
from lifecycle.report.sessions import COLUMNS, draw_session
from lifecycle.report.source import Source
from lifecycle.report.texts import given, plural, stamp, words
from lifecycle.report.timeline import SHAPES, legend
from lifecycle.states import State

if TYPE_CHECKING:
    from typing import BinaryIO

    from lifecycle.ports import Store
    from lifecycle.report.story import Story

__all__ = ["FEW", "OPEN", "Verification", "write_report"]

OPEN: Final = 3
"""Up to so many sessions their timelines are open from the start."""

FEW: Final = 100
"""Up to so many sessions all timelines are there from the start, and printed; of more, those that were opened."""

_ASIDE: Final = 1 << 22
"""Bytes of sessions from which on they are on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of verifying the log that the report is about.

    Attributes:
        ok: True where all that was looked at is as it was written.
        headline: One sentence.
        details: More sentences, such as what was looked at, or where it is broken.
    """

    ok: bool
    headline: str
    details: Sequence[str] = ()


@dataclass(slots=True)
class _Found:
    """What is counted while sessions are written."""

    sessions: int = 0
    records: int = 0
    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    writers: Counter[str] = field(default_factory=Counter)
    begin: datetime | None = None
    last: datetime | None = None

    def add(self, story: Story) -> None:
        self.sessions += 1
        self.states[story.state] += 1
        if story.close_reason is not None:
            self.reasons[story.close_reason] += 1
        self.errors.update(story.errors)
        for lane in story.lanes:
            self.records += len(lane.records)
            self.kinds.update(r.kind for r in lane.records)
            self.writers.update(f"lifecycle {r.library} with table {r.table}" for r in lane.records)
        self.begin = min(self.begin or story.begin, story.begin)
        self.last = max(self.last or story.last, story.last)


def write_report(
    store: Store,
    out: BinaryIO,
    *,
    sessions: Sequence[str] | None = None,
    verification: Verification | None = None,
    now: datetime | None = None,
) -> int:
    """Write the page, in UTF-8. Blocks: it reads the store.

    Args:
        store: An open store.
        out: Where to.
        sessions: Whole ids of sessions; None for all.
        verification: What came of verifying the log; None where it was not verified.
        now: The time that the report is of; by default that of the clock.

    Returns:
        How many sessions are on it.

    Raises:
        StoreError: The store can't be read.
        OSError: `out`, or the folder for temporary files, can't be written to.
    """
    source = Source(store, sessions)
    found, paths = _Found(), Paths()
    with tempfile.SpooledTemporaryFile(_ASIDE) as aside:
        for story in source:
            found.add(story)
            number = paths.add(story.path)
            drawn = draw_session(story, number, opened=len(source) <= OPEN, kept=len(source) > FEW)
            aside.write(drawn.encode())
        aside.seek(0)
        about = _about(store, source, sessions, now or datetime.now(UTC))
        head = (*_head(), *_top(about, found, source.bare, verification), *_paths(paths), _list_begins())
        out.writelines(part.encode() for part in head)
        shutil.copyfileobj(aside, out)
    out.write(_list_ends(found).encode())
    return found.sessions


def _file(name: str) -> str:
    return resources.files("lifecycle.report").joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _head() -> Iterator[str]:
    style = _file("report.css") + "\n" + DIAGRAM_STYLE
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(_file('report.js'))}; base-uri 'none'; "
        "form-action 'none'"
    )
    yield (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{policy}">'
        "<meta name=referrer content=no-referrer>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>Audit report - lifecycle</title><style>{style}</style></head><body>{SHAPES}"
    )


def _about(store: Store, source: Source, sessions: Sequence[str] | None, now: datetime) -> Mapping[str, str]:
    return {
        "made": f"{stamp(now)} UTC, by lifecycle {given(library_version())}",
        "store": given(store.url),
        "sessions": "all" if sessions is None else f"{len(source):,}, named one by one",
        "log": f"up to record {source.last:,}",
    }


def _top(
    about: Mapping[str, str], found: _Found, bare: Sequence[str], verification: Verification | None
) -> Iterator[str]:
    told = dict(about)
    if found.begin is not None and found.last is not None:
        told["period"] = f"{stamp(found.begin)} to {stamp(found.last)} UTC"
    lines = "".join(f"<dt>{name}<dd>{text}" for name, text in told.items())
    few = " class=few" if found.sessions <= FEW else ""
    yield f"<header><p>lifecycle</p><h1>Audit report</h1></header><main{few}>{_verified(verification)}"
    yield f"<section class=card><h2>Overview</h2><dl>{lines}</dl>{_numbers(found)}"
    if bare:
        ids = ", ".join(f"<code>{given(i)}</code>" for i in bare[:20]) + (", ..." if len(bare) > 20 else "")
        yield f"<p class=warn><b>Without records:</b> {plural(len(bare), 'session')} of the ledger: {ids}</p>"
    yield "</section>"


def _verified(verification: Verification | None) -> str:
    if verification is None:
        kind, sign, word = "none", "?", "Not verified"
        text, details = "Nobody has checked the log that this report is made from.", ""
    else:
        kind, sign, word = ("ok", "✓", "Verified") if verification.ok else ("failed", "✗", "Verification failed")
        text, details = given(verification.headline), "".join(f"<li>{given(line)}" for line in verification.details)
    more = f"<ul>{details}</ul>" if details else ""
    return (
        f'<section class="card proof {kind}" aria-labelledby=proof><h2 id=proof><span aria-hidden=true>{sign}</span> '
        f"{word}</h2><p>{text}</p>{more}</section>"
    )


def _numbers(found: _Found) -> str:
    tiles = "".join(
        f'<li class="{state}"><b>{found.states[state]:,}</b> {words(state)}' for state in State if found.states[state]
    )
    rows = {
        "Close reasons": [(words(name), number) for name, number in found.reasons.most_common()],
        "Errors, by sessions": [(f"<code>{given(e)}</code>", number) for e, number in found.errors.most_common(12)],
        "Events that took no edge": [
            (str(kind), found.kinds[kind])
            for kind in (RecordKind.REJECTED, RecordKind.IGNORED, RecordKind.JOINED)
            if found.kinds[kind]
        ],
        "Records": [("in all", found.records), *((f"by {given(w)}", n) for w, n in found.writers.most_common(5))],
    }
    lines = "".join(
        f"<tr><th scope=row>{name}<td>{', '.join(f'<span><b>{number:,}</b> {what}</span>' for what, number in told)}"
        for name, told in rows.items()
        if told
    )
    return f"<ul class=tiles><li><b>{found.sessions:,}</b> in all{tiles}</ul><table class=facts>{lines}</table>"


def _paths(paths: Paths) -> Iterator[str]:
    drawn = list(paths.draw())
    if drawn:
        told = "Each way through the states that was taken, once. What was not taken is faint."
        yield f"<section class=card><h2>Paths</h2><p>{told}</p>{''.join(drawn)}</section>"


def _list_begins() -> str:
    columns = "".join(f"<th scope=col>{name}" for name in COLUMNS)
    return (
        f"<section class=card><h2>Sessions</h2>{_FILTERS}{legend()}"
        "<p id=shown role=status hidden></p>"
        f'<table id=sessions aria-label="Sessions, newest first"><thead><tr>{columns}</thead>\n'
    )


_FILTERS: Final = (
    '<form id=filters hidden aria-label="Filter the sessions">'
    "<label>State <select data-column=1></select></label>"
    "<label>Close reason <select data-column=2></select></label>"
    "<label>Adapter <select data-column=6></select></label>"
    "<label>Error class <select data-column=7></select></label>"
    "<label>Label, name or id <input id=text type=search autocomplete=off spellcheck=false></label>"
    "<label>A step slower than <span class=unit><input id=slower type=number min=0 step=any> ms</span></label>"
    "<div><button type=reset>Clear</button><button type=button id=all>Open all</button></div></form>"
)


def _list_ends(found: _Found) -> str:
    empty = "" if found.sessions else "<p>There are no sessions in this store.</p>"
    told = "All times are UTC. Steps have no clock of their own: in an edge they are drawn one after the other."
    return (
        f"</table>{empty}</section><footer>{told}</footer></main><script>{_file('report.js')}</script></body></html>\n"
    )
