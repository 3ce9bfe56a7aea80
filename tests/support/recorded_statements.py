"""Records the statements that the service sends."""

from __future__ import annotations

from typing import Any

import pytest

from app.db.pool import PooledConnection


def record_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the SQL of each further statement is appended."""
    sent: list[str] = []
    fetch = PooledConnection.fetch

    async def note(
        kept: PooledConnection, text: str, arguments: list[Any], deadline: float, **options: bool
    ) -> Any:
        sent.append(text)
        return await fetch(kept, text, arguments, deadline, **options)

    monkeypatch.setattr(PooledConnection, "fetch", note)
    return sent
