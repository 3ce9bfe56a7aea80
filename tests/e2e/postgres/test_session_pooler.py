"""Migrations through a PgBouncer in session mode, which rejects startup parameters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from app.asgi import create_app
from app.db.migrations import has_compatible_schema, upgrade
from app.settings import Settings
from tests.support.client import ContractClient, tasks_of
from tests.support.lifespan import running
from tools.postgres import pgbouncer, postgres

pytestmark = pytest.mark.requirement("NFR-018", "FR-039")


@pytest.fixture
def settings() -> Iterator[Settings]:
    """A service on a transaction pooler that migrates through a session pooler."""
    with (
        postgres.running(18) as server,
        pgbouncer.running(server) as pooler,
        pgbouncer.running(server, "session") as session_pooler,
    ):
        yield Settings.from_env(
            {
                "DATABASE_URL": pooler.url(),
                "DATABASE_TRANSACTION_POOLING": "true",
                "DATABASE_DIRECT_URL": session_pooler.url(),
            }
        )


def test_migration_through_a_session_pooler(settings: Settings) -> None:
    upgrade(settings.database_config())
    upgrade(settings.database_config())
    assert has_compatible_schema(settings.database_config())

    async def use() -> list[int]:
        async with running(create_app(settings)) as app, ContractClient(app) as client:
            created = await client.post(tasks_of("alice"), json={"title": "Buy milk"})
            return [created.status_code, (await client.get("/readyz")).status_code]

    assert asyncio.run(use()) == [201, 200]
