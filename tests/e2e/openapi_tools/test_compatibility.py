"""The version of the contract allows its changes since the last release."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.openapi_tools.edits import DOCUMENT, GONE, Edits, edited
from tools.openapi.compatibility import RELEASES, last_release, version_errors
from tools.openapi.node import CONTRACT

pytestmark = pytest.mark.requirement("NFR-009")

TASKS = "/paths/~1api~1v1~1users~1{user_id}~1tasks"
LINKS = f"{TASKS}/post/responses/201/links"
HEADERS = "/components/headers"
LIVEZ = "/paths/~1livez"
BODY = {"required": True, "content": {"application/json": {"schema": {"type": "boolean"}}}}
GET_TASK: Any = DOCUMENT["paths"]["/api/v1/users/{user_id}/tasks"]["post"]["responses"]["201"][
    "links"
]["getTask"]

# Changes that a rule of Redocly reports or rates, with the version that they require after 1.2.3.
RATED: dict[str, tuple[Edits, str]] = {
    "a path was removed": ({"/paths/~1readyz": GONE}, "2.0.0"),
    "a limit of a response was raised": (
        {"/components/schemas/TaskPage/properties/items/maxItems": 500},
        "2.0.0",
    ),
    "a property of a response was added": (
        {"/components/schemas/Task/properties/note": {"type": "boolean"}},
        "1.3.0",
    ),
    "a description was changed": ({"/components/schemas/Task/description": "Another."}, "1.2.4"),
}
# Breaking changes without a rule, with the words that report them.
UNRATED: dict[str, tuple[Edits, str]] = {
    "a request body was added": (
        {f"{LIVEZ}/get/requestBody": BODY},
        "a required request body was added",
    ),
    "a reference to a request body was added": (
        {
            "/components/requestBodies": {"Flag": BODY},
            f"{LIVEZ}/get/requestBody": {"$ref": "#/components/requestBodies/Flag"},
        },
        "a required request body was added",
    ),
    "a header is no longer required": (
        {f"{HEADERS}/Location/required": False},
        "a response header became optional",
    ),
    "`required` of a header was removed": (
        {f"{HEADERS}/Location/required": GONE},
        "a response header became optional",
    ),
    "a link was removed": ({f"{LINKS}/getTask": GONE}, "a link was removed"),
    "all links were removed": ({LINKS: GONE}, "a link was removed"),
    "a link was renamed": (
        {f"{LINKS}/getTask": GONE, f"{LINKS}/readTask": GET_TASK},
        "a link was renamed",
    ),
}
# Changes that look like those above and break no client.
COMPATIBLE: dict[str, Edits] = {
    "an optional request body was added": {f"{LIVEZ}/get/requestBody": {**BODY, "required": False}},
    "an operation with a request body was added": {
        f"{LIVEZ}/post": {
            "operationId": "setLive",
            "requestBody": BODY,
            "responses": {"204": {"description": "Done."}},
        }
    },
    "a header became required": {f"{HEADERS}/Allow/required": True},
    "a link was added": {f"{LINKS}/listTasks": {"operationId": "listTasks"}},
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Write the contract as release 1.2.3."""
    path = tmp_path / "1.2.3.yaml"
    path.write_text(edited({"/info/version": "1.2.3"}), "utf-8")
    return path


def errors(base: Path, edits: Edits, version: str) -> list[str]:
    """Compare an edited copy of the contract with the release."""
    revision = base.parent / "openapi.yaml"
    revision.write_text(edited({**edits, "/info/version": version}), "utf-8")
    return list(version_errors(base, revision))


@pytest.mark.requirement("NFR-211")
def test_version_allows_the_changes_since_the_last_release() -> None:
    found = "\n".join(version_errors(last_release(), CONTRACT))
    assert not found, found


def test_released_contracts_are_unchanged() -> None:
    files = sorted(RELEASES.glob("[0-9]*.yaml"))
    sums = [f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    assert (RELEASES / "SHA256SUMS").read_text("utf-8") == "".join(sums)
    versions = [yaml.safe_load(path.read_text("utf-8"))["info"]["version"] for path in files]
    assert versions == [path.stem for path in files]


def test_last_release_has_the_highest_version(tmp_path: Path) -> None:
    for name in ("1.9.0.yaml", "1.10.0.yaml", "1.2.11.yaml", "README.md"):
        (tmp_path / name).touch()
    assert last_release(tmp_path).name == "1.10.0.yaml"


@pytest.mark.parametrize(("edits", "version"), RATED.values(), ids=RATED)
def test_change_requires_a_version(base: Path, edits: Edits, version: str) -> None:
    error, change = errors(base, edits, "1.2.3")
    assert f"({version})" in error
    assert change.startswith("#/paths/")
    assert errors(base, edits, version) == []


@pytest.mark.parametrize(("edits", "words"), UNRATED.values(), ids=UNRATED)
def test_breaking_change_without_a_rule_is_reported(base: Path, edits: Edits, words: str) -> None:
    (error,) = errors(base, edits, "1.3.0")
    assert words in error


def test_major_version_allows_breaking_changes(base: Path) -> None:
    edits = {
        f"{LIVEZ}/get/requestBody": BODY,
        f"{HEADERS}/Location/required": False,
        LINKS: GONE,
    }
    assert len(errors(base, edits, "1.3.0")) == len(edits)
    assert errors(base, edits, "2.0.0") == []


@pytest.mark.parametrize("edits", COMPATIBLE.values(), ids=COMPATIBLE)
def test_compatible_change_requires_no_major_version(base: Path, edits: Edits) -> None:
    assert errors(base, edits, "1.3.0") == []
