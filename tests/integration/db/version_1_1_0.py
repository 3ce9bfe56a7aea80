"""The statements of version 1.1.0, and a client that sends those of every operation."""

# ruff: noqa: S608 - statements contain only text of this file

from __future__ import annotations

from hashlib import blake2b
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from bench.scaling.migration import COMPLETED, OPEN
from bench.scaling.migration import Client as ClientOf100

REVISION = "0007"

_TASK = """
    tasks.id, tasks.user_id, tasks.title, tasks.description, tasks.completed, tasks.completed_at,
    tasks.list_id, tasks.parent_id, tasks.priority, tasks.due_date, tasks.due_time,
    tasks.due_timezone, tasks.labels, tasks.position, tasks.created_at, tasks.updated_at, tasks.etag
"""
_LIST = """
    lists.user_id, lists.id, lists.name, lists.created_at, lists.updated_at, lists.etag,
    lists.position
"""
_POSITION = (
    "coalesce({0}.position, lpad(CAST(trunc((EXTRACT(epoch FROM timezone('UTC', {0}.created_at)) "
    "+ 62135596800) * 1000000) AS TEXT), 18, '0') || right(CAST({0}.id AS TEXT), 8))"
)
_TASK_POSITION, _LIST_POSITION = _POSITION.format("tasks"), _POSITION.format("lists")
_NEXT = "timezone('UTC', timezone('UTC', {}) + interval '1 microsecond')"
_NEXT_UPDATED_AT = f"greatest(now(), {_NEXT.format('tasks.updated_at')})"
_NEXT_ON_CONFLICT = f"greatest(excluded.updated_at, {_NEXT.format('tasks.updated_at')})"
_PROPERTIES = (
    "title", "description", "list_id", "parent_id", "depth", "priority", "due_date", "due_time",
    "due_timezone", "labels",
)  # fmt: skip
_DUE_DATE = """
    CASE WHEN $11::DATE IS NOT NULL
    THEN greatest(date '0001-01-01', least($11::DATE, date '9999-12-31')) END
"""

# --- tasks -------------------------------------------------------------------------------------

