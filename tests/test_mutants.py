"""The bugs that are planted to see the fault campaign catch them can be planted in the code as it is."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, ROOT, WEAKENINGS


@pytest.mark.parametrize("mutant", MUTANTS + WEAKENINGS, ids=lambda mutant: mutant.invariant)
def test_a_bug_can_be_planted_for_each_invariant(mutant):
    path = ROOT / mutant.path
    assert mutant.planted(path.read_text()) != path.read_text()
