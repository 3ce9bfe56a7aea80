"""An idle service sends nothing to the database, and statements end on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

import asyncpg
import pytest
from sqlalchemy import text

from app.db.database import Database
from app.http.problems import DatabaseUnavailable
from tests.support.client import tasks_of
from tests.support.database import connect, database_config_for
from tests.support.in_process import app_state_of, serving
from tests.support.process import until
from tests.support.relay import Relay, url_via_port

pytestmark = pytest.mark.requirement("FR-055")

ALICE = tasks_of("alice")
MAX_LIFETIME = 1
RUNNING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'
"""


@pytest.fixture
async def relay(url: str) -> AsyncIterator[Relay]:
    """An open relay to the database."""
    opened_relay = Relay(url)
    await opened_relay.open()
    yield opened_relay
    await opened_relay.close()


@pytest.fixture
async def witness(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to observe the statements of the service."""
    opened = await connect(url)
    yield opened
    await opened.close()


async def test_idle_service_sends_nothing_to_the_database(relay: Relay, url: str) -> None:
    async with serving(url_via_port(relay.port, url), database_pool_recycle=MAX_LIFETIME) as client:
        assert relay.connections == 1  # opened before the first request
        assert (await client.get(ALICE)).status_code == 200
        before = (relay.connections, relay.bytes)
        until_idle = monotonic() + 2.5 * MAX_LIFETIME
        while monotonic() < until_idle:
            assert (await client.get("/livez")).status_code == 200
            await asyncio.sleep(0.05)
        assert (relay.connections, relay.bytes) == before
        # It has exceeded its maximum lifetime, so it is replaced before use.
        assert (await client.get(ALICE)).status_code == 200
        assert relay.connections == before[0] + 1


async def test_sequential_requests_share_the_most_recent_connection(relay: Relay, url: str) -> None:
    async with serving(url_via_port(relay.port, url)) as client:
        await asyncio.gather(*(client.get(ALICE) for _ in range(8)))
        used = relay.connections
        most_recent = app_state_of(client).database.pool._idle[-1]
        for _ in range(8):
            before = most_recent.acquired_at
            assert (await client.get(ALICE)).status_code == 200
            assert most_recent.acquired_at > before
        assert relay.connections == used <= 10


async def is_running(witness: asyncpg.Connection) -> bool:
    return bool(await witness.fetchval(RUNNING))


async def end_of(witness: asyncpg.Connection) -> float:
    """Return the seconds until the server runs no statement of the service."""
    started = monotonic()

    async def none() -> bool:
        return not await is_running(witness)

    await until(none, 20)
    return monotonic() - started


async def sleep(database: Database, duration: float) -> None:
    await database.fetch(text(f"SELECT pg_sleep({duration})"))


async def test_statement_over_its_timeout_is_cancelled_on_the_server(
    url: str, witness: asyncpg.Connection, record_property: Callable[[str, object], None]
) -> None:
    database = Database(database_config_for(url), pool_size=1, timeout=1)
    with pytest.raises(DatabaseUnavailable):
        await sleep(database, 30)
    duration = await end_of(witness)
    await database.close()
    record_property("figure", f"cancelled statement: ended at the server within {duration:.2f} s")
    assert duration < 2


async def test_statement_ends_on_the_server_without_a_cancel(
    relay: Relay, url: str, witness: asyncpg.Connection
) -> None:
    config = database_config_for(url_via_port(relay.port, url))
    database = Database(config, pool_size=1, timeout=1, statement_timeout=2)
    pending = asyncio.create_task(sleep(database, 30))
    await until(lambda: is_running(witness))
    relay.freeze()
    with pytest.raises(DatabaseUnavailable):
        await pending
    assert await is_running(witness)
    assert 0 < await end_of(witness) < 3
    await database.close()
