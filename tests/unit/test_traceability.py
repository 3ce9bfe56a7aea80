"""Tests cite every requirement, and the decisions agree with their index."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "specs/phase-II/001-core-backend/spec.md"
ACCEPTANCE = SPEC.parent / "checklist/acceptance.md"
INDEX = SPEC.parent / "research.md"
DECISIONS = SPEC.parent / "research"
ID = re.compile(r"\bN?FR-\d{3}\b")
DEFINITION = re.compile(r"^- \*\*(N?FR-\d+)\*\* ", re.MULTILINE)
FILE_NAME = re.compile(r"(\d{4})-[a-z0-9]+(-[a-z0-9]+)*\.md")
HEADER = re.compile(r"# (\d+)\. (.+)\n\nStatus: (.+)\n\n## ")
STATUS = re.compile(r"accepted|superseded by (\d+)")
SECTION = re.compile(r"^## (.+)\n+(?=[^#\s])", re.MULTILINE)
INDEX_ROW = re.compile(r"^\| (\d+) \| \[(.+)\]\(research/(.+)\) \| (.+) \|$", re.MULTILINE)
CITATION = re.compile(r"research(?:\.md, D|/)(\d+)")


def defined(spec: str) -> list[str]:
    """Return the IDs that a specification defines, in order."""
    return DEFINITION.findall(spec)


def cited(source: str) -> set[str]:
    """Return the IDs that the tests of a module cite. Ignore markers without a test."""
    return set(_cited_in(ast.parse(source).body))


def _cited_in(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            inner = set(_cited_in(node.body))
            yield from inner
            if _has_tests(node.body):
                yield from _ids(node.decorator_list)
        elif _is_test(node):
            yield from _ids(getattr(node, "decorator_list", []))
        elif _is_assignment_to(node, "pytestmark") and _has_tests(body):
            yield from _ids([node])


def _has_tests(body: list[ast.stmt]) -> bool:
    return any(_is_test(node) for statement in body for node in ast.walk(statement))


def _is_test(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name.startswith("test_")
    # A Hypothesis state machine becomes a test by an assignment: TestUsers = Users.TestCase.
    return _is_assignment_to(node, "Test")


def _is_assignment_to(node: ast.AST, beginning: str) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith(beginning)


def _ids(marked: Iterable[ast.AST]) -> Iterator[str]:
    for root in marked:
        for node in ast.walk(root):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.requirement":
                # An argument that is not a literal is kept as written, which no ID equals.
                yield from (ast.unparse(argument).strip("'") for argument in node.args)


def disagreements(definitions: list[str], citations: set[str]) -> list[str]:
    """Return the differences between a specification and its tests."""
    known = set(definitions)
    numbering: dict[str, list[str]] = {}
    for id_ in definitions:
        numbering.setdefault(id_.partition("-")[0], []).append(id_)
    return [
        *(f"{id_} is not cited by a test" for id_ in sorted(known - citations)),
        *(f"{id_} is cited but not defined" for id_ in sorted(citations - known)),
        *(
            f"{id_} is in the position of {prefix}-{number:03}"
            for prefix, ids in numbering.items()
            for number, id_ in enumerate(ids, 1)
            if id_ != f"{prefix}-{number:03}"
        ),
    ]


def test_specification_and_tests_agree() -> None:
    files = [path for name in ("tests", "bench", "tools") for path in (ROOT / name).rglob("*.py")]
    # Generated clients and installed packages are not tests of this project.
    sources = [
        path.read_text("utf-8")
        for path in files
        if not {"generated", "node_modules"} & set(path.parts)
    ]
    citations = set().union(*map(cited, sources))
    assert disagreements(defined(SPEC.read_text("utf-8")), citations) == []


def test_specification_has_functional_and_other_requirements() -> None:
    prefixes = {id_.partition("-")[0] for id_ in defined(SPEC.read_text("utf-8"))}
    assert prefixes == {"FR", "NFR"}


def test_documents_cite_only_existing_requirements() -> None:
    documents = [*ROOT.glob("*.md"), *SPEC.parent.rglob("*.md")]
    named = {id_ for document in documents for id_ in ID.findall(document.read_text("utf-8"))}
    assert named == set(defined(SPEC.read_text("utf-8")))


def test_acceptance_names_every_requirement() -> None:
    named = set(ID.findall(ACCEPTANCE.read_text("utf-8")))
    assert named == set(defined(SPEC.read_text("utf-8")))


# --- decisions -----------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A decision as the index lists it."""

    number: int
    title: str
    file: str
    status: str


