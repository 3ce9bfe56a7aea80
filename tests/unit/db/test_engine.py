"""Advanced Alchemy's configurations, without a database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.db.config import DatabaseConfig
from app.db.engine import create_migration_config, create_session_config

POOLER = DatabaseConfig.from_url("postgresql://u:p@ep-x-pooler.example.org/db")


@pytest.mark.requirement("FR-028", "FR-039", "FR-040")
def test_a_migration_has_one_direct_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, dict[str, Any]]] = []

    def create(url: Any, **options: Any) -> Any:
        made.append((url, options))
        return create_async_engine(url, **options)

    monkeypatch.setattr("app.db.engine.create_async_engine", create)
    config = create_migration_config(POOLER, "migrations")
    direct = POOLER.direct_config()
    assert made == [
        (
            direct.url,
            {
                "poolclass": NullPool,
                "hide_parameters": True,
                "connect_args": {**direct.session_args(), "timeout": 15},
            },
        )
    ]
    assert config.get_engine().url == direct.url
    assert config.alembic_config.version_table_name == "alembic_version"
    assert config.alembic_config.compare_type


def test_sessions_have_no_pool_of_their_own() -> None:
    engine = create_session_config().get_engine()
    assert isinstance(engine.pool, NullPool)
    assert engine.dialect.name == "postgresql"