_INSERT = f"""
    INSERT INTO tasks (user_id, id, title, description, completed_at, created_at, updated_at, etag,
        list_id, parent_id, depth, priority, due_date, due_time, due_timezone, labels)
    VALUES ($1::VARCHAR COLLATE "C", $2::UUID, $3::VARCHAR, $4::VARCHAR,
        CASE WHEN $5::BOOLEAN THEN now() END, now(), now(), $6::UUID, $7::UUID, $8::UUID,
        $9::SMALLINT, $10::SMALLINT, {_DUE_DATE}, $12::TIME WITHOUT TIME ZONE, $13::VARCHAR,
        $14::VARCHAR)
"""
CREATE = f"{_INSERT} RETURNING {_TASK}"
CREATE_IF_ABSENT = f"{_INSERT} ON CONFLICT (user_id, id) DO NOTHING RETURNING {_TASK}"
REPLACE = f"""
    {_INSERT} ON CONFLICT (user_id, id) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in _PROPERTIES)},
        completed_at = CASE WHEN $5::BOOLEAN
            THEN coalesce(tasks.completed_at, {_NEXT_ON_CONFLICT}) END,
        updated_at = {_NEXT_ON_CONFLICT}, etag = excluded.etag
    RETURNING {_TASK}
"""
_EXPIRED_KEYS = """
    expired AS (
        SELECT idempotency_keys.key AS key FROM idempotency_keys
        WHERE idempotency_keys.user_id = $1::VARCHAR COLLATE "C"
            AND idempotency_keys.key != $2::VARCHAR COLLATE "C"
            AND idempotency_keys.created_at < now() - interval '24 hours'
        ORDER BY idempotency_keys.created_at LIMIT $3::INTEGER FOR UPDATE SKIP LOCKED
    ),
    deleted_expired AS (
        DELETE FROM idempotency_keys WHERE idempotency_keys.user_id = $1::VARCHAR COLLATE "C"
            AND idempotency_keys.key IN (SELECT expired.key FROM expired)
    )
"""
_KEY = """
    lock AS (SELECT pg_try_advisory_xact_lock($7::BIGINT) AS acquired),
    claimed AS (
        INSERT INTO idempotency_keys (user_id, key, payload_digest, task_id, etag, created_at)
        SELECT $1::VARCHAR COLLATE "C", $2::VARCHAR COLLATE "C", $4::BYTEA, $5::UUID, $6::UUID,
            now()
        FROM lock WHERE lock.acquired
        ON CONFLICT (user_id, key) DO UPDATE SET
            payload_digest = excluded.payload_digest, task_id = excluded.task_id,
            etag = excluded.etag, created_at = excluded.created_at
        WHERE idempotency_keys.created_at
            < timezone('UTC', timezone('UTC', excluded.created_at) - interval '24 hours')
        RETURNING idempotency_keys.payload_digest, idempotency_keys.task_id, idempotency_keys.etag,
            idempotency_keys.created_at
    )
"""
_CLAIM = """
    SELECT claimed.payload_digest, claimed.task_id, claimed.etag, claimed.created_at FROM claimed
    UNION ALL
    SELECT idempotency_keys.payload_digest, idempotency_keys.task_id, idempotency_keys.etag,
        idempotency_keys.created_at
    FROM idempotency_keys WHERE idempotency_keys.user_id = $1::VARCHAR COLLATE "C"
        AND idempotency_keys.key = $2::VARCHAR COLLATE "C"
        AND idempotency_keys.created_at >= now() - interval '24 hours'
"""
CLAIM_KEY = f"WITH {_EXPIRED_KEYS}, {_KEY} {_CLAIM}"
CREATE_IDEMPOTENTLY = f"""
    WITH {_KEY},
    inserted AS (
        INSERT INTO tasks (user_id, id, completed_at, created_at, updated_at, etag, title, labels)
        SELECT $1::VARCHAR COLLATE "C", claimed.task_id, NULL, claimed.created_at,
            claimed.created_at, claimed.etag, $8::VARCHAR, $9::VARCHAR
        FROM claimed
    ),
    {_EXPIRED_KEYS} {_CLAIM}
"""
GET = f"""
    SELECT {_TASK} FROM tasks
    WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.id = $2::UUID
"""
GET_SEVERAL = f"""
    SELECT {_TASK} FROM tasks
    WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.id = any($2::UUID[])
"""
LIST_BY_POSITION = f"""
    SELECT {_TASK}, octet_length(tasks.labels) + coalesce(octet_length(tasks.description), 0)
        > $2::INTEGER AS is_omitted
    FROM tasks WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.list_id = $3::UUID
        AND tasks.completed = $4::BOOLEAN
    ORDER BY {_TASK_POSITION} ASC, tasks.id ASC LIMIT $5
"""
COUNT = """
    SELECT count(*) AS count_1 FROM (
        SELECT 1 FROM tasks
        WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.parent_id = $2::UUID LIMIT $3
    ) AS anon_1
"""
LABELS = """
    SELECT used.label, count(*) AS count_1 FROM (
        SELECT unnest(string_to_array(tasks.labels, ',')) AS label FROM tasks
        WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND NOT tasks.completed AND tasks.labels != ''
    ) AS used
    GROUP BY used.label ORDER BY used.label COLLATE "C" LIMIT $2::INTEGER
"""
UPDATE = f"""
    UPDATE tasks SET title = $2::VARCHAR,
        completed_at = least(tasks.completed_at, {_NEXT_UPDATED_AT}),
        updated_at = {_NEXT_UPDATED_AT}, etag = $3::UUID
    WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.id = $4::UUID
        AND tasks.etag = any($5::UUID[])
    RETURNING {_TASK}
"""
DELETE = """
    WITH deleted AS (
        DELETE FROM tasks
        WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.id = $2::UUID RETURNING tasks.id
    ),
    deleted_subtasks AS (
        DELETE FROM tasks AS tasks_1 WHERE tasks_1.user_id = $1::VARCHAR COLLATE "C"
            AND tasks_1.parent_id IN (SELECT deleted.id FROM deleted)
    )
    SELECT deleted.id FROM deleted
"""
_LOCKED = f"""
    WITH locked AS (
        SELECT tasks.id AS id, {_TASK_POSITION} AS position FROM tasks
        WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.id = any($2::UUID[])
        ORDER BY tasks.id FOR NO KEY UPDATE
    )
"""
_UNCHANGED = """
    cardinality({0}::UUID[]) = (
        SELECT count(*) FROM locked
        JOIN unnest({0}::UUID[], {1}::TEXT[]) AS read(id, position) ON locked.id = read.id
        WHERE locked.position = read.position
    )
"""
MOVE = f"""
    {_LOCKED}
    UPDATE tasks SET updated_at = {_NEXT_UPDATED_AT}, etag = $3::UUID, list_id = $4::UUID,
        parent_id = $5::UUID, depth = $6::SMALLINT, position = $7::VARCHAR COLLATE "C"
    WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.id = $8::UUID
        AND tasks.id IN (SELECT locked.id FROM locked) AND {_UNCHANGED.format("$9", "$10")}
        AND tasks.list_id IS NOT DISTINCT FROM $11::UUID
        AND tasks.parent_id IS NOT DISTINCT FROM $12::UUID
    RETURNING {_TASK}
"""
_SIBLINGS = "UNION ALL".join(
    f"""
    (SELECT tasks.id AS id, {_TASK_POSITION} AS position FROM tasks
    WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.list_id = $2::UUID
        AND tasks.id != $3::UUID AND tasks.completed = {completed}
    ORDER BY {_TASK_POSITION} ASC, tasks.id ASC LIMIT $4::INTEGER)
    """
    for completed in ("false", "true")
)
SIBLINGS = f"""
    SELECT siblings.id, siblings.position FROM ({_SIBLINGS}) AS siblings
    ORDER BY siblings.position ASC, siblings.id ASC LIMIT $4::INTEGER
"""
RESPACE = f"""
    {_LOCKED}
    UPDATE tasks SET updated_at = {_NEXT_UPDATED_AT}, etag = anon_1.etag, position = anon_1.position
    FROM unnest($2::UUID[], $3::TEXT[], $4::UUID[]) AS anon_1(id, position, etag)
    WHERE tasks.user_id = $1::VARCHAR COLLATE "C" AND tasks.id = anon_1.id
        AND {_UNCHANGED.format("$2", "$5")}
"""

