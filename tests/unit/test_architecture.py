"""Rules of the code that import-linter cannot express; pyproject.toml has those that it can."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import msgspec
import pytest

from app.asgi import create_app
from app.settings import Secret, Settings

APP = Path(__file__).parents[2] / "app"
MODULES = {
    ".".join(path.relative_to(APP).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text("utf-8")
    )
    for path in APP.rglob("*.py")
}
FACADE = "embedded_postgres"  # the only package that defines functions
PACKAGES = {".".join(path.parent.relative_to(APP).parts) for path in APP.rglob("__init__.py")}
MODULES_WITH_STATEMENTS = {
    "db.database",
    "db.pool",
    "db.repository",
    "domain.tasks.batch",
    "domain.tasks.repository",
    "domain.changes.repository",
    "domain.users.export_file",  # in SQLite
    "domain.users.importer",
    "domain.users.repository",
}
# `Database.session` opens and ends every transaction. SQLAlchemy's adapter undoes what a closed
# session left open.
TRANSACTION_CALLS = {"db.database": ["session.begin"], "db.engine": ["self.rollback"]}
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


def calls(tree: ast.Module, methods: set[str]) -> list[str]:
    """The calls of methods with one of these names."""
    return [
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in methods
    ]


def imported_names(tree: ast.Module) -> set[str]:
    """The qualified names that a module imports from `app`."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "app"
        for alias in node.names
    }


def private_names(tree: ast.Module) -> list[str]:
    """The names with a leading underscore that a module takes from another module of `app`."""
    names = imported_names(tree)
    modules = {name.rpartition(".")[2] for name in names}
    imported = [name for name in names if name.rpartition(".")[2].startswith("_")]
    used = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match("_[^_]", node.attr)
        and ast.unparse(node.value) in modules
    ]
    return imported + used


def users_of(attribute: str) -> set[str]:
    """The modules that read an attribute such as `os.environ`."""
    return {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == attribute
    }


@pytest.mark.parametrize("name", sorted(set(MODULES) - MODULES_WITH_STATEMENTS))
def test_statements_run_only_in_the_database_and_repositories(name: str) -> None:
    assert calls(MODULES[name], EXECUTION) == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_transactions_are_handled_in_one_place(name: str) -> None:
    assert calls(MODULES[name], TRANSACTIONS) == TRANSACTION_CALLS.get(name, [])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_takes_private_names_of_another(name: str) -> None:
    assert private_names(MODULES[name]) == []


@pytest.mark.requirement("FR-037")
def test_environment_is_read_in_one_module() -> None:
    # `embedded_postgres.server` passes it on to its child process.
    assert users_of("os.environ") == {"cli", "embedded_postgres.server"}
    assert users_of("os.getenv") == set()


@pytest.mark.parametrize("package", sorted(PACKAGES - {FACADE}))
def test_package_has_only_a_docstring(package: str) -> None:
    (statement,) = MODULES[package or "__init__"].body
    assert isinstance(statement, ast.Expr)


def test_creating_the_application_opens_no_connection() -> None:
    nowhere = Settings(database_url=Secret("postgresql://tasks@127.0.0.1:1/tasks"))
    assert create_app(nowhere).routes


def structs_of(base: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    """The structs that a module of the service defines; the framework makes more at run time."""
    below = {each for subclass in base.__subclasses__() for each in structs_of(subclass)}
    return {
        each
        for each in below | {base}
        if each.__module__.startswith("app.")
        and hasattr(sys.modules[each.__module__], each.__name__)
    }


def test_structs_are_frozen() -> None:
    structs = structs_of(msgspec.Struct)
    assert {"AppState", "Settings", "Task", "CursorPosition"} <= {it.__name__ for it in structs}
    assert [struct for struct in structs if not struct.__struct_config__.frozen] == []


# --- the rules find what they look for ----------------------------------------------------------


@pytest.mark.parametrize("source", ["await session.commit()", "connection.begin().__enter__()"])
def test_transaction_is_found(source: str) -> None:
    assert len(calls(ast.parse(source), TRANSACTIONS)) == 1


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from app.http.body import _reason", ["app.http.body._reason"]),
        ("from app import embedded_postgres\nembedded_postgres._x()", ["embedded_postgres._x"]),
        ("from app.http.pagination import CursorCodec\nCursorCodec._key", ["CursorCodec._key"]),
        ("from app import embedded_postgres\nembedded_postgres.__name__\nself._own", []),
    ],
)
def test_private_name_is_found(source: str, names: list[str]) -> None:
    assert private_names(ast.parse(source)) == names
