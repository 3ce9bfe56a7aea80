"""What running a statement does with a connection, on a real server."""

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
from tests.support.database import connection_to
from tests.support.process import until

pytestmark = pytest.mark.requirement("NFR-004")

BACKEND = text("SELECT pg_backend_pid()")
ADD = select(bindparam("a", type_=BigInteger) + bindparam("b", 40, type_=BigInteger))
PREPARED = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%is mine%'")


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Database]:
    """One connection."""
    opened = Database(connection_to(database_url), pool_size=1, timeout=4)
    yield opened
    await opened.close()


async def fetch(pool: Database, words: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await pool.pool.fetch(words, [], 4)]


async def one(pool: Database, statement: ClauseElement, **values: Any) -> Any:
    ((value,),) = await pool.pool.fetch(*compile_statement(statement, values)[:2], 4)
    return value


async def test_a_statement_brings_its_constants(pool: Database) -> None:
    assert await one(pool, ADD, a=2) == 42
    assert await one(pool, ADD, a=2, b=1) == 3


async def test_a_statement_is_prepared_once_for_a_connection(pool: Database) -> None:
    mine = text("SELECT 'this is mine'")
    for _ in range(3):
        assert await one(pool, mine) == "this is mine"
    # The count itself is the other one that has the words.
    assert await one(pool, PREPARED) == 2


async def test_a_statement_that_the_driver_refuses_leaves_no_lock(
    pool: Database, database: asyncpg.Connection
) -> None:
    locks = "SELECT count(*) FROM pg_locks WHERE relation = 'tasks'::regclass"
    with pytest.raises(QueryError):
        await pool.pool.fetch("SELECT id FROM tasks WHERE $1::bigint > 0", [2**64], 4)

    async def is_free() -> bool:
        return bool(await database.fetchval(locks) == 0)

    await until(is_free)
    assert await one(pool, select(1)) == 1


async def test_a_connection_keeps_a_hundred_statements(pool: Database) -> None:
    for number in range(101):
        await one(pool, text(f"SELECT {number} /* this is mine */"))
    assert await one(pool, PREPARED) == 100


async def test_only_so_many_statements_stay_prepared(
    pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.pool.STATEMENT_CACHE_SIZE", 3)
    for number in range(10):
        await one(pool, text(f"SELECT {number} /* this is mine */"))
    assert await one(pool, PREPARED) == 3


async def test_a_refused_statement_leaves_the_connection_in_the_pool(pool: Database) -> None:
    before = await one(pool, BACKEND)
    with pytest.raises(QueryError) as refused:
        await fetch(pool, "SELECT 1 / 0")
    assert isinstance(refused.value.cause, pg.DivisionByZeroError)
    assert await one(pool, BACKEND) == before


async def test_the_drivers_words_go_no_further(pool: Database) -> None:
    with pytest.raises(QueryError) as refused:
        await fetch(pool, "SELECT 'hunter2'::int")
    assert "hunter2" not in repr(refused.value)
    assert refused.value.__cause__ is None


async def test_a_connection_that_the_server_ended_is_not_kept(
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
async def test_whenever_a_connection_ends_it_is_unavailability(
    database_url: str, database: asyncpg.Connection
) -> None:
    several = Database(connection_to(database_url), pool_size=4, timeout=4)
    met: list[BaseException] = []

    async def ask() -> None:
        for _ in range(200):
            try:
                await several.fetch(BACKEND)
            except DatabaseUnavailable as fault:
                met.append(fault)

    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    asking = [asyncio.create_task(ask()) for _ in range(8)]
    while not all(task.done() for task in asking):
        await database.execute(f"{others} AND datname = current_database()")
        await asyncio.sleep(0.005)
    await asyncio.gather(*asking)
    await several.close()
    assert met


async def test_a_statement_that_is_given_up_takes_its_connection_along(pool: Database) -> None:
    before = await one(pool, BACKEND)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await fetch(pool, "SELECT pg_sleep(1)")
    assert await one(pool, BACKEND) != before


async def test_a_table_that_a_migration_changed_meanwhile_is_read_all_the_same(
    pool: Database, database: asyncpg.Connection
) -> None:
    await database.execute("CREATE TABLE changing AS SELECT 1 AS a")
    try:
        assert await fetch(pool, "SELECT * FROM changing") == [(1,)]
        await database.execute("ALTER TABLE changing ADD b text DEFAULT 'new'")
        assert await fetch(pool, "SELECT * FROM changing") == [(1, "new")]
    finally:
        await database.execute("DROP TABLE changing")
