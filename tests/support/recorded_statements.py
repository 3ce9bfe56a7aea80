"""Records the statements that the service sends."""

from __future__ import annotations

from typing import Any

import pytest

from app.db.pool import PooledConnection


def record_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the SQL of each further statement is appended."""
    statements: list[str] = []
    fetch = PooledConnection.fetch

    async def record(
        connection: PooledConnection,
        sql: str,
        arguments: list[Any],
        deadline: float,
        **options: bool,
    ) -> Any:
        statements.append(sql)
        return await fetch(connection, sql, arguments, deadline, **options)

    monkeypatch.setattr(PooledConnection, "fetch", record)
    return statements
