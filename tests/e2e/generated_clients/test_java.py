"""The JDK's HTTP client works with the service, with its default settings.

It offers an upgrade to HTTP/2 with the first request to a host. Without a JDK the test fails, or
passes with CLIENTS_WITHOUT_TOOLCHAIN=1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from tools.fuzz.__main__ import serving

SOURCE = Path(__file__).parent / "java/DefaultClient.java"
TIMEOUT = 120
STEPS = [
    *("POST 201", "GET 200", "PATCH 200", "GET 200", "DELETE 204"),
    *("POST 201", "PATCH 200", "DELETE 204"),
]


@pytest.mark.requirement("FR-035", "NFR-011")
def test_default_java_client_completes_every_step(tmp_path: Path) -> None:
    java = shutil.which("java")
    if not (java and shutil.which("javac")):
        assert os.environ.get("CLIENTS_WITHOUT_TOOLCHAIN"), "no toolchain: java, javac not found"
        warnings.warn("no toolchain: Java's default client was not tried", stacklevel=1)
        return
    with serving(tmp_path) as url:
        run = subprocess.run(
            [java, SOURCE, url],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    print(run.stdout)  # noqa: T201 - shown with `pytest -s`
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [f"{method} {status}" for method, _, status, _ in lines] == STEPS
