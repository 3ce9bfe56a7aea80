"""The revision of a user: who takes one, and in which order revisions become visible."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from app.domain.tasks.repository import DELETES_PER_REMOVAL
from tests.integration.tasks.conftest import WRITERS
from tests.support.client import FOREIGN_TAG, ContractClient, tasks_of
from tests.support.database import connect

USER = "/api/v1/users/alice"
ALICE = tasks_of("alice")
LISTS = f"{USER}/lists"
BODY = {"title": "Buy milk", "description": None, "completed": False}
ROUNDS = 25
CHANGES_PER_WRITER = 60
REVISION = "SELECT revision FROM users WHERE user_id = 'alice'"
REMAINING = """
    SELECT oldest_revision || ', ' || (SELECT min(tombstones.revision) FROM tombstones) FROM users
"""
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
# What a reader after a revision sees, as the feed does.
LATER = """
    SELECT 1 AS kind, id, etag, revision FROM tasks WHERE user_id = 'alice' AND revision > $1
    UNION ALL
    SELECT 0, id, etag, revision FROM lists WHERE user_id = 'alice' AND revision > $1
    UNION ALL
    SELECT kind, id, NULL, revision FROM tombstones WHERE user_id = 'alice' AND revision > $1
    ORDER BY revision
"""
ROWS = """
    SELECT 1 AS kind, id, etag FROM tasks WHERE user_id = 'alice'
    UNION ALL
    SELECT 0, id, etag FROM lists WHERE user_id = 'alice'
