"""A page is limited in bytes and in number of tasks (contract, section "Limits")."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db.pool import PooledConnection
from tests.support.client import ContractClient, tasks_of
from tests.support.recorded_statements import record_statements

pytestmark = pytest.mark.requirement("FR-015")

ALICE = tasks_of("alice")
PAGE_BYTES = 1_048_576
LONGEST = 16_384
FOUR_BYTES = "\U0001f95b"
SIX_BYTES = "\x01"  # six bytes as JSON, one byte in the database
TASK_BYTES = 6 * (LONGEST + 500) + 1_000  # the maximum size of a task as JSON
FILL = """
    INSERT INTO tasks (user_id, id, title, description, completed_at, created_at, updated_at, etag)
    SELECT 'alice', lpad(to_hex(n), 32, '0')::uuid, $1,
           CASE WHEN n % $4 = 0 THEN $2 ELSE 'short' END, NULL,
           timestamptz '2026-01-01' + n * interval '1 second',
           timestamptz '2026-02-01' - n * interval '1 second', gen_random_uuid()
    FROM generate_series(1, $3) n
"""


async def fill(
    database: asyncpg.Connection, description: str, number: int, every: int = 1, title: str = "milk"
) -> list[int]:
    await database.execute(FILL, title, description, number, every)
    return list(range(1, number + 1))


async def paginate(client: ContractClient, **params: Any) -> tuple[list[int], list[int]]:
    """Paginate, and check that no page could have had one more task.

    Return the numbers of all tasks, and the number of tasks on each page.
    """
    numbers, sizes = [], []
    while True:
        response = await client.get(ALICE, params=params)
        assert response.status_code == 200
        assert len(response.content) <= PAGE_BYTES
        page = response.json()
        numbers += [UUID(task["id"]).int for task in page["items"]]
        sizes.append(len(page["items"]))
        if page["next_cursor"] is None:
            return numbers, sizes
        assert sizes[-1] == params["limit"] or len(response.content) > PAGE_BYTES - TASK_BYTES
        params["cursor"] = page["next_cursor"]


@pytest.mark.parametrize("character", [FOUR_BYTES, SIX_BYTES, "\\", "a"], ids=ascii)
@pytest.mark.parametrize("every", [1, 3])
async def test_page_size_in_bytes_is_limited(
    client: ContractClient, database: asyncpg.Connection, character: str, every: int
) -> None:
    tasks = await fill(database, character * LONGEST, 60, every)
    numbers, sizes = await paginate(client, limit=200, order="asc")
    assert numbers == tasks
    assert min(sizes) > 0


async def test_titles_count_towards_the_page_size(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    tasks = await fill(database, SIX_BYTES * 500, 200, title="a" + SIX_BYTES * 499)
    assert (await paginate(client, limit=200, order="asc"))[0] == tasks


@pytest.mark.parametrize(
    "params",
    [
        {"order": "asc"},
        {"order": "desc"},
        {"sort": "updated_at", "order": "asc"},
        {"sort": "updated_at", "completed": "false"},
        {"q": "milk"},
        {"q": "milk", "sort": "updated_at", "created_before": "2999-01-01T00:00:00Z"},
    ],
    ids=str,
)
async def test_each_task_is_on_one_page_in_every_order(
    client: ContractClient, database: asyncpg.Connection, params: dict[str, str]
) -> None:
    tasks = await fill(database, FOUR_BYTES * LONGEST, 40, 2)
    is_reversed = params.get("order", "desc") == "desc"
    if params.get("sort") == "updated_at":
        is_reversed = not is_reversed
    numbers, sizes = await paginate(client, limit=35, **params)
    assert numbers == sorted(tasks, reverse=is_reversed)
    assert sizes[0] < 35


@pytest.mark.parametrize("limit", [1, 14, 15, 20])
async def test_page_below_the_byte_limit_is_full(
    client: ContractClient, database: asyncpg.Connection, limit: int
) -> None:
    await fill(database, FOUR_BYTES * (LONGEST * 14 // 20), 25)
    assert (await paginate(client, limit=limit))[1][0] == limit


async def test_page_that_fits_the_remaining_tasks_is_the_last(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await fill(database, FOUR_BYTES * LONGEST, 15)
    assert (await paginate(client, limit=200))[1] == [15]


async def test_page_reads_only_the_rows_it_needs(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database, FOUR_BYTES * LONGEST, 201, 2)
    read: list[int] = []
    fetch = PooledConnection.fetch

    async def count_statements(*args: Any, **options: Any) -> Any:
        rows = await fetch(*args, **options)
        read.append(sum(len(str(value).encode()) for row in rows for value in row))
        return rows

    monkeypatch.setattr(PooledConnection, "fetch", count_statements)
    await client.get(ALICE, params={"limit": 200})
    assert max(read) < 1.2 * PAGE_BYTES


@pytest.mark.requirement("NFR-004")
@pytest.mark.parametrize(("characters", "statements"), [(800, 1), (LONGEST, 2)])
async def test_page_is_one_statement_unless_texts_are_long(
    client: ContractClient,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    characters: int,
    statements: int,
) -> None:
    await fill(database, FOUR_BYTES * characters, 200)
    sent = record_statements(monkeypatch)
    await client.get(ALICE, params={"limit": 200})
    assert len(sent) == statements
