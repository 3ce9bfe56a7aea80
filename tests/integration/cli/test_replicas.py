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
        serving(DATABASE_URL=database_url, PYTHONHASHSEED=1) as one,
        serving(DATABASE_URL=database_url, PYTHONHASHSEED=2) as other,
    ):
        yield one.url, other.url


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
    turns = cycle(replicas)
    made = [(await next(turns).post(ALICE, json={"title": "a"})).json()["id"] for _ in range(7)]
    query = {"limit": "2", "sort": sort, "order": order}
    found: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(4):
        page = (await next(turns).get(ALICE, params=query | cursor)).json()
        found += [task["id"] for task in page["items"]]
        cursor = {"cursor": str(page["next_cursor"])}
    assert cursor == {"cursor": "None"}
    assert found == {"asc": made, "desc": made[::-1]}[order]


@pytest.mark.requirement("FR-017")
async def test_invalid_cursor_is_rejected_by_both_replicas(
    replicas: tuple[ContractClient, ContractClient],
) -> None:
    one, other = replicas
    await one.post(ALICE, json={"title": "a"})
    await one.post(ALICE, json={"title": "b"})
    cursor = (await one.get(ALICE, params={"limit": 1})).json()["next_cursor"]
    for replica in (one, other):
        response = await replica.get(tasks_of("bob"), params={"cursor": cursor})
        assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-010", "FR-013")
async def test_etag_is_valid_on_the_other_replica(
    replicas: tuple[ContractClient, ContractClient],
) -> None:
    one, other = replicas
    first = (await one.put(TASK, json=BODY)).headers["etag"]
    assert (await other.get(TASK, headers={"If-None-Match": first})).status_code == 304
    changed = await other.patch(TASK, json={"completed": True}, headers={"If-Match": first})
    assert changed.status_code == 200
    refused = await one.patch(TASK, json={"completed": False}, headers={"If-Match": first})
    assert_problem(refused, 412, "precondition-failed")
    again = await one.get(TASK, headers={"If-None-Match": first})
    assert again.status_code == 200
    assert again.json() == changed.json()


async def test_write_is_immediately_visible_on_the_other_replica(
    replicas: tuple[ContractClient, ContractClient],
) -> None:
    one, other = replicas
    turns = cycle([(one, other), (other, one)])
    await one.put(TASK, json=BODY)
    for number in range(10):
        writer, reader = next(turns)
        written = await writer.patch(TASK, json={"title": str(number)})
        assert (await reader.get(TASK)).json() == written.json()
        assert (await reader.get(ALICE)).json()["items"] == [written.json()]
    assert (await other.delete(TASK)).status_code == 204
    assert_problem(await one.get(TASK), 404, "task-not-found")


@pytest.mark.requirement("FR-032")
@pytest.mark.parametrize("path", ["/openapi.yaml", "/openapi.json"])
async def test_openapi_document_has_one_etag_on_both_replicas(
    replicas: tuple[ContractClient, ContractClient], path: str
) -> None:
    one, other = replicas
    tag = (await one.get(path)).headers["etag"]
    assert (await other.get(path, headers={"If-None-Match": tag})).status_code == 304
