"""The suite on servers that are like those in production: `python -m tools.postgres pgbouncer`."""

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
from tools.postgres.skips import LEFT_OUT

SUITE_SECONDS = 3600.0


@contextmanager
def pooled() -> Iterator[dict[str, str]]:
    """The variables that lead through PgBouncer, and past it."""
    major = int(os.environ.get("TEST_POSTGRES") or 18)
    with postgres.running(major) as server, pgbouncer.running(server) as pooler:
        yield {
            "DATABASE_URL": pooler.url(),
            "DATABASE_DIRECT_URL": server.url(),
            "DATABASE_TRANSACTION_POOLING": "true",
        }


@contextmanager
def encrypted() -> Iterator[dict[str, str]]:
    """The variables that lead to a PostgreSQL which takes TLS alone, with roots of our own."""
    authority = trustme.CA()
    with (
        TemporaryDirectory() as folder,
        postgres.running(
            postgres.TLS_MAJOR, authority.issue_cert("localhost", "127.0.0.1")
        ) as server,
    ):
        roots = Path(folder) / "roots.pem"
        authority.cert_pem.write_to_path(str(roots))
        yield {"DATABASE_URL": server.url(f"?sslmode=verify-full&sslrootcert={roots}")}


BACKENDS = {"pgbouncer": pooled, "tls": encrypted}


def suite(backend: str, variables: Mapping[str, str], arguments: list[str]) -> int:
    """Run pytest to its end; its exit status."""
    left_out = LEFT_OUT[backend]
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    words = [sys.executable, "-m", "pytest", *(arguments or ["-n", "2"])]
    words += [f"--deselect={name}" for name in left_out]
    return subprocess.run(
        words, cwd=process.ROOT, env={**os.environ, **variables}, check=False, timeout=SUITE_SECONDS
    ).returncode


def cases(backend: str) -> int:
    """Run the tests that are about this backend alone; the exit status."""
    files = {
        "tls": ["tests/integration/db/test_tls_modes.py"],
        "pgbouncer": ["tests/integration/db/test_session_pooler.py"],
    }
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files[backend]]
    return subprocess.run(words, cwd=process.ROOT, check=False, timeout=SUITE_SECONDS).returncode


def fuzz(variables: Mapping[str, str]) -> int:
    """Fuzz a service on the backend, the short form; the exit status."""
    settings = Settings.from_env(variables)
    upgrade(settings.database_config())
    with process.serving(**variables) as service:
        return subprocess.run(
            [sys.executable, "-m", "tools.fuzz"],
            cwd=process.ROOT,
            env={**os.environ, "FUZZ_URL": service.url},
            check=False,
            timeout=SUITE_SECONDS,
        ).returncode


def main() -> int:
    """Run the suite; unless it was narrowed, the backend's own cases and a fuzz run: 1 if red."""
    parser = argparse.ArgumentParser(prog="python -m tools.postgres", description=__doc__)
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments of pytest's")
    given = parser.parse_args()
    with BACKENDS[given.backend]() as variables:
        failed = [suite(given.backend, variables, given.pytest)]
        if not given.pytest:
            failed += [cases(given.backend), fuzz(variables)]
    print(f"{given.backend}: {'red' if any(failed) else 'green'}")
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
