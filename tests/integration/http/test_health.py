"""getLiveness and getReadiness."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import asyncpg
import pytest

from app.asgi import create_app
from app.db.config import DatabaseConfig
from app.db.database import SCHEMA_REVISION
from app.db.migrations import MigrationError, get_revision
from tests.support.client import ContractClient, assert_problem
from tests.support.database import connect, settings_for
from tests.support.lifespan import running
from tests.support.process import scratch_database, until

NOT_AVAILABLE_DETAIL = "The database is unavailable or did not respond within 1 second."
BEHIND = "The database schema is older than this version requires."


@asynccontextmanager
async def serving(url: str, timeout: float = 0.1) -> AsyncIterator[ContractClient]:
    # This timeout applies to requests and to the check at startup. Readiness has a separate one.
    asgi_app = create_app(settings_for(url, database_timeout=timeout))
    async with running(asgi_app) as app, ContractClient(app) as client:
        yield client


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A database that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"postgresql://tasks@127.0.0.1:{listener.getsockname()[1]}/tasks"


@pytest.fixture(scope="module")
def empty_url(server_url: str) -> Iterator[str]:
    """A database without a schema."""
    with scratch_database(server_url) as url:
        yield url


@pytest.mark.requirement("FR-035")
async def test_responding_process_is_live(client: ContractClient) -> None:
    response = await client.get("/livez")
    assert response.status_code == 200
    assert response.json() == {"status": "alive"}


@pytest.mark.requirement("FR-035")
async def test_liveness_does_not_query_the_database(black_hole: str) -> None:
    async with serving(black_hole) as client:
        started = monotonic()
        response = await client.get("/livez")
        assert monotonic() - started < 0.5
    assert response.json() == {"status": "alive"}


@pytest.mark.requirement("FR-035")
async def test_service_with_its_database_is_ready(client: ContractClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready"}


@pytest.mark.requirement("FR-035")
async def test_unreachable_database_is_not_ready_within_a_second(tmp_path: Path) -> None:
    async with serving(f"postgresql://tasks@/tasks?host={tmp_path}&port=5432") as client:
        started = monotonic()
        response = await client.get("/readyz")
        duration = monotonic() - started
    assert assert_problem(response, 503, "not-ready")["detail"] == NOT_AVAILABLE_DETAIL
    assert response.headers["retry-after"] == "1"
    assert duration < 1.3


@pytest.mark.requirement("FR-035")
async def test_silent_database_is_not_ready_after_a_second(black_hole: str) -> None:
    async with serving(black_hole, 1.5) as client:
        started = monotonic()
        response = await client.get("/readyz")
        duration = monotonic() - started
    assert assert_problem(response, 503, "not-ready")["detail"] == NOT_AVAILABLE_DETAIL
    assert 0.9 < duration < 1.3


@pytest.mark.requirement("FR-035")
async def test_locked_schema_is_not_ready_after_a_second(url: str) -> None:
    other = await connect(url)
    async with serving(url) as client:
        await other.execute("BEGIN; LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        started = monotonic()
        response = await client.get("/readyz")
        duration = monotonic() - started
        await other.execute("ROLLBACK")

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(ready)  # the timeout of readiness is one second; a busy machine may need longer
    await other.close()
    assert assert_problem(response, 503, "not-ready")["detail"] == NOT_AVAILABLE_DETAIL
    assert 0.9 < duration < 1.3


@pytest.fixture
async def version(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database whose revision is restored after the test."""
    connection = await connect(url)
    rows = [tuple(row) for row in await connection.fetch("SELECT version_num FROM alembic_version")]
    yield connection
    await connection.execute("TRUNCATE alembic_version")
    await connection.executemany("INSERT INTO alembic_version VALUES ($1)", rows)
    await connection.close()


@pytest.mark.requirement("FR-035", "FR-039")
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE alembic_version SET version_num = '0000'",
        "DELETE FROM alembic_version",
    ],
    ids=["behind", "none"],
)
async def test_older_schema_is_not_ready(
    url: str, version: asyncpg.Connection, change: str
) -> None:
    async with serving(url, 4) as client:
        await version.execute(change)
        response = await client.get("/readyz")
    assert assert_problem(response, 503, "not-ready")["detail"] == BEHIND
    assert response.headers["retry-after"] == "1"


@pytest.mark.requirement("FR-035", "FR-039")
async def test_newer_schema_is_ready(url: str, version: asyncpg.Connection) -> None:
    async with serving(url, 4) as client:
        await version.execute("UPDATE alembic_version SET version_num = '9999'")
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.requirement("FR-035", "FR-039")
async def test_service_becomes_ready_after_migration(url: str, version: asyncpg.Connection) -> None:
    await version.execute("UPDATE alembic_version SET version_num = '0000'")
    async with serving(url, 4) as client:
        assert (await client.get("/readyz")).status_code == 503
        await version.execute("UPDATE alembic_version SET version_num = $1", SCHEMA_REVISION)
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.requirement("FR-035", "FR-039")
async def test_database_without_schema_is_not_ready_and_logged(empty_url: str) -> None:
    async with serving(empty_url, 4) as client:
        response = await client.get("/readyz")
    assert assert_problem(response, 503, "not-ready")["detail"] == BEHIND


@pytest.mark.requirement("FR-035")
def test_revision_of_an_unreachable_database_raises_its_cause(tmp_path: Path) -> None:
    unreachable = DatabaseConfig.from_url(f"postgresql://nobody@/nothing?host={tmp_path}")
    with pytest.raises(MigrationError, match=r"cannot be reached: .*No such file or directory"):
        get_revision(unreachable)
