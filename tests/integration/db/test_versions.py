"""The suite runs on the PostgreSQL version in TEST_POSTGRES."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import POSTGRES
from tests.support.database import DATABASE_VARIABLES


@pytest.mark.requirement("NFR-006")
async def test_suite_runs_on_the_requested_version(database: asyncpg.Connection) -> None:
    number = int(await database.fetchval("SHOW server_version_num"))
    # The server of DATABASE_URL may have any supported version.
    assert number // 10_000 in ({15, 16, 17, 18} if DATABASE_VARIABLES else {POSTGRES})


@pytest.mark.requirement("NFR-006")
async def test_no_extension_is_needed(database: asyncpg.Connection) -> None:
    names = [row["extname"] for row in await database.fetch("SELECT extname FROM pg_extension")]
    assert names == ["plpgsql"]
