"""Helpers for tests of code that uses the lifecycle, and for tests of adapters and stores that you write yourself.

`ManualClock` is time that stands still until a test moves it. What needs pytest is imported by its own name:
`lifecycle.testing.contract` is the contract that every adapter is held to, `lifecycle.testing.store_suite` that of
every store, `lifecycle.testing.ways` runs one test on both clients.
"""

from __future__ import annotations

from lifecycle.testing.clock import ManualClock

__all__ = ["ManualClock"]
