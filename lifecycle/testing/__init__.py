"""Helpers for tests of code that uses the lifecycle, and for tests of adapters and stores that you write yourself.

`ManualClock` is time that stands still until a test moves it. `lifecycle.testing.store_suite` holds the contract that
every store is held to; it needs pytest, so it is imported by its own name.
"""

from __future__ import annotations

from lifecycle.testing.clock import ManualClock

__all__ = ["ManualClock"]
