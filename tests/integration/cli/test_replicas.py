"""Two processes on one database behave as one service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from uuid import UUID

import asyncpg
import pytest

from tests.support.client import ContractClient, RemoteClient, assert_problem, tasks_of
from tests.support.process import serving

pytestmark = pytest.mark.requirement("NFR-002")

ALICE = tasks_of("alice")
TASK = f"{ALICE}/{UUID(int=1)}"
BODY = {"title": "Buy milk", "description": None, "completed": False}


@pytest.fixture(scope="module")
def urls(database_url: str) -> Iterator[tuple[str, str]]:
    """Two service processes with different hash seeds."""
    with (
        serving(DATABASE_URL=database_url, PYTHONHASHSEED=1) as first,
        serving(DATABASE_URL=database_url, PYTHONHASHSEED=2) as second,
    ):
        yield first.url, second.url


@pytest.fixture
async def replicas(
    urls: tuple[str, str],
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
) -> AsyncIterator[tuple[ContractClient, ContractClient]]:
    async with RemoteClient(urls[0]) as to_one, RemoteClient(urls[1]) as to_other:
        yield to_one, to_other


@pytest.mark.requirement("FR-016")
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["created_at", "updated_at"])
async def test_pagination_continues_on_the_other_replica(
    replicas: tuple[ContractClient, ContractClient], sort: str, order: str
) -> None:
    clients = cycle(replicas)
    task_ids = [
        (await next(clients).post(ALICE, json={"title": "a"})).json()["id"] for _ in range(7)
    ]
    query = {"limit": "2", "sort": sort, "order": order}
    listed: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(4):
        page = (await next(clients).get(ALICE, params=query | cursor)).json()
        listed += [task["id"] for task in page["items"]]
        cursor = {"cursor": str(page["next_cursor"])}
    assert cursor == {"cursor": "None"}
    assert listed == {"asc": task_ids, "desc": task_ids[::-1]}[order]


@pytest.mark.requirement("FR-017")
async def test_invalid_cursor_is_rejected_by_both_replicas(
    replicas: tuple[ContractClient, ContractClient],
) -> None:
    first, second = replicas
    await first.post(ALICE, json={"title": "a"})
    await first.post(ALICE, json={"title": "b"})
    cursor = (await first.get(ALICE, params={"limit": 1})).json()["next_cursor"]
    for replica in (first, second):
        response = await replica.get(tasks_of("bob"), params={"cursor": cursor})
        assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-010", "FR-013")
async def test_etag_is_valid_on_the_other_replica(
    replicas: tuple[ContractClient, ContractClient],
) -> None:
    first_replica, second_replica = replicas
    etag = (await first_replica.put(TASK, json=BODY)).headers["etag"]
    assert (await second_replica.get(TASK, headers={"If-None-Match": etag})).status_code == 304
    updated = await second_replica.patch(TASK, json={"completed": True}, headers={"If-Match": etag})
    assert updated.status_code == 200
    response = await first_replica.patch(
        TASK, json={"completed": False}, headers={"If-Match": etag}
    )
    assert_problem(response, 412, "precondition-failed")
    again = await first_replica.get(TASK, headers={"If-None-Match": etag})
    assert again.status_code == 200
    assert again.json() == updated.json()


async def test_write_is_immediately_visible_on_the_other_replica(
    replicas: tuple[ContractClient, ContractClient],
) -> None:
    first, second = replicas
    clients = cycle([(first, second), (second, first)])
    await first.put(TASK, json=BODY)
    for number in range(10):
        writer, reader = next(clients)
        task = await writer.patch(TASK, json={"title": str(number)})
        assert (await reader.get(TASK)).json() == task.json()
        assert (await reader.get(ALICE)).json()["items"] == [task.json()]
    assert (await second.delete(TASK)).status_code == 204
    assert_problem(await first.get(TASK), 404, "task-not-found")


@pytest.mark.requirement("FR-032")
@pytest.mark.parametrize("path", ["/openapi.yaml", "/openapi.json"])
async def test_openapi_document_has_one_etag_on_both_replicas(
    replicas: tuple[ContractClient, ContractClient], path: str
) -> None:
    first, second = replicas
    etag = (await first.get(path)).headers["etag"]
    assert (await second.get(path, headers={"If-None-Match": etag})).status_code == 304
