"""Startup of the application."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from app.asgi import create_app
from app.db.database import Database, DatabaseError
from app.openapi.document import OpenAPIDocument, RouteMismatchError
from app.settings import Secret, Settings
from tests.support.lifespan import running

NOWHERE = Settings(database_url=Secret("postgresql://nobody@127.0.0.1:1/nothing"))


@pytest.mark.requirement("FR-033", "FR-041")
async def test_start_without_the_database_is_logged_and_continues() -> None:
    with capture_logs() as lines:
        async with running(create_app(NOWHERE)) as app:
            assert app.routes
    [line] = lines
    assert line.pop("cause").endswith("Connect call failed ('127.0.0.1', 1)")
    assert line == {"event": "database unavailable", "log_level": "warning"}


@pytest.mark.requirement("FR-033", "FR-041")
@pytest.mark.parametrize("error", [DatabaseError("SQLSTATE 0A000"), KeyError("owner")], ids=repr)
async def test_failed_housekeeping_is_logged_and_the_service_starts(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_missing_privileges(_: object) -> list[str]:
        return []

    async def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(Database, "missing_privileges", no_missing_privileges)
    monkeypatch.setattr("app.asgi.delete_expired_keys", fail)
    with capture_logs() as lines:
        async with running(create_app(NOWHERE)) as app:
            assert app.routes
    cause = f"{type(error).__name__}: {error}"
    # The collection of a request that an earlier test abandoned may be logged here.
    lines = [line for line in lines if line["event"] != "request"]
    assert lines == [{"event": "housekeeping failed", "cause": cause, "log_level": "warning"}]


@pytest.mark.requirement("FR-028", "FR-033", "FR-055")
def test_database_receives_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def record(*args: Any, **options: Any) -> Database:
        calls.append((args, options))
        return Database(*args, **options)

    monkeypatch.setattr("app.asgi.Database", record)
    settings = msgspec.structs.replace(
        NOWHERE,
        database_pool_size=7,
        database_timeout=3.0,
        database_statement_timeout=2.0,
        database_pool_recycle=9,
    )
    create_app(settings)
    limits = {"pool_size": 7, "timeout": 3.0, "statement_timeout": 2.0, "max_lifetime": 9}
    assert calls == [((settings.database_config(),), limits)]


@pytest.mark.requirement("NFR-007")
def test_operations_that_differ_from_the_contract_prevent_startup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = OpenAPIDocument.load().document
    document["paths"]["/livez"]["get"]["operationId"] = "getPulse"
    other = OpenAPIDocument(msgspec.json.encode(document))
    monkeypatch.setattr(OpenAPIDocument, "load", lambda: other)
    with pytest.raises(RouteMismatchError, match="getPulse"):
        create_app(NOWHERE)


@pytest.mark.requirement("FR-036")
def test_litestar_defaults_are_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITESTAR_DEBUG", "1")
    app: Any = create_app(NOWHERE).app
    assert app.debug is False
    assert app.logging_config is None
    assert app.openapi_config is None
    assert app.request_max_body_size == 131_072


@pytest.mark.requirement("FR-049")
def test_metrics_are_enabled_by_a_port() -> None:
    assert create_app(NOWHERE).metrics is None
    settings = msgspec.structs.replace(NOWHERE, metrics_port=0, database_pool_size=7)
    metrics = create_app(settings).metrics
    assert metrics is not None
    sample = metrics.registry.get_sample_value
    counts = [
        sample("db_client_connection_count", {"db_client_connection_state": state})
        for state in ("used", "idle")
    ]
    assert [*counts, sample("db_client_connection_max")] == [0, 0, 7]
