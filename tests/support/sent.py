"""The statements that the service sends."""

from __future__ import annotations

from typing import Any

import pytest

from app.db.pool import Kept


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets the text of every statement from now on."""
    sent: list[str] = []
    fetch = Kept.fetch

    async def note(
        kept: Kept, text: str, arguments: list[Any], deadline: float, **options: bool
    ) -> Any:
        sent.append(text)
        return await fetch(kept, text, arguments, deadline, **options)

    monkeypatch.setattr(Kept, "fetch", note)
    return sent
