"""Two linters find no error in the contract, and find each injected error."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.openapi_tools.edits import GONE, Edits, edited
from tools.openapi.node import CONTRACT, ROOT, run

pytestmark = pytest.mark.requirement("NFR-008")

LIST = "/paths/~1api~1v1~1users~1{user_id}~1tasks"
ITEM = f"{LIST}~1{{task_id}}"
SCHEMAS = "/components/schemas"
REPORTS = ROOT / "reports"

# For each linter, changes to the contract by the rule that must report them.
SPECTRAL: dict[str, Edits] = {
    "oas3-schema": {"/paths/~1livez/get/responses/200/description": GONE},
    "operation-operationId-unique": {f"{ITEM}/get/operationId": "listTasks"},
    "oas3-valid-media-example": {
        f"{LIST}/get/responses/200/content/application~1json/examples/empty/value/items": 1
    },
    "oas3-unused-component": {f"{SCHEMAS}/Extra": {"type": "boolean"}},
    "operation-tag-defined": {"/paths/~1livez/get/tags": ["unknown"]},
    "owasp:api4:2023-string-limit": {f"{SCHEMAS}/Title/maxLength": GONE},
    "owasp:api4:2023-string-restricted": {f"{SCHEMAS}/Cursor/pattern": GONE},
    "owasp:api4:2023-integer-limit": {"/components/parameters/Limit/schema/maximum": GONE},
    "owasp:api4:2023-array-limit": {f"{SCHEMAS}/TaskPage/properties/items/maxItems": GONE},
    "owasp:api8:2023-define-error-responses-500": {"/paths/~1livez/get/responses/500": GONE},
}
REDOCLY: dict[str, Edits] = {
    "struct": {"/paths/~1livez/get/responses/200/description": GONE},
    "operation-summary": {"/paths/~1livez/get/summary": GONE},
    "operation-4xx-response": {
        "/paths/~1livez/get/responses/400": GONE,
        "/paths/~1livez/get/responses/default": GONE,
    },
    "no-invalid-media-type-examples": {
        f"{LIST}/get/responses/200/content/application~1json/examples/empty/value/items": 1
    },
    "no-invalid-schema-examples": {f"{SCHEMAS}/Title/examples/0": 1},
    "operation-singular-tag": {"/paths/~1livez/get/tags": ["health", "contract"]},
    "no-duplicated-enum-values": {f"{SCHEMAS}/SortOrder/enum": ["asc", "desc", "asc"]},
    "scalar-property-missing-example": {f"{SCHEMAS}/Health/properties/status/examples": GONE},
    "response-mime-type": {
        "/paths/~1livez/get/responses/200/content": {"text/plain": {"example": "alive"}}
    },
    "no-unresolved-refs": {f"{SCHEMAS}/Task/properties/title/$ref": f"#{SCHEMAS}/Nothing"},
}


def spectral(*paths: Path) -> list[set[str]]:
    """Return the rules that Spectral reports for each file, with any severity."""
    findings = json.loads(run("spectral", "lint", "--format=json", "--quiet", *map(str, paths)))
    return [
        {found["code"] for found in findings if Path(found["source"]) == path} for path in paths
    ]


def redocly(*paths: Path) -> list[set[str]]:
    """Return the rules that Redocly reports for each file, with any severity."""
    printed = run(
        "redocly", "lint", "--format=json", "--config=tools/openapi/redocly.yaml", *map(str, paths)
    )
    # Redocly prints one JSON text per file, without a separator.
    reports = json.loads(f"[{printed.replace('}{', '},{')}]")
    return [{problem["ruleId"] for problem in report["problems"]} for report in reports]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder in the repository, as Spectral's overrides use relative paths."""
    REPORTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=REPORTS) as name:
        yield Path(name)


def copies(folder: Path, cases: Mapping[str, Edits]) -> Iterator[Path]:
    """Write an edited copy of the contract for each case, with the file name of the original."""
    for number, edits in enumerate(cases.values()):
        path = folder / str(number) / CONTRACT.name
        path.parent.mkdir()
        path.write_text(edited(edits), "utf-8")
        yield path


def test_spectral_finds_no_error() -> None:
    assert spectral(CONTRACT) == [set()]


def test_redocly_finds_no_error() -> None:
    assert redocly(CONTRACT) == [set()]


def test_configuration_of_redocly_is_valid() -> None:
    assert "valid" in run(
        "redocly", "check-config", "--config=tools/openapi/redocly.yaml", "--lint-config=error"
    )


def test_spectral_finds_each_injected_error(folder: Path) -> None:
    cases = {**SPECTRAL, "nothing": {}}
    assert spectral(*copies(folder, cases)) == [{rule} for rule in SPECTRAL] + [set()]


def test_redocly_finds_each_injected_error(folder: Path) -> None:
    cases = {**REDOCLY, "nothing": {}}
    assert redocly(*copies(folder, cases)) == [{rule} for rule in REDOCLY] + [set()]
