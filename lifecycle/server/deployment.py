"""Files for what runs a server and watches it: a manifest for Kubernetes, and alert rules for Prometheus.

Rule: what the code decides is filled in from there, such as how long an ending may take.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from types import MappingProxyType
from typing import Final

from lifecycle.core import REAP_GRACE
from lifecycle.engine import TELLING_BUDGET
from lifecycle.hooks import Hook
from lifecycle.journal import (
    CHECKPOINT_SECONDS,
    PUBLISH_SECONDS,
    SKEW_SECONDS,
    library_version,
)
from lifecycle.lease import RENEW_SECONDS
from lifecycle.server.run import GRACE
from lifecycle.states import EDGES, ENDING_BUDGET, STEPS, Event
from lifecycle.steps import GRACE as UNWINDING
from lifecycle.steps import RESCUE_BUDGET
from lifecycle.stores.sqlite import BUSY_TIMEOUT  # and as long for the answers of PostgreSQL

__all__ = ["FILES", "PORT", "alert_rules", "longest_drain", "manifest"]

PORT: Final = 8700
"""Where the server listens in its pod."""

_CHECKPOINTS_MISSED: Final = 3
"""Checkpoints in a row that are not handed out before somebody has to look."""

_RENEWALS_MISSED: Final = 3
"""Times in a row that a process does not say that it lives before somebody has to look."""

_STORE_WAITS: Final = 5
"""How often in a row the end may wait for a store that hangs: behind what it was asked before, for the intents, the
commits, once more for what it refused, and for the last checkpoint."""

_WHOLE: Final = 30
"""The time that a pod gets to end is a multiple of so many seconds."""


class _Template(string.Template):
    """With ``@{NAME}``: both files have a use for the dollar sign of their own."""

    delimiter = "@"


def _file(name: str, **values: object) -> str:
    text = resources.files("lifecycle.server").joinpath("files", name).read_text(encoding="utf-8")
    return _Template(text).substitute(values)


def longest_drain(hooks: Iterable[Hook] = ()) -> float:
    """Seconds at most from SIGTERM to the end of a server; all its sessions end side by side.

    Args:
        hooks: Those of the client that is served. `lifecycle serve` has none.
    """
    attempts = max(sum(STEPS[step].attempts for step in edge.steps) for edge in EDGES if edge.event is Event.STOP)
    ending = ENDING_BUDGET + attempts * UNWINDING + RESCUE_BUDGET
    ending += sum(hook.budget + UNWINDING for hook in hooks if hook.event is Event.STOP)
    closing = REAP_GRACE + TELLING_BUDGET + PUBLISH_SECONDS
    return ending + GRACE + closing + _STORE_WAITS * BUSY_TIMEOUT


def manifest() -> str:
    """A Secret, a Service and a StatefulSet for Kubernetes, as YAML. It says what is to do."""
    grace = _WHOLE * math.ceil((longest_drain() + 1) / _WHOLE)
    return _file("kubernetes.yaml", GRACE=grace, PORT=PORT, VERSION=library_version())


def alert_rules() -> str:
    """Rules on the metrics of a server and of checks of its log, as YAML, for ``rule_files`` of Prometheus."""
    return _file(
        "prometheus.yaml", LEASE=f"{_RENEWALS_MISSED * RENEW_SECONDS:g}",
        CHECKPOINT=f"{_CHECKPOINTS_MISSED * CHECKPOINT_SECONDS:g}", SKEW=f"{SKEW_SECONDS:g}",
    )  # fmt: skip


FILES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType({"kubernetes": manifest, "prometheus": alert_rules})
"""By the name that `lifecycle serve --print` has for it."""
