"""What `task clients` calls green: no step, no warning and no toolchain may be missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from app.openapi.document import OpenAPIDocument
from tests.e2e.generated_clients import matrix
from tests.e2e.generated_clients.__main__ import told, verdict
from tests.e2e.generated_clients.matrix import NO_TOOLCHAIN, STAGES, Result, heard, run
from tests.e2e.generated_clients.scenario import LEFT, STEPS, disagreements
from tests.e2e.generated_clients.targets import TARGETS, Target

pytestmark = pytest.mark.requirement("NFR-011")

ROOT = Path(__file__).parents[3]
OUTPUT = [json.dumps(step) for step in STEPS]
TARGET = Target(
    "some",
    ("zod",),
    ("true",),
    (),
    ("true",),
    ordinary=(r"made in \d+ s",),
    explained={"beta": "it always says so"},
)
GREEN = dict.fromkeys(STAGES, "ok")


# --- steps -------------------------------------------------------------------------------------


def test_the_whole_scenario_is_agreement() -> None:
    assert disagreements("\n".join(OUTPUT), LEFT) == []


@pytest.mark.parametrize("number", range(len(STEPS)))
def test_a_step_that_is_left_out_is_told(number: int) -> None:
    shorter = OUTPUT[:number] + OUTPUT[number + 1 :]
    assert disagreements("\n".join(shorter), LEFT)


@pytest.mark.parametrize(
    ("number", "member", "value"),
    [
        (number, member, value)
        for number, step in enumerate(STEPS)
        for member, value in step.items()
    ],
)
def test_each_value_of_each_step_counts(number: int, member: str, value: object) -> None:
    other = json.dumps({**STEPS[number], member: f"not {value}"})
    (complaint,) = disagreements("\n".join([*OUTPUT[:number], other, *OUTPUT[number + 1 :]]), LEFT)
    assert complaint.startswith(f"step {number + 1}: {other} instead of ")


@pytest.mark.parametrize(
    "lines",
    [[], ["hello"], [*OUTPUT, OUTPUT[-1]], OUTPUT[::-1]],
    ids=["nothing", "prose", "a step twice", "another order"],
)
def test_nothing_else_may_be_printed(lines: list[str]) -> None:
    assert disagreements("\n".join(lines), LEFT)


@pytest.mark.parametrize("left", [(), LEFT[:-1], (*LEFT, "Too late"), LEFT[::-1]])
def test_what_the_service_has_afterwards_counts(left: tuple[str, ...]) -> None:
    (complaint,) = disagreements("\n".join(OUTPUT), left)
    assert complaint.startswith("the service has ")


# --- warnings ----------------------------------------------------------------------------------


def test_a_warning_that_is_explained_is_told_with_its_explanation() -> None:
    output = "made in 3 s\n\n\x1b[33m3.1 is beta\x1b[0m\n"
    assert heard(TARGET, output) == ([], {"3.1 is beta": "it always says so"})


def test_any_other_line_is_a_warning_that_is_not_explained() -> None:
    complaints, warnings = heard(TARGET, "3.1 is beta\nmade in a hurry\n")
    assert complaints == ["a warning that is not explained: made in a hurry"]
    assert warnings["made in a hurry"] == ""


def test_an_explanation_of_what_was_not_said_is_told() -> None:
    assert heard(TARGET, "made in 3 s\n")[0] == ["an explanation of what was not said: beta"]


def test_without_ordinary_lines_every_line_is_a_warning() -> None:
    assert heard(replace(TARGET, ordinary=(), explained={}), "Done")[0] == [
        "a warning that is not explained: Done"
    ]


# --- stages and toolchains -----------------------------------------------------------------------


def tried(tmp_path: Path, target: Target) -> Result:
    """A target's result where the scenario needs no service."""
    return run(target, ROOT / "openapi.yaml", "http://127.0.0.1:9", tmp_path)


def test_a_toolchain_that_is_missing_is_said_and_red(tmp_path: Path) -> None:
    result = tried(tmp_path, replace(TARGET, needs=("a-compiler-that-nobody-has",)))
    assert list(result.stages.values()) == [NO_TOOLCHAIN, "not run", "not run"]
    assert result.complaints == ["no toolchain: a-compiler-that-nobody-has not found"]
    assert verdict([result], lenient=False) == 1
    assert verdict([result], lenient=True) == 0


