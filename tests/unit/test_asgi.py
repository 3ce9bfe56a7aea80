"""The application's start and end."""

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
async def test_a_start_without_the_database_is_logged_and_goes_on() -> None:
    with capture_logs() as lines:
        async with running(create_app(NOWHERE)) as app:
            assert app.routes
    [line] = lines
    assert line.pop("cause").endswith("Connect call failed ('127.0.0.1', 1)")
    assert line == {"event": "database unavailable", "log_level": "warning"}


@pytest.mark.requirement("FR-033", "FR-041")
@pytest.mark.parametrize("fault", [DatabaseError("SQLSTATE 0A000"), KeyError("owner")], ids=repr)
async def test_housekeeping_that_fails_is_logged_and_the_service_starts(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(_: object) -> list[str]:
        return []

    async def fail(_: object) -> None:
        raise fault

    monkeypatch.setattr(Database, "missing_privileges", none)
    monkeypatch.setattr("app.asgi.delete_expired_keys", fail)
    with capture_logs() as lines:
        async with running(create_app(NOWHERE)) as app:
            assert app.routes
    cause = f"{type(fault).__name__}: {fault}"
    assert lines == [{"event": "housekeeping failed", "cause": cause, "log_level": "warning"}]


@pytest.mark.requirement("FR-028", "FR-033", "FR-055")
def test_the_database_is_told_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def noted(*args: Any, **options: Any) -> Database:
        given.append((args, options))
        return Database(*args, **options)

    monkeypatch.setattr("app.asgi.Database", noted)
    settings = msgspec.structs.replace(
        NOWHERE,
        database_pool_size=7,
        database_timeout=3.0,
        database_statement_timeout=2.0,
        database_pool_recycle=9,
    )
    create_app(settings)
    limits = {"pool_size": 7, "timeout": 3.0, "statement_timeout": 2.0, "max_lifetime": 9}
    assert given == [((settings.database_config(),), limits)]


@pytest.mark.requirement("NFR-007")
def test_code_that_serves_other_operations_than_the_contract_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = OpenAPIDocument.load().document
    document["paths"]["/livez"]["get"]["operationId"] = "getPulse"
    other = OpenAPIDocument(msgspec.json.encode(document))
    monkeypatch.setattr(OpenAPIDocument, "load", lambda: other)
    with pytest.raises(RouteMismatchError, match="getPulse"):
        create_app(NOWHERE)


@pytest.mark.requirement("FR-036")
def test_the_framework_adds_nothing_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITESTAR_DEBUG", "1")
    app: Any = create_app(NOWHERE).app
    assert app.debug is False
    assert app.logging_config is None
    assert app.openapi_config is None
    assert app.request_max_body_size == 131_072


@pytest.mark.requirement("FR-049")
def test_there_are_metrics_where_a_port_is_set() -> None:
    assert create_app(NOWHERE).metrics is None
    settings = msgspec.structs.replace(NOWHERE, metrics_port=0, database_pool_size=7)
    metrics = create_app(settings).metrics
    assert metrics is not None
    ask = metrics.registry.get_sample_value
    counts = [
        ask("db_client_connection_count", {"db_client_connection_state": state})
        for state in ("used", "idle")
    ]
    assert [*counts, ask("db_client_connection_max")] == [0, 0, 7]
