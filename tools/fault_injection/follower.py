"""Follows the feed during a fault, and compares it with the database afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import httpx

from app.http.etags import format_etag
from tools.fault_injection.load import CLIENTS, PAUSE, Allowed, Client, WriteLog

LIMIT = 20  # small, so that walks have several pages
MAX_ATTEMPTS = 20
RETRY_PAUSE = 0.2  # seconds
SELECT_COPIED = """
    SELECT user_id, 'task' AS kind, id, etag FROM tasks
    UNION ALL SELECT user_id, 'list', id, etag FROM lists
"""

Copied = set[tuple[str, str, str, str]]  # user, kind, id and etag


class Follower:
    """Keeps a copy of the tasks and lists of each client through `listChanges` only."""

    def __init__(self, url: str, log: WriteLog, allowed: Allowed) -> None:
        self.log = log
        self.stopped = asyncio.Event()
        self.client = Client(CLIENTS, url, log, allowed)
        self.users = [f"client-{number}" for number in range(CLIENTS)]
        self.tokens: dict[str, str] = {}
        self.copies: dict[str, dict[tuple[str, str], str]] = {user: {} for user in self.users}

    async def run(self) -> None:
        """Read a page of each client in turn. Once stopped, read the rest of all feeds."""
        async with self.client.http:
            while not self.stopped.is_set():
                for user in self.users:
                    await self._read_page(user)
                    await asyncio.sleep(PAUSE)
            for user in self.users:
                await self._walk(user)

    async def _walk(self, user: str) -> None:
        for _ in range(MAX_ATTEMPTS):
            while has_more := await self._read_page(user):
                pass
            if has_more is False:
                return
            await asyncio.sleep(RETRY_PAUSE)
        self.log.missing.append(f"the feed of {user} cannot be read")

    async def _read_page(self, user: str) -> bool | None:
        """Apply a page. Return whether there are more, or None without a page."""
        params: dict[str, Any] = {"limit": LIMIT}
        if user in self.tokens:
            params["since"] = self.tokens[user]
        try:
            response = await self.client.send("GET", f"/api/v1/users/{user}/changes", params=params)
        except httpx.ConnectError:
            return None
        if response is None:
            return None
        if response.status_code != 200:
            self.log.missing.append(f"the feed of {user}: {response.status_code}")
            return False
        page = response.json()
        for item in page["items"]:
            key = (item["kind"], item["id"])
            self.copies[user].pop(key, None)
            if not item["deleted"]:
                self.copies[user][key] = item[item["kind"]]["etag"]
        self.tokens[user] = page["next_since"]
        return bool(page["has_more"])

    async def verify(self, connection: asyncpg.Connection) -> None:
        """Add each difference between the copies and the database to the log."""
        stored: Copied = {
            (row["user_id"], row["kind"], str(row["id"]), format_etag(row["etag"]))
            for row in await connection.fetch(SELECT_COPIED)
        }
        copied: Copied = {
            (user, *key, etag) for user, copy in self.copies.items() for key, etag in copy.items()
        }
        self.log.missing += [f"{item} is not in the feed" for item in stored - copied]
        self.log.missing += [f"the end of {item} is not in the feed" for item in copied - stored]
