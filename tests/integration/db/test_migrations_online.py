"""Migrations from versions 1.0.0 and 1.1.0 while their processes keep running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from datetime import date
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from alembic import command
from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError

from app.db.database import SCHEMA_REVISION, Database
from app.db.migrations import MigrationError, renew_epochs, upgrade
from app.domain.changes.problems import TokenExpired
from app.domain.changes.repository import ChangeRepository
from app.domain.changes.tokens import START, FeedPosition
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import (
    CountTasksQuery,
    DueInput,
    LabelCount,
    ListTasksQuery,
    Priority,
    SortOrder,
    TaskCreate,
    TaskPatch,
    TaskSort,
)
from app.http.problems import IdempotencyKeyReused
from bench.scaling.migration import CREATE, DELETE, REVISION, Client
from tests.integration.db import version_1_1_0
from tests.integration.db.test_migrations import catalog, configuration, revisions
from tests.support.database import connect, database_config_for
from tests.support.process import execute, fetch, scratch_database, until

CLIENTS = 3
ROUNDS = 3  # before and after the migration
TASKS = 200
FILL = f"""
    INSERT INTO tasks (user_id, id, title, description, completed_at, created_at, updated_at, etag)
    SELECT 'alice', ('00000000-0000-7000-8000-' || lpad(number::text, 12, '0'))::uuid,
        'Buy milk no' || number, 'Two litres.', CASE WHEN number % 4 = 0 THEN at END, at, at,
        gen_random_uuid()
    FROM (
        SELECT number, timestamptz '2026-01-01' + number * interval '1 minute' AS at
        FROM generate_series(1, {TASKS}) AS number
    ) AS rows
"""  # noqa: S608 - a constant
OLD_ROWS = """
    SELECT user_id, id, title, description, completed, completed_at, created_at, updated_at, etag,
        search, ctid, xmin::text
    FROM tasks WHERE user_id = 'alice' ORDER BY id
"""
FILL_1_1_0 = """
    INSERT INTO lists (user_id, id, name, created_at, updated_at, etag)
    SELECT user_id, replace(id::text, '-8000-', '-9000-')::uuid, title, created_at, updated_at, etag
    FROM tasks;
    UPDATE tasks SET list_id = replace(id::text, '-8000-', '-9000-')::uuid, labels = 'home,shop',
        priority = 2, due_date = '2026-03-01', position = CASE WHEN completed THEN 'V' END;
    INSERT INTO tasks
        (user_id, id, title, parent_id, depth, parent_depth, created_at, updated_at, etag)
    SELECT user_id, gen_random_uuid(), 'Subtask', id, 1, 0, created_at, updated_at, etag FROM tasks;
    INSERT INTO idempotency_keys (user_id, key, payload_digest, task_id, etag, created_at)
    SELECT user_id, 'key-' || id, '\\x00', id, etag, now() FROM tasks WHERE depth = 0;
"""
ROWS_OF_1_1_0 = {
    "tasks": 2 * TASKS,
    "lists": TASKS,
    "idempotency_keys": TASKS,
}
NOT_VALID = """
    SELECT conname::text FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND NOT convalidated
    UNION ALL
    SELECT indexrelid::regclass::text FROM pg_index
    JOIN pg_class ON pg_class.oid = indrelid AND relnamespace = 'public'::regnamespace
    WHERE NOT indisvalid
"""


OPEN = False
# Statements of a migration that change the database.
CHANGES = ("ALTER", "CREATE", "DROP", "INSERT", "UPDATE", "DELETE", "SET")
WAITS_FOR_LOCK = """
    SELECT EXISTS (
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'ALTER%'
            AND wait_event_type = 'Lock'
    )
"""
BUILDS_INDEX = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE 'CREATE%INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'
"""


def task_id(number: int) -> UUID:
    """Return the ID of an old task; the first is 1."""
    return UUID(f"00000000-0000-7000-8000-{number:012}")


@pytest.fixture(scope="module")
def template_url(server_url: str) -> Iterator[str]:
    """A database of version 1.0.0 with tasks, to copy."""
    with scratch_database(server_url) as scratch:
        command.upgrade(configuration(scratch), REVISION)
        execute(scratch, FILL)
        yield scratch


