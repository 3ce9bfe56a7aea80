"""Error translation, timeouts and connection options, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from asyncpg import exceptions as pg
from sqlalchemy import text

import app.asgi  # noqa: F401 - registers every model
from app.db.config import DatabaseConfig
from app.db.database import (
    Database,
    DatabaseError,
    translate_error,
)
from app.db.errors import ReadOnlyDatabaseError
from app.db.models import constraint_info
from app.db.pool import ConnectError, ConnectionPool, PoolTimeoutError, QueryError
from app.domain.tasks.problems import HierarchyConflict
from app.http.problems import (
    DatabaseUnavailable,
    FieldError,
    InvalidBody,
    ProblemError,
    ReferenceNotFound,
)

pytestmark = pytest.mark.requirement("FR-033")

NOWHERE = DatabaseConfig.from_url("postgresql://nobody@127.0.0.1:1/nothing")
STATEMENT = text("SELECT 1")


class DriverError(pg.PostgresError):
    """A driver error with this SQLSTATE and constraint."""

    def __init__(self, sqlstate: str | None, constraint: str | None = None) -> None:
        self.__dict__.update(sqlstate=sqlstate, constraint_name=constraint)
        super().__init__("hunter2")


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Database:
    """Return a database on which every statement raises this error."""

    async def fetch(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ConnectionPool, "fetch", fetch)
    return Database(NOWHERE, pool_size=1, timeout=1)


@pytest.mark.parametrize(
    "code",
    [
        "08000",
        "08006",
        "53300",
        "57014",
        "57P03",
        "40001",
        "40P01",
        "55P03",
        "25006",
        "25P02",
        "26000",
        "34000",
        "42501",
        "42P01",
        "42P05",
        "42703",
        "3D000",
        "XX000",
    ],
)
def test_transient_sqlstate_means_unavailable(code: str) -> None:
    assert isinstance(translate_error(DriverError(code)), DatabaseUnavailable)


def test_stale_cached_plan_means_unavailable() -> None:
    assert isinstance(translate_error(pg.InvalidCachedStatementError()), DatabaseUnavailable)


@pytest.mark.parametrize("code", [None, ""])
def test_error_without_sqlstate_means_unavailable(code: str | None) -> None:
    assert isinstance(translate_error(DriverError(code)), DatabaseUnavailable)


def test_lost_connection_means_unavailable() -> None:
    assert isinstance(translate_error(pg.InterfaceError("hunter2")), DatabaseUnavailable)


@pytest.mark.parametrize("code", ["0A000", "22021", "40002", "XX001", "58000"])
def test_other_sqlstate_is_an_internal_error_without_details(code: str) -> None:
    translated = translate_error(DriverError(code, "some_name"))
    assert isinstance(translated, DatabaseError)
    assert str(translated) == f"SQLSTATE {code}, constraint some_name"


@pytest.mark.parametrize(
    ("constraint", "pointer"),
    [
        ("ck_tasks_title_length", "/title"),
        ("ck_tasks_title_not_blank", "/title"),
        ("ck_tasks_description_length", "/description"),
    ],
)
def test_constraint_violation_is_a_body_error(constraint: str, pointer: str) -> None:
    translated = translate_error(DriverError("23514", constraint))
    assert isinstance(translated, InvalidBody)
    assert translated.errors == [
        FieldError(pointer=pointer, detail="violates a database constraint")
    ]
    assert translated.to_problem("request-1").detail == (
        f"{pointer}: violates a database constraint"
    )


@pytest.mark.requirement("FR-115", "FR-119")
@pytest.mark.parametrize(
    ("constraint", "problem", "pointer", "detail"),
    [
        (
            "fk_tasks_list_id",
            ReferenceNotFound,
            "/list_id",
            "this user has no list with this ID",
        ),
        ("fk_tasks_parent_id", HierarchyConflict, "/parent_id", "this task is a subtask"),
        ("ck_tasks_list_or_parent", HierarchyConflict, "/list_id", "must be null for a subtask"),
    ],
)
def test_constraint_violation_is_the_declared_problem(
    constraint: str, problem: type[ProblemError], pointer: str, detail: str
) -> None:
    translated = translate_error(DriverError("23503", constraint))
    assert isinstance(translated, problem)
    assert translated.errors == [FieldError(pointer=pointer, detail=detail)]


@pytest.mark.parametrize(
    "name", [None, "", "ck_tasks_updated_at_not_before_created_at", "tasks_pkey"]
)
def test_constraint_without_a_pointer_is_an_internal_error(name: str | None) -> None:
    assert constraint_info(name) == {}
    assert isinstance(translate_error(DriverError("23514", name)), DatabaseError)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        PoolTimeoutError(),
        ConnectError(pg.PostgresError()),
        ConnectError(pg.InterfaceError("hunter2")),
        QueryError(pg.InterfaceError("hunter2")),
    ],
    ids=[
        "request timeout",
        "pool",
        "server while connecting",
        "driver while connecting",
        "driver in a statement",
    ],
)
async def test_connection_errors_and_timeouts_mean_unavailable(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatabaseUnavailable):
        await failing(monkeypatch, error).fetch(STATEMENT)


@pytest.mark.requirement("FR-054")
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TimeoutError(), "no answer in time"),
        (ConnectError(ConnectionRefusedError(111, "refused")), "[Errno 111] refused"),
        (QueryError(DriverError("57P01")), "SQLSTATE 57P01, DriverError"),
        (QueryError(DriverError("22021")), None),
    ],
    ids=["outside the driver", "while connecting", "from the driver", "internal error"],
)
async def test_cause_of_unavailability_is_recorded(
    error: Exception, cause: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = failing(monkeypatch, error)
    with pytest.raises((DatabaseUnavailable, DatabaseError)):
        await database.fetch(STATEMENT)
    assert database.outage_logger.cause == cause


async def test_unrelated_exception_propagates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = failing(monkeypatch, KeyError("owner"))
    with pytest.raises(KeyError):
        await database.fetch(STATEMENT)
    assert database.outage_logger.cause is None


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the timeout of each statement."""
    recorded: list[float] = []

    async def fetch(
        _: ConnectionPool, __: str, ___: list[Any], timeout: float, **____: Any
    ) -> None:
        recorded.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(ConnectionPool, "fetch", fetch)
    monkeypatch.setattr("app.db.database.monotonic", lambda: 1000.0)
    return recorded


