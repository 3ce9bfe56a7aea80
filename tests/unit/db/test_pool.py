"""The connection pool and its semaphore, without a server."""

from __future__ import annotations

import asyncio
import time
from asyncio import sleep
from collections.abc import Awaitable
from typing import Any

import asyncpg
import pytest
from asyncpg import exceptions as pg

from app.db.pool import (
    CONNECT_RETRY_WINDOW,
    ConnectError,
    ConnectionFactory,
    ConnectionPool,
    PoolTimeoutError,
    QueryError,
    _Semaphore,
)

TIMEOUT = 4
pytestmark = pytest.mark.requirement("NFR-015")


class Clock:
    """A monotonic clock that advances only when a test sets it or sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("app.db.pool.monotonic", lambda: self.now)
        monkeypatch.setattr("app.db.pool.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- semaphore -----------------------------------------------------------------------------------


async def start_waiters(
    semaphore: _Semaphore, number: int, timeout: float = TIMEOUT
) -> list[asyncio.Task[None]]:
    """Start tasks that wait for a slot, in order."""
    tasks = [asyncio.create_task(semaphore.acquire(timeout)) for _ in range(number)]
    await sleep(0)
    return tasks


def acquired(tasks: list[asyncio.Task[None]]) -> list[bool]:
    return [task.done() and not task.cancelled() and not task.exception() for task in tasks]


async def has_available(semaphore: _Semaphore, number: int) -> bool:
    """Check that exactly `number` slots are available, and acquire them."""
    tasks = await start_waiters(semaphore, number + 1, 0.01)
    return acquired(tasks) == [True] * number + [False] and bool(
        isinstance((await asyncio.gather(*tasks, return_exceptions=True))[-1], PoolTimeoutError)
    )


async def test_semaphore_has_the_configured_number_of_slots() -> None:
    assert await has_available(_Semaphore(2), 2)


async def test_released_slot_can_be_acquired_again() -> None:
    semaphore = _Semaphore(1)
    for _ in range(3):
        await semaphore.acquire(0)
        semaphore.release()
    assert await has_available(semaphore, 1)


async def test_waiters_are_served_in_order_of_arrival() -> None:
    semaphore = _Semaphore(1)
    await semaphore.acquire(0)
    tasks = await start_waiters(semaphore, 3)
    for number in range(1, 4):
        semaphore.release()
        tasks += await start_waiters(semaphore, 1)
        assert acquired(tasks[:3]) == [True] * number + [False] * (3 - number)
        assert acquired(tasks[3:]) == [False] * number
    for _ in range(4):
        semaphore.release()
    await asyncio.gather(*tasks)
    assert await has_available(semaphore, 1)


async def test_timed_out_or_cancelled_waiter_gets_no_slot() -> None:
    semaphore = _Semaphore(1)
    await semaphore.acquire(0)
    (late,) = await start_waiters(semaphore, 1, 0.01)
    cancelled, waiter = await start_waiters(semaphore, 2)
    cancelled.cancel()
    with pytest.raises(PoolTimeoutError):
        await late
    semaphore.release()
    await waiter
    assert cancelled.cancelled()
    semaphore.release()
    assert await has_available(semaphore, 1)


async def test_waiter_cancelled_on_its_turn_passes_its_slot_on() -> None:
    semaphore = _Semaphore(1)
    await semaphore.acquire(0)
    cancelled, next_waiter = await start_waiters(semaphore, 2)
    semaphore.release()
    cancelled.cancel()
    await asyncio.wait([cancelled, next_waiter], timeout=TIMEOUT)
    assert cancelled.cancelled()
    assert acquired([next_waiter]) == [True]
    semaphore.release()
    assert await has_available(semaphore, 1)


async def test_cancelled_waiter_releases_its_slot() -> None:
    semaphore = _Semaphore(1)
    await semaphore.acquire(0)
    (late,) = await start_waiters(semaphore, 1, 0.01)
    asyncio.get_running_loop().call_later(0.01, late.cancel)
    time.sleep(0.02)  # noqa: ASYNC251 - both timers are then due in the same iteration
    await asyncio.wait([late], timeout=TIMEOUT)
    assert late.cancelled()
    semaphore.release()
    assert await has_available(semaphore, 1)


async def test_waiter_that_gets_a_slot_at_its_timeout_keeps_it() -> None:
    contexts: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    semaphore = _Semaphore(1)
    await semaphore.acquire(0)
    (waiter,) = await start_waiters(semaphore, 1, 0.01)
    loop.call_later(0.001, semaphore.release)
    time.sleep(0.02)  # noqa: ASYNC251 - both timers are then due in the same iteration
    await waiter
    assert contexts == []


async def test_acquired_slot_cancels_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr("app.db.pool._expire_waiter", ended.append)
    semaphore = _Semaphore(1)
    await semaphore.acquire(0)
    tasks = await start_waiters(semaphore, 1, 0.01)
    semaphore.release()
    await asyncio.gather(*tasks)
    await sleep(0.02)
    assert ended == []


# --- connecting ----------------------------------------------------------------------------------


class Server:
    """A server that raises each of its errors once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: list[Exception] = []
        self.attempts = 0
        self.options: Any = None
        monkeypatch.setattr(asyncpg, "connect", self.connect)

    async def connect(self, **options: Any) -> Any:
        self.attempts += 1
        self.options = options
        if self.errors:
            raise self.errors.pop(0)
        return "opened"


