"""A Host that only remembers what an adapter told it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lifecycle.ports import BackendEnd, CdpEndpoint, CdpPipe, Clock
from lifecycle.testing import ManualClock


@dataclass(eq=False)
class FakeHost:
    clock: Clock = field(default_factory=ManualClock)
    ends: list[BackendEnd] = field(default_factory=list)
    uses: int = 0
    facts: dict[str, str] = field(default_factory=dict)

    def ended(self, end: BackendEnd) -> None:
        self.ends.append(end)

    def used(self) -> None:
        self.uses += 1

    def follow_lease(self, follow) -> None:
        """There is no lease."""

    async def journal(self, facts) -> None:
        self.facts.update(facts)

    async def run_blocking(self, func, *args):
        return func(*args)

    async def serve_cdp(self, connection: CdpPipe) -> CdpEndpoint:
        raise AssertionError(f"no gateway here for {connection}")