@pytest.mark.parametrize(
    ("target", "stages"),
    [
        (replace(TARGET, generate=("false",)), ["red", "not run", "not run"]),
        (replace(TARGET, generate=("no-such-program",)), ["red", "not run", "not run"]),
        (replace(TARGET, compile=(("true",), ("false",))), ["ok", "red", "not run"]),
        (replace(TARGET, scenario=("false",)), ["ok", "ok", "red"]),
    ],
    ids=["generator", "program", "compiler", "scenario"],
)
def test_a_command_that_fails_is_red_and_ends_the_trial(
    target: Target, stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "HERE", here(tmp_path))
    result = tried(tmp_path / "logs", replace(target, needs=()))
    assert list(result.stages.values()) == stages
    assert verdict([result], lenient=True) == 1


def test_a_command_that_takes_too_long_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "HERE", here(tmp_path))
    monkeypatch.setattr(matrix, "COMMAND_SECONDS", 0.1)
    result = tried(tmp_path / "logs", replace(TARGET, generate=("sleep", "60"), needs=()))
    assert result.stages["generated"] == "red"


def here(folder: Path) -> Path:
    """A folder with one target's folder and the locks."""
    (folder / "some").mkdir()
    for lock in ("package-lock.json", "requirements.txt"):
        (folder / lock).write_bytes((matrix.HERE / lock).read_bytes())
    return folder


# --- the report ----------------------------------------------------------------------------------


def test_green_is_every_stage_and_no_complaint() -> None:
    result = Result(TARGET, "1", dict(GREEN))
    assert verdict([result], lenient=False) == 0
    assert verdict([result, Result(TARGET, "1", dict(GREEN), ["but"])], lenient=True) == 1
    assert verdict([result, Result(TARGET, "1")], lenient=True) == 1
    assert verdict([], lenient=True) == 1


def test_the_report_has_a_row_for_each_target_and_all_that_was_said() -> None:
    warned = Result(TARGET, "zod 4", dict(GREEN), ["but"], {"beta": "always", "new": ""}, 7)
    report = "\n".join(told([warned, Result(TARGET, "zod 4", dict(GREEN))], 8))
    assert "| some | zod 4 | ok | ok | ok | 1 not explained | 7 |" in report
    assert "| some | zod 4 | ok | ok | ok | 0 explained | 0 |" in report
    assert "- beta\n  always (some)" in report
    assert "- new\n  NOT EXPLAINED (some)" in report
    assert "- some: but" in report
    assert report.endswith("clients: 1 of 2 green in 8 s")


# --- the targets ---------------------------------------------------------------------------------


def test_the_guide_names_the_targets() -> None:
    guide = (ROOT / "docs/guides/generated-clients.md").read_text("utf-8")
    assert [target.name for target in TARGETS if f"| `{target.name}` |" not in guide] == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_has_a_scenario_and_locked_packages(target: Target) -> None:
    assert list((matrix.HERE / target.name).glob("scenario.*"))
    assert matrix.versions(target.packages).startswith(target.packages[0])


# --- the contract's words (research/0033) ------------------------------------------------------


def test_a_component_s_name_is_that_of_one_component() -> None:
    components = OpenAPIDocument.load().document["components"]
    assert set(components["parameters"]) & set(components["schemas"]) == set()


def test_no_pattern_holds_what_no_javascript_can() -> None:
    source = (ROOT / "openapi.yaml").read_text("utf-8")
    patterns = re.findall(r"^ +pattern: (.+)$", source, re.MULTILINE)
    characters = {
        chr(int(code, 16)) for each in patterns for code in re.findall(r"\\u(.{4})", each)
    }
    assert len(patterns) > 10
    assert characters <= {"\ufeff"}


def test_no_parameter_is_a_const() -> None:
    document = OpenAPIDocument.load().document
    schemas = document["components"]["schemas"]
    used = [node["schema"] for node in document["components"]["parameters"].values()]
    found = [schemas[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in used]
    assert len(found) > 10
    assert [schema for schema in found if "const" in schema] == []
