"""What the database's errors mean, without a database."""

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
from app.db.models import constraint_pointer
from app.db.pool import ConnectError, ConnectionPool, PoolTimeoutError, QueryError
from app.http.problems import DatabaseUnavailable, FieldError, InvalidBody

pytestmark = pytest.mark.requirement("FR-033")

NOWHERE = DatabaseConfig.from_url("postgresql://nobody@127.0.0.1:1/nothing")
STATEMENT = text("SELECT 1")


class DriverError(pg.PostgresError):
    """An error of the driver's."""

    def __init__(self, sqlstate: str | None, constraint: str | None = None) -> None:
        self.__dict__.update(sqlstate=sqlstate, constraint_name=constraint)
        super().__init__("hunter2")


def failing(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> Database:
    """A database on which every statement comes to this."""

    async def fetch(*_: Any, **__: Any) -> None:
        raise fault

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
def test_what_passes_by_itself_is_unavailability(code: str) -> None:
    assert isinstance(translate_error(DriverError(code)), DatabaseUnavailable)


def test_a_plan_that_is_refused_again_is_unavailability() -> None:
    assert isinstance(translate_error(pg.InvalidCachedStatementError()), DatabaseUnavailable)


@pytest.mark.parametrize("code", [None, ""])
def test_an_error_without_a_code_is_unavailability(code: str | None) -> None:
    assert isinstance(translate_error(DriverError(code)), DatabaseUnavailable)


def test_a_lost_connection_is_unavailability() -> None:
    assert isinstance(translate_error(pg.InterfaceError("hunter2")), DatabaseUnavailable)


@pytest.mark.parametrize("code", ["0A000", "22021", "40002", "XX001", "58000"])
def test_another_code_is_a_fault_of_ours_and_all_that_is_told(code: str) -> None:
    meant = translate_error(DriverError(code, "some_name"))
    assert isinstance(meant, DatabaseError)
    assert str(meant) == f"SQLSTATE {code}, constraint some_name"


@pytest.mark.parametrize(
    ("constraint", "pointer"),
    [
        ("ck_tasks_title_length", "/title"),
        ("ck_tasks_title_not_blank", "/title"),
        ("ck_tasks_description_length", "/description"),
    ],
)
def test_a_refused_row_is_a_fault_of_the_body(constraint: str, pointer: str) -> None:
    meant = translate_error(DriverError("23514", constraint))
    assert isinstance(meant, InvalidBody)
    assert meant.errors == [FieldError(pointer=pointer, detail="is refused by the database")]
    assert meant.to_problem("request-1").detail == "The body has one fault."


@pytest.mark.parametrize(
    "name", [None, "", "ck_tasks_updated_at_not_before_created_at", "tasks_pkey"]
)
def test_a_constraint_without_a_pointer_is_an_error_of_the_service(name: str | None) -> None:
    assert constraint_pointer(name) is None
    assert isinstance(translate_error(DriverError("23514", name)), DatabaseError)


@pytest.mark.parametrize(
    "fault",
    [
        TimeoutError(),
        PoolTimeoutError(),
        ConnectError(pg.PostgresError()),
        ConnectError(pg.InterfaceError("hunter2")),
        QueryError(pg.InterfaceError("hunter2")),
    ],
    ids=[
        "own limit",
        "pool",
        "server while connecting",
        "driver while connecting",
        "driver in a statement",
    ],
)
async def test_what_has_no_code_is_unavailability(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatabaseUnavailable):
        await failing(monkeypatch, fault).fetch(STATEMENT)


@pytest.mark.requirement("FR-054")
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (TimeoutError(), "no answer in time"),
        (ConnectError(ConnectionRefusedError(111, "refused")), "[Errno 111] refused"),
        (QueryError(DriverError("57P01")), "SQLSTATE 57P01, DriverError"),
        (QueryError(DriverError("22021")), None),
    ],
    ids=["beside the driver", "while connecting", "of the driver", "a fault of ours"],
)
async def test_why_it_is_unavailable_is_told(
    fault: Exception, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = failing(monkeypatch, fault)
    with pytest.raises((DatabaseUnavailable, DatabaseError)):
        await database.fetch(STATEMENT)
    assert database.outage_logger.cause == told


async def test_what_is_no_fault_of_the_database_goes_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = failing(monkeypatch, KeyError("owner"))
    with pytest.raises(KeyError):
        await database.fetch(STATEMENT)
    assert database.outage_logger.cause is None


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were given for each statement."""
    noted: list[float] = []

    async def fetch(
        _: ConnectionPool, __: str, ___: list[Any], seconds: float, **____: Any
    ) -> None:
        noted.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(ConnectionPool, "fetch", fetch)
    monkeypatch.setattr("app.db.database.monotonic", lambda: 1000.0)
    return noted


@pytest.mark.parametrize(("within", "seconds"), [(None, 4), (1, 1)])
async def test_a_request_has_its_time_and_no_more(
    given: list[float], within: float | None, seconds: float
) -> None:
    database = Database(NOWHERE, pool_size=1, timeout=4)
    for ask in (database.schema_revision(within), database.fetch(STATEMENT, timeout=within)):
        with pytest.raises(DatabaseUnavailable):
            await ask
    assert given == [seconds, seconds]


async def test_a_second_statement_has_what_the_first_has_left(given: list[float]) -> None:
    database = Database(NOWHERE, pool_size=1, timeout=4)
    with pytest.raises(DatabaseUnavailable):
        await database.fetch(STATEMENT, started_at=998.5)
    assert given == [2.5]


@pytest.mark.requirement("FR-035")
async def test_the_revision_is_none_only_where_its_table_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = failing(monkeypatch, QueryError(pg.UndefinedTableError()))
    assert await database.schema_revision() is None
    database = failing(monkeypatch, QueryError(DriverError("22021")))
    with pytest.raises(DatabaseError):
        await database.schema_revision()


@pytest.mark.requirement("FR-035")
@pytest.mark.parametrize(
    ("rows", "revision"), [([("0001", False)], "0001"), ([], None)], ids=["a row", "none"]
)
async def test_the_revision_of_a_database_that_takes_writes_is_its_row(
    rows: list[Any], revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(*_: Any) -> list[Any]:
        return rows

    monkeypatch.setattr(ConnectionPool, "fetch", fetch)
    database = Database(NOWHERE, pool_size=1, timeout=1)
    assert await database.schema_revision() == revision


@pytest.mark.requirement("FR-035", "FR-054")
async def test_a_read_only_database_has_its_connections_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fetch(*_: Any) -> list[Any]:
        return [("0002", True)]

    renewed: list[str] = []
    monkeypatch.setattr(ConnectionPool, "fetch", fetch)
    database = Database(NOWHERE, pool_size=1, timeout=1)
    monkeypatch.setattr(database.pool, "replace_connections", lambda: renewed.append("once"))
    with pytest.raises(ReadOnlyDatabaseError):
        await database.schema_revision()
    assert renewed == ["once"]
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
@pytest.mark.parametrize("connection", [NOWHERE, POOLER], ids=["direct", "pooled"])
def test_the_pool_is_told_what_was_asked_for(
    connection: DatabaseConfig,
    limits: dict[str, Any],
    statement: float,
    max_lifetime: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        "app.db.database.ConnectionPool", lambda *args, **options: given.append((args, options))
    )
    Database(connection, pool_size=7, timeout=3, **limits)
    (((keywords,), options),) = given
    assert keywords == {**connection.connect_kwargs(statement), "timeout": 3}
    assert options == {"size": 7, "max_lifetime": max_lifetime, "named": connection is NOWHERE}
