"""The contract and the code imply each other, and the comparison detects each mutation."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from app.asgi import ROUTE_HANDLERS
from app.openapi.document import OPENAPI_PATH, OpenAPIDocument
from tests.contract import difference
from tests.contract.derived import derive
from tests.contract.difference import differences
from tests.contract.mutations import CHANGES, EDITS, PARAMETERS, ROWS, TASKS, Change, apply_change

ROOT = OPENAPI_PATH.parent
DOCUMENT = OpenAPIDocument.load().document
DERIVED = derive()


@pytest.fixture(scope="module")
def edited() -> list[list[str]]:
    """Return the pointers that the comparison reports for each edit of the code."""
    command = [sys.executable, "-m", "tests.contract.edited"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    pointers: list[list[str]] = json.loads(run.stdout)
    return pointers


@pytest.mark.requirement("NFR-007")
def test_contract_and_code_do_not_differ() -> None:
    assert differences(DOCUMENT, DERIVED) == []


@pytest.mark.requirement("NFR-007")
def test_command_reports_no_differences(capsys: pytest.CaptureFixture[str]) -> None:
    assert difference.main() == 0
    assert capsys.readouterr().out == "0 differences between the contract and the code\n"


@pytest.mark.requirement("NFR-007")
def test_difference_is_printed_with_its_pointer_and_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = f"{PARAMETERS}/Limit/schema/maximum"
    path = f"{TASKS}/get/parameters/query limit/schema/maximum"
    document = apply_change(("replace", limit, 500), DOCUMENT)
    document = apply_change(("replace", "/openapi", "3.1.1"), document)
    monkeypatch.setattr(difference, "derive", lambda: DERIVED)
    monkeypatch.setattr(
        OpenAPIDocument, "load", lambda: OpenAPIDocument(msgspec.json.encode(document))
    )
    assert difference.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "/openapi: the contract has 3.1.1, the code 3.1.0",
        f"{limit} (via {path}): the contract has 500, the code 200",
        "2 differences between the contract and the code",
    ]


@pytest.mark.requirement("NFR-007", "NFR-014")
def test_number_of_mutations_is_sufficient() -> None:
    assert len(CHANGES) + len(ROWS) >= 40
    assert len(EDITS) >= 20


@pytest.mark.requirement("NFR-007")
@pytest.mark.parametrize(
    ("change", "place"), CHANGES, ids=[f"{change[0]} {change[1]}" for change, _ in CHANGES]
)
def test_contract_change_is_reported(change: Change, place: str | None) -> None:
    found = differences(apply_change(change, DOCUMENT), DERIVED)
    assert (place or change[1]) in {it.pointer for it in found}


@pytest.mark.requirement("NFR-007")
@pytest.mark.parametrize(("place", "row", "replacement"), ROWS)
def test_table_row_change_is_reported(place: str, row: str, replacement: str) -> None:
    tag = DOCUMENT["tags"][int(place.split("/")[2])]
    assert tag["description"].count(row) == 1
    text = tag["description"].replace(row, replacement)
    found = differences(apply_change(("replace", place, text), DOCUMENT), DERIVED)
    assert {it.pointer for it in found} == {place}


@pytest.mark.requirement("NFR-007")
@pytest.mark.parametrize(
    ("number", "place"),
    [(number, place) for number, (_, _, _, place) in enumerate(EDITS)],
    ids=[
        f"{file}: {text.strip()} -> {replacement.strip()}" for file, text, replacement, _ in EDITS
    ],
)
def test_code_change_is_reported(edited: list[list[str]], number: int, place: str) -> None:
    assert place in edited[number]


@pytest.mark.requirement("NFR-007")
def test_text_of_each_edit_exists() -> None:
    for file, text, replacement, _ in EDITS:
        assert text in (ROOT / file).read_text("utf-8")
        assert text != replacement


@pytest.mark.requirement("NFR-007")
def test_framework_document_has_the_same_operations() -> None:
    config = OpenAPIConfig(title="Tasks API", version="1.0.0")
    application = Litestar(route_handlers=ROUTE_HANDLERS, openapi_config=config)
    generated = application.openapi_schema.to_schema()["paths"]

    def outline(paths: dict[str, Any]) -> dict[tuple[str, str], Any]:
        return {
            (path, method): (operation["operationId"], operation["tags"], _in_path(operation))
            for path, item in paths.items()
            for method, operation in item.items()
        }

    assert outline(generated) == outline(DERIVED["paths"])


def _in_path(operation: dict[str, Any]) -> list[str]:
    return sorted(it["name"] for it in operation.get("parameters", []) if it["in"] == "path")
