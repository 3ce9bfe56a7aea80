"""Every requirement of the specification is cited by a test, and every id cited exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "specs/phase-II/001-core-backend/spec.md"
ACCEPTANCE = SPEC.parent / "checklist/acceptance.md"
ID = re.compile(r"\bN?FR-\d{3}\b")
DEFINITION = re.compile(r"^- \*\*(N?FR-\d+)\*\* ", re.MULTILINE)


def defined(spec: str) -> list[str]:
    """The ids that a specification defines, in its order."""
    return DEFINITION.findall(spec)


def cited(source: str) -> set[str]:
    """The ids that the tests of a module cite; a marker that marks no test counts for nothing."""
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
                # What is no literal stays as it is written, and so is an id that does not exist.
                yield from (ast.unparse(argument).strip("'") for argument in node.args)


def disagreements(definitions: list[str], citations: set[str]) -> list[str]:
    """Every way in which a specification and its tests differ, in words."""
    known = set(definitions)
    numbering: dict[str, list[str]] = {}
    for id_ in definitions:
        numbering.setdefault(id_.partition("-")[0], []).append(id_)
    return [
        *(f"{id_} is cited by no test" for id_ in sorted(known - citations)),
        *(f"{id_} is cited and defined nowhere" for id_ in sorted(citations - known)),
        *(
            f"{id_} stands where {kind}-{number:03} should"
            for kind, ids in numbering.items()
            for number, id_ in enumerate(ids, 1)
            if id_ != f"{kind}-{number:03}"
        ),
    ]


def test_specification_and_tests_agree() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    # Clients that were generated, and packages that were installed, are nobody's tests.
    own = [path for path in files if not {"generated", "node_modules"} & set(path.parts)]
    sources = [path.read_text("utf-8") for path in own]
    citations = set().union(*map(cited, sources))
    assert disagreements(defined(SPEC.read_text("utf-8")), citations) == []


def test_the_specification_has_requirements_of_both_kinds() -> None:
    kinds = {id_.partition("-")[0] for id_ in defined(SPEC.read_text("utf-8"))}
    assert kinds == {"FR", "NFR"}


def test_documents_name_no_requirement_that_does_not_exist() -> None:
    documents = [*ROOT.glob("*.md"), *SPEC.parent.rglob("*.md")]
    named = {id_ for document in documents for id_ in ID.findall(document.read_text("utf-8"))}
    assert named == set(defined(SPEC.read_text("utf-8")))


def test_the_acceptance_names_every_requirement() -> None:
    named = set(ID.findall(ACCEPTANCE.read_text("utf-8")))
    assert named == set(defined(SPEC.read_text("utf-8")))


# --- the comparison bites ----------------------------------------------------------------------

SMALL_SPEC = """
- **FR-001** `createTask` stores a task; FR-009 is only mentioned.
- **FR-002** `getTask` answers a task.
- **NFR-001** It is quick.
"""
SMALL_TESTS = """
import pytest

pytestmark = pytest.mark.requirement("NFR-001")

@pytest.mark.requirement("FR-001", "FR-002")
def test_create(): ...
"""


def test_a_specification_whose_requirements_are_all_cited_has_no_disagreement() -> None:
    assert disagreements(defined(SMALL_SPEC), cited(SMALL_TESTS)) == []


@pytest.mark.parametrize(
    ("spec", "tests", "complaint"),
    [
        (
            SMALL_SPEC,
            SMALL_TESTS.replace(', "FR-002"', ""),
            ["FR-002 is cited by no test"],
        ),
        (
            SMALL_SPEC,
            SMALL_TESTS.replace("FR-002", "FR-003"),
            ["FR-002 is cited by no test", "FR-003 is cited and defined nowhere"],
        ),
        (
            SMALL_SPEC.replace("**FR-002**", "**FR-001**"),
            SMALL_TESTS.replace(', "FR-002"', ""),
            ["FR-001 stands where FR-002 should"],
        ),
        (
            SMALL_SPEC.replace("**FR-002**", "**FR-003**"),
            SMALL_TESTS.replace("FR-002", "FR-003"),
            ["FR-003 stands where FR-002 should"],
        ),
        (
            SMALL_SPEC,
            SMALL_TESTS.replace("test_create", "create"),
            [
                "FR-001 is cited by no test",
                "FR-002 is cited by no test",
                "NFR-001 is cited by no test",
            ],
        ),
    ],
    ids=["a missing citation", "an invented id", "a duplicate", "a gap", "no test"],
)
def test_a_disagreement_is_told(spec: str, tests: str, complaint: list[str]) -> None:
    assert disagreements(defined(spec), cited(tests)) == complaint


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
def test_a_marker_is_found_wherever_pytest_takes_one(source: str) -> None:
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
def test_a_marker_without_a_test_counts_for_nothing(source: str) -> None:
    assert cited(source.replace("MARK", 'pytest.mark.requirement("FR-001")')) == set()


def test_an_id_that_is_no_literal_is_no_id() -> None:
    assert cited("@pytest.mark.requirement(SOME)\ndef test_x(): ...") == {"SOME"}
