"""Measure the migrations from version 1.0.0 with a million tasks, while clients of 1.0.0 write.

Run it with `python -m bench.scaling.migration`. For each revision it prints the duration, the
longest time that each lock on `tasks` was held, and the longest statement of a client. A statement
that waits for a lock is longer. Locks are observed about once per millisecond, so a printed time is
up to two milliseconds too long.
"""

# ruff: noqa: S608 - statements contain only text of this file

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from advanced_alchemy.alembic.commands import AlembicCommands
from alembic import command
from msgspec import Struct
from msgspec.structs import replace

from app.db.config import DatabaseConfig
from app.db.engine import create_migration_config
from app.db.migrations import SCRIPT_LOCATION
from app.domain.tasks.search import user_prefix
from app.embedded_postgres import run_postgres
from bench.scaling.data import COLUMNS, Size, fill
from tests.support.long_task import progress, run
from tests.support.process import until

# The statements of version 1.0.0.
_COLUMNS = """
    tasks.id, tasks.user_id, tasks.title, tasks.description, tasks.completed, tasks.completed_at,
    tasks.created_at, tasks.updated_at, tasks.etag
"""
_NEXT_UPDATED_AT = "timezone('UTC', timezone('UTC', tasks.updated_at) + interval '1 microsecond')"
_INSERT = """
    INSERT INTO tasks (user_id, id, title, description, completed_at, created_at, updated_at, etag)
    VALUES ($1, $2::UUID, $3, $4, CASE WHEN $5::BOOLEAN THEN now() END, now(), now(), $6::UUID)
"""
CREATE = f"{_INSERT} RETURNING {_COLUMNS}"
CREATE_IF_ABSENT = f"{_INSERT} ON CONFLICT (user_id, id) DO NOTHING RETURNING {_COLUMNS}"
REPLACE = f"""
    {_INSERT}
    ON CONFLICT (user_id, id) DO UPDATE SET
        title = excluded.title,
        description = excluded.description,
        completed_at = CASE WHEN $5::BOOLEAN THEN
            coalesce(tasks.completed_at, greatest(excluded.updated_at, {_NEXT_UPDATED_AT}))
        END,
        updated_at = greatest(excluded.updated_at, {_NEXT_UPDATED_AT}),
        etag = excluded.etag
    RETURNING {_COLUMNS}
"""
CREATE_IDEMPOTENTLY = """
    WITH lock AS (SELECT pg_try_advisory_xact_lock($9::BIGINT) AS acquired),
    claimed AS (
        INSERT INTO idempotency_keys (user_id, key, payload_digest, task_id, etag, created_at)
        SELECT $1::VARCHAR, $5::VARCHAR, $6::BYTEA, $7::UUID, $8::UUID, now()
        FROM lock WHERE lock.acquired
        ON CONFLICT (user_id, key) DO UPDATE SET
            payload_digest = excluded.payload_digest, task_id = excluded.task_id,
            etag = excluded.etag, created_at = excluded.created_at
        WHERE idempotency_keys.created_at
            < timezone('UTC', timezone('UTC', excluded.created_at) - interval '24 hours')
        RETURNING payload_digest, task_id, etag, created_at
    ),
    inserted AS (
        INSERT INTO tasks
            (user_id, id, title, description, completed_at, created_at, updated_at, etag)
        SELECT $1::VARCHAR, claimed.task_id, $2::VARCHAR, $3::VARCHAR,
            CASE WHEN $4::BOOLEAN THEN claimed.created_at END,
            claimed.created_at, claimed.created_at, claimed.etag
        FROM claimed
    )
    SELECT payload_digest, task_id, etag, created_at FROM claimed
    UNION ALL
    SELECT payload_digest, task_id, etag, created_at FROM idempotency_keys
    WHERE idempotency_keys.user_id = $1::VARCHAR AND idempotency_keys.key = $5::VARCHAR
        AND idempotency_keys.created_at >= now() - interval '24 hours'
"""
GET = f"SELECT {_COLUMNS} FROM tasks WHERE tasks.user_id = $1 AND tasks.id = $2::UUID"
LIST = f"""
    SELECT {_COLUMNS}, octet_length(tasks.description) > $2::INTEGER AS is_omitted FROM tasks
    WHERE tasks.user_id = $1 ORDER BY tasks.created_at DESC, tasks.id DESC LIMIT $3
"""
LIST_OPEN = f"""
    SELECT {_COLUMNS} FROM tasks WHERE tasks.user_id = $1 AND tasks.completed = $2::BOOLEAN
    ORDER BY tasks.updated_at DESC, tasks.id DESC LIMIT $3
"""
SEARCH = f"""
    SELECT {_COLUMNS} FROM tasks
    WHERE tasks.user_id = $1 AND tasks.search @@ CAST(lower($2::VARCHAR) AS TSQUERY)
    ORDER BY tasks.created_at DESC, tasks.id DESC LIMIT $3
"""
UPDATE = f"""
    UPDATE tasks SET title = $1,
        completed_at = least(tasks.completed_at, greatest(now(), {_NEXT_UPDATED_AT})),
        updated_at = greatest(now(), {_NEXT_UPDATED_AT}), etag = $2::UUID
    WHERE tasks.user_id = $3 AND tasks.id = $4::UUID AND tasks.etag = any($5::UUID[])
    RETURNING {_COLUMNS}
"""
DELETE = "DELETE FROM tasks WHERE tasks.user_id = $1 AND tasks.id = $2::UUID RETURNING tasks.id"

