"""Connection errors close the connection; statement errors do not.

These tests damage sessions, so they always use an embedded PostgreSQL.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import bindparam, text
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from app.asgi import create_app
from app.db.config import DatabaseConfig
from app.db.database import Database, DatabaseError
from app.db.pool import QueryError
from app.http.problems import DatabaseUnavailable
from app.settings import Secret, Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.in_process import app_state_of
from tests.support.lifespan import running
from tests.support.process import until
from tests.support.relay import url_via_port
from tools.fault_injection.proxy import Link, Proxy, run_proxy

pytestmark = pytest.mark.requirement("FR-033", "NFR-015")

ALICE = tasks_of("alice")
TITLE = {"title": "Buy milk"}
BACKEND = text("SELECT pg_backend_pid()")
SIZE = 3


@pytest.fixture
async def rival(embedded_server_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A second connection to the database, which is truncated after the test."""
    connection = await asyncpg.connect(embedded_server_url)
    yield connection
    await connection.execute("TRUNCATE tasks, idempotency_keys")
    await connection.close()


@pytest.fixture
async def proxy(embedded_server_url: str) -> AsyncIterator[Proxy]:
    """A proxy to the database that can change the data."""
    options = make_url(embedded_server_url).query
    async with run_proxy(f"{options['host']}/.s.PGSQL.{options['port']}") as opened:
        yield opened


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[ContractClient]:
    asgi_app = create_app(Settings(database_url=Secret(url), database_pool_size=SIZE))
    async with running(asgi_app) as app, ContractClient(app) as client:
        yield client


async def set_everywhere(client: ContractClient, name: str, value: str) -> set[int]:
    """Set a parameter on all connections of the pool, and return their process ids."""
    statement = text("SELECT pg_backend_pid(), set_config(:name, :value, false), pg_sleep(0.2)")
    database, values = app_state_of(client).database, {"name": name, "value": value}
    rows = await asyncio.gather(*(database.fetch(statement, values) for _ in range(SIZE)))
    return {row[0] for [row] in rows}


# --- damage to sessions -------------------------------------------------------------------------

Damage = Callable[[ContractClient, asyncpg.Connection, Proxy], Awaitable[None]]


async def make_read_only(client: ContractClient, *_: object) -> None:
    """Make sessions read-only, like a failover behind a proxy (25006)."""
    await set_everywhere(client, "default_transaction_read_only", "on")


async def drop_prepared_statements(client: ContractClient, *_: object) -> None:
    """Drop the prepared statements, like a pooler that resets its sessions (26000)."""
    database = app_state_of(client).database
    hold = text("SELECT pg_sleep(0.2)")
    for _turn in range(SIZE):
        busy = [asyncio.create_task(database.fetch(hold)) for _ in range(SIZE - 1)]
        await asyncio.sleep(0.05)
        await database.fetch(text("DEALLOCATE ALL"))
        await asyncio.gather(*busy)


async def leave_failed_transactions(client: ContractClient, *_: object) -> None:
    """Leave sessions in a failed transaction, which rejects all statements (25P02)."""
    database = app_state_of(client).database
    await database.fetch(text("BEGIN"))
    with pytest.raises(DatabaseError):
        await database.fetch(text("SELECT 1 / 0"))


async def change_result_types(_: object, rival: asyncpg.Connection, __: object) -> None:
    """Change the result types of prepared statements (0A000)."""
    await rival.execute("ALTER TABLE tasks ALTER updated_at TYPE timestamptz(6)")


async def terminate_sessions(_: object, rival: asyncpg.Connection, __: object) -> None:
    """Terminate the sessions, like an administrator (57P01)."""
    await rival.fetch(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def expire_sessions(client: ContractClient, rival: asyncpg.Connection, _: object) -> None:
    """Let the server terminate idle sessions (57P05)."""
    pids = await set_everywhere(client, "idle_session_timeout", "100ms")
    remaining = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)"

    async def sessions_ended() -> bool:
        return bool(await rival.fetchval(remaining, [*pids]) == 0)

    await until(sessions_ended)


async def send_invalid_messages(_: object, __: object, proxy: Proxy) -> None:
    """Insert a row of 99 columns before the next response, which violates the protocol."""

    async def corrupt(_: Link, chunk: bytes) -> bytes:
        proxy.on_response = None
        return struct.pack("!cIH", b"D", 6, 99) + chunk

    proxy.on_response = corrupt


