"""Runs Schemathesis as users do: `python -m tools.fuzz.plain [ARGUMENTS]`.

It uses the `schemathesis.toml` at the top of the repository, which has no hooks, and a service that
it starts on an empty database. The arguments are passed on.
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
    """Fuzz; the exit code is Schemathesis's own, which prints the number of cases and failures."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    with tempfile.TemporaryDirectory(prefix="tasks-plain-") as logs, serving(Path(logs)) as url:
        command = [str(program), "run", "openapi.yaml", f"--url={url}", *arguments]
        progress("Schemathesis, as users run it")
        prepare = make_preexec_fn(None)  # the kernel ends it with this process (Linux)
        return subprocess.run(command, cwd=ROOT, check=False, preexec_fn=prepare).returncode


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