# --- lists: the statements of SQLAlchemy -------------------------------------------------------

LOCK = "SELECT pg_advisory_xact_lock($1::BIGINT) AS pg_advisory_xact_lock_1"
CREATE_LIST = """
    INSERT INTO lists (user_id, id, name, created_at, updated_at, etag, position)
    VALUES ($1::VARCHAR COLLATE "C", $2::UUID, $3::VARCHAR, now(), now(), $4::UUID,
        $5::VARCHAR COLLATE "C")
    RETURNING lists.created_at, lists.updated_at
"""
GET_LIST = f"""
    SELECT {_LIST} FROM lists
    WHERE lists.user_id = $1::VARCHAR COLLATE "C" AND lists.id = $2::UUID
"""
LOCK_LIST = f"{GET_LIST} FOR NO KEY UPDATE"
LIST_LISTS = f"""
    SELECT {_LIST} FROM lists WHERE lists.user_id = $1::VARCHAR COLLATE "C"
    ORDER BY {_LIST_POSITION} ASC, lists.id ASC LIMIT $2::INTEGER OFFSET $3::INTEGER
"""
_UPDATE_LIST = f"""
    UPDATE lists SET {{}},
        updated_at = greatest(now(), {_NEXT.format("updated_at")}), etag = $2::UUID
    WHERE lists.user_id = $1::VARCHAR COLLATE "C" AND lists.id = $3::UUID
    RETURNING lists.updated_at
"""
RENAME_LIST = _UPDATE_LIST.format("name = $4::VARCHAR")
MOVE_LIST = _UPDATE_LIST.format('position = $4::VARCHAR COLLATE "C"')
DELETE_LIST = """
    DELETE FROM lists WHERE lists.user_id = $1::VARCHAR COLLATE "C" AND lists.id = $2::UUID
"""


