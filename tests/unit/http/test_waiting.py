"""Events that waiting requests await."""

from __future__ import annotations

import asyncio

import pytest

from app.http.waiting import resolve


@pytest.mark.requirement("FR-215")
async def test_first_value_of_an_event_counts() -> None:
    event: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    resolve(event, value=True)
    resolve(event, value=False)
    assert await event is True
