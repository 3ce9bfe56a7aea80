"""The follower of the fault injection finds what is missing from the feed."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from app.http.middleware import HTTPMiddleware
from tests.support.client import ContractClient, tasks_of
from tests.support.process import until
from tools.fault_injection.follower import LIMIT, Follower
from tools.fault_injection.load import CLIENTS, Allowed, WriteLog

OWNER = f"client-{CLIENTS - 1}"
TASKS = tasks_of(OWNER)


async def follow(
    app: HTTPMiddleware, client: ContractClient
) -> tuple[Follower, asyncio.Task[None]]:
    """Start a follower, and wait until it has a copy of the tasks and the list."""
    follower = Follower("http://tasks.test", WriteLog(), Allowed())
    follower.client.http = ContractClient(app)
    following = asyncio.create_task(follower.run())
    await client.post(TASKS.replace("/tasks", "/lists"), json={"name": "a"})
    ids = [(await client.post(TASKS, json={"title": "a"})).json()["id"] for _ in range(LIMIT + 2)]
    await client.delete(f"{TASKS}/{ids[0]}")

    async def is_copied() -> bool:
        return len(follower.copies[OWNER]) == LIMIT + 2

    await until(is_copied)
    return follower, following


@pytest.mark.requirement("NFR-210")
@pytest.mark.parametrize(
    ("statement", "missing"),
    [
        ("SELECT", []),
        # Without a revision, and without a tombstone.
        ("UPDATE lists SET etag = gen_random_uuid()", ["", "the end of "]),
        ("DELETE FROM lists", ["the end of "]),
    ],
)
async def test_follower_finds_what_is_missing(
    app: HTTPMiddleware,
    client: ContractClient,
    database: asyncpg.Connection,
    statement: str,
    missing: list[str],
) -> None:
    follower, following = await follow(app, client)
    await database.execute(statement)
    last = await client.post(TASKS, json={"title": "a"})
    follower.stopped.set()
    await following
    await follower.verify(database)
    assert follower.copies[OWNER]["task", last.json()["id"]] == last.json()["etag"]
    assert [text.partition("(")[0] for text in follower.log.missing] == missing
    assert follower.log.undocumented == []
