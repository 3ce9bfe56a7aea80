"""The conditions of a green `task clients`, and rules of the contract for its generators."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from app.openapi.document import OpenAPIDocument
from tests.e2e.generated_clients import __main__, matrix
from tests.e2e.generated_clients.__main__ import exit_code, format_report
from tests.e2e.generated_clients.matrix import (
    CONTRACTS,
    NO_TOOLCHAIN,
    RELEASES,
    STAGES,
    Result,
    check_warnings,
    run,
    run_release,
)
from tests.e2e.generated_clients.scenario import BASIC, SCENARIOS, Scenario, find_errors
from tests.e2e.generated_clients.targets import TARGETS, Target

pytestmark = pytest.mark.requirement("NFR-011")

ROOT = Path(__file__).parents[3]
TARGET = Target(
    "some",
    ("zod",),
    ("true",),
    (),
    ("true",),
    ("true",),
    ordinary=(r"made in \d+ s",),
    explained={"beta": "it always says so"},
)
GREEN = dict.fromkeys(STAGES, "ok")


# --- steps -------------------------------------------------------------------------------------

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda it: it.name)
STEPS = [(scenario, number) for scenario in SCENARIOS for number in range(len(scenario.steps))]


def output_of(scenario: Scenario) -> list[str]:
    """Return the lines of a run without errors."""
    return [json.dumps(step) for step in scenario.steps]


@each_scenario
def test_complete_output_has_no_errors(scenario: Scenario) -> None:
    output = "\n".join(output_of(scenario))
    assert find_errors(scenario, output, scenario.remaining_titles) == []


@pytest.mark.parametrize(("scenario", "number"), STEPS)
def test_missing_step_is_reported(scenario: Scenario, number: int) -> None:
    output = output_of(scenario)
    shorter = output[:number] + output[number + 1 :]
    assert find_errors(scenario, "\n".join(shorter), scenario.remaining_titles)


@pytest.mark.parametrize(
    ("scenario", "number", "property_name"),
    [
        (scenario, number, property_name)
        for scenario, number in STEPS
        for property_name in scenario.steps[number]
    ],
)
def test_changed_value_in_a_step_is_reported(
    scenario: Scenario, number: int, property_name: str
) -> None:
    step = scenario.steps[number]
    other = json.dumps({**step, property_name: f"not {step[property_name]}"})
    lines = output_of(scenario)
    output = "\n".join([*lines[:number], other, *lines[number + 1 :]])
    (error,) = find_errors(scenario, output, scenario.remaining_titles)
    assert error.startswith(f"step {number + 1}: {other} instead of ")


OUTPUT = output_of(BASIC)


@pytest.mark.parametrize(
    "lines",
    [[], ["hello"], [*OUTPUT, OUTPUT[-1]], OUTPUT[::-1]],
    ids=["nothing", "prose", "a step twice", "another order"],
)
def test_unexpected_output_is_reported(lines: list[str]) -> None:
    assert find_errors(BASIC, "\n".join(lines), BASIC.remaining_titles)


@each_scenario
@pytest.mark.parametrize(
    "change",
    [
        lambda titles: titles[:0],
        lambda titles: titles[:-1],
        lambda titles: (*titles, "Too late"),
        lambda titles: titles[::-1],
    ],
    ids=["none", "fewer", "more", "another order"],
)
def test_wrong_final_tasks_are_reported(
    scenario: Scenario, change: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> None:
    remaining = change(scenario.remaining_titles)
    (error,) = find_errors(scenario, "\n".join(output_of(scenario)), remaining)
    assert error.startswith("the service has ")


# --- warnings ----------------------------------------------------------------------------------


def test_explained_warning_is_listed_with_its_explanation() -> None:
    output = "made in 3 s\n\n\x1b[33m3.1 is beta\x1b[0m\n"
    assert check_warnings(TARGET, output) == ([], {"3.1 is beta": "it always says so"})


def test_other_line_is_an_unexplained_warning() -> None:
    errors, warnings = check_warnings(TARGET, "3.1 is beta\nmade in a hurry\n")
    assert errors == ["unexplained warning: made in a hurry"]
    assert warnings["made in a hurry"] == ""


def test_unused_explanation_is_reported() -> None:
    assert check_warnings(TARGET, "made in 3 s\n")[0] == ["explanation without a warning: beta"]


def test_without_ordinary_lines_every_line_is_a_warning() -> None:
    assert check_warnings(replace(TARGET, ordinary=(), explained={}), "Done")[0] == [
        "unexplained warning: Done"
    ]


# --- stages and toolchains -----------------------------------------------------------------------


def run_target(tmp_path: Path, target: Target) -> Result:
    """Run a target whose scenario needs no service."""
    return run(target, ROOT / "openapi.yaml", "http://127.0.0.1:9", tmp_path)


def test_missing_toolchain_is_reported_and_fails(tmp_path: Path) -> None:
    result = run_target(tmp_path, replace(TARGET, needs=("a-compiler-that-nobody-has",)))
    assert list(result.stages.values()) == [NO_TOOLCHAIN, "not run", "not run"]
    assert result.errors == ["no toolchain: a-compiler-that-nobody-has not found"]
    assert exit_code([result], lenient=False) == 1
    assert exit_code([result], lenient=True) == 0


@pytest.mark.parametrize(
    ("target", "stages"),
    [
        (replace(TARGET, generate=("false",)), ["red", "not run", "not run"]),
        (replace(TARGET, generate=("no-such-program",)), ["red", "not run", "not run"]),
        (replace(TARGET, compile=(("true",), ("false",))), ["ok", "red", "not run"]),
        (replace(TARGET, compile_scenario=("false",)), ["ok", "red", "not run"]),
        (replace(TARGET, run_scenario=("false",)), ["ok", "ok", "red"]),
    ],
    ids=["generator", "program", "compiler", "compiler of scenarios", "scenario"],
)
def test_failed_command_ends_the_run_as_red(
    target: Target, stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "HERE", create_target(tmp_path))
    result = run_target(tmp_path / "logs", replace(target, needs=()))
    assert list(result.stages.values()) == stages
    assert exit_code([result], lenient=True) == 1


def test_command_timeout_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "HERE", create_target(tmp_path))
    monkeypatch.setattr(matrix, "COMMAND_TIMEOUT", 0.1)
    result = run_target(tmp_path / "logs", replace(TARGET, generate=("sleep", "60"), needs=()))
    assert result.stages["generated"] == "red"


def create_target(folder: Path) -> Path:
    """Create the folder of one target beside the lock files."""
    (folder / "some").mkdir()
    for lock in ("package-lock.json", "requirements.txt"):
        (folder / lock).write_bytes((matrix.HERE / lock).read_bytes())
    return folder


# --- the report ----------------------------------------------------------------------------------


def test_green_requires_every_stage_and_no_error() -> None:
    result = Result(TARGET, "openapi.yaml", "1", dict(GREEN))
    assert exit_code([result], lenient=False) == 0
    assert (
        exit_code([result, Result(TARGET, "openapi.yaml", "1", dict(GREEN), ["but"])], lenient=True)
        == 1
    )
    assert exit_code([result, Result(TARGET, "openapi.yaml", "1")], lenient=True) == 1
    assert exit_code([], lenient=True) == 1


def test_report_lists_each_target_and_warning() -> None:
    warned = Result(
        TARGET, "1.0.0.yaml", "zod 4", dict(GREEN), ["but"], {"beta": "always", "new": ""}, 7
    )
    report = "\n".join(
        format_report([warned, Result(TARGET, "1.0.0.yaml", "zod 4", dict(GREEN))], 8)
    )
    assert "| some | zod 4 | 1.0.0.yaml | ok | ok | ok | 1 not explained | 7 |" in report
    assert "| some | zod 4 | 1.0.0.yaml | ok | ok | ok | 0 explained | 0 |" in report
    assert "- beta\n  always (some)" in report
    assert "- new\n  NOT EXPLAINED (some)" in report
    assert "- some: but" in report
    assert report.endswith("clients: 1 of 2 green in 8 s")


# --- the targets ---------------------------------------------------------------------------------


def test_guide_names_the_targets() -> None:
    guide = (ROOT / "docs/guides/generated-clients.md").read_text("utf-8")
    assert [target.name for target in TARGETS if f"| `{target.name}` |" not in guide] == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_target_has_every_scenario_and_locked_packages(target: Target) -> None:
    folder = matrix.HERE / target.name
    assert [it.name for it in SCENARIOS if not list(folder.glob(f"{it.name}.*"))] == []
    assert matrix.versions(target.packages).startswith(target.packages[0])


# --- released contracts --------------------------------------------------------------------------


@pytest.mark.requirement("NFR-108", "NFR-211")
def test_clients_of_each_released_contract_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(RELEASES) == sorted(path.stem for path in CONTRACTS.glob("*.yaml"))
    runs: list[str] = []

    def record(target: Target, contract: str) -> Result:
        runs.append(f"{target.name} {contract}")
        return Result(target, contract, "1", dict(GREEN))

    monkeypatch.setattr(__main__, "REPORTS", tmp_path / "clients")
    monkeypatch.setattr(__main__, "serving", lambda _: nullcontext("http://127.0.0.1:9"))
    monkeypatch.setattr(__main__, "run", lambda target, contract, *_: record(target, contract.name))
    monkeypatch.setattr(__main__, "run_release", lambda target, name, *_: record(target, name))
    assert __main__.main(["hey-api", "orval-fetch"], {}) == 0
    assert sorted(runs) == [
        "hey-api 1.0.0",
        "hey-api 1.1.0",
        "hey-api openapi.yaml",
        "orval-fetch 1.0.0",
        "orval-fetch 1.1.0",
        "orval-fetch openapi.yaml",
    ]


@pytest.mark.requirement("NFR-108")
def test_client_of_a_released_contract_has_no_later_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_target(tmp_path)
    for name in ("scenario.ts", "tsconfig.json", "some/scenario.py", "some/organizing.py"):
        (folder / name).write_text(name, "utf-8")
    (folder / "some/generated").mkdir()
    monkeypatch.setattr(matrix, "HERE", folder)
    # Each command needs a file, and the service is not reached.
    target = replace(
        TARGET,
        generate=("grep", "-q", "version: 1.0.0", "{contract}"),
        compile=(("test", "-f", "../scenario.ts"), ("test", "!", "-e", "organizing.py")),
        compile_scenario=("test", "-f", "{scenario}.py"),
        run_scenario=("false",),
        needs=(),
    )
    result = run_release(target, "1.0.0", "http://127.0.0.1:9", tmp_path / "logs")
    assert list(result.stages.values()) == ["ok", "ok", "red"]
    assert result.contract == "1.0.0.yaml"
    copy = folder / "1.0.0/generated/some/some"
    assert [path.name for path in copy.iterdir()] == ["scenario.py"]


# --- rules for the contract (research/0033) ----------------------------------------------------


def test_parameter_and_schema_names_are_unique() -> None:
    components = OpenAPIDocument.load().document["components"]
    assert set(components["parameters"]) & set(components["schemas"]) == set()


def test_patterns_contain_only_javascript_compatible_escapes() -> None:
    source = (ROOT / "openapi.yaml").read_text("utf-8")
    patterns = re.findall(r"^ +pattern: (.+)$", source, re.MULTILINE)
    characters = {
        chr(int(code, 16)) for node in patterns for code in re.findall(r"\\u(.{4})", node)
    }
    assert len(patterns) > 10
    assert characters <= {"\ufeff"}


def test_no_parameter_is_a_const() -> None:
    document = OpenAPIDocument.load().document
    schemas = document["components"]["schemas"]
    used = [node["schema"] for node in document["components"]["parameters"].values()]
    resolved = [
        schemas[node["$ref"].rpartition("/")[2]] if "$ref" in node else node for node in used
    ]
    assert len(resolved) > 10
    assert [schema for schema in resolved if "const" in schema] == []
