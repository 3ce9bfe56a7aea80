"""The question for the schema's revision, without a database."""

from __future__ import annotations

from typing import Any

import pytest
from asyncpg import exceptions as pg
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from app.db import migrations
from app.db.config import DatabaseConfig
from app.db.database import SCHEMA_REVISION
from app.db.errors import OutageLogger, ReadOnlyDatabaseError
from app.http.problems import DatabaseUnavailable

NOWHERE = DatabaseConfig.from_url("postgresql://nobody@127.0.0.1:1/nothing")


class Asked:
    """A database that notes how it is treated."""

    answer: str | Exception | None = SCHEMA_REVISION
    missing: tuple[str, ...] = ()
    made: list[tuple[DatabaseConfig, dict[str, Any]]]
    closed: int

    def __init__(self, connection: DatabaseConfig, **options: Any) -> None:
        self.made.append((connection, options))
        self.outage_logger = OutageLogger()

    async def missing_privileges(self) -> tuple[str, ...]:
        return self.missing

    async def schema_revision(self) -> str | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        type(self).closed += 1


@pytest.mark.requirement("FR-039")
@pytest.mark.parametrize(
    ("answer", "revision", "current"),
    [
        (SCHEMA_REVISION, SCHEMA_REVISION, True),
        ("9999", "9999", True),
        ("0000", "0000", False),
        (None, None, False),
    ],
)
def test_a_database_is_asked_once_and_left(
    answer: str | None, revision: str | None, *, current: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asked, "answer", answer)
    monkeypatch.setattr(Asked, "made", [], raising=False)
    monkeypatch.setattr(Asked, "closed", 0, raising=False)
    monkeypatch.setattr(migrations, "Database", Asked)
    assert migrations.get_revision(NOWHERE) == revision
    assert migrations.has_compatible_schema(NOWHERE) is current
    assert Asked.made == [(NOWHERE, {"pool_size": 1, "timeout": 15})] * 2
    assert Asked.closed == 2


@pytest.mark.requirement("FR-039", "FR-054")
@pytest.mark.parametrize(
    ("fault", "missing", "told"),
    [
        (DatabaseUnavailable(), (), r"The database cannot be reached: refused"),
        (ReadOnlyDatabaseError(), (), r"The database is read-only\."),
        (
            AssertionError(),
            ("SELECT on tasks", "INSERT on tasks"),
            r'The role lacks SELECT on tasks, INSERT on tasks \(README, "Database roles"\)\.',
        ),
    ],
    ids=["unavailable", "read-only", "privileges"],
)
def test_a_database_that_cannot_be_used_is_left_with_the_cause(
    fault: Exception, missing: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asked, "answer", fault)
    monkeypatch.setattr(Asked, "missing", missing)
    monkeypatch.setattr(Asked, "made", [], raising=False)
    monkeypatch.setattr(Asked, "closed", 0, raising=False)
    monkeypatch.setattr(migrations, "Database", Asked)
    monkeypatch.setattr(OutageLogger, "cause", "refused", raising=False)
    monkeypatch.setattr(OutageLogger, "__init__", lambda _: None)
    with pytest.raises(migrations.MigrationError, match=f"^{told}$"):
        migrations.get_revision(NOWHERE)
    assert Asked.closed == 1


@pytest.mark.requirement("FR-054")
def test_a_cause_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with capture_logs() as lines, pytest.raises(migrations.MigrationError):
        migrations.get_revision(NOWHERE)
    assert lines == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.requirement("FR-039", "FR-054")
def test_nothing_is_migrated_through_a_pooler() -> None:
    pooled = DatabaseConfig.from_url(
        "postgresql://nobody@127.0.0.1:1/nothing", transaction_pooling=True
    )
    with pytest.raises(migrations.MigrationError) as refused:
        migrations.upgrade(pooled)
    words = "A pooler cannot be migrated through. Set DATABASE_DIRECT_URL to what is behind it."
    assert str(refused.value) == words


@pytest.mark.requirement("FR-039")
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            DBAPIError("SELECT hunter2", {}, Exception("no locale")),
            "The migration failed and was undone: no locale",
        ),
        (
            DBAPIError(None, None, pg.InvalidPasswordError("no such password")),
            "The database cannot be reached: SQLSTATE 28P01, no such password",
        ),
        (TimeoutError(), "The database cannot be reached: no answer in time"),
        (ConnectionRefusedError("closed"), "The database cannot be reached: closed"),
        (
            pg.CannotConnectNowError("starting"),
            "The database cannot be reached: SQLSTATE 57P03, starting",
        ),
        (pg.InterfaceError("odd"), "The database cannot be reached: InterfaceError"),
    ],
    ids=repr,
)
def test_why_a_migration_failed_is_a_sentence(
    fault: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade(*, config: Any, revision: str, **_: Any) -> None:
        assert (config.engine.url, revision) == (NOWHERE.url, "head")
        assert config.get_alembic_option("script_location").endswith("/migrations")
        if isinstance(fault, DBAPIError):
            fault.__cause__ = fault.orig
        raise fault

    monkeypatch.setattr("alembic.command.upgrade", upgrade)
    with pytest.raises(migrations.MigrationError) as raised:
        migrations.upgrade(NOWHERE)
    assert str(raised.value) == told
