"""Helpers for tests of code that uses the lifecycle, and for tests of adapters and stores that you write yourself.

`ManualClock` is time that stands still until a test moves it; `assert_transitions` says what went another way than
expected; `TransitionCoverage` counts what of the table was taken; `active_sessions`, `watching` and `reset` see to all
clients of a process. None of them needs pytest. The plugin for pytest builds on them and loads itself: see the fixtures
``lifecycle_client`` and ``lifecycle_session``, and ``pytest --help``.

What needs pytest is imported by its own name: `lifecycle.testing.contract` is the contract that every adapter is held
to, `lifecycle.testing.store_suite` that of every store, `lifecycle.testing.ways` runs one test on both clients.
"""

from __future__ import annotations

from lifecycle.testing.clock import ManualClock
from lifecycle.testing.coverage import TransitionCoverage
from lifecycle.testing.process import ActiveSession, active_sessions, reset, watching
from lifecycle.testing.transitions import assert_transitions, transitions

__all__ = [
    "ActiveSession",
    "ManualClock",
    "TransitionCoverage",
    "active_sessions",
    "assert_transitions",
    "reset",
    "transitions",
    "watching",
]
