"""The fault campaign on the cookie file: kills and errors in a save, many writers, and files that are damaged.

What is struck in a save, and what must hold then, is in `cookie_faults`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cookie_faults
import pytest
from cells import in_cell
from children import environment
from cookie_faults import (
    COMMENT,
    ERRORS,
    FORMATS,
    LASTING,
    LATER,
    NOW,
    a_cookie,
    cases,
    item,
    line,
    sample,
    surrounded,
)

from lifecycle import Client
from lifecycle.cookies import CookieFormat, read_cookie_file, save_cookie_file
from lifecycle.cookies.atomic import locked
from lifecycle.errors import CookieFileError, CookieSaveError
from lifecycle_adapters.memory import MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals")]

STRUCK: Final = "I: the cookie file, struck at each call of a save"
WRITERS: Final = "I: the cookie file, many writers"
DAMAGED: Final = "I: the cookie file, damaged"

SHARES: Final = 16


def lived(jobs: list[tuple[object, ...]], folder: Path) -> list[str]:
    """The cells of these jobs, lived in a process without threads."""
    command = [sys.executable, "-W", "error", cookie_faults.__file__, json.dumps(jobs), str(folder)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    cells = json.loads(done.stdout)
    assert isinstance(cells, list)
    return cells


# --- kills and errors ---------------------------------------------------------------------------------------------

KILLS: Final[list[tuple[object, ...]]] = [
    ("killed", form, situation, fault) for form, situation in cases() for fault in ("kill", "power", "half")
]
FAILURES: Final[list[tuple[object, ...]]] = [
    ("failing", form, situation, fault) for form, situation in cases() for fault in (*ERRORS, *LASTING)
]
SOME: Final = [*KILLS[::11], *FAILURES[::17]]
"""Each format, situation and fault, though not each with each."""


def test_what_make_test_does_has_each_format_situation_and_fault():
    for at in (1, 2, 3):
        assert {job[at] for job in SOME} == {job[at] for job in [*KILLS, *FAILURES]}


@pytest.mark.parametrize("share", range(4))
def test_a_save_is_struck_at_each_of_its_calls(share, tmp_path, counted):
    counted(STRUCK, lived(SOME[share::4], tmp_path))


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("share", range(SHARES))
def test_each_save_is_struck_at_each_of_its_calls(share, tmp_path, counted):
    jobs = [job for job in [*KILLS, *FAILURES] if job not in SOME]
    counted(STRUCK, lived(jobs[share::SHARES], tmp_path))


def test_an_unlock_that_fails_does_not_keep_the_lock(tmp_path, monkeypatch):
    path, real = tmp_path / "c.json", fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_UN:
            raise OSError(errno.EIO, "the server is away")
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    for count in (1, 2):
        cookies = [a_cookie("a"), a_cookie("b")][:count]
        assert save_cookie_file(read_cookie_file(path, now=NOW), cookies, now=NOW, timeout=0.1).saved == count


def test_a_lock_file_that_lies_there_holds_nothing_where_there_is_no_flock(tmp_path, monkeypatch):
    """As one copied with its folder from another file system, or of a process that was killed before it locked it."""
    monkeypatch.setattr(fcntl, "flock", _no_flock)
    (tmp_path / ".c.json.lock").touch()
    path = tmp_path / "c.json"
    assert save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie("a")], now=NOW, timeout=0.5).saved == 1
    with locked(path, timeout=0), pytest.raises(CookieSaveError, match="another process held its lock for 0.1 seconds"):
        save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie("b")], now=NOW, timeout=0.1)
    assert sorted(p.name for p in tmp_path.iterdir() if "rescue" not in p.name) == [".c.json.lock", "c.json"]


def test_a_lock_file_that_is_removed_while_it_is_waited_for_is_made_anew(tmp_path, monkeypatch):
    path, real = tmp_path / "c.json", fcntl.flock
    lock = tmp_path / ".c.json.lock"

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and not (tmp_path / "removed").exists():
            (tmp_path / "removed").touch()
            lock.unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path, timeout=0):
        assert lock.exists()


def _no_flock(fd: int, operation: int) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


# --- writers ------------------------------------------------------------------------------------------------------

SHAPES: Final = ((2, 1), (3, 1), (5, 1), (8, 1), (1, 2), (1, 8), (2, 2), (4, 2))
"""Processes, and threads of each."""


def crowds(form: CookieFormat, seed: int) -> list[tuple[object, ...]]:
    return [
        ("writers", form, processes, threads, seed, victim)
        for processes, threads in SHAPES
        for victim in (False, True)
        if processes > 1 or not victim
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_writers_and_a_reader_at_once(form, tmp_path, counted):
    counted(WRITERS, lived(crowds(form, 0), tmp_path))


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("form", FORMATS)
def test_writers_and_a_reader_at_once_many_times(form, seed, tmp_path, counted):
    counted(WRITERS, lived(crowds(form, seed), tmp_path))


# --- damaged files ------------------------------------------------------------------------------------------------

JSONS: Final = tuple(form for form in FORMATS if form is not CookieFormat.NETSCAPE)
NAMES: Final = ("a", "b", "c")


@dataclass(frozen=True)
class Damage:
    """A damaged file and what is right for it.

    Attributes:
        form: The format of the file before.
        name: What was done to it.
        content: The file.
        line: For a file that must be refused, its line; 0 where the error names none.
        loads: The cookies of one that must be read, whatever else is wrong in it; None for one to refuse.
        rejected: How many of its cookies can't be read.
        keeps: What must be in it still after a session.
    """

    form: CookieFormat
    name: str
    content: bytes
    line: int | None = None
    loads: frozenset[str] | None = None
    rejected: int = 0
    keeps: tuple[bytes, ...] = ()

    @property
    def file(self) -> str:
        return "c.txt" if self.form is CookieFormat.NETSCAPE else "c.json"

    def __str__(self) -> str:
        return f"{self.form}: {self.name}"


def bad(form: CookieFormat, name: str, content: bytes | str, line: int | None = 1) -> Damage:
    return Damage(form, name, _bytes(content), line=line or 0)


def good(form: CookieFormat, name: str, content: bytes | str, loads: str, rejected: int = 0, *keeps: str) -> Damage:
    """`loads` has a cookie in each letter."""
    kept = tuple(map(_bytes, keeps))
    return Damage(form, name, _bytes(content), loads=frozenset(loads), rejected=rejected, keeps=kept)


def _bytes(content: bytes | str) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


TORN: Final = 24


def cuts(text: str) -> list[int]:
    """Where a file is cut: the ends of what is written, and places between them."""
    rng = random.Random(text)
    return sorted({1, 2, len(text.rstrip()) - 1, *rng.sample(range(3, len(text.rstrip()) - 1), TORN)})


ODD_ITEMS: Final[dict[str, object]] = {
    "null": None,
    "a number": 5,
    "a text": "text",
    "a list": [1],
    "true": True,
    "an object without anything": {},
}
ODD_FIELDS: Final[dict[str, dict[str, object]]] = {
    "name null": {"name": None},
    "name a number": {"name": 1},
    "name a list": {"name": ["b"]},
    "value null": {"value": None},
    "value a number": {"value": 1},
    "value an object": {"value": {}},
    "domain null": {"domain": None},
    "domain empty": {"domain": ""},
    "domain a dot": {"domain": "."},
    "domain a number": {"domain": 1},
    "domain a list": {"domain": []},
    "path a number": {"path": 1},
    "path a list": {"path": ["/"]},
    "expiry a text": {"expiry": "tomorrow"},
    "expiry a number as text": {"expiry": "1"},
    "expiry true": {"expiry": True},
    "expiry a list": {"expiry": []},
    "expiry negative": {"expiry": -5},
    "expiry hugely negative": {"expiry": -(10**300)},
    "expiry 1e16": {"expiry": 10**16},
    "expiry 1e300": {"expiry": 1e300},
    "expiry beyond a float": {"expiry": 10**400},
    "httpOnly a text": {"httpOnly": "true"},
    "httpOnly a number": {"httpOnly": 1},
    "secure a text": {"secure": "no"},
    "secure a list": {"secure": []},
    "sameSite unknown": {"sameSite": "Sometimes"},
    "sameSite a number": {"sameSite": 1},
    "hostOnly a text": {"hostOnly": "x"},
    "session a number": {"session": 0},
    "partition a number": {"partitionKey": 5},
    "partition a list": {"partitionKey": ["https://top.test"]},
    "partition opaque": {"partitionKeyOpaque": True},
    "partition of odd fields": {"partitionKey": {"topLevelSite": 1}},
}
RIGHT_FIELDS: Final[dict[str, dict[str, object]]] = {
    "expiry 0": {"expiry": 0},
    "expiry -1": {"expiry": -1},
    "expiry null": {"expiry": None},
    "expiry in milliseconds": {"expiry": LATER * 1000},
    "expiry in microseconds": {"expiry": LATER * 1_000_000},
    "expiry a fraction": {"expiry": LATER + 0.123456789},
    "value empty": {"value": ""},
    "value of a megabyte": {"value": "x" * 1_000_000},
    "value with controls": {"value": "a\0b\tc\x7f"},
    "value that ends a line": {"value": "a\r\nb\u2028c"},
    "path null": {"path": None},
    "path odd": {"path": "\\ü 🍪"},
    "sameSite null": {"sameSite": None},
    "sameSite empty": {"sameSite": ""},
    "unknown keys": {"extra": {"deep": [1, 2.5, None, "ü", 2**70]}},
    "unknown key, nested 100 deep": {"extra": json.loads("[" * 100 + "]" * 100)},
}


def damaged_json(form: CookieFormat) -> Iterator[Damage]:
    text = sample(form, NAMES)
    items = [item(form, name) for name in NAMES]
    last = text.rstrip().count("\n") + 1

    def written(second: object, **options: Any) -> str:
        return json.dumps(surrounded(form, [items[0], second, items[2]]), **{"indent": 1, **options})

    for at in cuts(text):
        yield bad(form, f"cut at {at}", text[:at], text[:at].rstrip().count("\n") + 1)
    for name, odd in ODD_ITEMS.items():
        yield good(form, f"an item is {name}", written(odd), "ac", 1, *(() if name == "a list" else (json.dumps(odd),)))
    for key in ("name", "value", "domain"):
        yield good(form, f"{key} is missing", written({k: v for k, v in items[1].items() if k != key}), "ac", 1)
    for name, fields in ODD_FIELDS.items():
        yield good(form, name, written(_with(items[1], fields)), "ac", 1)
    for name, fields in RIGHT_FIELDS.items():
        yield good(form, name, written(_with(items[1], fields)), "abc")
    yield good(form, "half a surrogate pair", written(_with(items[1], {"name": "b", "value": "\ud83d"})), "abc")
    yield good(form, "a key twice in an item", text.replace('"name": "b"', '"name": "x", "name": "b"'), "abc")
    yield good(form, "a cookie twice", json.dumps(surrounded(form, [*items, items[0]])), "abc")
    yield good(
        form, "a cookie twice, differing", json.dumps(surrounded(form, [*items, item(form, "a", "2")])), "abc", 1
    )
    yield good(form, "byte order mark", b"\xef\xbb\xbf" + text.encode(), "abc")
    yield good(form, "CRLF", text.replace("\n", "\r\n"), "abc")
    yield good(form, "blanks around it", f" \n\t\r\n{text}\n \n", "abc")
    yield good(form, "in one line", json.dumps(json.loads(text)), "abc")
    yield good(form, "without its last line break", text.rstrip(), "abc")
    yield good(form, "no cookies", json.dumps(surrounded(form, [])), "")
    yield good(form, "only what can't be read", json.dumps(surrounded(form, [1, "x", None])), "", 3, "1", '"x"', "null")
    yield from _no_text(form, text)
    for name, content in {
        "empty": "",
        "blanks": " \n\t\r\n ",
        "only a byte order mark": b"\xef\xbb\xbf",
        "null": "null",
        "true": "true",
        "a number": "5",
        "a text": '"cookies"',
        "an object": "{}",
        "an object of cookies": '{"cookies": {"a": 1}}',
        "cookies null": '{"cookies": null}',
        "cookies a number": '{"cookies": 5}',
        "cookies a text": '{"cookies": "a"}',
        "a page": "<!doctype html><title>Sign in</title>",
        "Python": "[{'name': 'a'}]",
        "a comment before it": "// mine\n[]",
    }.items():
        yield bad(form, name, content)
    for number in ("NaN", "Infinity", "-Infinity", "9" * 5000):
        broken = text.replace(f'"value": "{1}"', f'"value": {number}', 1)
        yield bad(form, f"a value {number[:9]}", broken, 0)
    yield bad(form, "nested too deep", "[" * 200_000, 0)
    yield bad(form, "nested too deep in an item", written("@").replace('"@"', "[" * 200_000 + "]" * 200_000), 0)
    yield bad(form, "two files", text + text, last + 1)
    yield bad(form, "a bracket too many", f"{text}]", last + 1)
    yield bad(form, "the end of a longer one", f'{text.rstrip()}ecure": false}}]', last)
    comma = text.replace('"a",\n', '"a"\n', 1)
    yield bad(form, "a comma is missing", comma, comma[: comma.index('"a"')].count("\n") + 2)
    at = text[: text.index('"b"')].count("\n") + 1
    yield bad(form, "a line break in a text", text.replace('"b"', '"b\n"'), at)
    yield bad(form, "an escape that there is not", text.replace('"b"', '"\\b\\q"'), at)


def _with(given: dict[str, object], fields: dict[str, object]) -> dict[str, object]:
    """The item with other fields; `expiry` is what its dialect calls so."""
    out = {k: v for k, v in given.items() if k not in {"expires", "expirationDate"}} if "expiry" in fields else given
    names = [k for k in ("expirationDate", "expires") if k in given]
    return {**out, **{n: v for k, v in fields.items() for n in (names if k == "expiry" else [k])}}


def _no_text(form: CookieFormat, text: str) -> Iterator[Damage]:
    """Damage that makes no text of it, in any format."""
    data = text.encode()
    middle = data.index(b"b", len(data) // 2) if b"b" in data[len(data) // 2 :] else len(data) // 2
    at = data[:middle].count(b"\n") + 1
    yield bad(form, "a NUL", data[:middle] + b"\0" + data[middle:], at)
    yield bad(form, "zeros from the middle on", data[:middle] + b"\0" * (len(data) - middle), at)
    yield bad(form, "zeros", b"\0" * len(data))
    yield bad(form, "no UTF-8", data[:middle] + b"\xff" + data[middle:], at)
    yield bad(form, "Latin-1", data[:middle] + "ü".encode("latin-1") + data[middle:], at)
    yield bad(form, "half a character at the end", data + "🍪".encode()[:3], data.count(b"\n") + 1)
    yield bad(form, "a surrogate in UTF-8", data[:middle] + b"\xed\xa0\x80" + data[middle:], at)
    yield bad(form, "UTF-16", text.encode("utf-16"))
    yield bad(form, "UTF-16, big end first", b"\xfe\xff" + text.encode("utf-16-be"))
    yield bad(form, "UTF-16 without a mark", text.encode("utf-16-le"))
    yield bad(form, "UTF-32", text.encode("utf-32"))
    yield bad(form, "compressed", b"\x1f\x8b\x08\x00" + data)


def damaged_netscape() -> Iterator[Damage]:
    form = CookieFormat.NETSCAPE
    text = sample(form, NAMES)
    head, comment, *rows = text.splitlines()

    def written(second: str, *, end: str = "\n") -> str:
        return end.join((head, comment, rows[0], second, rows[2])) + end

    for at in cuts(text):
        torn = text[:at]
        begun = torn.rpartition("\n")[2]
        whole = "".join(n for n, row in zip(NAMES, rows, strict=True) if f"{row}\n" in torn)
        if begun.startswith("#") or not begun:
            yield good(form, f"cut at {at}", torn, whole)
        elif begun.count("\t") < 6:
            yield bad(form, f"cut at {at}", torn, torn.count("\n") + 1)
        else:
            yield good(form, f"cut at {at}, in the value", torn, whole + begun.split("\t")[5])
    second = rows[1].split("\t")
    for name, at, field in (
        ("flag neither", 1, "MAYBE"),
        ("flag a number", 1, "1"),
        ("flag empty", 1, ""),
        ("domain empty", 0, ""),
        ("domain only HttpOnly", 0, "#HttpOnly_"),
        ("secure neither", 3, "x"),
        ("secure empty", 3, ""),
        ("expiry a text", 4, "soon"),
        ("expiry NaN", 4, "nan"),
        ("expiry infinite", 4, "inf"),
        ("expiry 1e9", 4, "1e9"),
        ("expiry negative", 4, "-5"),
        ("expiry hugely negative", 4, "-" + "9" * 20),
        ("expiry 1e16", 4, "1" + "0" * 16),
        ("expiry of 30 digits", 4, "9" * 30),
        ("expiry of 5000 digits", 4, "9" * 5000),
        ("expiry in other digits", 4, "٣٣"),
        ("expiry with a sign", 4, "+5"),
    ):
        row = "\t".join([*second[:at], field, *second[at + 1 :]])
        yield good(form, name, written(row), "ac", 1, row)
    for name, row in (
        ("a line of words", "just some words"),
        ("a line with blanks for TABs", rows[1].replace("\t", " ")),
        ("a field too many", rows[1] + "\tmore"),
        ("a hundred fields", "\t".join("x" * 100)),
        ("three fields", "\t".join(second[:3])),
        ("only TABs", "\t" * 7 + "x"),
        ("our JSON is cut", '#lifecycle Cookie\t{"name": "b"'),
        ("our JSON is a list", "#lifecycle Cookie\t[]"),
        ("our JSON has a NaN for a name", '#lifecycle Cookie\t{"name": NaN, "value": "", "domain": "site.test"}'),
        ("our JSON is of odd fields", '#lifecycle Cookie\t{"name": "b", "value": "1", "domain": 5}'),
        ("JSON in a line", json.dumps(item(CookieFormat.NOTTE, "b"))),
        ("a line of a megabyte", "x" * 1_000_000),
    ):
        yield good(form, name, written(row), "ac", 1, row)
    for name, row, names in (
        ("a comment", "# nothing", "ac"),
        ("a blank line", "", "ac"),
        ("blanks", " \t ", "ac"),
        ("a note of ours that is odd", "#lifecycle SameSite\tSometimes\tsite.test\t/\tb", "ac"),
        ("a note of ours that is cut", "#lifecycle SameSite\tLa", "ac"),
        ("expiry empty", "\t".join([*second[:4], "", *second[5:]]), "abc"),
        ("expiry 0", "\t".join([*second[:4], "0", *second[5:]]), "abc"),
        ("expiry -1", "\t".join([*second[:4], "-1", *second[5:]]), "abc"),
        ("expiry in milliseconds", "\t".join([*second[:4], f"{LATER}000", *second[5:]]), "abc"),
        ("flags in lower case", rows[1].replace("FALSE", "false"), "abc"),
        ("HttpOnly", "#HttpOnly_" + rows[1], "abc"),
        ("value empty", "\t".join(second[:6]) + "\t", "abc"),
        ("value and its TAB stripped", "\t".join(second[:6]), "abc"),
        ("value of a megabyte", "\t".join(second[:6]) + "\t" + "x" * 1_000_000, "abc"),
        ("value with odd ends of lines", "\t".join(second[:6]) + "\tx\x0b\x0c\x85\u2028y", "abc"),
        ("path odd", "\t".join([*second[:2], "\\ü 🍪", *second[3:]]), "abc"),
    ):
        yield good(form, name, written(row), names, 0, row)
    yield good(form, "a cookie twice", text + rows[0] + "\n", "abc")
    yield good(form, "a cookie twice, differing", text + line("a", "2") + "\n", "abc", 1)
    yield good(form, "byte order mark", b"\xef\xbb\xbf" + text.encode(), "abc")
    yield good(form, "CRLF", text.replace("\n", "\r\n"), "abc", 0, "\r\n")
    yield good(form, "CRLF in some lines", text.replace("\n", "\r\n", 3), "abc")
    yield good(form, "without its last line break", text.rstrip(), "abc")
    yield good(form, "without its first line", "\n".join(rows) + "\n", "abc")
    yield good(form, "only its first line", head + "\n", "")
    yield good(form, "only comments", f"{COMMENT}\n{COMMENT}\n", "", 0, COMMENT)
    yield good(form, "empty", "", "")
    yield good(form, "only blanks", " \n\n", "")
    yield from _no_text(form, text)
    yield bad(form, "blanks for TABs", text.replace("\t", " "), 3)
    yield bad(form, "words", "some words\nand more\n", 1)
    yield bad(form, "a page", "<!doctype html>\n<title>Sign in</title>\n", 1)
    yield bad(form, "the last line is cut", text + "\t".join(second[:4]), 6)
    yield bad(form, "our JSON is cut at the end", text + '#lifecycle Cookie\t{"name": "d"', 6)
    yield bad(form, "JSON that is cut", '[{"name": "a"', 1)
    yield bad(form, "JSON without cookies", "{}", 1)


def damages(form: CookieFormat) -> list[Damage]:
    return list(damaged_netscape() if form is CookieFormat.NETSCAPE else damaged_json(form))


@pytest.fixture
def adapter():
    return MemoryAdapter()


@pytest.fixture
def client(adapter):
    with Client(adapter=adapter, store="memory:") as client:
        yield client


REFUSED: Final = {
    "half a surrogate pair",
    "value of a megabyte",
    "value with controls",
    "value that ends a line",
    "value with odd ends of lines",
}
"""Where no browser takes the cookie, which stays in the file."""


def check_read(damage: Damage, path: Path) -> None:
    """What reading it says."""
    if damage.loads is None:
        with pytest.raises(CookieFileError) as caught:
            read_cookie_file(path, now=NOW)
        assert (caught.value.path, caught.value.line) == (str(path), damage.line or None), caught.value.reason
        return
    loaded = read_cookie_file(path, now=NOW)
    assert {c.name for c in loaded.cookies} == damage.loads
    assert len(loaded.rejected) == damage.rejected, loaded.rejected


def check_session(damage: Damage, path: Path, client: Any, adapter: Any) -> None:
    """What a session makes of it: no browser and the file as it was, or all that was in it, and what it adds."""
    opened = len(adapter.opened)
    session = client.Session(cookie_file=path)
    if damage.loads is None:
        with pytest.raises(CookieFileError):
            session.start()
        assert len(adapter.opened) == opened
        assert path.read_bytes() == damage.content
        assert os.listdir(path.parent) == [path.name]
        return
    with session:
        names = {c["name"] for c in session.get_cookies()}
        session.set_cookies(cookies=[{"name": "new", "value": "1", "domain": "site.test", "path": "/"}])
    assert names == damage.loads - ({"b"} if damage.name in REFUSED else set())
    after = read_cookie_file(path, now=NOW)
    assert {c.name for c in after.cookies} == damage.loads | {"new"}
    twice = "twice, differing" in damage.name  # the first one can't be kept: it would come back
    assert len(after.rejected) == damage.rejected - twice
    data = path.read_bytes()
    assert all(kept in data for kept in damage.keeps)


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_refused_or_read_as_far_as_it_is_right(form, tmp_path, client, adapter, counted):
    told = damages(form)
    assert len({str(damage) for damage in told}) == len(told)
    for damage in told:
        folder = tmp_path / "life"
        folder.mkdir()
        path = folder / damage.file
        path.write_bytes(damage.content)
        with in_cell(damage):
            check_read(damage, path)
            check_session(damage, path, client, adapter)
        shutil.rmtree(folder)
    counted(DAMAGED, told)


@pytest.mark.parametrize("place", ["a cookie", "the file"])
def test_a_number_beyond_a_float_is_refused_or_kept(place, tmp_path):
    path = tmp_path / "c.json"
    expires, more = ("1e999", "1") if place == "a cookie" else ("-1", "1e999")
    path.write_text(
        f'{{"cookies": [{{"name": "a", "value": "1", "domain": "a.test", "expires": {expires}}}], "more": {more}}}'
    )
    try:
        loaded = read_cookie_file(path, now=NOW)
    except CookieFileError:
        return
    save_cookie_file(loaded, loaded.cookies, now=NOW)
    assert "null" not in path.read_text()
    assert read_cookie_file(path, now=NOW).cookies == loaded.cookies


def test_our_json_in_a_cookies_txt_is_nested_too_deep(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text(f"{line('a')}\n#lifecycle Cookie\t{'[' * 200_000}\n{line('c')}\n")
    assert [c.name for c in read_cookie_file(path, now=NOW).cookies] == ["a", "c"]


def changed(data: bytes, rng: random.Random) -> bytes:
    """The file with some bytes changed, taken out, put in or doubled."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, to = sorted(rng.randrange(len(out)) for _ in range(2))
        match rng.randrange(5):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                out[at] = rng.choice(b'{}[]",:\\\t\n#-0eE.')
            case 2:
                del out[at : min(to, at + 20)]
            case 3:
                out[at:at] = rng.choice((b'"', b"\t", b"\n", b"9" * 40, b"null", b"[[", b"}", b"\\ud800", b"\r", b"#"))
            case _:
                out[at:at] = out[at : min(to, at + 80)]
    return bytes(out)


