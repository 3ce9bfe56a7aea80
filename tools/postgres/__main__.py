"""Run the tests on production-like servers: `python -m tools.postgres pgbouncer`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trustme

from app.db.migrations import upgrade
from app.settings import Settings
from tests.support import process
from tools.postgres import pgbouncer, postgres
from tools.postgres.skips import SKIPS

SUITE_TIMEOUT = 3600.0


@contextmanager
def pgbouncer_variables() -> Iterator[dict[str, str]]:
    """Yield the variables for PgBouncer and for a direct connection."""
    major = int(os.environ.get("TEST_POSTGRES") or 18)
    with postgres.running(major) as server, pgbouncer.running(server) as pooler:
        yield {
            "DATABASE_URL": pooler.url(),
            "DATABASE_DIRECT_URL": server.url(),
            "DATABASE_TRANSACTION_POOLING": "true",
        }


@contextmanager
def tls_variables() -> Iterator[dict[str, str]]:
    """Yield the variables for a PostgreSQL that requires TLS, with a test CA."""
    authority = trustme.CA()
    with (
        TemporaryDirectory() as folder,
        postgres.running(
            postgres.TLS_MAJOR, authority.issue_cert("localhost", "127.0.0.1")
        ) as server,
    ):
        ca_file = Path(folder) / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        yield {"DATABASE_URL": server.url(f"?sslmode=verify-full&sslrootcert={ca_file}")}


BACKENDS = {"pgbouncer": pgbouncer_variables, "tls": tls_variables}


def suite(backend: str, variables: Mapping[str, str], arguments: list[str]) -> int:
    """Run pytest and return its exit status."""
    skipped = SKIPS[backend]
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}")
    argv = [sys.executable, "-m", "pytest", *(arguments or ["-n", "2"])]
    argv += [f"--deselect={name}" for name in skipped]
    return subprocess.run(
        argv, cwd=process.ROOT, env={**os.environ, **variables}, check=False, timeout=SUITE_TIMEOUT
    ).returncode


def cases(backend: str) -> int:
    """Run the tests that are only for this backend, and return the exit status."""
    files = {
        "tls": ["tests/e2e/postgres/test_tls_modes.py"],
        "pgbouncer": ["tests/e2e/postgres/test_session_pooler.py"],
    }
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files[backend]]
    return subprocess.run(argv, cwd=process.ROOT, check=False, timeout=SUITE_TIMEOUT).returncode


def fuzz(variables: Mapping[str, str]) -> int:
    """Run a short fuzz test of a service on the backend, and return the exit status."""
    settings = Settings.from_env(variables)
    upgrade(settings.database_config())
    with process.serving(**variables) as service:
        return subprocess.run(
            [sys.executable, "-m", "tools.fuzz"],
            cwd=process.ROOT,
            env={**os.environ, "FUZZ_URL": service.url},
            check=False,
            timeout=SUITE_TIMEOUT,
        ).returncode


def main() -> int:
    """Run the suite. Without pytest arguments, also run the backend's tests and a fuzz test."""
    parser = argparse.ArgumentParser(prog="python -m tools.postgres", description=__doc__)
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments of pytest")
    options = parser.parse_args()
    with BACKENDS[options.backend]() as variables:
        failed = [suite(options.backend, variables, options.pytest)]
        if not options.pytest:
            failed += [cases(options.backend), fuzz(variables)]
    print(f"{options.backend}: {'red' if any(failed) else 'green'}")
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