@pytest.fixture
def url(server_url: str, template_url: str) -> Iterator[str]:
    """A database of version 1.0.0 with tasks."""
    with copied_database(server_url, template_url) as scratch:
        yield scratch


def copied_database(server_url: str, template_url: str) -> AbstractContextManager[str]:
    return scratch_database(server_url, f"TEMPLATE {make_url(template_url).database}")


@pytest.fixture(scope="module")
def template_url_1_1_0(server_url: str, template_url: str) -> Iterator[str]:
    """A database of version 1.1.0 with tasks, lists and idempotency keys, to copy."""
    with copied_database(server_url, template_url) as scratch:
        command.upgrade(configuration(scratch), version_1_1_0.REVISION)
        execute(scratch, *FILL_1_1_0.split(";")[:-1])
        yield scratch


@pytest.fixture
def url_1_1_0(server_url: str, template_url_1_1_0: str) -> Iterator[str]:
    """A database of version 1.1.0 with tasks, lists and idempotency keys."""
    with copied_database(server_url, template_url_1_1_0) as scratch:
        yield scratch


@asynccontextmanager
async def running_clients(
    url: str, client_type: type[Client] = Client
) -> AsyncIterator[list[Client]]:
    """Run clients of a previous version until the end of the block. Their errors are raised."""
    connections = [await connect(url) for _ in range(CLIENTS)]
    clients = [client_type(each, f"client-{number}") for number, each in enumerate(connections)]
    finished = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(finished.is_set))
        await rounds_of(clients)
        yield clients
        await rounds_of(clients)
        finished.set()
    for connection in connections:
        await connection.close()


async def rounds_of(clients: list[Client]) -> None:
    """Wait until every client has sent more rounds."""
    limits = [client.rounds + ROUNDS for client in clients]

    async def are_sent() -> bool:
        return all(client.rounds >= limit for client, limit in zip(clients, limits, strict=True))

    await until(are_sent)


@asynccontextmanager
async def repository_on(url: str) -> AsyncIterator[TaskRepository]:
    """The repository of this version."""
    database = Database(database_config_for(url), pool_size=2, timeout=10)
    yield TaskRepository(database.fetch)
    await database.close()


def assert_complete(url: str) -> None:
    """Check that the schema is that of an uninterrupted migration."""
    assert revisions(url) == [(SCHEMA_REVISION,)]
    assert fetch(url, NOT_VALID) == []


# --- processes of version 1.0.0 ----------------------------------------------------------------


@pytest.mark.requirement("FR-150", "FR-151")
def test_clients_of_the_previous_version_notice_no_migration(url: str) -> None:
    async def migrate() -> list[int]:
        async with running_clients(url) as clients:
            before = [client.rounds for client in clients]
            await asyncio.to_thread(upgrade, database_config_for(url))
            return [client.rounds - rounds for client, rounds in zip(clients, before, strict=True)]

    rows, file = fetch(url, OLD_ROWS), fetch(url, "SELECT pg_relation_filenode('tasks')")
    assert sum(asyncio.run(migrate())) > 0
    assert_complete(url)
    assert len(rows) == TASKS
    assert fetch(url, OLD_ROWS) == rows
    assert fetch(url, "SELECT pg_relation_filenode('tasks')") == file


@pytest.mark.requirement("FR-151")
def test_previous_version_cannot_delete_a_task_with_subtasks(url: str) -> None:
    upgrade(database_config_for(url))

    async def delete() -> None:
        parent = task_id(1)
        async with repository_on(url) as tasks:
            new = TaskCreate("Subtask", parent_id=str(parent))
            subtask = await tasks.create_task("alice", new, None)
        connection = await connect(url)
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="fk_tasks_parent_id"):
            await connection.fetch(DELETE, "alice", parent)
        for task in (subtask.id, parent):
            assert len(await connection.fetch(DELETE, "alice", task)) == 1
        await connection.close()

    asyncio.run(delete())


# --- processes of version 1.1.0 ----------------------------------------------------------------


