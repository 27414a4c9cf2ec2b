"""Waiting for what comes by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 5.0) -> T:
    """What `condition()` gives once it is true, looking again and again for some seconds."""
    end = time.monotonic() + seconds
    while not (got := condition()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return got
