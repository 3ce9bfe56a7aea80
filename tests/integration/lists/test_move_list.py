"""moveList."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.asgi import create_app
from app.db.positions import DIGITS, MAX_LENGTH, MAX_NEIGHBORS
from tests.integration.lists.support import ALICE, BOB, create, names, rows, until_blocked
from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem
from tests.support.database import connect, settings_for
from tests.support.lifespan import running

pytestmark = pytest.mark.requirement("FR-108")

INSERT = """
    INSERT INTO lists (user_id, id, name, position, created_at, updated_at, etag)
    VALUES ('alice', $1, $2, $3, now(), now(), $1)
"""


CHANGED = {"position", "etag", "updated_at"}


@pytest.fixture
async def concurrent_client(
    database_url: str,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
) -> AsyncIterator[ContractClient]:
    """A client of a service with eight connections."""
    settings = settings_for(database_url, database_pool_size=8)
    async with running(create_app(settings)) as app, ContractClient(app) as client:
        yield client


async def move(
    client: ContractClient, id_: object, after_id: object = None, *, status: int = 200
) -> dict[str, Any]:
    body = {"after_id": None if after_id is None else str(after_id)}
    response = await client.post(f"{ALICE}/{id_}/move", json=body)
    assert response.status_code == status, response.text
    moved: dict[str, Any] = response.json()
    return moved


async def insert(database: asyncpg.Connection, positions: list[str]) -> list[UUID]:
    """Store lists with these positions, whose names are their numbers."""
    ids = [uuid4() for _ in positions]
    arguments = [
        (id_, str(index), position)
        for index, (id_, position) in enumerate(zip(ids, positions, strict=True))
    ]
    await database.executemany(INSERT, arguments)
    return ids


def dense_positions(count: int) -> list[str]:
    """Return adjacent positions of the maximum length."""
    return [
        "V".ljust(MAX_LENGTH - 2, "0") + DIGITS[index // 62] + DIGITS[index % 62]
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("moved", "after", "expected"),
    [
        ("A", None, "ABCD"),
        ("A", "B", "BACD"),
        ("A", "C", "BCAD"),
        ("A", "D", "BCDA"),
        ("C", None, "CABD"),
        ("C", "A", "ACBD"),
        ("C", "B", "ABCD"),
        ("C", "D", "ABDC"),
        ("D", None, "DABC"),
        ("D", "A", "ADBC"),
    ],
)
async def test_list_is_placed_after_its_neighbor(
    client: ContractClient,
    database: asyncpg.Connection,
    moved: str,
    after: str | None,
    expected: str,
) -> None:
    lists = {item["name"]: item for item in await create(client, *"ABCD")}
    await create(client, "Other", path=BOB)
    before = {row["id"]: row for row in await rows(database)}
    result = await move(client, lists[moved]["id"], lists[after]["id"] if after else None)
    assert await names(client) == list(expected)
    assert (await client.get(f"{ALICE}/{result['id']}")).json() == result
    changed = [row["id"] for row in await rows(database) if row != before[row["id"]]]
    assert changed == [UUID(result["id"])]


@pytest.mark.requirement("FR-109", "FR-128")
async def test_every_move_is_a_change(client: ContractClient) -> None:
    first, second = await create(client, "A", "B")
    for after_id in (first["id"], first["id"], None, None):
        before = (await client.get(f"{ALICE}/{second['id']}")).json()
        moved = await move(client, second["id"], after_id)
        assert {name for name in moved if moved[name] != before[name]} == CHANGED
        assert moved["updated_at"] > before["updated_at"]


@pytest.mark.requirement("FR-123", "FR-128")
async def test_move_of_the_only_list_keeps_its_position(client: ContractClient) -> None:
    (only,) = await create(client, "A")
    moved = await move(client, only["id"])
    assert moved["position"] == only["position"]
    assert moved["etag"] != only["etag"]
    await create(client, "B")
    assert await names(client) == ["A", "B"]


@pytest.mark.requirement("FR-123")
async def test_new_list_is_last_after_moves_to_the_end(client: ContractClient) -> None:
    lists = await create(client, *"ABC")
    for round_ in range(40):
        await move(client, lists[round_ % 3]["id"], lists[(round_ + 2) % 3]["id"])
    before = await names(client)
    await create(client, "D")
    assert await names(client) == [*before, "D"]


@pytest.mark.requirement("FR-115", "FR-116")
async def test_unknown_neighbor_is_rejected(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    (own,) = await create(client, "A")
    (other,) = await create(client, "B", path=BOB)
    before = await rows(database)
    for after_id in (own["id"], other["id"], uuid4()):
        response = await client.post(f"{ALICE}/{own['id']}/move", json={"after_id": str(after_id)})
        problem = assert_problem(response, 409, "reference-not-found", "/after_id")
        assert problem["detail"] == "/after_id: this user has no other list with this ID"
    assert await rows(database) == before


@pytest.mark.parametrize("body", [{}, {"after_id": "x"}, {"after_id": 1}], ids=str)
async def test_invalid_body_is_rejected(client: ContractClient, body: dict[str, Any]) -> None:
    (own,) = await create(client, "A")
    response = await client.post(f"{ALICE}/{own['id']}/move", json=body)
    assert_problem(response, 422, "invalid-body", "/after_id")


@pytest.mark.requirement("FR-109", "FR-118")
async def test_errors_have_the_order_of_the_contract(client: ContractClient) -> None:
    (own,) = await create(client, "A")
    body = {"after_id": str(uuid4())}
    unknown = await client.post(
        f"{ALICE}/{uuid4()}/move", json=body, headers={"If-Match": FOREIGN_TAG}
    )
    assert_problem(unknown, 404, "list-not-found")
    path = f"{ALICE}/{own['id']}/move"
    stale = await client.post(path, json=body, headers={"If-Match": FOREIGN_TAG})
    assert_problem(stale, 412, "precondition-failed")
    current = await client.post(path, json=body, headers={"If-Match": own["etag"]})
    assert_problem(current, 409, "reference-not-found", "/after_id")
    moved = await client.post(path, json={"after_id": None}, headers={"If-Match": own["etag"]})
    assert moved.status_code == 200


@pytest.mark.requirement("FR-108", "FR-128")
async def test_random_moves_have_the_requested_order(client: ContractClient) -> None:
    lists = await create(client, *"ABCDEF")
    ids = {item["name"]: item["id"] for item in lists}
    expected = list("ABCDEF")
    choices = random.Random(1)  # noqa: S311 - not a secret
    for _ in range(150):
        name = choices.choice(expected)
        expected.remove(name)
        index = choices.randrange(len(expected) + 1)
        await move(client, ids[name], ids[expected[index - 1]] if index else None)
        expected.insert(index, name)
        assert await names(client) == expected


# --- respacing -----------------------------------------------------------------------------------


@pytest.mark.requirement("FR-129")
@pytest.mark.parametrize(
    ("sparse", "dense", "changed"),
    [(40, 20, 32), (40, 60, 64), (0, 2, 1), (0, 40, 39), (0, 499, 498), (0, 501, MAX_NEIGHBORS)],
)
async def test_too_small_gap_is_respaced(
    client: ContractClient, database: asyncpg.Connection, sparse: int, dense: int, changed: int
) -> None:
    positions = [f"U{index:02}" for index in range(sparse)]
    positions += dense_positions(dense) + [f"W{index:02}" for index in range(sparse)]
    *ids, moved = await insert(database, [*positions, "z"])
    middle = sparse + dense // 2
    before = {row["id"]: row for row in await rows(database)}
    result = await move(client, moved, ids[middle - 1])
    after = {row["id"]: row for row in await rows(database)}
    order = sorted(after, key=lambda id_: after[id_]["position"])
    assert order == [*ids[:middle], moved, *ids[middle:]]
    assert len({row["position"] for row in after.values()}) == len(order)
    neighbors = [id_ for id_ in ids if after[id_] != before[id_]]
    assert len(neighbors) == changed
    for id_ in (moved, *neighbors):
        changed_columns = {name for name in after[id_] if after[id_][name] != before[id_][name]}
        assert changed_columns == CHANGED | {"revision"}
        assert after[id_]["updated_at"] > before[id_]["updated_at"]
    assert len({row["etag"] for row in after.values()}) == len(order)
    assert (await client.get(f"{ALICE}/{moved}")).json() == result


@pytest.mark.requirement("FR-129")
async def test_equal_positions_are_respaced(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    ids = sorted(await insert(database, ["V"] * 5))
    await move(client, ids[4], ids[1])
    found = [item["id"] for item in (await client.get(ALICE)).json()["items"]]
    assert found == [str(ids[number]) for number in (0, 1, 4, 2, 3)]


@pytest.mark.requirement("FR-129")
async def test_neighbor_that_is_changed_at_the_same_moment_keeps_its_change(
    client: ContractClient, database: asyncpg.Connection, database_url: str
) -> None:
    ids = await insert(database, [*dense_positions(4), "z"])
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("UPDATE lists SET name = 'New' WHERE id = $1", ids[2])
        moving = asyncio.create_task(move(client, ids[4], ids[1]))
        await until_blocked(other)
    await other.close()
    await moving
    assert await names(client) == ["0", "1", "4", "New", "3"]


@pytest.mark.requirement("FR-129")
async def test_concurrent_moves_and_respacings_keep_the_order(
    concurrent_client: ContractClient, database: asyncpg.Connection
) -> None:
    # Every gap is too small, so every move respaces lists that other requests change.
    ids = await insert(database, dense_positions(40))
    moved = range(1, 13, 2)
    moves = [move(concurrent_client, ids[number], ids[number + 20]) for number in moved]
    edits = [
        concurrent_client.patch(f"{ALICE}/{ids[number]}", json={"name": f"{number}"})
        for number in range(20, 36, 2)
    ]
    await asyncio.gather(*moves, *edits)
    assert len({row["position"] for row in await rows(database)}) == len(ids)
    expected = [str(number) for number in range(len(ids)) if number not in moved]
    for number in moved:
        expected.insert(expected.index(str(number + 20)) + 1, str(number))
    assert await names(concurrent_client) == expected


@pytest.mark.requirement("FR-131")
async def test_concurrent_moves_into_one_gap_succeed(
    concurrent_client: ContractClient, database: asyncpg.Connection
) -> None:
    lists = await create(concurrent_client, *"ABCDEFGHIJ")
    first, *others, last = [item["id"] for item in lists]
    await asyncio.gather(*(move(concurrent_client, id_, first) for id_ in others))
    positions = {str(row["id"]): row["position"] for row in await rows(database)}
    found = [item["id"] for item in (await concurrent_client.get(ALICE)).json()["items"]]
    assert (found[0], found[-1]) == (first, last)
    moved = sorted(positions[id_] for id_ in others)
    assert all(one < other for one, other in pairwise(moved))
