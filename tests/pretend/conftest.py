"""What the tests of the shop share."""

from __future__ import annotations

import pytest
from shop import Shop


@pytest.fixture
def shop(lifecycle_client, tmp_path):
    return Shop(lifecycle_client, tmp_path)
