"""Runs an application's ASGI lifespan, because httpx does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.http.middleware import HTTPMiddleware


@asynccontextmanager
async def running(app: HTTPMiddleware) -> AsyncIterator[HTTPMiddleware]:
    """Start the application and shut it down."""
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    scope: Any = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(app(scope, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    message = await outbox.get()
    assert message["type"] == "lifespan.startup.complete", message
    try:
        yield app
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        message = await outbox.get()
        assert message["type"] == "lifespan.shutdown.complete", message
        await task
