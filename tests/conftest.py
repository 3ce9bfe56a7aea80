"""Fixtures: one migrated PostgreSQL per worker, truncated after each test that used it."""

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
from tests.support.database import DATABASE_VARIABLES, connect, database_config_for, settings_for
from tests.support.lifespan import running
from tests.support.process import scratch_database

# If rich is installed, structlog renders a traceback with all local variables. That takes seconds,
# and a failing test seems to hang.
_PLAIN_TRACEBACKS = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN_TRACEBACKS])

POSTGRES = int(os.environ.get("TEST_POSTGRES") or 18)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that the tests of all workers recorded."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of an empty PostgreSQL for this worker; TEST_POSTGRES sets its version.

    With DATABASE_URL it is a new database on that server.
    """
    external_url = DATABASE_VARIABLES.get("DATABASE_URL")
    data_dir = tmp_path_factory.mktemp("postgres")
    embedded = embedded_postgres.run_postgres(data_dir, major=POSTGRES, durable=False)
    with scratch_database(external_url) if external_url else embedded as url:
        yield url


@pytest.fixture(scope="session")
def database_url(server_url: str) -> str:
    """Migrate the database of this worker and return its URL."""
    upgrade(database_config_for(server_url))
    return server_url


@pytest.fixture(scope="module")
def url(server_url: str) -> Iterator[str]:
    """Return the URL of a migrated database for the tests of one module."""
    with scratch_database(server_url) as scratch:
        upgrade(database_config_for(scratch))
        yield scratch


@pytest.fixture(scope="module")
def embedded_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a migrated embedded PostgreSQL for one module, even if DATABASE_URL is set.

    Pass its URL to the service unchanged, without the variables in `DATABASE_VARIABLES`.
    """
    with embedded_postgres.run_postgres(
        tmp_path_factory.mktemp("own"), major=POSTGRES, durable=False
    ) as url:
        upgrade(DatabaseConfig.from_url(url))
        yield url


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    return settings_for(database_url)


@pytest.fixture(scope="session")
async def running_app(settings: Settings) -> AsyncIterator[HTTPMiddleware]:
    async with running(create_app(settings)) as app:
        yield app


@pytest.fixture(scope="session")
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to read and write rows without the service."""
    opened = await connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def database(connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """The database of this worker, truncated after the test."""
    yield connection
    await connection.execute("TRUNCATE tasks, lists, idempotency_keys, users, tombstones")


@pytest.fixture
async def app(running_app: HTTPMiddleware, database: asyncpg.Connection) -> HTTPMiddleware:  # noqa: ARG001 - emptied
    return running_app


@pytest.fixture
async def client(app: HTTPMiddleware) -> AsyncIterator[ContractClient]:
    """A client that checks every response against the contract."""
    async with ContractClient(app) as opened:
        yield opened


@pytest.fixture(scope="session")
def contract() -> OpenAPIDocument:
    return OpenAPIDocument.load()
