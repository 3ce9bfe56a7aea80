"""Fixtures for the operations on lists."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

REFERENCE = """
    CREATE TABLE members (
        user_id text COLLATE "C",
        list_id uuid,
        FOREIGN KEY (user_id, list_id) REFERENCES lists (user_id, id)
    )
"""


@pytest.fixture
async def members(database: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """The database of this worker with a table whose rows refer to lists."""
    await database.execute(REFERENCE)
    yield database
    await database.execute("DROP TABLE members")
