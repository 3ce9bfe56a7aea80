"""The workflows run existing tasks and upload their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TASKS: dict[str, Any] = yaml.safe_load((ROOT / "Taskfile.yml").read_text("utf-8"))["tasks"]


def steps(workflow: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    jobs: dict[str, Any] = yaml.safe_load(workflow.read_text("utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.requirement("NFR-012")
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_runs_existing_tasks(workflow: Path) -> None:
    commands = [step["run"].split() for step in steps(workflow) if "run" in step]
    tasks = [arguments[1] for arguments in commands if arguments[0] == "task"]
    assert tasks
    assert set(tasks) <= set(TASKS)


@pytest.mark.requirement("NFR-012")
def test_typescript_client_package_is_uploaded() -> None:
    *_, build, upload = steps(ROOT / ".github/workflows/typescript-client.yml")
    assert build["run"] == "task build:typescript-client"
    assert upload["uses"].startswith("actions/upload-artifact@")
    assert upload["with"]["if-no-files-found"] == "error"
    *_, pack = TASKS["build:typescript-client"]["cmds"]
    assert pack.endswith(f"--pack-destination {Path(upload['with']['path']).parent}")
