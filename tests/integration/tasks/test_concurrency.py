"""Concurrent writers: one change per ETag succeeds, and no update is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from tests.integration.tasks.conftest import WRITERS
from tests.support.client import tasks_of

CHANGES = 48
ROUNDS = 40
TASK = f"{tasks_of('alice')}/{UUID(int=1)}"
BODY = {"title": "0", "description": None, "completed": False}


async def run_concurrently(*requests: Any) -> Counter[int]:
    """Count the responses of each status."""
    responses: list[httpx.Response] = await asyncio.gather(*requests)
    return Counter(response.status_code for response in responses)


async def read_modify_write(client: httpx.AsyncClient, chain: list[tuple[str, str, int]]) -> int:
    """Increment a counter in the title, and return the number of 412 responses."""
    conflicts = 0
    while len(chain) < CHANGES:
        before = (await client.get(TASK)).json()
        number = int(before["title"]) + 1
        response = await client.patch(
            TASK, json={"title": str(number)}, headers={"If-Match": before["etag"]}
        )
        updated = response.status_code == 200
        assert updated or response.status_code == 412
        chain += [(before["etag"], response.headers.get("etag", ""), number)] * updated
        conflicts += not updated
    return conflicts


@pytest.mark.requirement("FR-010", "FR-011")
async def test_sixteen_writers_lose_no_update(writers: httpx.AsyncClient) -> None:
    first = (await writers.put(TASK, json=BODY)).headers["etag"]
    chain: list[tuple[str, str, int]] = []
    conflicts = await asyncio.gather(*(read_modify_write(writers, chain) for _ in range(WRITERS)))
    last = (await writers.get(TASK)).json()
    followers = {before: after for before, after, _ in chain}
    # Each ETag was replaced by exactly one change, so the changes form one chain.
    assert len(followers) == len(set(followers.values())) == len(chain) >= CHANGES
    etag, length = first, 0
    while etag in followers:
        etag, length = followers[etag], length + 1
    assert (etag, length) == (last["etag"], len(chain))
    assert last["title"] == str(len(chain))
    assert sorted(number for _, _, number in chain) == list(range(1, len(chain) + 1))
    # Without 412 responses the writers did not compete, and the test would show nothing.
    assert sum(conflicts) > 0


@pytest.mark.requirement("FR-011")
@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_one_update_wins_among_equal_etags(writers: httpx.AsyncClient, method: str) -> None:
    etag = (await writers.put(TASK, json=BODY)).headers["etag"]
    bodies = {"DELETE": None}
    body = bodies.get(method, BODY | {"title": "changed"})
    responses = await run_concurrently(
        *(
            writers.request(method, TASK, headers={"If-Match": etag}, json=body)
            for _ in range(WRITERS)
        )
    )
    success = {"PATCH": 200, "PUT": 200, "DELETE": 204}[method]
    # After the deletion all get 404, because existence is checked before preconditions.
    assert responses[success] == 1
    assert responses[412] + responses[404] == WRITERS - 1
    assert (responses[404] > 0) <= (method == "DELETE")


@pytest.mark.requirement("FR-003", "FR-012")
async def test_one_creation_wins_among_equal_ids(writers: httpx.AsyncClient) -> None:
    headers = {"If-None-Match": "*"}
    for _ in range(ROUNDS):
        responses = await run_concurrently(
            *(
                writers.put(TASK, json=BODY | {"title": str(number)}, headers=headers)
                for number in range(WRITERS)
            )
        )
        assert responses == {201: 1, 412: WRITERS - 1}
        await writers.delete(TASK)


@pytest.mark.requirement("FR-003", "FR-009", "FR-014")
async def test_concurrent_puts_create_once_and_replace_after(
    writers: httpx.AsyncClient,
) -> None:
    for _ in range(ROUNDS):
        responses = await asyncio.gather(
            *(writers.put(TASK, json=BODY | {"title": str(number)}) for number in range(WRITERS))
        )
        tasks = [response.json() for response in responses]
        assert Counter(response.status_code for response in responses) == {201: 1, 200: WRITERS - 1}
        assert len({task["created_at"] for task in tasks}) == 1
        assert len({task["updated_at"] for task in tasks}) == WRITERS
        assert len({task["etag"] for task in tasks}) == WRITERS
        last = max(tasks, key=lambda task: task["updated_at"].ljust(27, "0"))
        assert (await writers.get(TASK)).json() == last
        await writers.delete(TASK)


@pytest.mark.requirement("FR-007", "FR-009")
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_completed_at_is_not_before_created_at(
    writers: httpx.AsyncClient, database: asyncpg.Connection, method: str
) -> None:
    # A transaction that waited for the row may have started before the row was created. A clock set
    # back has the same effect.
    await writers.put(TASK, json=BODY)
    await database.execute(
        "UPDATE tasks SET created_at = created_at + interval '1 minute',"
        " updated_at = updated_at + interval '2 minutes'"
    )
    task = (await writers.request(method, TASK, json=BODY | {"completed": True})).json()
    assert task["created_at"] < task["updated_at"] == task["completed_at"]


@pytest.mark.requirement("FR-004", "FR-006")
async def test_update_racing_deletion_happens_before_it_or_not(
    writers: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    for round_ in range(20):
        await writers.put(TASK, json=BODY)
        responses = await run_concurrently(
            writers.delete(TASK),
            *(writers.patch(TASK, json={"title": str(round_)}) for _ in range(4)),
        )
        assert responses[204] == 1
        assert responses[200] + responses[404] == 4
        assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-006")
async def test_one_of_concurrent_deletions_succeeds(writers: httpx.AsyncClient) -> None:
    await writers.put(TASK, json=BODY)
    responses = await run_concurrently(*(writers.delete(TASK) for _ in range(WRITERS)))
    assert responses == {204: 1, 404: WRITERS - 1}


@pytest.mark.requirement("FR-004", "FR-010")
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}], ids=["without", "any"])
async def test_unconditional_updates_never_return_412(
    writers: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    # The task is created and deleted meanwhile, so an unconditional change may find it or not.
    responses: Counter[int] = Counter()
    for _ in range(20):
        responses += await run_concurrently(
            *(writers.put(TASK, json=BODY) for _ in range(3)),
            *(writers.patch(TASK, json={"title": "a"}, headers=headers) for _ in range(8)),
            *(writers.delete(TASK, headers=headers) for _ in range(5)),
        )
    assert responses[412] == 0


@pytest.mark.requirement("FR-001", "FR-016")
async def test_pagination_returns_each_task_once_during_writes(
    writers: httpx.AsyncClient,
) -> None:
    alice = tasks_of("alice")
    stable = {(await writers.post(alice, json={"title": "a"})).json()["id"] for _ in range(20)}
    pagination = True

    async def change_task_repeatedly() -> None:
        while pagination:
            location = (await writers.post(alice, json={"title": "b"})).headers["location"]
            await writers.delete(location)

    async def paginate(order: str) -> list[str]:
        ids: list[str] = []
        query: dict[str, Any] = {"limit": 3, "order": order}
        page = (await writers.get(alice, params=query)).json()
        ids += [task["id"] for task in page["items"]]
        while page["next_cursor"] and len(ids) < 1000:
            page = (await writers.get(alice, params=query | {"cursor": page["next_cursor"]})).json()
            ids += [task["id"] for task in page["items"]]
            # New tasks appear at the end of an ascending list, so its pagination might never end.
            listed.update(stable & set(ids))
            page["next_cursor"] = page["next_cursor"] if listed < stable else None
        return ids

    listed: set[str] = set()
    changes = [asyncio.create_task(change_task_repeatedly()) for _ in range(4)]
    descending = await paginate("desc")
    listed.clear()
    ascending = await paginate("asc")
    pagination = False
    await asyncio.gather(*changes)
    for ids in (ascending, descending):
        assert Counter(ids) & Counter(stable) == Counter(stable)
        assert len(ids) == len(set(ids))