OPEN, COMPLETED = False, True
REVISION = "0002"
REVISIONS = ("0003", "0004", "0005", "0006", "0007")
COLUMNS_OF_1_0_0 = COLUMNS[:8]
CLIENTS = 4
SECONDS_BEFORE = 3.0  # without a migration
SECONDS_BETWEEN_OBSERVATIONS = 0.001
HELD_LOCKS = """
    SELECT pg_locks.pid, mode FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'relation' AND relation = 'tasks'::regclass AND granted
        AND backend_type = 'client backend' AND pid != pg_backend_pid() AND pid != ALL ($1::int[])
"""


class Client:
    """A client of version 1.0.0. Each round sends every statement and checks its result."""

    def __init__(self, connection: asyncpg.Connection[Any], user_id: str) -> None:
        self._connection = connection
        self.user_id = user_id
        self.rounds = 0
        self.seconds: list[float] = []  # of each statement

    async def run(self, is_finished: Callable[[], bool]) -> None:
        """Send rounds until they are finished. Raises AssertionError and the driver's errors."""
        while not is_finished():
            await self._send_round(f"word{self.rounds}")
            self.rounds += 1

    async def create_idempotently(self, title: str, key: str) -> UUID:
        """Create a task at most once for a key, and return its ID."""
        digest = blake2b(b'{"title":"%b"}' % title.encode(), digest_size=32).digest()
        lock = int.from_bytes(
            blake2b(f"{self.user_id} {key}".encode(), digest_size=8).digest(), "big", signed=True
        )
        (row,) = await self._fetch(
            CREATE_IDEMPOTENTLY, title, None, OPEN, key, digest, uuid4(), uuid4(), lock
        )
        assert row["payload_digest"] == digest
        return UUID(str(row["task_id"]))

    async def _send_round(self, word: str) -> None:
        (created,) = await self._fetch(CREATE, uuid4(), word, "Two litres.", OPEN, uuid4())
        task = created["id"]
        assert await self._fetch(GET, task) == [created]
        assert created in await self._fetch(LIST_OPEN, OPEN, 51)
        query = f"'{user_prefix(self.user_id)}{word}':*"
        assert task in [row["id"] for row in await self._fetch(SEARCH, query, 51)]
        assert await self._fetch(CREATE_IF_ABSENT, task, word, None, OPEN, uuid4()) == []
        (replaced,) = await self._fetch(REPLACE, task, word, None, COMPLETED, uuid4())
        assert (replaced["completed"], replaced["created_at"]) == (True, created["created_at"])
        new_etag = uuid4()
        rows = await self._fetch_values(
            UPDATE, "changed", new_etag, self.user_id, task, [replaced["etag"]]
        )
        assert [row["etag"] for row in rows] == [new_etag]
        ids = [await self.create_idempotently(word, f"key-{word}") for _ in range(2)]
        assert ids[0] == ids[1]
        (absent,) = await self._fetch(REPLACE, uuid4(), word, None, OPEN, uuid4())
        assert absent["created_at"] == absent["updated_at"]
        assert len(await self._fetch(LIST, 18_560, 51)) >= 3
        assert len(await self._fetch(DELETE, task)) == 1
        assert await self._fetch(GET, task) == []

    async def _fetch(self, sql: str, *values: object) -> list[Any]:
        return await self._fetch_values(sql, self.user_id, *values)

    async def _fetch_values(self, sql: str, *values: object) -> list[Any]:
        started_at = time.perf_counter()
        rows: list[Any] = await self._connection.fetch(sql, *values)
        self.seconds.append(time.perf_counter() - started_at)
        return rows


