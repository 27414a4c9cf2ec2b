"""Plants a bug for each invariant of the fault campaign into a copy of the library, and sees the campaign catch it.

    python tests/mutants.py

Prints a table, and fails where one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """A bug: `old` becomes `new` in a file."""

    invariant: str
    path: str
    old: str
    new: str

    def planted(self, text: str) -> str:
        """The text of the file with the bug in it."""
        assert text.count(self.old) == 1, f"{self.path} holds {text.count(self.old)} times {self.old!r}"
        return text.replace(self.old, self.new)


MUTANTS: Final = (
    Mutant(
        "what was opened is released",
        "lifecycle/states.py",
        "        guards=(Guard.OPENING,),\n        steps=(Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND),",
        "        guards=(Guard.OPENING,),\n        steps=(Step.CLOSE_CONNECTIONS,),",
    ),
    Mutant(
        "a release that failed is tried again",
        "lifecycle/states.py",
        "policy=Policy.RETRY, budget=15.0, attempts=3",
        "policy=Policy.RETRY, budget=15.0, attempts=1",
    ),
    Mutant(
        "no browser without a durable intent",
        "lifecycle/flow.py",
        "            await asyncio.shield(intent)  # no durable intent, no browser\n",
        "",
    ),
    Mutant(
        "the ledger says released",
        "lifecycle/flow.py",
        "released=released and not att.acquiring,",
        "released=False,",
    ),
    Mutant(
        "one end for each attachment",
        "lifecycle/flow.py",
        "        if not edge.steps and att.opening is None:\n",
        "        att.seq += edge.event is Event.EXPIRE\n        if not edge.steps and att.opening is None:\n",
    ),
    Mutant(
        "one end for each attachment",
        "lifecycle/audit.py",
        "        return ends and not self.source.terminal",
        "        return ends and self.close_reason != CloseReason.CRASH",
    ),
    Mutant(
        "the log replays to the state",
        "lifecycle/flow.py",
        "steps=steps, source=edge.source, dest=dest_edge.dest,",
        "steps=steps, source=edge.source, dest=State.CLOSED,",
    ),
    Mutant(
        "no record is lost with the store",
        "lifecycle/journal.py",
        "Spilled(self.store.url, self._me(), records, list",
        "Spilled(self.store.url, self._me(), records[1:], list",
    ),
    Mutant(
        "no record is lost with the store",
        "lifecycle/journal.py",
        "            group = [*self._stuck, *batch]",
        "            group = batch",
    ),
    Mutant(
        "the cookie file is the old set or the new one",
        "lifecycle/steps.py",
        "save_cookie_file(loaded, current, now=now, refused=refused)",
        "save_cookie_file(loaded, [], now=now, refused=refused)",
    ),
    Mutant(
        "the cookie file is for its user alone",
        "lifecycle/cookies/atomic.py",
        "os.O_EXCL | _FLAGS, 0o600)",
        "os.O_EXCL | _FLAGS, 0o644)",
    ),
    Mutant(
        "a rescue file holds what could not be saved",
        "lifecycle/steps.py",
        "rescue_cookies(loaded, unsaved, now=now, refused=refused)",
        "rescue_cookies(loaded, [], now=now, refused=refused)",
    ),
    Mutant(
        "a rescue file holds what could not be saved",
        "lifecycle/cookies/jar.py",
        "    raise CookieSaveError(path=loaded.path, rescue_path=_rescue(loaded, ours, kept), reason=reason)",
        "    raise CookieSaveError(path=loaded.path, rescue_path=None, reason=reason)",
    ),
    Mutant(
        "the user's exception arrives",
        "lifecycle/callers.py",
        "            self.leave(struck)\n            raise\n        if error is not None:",
        "            self.leave(struck)\n            return None\n        if error is not None:",
    ),
    Mutant(
        "no cancellation is swallowed",
        "lifecycle/callers.py",
        "            self.leave(struck)\n            raise\n        if not self._answer.done():",
        "            self.leave(struck)\n            return None\n        if not self._answer.done():",
    ),
    Mutant(
        "every call comes back",
        "lifecycle/steps.py",
        "    timer = clock.call_at(clock.monotonic() + seconds, expire)",
        "    timer = clock.call_at(clock.monotonic() + seconds * 1e9, expire)",
    ),
    Mutant(
        "every call comes back",
        "lifecycle/flow.py",
        "                att.opening.cancel()  # where",
        "                pass  # where",
    ),
    Mutant(
        "no task is left",
        "lifecycle/core.py",
        "        self.deadlines.ended()\n",
        "        self.deadlines.ended()\n        self.fire(asyncio.sleep(3600), 'left')\n",
    ),
)


def caught_by(mutant: Mutant) -> str | None:
    """What caught the mutant, None where it survived."""
    with tempfile.TemporaryDirectory() as folder:
        for package in ("lifecycle", "adapters/lifecycle_adapters"):
            shutil.copytree(ROOT / package, Path(folder, package), ignore=shutil.ignore_patterns("__pycache__"))
        target = Path(folder, mutant.path)
        target.write_text(mutant.planted(target.read_text()))
        path = os.pathsep.join([folder, f"{folder}/adapters", str(ROOT / "tests")])
        env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "campaign.py")], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return None
        told = done.stdout.strip().splitlines()
        return told[-1] if told else "a call never came back"


def main() -> int:
    """Try each mutant."""
    survived = 0
    for mutant in MUTANTS:
        began = time.monotonic()
        caught = caught_by(mutant)
        survived += caught is None
        verdict = f"caught by {caught}" if caught is not None else "SURVIVED"
        print(f"{mutant.invariant:48} {mutant.path:28} {time.monotonic() - began:5.1f} s  {verdict}", flush=True)
    print(f"{len(MUTANTS) - survived} of {len(MUTANTS)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
