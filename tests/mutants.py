"""Plants bugs into a copy of the library, and sees that they are caught.

One for each invariant of the fault campaign, by the campaign; and one for each thing that an auditor relies on, by the
tests of it.

    python tests/mutants.py [WORDS OF THE INVARIANT ...]

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
        "lifecycle/audit/record.py",
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
        "Spilled(self.store.url, self._me(), *_together(group))",
        "Spilled(self.store.url, self._me(), *_together(group[1:]))",
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


VERIFYING: Final = "lifecycle/audit/verifying.py"

WEAKENINGS: Final = (
    Mutant("bytes are held against their hash", VERIFYING, "                    or hash_ != hash_kept\n", ""),
    Mutant("a chain is followed", VERIFYING, "                    or prev != chain.last\n", ""),
    Mutant("no record is missing", VERIFYING, "                    or writer_seq != chain.peaks.size + 1\n", ""),
    Mutant(
        "columns say what records say", VERIFYING, "            if found != stored[1:10] or type", "            if type"
    ),
    Mutant(
        "a hash is not taken away",
        VERIFYING,
        "if hash_kept is None and type(schema) is int and schema == 1:",
        "if hash_kept is None:",
    ),
    Mutant(
        "nothing comes after the end of a writer",
        VERIFYING,
        "                    or (chain.closed is not None and chain.peaks.size >= chain.closed)\n",
        "",
    ),
    Mutant(
        "writers are registered",
        VERIFYING,
        '            wrong = f"its writer {stored.writer} is',
        '            chain.torn = f"its writer {stored.writer} is',
    ),
    Mutant(
        "heads are those of the records",
        VERIFYING,
        "            if not fits and not chain.torn:",
        "            if False:",
    ),
    Mutant(
        "the end of a writer is missed",
        VERIFYING,
        "    if size < last:",
        "    if size < 0:",
    ),
    Mutant(
        "records are a path",
        VERIFYING,
        "                    after, wrong = follow(step)",
        "                    after, _ = follow(step)",
    ),
    Mutant(
        "attachments have no gap",
        VERIFYING,
        "                if seq != before + 1:",
        "                if seq < before:",
    ),
    Mutant(
        "what was taken out is what a head says",
        VERIFYING,
        "        if (entry.size, entry.last, entry.peaks) not in",
        "        if (entry.size, entry.last, entry.peaks) in [] or entry in",
    ),
    Mutant(
        "what was taken out is told",
        VERIFYING,
        "        chain.met = sum(head.size <= entry.size for head in chain.heads)",
        "        chain.met = len(chain.heads)",
    ),
    Mutant(
        "a part begins where the one before it ends",
        VERIFYING,
        "            chain.last = heads[-1].last\n",
        "            chain.torn = True\n",
    ),
    Mutant("the register is a chain", VERIFYING, "    if entry.prev != last:", "    if False:"),
    Mutant("the register has no gap", VERIFYING, "    if entry.seq != seq or seq != peaks.size + 1:", "    if False:"),
    Mutant(
        "entries are held against their hash",
        VERIFYING,
        "        if hash_ != hash_kept:\n            wrong = ",
        "        if False:\n            wrong = ",
    ),
    Mutant(
        "checkpoints are held against the register",
        VERIFYING,
        "    elif note.root != roots[note.size]:",
        "    elif False:",
    ),
    Mutant("a cut register is missed", VERIFYING, "    elif note.size > found.entries:", "    elif False:"),
    Mutant(
        "older records are covered",
        VERIFYING,
        "older.in_hex() != chains.begun.peaks:",
        "older.in_hex() is chains.begun.peaks:",
    ),
    Mutant(
        "signatures are asked for",
        VERIFYING,
        "    unsigned = [key.name for key in keys if not key.signed(note)]",
        "    unsigned: list[str] = []",
    ),
    Mutant(
        "a signature is over the text",
        "lifecycle/audit/notes.py",
        "            public.verify(signature, message)",
        "            public.verify",
    ),
    Mutant(
        "base64 has one form",
        "lifecycle/audit/notes.py",
        "    if base64.b64encode(raw).decode() != text:",
        "    if False:",
    ),
    Mutant(
        "inclusion leads to the root",
        "lifecycle/audit/merkle.py",
        "    return last == 0 and found == root",
        "    return last == 0",
    ),
    Mutant(
        "inclusion has the right length",
        "lifecycle/audit/merkle.py",
        "    return last == 0 and found == root",
        "    return found == root",
    ),
    Mutant(
        "consistency has the old root",
        "lifecycle/audit/merkle.py",
        "last == 0 and old == first_root and",
        "last == 0 and",
    ),
    Mutant("consistency has the new root", "lifecycle/audit/merkle.py", " and new == second_root", ""),
    Mutant(
        "a proof leads to its checkpoint",
        "lifecycle/audit/proving.py",
        '                self._wrong(f"entry {entry.seq} is not in the register',
        '                str(f"entry {entry.seq} is not in the register',
    ),
    Mutant(
        "a proof leads to a head",
        "lifecycle/audit/proving.py",
        '                self._wrong(f"{what} is not among',
        '                str(f"{what} is not among',
    ),
    Mutant(
        "a proof is of one session",
        "lifecycle/audit/proving.py",
        '            self._wrong(f"{what} is about another',
        '            str(f"{what} is about another',
    ),
    Mutant(
        "a proof is as it was made",
        "lifecycle/audit/proving.py",
        "        if canonical(told) != raw:",
        "        if False:",
    ),
    Mutant(
        "a proof fits a checkpoint",
        "lifecycle/audit/proving.py",
        "        if checkpoints and not self.reach:",
        "        if False:",
    ),
    Mutant(
        "a proof continues what was kept",
        "lifecycle/audit/proving.py",
        '                self._wrong(f"its checkpoint does not continue',
        '                str(f"its checkpoint does not continue',
    ),
    Mutant(
        "a log is not added to when damaged",
        "lifecycle/journal.py",
        "            self._damage = e\n            self._on_trouble",
        "            self._on_trouble",
    ),
    Mutant(
        "the end is looked at first",
        "lifecycle/journal.py",
        "                check_end(self.store)",
        "                check_end",
    ),
    Mutant(
        "what others wrote is covered",
        "lifecycle/audit/register.py",
        "        head = heads.get(stored.writer)\n",
        "        if stored.writer != by:\n            continue\n        head = heads.get(stored.writer)\n",
    ),
)
"""What `audit verify` and `verify-proof` would miss."""

EVIDENCE: Final = (
    "test_merkle.py",
    "test_audit_verify.py",
    "test_audit_proof.py",
    "test_checkpoints.py",
    "test_retention.py",
)
"""The tests that catch these."""


def caught_by(mutant: Mutant) -> str | None:
    """What caught the mutant, None where it survived."""
    with tempfile.TemporaryDirectory() as folder:
        for package in ("lifecycle", "adapters/lifecycle_adapters"):
            shutil.copytree(ROOT / package, Path(folder, package), ignore=shutil.ignore_patterns("__pycache__"))
        target = Path(folder, mutant.path)
        target.write_text(mutant.planted(target.read_text()))
        path = os.pathsep.join([folder, f"{folder}/adapters", str(ROOT / "tests")])
        env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(ROOT / "tests" / "campaign.py")]
        if mutant in WEAKENINGS:
            tests = [str(ROOT / "tests" / name) for name in EVIDENCE]
            command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return None
        told = [line for line in done.stdout.strip().splitlines() if mutant not in WEAKENINGS or "FAILED" in line]
        if mutant in WEAKENINGS:
            return told[-1] if told else None  # it failed of something else
        return told[-1] if told else "a call never came back"


def main() -> int:
    """Try each mutant."""
    survived = 0
    mutants = [
        mutant for mutant in MUTANTS + WEAKENINGS if any(word in mutant.invariant for word in sys.argv[1:] or [""])
    ]
    for mutant in mutants:
        began = time.monotonic()
        caught = caught_by(mutant)
        survived += caught is None
        verdict = f"caught by {caught}" if caught is not None else "SURVIVED"
        print(f"{mutant.invariant:48} {mutant.path:28} {time.monotonic() - began:5.1f} s  {verdict}", flush=True)
    print(f"{len(mutants) - survived} of {len(mutants)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
