"""TLS to the database with valid and invalid certificates.

`task test:tls` runs the same cases, and the whole suite, on a PostgreSQL with TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.engine import make_url

from app import embedded_postgres
from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from tests.support.tls import Certificates, tls_proxy
from tests.support.tls_cases import PASSWORD, PresentCertificate, TLSCases, certificates

__all__ = ["certificates"]


@pytest.fixture(scope="module")
def socket_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated embedded PostgreSQL, even if DATABASE_URL is set."""
    with embedded_postgres.run_postgres(tmp_path_factory.mktemp("postgres"), durable=False) as url:
        upgrade(DatabaseConfig.from_url(url))
        yield url


@pytest.fixture
def present_certificate(socket_url: str, certificates: Certificates) -> PresentCertificate:
    parts = make_url(socket_url)
    path = f"{parts.query['host']}/.s.PGSQL.{parts.query['port']}"

    @asynccontextmanager
    async def present(certificate_name: str) -> AsyncIterator[str]:
        certificate = None if certificate_name == "none" else certificates.issue(certificate_name)
        async with tls_proxy(lambda: asyncio.open_unix_connection(path), certificate) as port:
            yield f"postgresql://tasks:{PASSWORD}@localhost:{port}/tasks"

    return present


class TestTLSProxy(TLSCases):
    """A TLS proxy in front of a server without TLS."""