def decision_errors(index: str, files: dict[str, str]) -> list[str]:
    """Return the errors in the files of the decisions and in their index."""
    entries = [Entry(int(row[0]), *row[1:]) for row in INDEX_ROW.findall(index)]
    headers = {name: HEADER.match(text) for name, text in files.items()}
    decided = [
        Entry(int(header[1]), header[2], name, header[3])
        for name, header in headers.items()
        if header
    ]
    numbers = [int(name[:4]) for name in sorted(files) if FILE_NAME.fullmatch(name)]
    return [
        *(f"{name}: the name is invalid" for name in files if not FILE_NAME.fullmatch(name)),
        *(f"{name}: the title or the status is missing" for name in files if not headers[name]),
        *([] if numbers == list(range(1, len(files) + 1)) else ["the numbers are not contiguous"]),
        *(error for entry in decided for error in _file_errors(entry, files)),
        *(f"{entry.file}: not in the index" for entry in decided if entry not in entries),
        *(f"{entry.file}: the index disagrees" for entry in entries if entry not in decided),
        *(f"{entry.file}: listed twice" for entry in entries if entries.count(entry) > 1),
    ]


def _file_errors(entry: Entry, files: dict[str, str]) -> Iterator[str]:
    status = STATUS.fullmatch(entry.status)
    sections = SECTION.findall(files[entry.file])
    if not entry.file.startswith(f"{entry.number:04}-"):
        yield f"{entry.file}: the title has another number"
    if not status:
        yield f"{entry.file}: the status is invalid"
    elif status[1] is None:
        if sections[3:4] == ["Limits"]:
            del sections[3]
        if sections != ["Decision", "Reason", "Rejected", "Enforced by"]:
            yield f"{entry.file}: the sections are {sections}"
    else:
        successor = int(status[1])
        if sections != ["Decision", "Reason"]:
            yield f"{entry.file}: the sections are {sections}"
        if successor <= entry.number or not any(
            name.startswith(f"{successor:04}-") for name in files
        ):
            yield f"{entry.file}: the successor is not a later decision"


def read_decisions() -> dict[str, str]:
    """Return the text of each decision by file name."""
    return {path.name: path.read_text("utf-8") for path in sorted(DECISIONS.iterdir())}


def test_decisions_and_their_index_agree() -> None:
    assert decision_errors(INDEX.read_text("utf-8"), read_decisions()) == []


def test_decisions_that_code_cites_exist() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "app").rglob("*.py")]
    cited = {int(number) for source in sources for number in CITATION.findall(source)}
    assert cited
    assert cited <= {int(name[:4]) for name in read_decisions()}


# --- the checks find errors ----------------------------------------------------------------------

SMALL_SPEC = """
- **FR-001** `createTask` stores a task; FR-009 is only mentioned.
- **FR-002** `getTask` returns a task.
- **NFR-001** It is fast.
"""
SMALL_TESTS = """
import pytest

pytestmark = pytest.mark.requirement("NFR-001")

@pytest.mark.requirement("FR-001", "FR-002")
def test_create(): ...
"""


def test_complete_citations_have_no_disagreements() -> None:
    assert disagreements(defined(SMALL_SPEC), cited(SMALL_TESTS)) == []


@pytest.mark.parametrize(
    ("spec", "tests", "expected"),
    [
        (
            SMALL_SPEC,
            SMALL_TESTS.replace(', "FR-002"', ""),
            ["FR-002 is not cited by a test"],
        ),
        (
            SMALL_SPEC,
            SMALL_TESTS.replace("FR-002", "FR-003"),
            ["FR-002 is not cited by a test", "FR-003 is cited but not defined"],
        ),
        (
            SMALL_SPEC.replace("**FR-002**", "**FR-001**"),
            SMALL_TESTS.replace(', "FR-002"', ""),
            ["FR-001 is in the position of FR-002"],
        ),
        (
            SMALL_SPEC.replace("**FR-002**", "**FR-003**"),
            SMALL_TESTS.replace("FR-002", "FR-003"),
            ["FR-003 is in the position of FR-002"],
        ),
        (
            SMALL_SPEC,
            SMALL_TESTS.replace("test_create", "create"),
            [
                "FR-001 is not cited by a test",
                "FR-002 is not cited by a test",
                "NFR-001 is not cited by a test",
            ],
        ),
    ],
    ids=["missing citation", "unknown id", "duplicate", "gap", "no test"],
)
def test_disagreement_is_reported(spec: str, tests: str, expected: list[str]) -> None:
    assert disagreements(defined(spec), cited(tests)) == expected


