"""The benchmarks of the feed, with few requests and for a short time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from tests.support.process import ROOT

TIMEOUT = 120.0  # seconds
FEW_FILES = 100


def bench(
    name: str, files: int | None = None, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run a benchmark to its end, with this limit of open files."""

    def limit_files() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    return subprocess.run(
        [sys.executable, "-m", f"bench.load.{name}"],
        cwd=ROOT,
        env=os.environ | {key: str(value) for key, value in variables.items()},
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


@pytest.mark.requirement("NFR-205", "FR-217")
def test_waiting_requests_are_held_and_answered_at_shutdown() -> None:
    done = bench("waiting", WAITING_REQUESTS=20, WAITING_SECONDS=2)
    assert "20 waiting requests: " in done.stdout, done.stderr
    assert "SIGTERM: 20 requests answered" in done.stdout
    assert "failed 0" in done.stdout


@pytest.mark.requirement("NFR-205")
def test_too_few_open_files_are_reported() -> None:
    done = bench("waiting", FEW_FILES, WAITING_REQUESTS=20)
    assert done.returncode == 1
    assert "20 waiting requests need 220 open files; `ulimit -Hn` is 100." in done.stderr


@pytest.mark.requirement("NFR-203")
def test_pollers_next_to_writers_miss_no_change() -> None:
    done = bench("feed", FEED_SECONDS=3)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("once", "with"))]
    assert [row[:13].strip() for row in rows] == ["once a second", "with wait"] * 2
    assert [row[13:].split()[2] for row in rows] == ["0"] * 4
