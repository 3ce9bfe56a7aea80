"""Run Schemathesis without hooks: `python -m tools.fuzz.plain [ARGUMENTS]`.

It uses `schemathesis.toml` in the root of the repository, and a service that it starts on an empty
database. The arguments are passed to Schemathesis.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.embedded_postgres.user import make_preexec_fn
from tests.support.long_task import progress, run
from tools.fuzz.__main__ import ROOT, serving


def main(arguments: Sequence[str]) -> int:
    """Run Schemathesis and return its exit code."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    with tempfile.TemporaryDirectory(prefix="tasks-plain-") as logs, serving(Path(logs)) as url:
        command = [str(program), "run", "openapi.yaml", f"--url={url}", *arguments]
        progress("Schemathesis without hooks")
        prepare = make_preexec_fn(None)  # Linux ends it with this process
        return subprocess.run(command, cwd=ROOT, check=False, preexec_fn=prepare).returncode


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
