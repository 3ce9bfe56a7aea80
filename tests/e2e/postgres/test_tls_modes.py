"""TLS to a real PostgreSQL: the shared cases, and those that need a server with TLS."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from tests.support.process import run
from tests.support.tls import Certificates
from tests.support.tls_cases import PresentCertificate, TLSCases, certificates, serving
from tools.postgres import postgres
from tools.postgres.postgres import ENCODED, Postgres

__all__ = ["certificates"]

pytestmark = pytest.mark.requirement("NFR-018")

CERTIFICATES = (
    "right",
    "wrong name",
    "expired",
    "unknown CA",
    "none",
    "plain CA",
    "intermediate CA",
)


@pytest.fixture(scope="module")
def servers(certificates: Certificates) -> Iterator[dict[str, Postgres]]:
    """One server for each certificate, and one without TLS."""
    with ExitStack() as stack:
        yield {
            certificate: stack.enter_context(
                postgres.running(
                    postgres.TLS_MAJOR,
                    None if certificate == "none" else certificates.issue(certificate),
                )
            )
            for certificate in CERTIFICATES
        }


@pytest.fixture
def present_certificate(servers: dict[str, Postgres]) -> PresentCertificate:
    @asynccontextmanager
    async def present(certificate: str) -> AsyncIterator[str]:
        yield servers[certificate]._replace(host="localhost").url()

    return present


async def is_trusted(connection: DatabaseConfig) -> bool:
    """Return whether a session can be opened."""
    try:
        opened = await asyncpg.connect(**connection.connect_kwargs())
    except (ssl.SSLError, ConnectionError):
        return False
    await opened.close()
    return True


class TestPostgres(TLSCases):
    """A PostgreSQL with TLS."""

    async def test_session_is_encrypted(
        self,
        servers: dict[str, Postgres],
        certificates: Certificates,
    ) -> None:
        url = servers["right"].url(f"?sslmode=verify-full&sslrootcert={certificates.ca_file}")
        opened = await asyncpg.connect(**DatabaseConfig.from_url(url).connect_kwargs())
        row = await opened.fetchrow(
            "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        )
        await opened.close()
        assert row is not None
        assert tuple(row) == (True, "TLSv1.3")

    @pytest.mark.requirement("FR-054")
    @pytest.mark.parametrize("attribute", ["ca_file", "plain_ca_file", "intermediate_file"])
    @pytest.mark.parametrize("certificate", CERTIFICATES)
    async def test_certificate_is_trusted_like_in_libpq(
        self,
        servers: dict[str, Postgres],
        certificates: Certificates,
        certificate: str,
        attribute: str,
    ) -> None:
        ca_file = getattr(certificates, attribute)
        url = servers[certificate].url(f"?sslmode=verify-full&sslrootcert={ca_file}")
        url = url.replace("127.0.0.1", "localhost")
        psql = await asyncio.create_subprocess_exec(
            "psql", url, "-c", "SELECT 1", stdout=DEVNULL, stderr=PIPE
        )
        _, output = await psql.communicate()
        assert await is_trusted(DatabaseConfig.from_url(url)) == (psql.returncode == 0), output

    async def test_rejected_plain_text_connection_is_reported(
        self, servers: dict[str, Postgres]
    ) -> None:
        with capture_logs() as lines:
            async with serving(servers["right"].url("?sslmode=disable")) as client:
                assert (await client.get("/readyz")).status_code == 503
        [line] = [line for line in lines if line["event"] == "database unavailable"]
        assert "SQLSTATE 28000, no pg_hba.conf entry" in line["cause"]

    @pytest.mark.parametrize("command", ["migrate", "doctor"])
    def test_command_reports_a_wrong_password_without_repeating_it(
        self,
        servers: dict[str, Postgres],
        certificates: Certificates,
        command: str,
    ) -> None:
        url = servers["right"].url(f"?sslmode=require&sslrootcert={certificates.ca_file}")
        result = run(command, DATABASE_URL=url.replace(ENCODED, "hunter2"), PORT=0)
        output = result.stdout + result.stderr
        assert result.returncode == 1
        assert 'SQLSTATE 28P01, password authentication failed for user "tasks"' in output
        assert "hunter2" not in output
        assert "Traceback" not in output

    async def test_wrong_password_is_503_and_logged_once(
        self,
        servers: dict[str, Postgres],
        certificates: Certificates,
    ) -> None:
        url = servers["right"].url(f"?sslmode=require&sslrootcert={certificates.ca_file}")
        with capture_logs() as lines:
            async with serving(url.replace(ENCODED, "hunter2")) as client:
                assert (await client.get("/readyz")).status_code == 503
        [line] = [line for line in lines if line["event"] == "database unavailable"]
        assert 'password authentication failed for user "tasks"' in line["cause"]
        assert "hunter2" not in str(lines)


def test_server_with_tls_is_migrated(
    servers: dict[str, Postgres],
    certificates: Certificates,
) -> None:
    upgrade(
        DatabaseConfig.from_url(
            servers["right"].url(f"?sslmode=require&sslrootcert={certificates.ca_file}")
        )
    )
