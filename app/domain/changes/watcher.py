"""Ends the wait of requests for the next change (research/0083)."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress

from app.db.statements import FetchCallable
from app.domain.changes.statements import READ_REVISIONS
from app.domain.changes.tokens import START, FeedPosition
from app.http.problems import DatabaseUnavailable
from app.http.waiting import resolve

POLL_INTERVAL = 0.2  # seconds
MAX_READS = 4  # concurrent reads of requests that a change has ended the wait of
_ABSENT = (START.epoch, START.revision)  # of a user without a row


class ChangeWatcher:
    """Watches the revisions of the users for whom requests wait.

    One statement per POLL_INTERVAL reads all of them. While no request waits, nothing is sent. One
    instance handles all requests.
    """

    def __init__(self, fetch: FetchCallable) -> None:
        self._fetch = fetch
        # A change may end the wait of thousands of requests. Others are served meanwhile.
        self.reads = asyncio.Semaphore(MAX_READS)
        self._watched: dict[asyncio.Future[bool], tuple[str, FeedPosition]] = {}
        self._polling: asyncio.Task[None] | None = None

    @contextmanager
    def watch(
        self, user_id: str, position: FeedPosition, seconds: float
    ) -> Generator[asyncio.Future[bool]]:
        """Yield an event: True at a change after the position, or False after some seconds."""
        loop = asyncio.get_running_loop()
        event: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(seconds, resolve, event, False)  # noqa: FBT003
        self._watched[event] = user_id, position
        if self._polling is None:
            self._polling = loop.create_task(self._poll())
        try:
            yield event
        finally:
            timer.cancel()
            del self._watched[event]

    async def _poll(self) -> None:
        """Read the revisions repeatedly, until no request waits.

        An unavailable database ends no wait. All clients would repeat their requests together.
        """
        try:
            while True:
                await asyncio.sleep(POLL_INTERVAL)
                if not self._watched:
                    break
                with suppress(DatabaseUnavailable):  # already logged
                    await self._read_revisions()
        finally:
            self._polling = None

    async def _read_revisions(self) -> None:
        watched = list(self._watched.items())  # requests may begin to wait during the statement
        users = list({user_id for _, (user_id, _) in watched})
        rows = await self._fetch(READ_REVISIONS, {"owners": users})
        current = {user_id: (epoch, revision) for user_id, epoch, revision in rows}
        for event, (user_id, position) in watched:
            if current.get(user_id, _ABSENT) != (position.epoch, position.revision):
                resolve(event, True)  # noqa: FBT003
