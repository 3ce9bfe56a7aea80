"""Concurrent requests never break the rules of lists, subtasks and positions.

Each test repeats a race of real requests on several connections, and then reads the tables.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest

from tests.integration.tasks.conftest import WRITERS
from tests.support.client import tasks_of
from tests.support.tasks import insert_list

ALICE = tasks_of("alice")
LISTS = "/api/v1/users/alice/lists"
ROUNDS = 25
BROKEN = """
    SELECT count(*) FROM tasks
    LEFT JOIN tasks AS parent ON parent.user_id = tasks.user_id AND parent.id = tasks.parent_id
    LEFT JOIN lists ON lists.user_id = tasks.user_id AND lists.id = tasks.list_id
    WHERE tasks.parent_id IS NOT NULL
            AND (parent.id IS NULL OR parent.parent_id IS NOT NULL OR tasks.list_id IS NOT NULL)
        OR tasks.list_id IS NOT NULL AND lists.id IS NULL
"""


async def new(client: httpx.AsyncClient, **properties: Any) -> str:
    """Create a task and return its ID."""
    response = await client.post(ALICE, json={"title": "a", **properties})
    assert response.status_code == 201
    id_: str = response.json()["id"]
    return id_


async def statuses_of(*requests: Awaitable[httpx.Response]) -> tuple[int, ...]:
    return tuple(response.status_code for response in await asyncio.gather(*requests))


Race = Callable[[], Awaitable[tuple[int, ...]]]


async def repeat(
    race: Race,
    database: asyncpg.Connection,
    allowed: set[tuple[int, ...]],
    rounds: int = ROUNDS,
) -> Counter[tuple[int, ...]]:
    """Repeat a race, and check its statuses and all references after each round."""
    outcomes: Counter[tuple[int, ...]] = Counter()
    for _ in range(rounds):
        statuses = await race()
        assert statuses in allowed
        assert await database.fetchval(BROKEN) == 0
        outcomes[statuses] += 1
    return outcomes


@pytest.mark.requirement("FR-117", "FR-120", "FR-121")
@pytest.mark.parametrize("key", [None, "k"], ids=["without a key", "with a key"])
async def test_subtask_of_a_parent_that_is_deleted(
    writers: httpx.AsyncClient, database: asyncpg.Connection, key: str | None
) -> None:
    numbers = iter(range(10**6))

    async def race() -> tuple[int, ...]:
        parent = await new(writers)
        body = {"title": "a", "parent_id": parent}

        def create() -> Awaitable[httpx.Response]:
            headers = {} if key is None else {"Idempotency-Key": f"k{next(numbers)}"}
            return writers.post(ALICE, json=body, headers=headers)

        responses = await asyncio.gather(
            create(), writers.delete(f"{ALICE}/{parent}"), create(), create()
        )
        assert responses[1].status_code == 204
        # A rejected subtask has an unknown parent. An accepted one was deleted with its parent.
        for response in (responses[0], *responses[2:]):
            assert response.status_code == 201 or response.json()["type"] == REFERENCE
        return tuple(sorted({response.status_code for response in responses}))

    allowed = {(201, 204), (204, 409), (201, 204, 409)}
    await repeat(race, database, allowed)
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0
    rejected = await database.fetchval("SELECT count(*) FROM idempotency_keys")
    assert (rejected > 0) <= (key is not None)


REFERENCE = "/problems/reference-not-found"


@pytest.mark.requirement("FR-119", "FR-120")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "move"])
async def test_subtask_of_a_parent_that_becomes_a_subtask(
    writers: httpx.AsyncClient, database: asyncpg.Connection, method: str
) -> None:
    async def race() -> tuple[int, ...]:
        top, parent, task = await new(writers), await new(writers), await new(writers)
        path = f"{ALICE}/{task}"
        body = {"title": "a", "description": None, "completed": False, "parent_id": parent}
        requests: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
            "POST": lambda: writers.post(ALICE, json=body),
            "PUT": lambda: writers.put(path, json=body),
            "PATCH": lambda: writers.patch(path, json={"parent_id": parent}),
            "move": lambda: writers.post(
                f"{path}/move", json={"after_id": None, "parent_id": parent}
            ),
        }
        statuses = await statuses_of(
            requests[method](), writers.patch(f"{ALICE}/{parent}", json={"parent_id": top})
        )
        await database.execute("TRUNCATE tasks")
        return statuses[0] // 100, statuses[1]

    outcomes = await repeat(race, database, {(2, 409), (4, 200)})
    assert sum(outcomes.values()) == ROUNDS


@pytest.mark.requirement("FR-119", "FR-120")
async def test_subtask_is_never_the_parent_of_a_concurrent_subtask(
    writers: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    async def race() -> tuple[int, ...]:
        top, parent = await new(writers), await new(writers)
        return await statuses_of(
            writers.patch(f"{ALICE}/{parent}", json={"parent_id": top}),
            *(writers.post(ALICE, json={"title": "a", "parent_id": parent}) for _ in range(5)),
        )

    outcomes: Counter[tuple[int, ...]] = Counter()
    for _ in range(ROUNDS):
        first, *others = await race()
        assert {first, *others} <= {200, 201, 409}
        # Either the parent has become a subtask, or it has subtasks.
        assert (first == 200) == (201 not in others)
        assert await database.fetchval(BROKEN) == 0
        outcomes[first, *others] += 1
    assert sum(outcomes.values()) == ROUNDS


@pytest.mark.requirement("FR-119", "FR-120")
@pytest.mark.parametrize("method", ["PATCH", "move"])
async def test_two_tasks_do_not_become_subtasks_of_each_other(
    writers: httpx.AsyncClient, database: asyncpg.Connection, method: str
) -> None:
    def make_subtask(task: str, parent: str) -> Awaitable[httpx.Response]:
        if method == "PATCH":
            return writers.patch(f"{ALICE}/{task}", json={"parent_id": parent})
        body = {"after_id": None, "parent_id": parent}
        return writers.post(f"{ALICE}/{task}/move", json=body)

    async def race() -> tuple[int, ...]:
        one, two = await new(writers), await new(writers)
        statuses = await statuses_of(make_subtask(one, two), make_subtask(two, one))
        return tuple(sorted(statuses))

    # PostgreSQL may find a deadlock after a second, and then one request fails with 503.
    outcomes = await repeat(race, database, {(200, 409), (200, 503)}, rounds=10)
    assert sum(outcomes.values()) == 10


@pytest.mark.requirement("FR-106", "FR-117")
@pytest.mark.parametrize("method", ["POST", "POST with a key", "PUT", "PATCH", "move"])
async def test_task_of_a_list_that_is_deleted(
    writers: httpx.AsyncClient, database: asyncpg.Connection, method: str
) -> None:
    numbers = iter(range(10**6))

    async def race() -> tuple[int, ...]:
        list_id = await insert_list(database)
        path = f"{ALICE}/{await new(writers)}"
        body = {"title": "a", "description": None, "completed": False, "list_id": list_id}
        key = {"Idempotency-Key": f"k{next(numbers)}"}
        requests: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
            "POST": lambda: writers.post(ALICE, json=body),
            "POST with a key": lambda: writers.post(ALICE, json=body, headers=key),
            "PUT": lambda: writers.put(path, json=body),
            "PATCH": lambda: writers.patch(path, json={"list_id": list_id}),
            "move": lambda: writers.post(
                f"{path}/move", json={"after_id": None, "list_id": list_id}
            ),
        }
        statuses = await statuses_of(requests[method](), writers.delete(f"{LISTS}/{list_id}"))
        return statuses[0] // 100, statuses[1]

    # Exactly one of the two requests succeeds.
    await repeat(race, database, {(2, 409), (4, 204)})


@pytest.mark.requirement("FR-131")
@pytest.mark.parametrize("room", ["wide", "narrow", "none"])
async def test_concurrent_moves_into_one_gap_are_between_its_neighbors(
    writers: httpx.AsyncClient, database: asyncpg.Connection, room: str
) -> None:
    # Positions of the tasks on both sides of the gap: with room, for few moves, and for none.
    low, high = {"wide": ("A", "B"), "narrow": ("M" * 60 + "1", "M" * 60 + "2")}.get(
        room, ("M" * 63 + "1", "M" * 63 + "2")
    )
    for _ in range(5):
        await database.execute("TRUNCATE tasks")
        before, after = await new(writers), await new(writers)
        for id_, position in ((before, low), (after, high)):
            await database.execute("UPDATE tasks SET position = $2 WHERE id = $1", id_, position)
        moved = [await new(writers) for _ in range(WRITERS)]
        statuses = await statuses_of(
            *(writers.post(f"{ALICE}/{id_}/move", json={"after_id": before}) for id_ in moved)
        )
        assert set(statuses) == {200}
        rows = await database.fetch("SELECT id, position FROM tasks ORDER BY position, id")
        ids = [str(row["id"]) for row in rows]
        assert (ids[0], ids[-1]) == (before, after)
        assert sorted(ids[1:-1]) == sorted(moved)
        positions = [row["position"] for row in rows]
        assert len(set(positions)) == len(positions)
        assert max(map(len, positions)) <= 64


@pytest.mark.requirement("FR-131")
async def test_concurrent_moves_of_one_task_are_all_applied(
    writers: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    for _ in range(ROUNDS // 5):
        neighbors = [await new(writers) for _ in range(4)]
        task = await new(writers)
        etags = {
            response.headers["etag"]
            for response in await asyncio.gather(
                *(
                    writers.post(f"{ALICE}/{task}/move", json={"after_id": after})
                    for after in [None, *neighbors] * 2
                )
            )
        }
        assert len(etags) == 10
        current = (await writers.get(f"{ALICE}/{task}")).headers["etag"]
        assert current in etags
    assert await database.fetchval(BROKEN) == 0


@pytest.mark.requirement("FR-128")
async def test_one_of_concurrent_moves_with_one_etag_succeeds(writers: httpx.AsyncClient) -> None:
    for _ in range(ROUNDS // 5):
        neighbor = await new(writers)
        created = await writers.post(ALICE, json={"title": "a"})
        path, headers = f"{created.headers['location']}/move", {"If-Match": created.headers["etag"]}
        statuses = await statuses_of(
            *(
                writers.post(path, json={"after_id": neighbor}, headers=headers)
                for _ in range(WRITERS)
            )
        )
        assert Counter(statuses) == {200: 1, 412: WRITERS - 1}


@pytest.mark.requirement("FR-117", "FR-121")
async def test_concurrent_deletions_of_a_parent_and_a_subtask(
    writers: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    async def race() -> tuple[int, ...]:
        parent = await new(writers)
        subtasks = [await new(writers, parent_id=parent) for _ in range(3)]
        return await statuses_of(
            *(writers.delete(f"{ALICE}/{id_}") for id_ in (subtasks[0], parent, subtasks[1]))
        )

    for _ in range(ROUNDS):
        first, second, third = await race()
        assert second == 204
        assert {first, third} <= {204, 404}
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-121")
async def test_subtask_that_is_moved_out_while_its_parent_is_deleted(
    writers: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    async def race() -> tuple[int, ...]:
        await database.execute("TRUNCATE tasks")
        parent = await new(writers)
        subtask = await new(writers, parent_id=parent)
        return await statuses_of(
            writers.patch(f"{ALICE}/{subtask}", json={"parent_id": None}),
            writers.delete(f"{ALICE}/{parent}"),
        )

    # The subtask was moved out before the deletion and exists, or was deleted.
    for _ in range(ROUNDS):
        patched, deleted = await race()
        assert deleted == 204
        assert patched in {200, 404}
        remaining = await database.fetchval("SELECT count(*) FROM tasks")
        assert remaining == (1 if patched == 200 else 0)
