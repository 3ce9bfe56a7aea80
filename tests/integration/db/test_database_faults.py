"""Responses while the database is unavailable, full, slow or failing, and recovery afterwards."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.db.database import Database, DatabaseError
from app.db.migrations import upgrade
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import TaskCreate
from app.http.body import JSONBody
from app.http.problems import DatabaseUnavailable, FieldError, InvalidBody
from app.logging import LogFormat, LogLevel, configure_logging
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.database import connect, database_config_for
from tests.support.in_process import app_state_of, serving
from tests.support.logs import LogFile, log_file, restore
from tests.support.process import scratch_database, until, with_database
from tests.support.relay import Relay, url_via_port

RESPONSE_TIMEOUT = 5.0
ALICE = tasks_of("alice")
TASK = UUID("0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
WHOLE = {"title": "Buy milk", "description": None, "completed": False}
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "listTasks": ("GET", ALICE, None),
    "createTask": ("POST", ALICE, {"title": "Buy milk"}),
    "getTask": ("GET", f"{ALICE}/{TASK}", None),
    "replaceTask": ("PUT", f"{ALICE}/{TASK}", WHOLE),
    "updateTask": ("PATCH", f"{ALICE}/{TASK}", {"title": "Buy oat milk"}),
    "deleteTask": ("DELETE", f"{ALICE}/{TASK}", None),
}
CHANGES = ["replaceTask", "updateTask", "deleteTask"]


@pytest.fixture(scope="module")
def empty_url(server_url: str) -> Iterator[str]:
    """A database without a schema."""
    with scratch_database(server_url) as url:
        yield url


@pytest.fixture
async def rival(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A second connection to the database. After the test, locks and tasks are gone."""
    opened = await connect(url)
    yield opened
    await opened.execute("ROLLBACK; TRUNCATE tasks, idempotency_keys")
    await opened.close()


@pytest.fixture
async def relay(url: str, rival: asyncpg.Connection) -> AsyncIterator[Relay]:
    """An open relay to the database."""
    opened_relay = Relay(url)
    await opened_relay.open()
    assert not rival.is_closed()  # its fixture cleans up after the test
    yield opened_relay
    await opened_relay.close()


async def ask(client: ContractClient, operation: str) -> int:
    method, path, body = REQUESTS[operation]
    return (await client.request(method, path, json=body)).status_code


async def assert_unavailable(client: ContractClient, operation: str) -> None:
    method, path, body = REQUESTS[operation]
    started = monotonic()
    response = await client.request(method, path, json=body)
    duration = monotonic() - started
    problem = assert_problem(response, 503, "database-unavailable")
    assert problem["detail"] == (
        "The database is unavailable or did not respond in time. "
        "If this was a write, it may or may not have been applied."
    )
    assert response.headers["retry-after"] == "1"
    assert duration < RESPONSE_TIMEOUT, f"{operation} took {duration:.2f} s"


async def assert_all_unavailable(client: ContractClient, *operations: str) -> None:
    await asyncio.gather(*(assert_unavailable(client, name) for name in operations or REQUESTS))


async def assert_served(client: ContractClient) -> None:
    """Check that every operation succeeds, from the first request."""
    expected = {
        "replaceTask": 201,
        "createTask": 201,
        "listTasks": 200,
        "getTask": 200,
        "updateTask": 200,
        "deleteTask": 204,
    }
    assert {name: await ask(client, name) for name in expected} == expected


# --- unreachable -------------------------------------------------------------------------------


@pytest.mark.requirement("FR-033", "FR-028")
async def test_closed_port_is_503(relay: Relay, url: str) -> None:
    await relay.close()
    async with serving(url_via_port(relay.port, url)) as client:
        await assert_all_unavailable(client)
        await relay.open()
        await assert_served(client)