async def is_opened(connecting: Awaitable[Any]) -> bool:
    """Return whether the result is the connection of the fake server."""
    return bool(await connecting == "opened")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.usefixtures("clock")
async def test_connection_is_opened_with_the_given_options(server: Server) -> None:
    assert await is_opened(ConnectionFactory({"timeout": 2}).connect())
    assert server.options == {"timeout": 2}


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        pg.CannotConnectNowError(),
        pg.TooManyConnectionsError(),
        pg.InterfaceError("closed"),
        pg.InternalClientError("ending"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.usefixtures("clock")
async def test_failed_connection_attempt_is_retried(server: Server, error: Exception) -> None:
    server.errors = [error] * 3
    assert await is_opened(ConnectionFactory({}).connect())
    assert server.attempts == 4


@pytest.mark.usefixtures("clock")
async def test_programming_error_is_not_retried(server: Server) -> None:
    server.errors = [TypeError("unexpected keyword")]
    with pytest.raises(TypeError):
        await ConnectionFactory({}).connect()
    assert server.attempts == 1


async def test_outage_longer_than_the_retry_window_raises(server: Server, clock: Clock) -> None:
    server.errors = [ConnectionRefusedError()] * 1000
    factory = ConnectionFactory({})
    with pytest.raises(ConnectError) as raised:
        await factory.connect()
    assert isinstance(raised.value.cause, ConnectionRefusedError)
    assert clock.now == pytest.approx(1000 + CONNECT_RETRY_WINDOW)
    server.attempts = 0
    with pytest.raises(ConnectError):
        await factory.connect()
    assert server.attempts == 1


async def test_last_attempt_is_at_the_end_of_the_retry_window(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.pool.CONNECT_RETRY_INTERVAL", CONNECT_RETRY_WINDOW / 3)
    server.errors = [ConnectionRefusedError()] * 1000
    with pytest.raises(ConnectError):
        await ConnectionFactory({}).connect()
    assert (clock.now, server.attempts) == (1000 + CONNECT_RETRY_WINDOW, 4)


async def test_success_resets_the_retry_window(server: Server, clock: Clock) -> None:
    factory = ConnectionFactory({})
    for _ in range(2):
        server.errors = [ConnectionRefusedError()]
        assert await is_opened(factory.connect())
        clock.now += 10 * CONNECT_RETRY_WINDOW


# --- pooling -------------------------------------------------------------------------------------


class FakeConnection:
    """A connection that returns its number, or raises its error."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.error: BaseException | None = None
        self.closed_by = ""
        self.names: list[str | None] = []

    @property
    def prepared(self) -> int:
        return len(self.names)

    async def prepare(self, _: str, *, name: str | None, timeout: float) -> FakeConnection:
        assert 0 < timeout <= TIMEOUT
        self.names.append(name)
        return self

    async def fetch(self, *_: object, timeout: float) -> Any:
        assert 0 < timeout <= TIMEOUT
        if isinstance(self.error, pg.AdminShutdownError):
            self.closed_by = "server"
        if self.error is not None:
            raise self.error
        await sleep(0)
        return self.number

    def is_closed(self) -> bool:
        return self.closed_by == "server"

    def terminate(self) -> None:
        self.closed_by = "terminate"

    async def close(self, *, timeout: float) -> None:
        self.closed_by = f"close({timeout})"
        raise TimeoutError


class OpenedConnections(list[FakeConnection]):
    """All connections that were opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asyncpg, "connect", self.connect)

    async def connect(self) -> FakeConnection:
        self.append(FakeConnection(len(self)))
        return self[-1]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> OpenedConnections:
    return OpenedConnections(monkeypatch)


@pytest.fixture
def pool(connections: OpenedConnections) -> ConnectionPool:  # noqa: ARG001 - replaces asyncpg.connect
    return ConnectionPool({}, size=3, max_lifetime=100)


async def run_queries(pool: ConnectionPool, count: int = 1) -> list[Any]:
    """Run concurrent queries; return the number of the connection that ran each."""
    return await asyncio.gather(*(pool.fetch("SELECT 1", [], TIMEOUT) for _ in range(count)))


async def wait_until_in_use(pool: ConnectionPool, number: int) -> None:
    while pool.in_use() < number:  # noqa: ASYNC110 - the pool has no event for it
        await sleep(0)


def counts(pool: ConnectionPool) -> tuple[int, int, int]:
    return pool.in_use(), pool.idle_count(), pool.max_size()


@pytest.mark.requirement("FR-049")
@pytest.mark.parametrize("error_type", [ConnectError, QueryError])
def test_pool_errors_hide_the_driver_message(error_type: type[Any]) -> None:
    error = error_type(ValueError("hunter2"))
    assert str(error) == ""
    assert error.args == ()
    assert str(error.cause) == "hunter2"


async def test_pool_reports_connections_in_use_and_idle(pool: ConnectionPool) -> None:
    assert counts(pool) == (0, 0, 3)
    queries = asyncio.create_task(run_queries(pool, 2))
    await wait_until_in_use(pool, 2)
    assert counts(pool) == (2, 0, 3)
    await queries
    assert counts(pool) == (0, 2, 3)


async def test_pool_opens_no_more_connections_than_its_size(
    pool: ConnectionPool, connections: OpenedConnections
) -> None:
    await run_queries(pool, 20)
    assert len(connections) == 3
    assert counts(pool) == (0, 3, 3)


async def test_most_recently_used_connection_is_reused_first(pool: ConnectionPool) -> None:
    await run_queries(pool, 3)
    last = await run_queries(pool)
    assert [await run_queries(pool) for _ in range(3)] == [last] * 3


async def test_exhausted_pool_raises_pool_timeout(
    pool: ConnectionPool, connections: OpenedConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = asyncio.Event()
    await run_queries(pool, 3)
    for connection in connections:
        monkeypatch.setattr(connection, "fetch", lambda **_: forever.wait())
    queries = asyncio.create_task(run_queries(pool, 3))
    await wait_until_in_use(pool, 3)
    with pytest.raises(PoolTimeoutError):
        await pool.fetch("SELECT 1", [], 0.01)
    forever.set()
    await queries
    assert counts(pool) == (0, 3, 3)


async def test_opening_a_connection_is_limited_by_the_timeout(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect() -> None:
        await sleep(10)

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(TimeoutError) as late:
        await pool.fetch("SELECT 1", [], 0.01)
    assert not isinstance(late.value, PoolTimeoutError)
    assert counts(pool) == (0, 0, 3)


async def test_statement_is_prepared_once_per_connection(
    pool: ConnectionPool, connections: OpenedConnections
) -> None:
    for _ in range(3):
        await run_queries(pool)
    assert connections[0].prepared == 1


@pytest.mark.requirement("NFR-004")
@pytest.mark.parametrize("named", [True, False])
async def test_named_option_controls_statement_names(
    connections: OpenedConnections, *, named: bool
) -> None:
    pool = ConnectionPool({}, size=1, max_lifetime=100, named=named)
    for sql in ("SELECT 1", "SELECT 2"):
        await pool.fetch(sql, [], TIMEOUT)
    await pool.fetch("SELECT 3", [], TIMEOUT, named=False)
    names = connections[0].names
    assert len({*names[:2]} - {None}) == 2 * named
    assert names[2] is None


@pytest.mark.parametrize(
    "error_type", [pg.InvalidCachedStatementError, pg.InvalidSQLStatementNameError]
)
async def test_invalidated_prepared_statements_are_prepared_again(
    pool: ConnectionPool, connections: OpenedConnections, error_type: type[pg.PostgresError]
) -> None:
    for sql in ("SELECT 1", "SELECT 2"):
        await pool.fetch(sql, [], TIMEOUT)
    fetch, pending = connections[0].fetch, [error_type()]

    async def fail_once(*args: object, timeout: float) -> Any:
        if pending:
            raise pending.pop()
        return await fetch(*args, timeout=timeout)

    connections[0].fetch = fail_once  # type: ignore[method-assign]
    for sql in ("SELECT 1", "SELECT 2"):
        number: Any = await pool.fetch(sql, [], TIMEOUT)
        assert number == 0
    assert connections[0].prepared == 4
    assert len(connections) == 1


async def test_connection_closed_by_the_server_is_not_reused(
    pool: ConnectionPool, connections: OpenedConnections
) -> None:
    await run_queries(pool)
    connections[0].closed_by = "server"
    assert await run_queries(pool, 2) == [1, 2]


async def test_other_idle_connection_replaces_a_closed_one(
    pool: ConnectionPool, connections: OpenedConnections
) -> None:
    (last,) = {*await run_queries(pool, 3)} & {*await run_queries(pool)}
    connections[last].closed_by = "server"
    assert await run_queries(pool) != [last]
    assert len(connections) == 3


async def test_connection_past_its_lifetime_is_closed(
    pool: ConnectionPool, connections: OpenedConnections, clock: Clock
) -> None:
    await run_queries(pool)
    clock.now += 99.9
    assert await run_queries(pool) == [0]
    clock.now += 0.1
    assert await run_queries(pool) == [1]
    assert connections[0].closed_by == "close(0.15)"


@pytest.mark.parametrize(
    ("error", "raised_type"),
    [
        (pg.InterfaceError("closed"), QueryError),
        (pg.InternalClientError("ending"), QueryError),
        (pg.DataError("value out of int64 range"), QueryError),
        (ConnectionResetError(), QueryError),
        (TimeoutError(), TimeoutError),
        (KeyError("owner"), KeyError),
        (asyncio.CancelledError(), asyncio.CancelledError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
async def test_connection_is_closed_after_an_interrupted_statement(
    pool: ConnectionPool,
    connections: OpenedConnections,
    error: BaseException,
    raised_type: type[BaseException],
) -> None:
    await run_queries(pool)
    connections[0].error = error
    with pytest.raises(raised_type) as raised:
        await pool.fetch("SELECT 1", [], TIMEOUT)
    assert raised.value is error or getattr(raised.value, "cause", None) is error
    assert connections[0].closed_by == "close(0.15)"
    assert counts(pool) == (0, 0, 3)
    assert await run_queries(pool) == [1]


async def test_connection_is_kept_after_a_server_error(
    pool: ConnectionPool, connections: OpenedConnections
) -> None:
    await run_queries(pool)
    error = pg.DivisionByZeroError()
    error.severity = "ERROR"  # only errors of the server have a severity
    connections[0].error = error
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1 / 0", [], 4)
    connections[0].error = None
    assert await run_queries(pool) == [0]


def server_error(error_type: type[pg.PostgresError], severity: str = "ERROR") -> pg.PostgresError:
    """Return an error as the server sends it. Errors of the driver have no severity."""
    error = error_type()
    error.severity = severity
    return error


@pytest.mark.parametrize(
    "error",
    [
        server_error(pg.InvalidCachedStatementError),
        server_error(pg.InvalidSQLStatementNameError),
        server_error(pg.DuplicatePreparedStatementError),
        server_error(pg.InFailedSQLTransactionError),
        server_error(pg.InternalServerError),
        server_error(pg.DivisionByZeroError, "FATAL"),
        server_error(pg.DivisionByZeroError, "PANIC"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.severity}",
)
async def test_connection_is_closed_after_a_session_error(
    pool: ConnectionPool, connections: OpenedConnections, error: pg.PostgresError
) -> None:
    await run_queries(pool)
    connections[0].error = error
    with pytest.raises(QueryError) as raised:
        await pool.fetch("SELECT 1", [], TIMEOUT)
    assert raised.value.cause is error
    assert connections[0].closed_by == "close(0.15)"
    assert await run_queries(pool) == [1]


async def test_read_only_error_replaces_all_open_connections(
    pool: ConnectionPool, connections: OpenedConnections, clock: Clock
) -> None:
    await run_queries(pool, 3)
    clock.now += 1
    during = [asyncio.create_task(pool.fetch("SELECT 1", [], TIMEOUT))]
    await wait_until_in_use(pool, 1)  # this connection finishes its statement after the error
    connections[1].error = server_error(pg.ReadOnlySQLTransactionError)
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1", [], TIMEOUT)
    await asyncio.gather(*during)
    clock.now += 1
    assert sorted(await run_queries(pool, 3)) == [3, 4, 5]
    assert [connection.closed_by for connection in connections[:3]] == [
        "terminate",
        "close(0.15)",
        "terminate",
    ]
    assert sorted(await run_queries(pool, 3)) == [3, 4, 5]


async def test_connection_closed_during_a_statement_is_not_kept(
    pool: ConnectionPool, connections: OpenedConnections
) -> None:
    await run_queries(pool)
    connections[0].error = pg.AdminShutdownError()
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1", [], TIMEOUT)
    assert counts(pool) == (0, 0, 3)


async def test_lost_connection_makes_earlier_used_connections_suspect(
    pool: ConnectionPool, connections: OpenedConnections, clock: Clock
) -> None:
    assert await run_queries(pool, 3) == [0, 1, 2]
    clock.now += 1
    # The pool acquires the last connection and loses it. The others were not used since.
    connections[2].error = ConnectionResetError()
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1", [], TIMEOUT)
    assert await run_queries(pool) == [3]
    assert [connection.closed_by for connection in connections] == [
        "terminate",
        "terminate",
        "close(0.15)",
        "",
    ]


async def test_connections_used_after_a_loss_are_not_suspect(
    pool: ConnectionPool, connections: OpenedConnections, clock: Clock
) -> None:
    await run_queries(pool, 2)
    clock.now += 1
    connections[0].error = ConnectionResetError()
    both = await asyncio.gather(
        *(pool.fetch("SELECT 1", [], TIMEOUT) for _ in range(2)), return_exceptions=True
    )
    assert sorted(map(type, both), key=str) == [QueryError, int]
    assert await run_queries(pool) == [1]


async def test_earlier_loss_does_not_clear_suspicion(
    pool: ConnectionPool, connections: OpenedConnections, clock: Clock
) -> None:
    await run_queries(pool, 3)
    older, newer = asyncio.Event(), asyncio.Event()

    async def lost(event: asyncio.Event) -> None:
        await event.wait()
        raise ConnectionResetError

    losses = []
    for connection, event in ((connections[2], older), (connections[1], newer)):
        connection.fetch = lambda *_, event=event, **__: lost(event)  # type: ignore[method-assign]
        losses.append(asyncio.create_task(pool.fetch("SELECT 1", [], TIMEOUT)))
        await sleep(0)
        clock.now += 1
    for event, loss in zip((newer, older), reversed(losses), strict=True):
        event.set()
        with pytest.raises(QueryError):
            await loss
    # Last used between the two losses: only the newer loss makes it suspect.
    assert await run_queries(pool) == [3]
    assert connections[0].closed_by == "terminate"


async def test_closing_the_pool_closes_idle_connections(
    pool: ConnectionPool, connections: OpenedConnections
) -> None:
    await run_queries(pool, 3)
    await pool.close()
    assert {connection.closed_by for connection in connections} == {"close(0.15)"}
    assert counts(pool) == (0, 0, 3)
