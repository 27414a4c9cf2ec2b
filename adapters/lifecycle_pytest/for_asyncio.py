"""The async fixtures as pytest-asyncio takes them; `lifecycle_pytest` has the same as anyio takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lifecycle import AsyncClient, AsyncSession
    from lifecycle.ports import Adapter


@pytest_asyncio.fixture
async def _lifecycle_client_for_asyncio(
    lifecycle_adapter: str | Adapter, lifecycle_client_options: dict[str, Any]
) -> AsyncIterator[AsyncClient]:
    from lifecycle_pytest.run import async_client  # noqa: PLC0415 - paid for when it is used

    async with async_client(lifecycle_adapter, lifecycle_client_options) as client:
        yield client


@pytest_asyncio.fixture
async def _lifecycle_session_for_asyncio(
    _lifecycle_client_for_asyncio: AsyncClient, lifecycle_session_options: dict[str, Any]
) -> AsyncIterator[AsyncSession]:
    from lifecycle_pytest.run import async_session  # noqa: PLC0415 - paid for when it is used

    async with async_session(_lifecycle_client_for_asyncio, lifecycle_session_options) as session:
        yield session
