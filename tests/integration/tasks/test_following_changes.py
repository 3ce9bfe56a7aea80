"""The polling procedure of the contract's section "Following changes"."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.support.client import ContractClient, tasks_of
from tests.support.database import connect

pytestmark = pytest.mark.requirement("FR-018")

ALICE = tasks_of("alice")


class Follower:
    """A client that polls for changes."""

    def __init__(self, client: ContractClient, overlap: timedelta) -> None:
        self.client = client
        self.overlap = overlap
        self.newest: datetime | None = None
        self.seen: set[tuple[str, str]] = set()

    async def poll(self) -> list[str]:
        """Return the titles of the tasks that changed since the last poll."""
        params: dict[str, Any] = {"sort": "updated_at", "order": "asc"}
        if self.newest is not None:
            params["updated_after"] = (self.newest - self.overlap).isoformat()
        titles = []
        for task in (await self.client.get(ALICE, params=params)).json()["items"]:
            if (task["id"], task["etag"]) not in self.seen:
                titles.append(task["title"])
            self.seen.add((task["id"], task["etag"]))
            self.newest = datetime.fromisoformat(task["updated_at"])
        return titles


@pytest.mark.parametrize(
    ("overlap", "expected"), [(timedelta(), []), (timedelta(seconds=5), ["slow"])], ids=str
)
async def test_overlap_finds_a_change_that_became_visible_late(
    client: ContractClient,
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
    database_url: str,
    overlap: timedelta,
    expected: list[str],
) -> None:
    task = await client.post(ALICE, json={"title": "old"})
    follower = Follower(client, overlap)
    assert await follower.poll() == ["old"]
    writer = await connect(database_url)
    async with writer.transaction():
        await writer.execute(
            "UPDATE tasks SET title = 'slow', updated_at = now(), etag = gen_random_uuid() "
            "WHERE id = $1",
            task.json()["id"],
        )
        await client.post(ALICE, json={"title": "fast"})
        assert await follower.poll() == ["fast"]
    await writer.close()
    assert await follower.poll() == expected
    assert await follower.poll() == []
