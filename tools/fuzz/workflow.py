"""Run the shell commands of the workflow for deployed instances.

`python -m tools.fuzz.workflow` runs them against a service that it starts. It does not run the
actions between the commands, which check out, set up Python and upload the reports.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.fuzz.__main__ import REPORTS, ROOT, serving

WORKFLOW = ROOT / ".github" / "workflows" / "fuzz-deployed.yml"
# The runner's default shell.
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
INPUT = re.compile(r"\$\{\{ inputs\.([a-z]+) \}\}")
TIMEOUT = 1800


def load() -> dict[str, Any]:
    """Load the workflow. YAML 1.1 reads its key `on` as true."""
    workflow: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in workflow.items()}


def run(folder: Path, environ: Mapping[str, str], overrides: Mapping[str, str]) -> list[str]:
    """Run every command in `folder` with these inputs, and return the commands.

    Other inputs have their default, as in a call from another workflow. Raises CalledProcessError
    if a command fails.
    """
    workflow = load()
    declared = workflow["on"]["workflow_call"]["inputs"]
    inputs = {name: declaration.get("default") for name, declaration in declared.items()} | dict(
        overrides
    )
    commands = []
    for step in workflow["jobs"]["fuzz"]["steps"]:
        if "run" in step:
            added = {
                name: INPUT.sub(lambda match: inputs[match[1]], value)
                for name, value in step.get("env", {}).items()
            }
            subprocess.run(
                [*SHELL, step["run"]],
                cwd=folder,
                env={**environ, **added},
                check=True,
                timeout=TIMEOUT,
            )
            commands.append(step["run"])
    return commands


def main() -> None:
    coverage = REPORTS / "coverage.md"
    coverage.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="tasks-workflow-") as fresh,
        serving(Path(fresh) / "service") as url,
    ):
        # Like the workflow's Python, without installed packages.
        venv.create(Path(fresh) / "python", with_pip=True)
        path = f"{Path(fresh) / 'python' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        inputs = {"url": url, "examples": "10", "seed": os.environ.get("FUZZ_SEED", "")}
        run(ROOT, os.environ | {"PATH": path}, inputs)
    # The last action of the workflow uploads it.
    assert coverage.exists(), "no report was written"


if __name__ == "__main__":
    main()
