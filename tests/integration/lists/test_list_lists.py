"""listLists."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.db.positions import initial_position
from app.domain.lists.models import TaskListRecord
from app.http.pagination import CursorCodec, CursorPosition, PageQuery
from tests.integration.lists.support import ALICE, BOB, create, names
from tests.support.client import ContractClient, assert_problem

pytestmark = pytest.mark.requirement("FR-107")

INSERT = """
    INSERT INTO lists (user_id, id, name, position, created_at, updated_at, etag)
    VALUES ('alice', $1, $2, $3, $4, $4, gen_random_uuid())
"""
NOW = datetime(2026, 11, 23, 7, 50, tzinfo=UTC)
# The driver stores the first and the last datetime of Python as infinity.
FIRST = datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC)


async def test_unknown_user_has_no_lists(client: ContractClient) -> None:
    assert (await client.get(ALICE)).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("limit", [1, 2, 5, 200])
async def test_pages_have_every_list_once_in_the_order_of_positions(
    client: ContractClient, limit: int
) -> None:
    lists = await create(client, *"ABCDE")
    await create(client, "Other", path=BOB)
    await client.post(f"{ALICE}/{lists[4]['id']}/move", json={"after_id": lists[0]["id"]})
    await client.post(f"{ALICE}/{lists[2]['id']}/move", json={"after_id": None})
    assert await names(client, limit=limit) == ["C", "A", "E", "B", "D"]


async def test_items_are_complete(client: ContractClient) -> None:
    created = await create(client, "A", "B")
    assert (await client.get(ALICE)).json()["items"] == created


async def test_equal_positions_are_ordered_by_id(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for number in (3, 1, 2):
        await database.execute(INSERT, UUID(int=number), str(number), "V", NOW)
    assert await names(client, limit=1) == ["1", "2", "3"]


async def test_positions_are_ordered_by_code_point(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    positions = ["0", "00", "0A", "0a", "9", "A", "Z", "a", "aA", "aa", "z" * 64]
    for number, position in enumerate(positions):
        await database.execute(INSERT, UUID(int=99 - number), position, position, NOW)
    assert await names(client, limit=2) == positions


async def test_cursor_has_at_most_132_characters(client: ContractClient) -> None:
    await create(client, "A", "B")
    cursor = (await client.get(ALICE, params={"limit": 1})).json()["next_cursor"]
    assert len(cursor) == 132


async def test_cursor_of_another_list_is_rejected(client: ContractClient) -> None:
    await create(client, "A", "B")
    await create(client, "A", "B", path=BOB)
    cursor = (await client.get(ALICE, params={"limit": 1})).json()["next_cursor"]
    response = await client.get(BOB, params={"cursor": cursor})
    assert_problem(response, 400, "invalid-cursor", "cursor")
    assert (await client.get(ALICE, params={"cursor": cursor})).status_code == 200


@pytest.mark.parametrize(
    "cursor", ["A" * 56, "A" * 57, "A" * 132, "_" * 131], ids=lambda cursor: str(len(cursor))
)
async def test_cursor_that_was_not_issued_is_rejected(client: ContractClient, cursor: str) -> None:
    response = await client.get(ALICE, params={"cursor": cursor})
    assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.parametrize("length", [55, 133])
async def test_cursor_of_another_length_is_rejected(client: ContractClient, length: int) -> None:
    response = await client.get(ALICE, params={"cursor": "A" * length})
    assert_problem(response, 400, "invalid-parameter", "cursor")


async def test_forged_cursor_reads_a_page(client: ContractClient) -> None:
    # The default key is public. A position may contain any text that PostgreSQL can store.
    await create(client, "A")
    for text, expected in (("", ["A"]), ("\U0001f95b", [])):
        position = CursorPosition(text, UUID(int=0))
        cursor = CursorCodec(None).encode("alice/lists", PageQuery(), position)
        assert await names(client, cursor=cursor) == expected


async def test_sql_and_python_compute_the_same_position(database: asyncpg.Connection) -> None:
    statement = select(TaskListRecord.created_at, TaskListRecord.id, TaskListRecord.position)
    instants = [FIRST, LAST, NOW]
    instants += [FIRST + (LAST - FIRST) / 10**9 * secrets.randbelow(10**9) for _ in range(500)]
    for instant in instants:
        await database.execute(INSERT, UUID(bytes=secrets.token_bytes(16)), "A", None, instant)
    sql = str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]
    stored = [tuple(row) for row in await database.fetch(sql)]
    assert len(stored) == len(instants)
    for created_at, id_, position in stored:
        assert position == initial_position(created_at, id_)
