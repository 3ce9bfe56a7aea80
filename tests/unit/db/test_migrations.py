"""Schema revisions and migration errors, without a server."""

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


class FakeDatabase:
    """A database that records how it is opened and closed."""

    result: str | Exception | None = SCHEMA_REVISION
    missing: tuple[str, ...] = ()
    opened: list[tuple[DatabaseConfig, dict[str, Any]]]
    closed: int

    def __init__(self, config: DatabaseConfig, **options: Any) -> None:
        self.opened.append((config, options))
        self.outage_logger = OutageLogger()

    async def missing_privileges(self) -> tuple[str, ...]:
        return self.missing

    async def schema_revision(self) -> str | None:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def close(self) -> None:
        type(self).closed += 1


@pytest.mark.requirement("FR-039")
@pytest.mark.parametrize(
    ("result", "revision", "current"),
    [
        (SCHEMA_REVISION, SCHEMA_REVISION, True),
        ("9999", "9999", True),
        ("0000", "0000", False),
        (None, None, False),
    ],
)
def test_revision_is_read_once_and_the_database_is_closed(
    result: str | None, revision: str | None, *, current: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDatabase, "result", result)
    monkeypatch.setattr(FakeDatabase, "opened", [], raising=False)
    monkeypatch.setattr(FakeDatabase, "closed", 0, raising=False)
    monkeypatch.setattr(migrations, "Database", FakeDatabase)
    assert migrations.get_revision(NOWHERE) == revision
    assert migrations.has_compatible_schema(NOWHERE) is current
    assert FakeDatabase.opened == [(NOWHERE, {"pool_size": 1, "timeout": 15})] * 2
    assert FakeDatabase.closed == 2


@pytest.mark.requirement("FR-039", "FR-054")
@pytest.mark.parametrize(
    ("error", "missing", "message"),
    [
        (DatabaseUnavailable(), (), r"The database cannot be reached: refused"),
        (ReadOnlyDatabaseError(), (), r"The database is read-only\."),
        (
            AssertionError(),
            ("SELECT on tasks", "INSERT on tasks"),
            (
                r"The role lacks SELECT on tasks, INSERT on tasks "
                r'\(docs/guides/postgresql\.md, "Roles"\)\.'
            ),
        ),
    ],
    ids=["unavailable", "read-only", "privileges"],
)
def test_unusable_database_is_closed_and_its_cause_reported(
    error: Exception, missing: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDatabase, "result", error)
    monkeypatch.setattr(FakeDatabase, "missing", missing)
    monkeypatch.setattr(FakeDatabase, "opened", [], raising=False)
    monkeypatch.setattr(FakeDatabase, "closed", 0, raising=False)
    monkeypatch.setattr(migrations, "Database", FakeDatabase)
    monkeypatch.setattr(OutageLogger, "cause", "refused", raising=False)
    monkeypatch.setattr(OutageLogger, "__init__", lambda _: None)
    with pytest.raises(migrations.MigrationError, match=f"^{message}$"):
        migrations.get_revision(NOWHERE)
    assert FakeDatabase.closed == 1


@pytest.mark.requirement("FR-054")
def test_cause_is_reported_only_once(capsys: pytest.CaptureFixture[str]) -> None:
    with capture_logs() as lines, pytest.raises(migrations.MigrationError):
        migrations.get_revision(NOWHERE)
    assert lines == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.requirement("FR-039", "FR-054")
def test_migration_through_a_pooler_is_rejected() -> None:
    pooled = DatabaseConfig.from_url(
        "postgresql://nobody@127.0.0.1:1/nothing", transaction_pooling=True
    )
    with pytest.raises(migrations.MigrationError) as raised:
        migrations.upgrade(pooled)
    expected = (
        "Migrations need a direct connection. Set DATABASE_DIRECT_URL to the database itself."
    )
    assert str(raised.value) == expected


@pytest.mark.requirement("FR-039")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            DBAPIError("SELECT hunter2", {}, Exception("no locale")),
            "The migration failed and was rolled back: no locale",
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
def test_migration_failure_is_reported_as_a_sentence(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade(config: Any, target: str) -> None:
        assert (config.attributes["database_config"], target) == (NOWHERE, "head")
        assert config.get_alembic_option("script_location").endswith("/migrations")
        if isinstance(error, DBAPIError):
            error.__cause__ = error.orig
        raise error

    monkeypatch.setattr("alembic.command.upgrade", upgrade)
    with pytest.raises(migrations.MigrationError) as raised:
        migrations.upgrade(NOWHERE)
    assert str(raised.value) == message
