"""ARCHITECTURE.md says who may import whom and who may do what; the code is held against it."""

from __future__ import annotations

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import msgspec
import pytest

from app.asgi import create_app
from app.settings import Secret, Settings

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
PACKAGES = [path for path in (ROOT / "app").rglob("*.py") if path.name == "__init__.py"]
FACADE = ROOT / "app" / "embedded" / "__init__.py"  # the one package that is a module as well
CODE = {
    ".".join(path.relative_to(ROOT / "app").with_suffix("").parts).removesuffix(
        ".__init__"
    ): ast.parse(path.read_text("utf-8"))
    for path in (ROOT / "app").rglob("*.py")
    if path.name != "__init__.py" or path == FACADE
}
ROOM = re.compile(r"^\| `(\w+(?:\.\w+)*)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
LIBRARY = re.compile(r"^\| `(\w+)` \| ([^|]+) \|$", re.MULTILINE)
TRANSACTIONS = {"begin", "begin_nested", "commit", "rollback"}
EXECUTION = {
    "execute",
    "executemany",
    "fetch",
    "fetchrow",
    "fetchval",
    "scalar",
    "scalars",
    "stream",
}


def imported(tree: ast.Module) -> set[str]:
    """Every module or name that a module imports, in full."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(tree: ast.Module, rooms: set[str]) -> set[str]:
    """The modules of `app` that a module imports, or imports something from."""
    names = {name.removeprefix("app.") for name in imported(tree) if name.startswith("app.")}
    return {name if name in rooms else name.rpartition(".")[0] for name in names}


def libraries_imported(tree: ast.Module) -> set[str]:
    """The libraries that a module imports; msgspec is the language of every room."""
    tops = {name.partition(".")[0] for name in imported(tree)}
    return tops - set(sys.stdlib_module_names) - {"app", "msgspec"}


def calls(tree: ast.Module, methods: set[str]) -> list[str]:
    """The calls of methods with one of these names."""
    return [
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in methods
    ]


def private_names_of_others(tree: ast.Module) -> list[str]:
    """The names with a leading underscore that a module takes from another of `app`."""
    full = [name for name in imported(tree) if name.startswith("app.")]
    others = {name.rpartition(".")[2] for name in full}
    taken = [name for name in full if name.rpartition(".")[2].startswith("_")]
    used = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match("_[^_]", node.attr)
        and ast.unparse(node.value) in others
    ]
    return taken + used


def listed(row: str) -> set[str]:
    """The names in a cell of a table."""
    return set(re.findall(r"`([\w.]+)`", row))


def users_of(attribute: str) -> set[str]:
    """The modules that read an attribute such as `os.environ`."""
    return {
        room
        for room, tree in CODE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == attribute
    }


ALLOWED = {room: listed(row) for room, row in ROOM.findall(DOCUMENT)}


def test_the_document_lists_every_module() -> None:
    assert sorted(ALLOWED) == sorted(CODE)


@pytest.mark.parametrize("room", sorted(CODE))
def test_a_module_imports_what_the_document_says(room: str) -> None:
    assert rooms_imported(CODE[room], set(CODE)) == ALLOWED.get(room)


def test_imports_have_no_cycle() -> None:
    assert list(TopologicalSorter(ALLOWED).static_order())[-1] == "__main__"


@pytest.mark.parametrize(
    ("room", "importers"),
    [("server", {"__main__"}), ("main", {"server"}), ("edge", {"main", "server"})],
)
def test_what_wires_is_imported_from_above_alone(room: str, importers: set[str]) -> None:
    assert {other for other, rooms in ALLOWED.items() if room in rooms} == importers


@pytest.mark.parametrize("room", ["etags", "connection", "embedded.error"])
def test_what_everything_stands_on_imports_nothing_of_the_service(room: str) -> None:
    assert ALLOWED[room] == set()


@pytest.mark.parametrize("room", sorted(room for room in CODE if room.startswith("embedded")))
def test_the_embedded_server_imports_nothing_but_itself(room: str) -> None:
    assert {other.partition(".")[0] for other in ALLOWED[room]} <= {"embedded"}


def test_the_document_says_which_module_knows_which_library() -> None:
    known: dict[str, set[str]] = {}
    for room, tree in CODE.items():
        for library in libraries_imported(tree):
            known.setdefault(library, set()).add(room)
    assert {library: listed(row) for library, row in LIBRARY.findall(DOCUMENT)} == known


@pytest.mark.parametrize("room", sorted(set(CODE) - {"database", "pool", "tasks.repository"}))
def test_statements_run_in_these_modules_alone(room: str) -> None:
    assert calls(CODE[room], EXECUTION) == []


@pytest.mark.parametrize("room", sorted(CODE))
def test_no_module_handles_transactions(room: str) -> None:
    assert calls(CODE[room], TRANSACTIONS) == []


@pytest.mark.parametrize("room", sorted(CODE))
def test_no_module_takes_the_private_names_of_another(room: str) -> None:
    assert private_names_of_others(CODE[room]) == []


@pytest.mark.requirement("FR-037")
def test_the_environment_is_read_in_one_module() -> None:
    # `embedded.cluster` hands it on to its child; `getenv` would be a second way to read it.
    assert users_of("os.environ") == {"server", "embedded.cluster"}
    assert users_of("os.getenv") == set()


@pytest.mark.parametrize(
    "package", sorted({*PACKAGES} - {FACADE}), ids=lambda path: path.parent.name
)
def test_a_package_does_nothing_by_itself(package: Path) -> None:
    statements = ast.parse(package.read_text("utf-8")).body
    assert [type(statement) for statement in statements] == [ast.Expr]


def test_making_the_application_opens_no_connection() -> None:
    nowhere = Settings(database_url=Secret("postgresql://tasks@127.0.0.1:1/tasks"))
    assert create_app(nowhere).routes


def structs_of(kind: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    """Every struct that a module of the service defines; the framework makes more at run time."""
    below = {each for subclass in kind.__subclasses__() for each in structs_of(subclass)}
    return {
        each
        for each in below | {kind}
        if each.__module__.startswith("app.")
        and hasattr(sys.modules[each.__module__], each.__name__)
    }


def test_no_struct_can_be_changed() -> None:
    found = structs_of(msgspec.Struct)
    assert {"Core", "Settings", "Task", "Position"} <= {struct.__name__ for struct in found}
    assert [struct for struct in found if not struct.__struct_config__.frozen] == []


# --- the rules bite ----------------------------------------------------------------------------

ROOMS = {"main", "tasks.words"}


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("from app import main", {"main"}),
        ("from app.asgi import create_app", {"main"}),
        ("import app.asgi", {"main"}),
        ("from app.domain.tasks.search import words as cut", {"tasks.words"}),
        ("from app.domain.tasks import words", {"tasks.words"}),
        ("def late():\n    from app.asgi import create_app", {"main"}),
        ("import json\nfrom litestar import get", set()),
    ],
)
def test_an_import_is_seen_in_each_of_its_forms(source: str, rooms: set[str]) -> None:
    assert rooms_imported(ast.parse(source), ROOMS) == rooms


def test_a_library_is_told_from_the_standard_library() -> None:
    source = (
        "import json, yaml.constructor\nfrom sqlalchemy.orm import Mapped\nfrom app import main"
    )
    assert libraries_imported(ast.parse(source)) == {"yaml", "sqlalchemy"}


@pytest.mark.parametrize("source", ["await session.commit()", "connection.begin().__enter__()"])
def test_a_transaction_is_seen(source: str) -> None:
    assert len(calls(ast.parse(source), TRANSACTIONS)) == 1


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from app.http.body import _reason", ["app.http.body._reason"]),
        ("from app import embedded\nembedded._stop()", ["embedded._stop"]),
        ("from app.http.pagination import Cursors\nCursors._digest", ["Cursors._digest"]),
        ("from app import embedded\nembedded.__name__\nself._own", []),
    ],
)
def test_a_private_name_is_seen(source: str, names: list[str]) -> None:
    assert private_names_of_others(ast.parse(source)) == names
