"""The transition log: its records, and what shows an auditor that they are whole and unchanged.

Rule: nothing here writes to a store by itself. The journal writes records; what is here makes their bytes, and reads
and checks them.
"""

from lifecycle.audit.record import (
    SCHEMA_VERSION,
    GuardResult,
    Record,
    RecordKind,
    StepOutcome,
    StepResult,
)

__all__ = [
    "SCHEMA_VERSION",
    "GuardResult",
    "Record",
    "RecordKind",
    "StepOutcome",
    "StepResult",
]
