"""The statements that the service sends."""

from __future__ import annotations

from typing import Any

import pytest

from app import statements


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets the text of every statement from now on."""
    sent: list[str] = []
    fetch = statements._fetch

    async def note(pooled: Any, text: str, arguments: list[Any]) -> Any:
        sent.append(text)
        return await fetch(pooled, text, arguments)

    monkeypatch.setattr(statements, "_fetch", note)
    return sent
