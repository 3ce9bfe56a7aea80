"""Runs the shell commands of the workflow for deployed instances, as they stand there.

`python -m tools.fuzz.workflow` does so against a service that it starts. The actions
between the commands are what it cannot run: they check out, set up Python and keep the reports.
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
# As a runner starts it for a step that names no shell of its own.
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
INPUT = re.compile(r"\$\{\{ inputs\.([a-z]+) \}\}")
SECONDS = 1800


def load() -> dict[str, Any]:
    """The workflow; `on` is a key that YAML 1.1 reads as true."""
    workflow: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in workflow.items()}


def run(folder: Path, environ: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Run every command in `folder`, with these inputs; raise CalledProcessError where one fails.

    An input that is not given has its default, as in a call from another workflow.
    """
    workflow = load()
    declared = workflow["on"]["workflow_call"]["inputs"]
    inputs = {name: one.get("default") for name, one in declared.items()} | dict(given)
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
                timeout=SECONDS,
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
        # What the workflow's Python is: one in which nothing is installed yet.
        venv.create(Path(fresh) / "python", with_pip=True)
        path = f"{Path(fresh) / 'python' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        run(ROOT, os.environ | {"PATH": path}, {"url": url, "examples": "10"})
    # What the last action of the workflow keeps.
    assert coverage.exists(), "no report was written"


if __name__ == "__main__":
    main()