def check_changed(data: bytes, path: Path) -> None:
    """It is refused with its path, or a save of what was read keeps all that was read and all that was not."""
    path.write_bytes(data)
    try:
        loaded = read_cookie_file(path, now=0)
    except CookieFileError as e:
        assert e.path == str(path)  # noqa: PT017 - either outcome is right
        assert path.read_bytes() == data
        return
    odd = [entry.raw for entry in loaded.document.entries if entry.cookie is None]
    save_cookie_file(loaded, [*loaded.cookies, a_cookie("new")], now=0)
    after = read_cookie_file(path, now=0)
    assert {c.key: c for c in after.cookies} == {c.key: c for c in (*loaded.cookies, a_cookie("new"))}
    assert [entry.raw for entry in after.document.entries if entry.cookie is None] == odd
    assert {k: v for k, v in after.document.head.items() if k != "cookies"} == {
        k: v for k, v in loaded.document.head.items() if k != "cookies"
    }


def fuzzed(form: CookieFormat, seeds: range, folder: Path) -> list[str]:
    path, cells = folder / ("c.txt" if form is CookieFormat.NETSCAPE else "c.json"), []
    for seed in seeds:
        cell = f"{form}: bytes changed, seed {seed}"
        data = changed(sample(form, NAMES).encode(), random.Random(cell))
        with in_cell(cell):
            check_changed(data, path)
        cells.append(cell)
    return cells


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_with_changed_bytes_is_refused_or_kept(form, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(os, "fsync", os.fstat)
    counted(DAMAGED, fuzzed(form, range(100), tmp_path))


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_with_changed_bytes_is_refused_or_kept_many_times(form, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(os, "fsync", os.fstat)
    counted(DAMAGED, fuzzed(form, range(100, 5_000), tmp_path))


def _is_no_file(path: Path, kind: str) -> Any:
    """Put what is no file at `path`; returns what must be kept alive."""
    match kind:
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "a link to a pipe":
            os.mkfifo(path.with_name("pipe"))
            path.symlink_to("pipe")
        case "a link to a folder":
            path.symlink_to(path.parent)
        case "a link to itself":
            path.symlink_to(path.name)
        case "a device":
            path.symlink_to("/dev/null")
        case "an endless device":
            path.symlink_to("/dev/zero")
        case _:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            return listener
    return contextlib.nullcontext()


NO_FILES: Final = (
    *("a folder", "a pipe", "a link to a pipe", "a link to a folder", "a link to itself", "a device"),
    *("an endless device", "a socket"),
)


@pytest.mark.parametrize("name", ["c.json", "c.txt"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(kind, name, run_folder, client, adapter, counted):
    with tempfile.TemporaryDirectory(dir=run_folder) as folder:  # the path of a socket is bounded
        path = Path(folder, name)
        with _is_no_file(path, kind):
            was = sorted(os.listdir(folder))
            with pytest.raises(CookieFileError) as caught:
                read_cookie_file(path, now=NOW)
            assert (caught.value.path, caught.value.line) == (str(path), None)
            with pytest.raises(CookieFileError):
                client.Session(cookie_file=path).start()
            assert adapter.opened == []
            assert sorted(os.listdir(folder)) == was
    counted(DAMAGED, [f"{name} is {kind}"])


@pytest.mark.parametrize("depth", [200, 300, 500, 800, 2_000])
@pytest.mark.parametrize("place", ["an item", "the file"])
def test_what_is_nested_deep_is_refused_or_kept(depth, place, tmp_path, counted, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path, deep = tmp_path / "c.json", "[" * depth + "]" * depth
    one = json.dumps(item(CookieFormat.STORAGE_STATE, "a"))
    inside = one[:-1] + f', "extra": {deep}}}'
    path.write_text(f'{{"cookies": [{inside}]}}' if place == "an item" else f'{{"cookies": [{one}], "extra": {deep}}}')
    before = path.read_bytes()
    try:
        loaded = read_cookie_file(path, now=NOW)
    except CookieFileError as e:
        assert "nested" in e.reason  # noqa: PT017 - either outcome is right
        assert path.read_bytes() == before
    else:
        save_cookie_file(loaded, [*loaded.cookies, a_cookie("new")], now=NOW)
        assert {c.name for c in read_cookie_file(path, now=NOW).cookies} == {"a", "new"}
        assert deep in path.read_text().replace("\n", "").replace(" ", "")
    counted(DAMAGED, [f"{place} is nested {depth} deep"])
