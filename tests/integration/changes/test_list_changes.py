"""The feed of changes, over HTTP."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.db.statements import compile_statement
from app.domain.changes.statements import READ_CHANGES
from app.settings import Secret
from tests.integration.changes.test_revisions import write
from tests.integration.tasks.conftest import WRITERS
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.in_process import serving

USER = "/api/v1/users/alice"
ALICE = tasks_of("alice")
LISTS = f"{USER}/lists"
CHANGES = f"{USER}/changes"
BODY = {"title": "Buy milk", "description": None, "completed": False}
OLD_ROWS = """
    INSERT INTO {table} (user_id, id, {column}, created_at, updated_at, etag)
    SELECT 'alice', ('00000000-0000-7000-8000-' || lpad(number::text, 12, '0'))::uuid, 'Old', now(),
        now(), gen_random_uuid()
    FROM generate_series(1, {count}) AS number
"""
REMOVE_TOMBSTONES = """
    WITH removed AS (DELETE FROM tombstones WHERE user_id = 'alice' RETURNING revision)
    UPDATE users SET oldest_revision = (SELECT max(revision) FROM removed) WHERE user_id = 'alice'
"""


class Copy:
    """A client's copy of the tasks and lists of Alice, built from the feed only."""

    def __init__(self, client: httpx.AsyncClient, limit: int = 50, url: str = CHANGES) -> None:
        self.client = client
        self.limit = limit
        self.url = url
        self.since: str | None = None
        self.items: dict[tuple[str, str], dict[str, Any]] = {}

    async def page(self) -> dict[str, Any]:
        """Read one page and apply it."""
        params = {"limit": self.limit} | ({} if self.since is None else {"since": self.since})
        response = await self.client.get(self.url, params=params)
        assert response.status_code == 200, response.text
        page: dict[str, Any] = response.json()
        for item in page["items"]:
            key = (item["kind"], item["id"])
            if item["deleted"]:
                self.items.pop(key, None)
            else:
                self.items[key] = item[item["kind"]]
        self.since = page["next_since"]
        return page

    async def walk(self) -> list[tuple[str, str, bool]]:
        """Read pages to the end. Return what they contained."""
        found: list[tuple[str, str, bool]] = []
        has_more = True
        while has_more:
            page = await self.page()
            found += [(item["kind"], item["id"], item["deleted"]) for item in page["items"]]
            has_more = page["has_more"]
        return found