def snapshot(url: str, table: str) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Return the columns of version 1.1.0 of all old rows, and the file of a table."""
    row = "to_jsonb(old) - 'revision' - 'response', ctid::text, xmin::text"
    rows = f"SELECT {row} FROM {table} AS old WHERE user_id = 'alice' ORDER BY ctid"  # noqa: S608 - constants
    return fetch(url, rows), fetch(url, f"SELECT pg_relation_filenode('{table}')")


async def migrate_with_clients(url: str) -> int:
    """Migrate while clients of version 1.1.0 run. Return their rounds during the migration."""
    async with running_clients(url, version_1_1_0.Client) as clients:
        before = sum(client.rounds for client in clients)
        await asyncio.to_thread(upgrade, database_config_for(url))
        return sum(client.rounds for client in clients) - before


@pytest.mark.requirement("FR-237", "FR-238")
def test_clients_of_version_1_1_0_notice_no_migration(url_1_1_0: str) -> None:
    before = {table: snapshot(url_1_1_0, table) for table in ROWS_OF_1_1_0}
    assert asyncio.run(migrate_with_clients(url_1_1_0)) > 0
    assert_complete(url_1_1_0)
    assert {table: len(rows) for table, (rows, _) in before.items()} == ROWS_OF_1_1_0
    assert {table: snapshot(url_1_1_0, table) for table in ROWS_OF_1_1_0} == before


@pytest.mark.requirement("FR-238")
def test_clients_of_version_1_1_0_run_next_to_this_version(url_1_1_0: str) -> None:
    async def change_the_same_users() -> None:
        async with (
            repository_on(url_1_1_0) as tasks,
            running_clients(url_1_1_0, version_1_1_0.Client) as clients,
        ):
            for client in clients * ROUNDS:
                user = client.user_id
                task = await tasks.create_task(user, TaskCreate("New"), None)
                await tasks.create_task(user, TaskCreate("New", parent_id=str(task.id)), None)
                await tasks.update_task(user, task.id, TaskPatch(title="Other"), if_match=None)
                await tasks.delete_task(user, task.id, if_match=None)

    upgrade(database_config_for(url_1_1_0))
    asyncio.run(change_the_same_users())


@pytest.mark.requirement("FR-237", "FR-238")
@pytest.mark.parametrize(("first", "second"), list(permutations(ROWS_OF_1_1_0, 2)))
def test_transaction_that_uses_two_tables_does_not_deadlock_with_the_migration(
    url_1_1_0: str, first: str, second: str
) -> None:
    """The delete of a list, for example, also reads tasks."""

    async def migrate() -> None:
        connection, other = await connect(url_1_1_0), await connect(url_1_1_0)
        await connection.execute(f"BEGIN; SELECT FROM {first}")
        migration = asyncio.to_thread(upgrade, database_config_for(url_1_1_0))
        migrating = asyncio.create_task(migration)
        await until(lambda: other.fetchval(WAITS_FOR_LOCK))
        await connection.execute(f"SELECT FROM {second}; COMMIT")
        await migrating
        await connection.close()
        await other.close()

    asyncio.run(migrate())
    assert_complete(url_1_1_0)


async def stored_ids(connection: asyncpg.Connection) -> set[UUID]:
    """Return the IDs of all tasks and lists of a user."""
    sql = "SELECT id FROM {} WHERE user_id = 'alice'"
    rows = await connection.fetch(f"{sql.format('tasks')} UNION ALL {sql.format('lists')}")
    return {row["id"] for row in rows}


async def walk(changes: ChangeRepository, since: FeedPosition) -> tuple[set[UUID], FeedPosition]:
    """Return the IDs of the tasks and lists that the feed returns, and the last position."""
    ids: list[UUID] = []
    while True:
        page = await changes.list_changes("alice", since, 100)
        ids += [UUID(msgspec.json.decode(item.json)["id"]) for item in page.items]
        since = page.position
        if not page.has_more:
            assert len(set(ids)) == len(ids)
            return set(ids), since


@pytest.mark.requirement("FR-239", "FR-240")
def test_new_epoch_returns_the_changes_of_version_1_1_0(url_1_1_0: str) -> None:
    async def read() -> None:
        old = await connect(url_1_1_0)
        client = version_1_1_0.Client(old, "alice")
        database = Database(database_config_for(url_1_1_0), pool_size=2, timeout=10)
        changes = ChangeRepository(database.fetch)
        ids, position = await walk(changes, START)
        assert ids == await stored_ids(old)
        created = await client.create("New")
        await client.delete(task_id(1))
        assert await walk(changes, position) == (set(), position)
        assert await asyncio.to_thread(renew_epochs, database_config_for(url_1_1_0)) == 1
        with pytest.raises(TokenExpired):
            await walk(changes, position)
        assert (await walk(changes, START))[0] == await stored_ids(old)
        assert await stored_ids(old) - ids == {created}
        assert task_id(1) in ids - await stored_ids(old)
        await database.close()
        await old.close()

    upgrade(database_config_for(url_1_1_0))
    asyncio.run(read())


# --- this version after the migration ----------------------------------------------------------


@pytest.mark.requirement("FR-114", "FR-150")
def test_old_tasks_have_empty_properties_and_keep_their_order(url: str) -> None:
    upgrade(database_config_for(url))

    async def read() -> None:
        async with repository_on(url) as tasks:
            by_position, *_ = await tasks.list_tasks(
                "alice",
                ListTasksQuery(limit=200, sort=TaskSort.POSITION, order=SortOrder.ASC),
                None,
            )
            assert [task.id for task in by_position] == [task_id(n + 1) for n in range(TASKS)]
            queries: list[dict[str, Any]] = [
                {"list_id": "none"}, {"parent_id": "none"}, {"priority": "none"}, {"has_due": False}
            ]  # fmt: skip
            for query in queries:
                counted, _ = await tasks.count_tasks("alice", CountTasksQuery(**query))
                assert counted.count == TASKS
            task = by_position[0]
            assert (task.list_id, task.parent_id, task.priority) == (None, None, Priority.NONE)
            assert (task.due, task.due_at, task.labels) == (None, None, ())
            new = await tasks.create_task("alice", TaskCreate("New"), None)
            assert new.position > max(task.position for task in by_position)

    asyncio.run(read())


@pytest.mark.requirement("FR-140", "FR-148")
def test_old_tasks_can_be_organized(url: str) -> None:
    upgrade(database_config_for(url))

    async def organize() -> None:
        async with repository_on(url) as tasks:
            due = DueInput(date(2026, 3, 1), None, None)
            patch = TaskPatch(labels=("shop", "errands"), priority=Priority.HIGH, due=due)
            await tasks.update_task("alice", task_id(2), patch, if_match=None)
            queries: list[dict[str, Any]] = [
                {"labels": "errands,shop"}, {"priority": "high"}, {"has_due": True},
                {"labels": "shop", "q": "milk NO2 litres"},
            ]  # fmt: skip
            for query in queries:
                page, *_ = await tasks.list_tasks("alice", ListTasksQuery(**query), None)
                assert [task.id for task in page] == [task_id(2)]
            labels, _ = await tasks.list_labels("alice")
            assert labels.items == [LabelCount("errands", 1), LabelCount("shop", 1)]
            found, *_ = await tasks.list_tasks("alice", ListTasksQuery(q="no17"), None)
            assert {task.title for task in found} >= {"Buy milk no17", "Buy milk no170"}

    asyncio.run(organize())


@pytest.mark.requirement("FR-149")
def test_key_of_the_previous_version_returns_its_task(url: str) -> None:
    async def create() -> UUID:
        connection = await connect(url)
        created = await Client(connection, "alice").create_idempotently("Once", "key")
        await connection.close()
        return created

    async def repeat() -> None:
        async with repository_on(url) as tasks:
            task = await tasks.create_task("alice", TaskCreate("Once"), "key")
            assert (task.id, task.labels, task.priority) == (created, (), Priority.NONE)
            assert await tasks.get_task("alice", created) == task
            with pytest.raises(IdempotencyKeyReused):
                await tasks.create_task("alice", TaskCreate("Once", labels=("shop",)), "key")

    created = asyncio.run(create())
    upgrade(database_config_for(url))
    asyncio.run(repeat())


# --- locks and interruptions -------------------------------------------------------------------


INSERT_LIST = """
    INSERT INTO lists (user_id, id, name, created_at, updated_at, etag)
    VALUES ('alice', gen_random_uuid(), 'New', now(), now(), gen_random_uuid())
