"""Fixtures: a migrated PostgreSQL for each worker, emptied after each test that used it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import structlog

from app import embedded_postgres
from app.asgi import create_app
from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from app.http.middleware import HTTPMiddleware
from app.openapi.document import OpenAPIDocument
from app.settings import Settings
from tests.support.client import ContractClient
from tests.support.database import GIVEN, connect, connection_to, settings_for
from tests.support.lifespan import running
from tests.support.process import scratch_database

# rich, which a tool of the tests brings along, would draw the stack of a fault with all that is in
# its variables: for seconds, in which a test that ought to fail seems to hang.
_IN_WORDS = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _IN_WORDS])

POSTGRES = int(os.environ.get("TEST_POSTGRES") or 18)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded, from whatever worker they come."""
    for report in terminalreporter.getreports("passed"):
        for name, figure in report.user_properties:
            terminalreporter.write_line(f"{name}: {figure}")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of this worker's own, empty. TEST_POSTGRES chooses its version.

    With DATABASE_URL it is a database of this worker's own on that server.
    """
    given = GIVEN.get("DATABASE_URL")
    data = tmp_path_factory.mktemp("postgres")
    own = embedded_postgres.run_postgres(data, major=POSTGRES, durable=False)
    with scratch_database(given) if given else own as url:
        yield url


@pytest.fixture(scope="session")
def database_url(server_url: str) -> str:
    """The database of this worker, migrated by Alembic."""
    upgrade(connection_to(server_url))
    return server_url


@pytest.fixture(scope="module")
def url(server_url: str) -> Iterator[str]:
    """A migrated database that nothing but the tests of one module uses."""
    with scratch_database(server_url) as scratch:
        upgrade(connection_to(scratch))
        yield scratch


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated PostgreSQL for the tests of one module, whatever server the others use.

    Its URL is to be given to the service as it is, without the variables of `GIVEN`.
    """
    with embedded_postgres.run_postgres(
        tmp_path_factory.mktemp("own"), major=POSTGRES, durable=False
    ) as url:
        upgrade(DatabaseConfig.from_url(url))
        yield url


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    """Settings for the database of this worker."""
    return settings_for(database_url)


@pytest.fixture(scope="session")
async def running_app(settings: Settings) -> AsyncIterator[HTTPMiddleware]:
    """The application, started."""
    async with running(create_app(settings)) as app:
        yield app


@pytest.fixture(scope="session")
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the tests' own, to look at rows behind the service's back."""
    opened = await connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def database(connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """The database of this worker; no task outlives the test."""
    yield connection
    await connection.execute("TRUNCATE tasks, idempotency_keys")


@pytest.fixture
async def app(running_app: HTTPMiddleware, database: asyncpg.Connection) -> HTTPMiddleware:  # noqa: ARG001 - emptied
    """The application on an empty database."""
    return running_app


@pytest.fixture
async def client(app: HTTPMiddleware) -> AsyncIterator[ContractClient]:
    """A client that holds every response against the contract."""
    async with ContractClient(app) as opened:
        yield opened


@pytest.fixture(scope="session")
def contract() -> OpenAPIDocument:
    """The contract as the service reads it."""
    return OpenAPIDocument.load()
