"""If a commit fails, the client gets an error and nothing changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.client import ContractClient, assert_problem, tasks_of

ALICE = tasks_of("alice")
OLD = f"{ALICE}/0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
NEW = f"{ALICE}/0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a45"
WHOLE = {"title": "Buy oat milk", "description": None, "completed": True}
ANY = {"If-Match": "*"}
CHANGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "create": ("POST", ALICE, {"json": {"title": "Buy oat milk"}}),
    "create by PUT": ("PUT", NEW, {"json": WHOLE}),
    "create only": ("PUT", NEW, {"json": WHOLE, "headers": {"If-None-Match": "*"}}),
    "replace": ("PUT", OLD, {"json": WHOLE}),
    "replace only": ("PUT", OLD, {"json": WHOLE, "headers": ANY}),
    "update": ("PATCH", OLD, {"json": {"completed": True}}),
    "update conditionally": ("PATCH", OLD, {"json": {"completed": True}, "headers": ANY}),
    "delete": ("DELETE", OLD, {}),
    "delete conditionally": ("DELETE", OLD, {"headers": ANY}),
}
SUCCESS = [201, 201, 201, 200, 200, 200, 200, 204, 204]
FAIL_AT_COMMIT = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      RAISE 'not today' USING ERRCODE = '{}';
    END $$;
    CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON tasks
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.fixture
async def fail_commits(
    client: ContractClient, database: asyncpg.Connection, request: pytest.FixtureRequest
) -> AsyncIterator[None]:
    """Insert one task, and make each commit that changes the table fail."""
    response = await client.put(OLD, json={**WHOLE, "completed": False})
    assert response.status_code == 201
    await database.execute(FAIL_AT_COMMIT.format(getattr(request, "param", "P0001")))
    yield
    await database.execute("DROP FUNCTION refuse CASCADE")


async def stored(database: asyncpg.Connection) -> list[asyncpg.Record]:
    return await database.fetch("SELECT * FROM tasks ORDER BY user_id, id")


@pytest.mark.requirement("FR-034")
@pytest.mark.usefixtures("fail_commits")
async def test_trigger_fires_at_commit(database: asyncpg.Connection) -> None:
    transaction = database.transaction()
    await transaction.start()
    await database.execute("UPDATE tasks SET title = 'x'")
    with pytest.raises(asyncpg.RaiseError, match="not today"):
        await transaction.commit()


@pytest.mark.requirement("FR-034")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("fail_commits")
async def test_failed_commit_is_500_and_changes_nothing(
    client: ContractClient, database: asyncpg.Connection, change: str
) -> None:
    before = await stored(database)
    method, path, options = CHANGES[change]
    response = await client.request(method, path, **options)
    problem = assert_problem(response, 500, "internal-error")
    assert problem["detail"] == "An unexpected error occurred; it was logged with this request ID."
    assert "etag" not in response.headers
    assert await stored(database) == before


@pytest.mark.requirement("FR-034", "FR-033")
@pytest.mark.parametrize("fail_commits", ["40001", "57014"], indirect=True)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("fail_commits")
async def test_transient_commit_failure_is_503_and_changes_nothing(
    client: ContractClient, database: asyncpg.Connection, change: str
) -> None:
    before = await stored(database)
    method, path, options = CHANGES[change]
    response = await client.request(method, path, **options)
    assert_problem(response, 503, "database-unavailable")
    assert response.headers["retry-after"] == "1"
    assert await stored(database) == before


@pytest.mark.requirement("FR-034")
@pytest.mark.parametrize(("change", "status"), list(zip(CHANGES, SUCCESS, strict=True)))
async def test_change_with_successful_commit_is_made(
    client: ContractClient, database: asyncpg.Connection, change: str, status: int
) -> None:
    await client.put(OLD, json={**WHOLE, "completed": False})
    before = await stored(database)
    method, path, options = CHANGES[change]
    response = await client.request(method, path, **options)
    assert response.status_code == status
    assert await stored(database) != before
