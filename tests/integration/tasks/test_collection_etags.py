"""Entity tags of collections, and 304 while nothing has changed."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db.collections import READ_VERSION
from app.db.pool import PooledConnection
from app.db.statements import compile_statement
from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of
from tests.support.recorded_statements import record_statements

USER = "/api/v1/users/alice"
ALICE = tasks_of("alice")
LISTS = f"{USER}/lists"
TASK = f"{ALICE}/{UUID(int=1)}"
LIST = f"{LISTS}/{UUID(int=2)}"
BODY = {"title": "Buy milk", "description": None, "completed": False, "labels": ["shop"]}
COLLECTIONS: dict[str, dict[str, Any]] = {
    "tasks": {"url": ALICE},
    "tasks, in two ranges": {"url": ALICE, "params": {"sort": "priority"}},
    "tasks, filtered": {"url": ALICE, "params": {"q": "milk", "labels": "shop"}},
    "tasks, none": {"url": ALICE, "params": {"q": "unknown"}},
    "tasks, no word": {"url": ALICE, "params": {"q": "--"}},
    "count": {"url": f"{ALICE}/count"},
    "count, no word": {"url": f"{ALICE}/count", "params": {"q": "--"}},
    "labels": {"url": f"{USER}/labels"},
    "lists": {"url": LISTS},
}
CHANGES: dict[str, dict[str, Any]] = {
    "create task": {"method": "POST", "url": ALICE, "json": {"title": "a"}},
    "create task, once": {
        "method": "POST", "url": ALICE, "json": {"title": "a"},
        "headers": {"Idempotency-Key": "k"},
    },
    "replace task": {"method": "PUT", "url": TASK, "json": BODY},
    "update task": {"method": "PATCH", "url": TASK, "json": {"title": "Buy milk"}},
    "move task": {"method": "POST", "url": f"{TASK}/move", "json": {"after_id": None}},
    "delete task": {"method": "DELETE", "url": TASK},
    "create list": {"method": "POST", "url": LISTS, "json": {"name": "a"}},
    "replace list": {"method": "PUT", "url": LIST, "json": {"name": "a"}},
    "update list": {"method": "PATCH", "url": LIST, "json": {"name": "a"}},
    "move list": {"method": "POST", "url": f"{LIST}/move", "json": {"after_id": None}},
    "delete list": {"method": "DELETE", "url": LIST},
}  # fmt: skip
NO_CHANGES: dict[str, tuple[int, dict[str, Any]]] = {
    "read": (200, {"method": "GET", "url": TASK}),
    "empty patch": (200, {"method": "PATCH", "url": TASK, "json": {}}),
    "other tag": (
        412,
        {"method": "PATCH", "url": TASK, "json": {"title": "a"},
         "headers": {"If-Match": FOREIGN_TAG}},
    ),
    "unknown task": (404, {"method": "DELETE", "url": f"{ALICE}/{UUID(int=9)}"}),
    "unknown parent": (
        409, {"method": "PATCH", "url": TASK, "json": {"parent_id": str(UUID(int=9))}}
    ),
    "another user": (201, {"method": "POST", "url": tasks_of("bob"), "json": {"title": "a"}}),
}  # fmt: skip


@pytest.fixture
async def stored(client: ContractClient) -> ContractClient:
    """A client of a service with a task and a list."""
    await client.put(TASK, json=BODY)
    await client.put(LIST, json={"name": "Groceries"})
    return client


async def read(client: ContractClient, name: str, etag: str | None = None) -> Any:
    headers = {} if etag is None else {"If-None-Match": etag}
    return await client.get(**COLLECTIONS[name], headers=headers)


@pytest.mark.requirement("FR-220", "FR-221")
@pytest.mark.parametrize("name", COLLECTIONS)
async def test_unchanged_collection_is_304(stored: ContractClient, name: str) -> None:
    first = await read(stored, name)
    etag = first.headers["etag"]
    assert first.status_code == 200
    assert etag.startswith('W/"')
    # Weak comparison ignores the prefix.
    for tag in (etag, etag.removeprefix("W/"), f"{FOREIGN_TAG}, {etag}", "*"):
        unchanged = await read(stored, name, tag)
        assert unchanged.status_code == 304
        assert unchanged.headers["etag"] == etag
    other = await read(stored, name, FOREIGN_TAG)
    assert (other.status_code, other.json(), other.headers["etag"]) == (200, first.json(), etag)
    head = await stored.head(**COLLECTIONS[name])
    assert head.headers["etag"] == etag


@pytest.mark.requirement("FR-220", "FR-221")
@pytest.mark.parametrize("change", CHANGES)
async def test_every_change_gives_collections_another_tag(
    stored: ContractClient, change: str
) -> None:
    tags = {name: (await read(stored, name)).headers["etag"] for name in COLLECTIONS}
    assert (await stored.request(**CHANGES[change])).is_success
    for name, etag in tags.items():
        response = await read(stored, name, etag)
        assert response.status_code == 200
        assert response.headers["etag"] != etag


@pytest.mark.requirement("FR-203", "FR-220")
@pytest.mark.parametrize("name", NO_CHANGES)
async def test_request_without_a_change_keeps_the_tag(stored: ContractClient, name: str) -> None:
    etag = (await read(stored, "tasks")).headers["etag"]
    status, request = NO_CHANGES[name]
    assert (await stored.request(**request)).status_code == status
    assert (await read(stored, "tasks", etag)).status_code == 304


@pytest.mark.requirement("FR-220")
async def test_users_have_different_tags(stored: ContractClient) -> None:
    await stored.post(tasks_of("bob"), json={"title": "a"})
    await stored.post(tasks_of("bob"), json={"title": "b"})
    bob = await stored.get(tasks_of("bob"))
    assert bob.headers["etag"] != (await read(stored, "tasks")).headers["etag"]


@pytest.mark.requirement("FR-221")
async def test_invalid_query_is_not_304(stored: ContractClient) -> None:
    response = await stored.get(ALICE, params={"cursor": "A" * 56}, headers={"If-None-Match": "*"})
    assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("NFR-207")
@pytest.mark.parametrize("name", COLLECTIONS)
async def test_304_reads_one_row_by_its_key(
    stored: ContractClient,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    etag = (await read(stored, name)).headers["etag"]
    statements = record_statements(monkeypatch)
    assert (await read(stored, name, etag)).status_code == 304
    sql, arguments, _ = compile_statement(READ_VERSION, {"owner": "alice"})
    assert statements == [sql]
    await database.execute("SET enable_seqscan = off")  # the table has two rows
    rows = await database.fetch(f"EXPLAIN {sql}", *arguments)
    await database.execute("RESET enable_seqscan")
    assert "Index Scan using pk_users" in "\n".join(row[0] for row in rows)


@pytest.mark.requirement("FR-221")
@pytest.mark.parametrize("name", ["tasks, none", "labels"])
async def test_empty_collection_is_read_after_its_version(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await client.post(ALICE, json={"title": "a"})
    version, *_ = compile_statement(READ_VERSION, {"owner": "alice"})
    fetch = PooledConnection.fetch
    created = False

    async def create_after_version(connection: Any, sql: str, *args: Any, **options: Any) -> Any:
        nonlocal created
        rows = await fetch(connection, sql, *args, **options)
        if sql == version and not created:
            created = True
            body = {"title": "unknown", "labels": ["shop"]}
            assert (await client.post(ALICE, json=body)).status_code == 201
        return rows

    monkeypatch.setattr(PooledConnection, "fetch", create_after_version)
    first = await read(client, name)
    assert created
    assert len(first.json()["items"]) == 1
    # The tag is that of the state before the change, so the client reads the collection again.
    assert (await read(client, name, first.headers["etag"])).status_code == 200


@pytest.mark.requirement("FR-221")
async def test_known_version_is_not_read_again_for_an_empty_page(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.post(ALICE, json={"title": "a"})
    for name in ("tasks, none", "tasks, no word", "labels"):
        with monkeypatch.context() as patch:
            statements = record_statements(patch)
            assert (await read(client, name, FOREIGN_TAG)).status_code == 200
        assert len(statements) == (1 if name == "tasks, no word" else 2)


@pytest.mark.requirement("FR-221", "FR-235")
@pytest.mark.parametrize("statement", ["DELETE FROM users", "UPDATE users SET epoch = '{}'"])
async def test_tag_of_another_epoch_is_not_304(
    stored: ContractClient, database: asyncpg.Connection, statement: str
) -> None:
    etag = (await read(stored, "tasks")).headers["etag"]
    await database.execute(statement.format(UUID(int=9)))
    response = await read(stored, "tasks", etag)
    assert response.status_code == 200
    assert response.headers["etag"] != etag


@pytest.mark.requirement("FR-221", "FR-240")
async def test_tag_of_a_user_without_a_revision_is_not_304(
    stored: ContractClient, database: asyncpg.Connection
) -> None:
    # Version 1.1.0 changed the tasks of this user, and does not count its changes.
    await database.execute("DELETE FROM users")
    etag = (await read(stored, "tasks")).headers["etag"]
    assert (await read(stored, "tasks", etag)).status_code == 200
    assert (await read(stored, "tasks", "*")).status_code == 304


class Poller:
    """Polls two pages with their last tags, and stores them."""

    pages: tuple[dict[str, Any], ...] = (
        {"q": "changed", "limit": 200},
        {"sort": "position", "limit": 200},
    )

    def __init__(self, client: ContractClient) -> None:
        self.client = client
        self.tags = [FOREIGN_TAG for _ in self.pages]
        self.copies: list[Any] = [None for _ in self.pages]
        self.is_stopped = False

    async def poll(self) -> list[int]:
        """Poll each page, and return the statuses."""
        statuses = []
        for number, params in enumerate(self.pages):
            headers = {"If-None-Match": self.tags[number]}
            response = await self.client.get(ALICE, params=params, headers=headers)
            statuses.append(response.status_code)
            if response.status_code == 200:
                self.tags[number] = response.headers["etag"]
                self.copies[number] = response.json()
        return statuses

    async def run(self) -> None:
        while not self.is_stopped:
            await self.poll()


@pytest.mark.requirement("FR-221")
async def test_poller_next_to_writers_has_the_last_state(stored: ContractClient) -> None:
    async def write(number: int) -> None:
        task = f"{ALICE}/{UUID(int=100 + number)}"
        for _ in range(10):
            await stored.put(task, json={**BODY, "title": "changed"})
            await stored.delete(task)
        await stored.put(task, json={**BODY, "title": "changed"})

    poller = Poller(stored)
    polling = asyncio.create_task(poller.run())
    await asyncio.gather(*map(write, range(4)))
    poller.is_stopped = True
    await polling
    await poller.poll()
    assert await poller.poll() == [304, 304]
    current = [(await stored.get(ALICE, params=params)).json() for params in poller.pages]
    assert poller.copies == current
