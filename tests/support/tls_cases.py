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
    asgi_app = create_app(Settings(database_url=Secret(url), **settings))
    async with running(asgi_app) as app, ContractClient(app) as client:
        yield client


class TLSCases:
    """Test cases. A module with the fixture `present_certificate` defines a subclass."""

    @pytest.mark.requirement("FR-054")
    @pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
    async def test_valid_certificate_is_accepted(
        self, present_certificate: PresentCertificate, certificates: Certificates, mode: str
    ) -> None:
        async with present_certificate("right") as url:
            url_with_options = f"{url}?sslmode={mode}&sslrootcert={certificates.ca_file}"
            settings = Settings(database_url=Secret(url_with_options))
            await asyncio.to_thread(upgrade, settings.database_config())
            async with serving(url_with_options) as client:
                assert (await client.get("/readyz")).status_code == 200
                assert (await client.get(ALICE)).status_code == 200

    @pytest.mark.requirement("FR-054")
    async def test_ca_file_setting_is_used(
        self, present_certificate: PresentCertificate, certificates: Certificates
    ) -> None:
        async with (
            present_certificate("right") as url,
            serving(f"{url}?sslmode=require", database_ca_file=certificates.ca_file) as client,
        ):
            assert (await client.get("/readyz")).status_code == 200

    @pytest.mark.requirement("FR-054")
    async def test_ca_without_key_usage_is_trusted(
        self, present_certificate: PresentCertificate, certificates: Certificates
    ) -> None:
        async with present_certificate("plain CA") as url:
            url_with_options = f"{url}?sslmode=verify-full&sslrootcert={certificates.plain_ca_file}"
            await asyncio.to_thread(
                upgrade, Settings(database_url=Secret(url_with_options)).database_config()
            )
            async with serving(url_with_options) as client:
                assert (await client.get("/readyz")).status_code == 200

    @pytest.mark.requirement("FR-054")
    @pytest.mark.parametrize(
        ("attribute", "status"), [("ca_file", 200), ("intermediate_file", 503)]
    )
    async def test_intermediate_ca_is_not_a_trust_anchor(
        self,
        present_certificate: PresentCertificate,
        certificates: Certificates,
        attribute: str,
        status: int,
    ) -> None:
        async with present_certificate("intermediate CA") as url:
            trusted_url = f"{url}?sslmode=verify-full&sslrootcert={certificates.ca_file}"
            await asyncio.to_thread(
                upgrade, Settings(database_url=Secret(trusted_url)).database_config()
            )
            ca_file: Path = getattr(certificates, attribute)
            async with serving(f"{url}?sslmode=verify-full&sslrootcert={ca_file}") as client:
                assert (await client.get("/readyz")).status_code == status

    @pytest.mark.requirement("FR-054", "FR-033")
    @pytest.mark.parametrize("certificate", CAUSES)
    @pytest.mark.parametrize("mode", ["require", "verify-full"])
    async def test_invalid_certificate_is_503_and_logged_once(
        self,
        present_certificate: PresentCertificate,
        certificates: Certificates,
        certificate: str,
        mode: str,
    ) -> None:
        with capture_logs() as entries:
            async with present_certificate(certificate) as url:
                url_with_options = f"{url}?sslmode={mode}&sslrootcert={certificates.ca_file}"
                async with serving(url_with_options) as client:
                    assert_problem(await client.get("/readyz"), 503, "not-ready")
                    for _ in range(5):
                        response = await client.get(ALICE)
                        assert_problem(response, 503, "database-unavailable")
                        assert "certificate" not in response.text
        [line] = [line for line in entries if line["event"] == "database unavailable"]
        assert CAUSES[certificate] in line["cause"]
        assert line["log_level"] == "warning"
        assert PASSWORD not in str(entries)

    @pytest.mark.requirement("FR-054", "FR-039")
    @pytest.mark.parametrize("certificate", CAUSES)
    async def test_migration_and_doctor_report_the_certificate_error(
        self, present_certificate: PresentCertificate, certificates: Certificates, certificate: str
    ) -> None:
        async with present_certificate(certificate) as url:
            url_with_options = f"{url}?sslmode=verify-full&sslrootcert={certificates.ca_file}"
            connection = Settings(database_url=Secret(url_with_options)).database_config()
            for operation in (upgrade, get_revision):
                with pytest.raises(MigrationError) as raised:
                    await asyncio.to_thread(operation, connection)
                assert CAUSES[certificate] in str(raised.value)
                assert PASSWORD not in str(raised.value)

    @pytest.mark.requirement("FR-054", "FR-028")
    @pytest.mark.parametrize("command", ["migrate", "doctor"])
    async def test_command_reports_the_error_without_the_password(
        self, present_certificate: PresentCertificate, certificates: Certificates, command: str
    ) -> None:
        async with present_certificate("wrong name") as url:
            url_with_options = f"{url}?sslmode=require"
            ca_file: Path = certificates.ca_file
            settings = {"DATABASE_URL": url_with_options, "DATABASE_CA_FILE": ca_file, "PORT": 0}
            result = await asyncio.to_thread(run, command, **settings)
        assert result.returncode == 1
        output = result.stdout + result.stderr
        assert f"The database cannot be reached: {CAUSES['wrong name']}" in output
        assert "Traceback" not in output
        assert PASSWORD not in output

    @pytest.mark.requirement("FR-054")
    @pytest.mark.parametrize("certificate", ["wrong name", "expired", "unknown CA"])
    async def test_require_skips_verification_only_if_disabled(
        self, present_certificate: PresentCertificate, certificate: str
    ) -> None:
        async with present_certificate(certificate) as url:
            unverified_settings = Settings(
                database_url=Secret(f"{url}?sslmode=require"), database_tls_verify=False
            )
            await asyncio.to_thread(upgrade, unverified_settings.database_config())
            for mode, status in (("require", 200), ("verify-ca", 503), ("verify-full", 503)):
                url_with_options = f"{url}?sslmode={mode}"
                async with serving(url_with_options, database_tls_verify=False) as client:
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
