"""Reading and rewriting CDP messages as bytes.

Rule: what the browser sends is not decoded on its way to a client. Chromium writes ``id`` or ``method`` as the first
member of a message and ``sessionId`` as the last, so both are cut out and replaced where they stand; a message of any
other shape is decoded in full instead. Both cuts are safe: the first is anchored at the start of the text, and an
unescaped ``,"sessionId":"..."}`` at the very end can only be the last member of the outermost object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

_HEAD: Final = re.compile(rb'\{"(?:id":([0-9]{1,10})|method":"([A-Za-z0-9_.]+)")[,}]')
_TAIL: Final = b',"sessionId":"'
_TAIL_SIZE: Final = len(_TAIL) + 32 + 2
"""A session id is 32 hexadecimal digits (an unguessable token)."""

Message = dict[str, Any]


def head(raw: bytes) -> tuple[int | None, bytes | None, int]:
    """The id or the method that `raw` begins with, and the place where the id ends.

    Both are None when `raw` has another shape.
    """
    found = _HEAD.match(raw)
    if found is None:
        return None, None, 0
    number = found[1]
    if number is not None:
        return int(number), None, found.end(1)
    return None, found[2], 0


def tail_session(raw: bytes) -> str | None:
    """The ``sessionId`` that `raw` ends with, or None."""
    if raw[-_TAIL_SIZE:-34] == _TAIL and raw[-2:] == b'"}':
        return raw[-34:-2].decode("ascii", "replace")
    return None


def without_tail(raw: bytes) -> bytes:
    """`raw` without the ``sessionId`` that `tail_session` found."""
    return raw[:-_TAIL_SIZE] + b"}"


def with_id(raw: bytes, number: int, id_end: int, *, cut_session: bool) -> bytes:
    """`raw`, which begins with an id that ends at `id_end`, with `number` for its id."""
    start = b'{"id":%d' % number
    if cut_session:
        return b"".join((start, memoryview(raw)[id_end:-_TAIL_SIZE], b"}"))
    return b"".join((start, memoryview(raw)[id_end:]))


def loads(raw: bytes) -> Any:  # noqa: ANN401 - JSON from outside; the callers check what they use
    """The JSON value in `raw`. Accepts what orjson does not: lone surrogates, and 255 or more levels of nesting.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            return json.loads(raw, parse_constant=_no_constant)
        except RecursionError as e:
            msg = "JSON is nested too deep"
            raise ValueError(msg) from e


def _no_constant(name: str) -> None:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def dumps(message: Mapping[str, object]) -> bytes:
    """`message` as compact JSON.

    Raises:
        ValueError: It is nested too deep.
    """
    try:
        return orjson.dumps(message)
    except TypeError:  # a lone surrogate, or deeper than orjson writes
        try:
            return json.dumps(message, separators=(",", ":")).encode()
        except RecursionError as e:
            msg = "JSON is nested too deep"
            raise ValueError(msg) from e
