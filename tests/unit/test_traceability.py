"""Tests cite every requirement, and the decisions agree with their index."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.documents import COMPONENTS, ROOT, name_of

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


def first_number(component: str) -> int:
    """Return the number of the first requirement of a component, such as 101 for `002-lists`."""
    return (int(component[:3]) - 1) * 100 + 1


def disagreements(specs: Mapping[str, str], citations: set[str]) -> list[str]:
    """Return the differences between the specifications, by component, and the tests."""
    definitions = {component: defined(spec) for component, spec in specs.items()}
    known = {id_ for ids in definitions.values() for id_ in ids}
    return [
        *(f"{id_} is not cited by a test" for id_ in sorted(known - citations)),
        *(f"{id_} is cited but not defined" for id_ in sorted(citations - known)),
        *(
            error
            for component, ids in definitions.items()
            for error in _numbering_errors(ids, first_number(component))
        ),
    ]


def _numbering_errors(ids: list[str], first: int) -> Iterator[str]:
    numbering: dict[str, list[str]] = {}
    for id_ in ids:
        numbering.setdefault(id_.partition("-")[0], []).append(id_)
    for prefix, same in numbering.items():
        for number, id_ in enumerate(same, first):
            if id_ != f"{prefix}-{number:03}":
                yield f"{id_} is in the position of {prefix}-{number:03}"


def read_specification(component: Path) -> str:
    """Return the text of a component's specification."""
    return (component / "spec.md").read_text("utf-8")


def test_every_component_is_found() -> None:
    assert [component.name for component in COMPONENTS] == [
        "001-core-backend",
        "002-rich-tasks",
        "003-sync",
    ]


def test_specifications_and_tests_agree() -> None:
    files = [path for name in ("tests", "bench", "tools") for path in (ROOT / name).rglob("*.py")]
    # Generated clients and installed packages are not tests of this project.
    sources = [
        path.read_text("utf-8")
        for path in files
        if not {"generated", "node_modules"} & set(path.parts)
    ]
    citations = {id_ for source in sources for id_ in cited(source)}
    specs = {component.name: read_specification(component) for component in COMPONENTS}
    assert disagreements(specs, citations) == []


@pytest.mark.parametrize("component", COMPONENTS, ids=name_of)
def test_specification_has_functional_and_other_requirements(component: Path) -> None:
    prefixes = {id_.partition("-")[0] for id_ in defined(read_specification(component))}
    assert prefixes == {"FR", "NFR"}


def test_documents_cite_only_existing_requirements() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "specs").rglob("*.md")]
    named = {id_ for document in documents for id_ in ID.findall(document.read_text("utf-8"))}
    assert named == {
        id_ for component in COMPONENTS for id_ in defined(read_specification(component))
    }


@pytest.mark.parametrize("component", COMPONENTS, ids=name_of)
def test_acceptance_names_every_requirement(component: Path) -> None:
    named = set(ID.findall((component / "checklist/acceptance.md").read_text("utf-8")))
    assert named == set(defined(read_specification(component)))


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
    """Return the text of each decision by file name. The components number them together."""
    return {
        path.name: path.read_text("utf-8")
        for component in COMPONENTS
        for path in sorted((component / "research").iterdir())
    }


def test_decisions_and_their_indexes_agree() -> None:
    # A decision in the index of another component is a broken link (test_documents.py).
    indexes = [(component / "research.md").read_text("utf-8") for component in COMPONENTS]
    assert decision_errors("\n".join(indexes), read_decisions()) == []


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
    assert disagreements({"001-queue": SMALL_SPEC}, cited(SMALL_TESTS)) == []


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
    assert disagreements({"001-queue": spec}, cited(tests)) == expected


def test_requirements_of_a_component_begin_at_its_hundred() -> None:
    spec, citations = SMALL_SPEC.replace("FR-0", "FR-1"), {"FR-101", "FR-102", "NFR-101"}
    assert disagreements({"002-table": spec}, citations) == []
    assert disagreements({"003-table": spec}, citations) == [
        "FR-101 is in the position of FR-201",
        "FR-102 is in the position of FR-202",
        "NFR-101 is in the position of NFR-201",
    ]


def test_citations_of_several_components_are_compared() -> None:
    specs = {"001-queue": SMALL_SPEC, "002-table": SMALL_SPEC.replace("FR-0", "FR-1")}
    assert disagreements(specs, cited(SMALL_TESTS) | {"FR-101", "FR-203"}) == [
        "FR-102 is not cited by a test",
        "NFR-101 is not cited by a test",
        "FR-203 is cited but not defined",
    ]


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
