"""The transition log: its records, and what shows an auditor that they are whole and unchanged.

Rule: nothing here writes to a store by itself. The journal writes records; what is here makes their bytes, and reads
and checks them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from lifecycle.audit.record import (
    FIRST,
    SCHEMA_VERSION,
    GuardResult,
    Record,
    RecordKind,
    StepOutcome,
    StepResult,
)

if TYPE_CHECKING:
    from lifecycle.audit.notes import Checkpoints, Key, Note, read_notes
    from lifecycle.audit.paths import Replayed, replay
    from lifecycle.audit.proving import Proven, prove, verify_proof
    from lifecycle.audit.verifying import Problem, Verification, verify

__all__ = [
    "FIRST",
    "SCHEMA_VERSION",
    "Checkpoints",
    "GuardResult",
    "Key",
    "Note",
    "Problem",
    "Proven",
    "Record",
    "RecordKind",
    "Replayed",
    "StepOutcome",
    "StepResult",
    "Verification",
    "prove",
    "read_notes",
    "replay",
    "verify",
    "verify_proof",
]

_LATE: Final = {
    "notes": ("Checkpoints", "Key", "Note", "read_notes"),
    "paths": ("Replayed", "replay"),
    "proving": ("Proven", "prove", "verify_proof"),
    "verifying": ("Problem", "Verification", "verify"),
}
"""What most programs never use, by its module, which is loaded when it is asked for."""


def __getattr__(name: str) -> object:
    for module, names in _LATE.items():
        if name in names:
            return getattr(importlib.import_module(f"lifecycle.audit.{module}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