class Client(ClientOf100):
    """A client of version 1.1.0. Each round sends the statements of every operation."""

    async def create(self, title: str) -> UUID:
        """Create a task in the inbox, and return its ID."""
        (row,) = await self._fetch(CREATE, uuid4(), *_properties(title))
        return UUID(str(row["id"]))

    async def delete(self, task: UUID) -> None:
        """Delete a task and its subtasks."""
        assert len(await self._fetch(DELETE, task)) == 1

    async def _send_round(self, word: str) -> None:
        list_id = await self._change_lists(word)
        task, other = await self._create_tasks(word, list_id)
        await self._change_tasks(word, list_id, task)
        await self._move_tasks(list_id, task, other)
        await self._delete(list_id, task, other)

    async def _change_lists(self, word: str) -> UUID:
        """Call `createList`, `getList`, `updateList`, `replaceList`, `moveList`, `listLists`."""
        lists = [uuid4(), uuid4()]
        for id_ in lists:
            (times,) = await self._fetch(CREATE_LIST, id_, word, uuid4(), None)
            assert times["created_at"] == times["updated_at"]
        (created,) = await self._fetch(GET_LIST, lists[0])
        claims = [await self._fetch(CLAIM_KEY, *self._key(f"list-{word}")) for _ in range(2)]
        assert claims[0] == claims[1] != []
        for sql, value in ((RENAME_LIST, "changed"), (MOVE_LIST, "9")):
            async with self._connection.transaction():
                await self._connection.fetch(LOCK, self.rounds)
                assert len(await self._fetch(LOCK_LIST, lists[0])) == 1
                (changed,) = await self._fetch(sql, uuid4(), lists[0], value)
                assert changed["updated_at"] > created["updated_at"]
        pages = await self._fetch(LIST_LISTS, 51, 0)
        assert [row["id"] for row in pages if row["id"] in lists] == [lists[1], lists[0]]
        assert await self._connection.execute(DELETE_LIST, self.user_id, lists[1]) == "DELETE 1"
        return lists[0]

    async def _create_tasks(self, word: str, list_id: UUID) -> list[UUID]:
        """Call `createTask` and `replaceTask`."""
        tasks = [uuid4(), uuid4()]
        for id_ in tasks:
            (created,) = await self._fetch(CREATE, id_, *_properties(word, list_id=list_id))
            assert await self._fetch(GET, id_) == [created]
        values = _properties(word, parent_id=tasks[0])
        (subtask,) = await self._fetch(REPLACE, uuid4(), *values)
        assert subtask["created_at"] == subtask["updated_at"]
        assert await self._fetch(CREATE_IF_ABSENT, subtask["id"], *values) == []
        key = self._key(f"task-{word}")
        claims = [
            await self._fetch(CREATE_IDEMPOTENTLY, *key, f"once {word}", "") for _ in range(2)
        ]
        assert claims[0] == claims[1] != []
        assert len(await self._fetch(GET, claims[0][0]["task_id"])) == 1
        return tasks

    async def _change_tasks(self, word: str, list_id: UUID, task: UUID) -> None:
        """Call `replaceTask`, `updateTask`, `listTasks`, `countTasks` and `listLabels`."""
        values = _properties("replaced", list_id=list_id, labels=f"a,{word}", completed=True)
        (replaced,) = await self._fetch(REPLACE, task, *values)
        assert replaced["completed_at"] == replaced["updated_at"] > replaced["created_at"]
        update = ("updated", uuid4(), task, [replaced["etag"]])
        (updated,) = await self._fetch(UPDATE, *update)
        assert (updated["title"], updated["completed_at"]) == ("updated", replaced["completed_at"])
        assert await self._fetch(UPDATE, *update) == []
        page = await self._fetch(LIST_BY_POSITION, 18_560, list_id, COMPLETED, 51)
        assert [row["id"] for row in page] == [task]
        assert [row[0] for row in await self._fetch(COUNT, task, 10_001)] == [1]
        values = _properties("again", list_id=list_id, labels=f"a,{word}")
        (reopened,) = await self._fetch(REPLACE, task, *values)
        assert reopened["completed_at"] is None
        assert [row["label"] for row in await self._fetch(LABELS, 1001)] == ["a", word]

    async def _move_tasks(self, list_id: UUID, task: UUID, other: UUID) -> None:
        """Call `moveTask`: make room next to a task, and place another one before it."""
        assert len(await self._fetch(GET_SEVERAL, [task, other])) == 2
        (sibling,) = await self._fetch(SIBLINGS, list_id, other, 1)
        assert sibling["id"] == task
        await self._fetch(RESPACE, [task], ["9"], [uuid4()], [sibling["position"]])
        neighbors = [task], ["9"]
        values = (list_id, None, 0, "8", other, *neighbors, list_id, None)
        (moved,) = await self._fetch(MOVE, [task, other], uuid4(), *values)
        assert moved["position"] == "8"
        page = await self._fetch(LIST_BY_POSITION, 18_560, list_id, OPEN, 51)
        assert [row["id"] for row in page] == [other, task]

    async def _delete(self, list_id: UUID, task: UUID, other: UUID) -> None:
        """Call `deleteTask` for a task with a subtask, and `deleteList`."""
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="fk_tasks_list_id"):
            await self._fetch(DELETE_LIST, list_id)
        for id_ in (task, other):
            await self.delete(id_)
        assert [row[0] for row in await self._fetch(COUNT, task, 10_001)] == [0]
        async with self._connection.transaction():
            assert len(await self._fetch(LOCK_LIST, list_id)) == 1
            await self._fetch(DELETE_LIST, list_id)
        assert await self._fetch(GET_LIST, list_id) == []

    def _key(self, key: str) -> tuple[Any, ...]:
        """Return parameters of CLAIM_KEY: the key, a limit, a digest, two IDs and a lock."""
        digest = blake2b(key.encode(), digest_size=32).digest()
        name = blake2b(f"{self.user_id} {key}".encode(), digest_size=8).digest()
        return key, 10, digest, uuid4(), uuid4(), int.from_bytes(name, "big", signed=True)


def _properties(
    title: str,
    *,
    list_id: UUID | None = None,
    parent_id: UUID | None = None,
    labels: str = "",
    completed: bool = False,
) -> tuple[Any, ...]:
    """Return parameters of CREATE, after the user and the ID."""
    depth = int(parent_id is not None)
    due = (None, None, None)
    return title, None, completed, uuid4(), list_id, parent_id, depth, 0, *due, labels