"""
INSERT_TASK = INSERT_LIST.replace("lists", "tasks").replace("name", "title")
INSERT_KEY = """
    INSERT INTO idempotency_keys (user_id, key, payload_digest, task_id, etag, created_at)
    VALUES ('alice', 'new', '', gen_random_uuid(), gen_random_uuid(), now())
"""


@pytest.mark.requirement("FR-150", "FR-237")
@pytest.mark.parametrize(
    ("revision", "table", "insert"),
    [
        ("0003", "tasks", INSERT_TASK),
        ("0005", "tasks", INSERT_TASK),
        ("0007", "tasks", INSERT_TASK),
        ("0008", "lists", INSERT_LIST),
        ("0009", "idempotency_keys", INSERT_KEY),
    ],
    ids=["0004", "0006", "0008", "0009", "0010"],
)
def test_migration_waits_for_a_lock_only_for_its_time_limit(
    url: str, revision: str, table: str, insert: str
) -> None:
    """The revision after this one needs a lock that excludes readers."""

    async def migrate() -> float:
        reader, writer = await connect(url), await connect(url)
        await reader.execute(f"BEGIN; SELECT FROM {table}")
        migration = asyncio.to_thread(command.upgrade, configuration(url), next_revision)
        migrating = asyncio.create_task(migration)
        await until(lambda: writer.fetchval(WAITS_FOR_LOCK))
        started_at = asyncio.get_running_loop().time()
        await writer.execute(insert)
        waited = asyncio.get_running_loop().time() - started_at
        with pytest.raises(DBAPIError, match="lock timeout"):
            await migrating
        await reader.close()
        await writer.close()
        return waited

    next_revision = f"{int(revision) + 1:04}"
    command.upgrade(configuration(url), revision)
    assert asyncio.run(migrate()) < 6
    assert revisions(url) == [(revision,)]
    upgrade(database_config_for(url))
    assert_complete(url)


@pytest.mark.requirement("FR-152")
def test_interrupted_migration_can_be_completed(server_url: str, template_url: str) -> None:
    with copied_database(server_url, template_url) as url:
        upgrade(database_config_for(url))
        expected = catalog(url)
    number, is_interrupted = 0, True
    while is_interrupted:
        number += 1
        with copied_database(server_url, template_url) as url:
            is_interrupted = interrupt(url, number)
            upgrade(database_config_for(url))
            assert_complete(url)
            assert catalog(url) == expected, f"after an interruption of statement {number}"
    assert number > 30


def interrupt(url: str, number: int) -> bool:
    """Fail before the statement with this number. Return whether there was one."""
    sent = 0

    def fail(_: Any, __: Any, sql: str, *___: Any) -> None:
        nonlocal sent
        sent += sql.startswith(CHANGES)
        if sent == number and sql.startswith(CHANGES):
            raise InterruptedError(sql)

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        with suppress(InterruptedError):
            command.upgrade(configuration(url), "head")
            return False
    finally:
        event.remove(Engine, "before_cursor_execute", fail)
    return True


@pytest.mark.requirement("FR-152")
def test_interrupted_index_is_replaced(url: str) -> None:
    async def interrupt_build() -> None:
        writer, other = await connect(url), await connect(url)
        await writer.execute("BEGIN")
        await writer.fetch(CREATE, "alice", uuid4(), "New", None, OPEN, uuid4())
        migrating = asyncio.create_task(asyncio.to_thread(upgrade, database_config_for(url)))
        await until(lambda: other.fetchval(BUILDS_INDEX))
        await other.execute(f"SELECT pg_cancel_backend(pid) FROM ({BUILDS_INDEX}) AS building")  # noqa: S608 - a constant
        with pytest.raises(MigrationError, match="canceling statement"):
            await migrating
        await writer.close()
        await other.close()

    command.upgrade(configuration(url), "0004")
    asyncio.run(interrupt_build())
    assert len(fetch(url, f"{NOT_VALID} AND NOT indisready")) > 0
    upgrade(database_config_for(url))
    assert_complete(url)