class Result(Struct, frozen=True):
    """The statements of all clients during a migration. Times are in seconds."""

    revision: str
    duration: float
    statements: list[float]
    locks: dict[str, float]  # the longest time of each mode


class LockObserver:
    """Observes the locks on `tasks` that the connections of others hold, except the clients'."""

    def __init__(self, connection: asyncpg.Connection[Any], ignored: list[int]) -> None:
        self._connection = connection
        self._ignored = ignored
        self._held_since: dict[tuple[int, str], float] = {}
        self._observed_at = time.perf_counter()
        self.longest: dict[str, float] = {}

    async def run(self, is_finished: Callable[[], bool]) -> None:
        """Observe until the migration is finished."""
        while not is_finished():
            await self._observe()
            await asyncio.sleep(SECONDS_BETWEEN_OBSERVATIONS)

    async def _observe(self) -> None:
        locks = await self._connection.fetch(HELD_LOCKS, self._ignored)
        now = time.perf_counter()
        held = {(lock["pid"], lock["mode"]) for lock in locks}
        # A lock may be as old as the previous observation, and end directly before this one.
        since = dict.fromkeys(held, self._observed_at) | self._held_since
        for (_, mode), start in since.items():
            self.longest[mode] = max(self.longest.get(mode, 0.0), now - start)
        self._held_since = {lock: since[lock] for lock in held}
        self._observed_at = now


async def measure(url: str, size: Size) -> list[Result]:
    """Load tasks into a database of version 1.0.0, and migrate it while clients write."""
    config = AlembicCommands(
        create_migration_config(DatabaseConfig.from_url(url), str(SCRIPT_LOCATION))
    ).config
    await asyncio.to_thread(command.upgrade, config, REVISION)
    connections = [await asyncpg.connect(url) for _ in range(CLIENTS)]
    progress("loading the rows")
    await fill(connections[0], size, COLUMNS_OF_1_0_0)
    clients = [Client(each, f"client-{number}") for number, each in enumerate(connections)]
    observing = await asyncpg.connect(url)
    pids = [connection.get_server_pid() for connection in connections]
    observer = LockObserver(observing, pids)
    finished = asyncio.Event()
    results: list[Result] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(observer.run(finished.is_set))
        for client in clients:
            group.create_task(client.run(finished.is_set))
        sleep = asyncio.sleep(SECONDS_BEFORE)
        results.append(await _measure(clients, observer, "none", sleep))
        for revision in REVISIONS:
            progress(f"migrating to {revision}")
            migration = asyncio.to_thread(command.upgrade, config, revision)
            results.append(await _measure(clients, observer, revision, migration))
        finished.set()
    for connection in (*connections, observing):
        await connection.close()
    return results


async def _measure(
    clients: list[Client], observer: LockObserver, revision: str, work: Awaitable[object]
) -> Result:
    """Wait for a migration, and return the statements that ended during it or after it."""
    for client in clients:
        client.seconds.clear()
    observer.longest.clear()
    started_at = time.perf_counter()
    await work
    duration = time.perf_counter() - started_at
    rounds = [client.rounds for client in clients]

    async def every_client_has_finished_a_round() -> bool:
        return all(client.rounds > before for client, before in zip(clients, rounds, strict=True))

    # A statement that the migration has delayed may still be running.
    await until(every_client_has_finished_a_round)
    return Result(
        revision,
        duration,
        [each for client in clients for each in client.seconds],
        dict(observer.longest),
    )


def render(results: list[Result]) -> str:
    """Return a table in Markdown."""
    lines = [
        "| revision | seconds | statements | median, ms | longest, ms | longest lock |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for result in results:
        locks = ", ".join(
            f"{mode} {seconds * 1000:.0f} ms" for mode, seconds in sorted(result.locks.items())
        )
        lines.append(
            f"| {result.revision} | {result.duration:.1f} | {len(result.statements):,} "
            f"| {median(result.statements) * 1000:.1f} | {max(result.statements) * 1000:.0f} "
            f"| {locks or 'none'} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Migrate a new database, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.migration", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    size = replace(Size.of(10 * parser.parse_args(arguments).tasks), others=0)
    with (
        tempfile.TemporaryDirectory() as directory,
        run_postgres(Path(directory) / "data", durable=False) as url,
    ):
        print(render(asyncio.run(measure(url, size))))
    return 0


if __name__ == "__main__":
    run(main)
