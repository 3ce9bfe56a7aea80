"""The command `new-epoch`, and changes of version 1.1.0."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from app import cli
from app.db.migrations import MigrationError, renew_epochs
from app.settings import Settings
from tests.integration.changes.test_list_changes import ALICE, CHANGES, LISTS, Copy, create, stored
from tests.support.client import ContractClient, assert_problem
from tests.support.database import database_config_for
from tests.support.process import scratch_database

# What a process of version 1.1.0 writes: it does not know the column `revision`.
OLD_CHANGES = (
    "UPDATE tasks SET title = 'old', updated_at = now(), etag = gen_random_uuid() WHERE id = $1",
    "DELETE FROM tasks WHERE id = $1",
    (
        "INSERT INTO tasks (user_id, id, title, created_at, updated_at, etag) "
        "VALUES ('alice', $1, 'old', now(), now(), gen_random_uuid())"
    ),
    (
        "INSERT INTO lists (user_id, id, name, created_at, updated_at, etag) "
        "VALUES ('alice', $1, 'old', now(), now(), gen_random_uuid())"
    ),
)


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    """A database without a schema."""
    with scratch_database(server_url) as scratch:
        yield scratch


@pytest.mark.requirement("FR-238", "FR-239", "FR-240")
async def test_new_epoch_returns_the_changes_of_the_previous_version(
    client: ContractClient,
    database: asyncpg.Connection,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = Copy(client)
    changed, deleted, *_ = [await create(client) for _ in range(3)]
    await copy.walk()
    new = "00000000-0000-0000-0000-000000000001"
    for sql, id_ in zip(OLD_CHANGES, (changed, deleted, new, new), strict=True):
        await database.execute(sql, id_)
    assert await copy.walk() == []
    await asyncio.to_thread(cli.new_epoch, settings)
    assert "The tokens of 1 users have expired: " in capsys.readouterr().out
    response = await client.get(CHANGES, params={"since": copy.since})
    assert_problem(response, 410, "token-expired")
    copy.since, copy.items = None, {}
    await copy.walk()
    assert copy.items == await stored(client)
    assert {("task", new), ("list", new)} < copy.items.keys()
    # The rows can be changed, and then have a revision.
    await client.patch(f"{LISTS}/{new}", json={"name": "new"})
    await client.patch(f"{ALICE}/{new}", json={"title": "new"})
    assert await copy.walk() == [("list", new, False), ("task", new, False)]


@pytest.mark.requirement("FR-205")
def test_new_epoch_needs_the_schema(empty_url: str) -> None:
    with pytest.raises(MigrationError, match="UndefinedTableError"):
        renew_epochs(database_config_for(empty_url))
