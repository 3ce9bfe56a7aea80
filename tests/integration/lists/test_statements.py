"""The SQL that the operations on lists send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.integration.lists.support import ALICE, create
from tests.support.client import ContractClient
from tests.support.distributed import find_errors
from tests.support.query_trees import FunctionCatalog, analyze

ID = UUID(int=1)
PATH = f"{ALICE}/{ID}"
FILL = """
    INSERT INTO lists (user_id, id, name, created_at, updated_at, etag)
    SELECT 'user' || number % 20, gen_random_uuid(), 'A', created_at, created_at, gen_random_uuid()
    FROM generate_series(1, 20000) AS number,
        LATERAL (SELECT now() - number * interval '1 second' AS created_at) AS dates
"""


@pytest.fixture
def statements() -> Iterator[list[tuple[str, Any]]]:
    """The SQL and the parameters of each further statement of a session."""
    sent: list[tuple[str, Any]] = []

    def record(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> None:
        sent.append((sql, parameters))

    event.listen(Engine, "before_cursor_execute", record)
    yield sent
    event.remove(Engine, "before_cursor_execute", record)


@pytest.fixture
async def planner(database: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database with 20,000 lists of 20 users, whose statistics are current."""
    await database.execute(FILL)
    await database.execute("ANALYZE lists")
    return database


async def send_all(client: ContractClient, database: asyncpg.Connection) -> None:
    """Send a request of every kind."""
    (neighbor, _) = await create(client, "A", "B")
    await client.post(ALICE, json={"name": "C"}, headers={"Idempotency-Key": "k-1"})
    await client.put(PATH, json={"name": "D"})
    await client.put(PATH, json={"name": "E"}, headers={"If-Match": "*"})
    await client.patch(PATH, json={"name": "F"})
    await client.get(PATH)
    cursor = (await client.get(ALICE, params={"limit": 1})).json()["next_cursor"]
    await client.get(ALICE, params={"cursor": cursor})
    await database.execute("UPDATE lists SET position = 'V' || name WHERE user_id = 'alice'")
    for after_id in (None, neighbor["id"], None):
        await client.post(f"{PATH}/move", json={"after_id": after_id})
    await database.execute("UPDATE lists SET position = 'V' WHERE user_id = 'alice'")
    await client.post(f"{PATH}/move", json={"after_id": neighbor["id"]})
    await client.delete(PATH)


@pytest.mark.requirement("NFR-104")
async def test_distributed_database_accepts_every_statement(
    client: ContractClient, database: asyncpg.Connection, statements: list[tuple[str, Any]]
) -> None:
    await send_all(client, database)
    catalog = await FunctionCatalog.read(database)
    distinct = {sql for sql, _ in statements}
    assert any(isinstance(values, list) for _, values in statements)  # of the respaced rows
    assert len(distinct) > 10
    for sql in sorted(distinct):
        assert find_errors(await analyze(database, sql), catalog) == set(), sql


@pytest.mark.requirement("FR-107")
async def test_pages_and_moves_read_rows_in_the_order_of_an_index(
    client: ContractClient, planner: asyncpg.Connection, statements: list[tuple[str, Any]]
) -> None:
    path = ALICE.replace("alice", "user7")
    page = (await client.get(path, params={"limit": 3})).json()
    first, _, third = (item["id"] for item in page["items"])
    await client.get(path, params={"limit": 3, "cursor": page["next_cursor"]})
    await client.post(f"{path}/{third}/move", json={"after_id": first})
    ordered = [(sql, values) for sql, values in statements if "LIMIT" in sql]
    assert len(ordered) == 3
    for sql, values in ordered:
        plan = "\n".join(row[0] for row in await planner.fetch(f"EXPLAIN {sql}", *values))
        assert "Index Scan using ix_lists_user_id_position_id" in plan
        assert "Sort" not in plan
        assert "Filter: (id <>" in plan or "Filter" not in plan
