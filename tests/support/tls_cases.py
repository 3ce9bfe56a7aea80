"""TLS test cases for the service, `migrate` and `doctor`, with any server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.asgi import create_app
from app.db.migrations import MigrationError, get_revision, upgrade
from app.settings import Secret, Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running
from tests.support.process import run
from tests.support.tls import Certificates

ALICE = tasks_of("alice")
PASSWORD = "hunter2"  # noqa: S105 - a dummy
VERIFY = "TLS: certificate verify failed: "
CAUSES = {
    "wrong name": VERIFY + "Hostname mismatch, certificate is not valid for 'localhost'.",
    "expired": VERIFY + "certificate has expired",
    "unknown CA": VERIFY + "unable to get local issuer certificate",
    "none": "rejected SSL upgrade",
}
# Takes the name of a certificate, or "none"; returns a URL without a query.
PresentCertificate = Callable[[str], AbstractAsyncContextManager[str]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def serving(url: str, **settings: Any) -> AsyncIterator[ContractClient]:
    made = create_app(Settings(database_url=Secret(url), **settings))
    async with running(made) as app, ContractClient(app) as client:
        yield client


class TLSCases:
    """Test cases. A module with the fixture `present_certificate` defines a subclass."""

    @pytest.mark.requirement("FR-054")
    @pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
    async def test_valid_certificate_is_accepted(
        self, present_certificate: PresentCertificate, certificates: Certificates, mode: str
    ) -> None:
        async with present_certificate("right") as url:
            named = f"{url}?sslmode={mode}&sslrootcert={certificates.roots}"
            settings = Settings(database_url=Secret(named))
            await asyncio.to_thread(upgrade, settings.database_config())
            async with serving(named) as client:
                assert (await client.get("/readyz")).status_code == 200
                assert (await client.get(ALICE)).status_code == 200

    @pytest.mark.requirement("FR-054")
    async def test_ca_file_setting_is_used(
        self, present_certificate: PresentCertificate, certificates: Certificates
    ) -> None:
        async with (
            present_certificate("right") as url,
            serving(f"{url}?sslmode=require", database_ca_file=certificates.roots) as client,
        ):
            assert (await client.get("/readyz")).status_code == 200

    @pytest.mark.requirement("FR-054")
    async def test_ca_without_key_usage_is_trusted(
        self, present_certificate: PresentCertificate, certificates: Certificates
    ) -> None:
        async with present_certificate("plain CA") as url:
            named = f"{url}?sslmode=verify-full&sslrootcert={certificates.plain}"
            await asyncio.to_thread(upgrade, Settings(database_url=Secret(named)).database_config())
            async with serving(named) as client:
                assert (await client.get("/readyz")).status_code == 200

    @pytest.mark.requirement("FR-054")
    @pytest.mark.parametrize(("named", "status"), [("roots", 200), ("intermediate", 503)])
    async def test_intermediate_ca_is_not_a_trust_anchor(
        self,
        present_certificate: PresentCertificate,
        certificates: Certificates,
        named: str,
        status: int,
    ) -> None:
        async with present_certificate("intermediate CA") as url:
            trusted = f"{url}?sslmode=verify-full&sslrootcert={certificates.roots}"
            await asyncio.to_thread(
                upgrade, Settings(database_url=Secret(trusted)).database_config()
            )
            roots: Path = getattr(certificates, named)
            async with serving(f"{url}?sslmode=verify-full&sslrootcert={roots}") as client:
                assert (await client.get("/readyz")).status_code == status

    @pytest.mark.requirement("FR-054", "FR-033")
    @pytest.mark.parametrize("kind", CAUSES)
    @pytest.mark.parametrize("mode", ["require", "verify-full"])
    async def test_invalid_certificate_is_503_and_logged_once(
        self,
        present_certificate: PresentCertificate,
        certificates: Certificates,
        kind: str,
        mode: str,
    ) -> None:
        with capture_logs() as lines:
            async with present_certificate(kind) as url:
                named = f"{url}?sslmode={mode}&sslrootcert={certificates.roots}"
                async with serving(named) as client:
                    assert_problem(await client.get("/readyz"), 503, "not-ready")
                    for _ in range(5):
                        answered = await client.get(ALICE)
                        assert_problem(answered, 503, "database-unavailable")
                        assert "certificate" not in answered.text
        [line] = [line for line in lines if line["event"] == "database unavailable"]
        assert CAUSES[kind] in line["cause"]
        assert line["log_level"] == "warning"
        assert PASSWORD not in str(lines)

    @pytest.mark.requirement("FR-054", "FR-039")
    @pytest.mark.parametrize("kind", CAUSES)
    async def test_migration_and_doctor_report_the_certificate_error(
        self, present_certificate: PresentCertificate, certificates: Certificates, kind: str
    ) -> None:
        async with present_certificate(kind) as url:
            named = f"{url}?sslmode=verify-full&sslrootcert={certificates.roots}"
            connection = Settings(database_url=Secret(named)).database_config()
            for use in (upgrade, get_revision):
                with pytest.raises(MigrationError) as raised:
                    await asyncio.to_thread(use, connection)
                assert CAUSES[kind] in str(raised.value)
                assert PASSWORD not in str(raised.value)

    @pytest.mark.requirement("FR-054", "FR-028")
    @pytest.mark.parametrize("command", ["migrate", "doctor"])
    async def test_command_reports_the_error_without_the_password(
        self, present_certificate: PresentCertificate, certificates: Certificates, command: str
    ) -> None:
        async with present_certificate("wrong name") as url:
            named = f"{url}?sslmode=require"
            roots: Path = certificates.roots
            settings = {"DATABASE_URL": named, "DATABASE_CA_FILE": roots, "PORT": 0}
            done = await asyncio.to_thread(run, command, **settings)
        assert done.returncode == 1
        told = done.stdout + done.stderr
        assert f"The database cannot be reached: {CAUSES['wrong name']}" in told
        assert "Traceback" not in told
        assert PASSWORD not in told

    @pytest.mark.requirement("FR-054")
    @pytest.mark.parametrize("kind", ["wrong name", "expired", "unknown CA"])
    async def test_require_skips_verification_only_if_disabled(
        self, present_certificate: PresentCertificate, kind: str
    ) -> None:
        async with present_certificate(kind) as url:
            unchecked = Settings(
                database_url=Secret(f"{url}?sslmode=require"), database_tls_verify=False
            )
            await asyncio.to_thread(upgrade, unchecked.database_config())
            for mode, status in (("require", 200), ("verify-ca", 503), ("verify-full", 503)):
                named = f"{url}?sslmode={mode}"
                async with serving(named, database_tls_verify=False) as client:
                    assert (await client.get("/readyz")).status_code == status

    @pytest.mark.requirement("FR-054")
    async def test_require_never_connects_without_tls(
        self, present_certificate: PresentCertificate
    ) -> None:
        async with (
            present_certificate("none") as url,
            serving(f"{url}?sslmode=require", database_tls_verify=False) as client,
        ):
            assert (await client.get("/readyz")).status_code == 503
