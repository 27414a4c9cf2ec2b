"""Get or create: one session for an idempotency key, whoever asks for it first.

Rule: who holds the key in the store opens the session, everybody else attaches to it once it is active. A claim is void
when its session is over, its start failed or its owner is gone, and the next to ask takes it over. All of it runs on
the supervisor's loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Final

from lifecycle.errors import ConfigError, StartFailed, StoreError
from lifecycle.recovery import how_it_stands, is_void
from lifecycle.states import InFlight, State

if TYPE_CHECKING:
    from lifecycle.attachment import Attachment
    from lifecycle.core import ClientCore
    from lifecycle.ports import Claim

__all__ = ["Holding", "get_or_create"]

LOOK_EVERY: Final = 0.02
"""Seconds between looks at a session that another process is starting."""


class Holding:
    """An attachment that holds its key."""

    def __init__(self, core: ClientCore, att: Attachment, claim: Claim) -> None:
        self._core = core
        self._att = att
        self._claim = claim

    async def settle(self) -> None:
        """After the start: say which session it is, or give the key up when there is none."""
        att, claim = self._att, self._claim
        starting = att.state is State.NOT_STARTED and att.in_flight is InFlight.START
        if (att.state is State.ACTIVE or starting) and claim.session_id == att.session_id:
            return
        try:
            if att.state is State.ACTIVE:
                known = dataclasses.replace(claim, session_id=att.session_id)
                await self._core.read(lambda s: s.claim(known))
            elif not starting:
                await self._core.read(lambda s: s.unclaim(claim))
        except StoreError as e:  # the start is over, and what it led to counts
            self._core.warn(att, "lifecycle.key_not_settled", error=str(e))


async def get_or_create(core: ClientCore, att: Attachment) -> Holding | None:
    """Settle whether `att`, which has a key, opens a session or attaches to one.

    Returns:
        The key, where `att` holds it: to be settled after its start.

    Raises:
        StartFailed: Somebody else began to open the session and has not come to an end with it.
        StoreError: The key can't be claimed.
    """
    await core.journal.present()
    claim = core.supervisor.owner.claim(
        core.adapter.name,
        att.options.idempotency_key or "",
        attachment_id=att.attachment_id,
        session_id=att.session_id,
        writer=core.journal.writer,
    )
    loop = asyncio.get_running_loop()
    until = loop.time() + att.options.start_timeout_minutes * 60
    void: str | None = None
    while att.state is State.NOT_STARTED and att.in_flight is InFlight.NOTHING and not att.guest:
        held = await _claim(core, claim, void)
        if held is None:
            att.made = True
            return Holding(core, att, claim)
        found, is_void = await _stands(core, att, held)
        if found is not None:
            att.options = dataclasses.replace(att.options, session_id=found)
            att.session_id = found
            att.made = False
        elif is_void:
            void = held.attachment_id
        elif loop.time() > until:
            msg = (
                f"the session of idempotency_key={claim.key!r} is still being started by process {held.owner_pid} on "
                f"host {held.host}; try again when it is active"
            )
            raise StartFailed(msg, step="probe_backend", adapter=core.adapter.name)
        else:
            await asyncio.sleep(LOOK_EVERY)
    return None


async def _claim(core: ClientCore, claim: Claim, replacing: str | None) -> Claim | None:
    return await core.read(lambda s: s.claim(claim, replacing=replacing))


async def _stands(core: ClientCore, att: Attachment, held: Claim) -> tuple[str | None, bool]:
    """The session of a claim where it can be attached to; else None, and whether the claim is void.

    Raises:
        StartFailed: It is active, but can't be attached to.
    """
    await core.journal.flushed()
    row = await core.row(held.session_id) if held.session_id is not None else None
    if row is None or row.state is State.NOT_STARTED:
        return None, await core.read(lambda s: is_void(s, held))
    if "attach" in core.adapter.capabilities:
        try:
            end = await core.adapter.probe(row.session_id, core.host_of(att))
        except ConfigError:  # the service does not know it any more
            return None, True
    else:
        end = await core.read(lambda s: how_it_stands(s, row))
    if end is None:
        return row.session_id, False
    # It has ended; or its owner has lost it, and takes it up again where it is quicker than this.
    served = "attach" in core.adapter.capabilities
    return None, served or row.state.terminal or await core.read(lambda s: is_void(s, held))