@pytest.mark.parametrize(
    "source",
    [
        "@MARK\ndef test_x(): ...",
        "@MARK\nasync def test_x(): ...",
        "@MARK\nclass TestX:\n    def test_x(self): ...",
        "class TestX:\n    @MARK\n    def test_x(self): ...",
        "class TestX:\n    pytestmark = MARK\n    def test_x(self): ...",
        "pytestmark = [MARK]\nTestX = Machine.TestCase",
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=MARK)])\ndef test_x(x): ...",
    ],
)
def test_marker_is_found_in_every_position_that_pytest_accepts(source: str) -> None:
    assert cited(source.replace("MARK", 'pytest.mark.requirement("FR-001")')) == {"FR-001"}


@pytest.mark.parametrize(
    "source",
    [
        "@MARK\ndef helper(): ...",
        "@MARK\nclass TestX:\n    def helper(self): ...",
        "pytestmark = MARK",
        "'@MARK'\ndef test_x(): ...",
        "@pytest.mark.slow('FR-001')\ndef test_x(): ...",
    ],
)
def test_marker_without_a_test_does_not_count(source: str) -> None:
    assert cited(source.replace("MARK", 'pytest.mark.requirement("FR-001")')) == set()


def test_argument_that_is_not_a_literal_is_kept_as_written() -> None:
    assert cited("@pytest.mark.requirement(SOME)\ndef test_x(): ...") == {"SOME"}


SMALL_INDEX = """
| number | decision | status |
| ---: | --- | --- |
| 1 | [Use a queue](research/0001-queue.md) | superseded by 2 |
| 2 | [Use a table](research/0002-table.md) | accepted |
"""
SMALL_DECISIONS = {
    "0001-queue.md": """# 1. Use a queue

Status: superseded by 2

## Decision
A queue.

## Reason
It is fast.
""",
    "0002-table.md": """# 2. Use a table

Status: accepted

## Decision
A table.

## Reason
It survives.

## Rejected
- A queue.

## Limits
None.

## Enforced by
A test.
""",
}


def test_valid_decisions_have_no_errors() -> None:
    assert decision_errors(SMALL_INDEX, SMALL_DECISIONS) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "error"),
    [
        ("0001-queue.md", "# 1. Use", "# 3. Use", "0001-queue.md: the title has another number"),
        ("0001-queue.md", "# 1. Use", "# Use", "0001-queue.md: the title or the status is missing"),
        ("0001-queue.md", "by 2", "by 3", "0001-queue.md: the successor is not a later decision"),
        ("0001-queue.md", "by 2", "by 1", "0001-queue.md: the successor is not a later decision"),
        (
            "0001-queue.md",
            "## Reason\nIt",
            "It",
            "0001-queue.md: the sections are ['Decision']",
        ),
        ("0002-table.md", "accepted", "done", "0002-table.md: the status is invalid"),
        ("0002-table.md", "accepted", "superseded", "0002-table.md: the status is invalid"),
        ("0002-table.md", "a table", "tables", "0002-table.md: not in the index"),
        (
            "0002-table.md",
            "\nA test.\n",
            "",
            "0002-table.md: the sections are ['Decision', 'Reason', 'Rejected']",
        ),
    ],
)
def test_error_in_a_decision_is_reported(file: str, old: str, new: str, error: str) -> None:
    text = SMALL_DECISIONS[file]
    assert old in text
    assert error in decision_errors(
        SMALL_INDEX, {**SMALL_DECISIONS, file: text.replace(old, new, 1)}
    )


def test_error_in_a_file_name_is_reported() -> None:
    queue, table = SMALL_DECISIONS.values()
    errors = decision_errors(SMALL_INDEX, {"0001-queue.md": queue, "0003-table.md": table})
    assert "the numbers are not contiguous" in errors
    errors = decision_errors(SMALL_INDEX, {**SMALL_DECISIONS, "notes.md": table})
    assert "notes.md: the name is invalid" in errors


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("| 2 | ", "| 3 | ", "0002-table.md: the index disagrees"),
        ("| accepted |", "| superseded by 3 |", "0002-table.md: the index disagrees"),
        ("0002-table.md", "0002-gone.md", "0002-gone.md: the index disagrees"),
        (
            "\n| 1 | [Use a queue](research/0001-queue.md) | superseded by 2 |",
            "",
            "0001-queue.md: not in the index",
        ),
        (
            "| accepted |\n",
            "| accepted |\n| 2 | [Use a table](research/0002-table.md) | accepted |\n",
            "0002-table.md: listed twice",
        ),
    ],
)
def test_error_in_the_index_is_reported(old: str, new: str, error: str) -> None:
    assert old in SMALL_INDEX
    assert error in decision_errors(SMALL_INDEX.replace(old, new), SMALL_DECISIONS)
