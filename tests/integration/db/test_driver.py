"""The effect of a statement on its connection, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from asyncpg import exceptions as pg
from sqlalchemy import BigInteger, ClauseElement, bindparam, select, text

from app.db.database import Database
from app.db.pool import QueryError
from app.db.statements import compile_statement
from app.http.problems import DatabaseUnavailable
from tests.support.database import database_config_for
from tests.support.process import until

pytestmark = pytest.mark.requirement("NFR-004")

BACKEND = text("SELECT pg_backend_pid()")
ADD = select(bindparam("a", type_=BigInteger) + bindparam("b", 40, type_=BigInteger))
PREPARED = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%is mine%'")


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Database]:
    """A pool with one connection."""
    database = Database(database_config_for(database_url), pool_size=1, timeout=4)
    yield database
    await database.close()


async def fetch(pool: Database, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await pool.pool.fetch(sql, [], 4)]


async def one(pool: Database, statement: ClauseElement, **values: Any) -> Any:
    ((value,),) = await pool.pool.fetch(*compile_statement(statement, values)[:2], 4)
    return value


async def test_statement_includes_its_literals(pool: Database) -> None:
    assert await one(pool, ADD, a=2) == 42
    assert await one(pool, ADD, a=2, b=1) == 3


async def test_statement_is_prepared_once_per_connection(pool: Database) -> None:
    statement = text("SELECT 'this is mine'")
    for _ in range(3):
        assert await one(pool, statement) == "this is mine"
    # The counting statement also contains the text.
    assert await one(pool, PREPARED) == 2


async def test_statement_rejected_by_the_driver_leaves_no_lock(
    pool: Database, database: asyncpg.Connection
) -> None:
    locks = "SELECT count(*) FROM pg_locks WHERE relation = 'tasks'::regclass"
    with pytest.raises(QueryError):
        await pool.pool.fetch("SELECT id FROM tasks WHERE $1::bigint > 0", [2**64], 4)

    async def is_free() -> bool:
        return bool(await database.fetchval(locks) == 0)

    await until(is_free)
    assert await one(pool, select(1)) == 1


async def test_connection_caches_a_hundred_statements(pool: Database) -> None:
    for number in range(101):
        await one(pool, text(f"SELECT {number} /* this is mine */"))
    assert await one(pool, PREPARED) == 100


async def test_statement_cache_is_bounded(pool: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.pool.STATEMENT_CACHE_SIZE", 3)
    for number in range(10):
        await one(pool, text(f"SELECT {number} /* this is mine */"))
    assert await one(pool, PREPARED) == 3


async def test_rejected_statement_keeps_the_connection_in_the_pool(pool: Database) -> None:
    before = await one(pool, BACKEND)
    with pytest.raises(QueryError) as raised:
        await fetch(pool, "SELECT 1 / 0")
    assert isinstance(raised.value.cause, pg.DivisionByZeroError)
    assert await one(pool, BACKEND) == before


async def test_driver_message_is_not_exposed(pool: Database) -> None:
    with pytest.raises(QueryError) as raised:
        await fetch(pool, "SELECT 'hunter2'::int")
    assert "hunter2" not in repr(raised.value)
    assert raised.value.__cause__ is None


async def test_connection_terminated_by_the_server_is_discarded(
    pool: Database, database: asyncpg.Connection
) -> None:
    before = await one(pool, BACKEND)
    waiting = asyncio.create_task(fetch(pool, "SELECT pg_sleep(30)"))
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%pg_sleep%'"
    await until(lambda: database.fetchval(sleeping, before))
    await database.execute("SELECT pg_terminate_backend($1)", before)
    with pytest.raises(QueryError):
        await waiting
    assert await one(pool, BACKEND) != before


@pytest.mark.requirement("FR-033")
async def test_connection_closed_at_any_time_is_unavailable(
    database_url: str, database: asyncpg.Connection
) -> None:
    pools = Database(database_config_for(database_url), pool_size=4, timeout=4)
    seen: list[BaseException] = []

    async def ask() -> None:
        for _ in range(200):
            try:
                await pools.fetch(BACKEND)
            except DatabaseUnavailable as error:
                seen.append(error)

    terminate_others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    )
    pending = [asyncio.create_task(ask()) for _ in range(8)]
    while not all(task.done() for task in pending):
        await database.execute(f"{terminate_others} AND datname = current_database()")
        await asyncio.sleep(0.005)
    await asyncio.gather(*pending)
    await pools.close()
    assert seen


async def test_cancelled_statement_discards_its_connection(pool: Database) -> None:
    before = await one(pool, BACKEND)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await fetch(pool, "SELECT pg_sleep(1)")
    assert await one(pool, BACKEND) != before


async def test_table_changed_by_a_migration_can_be_read(
    pool: Database, database: asyncpg.Connection
) -> None:
    await database.execute("CREATE TABLE changing AS SELECT 1 AS a")
    try:
        assert await fetch(pool, "SELECT * FROM changing") == [(1,)]
        await database.execute("ALTER TABLE changing ADD b text DEFAULT 'new'")
        assert await fetch(pool, "SELECT * FROM changing") == [(1, "new")]
    finally:
        await database.execute("DROP TABLE changing")
