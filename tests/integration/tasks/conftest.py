"""Fixtures for concurrent requests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import httpx
import msgspec
import pytest

from app.asgi import create_app
from app.settings import Settings
from tests.support.lifespan import running

WRITERS = 16


@pytest.fixture(scope="module")
async def concurrent_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    concurrent = msgspec.structs.replace(settings, database_pool_size=WRITERS)
    async with running(create_app(concurrent)) as app:
        # A plain client, because checking each response takes longer than the request itself.
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx declares ASGI differently
        async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
            yield client


@pytest.fixture
async def writers(
    concurrent_client: httpx.AsyncClient,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
) -> httpx.AsyncClient:
    return concurrent_client
