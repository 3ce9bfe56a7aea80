"""After a database failure, waiting requests fail fast and the next request succeeds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from app.db.database import Database
from app.http.problems import DatabaseUnavailable
from tests.support.client import assert_problem, tasks_of
from tests.support.database import connect, database_config_for
from tests.support.in_process import serving
from tests.support.relay import url_via_port
from tools.fault_injection.proxy import Link, Proxy, run_proxy

pytestmark = pytest.mark.requirement("NFR-015")

ALICE = tasks_of("alice")


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy to the database that can fail."""
    target = database_config_for(url).url
    host, port = str(target.host), target.port or 5432
    async with run_proxy(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else port) as opened:
        yield opened


@asynccontextmanager
async def pool(proxy: Proxy, url: str, *, size: int, timeout: float) -> AsyncIterator[Database]:
    """A connection pool without the service."""
    database = Database(
        database_config_for(url_via_port(proxy.port, url)), pool_size=size, timeout=timeout
    )
    yield database
    await database.close()


async def backend_pid(database: Database, duration: float = 0) -> int:
    """Hold a connection for a while, and return its server process id."""
    ((_, pid),) = await database.fetch(text(f"SELECT pg_sleep({duration}), pg_backend_pid()"))
    return int(pid)


async def seconds_until_rejected(database: Database) -> float:
    started = monotonic()
    with pytest.raises(DatabaseUnavailable):
        await backend_pid(database)
    return monotonic() - started


async def test_silent_network_failure_fails_only_one_request(proxy: Proxy, url: str) -> None:
    async with pool(proxy, url, size=4, timeout=1) as database:
        before = await asyncio.gather(*(backend_pid(database, 0.1) for _ in range(4)))
        assert len(set(before)) == 4
        proxy.make_half_open()
        assert await seconds_until_rejected(database) < 1.5
        after = await asyncio.gather(*(backend_pid(database, 0.1) for _ in range(4)))
    assert not {*before} & {*after}


async def test_recently_used_connection_survives_loss_of_another(proxy: Proxy, url: str) -> None:
    async with pool(proxy, url, size=2, timeout=1) as database:
        slow = asyncio.create_task(backend_pid(database, 5))
        await asyncio.sleep(0.1)
        other = await backend_pid(database)
        with pytest.raises(DatabaseUnavailable):
            await slow
        assert other in await asyncio.gather(*(backend_pid(database, 0.1) for _ in range(2)))


async def test_waiters_fail_immediately_if_no_connection_opens(proxy: Proxy, url: str) -> None:
    async with pool(proxy, url, size=1, timeout=4) as database:
        proxy.stop_listening()
        await seconds_until_rejected(database)  # the retry window for short outages is over
        durations = await asyncio.gather(*(seconds_until_rejected(database) for _ in range(5)))
    assert max(durations) < 1


async def test_short_outage_between_requests_is_retried(proxy: Proxy, url: str) -> None:
    async with serving(url_via_port(proxy.port, url)) as client:
        proxy.stop_listening()
        await asyncio.sleep(0.1)  # let the end of the connection arrive before the next statement
        pending_request = asyncio.create_task(client.post(ALICE, json={"title": "Buy milk"}))
        await asyncio.sleep(0.3)
        await proxy.open()
        assert (await pending_request).status_code == 201


@pytest.mark.requirement("FR-053")
async def test_write_with_a_lost_response_is_503_and_applied_once(proxy: Proxy, url: str) -> None:
    rival = await connect(url)
    await rival.execute("TRUNCATE tasks")
    async with serving(url_via_port(proxy.port, url)) as client:
        assert (await client.post(ALICE, json={"title": "warm"})).status_code == 201

        async def cut(link: Link, _: bytes) -> bytes:
            link.reset()
            return b""

        proxy.on_response = cut
        response = await client.post(ALICE, json={"title": "Buy milk"})
        assert_problem(response, 503, "database-unavailable")
        assert_problem(await client.get("/readyz"), 503, "not-ready")
        proxy.on_response = None
        assert (await client.get("/readyz")).status_code == 200
    assert await rival.fetchval("SELECT count(*) FROM tasks WHERE title = 'Buy milk'") == 1
    await rival.close()


async def test_connections_survive_a_clock_set_back(
    proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(proxy, url, size=1, timeout=4) as database:
        await backend_pid(database)
        during = asyncio.create_task(backend_pid(database, 3))
        await asyncio.sleep(0.1)
        proxy.reset()
        with pytest.raises(DatabaseUnavailable):
            await during
        an_hour_ago = SimpleNamespace(time=lambda: time.time() - 3600)
        monkeypatch.setattr("sqlalchemy.pool.base.time", an_hour_ago)
        assert await backend_pid(database) == await backend_pid(database)