async def stored(client: httpx.AsyncClient) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the tasks and lists that the collections return."""
    items: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, url in (("task", ALICE), ("list", LISTS)):
        params: dict[str, Any] | None = {"limit": 200}
        while params:
            page = (await client.get(url, params=params)).json()
            items |= {(kind, item["id"]): item for item in page["items"]}
            cursor = page["next_cursor"]
            params = None if cursor is None else {"limit": 200, "cursor": cursor}
    return items


async def create(client: ContractClient, **properties: Any) -> str:
    response = await client.post(ALICE, json={"title": "a", **properties})
    id_: str = response.json()["id"]
    return id_


@pytest.mark.requirement("FR-206", "FR-207", "FR-208")
@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_walks_return_each_change_once_and_in_order(
    client: ContractClient, limit: int
) -> None:
    copy = Copy(client, limit)
    first, second = await create(client), await create(client)
    task_list = (await client.post(LISTS, json={"name": "a"})).json()["id"]
    await client.patch(f"{ALICE}/{first}", json={"list_id": task_list})
    assert await copy.walk() == [
        ("task", second, False), ("list", task_list, False), ("task", first, False)
    ]  # fmt: skip
    assert copy.items == await stored(client)
    assert await copy.walk() == []
    await client.delete(f"{ALICE}/{second}")
    await client.patch(f"{LISTS}/{task_list}", json={"name": "b"})
    await client.patch(f"{ALICE}/{first}", json={"title": "b"})
    await client.patch(f"{ALICE}/{first}", json={"title": "c"})
    assert await copy.walk() == [
        ("task", second, True), ("list", task_list, False), ("task", first, False)
    ]  # fmt: skip
    assert copy.items == await stored(client)


@pytest.mark.requirement("FR-208")
async def test_change_during_a_walk_is_returned_by_it(client: ContractClient) -> None:
    ids = [await create(client) for _ in range(4)]
    copy = Copy(client, limit=2)
    assert (await copy.page())["has_more"] is True
    await client.patch(f"{ALICE}/{ids[0]}", json={"title": "b"})
    await client.delete(f"{ALICE}/{ids[1]}")
    assert await copy.walk() == [
        ("task", ids[2], False), ("task", ids[3], False), ("task", ids[0], False),
        ("task", ids[1], True),
    ]  # fmt: skip
    assert copy.items == await stored(client)


@pytest.mark.requirement("FR-209")
async def test_new_user_has_a_token_that_stays_valid(client: ContractClient) -> None:
    copy = Copy(client)
    assert (await copy.page())["items"] == []
    assert await copy.walk() == []
    task = await create(client)
    assert await copy.walk() == [("task", task, False)]


@pytest.mark.requirement("FR-209")
async def test_token_is_valid_on_every_replica(client: ContractClient, database_url: str) -> None:
    copy = Copy(client)
    await create(client)
    await copy.walk()
    task = await create(client)
    async with serving(database_url) as replica:
        copy.client = replica
        assert await copy.walk() == [("task", task, False)]


@pytest.mark.requirement("FR-204", "FR-210")
@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_deleted_task_is_returned_with_its_subtasks(
    client: ContractClient, limit: int
) -> None:
    parent = await create(client)
    subtasks = [await create(client, parent_id=parent) for _ in range(4)]
    copy = Copy(client, limit)
    await copy.walk()
    await client.delete(f"{ALICE}/{parent}")
    deleted = await copy.walk()
    assert sorted(deleted) == sorted(("task", id_, True) for id_ in (parent, *subtasks))
    assert copy.items == {}


@pytest.mark.requirement("FR-211")
@pytest.mark.parametrize("kind", ["task", "list"])
async def test_recreated_item_hides_its_tombstone(
    client: ContractClient, database: asyncpg.Connection, kind: str
) -> None:
    copy = Copy(client)
    id_ = str(UUID(int=1))
    url, body = (f"{ALICE}/{id_}", BODY) if kind == "task" else (f"{LISTS}/{id_}", {"name": "a"})
    # A task and a list may have the same ID.
    other = (f"{LISTS}/{id_}", {"name": "a"}) if kind == "task" else (f"{ALICE}/{id_}", BODY)
    await client.put(other[0], json=other[1])
    for _ in range(2):
        await client.put(url, json=body)
        await client.delete(url)
    await copy.walk()
    await client.put(url, json=body)
    assert await database.fetchval("SELECT count(*) FROM tombstones") == 2  # of two deletes
    assert await copy.walk() == [(kind, id_, False)]
    assert (kind, id_, True) not in await Copy(client).walk()
    await client.delete(url)
    assert await copy.walk() == [(kind, id_, True)]
    assert copy.items == await stored(client)


@pytest.mark.requirement("FR-212")
async def test_token_before_a_removed_tombstone_is_expired(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    task = await create(client)
    behind, current = Copy(client), Copy(client)
    await behind.walk()
    await client.delete(f"{ALICE}/{task}")
    await current.walk()
    await database.execute(REMOVE_TOMBSTONES)
    response = await client.get(CHANGES, params={"since": behind.since})
    assert_problem(response, 410, "token-expired")
    assert await current.walk() == []
    behind.since, behind.items = None, {}
    assert await behind.walk() == []


@pytest.mark.requirement("FR-206", "FR-212")
async def test_first_walk_needs_no_removed_tombstone(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    ids = [await create(client) for _ in range(3)]
    await client.delete(f"{ALICE}/{ids[2]}")
    await database.execute(REMOVE_TOMBSTONES)
    copy = Copy(client, limit=1)
    assert await copy.walk() == [("task", ids[0], False), ("task", ids[1], False)]


@pytest.mark.requirement("FR-212")
@pytest.mark.parametrize("pages", [0, 1])
async def test_first_walk_needs_tombstones_since_its_start(
    client: ContractClient, database: asyncpg.Connection, pages: int
) -> None:
    ids = [await create(client) for _ in range(5)]
    copy = Copy(client, limit=1)
    await copy.page()
    await client.delete(f"{ALICE}/{ids[0]}")
    for _ in range(pages):
        await copy.page()
    await database.execute(REMOVE_TOMBSTONES)
    response = await client.get(CHANGES, params={"since": copy.since})
    assert_problem(response, 410, "token-expired")


@pytest.mark.requirement("FR-212")
@pytest.mark.parametrize(("pages", "status"), [(1, 410), (2, 200)])
async def test_token_within_a_revision_needs_the_tombstones_of_this_revision(
    client: ContractClient, database: asyncpg.Connection, pages: int, status: int
) -> None:
    parent = await create(client)
    await create(client, parent_id=parent)
    copy = Copy(client, limit=1)
    await copy.walk()
    await client.delete(f"{ALICE}/{parent}")  # two tombstones of one revision
    for _ in range(pages):
        await copy.page()
    await database.execute(REMOVE_TOMBSTONES)
    response = await client.get(CHANGES, params={"since": copy.since})
    assert response.status_code == status


@pytest.mark.requirement("FR-205", "FR-212")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET epoch = gen_random_uuid()",
        "UPDATE users SET revision = revision - 1",  # a restored backup without a new epoch
        "DELETE FROM users",
        "TRUNCATE users, tasks",
    ],
)
async def test_token_of_another_epoch_is_expired(
    client: ContractClient, database: asyncpg.Connection, statement: str
) -> None:
    await create(client)
    copy = Copy(client)
    await copy.walk()
    await database.execute(statement)
    response = await client.get(CHANGES, params={"since": copy.since})
    assert_problem(response, 410, "token-expired")


@pytest.mark.requirement("FR-213")
@pytest.mark.parametrize("name", ["changed", "other user", "other secret"])
async def test_token_that_was_not_issued_is_rejected(
    client: ContractClient, database_url: str, name: str
) -> None:
    await create(client)
    copy = Copy(client)
    await copy.walk()
    assert copy.since is not None
    token = copy.since[:30] + ("A" if copy.since[30] != "A" else "B") + copy.since[31:]
    url = CHANGES.replace("alice", "bob") if name == "other user" else CHANGES
    params = {"since": token if name == "changed" else copy.since}
    if name == "other secret":
        async with serving(database_url, cursor_secret=Secret("s" * 32)) as other:
            response = await other.get(url, params=params)
    else:
        response = await client.get(url, params=params)
    assert_problem(response, 400, "invalid-token", "since")


@pytest.mark.requirement("FR-214")
async def test_page_has_a_maximum_of_bytes(client: ContractClient) -> None:
    # Control characters are six bytes in JSON and one byte in the database.
    texts = ["\x01" * 16_384] * 12 + ["ä" * 16_384] * 40
    for text in texts:
        await client.post(ALICE, json={"title": "a", "description": text})
    copy = Copy(client, limit=200)
    sizes = []
    has_more = True
    while has_more:
        page = await copy.page()
        has_more = page["has_more"]
        sizes.append(len(page["items"]))
    assert sum(sizes) == len(texts)
    assert len(sizes) == 3
    assert copy.items == await stored(client)
    response = await client.get(CHANGES, params={"limit": 200})
    assert 900_000 < len(response.content) <= 1_048_576


@pytest.mark.requirement("FR-239")
@pytest.mark.parametrize("limit", [1, 2])
async def test_old_rows_are_returned_in_pages(
    client: ContractClient, database: asyncpg.Connection, limit: int
) -> None:
    # All of them have revision 0, and a list has the ID of a task.
    await database.execute(OLD_ROWS.format(table="lists", column="name", count=3))
    await database.execute(OLD_ROWS.format(table="tasks", column="title", count=4))
    copy = Copy(client, limit)
    walked = await copy.walk()
    assert len(set(walked)) == len(walked) == 7
    assert copy.items == await stored(client)
    assert await copy.walk() == []
    task = f"{ALICE}/00000000-0000-7000-8000-000000000001"
    await client.delete(task)
    assert await copy.walk() == [("task", task.rpartition("/")[2], True)]


@pytest.mark.requirement("FR-206")
async def test_users_have_separate_feeds(client: ContractClient) -> None:
    await create(client)
    bob = Copy(client, url=CHANGES.replace("alice", "bob"))
    assert await bob.walk() == []
    task = await client.post(tasks_of("bob"), json={"title": "b"})
    assert await bob.walk() == [("task", task.json()["id"], False)]


@pytest.mark.requirement("NFR-206")
async def test_page_reads_only_its_rows(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await create(client)
    await database.execute(OLD_ROWS.format(table="tasks", column="title", count=5_000))
    await database.execute(
        "UPDATE tasks SET revision = 1 + right(id::text, 6)::int WHERE title = 'Old'"
    )
    await database.execute("ANALYZE tasks")
    sql, arguments, _ = compile_statement(
        READ_CHANGES,
        {"owner": "alice", "since_revision": 2_500, "since_id": UUID(int=0), "since_kind": 255,
         "row_limit": 11},
    )  # fmt: skip
    rows = await database.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert re.search(r"Index.* Scan using ix_tasks_user_id_revision_id .*rows=11(\.00)? ", plan), (
        plan
    )
    assert "Seq Scan on tasks" not in plan
    assert "Rows Removed" not in plan


@pytest.mark.requirement("FR-202", "FR-207", "FR-219", "NFR-203")
@pytest.mark.parametrize("limit", [5, 200])
async def test_copy_next_to_sixteen_writers_equals_the_database(
    writers: httpx.AsyncClient, limit: int
) -> None:
    ids = [str(UUID(int=number)) for number in range(1, 13)]
    copy, seen, finished = Copy(writers, limit), [], asyncio.Event()

    async def follow() -> None:
        while not finished.is_set():
            seen.extend(await copy.walk())

    following = asyncio.create_task(follow())
    acknowledged = sum(await asyncio.gather(*(write(writers, n, ids) for n in range(WRITERS))))
    finished.set()
    await following
    await copy.walk()
    assert seen
    assert acknowledged
    assert copy.items == await stored(writers)