"""
Copy = dict[tuple[int, UUID], UUID]


async def revision_of(database: asyncpg.Connection) -> int:
    """Return the revision of Alice; 0 without a row."""
    return await database.fetchval(REVISION) or 0


async def new_task(client: httpx.AsyncClient, **properties: Any) -> dict[str, Any]:
    response = await client.post(ALICE, json={"title": "a", **properties})
    assert response.status_code == 201
    task: dict[str, Any] = response.json()
    return task


# --- which requests take a revision ------------------------------------------------------------


@pytest.mark.requirement("FR-201")
async def test_every_change_stores_the_next_revision(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    task = f"{ALICE}/{UUID(int=1)}"
    task_list = f"{LISTS}/{UUID(int=2)}"
    other = f"{ALICE}/{(await new_task(client))['id']}"
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", task, {"json": BODY}),
        ("PUT", task, {"json": BODY}),
        ("PUT", task, {"json": BODY, "headers": {"If-Match": "*"}}),
        ("PATCH", task, {"json": {"title": "a"}}),
        ("POST", f"{task}/move", {"json": {"after_id": None}}),
        ("POST", ALICE, {"json": {"title": "a"}, "headers": {"Idempotency-Key": "k"}}),
        ("PUT", task_list, {"json": {"name": "A"}}),
        ("PUT", task_list, {"json": {"name": "A"}}),
        ("PATCH", task_list, {"json": {"name": "B"}}),
        ("POST", f"{task_list}/move", {"json": {"after_id": None}}),
        ("POST", LISTS, {"json": {"name": "A"}}),
        ("DELETE", task_list, {}),
        ("DELETE", other, {}),
    ]
    for number, (method, url, options) in enumerate(changes, 2):
        response = await client.request(method, url, **options)
        assert response.is_success
        assert await revision_of(database) == number
        assert len(await database.fetch(LATER, number - 1)) == 1


@pytest.mark.requirement("FR-203")
async def test_request_that_changes_nothing_takes_no_revision(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    task = f"{ALICE}/{UUID(int=1)}"
    absent = f"{ALICE}/{UUID(int=9)}"
    task_list = f"{LISTS}/{UUID(int=2)}"
    keyed: dict[str, Any] = {"json": {"title": "a"}, "headers": {"Idempotency-Key": "k"}}
    await client.put(task_list, json={"name": "A"})
    await client.put(task, json={**BODY, "list_id": str(UUID(int=2))})
    await client.post(ALICE, **keyed)
    other_tag = {"headers": {"If-Match": FOREIGN_TAG}}
    unknown = {"json": {"title": "a", "list_id": str(UUID(int=9))}}
    requests: list[tuple[int, str, str, dict[str, Any]]] = [
        (201, "POST", ALICE, keyed),
        (409, "POST", ALICE, unknown),
        (200, "PATCH", task, {"json": {}}),
        (404, "PATCH", absent, {"json": {"title": "a"}}),
        (412, "PATCH", task, {"json": {"title": "a"}, **other_tag}),
        (409, "PATCH", task, unknown),
        (412, "PUT", task, {"json": BODY, **other_tag}),
        (412, "PUT", task, {"json": BODY, "headers": {"If-None-Match": "*"}}),
        (404, "DELETE", absent, {}),
        (412, "DELETE", task, other_tag),
        (409, "POST", f"{task}/move", {"json": {"after_id": str(UUID(int=9))}}),
        (200, "PATCH", task_list, {"json": {}}),
        (412, "PATCH", task_list, {"json": {"name": "B"}, **other_tag}),
        (412, "PUT", task_list, {"json": {"name": "B"}, **other_tag}),
        (409, "DELETE", task_list, {}),
        (404, "DELETE", f"{LISTS}/{UUID(int=9)}", {}),
    ]
    before = await database.fetchrow("SELECT xmin::text, * FROM users")
    for status, method, url, options in requests:
        response = await client.request(method, url, **options)
        assert (response.status_code, await revision_of(database)) == (status, 3), (method, url)
    # The row was not even written.
    assert await database.fetchrow("SELECT xmin::text, * FROM users") == before
    assert await database.fetchval("SELECT count(*) FROM tombstones") == 0


@pytest.mark.requirement("FR-203")
@pytest.mark.parametrize("name", ["patch", "put", "delete", "create", "move"])
async def test_loser_of_a_race_takes_no_revision(
    writers: httpx.AsyncClient, database: asyncpg.Connection, name: str
) -> None:
    for _ in range(ROUNDS):
        task = await new_task(writers)
        url, tag = f"{ALICE}/{task['id']}", {"If-Match": task["etag"]}
        requests: dict[str, tuple[str, str, dict[str, Any]]] = {
            "patch": ("PATCH", url, {"json": {"title": "b"}, "headers": tag}),
            "put": ("PUT", url, {"json": BODY, "headers": tag}),
            "delete": ("DELETE", url, {}),
            "create": (
                "PUT", f"{ALICE}/{uuid4()}", {"json": BODY, "headers": {"If-None-Match": "*"}}
            ),
            "move": ("POST", f"{url}/move", {"json": {"after_id": None}, "headers": tag}),
        }  # fmt: skip
        method, path, options = requests[name]
        before = await revision_of(database)
        responses = await asyncio.gather(
            *(writers.request(method, path, **options) for _ in range(WRITERS))
        )
        assert sum(response.is_success for response in responses) == 1
        assert await revision_of(database) == before + 1


@pytest.mark.requirement("FR-204", "FR-210")
async def test_subtasks_have_the_tombstones_and_the_revision_of_their_parent(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    parent = await new_task(client)
    subtasks = [await new_task(client, parent_id=parent["id"]) for _ in range(3)]
    await client.delete(f"{ALICE}/{parent['id']}")
    rows = await database.fetch("SELECT kind, id::text, revision FROM tombstones")
    assert {row["id"] for row in rows} == {parent["id"], *(task["id"] for task in subtasks)}
    assert {(row["kind"], row["revision"]) for row in rows} == {(1, 5)}


@pytest.mark.requirement("FR-204")
async def test_respaced_neighbors_have_one_revision(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    tasks = [await new_task(client) for _ in range(4)]
    for task, position in zip(tasks, ("V", f"V{'0' * 62}1", "W", "X"), strict=True):
        await database.execute(
            "UPDATE tasks SET position = $2 WHERE id = $1", UUID(task["id"]), position
        )
    before = await revision_of(database)
    moved = await client.post(f"{ALICE}/{tasks[3]['id']}/move", json={"after_id": tasks[0]["id"]})
    assert moved.status_code == 200
    rows = await database.fetch(LATER, before)
    # One for the neighbors, and one for the move.
    assert sorted({row["revision"] for row in rows}) == [before + 1, before + 2]
    assert rows[-1]["id"] == UUID(tasks[3]["id"])


@pytest.mark.requirement("FR-204")
async def test_moved_list_and_respaced_neighbors_have_one_revision(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    ids = [(await client.post(LISTS, json={"name": "a"})).json()["id"] for _ in range(4)]
    for id_, position in zip(ids, ("V", f"V{'0' * 62}1", "W", "X"), strict=True):
        await database.execute("UPDATE lists SET position = $2 WHERE id = $1", UUID(id_), position)
    before = await revision_of(database)
    moved = await client.post(f"{LISTS}/{ids[3]}/move", json={"after_id": ids[0]})
    assert moved.status_code == 200
    rows = await database.fetch(LATER, before)
    assert len(rows) > 1
    assert {row["revision"] for row in rows} == {before + 1}


@pytest.mark.requirement("FR-205")
async def test_epoch_stays_and_differs_between_users(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    for user in ("alice", "bob", "alice"):
        await client.post(tasks_of(user), json={"title": "a"})
    await client.post("/api/v1/users/bob/lists", json={"name": "a"})
    rows = await database.fetch("SELECT user_id, revision, epoch FROM users ORDER BY user_id")
    assert [tuple(row)[:2] for row in rows] == [("alice", 2), ("bob", 2)]
    assert rows[0]["epoch"] != rows[1]["epoch"]
    await client.post(ALICE, json={"title": "a"})
    assert await database.fetchval(REVISION.replace("revision", "epoch", 1)) == rows[0]["epoch"]


@pytest.mark.requirement("FR-212")
@pytest.mark.parametrize("kind", ["task", "list"])
async def test_delete_removes_old_tombstones_and_remembers_the_last(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    await database.execute(
        "INSERT INTO users (user_id, revision, epoch) VALUES ('alice', 200, gen_random_uuid())"
    )
    await database.execute(
        "INSERT INTO tombstones (user_id, kind, id, revision, deleted_at) "
        "SELECT 'alice', 1, gen_random_uuid(), number, "
        "now() - CASE WHEN number < 113 THEN interval '31 days' ELSE interval '29 days' END "
        "FROM generate_series(1, 120) AS number"
    )
    remaining = []
    for _ in range(3):
        # Deleting a task with this ID removes tombstones.
        url = f"{ALICE if kind == 'task' else LISTS}/{UUID(int=DELETES_PER_REMOVAL)}"
        await client.put(url, json=BODY if kind == "task" else {"name": "a"})
        assert (await client.delete(url, headers={"If-Match": FOREIGN_TAG})).status_code == 412
        assert (await client.delete(url)).status_code == 204
        remaining.append(await database.fetchval(REMAINING))
    assert remaining == ["100, 101", "112, 113", "112, 113"]


# --- the order in which revisions become visible -----------------------------------------------


async def poll(url: str, finished: asyncio.Event, seen: Copy) -> list[int]:
    """Keep a copy by reading only later revisions. Return the revisions in the order of reading."""
    connection = await connect(url)
    position, order = 0, []
    is_last = False
    while not is_last:
        is_last = finished.is_set()  # and then read everything that is left
        for kind, id_, etag, revision in await connection.fetch(LATER, position):
            if etag is None:
                seen.pop((kind, id_), None)
            else:
                seen[kind, id_] = etag
            position = revision
            order.append(revision)
    await connection.close()
    return order


async def write(client: httpx.AsyncClient, number: int, ids: list[str]) -> int:
    """Send random changes of shared tasks, and return how many were acknowledged."""
    chosen = random.Random(number)  # noqa: S311 - not for security
    acknowledged = 0
    for _ in range(CHANGES_PER_WRITER):
        id_ = chosen.choice(ids)
        url = f"{ALICE}/{id_}"
        parent = chosen.choice([None, None, chosen.choice(ids)])
        requests: list[Callable[[], Awaitable[httpx.Response]]] = [
            lambda: client.post(ALICE, json={"title": "a", "parent_id": parent}),  # noqa: B023
            lambda: client.post(LISTS, json={"name": "a"}),
            lambda: client.put(url, json=BODY),  # noqa: B023
            lambda: client.put(url, json=BODY, headers={"If-None-Match": "*"}),  # noqa: B023
            lambda: client.patch(url, json={"parent_id": parent}),  # noqa: B023
            lambda: client.patch(url, json={"title": "b"}),  # noqa: B023
            lambda: client.post(f"{url}/move", json={"after_id": None}),  # noqa: B023
            lambda: client.delete(url),  # noqa: B023
        ]
        response = await chosen.choice(requests)()
        assert response.status_code in {200, 201, 204, 404, 409, 412}, response.text
        acknowledged += response.is_success
    return acknowledged


@pytest.mark.requirement("FR-202", "FR-219", "FR-229", "NFR-203")
async def test_poller_next_to_sixteen_writers_misses_no_change(
    writers: httpx.AsyncClient, database: asyncpg.Connection, database_url: str
) -> None:
    ids = [str(UUID(int=number)) for number in range(1, 13)]
    finished, seen = asyncio.Event(), Copy()
    deadlocks = await database.fetchval(DEADLOCKS)
    poller = asyncio.create_task(poll(database_url, finished, seen))
    acknowledged = await asyncio.gather(*(write(writers, n, ids) for n in range(WRITERS)))
    finished.set()
    order = await poller
    assert order == sorted(order)
    assert seen == {(row["kind"], row["id"]): row["etag"] for row in await database.fetch(ROWS)}
    # Each acknowledged change took one revision. A move that begins again may respace as well.
    assert await revision_of(database) == sum(acknowledged)
    await database.execute("SELECT pg_stat_force_next_flush()")
    assert await database.fetchval(DEADLOCKS) == deadlocks
