"""JSON in its one canonical form, RFC 8785 (JSON Canonicalization Scheme): what hashes are taken of.

Rule: the same value gives the same bytes, in every process, version and language. orjson writes texts as the RFC asks;
what it does otherwise, the order of keys and the form of numbers, is put right before it is given the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import orjson

__all__ = ["EXACT", "Plain", "canonical", "canonical_time", "prepared"]

Plain = str | int | float | bool | None | Sequence["Plain"] | Mapping[str, "Plain"]
"""What has a canonical form."""

EXACT: Final = 2**53
"""Above it a number is not exact in every language: RFC 8785, section 3.2.2.3."""


def canonical(value: Plain) -> bytes:
    """`value` as canonical JSON, in UTF-8.

    Raises:
        TypeError: A text holds half a surrogate pair, or a value is of no JSON type.
        ValueError: A number is not finite, or not exact in every language (2**53 or more).
    """
    try:
        return orjson.dumps(prepared(value))
    except RecursionError as e:
        msg = "it is nested too deeply"
        raise ValueError(msg) from e


def canonical_time(at: datetime) -> str:
    """An aware time in the one form that it has in records and entries: UTC, to the microsecond."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def prepared(value: Plain) -> object:
    """`value` in a form that orjson writes as canonical JSON. Raises as `canonical`, for numbers."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if not -EXACT < value < EXACT:
            msg = f"{value} is too large for canonical JSON, which has whole numbers below 2**53"
            raise ValueError(msg)
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        keys = value if all(map(str.isascii, value)) else None
        # By UTF-16 code units, which is another order than that of characters where one lies beyond U+FFFF.
        ordered = sorted(value) if keys is not None else sorted(value, key=_utf16)
        return {key: prepared(value[key]) for key in ordered}
    return [prepared(item) for item in value]


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _number(value: float) -> object:
    """As ECMAScript writes it: the shortest digits, no exponent from 1e-6 up to 1e21, no point in a whole number."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is not equal to itself
        msg = f"{value} has no JSON form"
        raise ValueError(msg)
    if value.is_integer() and abs(value) < EXACT:
        return int(value)
    size = abs(value)
    if 1e-3 <= size < 1e15:  # orjson writes it without an exponent, as ECMAScript does
        return value
    digits = repr(value)
    if 1e-6 <= size < 1e21:
        return orjson.Fragment(format(Decimal(digits), "f").removesuffix(".0"))
    mantissa, _, exponent = digits.partition("e")
    power = int(exponent)
    return orjson.Fragment(f"{mantissa.removesuffix('.0')}e{'+' if power > 0 else '-'}{abs(power)}")