@pytest.mark.requirement("FR-033", "FR-028")
async def test_refusing_unix_socket_is_503(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as bound_socket:
        bound_socket.bind(str(tmp_path / ".s.PGSQL.5432"))  # without listen()
        async with serving(f"postgresql://tasks@/tasks?host={tmp_path}&port=5432") as client:
            await assert_all_unavailable(client)


@pytest.mark.requirement("FR-033", "FR-028")
async def test_missing_unix_socket_is_503(tmp_path: Path) -> None:
    async with serving(f"postgresql://tasks@/tasks?host={tmp_path}&port=5432") as client:
        await assert_all_unavailable(client)


@pytest.mark.requirement("FR-033")
async def test_silent_server_is_503(relay: Relay, url: str) -> None:
    async with serving(url_via_port(relay.port, url), database_timeout=0.5) as client:
        await relay.close()
        await relay.open()
        relay.freeze()
        await assert_all_unavailable(client)
        relay.thaw()
        await assert_served(client)


@pytest.mark.requirement("FR-033")
async def test_silent_connections_are_503(relay: Relay, url: str) -> None:
    async with serving(url_via_port(relay.port, url)) as client:
        await assert_served(client)
        relay.freeze()
        await assert_all_unavailable(client)
        relay.thaw()
        await assert_served(client)


@pytest.mark.requirement("FR-033")
async def test_reset_connections_are_replaced(relay: Relay, url: str) -> None:
    async with serving(url_via_port(relay.port, url)) as client:
        await assert_served(client)
        await relay.close()
        await relay.open()
        await assert_served(client)


@pytest.mark.requirement("FR-033", "FR-028")
async def test_missing_database_is_503(server_url: str) -> None:
    async with serving(with_database(server_url, "nowhere")) as client:
        await assert_all_unavailable(client)


@pytest.mark.requirement("FR-033", "FR-028")
async def test_database_without_schema_is_503_until_migrated(empty_url: str) -> None:
    async with serving(empty_url) as client:
        await assert_all_unavailable(client)
        await asyncio.to_thread(upgrade, database_config_for(empty_url))
        await assert_served(client)


# --- overloaded --------------------------------------------------------------------------------


@pytest.mark.requirement("FR-033")
async def test_pool_without_a_free_connection_is_503(url: str, rival: asyncpg.Connection) -> None:
    await rival.execute("SELECT pg_advisory_lock(1)")
    async with serving(url, database_pool_size=1, database_timeout=0.5) as client:

        async def wait_for_the_lock() -> None:
            statement = text("SELECT pg_advisory_lock(1)")
            await app_state_of(client).database.fetch(statement, timeout=60)

        lock_holder = asyncio.create_task(wait_for_the_lock())
        await until_waiting(rival, 1)
        await assert_all_unavailable(client)
        await rival.execute("SELECT pg_advisory_unlock(1)")
        await lock_holder
        await assert_served(client)


@pytest.mark.requirement("FR-033")
async def test_server_without_a_free_connection_is_503(url: str, rival: asyncpg.Connection) -> None:
    role = f"few_{uuid4().hex}"
    await rival.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}' CONNECTION LIMIT 1")
    tables = "tasks, users, tombstones"
    await rival.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}")
    await rival.execute(f"GRANT SELECT ON alembic_version TO {role}")
    as_role = make_url(url).set(username=role, password=role).render_as_string(hide_password=False)
    only = await connect(as_role)
    async with serving(as_role, database_pool_size=1, database_timeout=0.5) as client:
        await assert_all_unavailable(client)
        await only.close()
        await assert_served(client)
    await rival.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def until_waiting(rival: asyncpg.Connection, sessions: int) -> list[int]:
    """Wait until this number of processes waits for a lock, and return their ids."""
    query = """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    pids: list[int] = []

    async def enough() -> bool:
        pids[:] = [row["pid"] for row in await rival.fetch(query)]
        return len(pids) >= sessions

    await until(enough, RESPONSE_TIMEOUT)
    return pids


@pytest.mark.requirement("FR-033")
async def test_locked_row_is_503_and_not_written_later(url: str, rival: asyncpg.Connection) -> None:
    async with serving(url, database_timeout=0.5) as client:
        assert await ask(client, "replaceTask") == 201
        await rival.execute(f"BEGIN; SELECT FROM tasks WHERE id = '{TASK}' FOR UPDATE")
        before = (await client.get(f"{ALICE}/{TASK}")).json()
        await assert_all_unavailable(client, *CHANGES)
        await rival.execute("ROLLBACK")
        assert (await client.get(f"{ALICE}/{TASK}")).json() == before
        assert [await ask(client, name) for name in CHANGES] == [200, 200, 204]


@pytest.mark.requirement("FR-033")
async def test_statements_over_the_timeout_are_503(url: str, rival: asyncpg.Connection) -> None:
    async with serving(url) as client:
        await rival.execute("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        await assert_all_unavailable(client)
        await rival.execute("ROLLBACK")
        assert await rival.fetchval("SELECT count(*) FROM tasks") == 0
        await assert_served(client)


# --- terminated connections --------------------------------------------------------------------


@pytest.mark.requirement("FR-033")
async def test_connection_terminated_between_requests_is_replaced(
    url: str, rival: asyncpg.Connection
) -> None:
    query = """
        SELECT pid, pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'tasks-api'
    """
    left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)"
    async with serving(url) as client:
        assert await ask(client, "replaceTask") == 201
        # One, or as many as a pooler keeps; the pooler may close one meanwhile.
        pids = await rival.fetch(query)
        assert True in [is_ended for _, is_ended in pids]
        assert await rival.fetchval(left, [process for process, _ in pids]) == 0
        for _ in range(3):  # let the event loop read the end of the stream
            await asyncio.sleep(0)
        assert await ask(client, "replaceTask") == 200


@pytest.mark.requirement("FR-033", "FR-028")
@pytest.mark.parametrize("operation", CHANGES)
async def test_connection_terminated_during_a_statement_is_503(
    url: str, rival: asyncpg.Connection, operation: str
) -> None:
    async with serving(url) as client:
        assert await ask(client, "replaceTask") == 201
        await rival.execute(f"BEGIN; SELECT FROM tasks WHERE id = '{TASK}' FOR UPDATE")
        pending_request = asyncio.create_task(assert_unavailable(client, operation))
        [process] = await until_waiting(rival, 1)
        assert await rival.fetchval("SELECT pg_terminate_backend($1, 5000)", process)
        async with asyncio.timeout(1):  # immediately, not after the timeout
            await pending_request
        await rival.execute("ROLLBACK")
        assert await ask(client, "replaceTask") == 200


# --- error translation -------------------------------------------------------------------------


@pytest.fixture
async def pool(url: str) -> AsyncIterator[Database]:
    """A connection pool without the service."""
    opened = Database(database_config_for(url), pool_size=1, timeout=4)
    yield opened
    await opened.close()


async def provoke(pool: Database, sqlstate: str, constraint: str = "") -> None:
    await pool.fetch(
        text(
            f"DO $$ BEGIN RAISE 'private words' USING ERRCODE = '{sqlstate}', "
            f"CONSTRAINT = '{constraint}', DETAIL = 'private words'; END $$"
        )
    )


async def store(pool: Database, user: str, new: TaskCreate) -> None:
    """Insert a task without input validation."""
    await TaskRepository(pool.fetch).create_task(user, new, None)


@pytest.mark.requirement("FR-033")
@pytest.mark.parametrize(
    "sqlstate",
    [
        "08000",
        "08006",
        "40001",
        "40P01",
        "53100",
        "53300",
        "55P03",
        "57014",
        "57P01",
        "57P03",
        "25006",
        "42501",
        "42P01",
        "42703",
        "3D000",
        "XX000",
    ],
)
async def test_transient_error_is_unavailable(pool: Database, sqlstate: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        await provoke(pool, sqlstate)


@pytest.mark.requirement("FR-036", "FR-028")
@pytest.mark.parametrize("sqlstate", ["22012", "23503", "23505", "42601", "P0001"])
async def test_unexpected_error_hides_the_driver_message(pool: Database, sqlstate: str) -> None:
    with pytest.raises(DatabaseError, match=f"^SQLSTATE {sqlstate}, constraint $") as caught:
        await provoke(pool, sqlstate)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


@pytest.mark.requirement("FR-026")
@pytest.mark.parametrize(
    ("new", "pointer"),
    [
        (TaskCreate(title=""), "/title"),
        (TaskCreate(title="x" * 501), "/title"),
        (TaskCreate(title="\u3000\t"), "/title"),
        (TaskCreate(title="x", description="x" * 16385), "/description"),
    ],
    ids=["no title", "long title", "blank title", "long description"],
)
async def test_check_violation_is_an_error_of_the_body(
    pool: Database, new: TaskCreate, pointer: str
) -> None:
    with pytest.raises(InvalidBody) as caught:
        await store(pool, "alice", new)
    assert caught.value.errors == [
        FieldError(pointer=pointer, detail="violates a database constraint")
    ]


@pytest.mark.requirement("FR-036")
@pytest.mark.parametrize(
    ("user", "title", "error"),
    [
        ("alice!", "x", "SQLSTATE 23514, constraint ck_tasks_user_id_form"),
        ("alice", "\0", "SQLSTATE 22021, constraint None"),
    ],
    ids=["user", "U+0000"],
)
async def test_constraint_unrelated_to_the_body_is_an_internal_error(
    pool: Database, user: str, title: str, error: str
) -> None:
    with pytest.raises(DatabaseError, match=f"^{error}$"):
        await store(pool, user, TaskCreate(title=title))


@pytest.mark.requirement("FR-036")
async def test_unsendable_value_is_an_internal_error(pool: Database) -> None:
    with pytest.raises(DatabaseError):
        await store(pool, "alice", TaskCreate(title="\ud800"))


@pytest.mark.requirement("FR-026")
async def test_body_rejected_only_by_the_database_is_422(
    url: str, rival: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def parse(*_: object) -> TaskCreate:
        return TaskCreate(title=" ")

    monkeypatch.setattr(JSONBody, "parse", parse)
    async with serving(url) as client:
        response = await client.post(ALICE, json={"title": " "})
    assert_problem(response, 422, "invalid-body", "/title")
    assert await rival.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.fixture
def logged() -> Iterator[Callable[[LogFormat], LogFile]]:
    """Redirect the log to a file in the given format."""
    before, config = logging.getLogger().level, structlog.get_config()

    with log_file() as file:

        def configured(log_format: LogFormat) -> LogFile:
            configure_logging(LogLevel.DEBUG, log_format, file.descriptor)
            return file

        yield configured
        restore(config)
    logging.basicConfig(handlers=[logging.NullHandler()], level=before, force=True)


@pytest.fixture
async def rejecting_table(rival: asyncpg.Connection) -> AsyncIterator[None]:
    """Make the table reject each new row with a given message."""
    await rival.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          RAISE 'private words' USING ERRCODE = '22012', DETAIL = 'private words ' || NEW.title;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION refuse()
        """
    )
    yield
    await rival.execute("DROP FUNCTION refuse CASCADE")


@pytest.mark.requirement("FR-028", "FR-036")
@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.TEXT])
@pytest.mark.usefixtures("rejecting_table")
async def test_unexpected_rejection_is_500_without_the_driver_message(
    url: str, logged: Callable[[LogFormat], LogFile], log_format: LogFormat
) -> None:
    log = logged(log_format)
    async with serving(url) as client:
        response = await client.post(ALICE, json={"title": "Buy private milk"})
    problem = assert_problem(response, 500, "internal-error")
    assert problem["detail"] == "An unexpected error occurred; it was logged with this request ID."
    assert response.headers["x-request-id"] in log.getvalue()
    assert "DatabaseError: SQLSTATE 22012, constraint None" in log.getvalue()
    assert "private" not in response.text + log.getvalue()
    assert "INSERT INTO" not in response.text + log.getvalue()