@pytest.mark.parametrize(("timeout", "expected"), [(None, 4), (1, 1)])
async def test_statement_timeout_equals_the_request_timeout(
    timeouts: list[float], timeout: float | None, expected: float
) -> None:
    database = Database(NOWHERE, pool_size=1, timeout=4)
    for call in (database.schema_revision(timeout), database.fetch(STATEMENT, timeout=timeout)):
        with pytest.raises(DatabaseUnavailable):
            await call
    assert timeouts == [expected, expected]


async def test_second_statement_gets_the_remaining_time(timeouts: list[float]) -> None:
    database = Database(NOWHERE, pool_size=1, timeout=4)
    with pytest.raises(DatabaseUnavailable):
        await database.fetch(STATEMENT, started_at=998.5)
    assert timeouts == [2.5]


@pytest.mark.requirement("FR-035")
async def test_revision_is_none_only_if_its_table_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = failing(monkeypatch, QueryError(pg.UndefinedTableError()))
    assert await database.schema_revision() is None
    database = failing(monkeypatch, QueryError(DriverError("22021")))
    with pytest.raises(DatabaseError):
        await database.schema_revision()


@pytest.mark.requirement("FR-035")
@pytest.mark.parametrize(
    ("rows", "revision"), [([("0001", False)], "0001"), ([], None)], ids=["row", "none"]
)
async def test_revision_of_a_writable_database_is_its_row(
    rows: list[Any], revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(*_: Any) -> list[Any]:
        return rows

    monkeypatch.setattr(ConnectionPool, "fetch", fetch)
    database = Database(NOWHERE, pool_size=1, timeout=1)
    assert await database.schema_revision() == revision


@pytest.mark.requirement("FR-035", "FR-054")
async def test_read_only_database_replaces_all_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fetch(*_: Any) -> list[Any]:
        return [("0002", True)]

    replaced: list[str] = []
    monkeypatch.setattr(ConnectionPool, "fetch", fetch)
    database = Database(NOWHERE, pool_size=1, timeout=1)
    monkeypatch.setattr(database.pool, "replace_connections", lambda: replaced.append("once"))
    with pytest.raises(ReadOnlyDatabaseError):
        await database.schema_revision()
    assert replaced == ["once"]
    assert database.outage_logger.cause == "the database is read-only"


POOLER = DatabaseConfig.from_url("postgresql://u:p@ep-x-pooler.example.org/db")


@pytest.mark.requirement("FR-028", "FR-033", "FR-040", "FR-055")
@pytest.mark.parametrize(
    ("limits", "statement", "max_lifetime"),
    [
        ({}, 0, 240),
        ({"statement_timeout": 2}, 2, 240),
        ({"statement_timeout": 2, "max_lifetime": 9}, 2, 9),
    ],
)
@pytest.mark.parametrize("config", [NOWHERE, POOLER], ids=["direct", "pooled"])
def test_pool_receives_the_configured_limits(
    config: DatabaseConfig,
    limits: dict[str, Any],
    statement: float,
    max_lifetime: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "app.db.database.ConnectionPool", lambda *args, **options: calls.append((args, options))
    )
    Database(config, pool_size=7, timeout=3, **limits)
    (((connect_kwargs,), options),) = calls
    assert connect_kwargs == {**config.connect_kwargs(statement), "timeout": 3}
    assert options == {"size": 7, "max_lifetime": max_lifetime, "named": config is NOWHERE}
