"""The HTTP client of the JDK, with its defaults, against the running service.

It offers an upgrade to HTTP/2 with the first request to a host. CLIENTS_WITHOUT_TOOLCHAIN=1 lets
the test pass where there is no JDK; without it a missing JDK is a failure.
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
SECONDS = 120
STEPS = [
    *("POST 201", "GET 200", "PATCH 200", "GET 200", "DELETE 204"),
    *("POST 201", "PATCH 200", "DELETE 204"),
]


@pytest.mark.requirement("FR-035", "NFR-011")
def test_the_default_client_of_java_does_every_step(tmp_path: Path) -> None:
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
            timeout=SECONDS,
        )
    print(run.stdout)  # noqa: T201 - shown with -s, as the task has it
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [f"{method} {status}" for method, _, status, _ in lines] == STEPS
