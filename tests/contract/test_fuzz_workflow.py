"""The workflow that fuzzes a deployed instance agrees with docs/development/fuzzing.md."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from tools.fuzz import workflow
from tools.fuzz.__main__ import REPORTS, ROOT, USERS
from tools.fuzz.workflow import load, run

PAGE = (ROOT / "docs/development/fuzzing.md").read_text("utf-8")
CALLER = re.compile(r"^<!-- caller -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TASKFILE = yaml.safe_load((ROOT / "Taskfile.yml").read_text("utf-8"))
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> calls
env | grep ^FUZZ_ | sort >> calls
"""


@pytest.fixture
def stubs(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `pip` and `task` only record their calls."""
    for name in ("pip", "task"):
        (tmp_path / name).write_text(STUB, "utf-8")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.requirement("FR-045")
def test_both_triggers_take_the_same_inputs() -> None:
    triggers = load()["on"]
    assert triggers["workflow_dispatch"] == triggers["workflow_call"]
    assert triggers["workflow_call"]["inputs"]["users"]["default"] == USERS


@pytest.mark.requirement("FR-045")
def test_commands_fuzz_the_given_instance(tmp_path: Path, stubs: dict[str, str]) -> None:
    inputs = {"url": "http://127.0.0.1:9", "seed": "7"}
    assert run(tmp_path, stubs, inputs) == ["pip install uv go-task-bin", "task fuzz"]
    assert (tmp_path / "calls").read_text("utf-8").splitlines() == [
        "pip install uv go-task-bin",
        "task fuzz",
        "FUZZ_CASES=500",
        "FUZZ_EXAMPLES=100",
        "FUZZ_ROUNDS=1",
        "FUZZ_SEED=7",
        "FUZZ_URL=http://127.0.0.1:9",
        "FUZZ_USERS=fuzz-",
    ]


def test_failing_command_fails_the_run(tmp_path: Path, stubs: dict[str, str]) -> None:
    (tmp_path / "task").write_text("#!/bin/sh\nexit 3\n", "utf-8")
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path, stubs, {"url": ""})


@pytest.mark.requirement("FR-045")
def test_task_exists_and_reports_are_uploaded() -> None:
    steps = load()["jobs"]["fuzz"]["steps"]
    tasks = [step["run"].removeprefix("task ") for step in steps if "task " in step.get("run", "")]
    assert [name for name in tasks if name in TASKFILE["tasks"]] == ["fuzz"]
    kept = steps[-1]
    assert kept["if"] == "always()"
    assert ROOT / kept["with"]["path"] == REPORTS


@pytest.mark.requirement("FR-045")
def test_example_of_the_docs_uses_declared_inputs() -> None:
    [text] = CALLER.findall(PAGE)
    job = yaml.safe_load(text)["jobs"]["fuzz"]
    assert job["uses"].partition("@")[0].endswith(".github/workflows/fuzz-deployed.yml")
    inputs = load()["on"]["workflow_call"]["inputs"]
    assert set(job["with"]) <= set(inputs)
    assert {name for name, declared in inputs.items() if declared.get("required")} <= set(
        job["with"]
    )


def test_run_without_a_report_fails(tmp_path: Path) -> None:
    with (
        patch.object(workflow, "REPORTS", tmp_path),
        patch.object(workflow, "serving") as serving,
        patch("venv.create"),
        patch.object(workflow, "run") as ran,
    ):
        serving.return_value.__enter__.return_value = "http://127.0.0.1:9"
        with pytest.raises(AssertionError, match="no report"):
            workflow.main()
        ran.side_effect = lambda *_: (tmp_path / "coverage.md").touch()
        workflow.main()
        assert ran.call_args.args[2]["url"] == "http://127.0.0.1:9"
