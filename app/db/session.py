"""What Advanced Alchemy's repositories take for a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from asyncpg import Record
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)

# `Database.fetch`: a statement, its values, and since when the request's time counts.
FetchCallable = Callable[..., Awaitable[list[Record]]]


class ScopedSession(async_scoped_session[AsyncSession]):
    """A session for each task that needs one, and `fetch`, which needs none.

    So one repository serves every request. Who calls what a repository inherits ends its session
    with `remove`, as SQLAlchemy's documentation of scoped sessions says.
    """

    def __init__(self, engine: AsyncEngine, fetch: FetchCallable) -> None:
        """Take the engine, and what runs a statement."""
        super().__init__(async_sessionmaker(engine), _current_task)
        self.fetch = fetch


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop is running: an application is being made
        return None