@pytest.mark.parametrize(
    ("damage", "failures"),
    [
        (make_read_only, {1}),
        (drop_prepared_statements, {0}),
        (leave_failed_transactions, {1}),
        (change_result_types, {0}),
        # The service may notice the end of a session only after the next statement.
        (terminate_sessions, {0, 1}),
        (expire_sessions, {0, 1}),
        (send_invalid_messages, {1}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_damaged_sessions_fail_at_most_one_request(
    embedded_server_url: str,
    rival: asyncpg.Connection,
    proxy: Proxy,
    damage: Damage,
    failures: set[int],
) -> None:
    async with serving(url_via_port(proxy.port, embedded_server_url)) as client:
        await set_everywhere(client, "extra_float_digits", "1")
        for _ in range(SIZE):
            assert (await client.post(ALICE, json=TITLE)).status_code == 201
        assert (await client.get("/readyz")).status_code == 200
        await damage(client, rival, proxy)
        responses = [await client.post(ALICE, json=TITLE) for _ in range(2 * SIZE)]
        failed = [response for response in responses if response.status_code != 201]
        assert len(failed) in failures
        for response in failed:
            assert_problem(response, 503, "database-unavailable")
        assert (await client.get("/readyz")).status_code == 200
        together = await asyncio.gather(*(client.post(ALICE, json=TITLE) for _ in range(SIZE)))
        assert [response.status_code for response in together] == [201] * SIZE


# --- read-only database --------------------------------------------------------------------------


@pytest.fixture
async def read_only(rival: asyncpg.Connection) -> AsyncIterator[Callable[[bool], Awaitable[None]]]:
    """Return a function that makes new sessions read-only or writable."""

    async def switch(enabled: bool) -> None:  # noqa: FBT001 - on or off
        await rival.execute("ALTER DATABASE tasks RESET default_transaction_read_only")
        if enabled:
            await rival.execute("ALTER DATABASE tasks SET default_transaction_read_only = on")

    yield switch
    await switch(False)  # noqa: FBT003 - as above


@pytest.mark.requirement("FR-035")
async def test_read_only_database_is_not_ready_before_a_write(
    embedded_server_url: str,
    rival: asyncpg.Connection,
    read_only: Callable[[bool], Awaitable[None]],
) -> None:
    async with serving(embedded_server_url) as client:
        assert (await client.get("/readyz")).status_code == 200
        await read_only(True)  # noqa: FBT003 - as above
        await terminate_sessions(None, rival, None)
        with capture_logs() as lines:
            for _ in range(2):
                problem = assert_problem(await client.get("/readyz"), 503, "not-ready")
                assert problem["detail"] == "The database is read-only."
        [line] = [line for line in lines if line["event"] == "database unavailable"]
        assert line["cause"] == "the database is read-only"
        assert (await client.get(ALICE)).status_code == 200
        assert_problem(await client.post(ALICE, json=TITLE), 503, "database-unavailable")
        await read_only(False)  # noqa: FBT003 - as above
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post(ALICE, json=TITLE)).status_code == 201


@pytest.mark.requirement("FR-035")
async def test_readiness_replaces_read_only_connections(embedded_server_url: str) -> None:
    async with serving(embedded_server_url) as client:
        await make_read_only(client)
        assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post(ALICE, json=TITLE)).status_code == 201


# --- SQLSTATE ------------------------------------------------------------------------------------

CONNECTION_ERRORS = [
    "08000",
    "08003",
    "08006",
    "08P01",
    "25001",
    "25006",
    "25P01",
    "25P02",
    "26000",
    "34000",
    "42P05",
    "57P01",
    "57P02",
    "57P03",
    "57P04",
    "57P05",
    "XX000",
]
STATEMENT_ERRORS = [
    "0A000",
    "22012",
    "23503",
    "23505",
    "23514",
    "40001",
    "40P01",
    "42501",
    "42601",
    "42703",
    "42P01",
    "53100",
    "53200",
    "55P03",
    "57014",
    "58030",
    "P0001",
    "XX001",
]


@pytest.fixture
async def database(embedded_server_url: str) -> AsyncIterator[Database]:
    """A pool with one connection."""
    pool = Database(DatabaseConfig.from_url(embedded_server_url), pool_size=1, timeout=4)
    yield pool
    await pool.close()


async def process(database: Database) -> int:
    ((result,),) = await database.fetch(BACKEND)
    return int(result)


async def provoke(database: Database, code: str) -> None:
    failing_statement = text(f"DO $$ BEGIN RAISE 'provoked' USING ERRCODE = '{code}'; END $$")
    await database.fetch(failing_statement)


@pytest.mark.parametrize("code", CONNECTION_ERRORS)
async def test_connection_error_closes_the_connection(
    database: Database, rival: asyncpg.Connection, code: str
) -> None:
    before = await process(database)
    with pytest.raises(DatabaseUnavailable):
        await provoke(database, code)
    assert await process(database) != before
    running = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"

    async def is_gone() -> bool:
        return bool(await rival.fetchval(running, before) == 0)

    await until(is_gone)


@pytest.mark.parametrize("code", STATEMENT_ERRORS)
async def test_statement_error_keeps_the_connection(database: Database, code: str) -> None:
    before = await process(database)
    with pytest.raises((DatabaseUnavailable, DatabaseError)):
        await provoke(database, code)
    assert await process(database) == before


TASK: dict[str, Any] = {"user": "alice", "title": "x"}
INSERT = text(
    "INSERT INTO tasks (user_id, id, title, created_at, updated_at, etag) VALUES (:user, "
    "'0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44', :title, now(), now(), gen_random_uuid())"
).bindparams(bindparam("user"), bindparam("title"))
SHORT_TIMEOUTS = "SELECT set_config('{}', '50ms', false)"


async def test_real_statement_errors_keep_the_connection(
    database: Database, rival: asyncpg.Connection
) -> None:
    before = await process(database)
    await database.fetch(INSERT, TASK)
    for values, code in ((TASK, "23505"), ({"user": "alice!", "title": "x"}, "23514")):
        with pytest.raises(DatabaseError, match=f"^SQLSTATE {code}"):
            await database.fetch(INSERT, values)
    await rival.execute("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    for setting, code in (("lock_timeout", "55P03"), ("statement_timeout", "57014")):
        await database.fetch(text(SHORT_TIMEOUTS.format(setting)))
        with pytest.raises(QueryError) as rejected:
            await database.pool.fetch("SELECT count(*) FROM tasks", [], 4)
        assert getattr(rejected.value.cause, "sqlstate", None) == code
        await database.fetch(text(f"SELECT set_config('{setting}', '0', false)"))
    await rival.execute("ROLLBACK")
    assert await process(database) == before
