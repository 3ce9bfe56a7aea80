"""The pool's own rules, without a database."""

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

SECONDS = 4
pytestmark = pytest.mark.requirement("NFR-015")


class Clock:
    """The monotonic clock, moved by hand; sleeping moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("app.db.pool.monotonic", lambda: self.now)
        monkeypatch.setattr("app.db.pool.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- waiting -------------------------------------------------------------------------------------


async def waiting(
    places: _Semaphore, number: int, seconds: float = SECONDS
) -> list[asyncio.Task[None]]:
    """So many tasks that wait for a place, in this order."""
    tasks = [asyncio.create_task(places.acquire(seconds)) for _ in range(number)]
    await sleep(0)
    return tasks


def served(tasks: list[asyncio.Task[None]]) -> list[bool]:
    return [task.done() and not task.cancelled() and not task.exception() for task in tasks]


async def has_free(places: _Semaphore, number: int) -> bool:
    """Whether there are so many free places, and no more; none is free afterwards."""
    tasks = await waiting(places, number + 1, 0.01)
    return served(tasks) == [True] * number + [False] and bool(
        isinstance((await asyncio.gather(*tasks, return_exceptions=True))[-1], PoolTimeoutError)
    )


async def test_semaphore_has_the_configured_number_of_slots() -> None:
    assert await has_free(_Semaphore(2), 2)


async def test_released_slot_can_be_acquired_again() -> None:
    places = _Semaphore(1)
    for _ in range(3):
        await places.acquire(0)
        places.release()
    assert await has_free(places, 1)


async def test_waiters_are_served_in_order_of_arrival() -> None:
    places = _Semaphore(1)
    await places.acquire(0)
    tasks = await waiting(places, 3)
    for number in range(1, 4):
        places.release()
        tasks += await waiting(places, 1)
        assert served(tasks[:3]) == [True] * number + [False] * (3 - number)
        assert served(tasks[3:]) == [False] * number
    for _ in range(4):
        places.release()
    await asyncio.gather(*tasks)
    assert await has_free(places, 1)


async def test_timed_out_or_cancelled_waiter_gets_no_slot() -> None:
    places = _Semaphore(1)
    await places.acquire(0)
    (late,) = await waiting(places, 1, 0.01)
    cancelled, patient = await waiting(places, 2)
    cancelled.cancel()
    with pytest.raises(PoolTimeoutError):
        await late
    places.release()
    await patient
    assert cancelled.cancelled()
    places.release()
    assert await has_free(places, 1)


async def test_waiter_cancelled_on_its_turn_passes_its_slot_on() -> None:
    places = _Semaphore(1)
    await places.acquire(0)
    unlucky, next_one = await waiting(places, 2)
    places.release()
    unlucky.cancel()
    await asyncio.wait([unlucky, next_one], timeout=SECONDS)
    assert unlucky.cancelled()
    assert served([next_one]) == [True]
    places.release()
    assert await has_free(places, 1)


async def test_cancelled_waiter_releases_its_slot() -> None:
    places = _Semaphore(1)
    await places.acquire(0)
    (late,) = await waiting(places, 1, 0.01)
    asyncio.get_running_loop().call_later(0.01, late.cancel)
    time.sleep(0.02)  # noqa: ASYNC251 - both are due then, and come in one turn of the loop
    await asyncio.wait([late], timeout=SECONDS)
    assert late.cancelled()
    places.release()
    assert await has_free(places, 1)


async def test_waiter_that_gets_a_slot_at_its_timeout_keeps_it() -> None:
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    places = _Semaphore(1)
    await places.acquire(0)
    (lucky,) = await waiting(places, 1, 0.01)
    loop.call_later(0.001, places.release)
    time.sleep(0.02)  # noqa: ASYNC251 - as above
    await lucky
    assert faults == []


async def test_acquired_slot_cancels_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr("app.db.pool._expire_waiter", ended.append)
    places = _Semaphore(1)
    await places.acquire(0)
    tasks = await waiting(places, 1, 0.01)
    places.release()
    await asyncio.gather(*tasks)
    await sleep(0.02)
    assert ended == []


# --- opening -------------------------------------------------------------------------------------


class Server:
    """A server that fails as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults: list[Exception] = []
        self.tries = 0
        self.given: Any = None
        monkeypatch.setattr(asyncpg, "connect", self.connect)

    async def connect(self, **options: Any) -> Any:
        self.tries += 1
        self.given = options
        if self.faults:
            raise self.faults.pop(0)
        return "opened"


async def opened(connecting: Awaitable[Any]) -> bool:
    """Whether it comes to what the server opens."""
    return bool(await connecting == "opened")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.usefixtures("clock")
async def test_connection_is_opened_with_the_given_options(server: Server) -> None:
    assert await opened(ConnectionFactory({"timeout": 2}).connect())
    assert server.given == {"timeout": 2}


@pytest.mark.parametrize(
    "fault",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        pg.CannotConnectNowError(),
        pg.TooManyConnectionsError(),
        pg.InterfaceError("closed"),
        pg.InternalClientError("ending"),
    ],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.usefixtures("clock")
async def test_failed_connection_attempt_is_retried(server: Server, fault: Exception) -> None:
    server.faults = [fault] * 3
    assert await opened(ConnectionFactory({}).connect())
    assert server.tries == 4


@pytest.mark.usefixtures("clock")
async def test_programming_error_is_not_retried(server: Server) -> None:
    server.faults = [TypeError("unexpected keyword")]
    with pytest.raises(TypeError):
        await ConnectionFactory({}).connect()
    assert server.tries == 1


async def test_outage_longer_than_the_retry_window_raises(server: Server, clock: Clock) -> None:
    server.faults = [ConnectionRefusedError()] * 1000
    connector = ConnectionFactory({})
    with pytest.raises(ConnectError) as away:
        await connector.connect()
    assert isinstance(away.value.cause, ConnectionRefusedError)
    assert clock.now == pytest.approx(1000 + CONNECT_RETRY_WINDOW)
    server.tries = 0
    with pytest.raises(ConnectError):
        await connector.connect()
    assert server.tries == 1


async def test_last_attempt_is_at_the_end_of_the_retry_window(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.pool.CONNECT_RETRY_INTERVAL", CONNECT_RETRY_WINDOW / 3)
    server.faults = [ConnectionRefusedError()] * 1000
    with pytest.raises(ConnectError):
        await ConnectionFactory({}).connect()
    assert (clock.now, server.tries) == (1000 + CONNECT_RETRY_WINDOW, 4)


async def test_success_resets_the_retry_window(server: Server, clock: Clock) -> None:
    connector = ConnectionFactory({})
    for _ in range(2):
        server.faults = [ConnectionRefusedError()]
        assert await opened(connector.connect())
        clock.now += 10 * CONNECT_RETRY_WINDOW


# --- keeping -------------------------------------------------------------------------------------


class Driver:
    """A connection that answers with its number, or with a fault."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.fault: BaseException | None = None
        self.ended = ""
        self.names: list[str | None] = []

    @property
    def prepared(self) -> int:
        return len(self.names)

    async def prepare(self, _: str, *, name: str | None, timeout: float) -> Driver:
        assert 0 < timeout <= SECONDS
        self.names.append(name)
        return self

    async def fetch(self, *_: object, timeout: float) -> Any:
        assert 0 < timeout <= SECONDS
        if isinstance(self.fault, pg.AdminShutdownError):
            self.ended = "by the server"
        if self.fault is not None:
            raise self.fault
        await sleep(0)
        return self.number

    def is_closed(self) -> bool:
        return self.ended == "by the server"

    def terminate(self) -> None:
        self.ended = "by force"

    async def close(self, *, timeout: float) -> None:
        self.ended = f"within {timeout} s"
        raise TimeoutError


class Drivers(list[Driver]):
    """All that were opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asyncpg, "connect", self.connect)

    async def connect(self) -> Driver:
        self.append(Driver(len(self)))
        return self[-1]


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> Drivers:
    return Drivers(monkeypatch)


@pytest.fixture
def pool(drivers: Drivers) -> ConnectionPool:  # noqa: ARG001 - what it opens
    return ConnectionPool({}, size=3, max_lifetime=100)


async def ask(pool: ConnectionPool, times: int = 1) -> list[Any]:
    """Which connections answer when it is asked so often at once."""
    return await asyncio.gather(*(pool.fetch("SELECT 1", [], SECONDS) for _ in range(times)))


async def in_use(pool: ConnectionPool, number: int) -> None:
    while pool.in_use() < number:  # noqa: ASYNC110 - the pool tells nobody
        await sleep(0)


def counts(pool: ConnectionPool) -> tuple[int, int, int]:
    return pool.in_use(), pool.idle_count(), pool.max_size()


@pytest.mark.requirement("FR-049")
@pytest.mark.parametrize("kind", [ConnectError, QueryError])
def test_pool_errors_hide_the_driver_message(kind: type[Any]) -> None:
    fault = kind(ValueError("hunter2"))
    assert str(fault) == ""
    assert fault.args == ()
    assert str(fault.cause) == "hunter2"


async def test_pool_reports_connections_in_use_and_idle(pool: ConnectionPool) -> None:
    assert counts(pool) == (0, 0, 3)
    asking = asyncio.create_task(ask(pool, 2))
    await in_use(pool, 2)
    assert counts(pool) == (2, 0, 3)
    await asking
    assert counts(pool) == (0, 2, 3)


async def test_pool_opens_no_more_connections_than_its_size(
    pool: ConnectionPool, drivers: Drivers
) -> None:
    await ask(pool, 20)
    assert len(drivers) == 3
    assert counts(pool) == (0, 3, 3)


async def test_most_recently_used_connection_is_reused_first(pool: ConnectionPool) -> None:
    await ask(pool, 3)
    last = await ask(pool)
    assert [await ask(pool) for _ in range(3)] == [last] * 3


async def test_exhausted_pool_raises_pool_timeout(
    pool: ConnectionPool, drivers: Drivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = asyncio.Event()
    await ask(pool, 3)
    for driver in drivers:
        monkeypatch.setattr(driver, "fetch", lambda **_: forever.wait())
    asking = asyncio.create_task(ask(pool, 3))
    await in_use(pool, 3)
    with pytest.raises(PoolTimeoutError):
        await pool.fetch("SELECT 1", [], 0.01)
    forever.set()
    await asking
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
    pool: ConnectionPool, drivers: Drivers
) -> None:
    for _ in range(3):
        await ask(pool)
    assert drivers[0].prepared == 1


@pytest.mark.requirement("NFR-004")
@pytest.mark.parametrize("named", [True, False])
async def test_named_option_controls_statement_names(drivers: Drivers, *, named: bool) -> None:
    pool = ConnectionPool({}, size=1, max_lifetime=100, named=named)
    for text in ("SELECT 1", "SELECT 2"):
        await pool.fetch(text, [], SECONDS)
    await pool.fetch("SELECT 3", [], SECONDS, named=False)
    names = drivers[0].names
    assert len({*names[:2]} - {None}) == 2 * named
    assert names[2] is None


@pytest.mark.parametrize("kind", [pg.InvalidCachedStatementError, pg.InvalidSQLStatementNameError])
async def test_invalidated_prepared_statements_are_prepared_again(
    pool: ConnectionPool, drivers: Drivers, kind: type[pg.PostgresError]
) -> None:
    for words in ("SELECT 1", "SELECT 2"):
        await pool.fetch(words, [], SECONDS)
    fetch, refusals = drivers[0].fetch, [kind()]

    async def refuse(*args: object, timeout: float) -> Any:
        if refusals:
            raise refusals.pop()
        return await fetch(*args, timeout=timeout)

    drivers[0].fetch = refuse  # type: ignore[method-assign]
    for words in ("SELECT 1", "SELECT 2"):
        answer: Any = await pool.fetch(words, [], SECONDS)
        assert answer == 0
    assert drivers[0].prepared == 4
    assert len(drivers) == 1


async def test_connection_closed_by_the_server_is_not_reused(
    pool: ConnectionPool, drivers: Drivers
) -> None:
    await ask(pool)
    drivers[0].ended = "by the server"
    assert await ask(pool, 2) == [1, 2]


async def test_other_idle_connection_replaces_a_closed_one(
    pool: ConnectionPool, drivers: Drivers
) -> None:
    (last,) = {*await ask(pool, 3)} & {*await ask(pool)}
    drivers[last].ended = "by the server"
    assert await ask(pool) != [last]
    assert len(drivers) == 3


async def test_connection_past_its_lifetime_is_closed(
    pool: ConnectionPool, drivers: Drivers, clock: Clock
) -> None:
    await ask(pool)
    clock.now += 99.9
    assert await ask(pool) == [0]
    clock.now += 0.1
    assert await ask(pool) == [1]
    assert drivers[0].ended == "within 0.15 s"


@pytest.mark.parametrize(
    ("fault", "told"),
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
    pool: ConnectionPool, drivers: Drivers, fault: BaseException, told: type[BaseException]
) -> None:
    await ask(pool)
    drivers[0].fault = fault
    with pytest.raises(told) as raised:
        await pool.fetch("SELECT 1", [], SECONDS)
    assert raised.value is fault or getattr(raised.value, "cause", None) is fault
    assert drivers[0].ended == "within 0.15 s"
    assert counts(pool) == (0, 0, 3)
    assert await ask(pool) == [1]


async def test_connection_is_kept_after_a_server_error(
    pool: ConnectionPool, drivers: Drivers
) -> None:
    await ask(pool)
    refused = pg.DivisionByZeroError()
    refused.severity = "ERROR"  # as the server says, and the driver's own errors do not
    drivers[0].fault = refused
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1 / 0", [], 4)
    drivers[0].fault = None
    assert await ask(pool) == [0]


def answer(kind: type[pg.PostgresError], severity: str = "ERROR") -> pg.PostgresError:
    """An error as the server sends it; the driver's own have no severity."""
    error = kind()
    error.severity = severity
    return error


@pytest.mark.parametrize(
    "fault",
    [
        answer(pg.InvalidCachedStatementError),
        answer(pg.InvalidSQLStatementNameError),
        answer(pg.DuplicatePreparedStatementError),
        answer(pg.InFailedSQLTransactionError),
        answer(pg.InternalServerError),
        answer(pg.DivisionByZeroError, "FATAL"),
        answer(pg.DivisionByZeroError, "PANIC"),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{fault.severity}",
)
async def test_connection_is_closed_after_a_session_error(
    pool: ConnectionPool, drivers: Drivers, fault: pg.PostgresError
) -> None:
    await ask(pool)
    drivers[0].fault = fault
    with pytest.raises(QueryError) as raised:
        await pool.fetch("SELECT 1", [], SECONDS)
    assert raised.value.cause is fault
    assert drivers[0].ended == "within 0.15 s"
    assert await ask(pool) == [1]


async def test_read_only_error_replaces_all_open_connections(
    pool: ConnectionPool, drivers: Drivers, clock: Clock
) -> None:
    await ask(pool, 3)
    clock.now += 1
    during = [asyncio.create_task(pool.fetch("SELECT 1", [], SECONDS))]
    await in_use(pool, 1)  # the last one reads meanwhile, and is heard afterwards
    drivers[1].fault = answer(pg.ReadOnlySQLTransactionError)
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1", [], SECONDS)
    await asyncio.gather(*during)
    clock.now += 1
    assert sorted(await ask(pool, 3)) == [3, 4, 5]
    assert [driver.ended for driver in drivers[:3]] == ["by force", "within 0.15 s", "by force"]
    assert sorted(await ask(pool, 3)) == [3, 4, 5]


async def test_connection_closed_during_a_statement_is_not_kept(
    pool: ConnectionPool, drivers: Drivers
) -> None:
    await ask(pool)
    drivers[0].fault = pg.AdminShutdownError()
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1", [], SECONDS)
    assert counts(pool) == (0, 0, 3)


async def test_lost_connection_makes_earlier_used_connections_suspect(
    pool: ConnectionPool, drivers: Drivers, clock: Clock
) -> None:
    assert await ask(pool, 3) == [0, 1, 2]
    clock.now += 1
    # The last one is taken and lost; only the one before it is heard meanwhile.
    drivers[2].fault = ConnectionResetError()
    with pytest.raises(QueryError):
        await pool.fetch("SELECT 1", [], SECONDS)
    assert await ask(pool) == [3]
    assert [driver.ended for driver in drivers] == ["by force", "by force", "within 0.15 s", ""]


async def test_connections_used_after_a_loss_are_not_suspect(
    pool: ConnectionPool, drivers: Drivers, clock: Clock
) -> None:
    await ask(pool, 2)
    clock.now += 1
    drivers[0].fault = ConnectionResetError()
    both = await asyncio.gather(
        *(pool.fetch("SELECT 1", [], SECONDS) for _ in range(2)), return_exceptions=True
    )
    assert sorted(map(type, both), key=str) == [QueryError, int]
    assert await ask(pool) == [1]


async def test_earlier_loss_does_not_clear_suspicion(
    pool: ConnectionPool, drivers: Drivers, clock: Clock
) -> None:
    await ask(pool, 3)
    older, newer = asyncio.Event(), asyncio.Event()

    async def lost(event: asyncio.Event) -> None:
        await event.wait()
        raise ConnectionResetError

    losses = []
    for driver, event in ((drivers[2], older), (drivers[1], newer)):
        driver.fetch = lambda *_, event=event, **__: lost(event)  # type: ignore[method-assign]
        losses.append(asyncio.create_task(pool.fetch("SELECT 1", [], SECONDS)))
        await sleep(0)
        clock.now += 1
    for event, loss in zip((newer, older), reversed(losses), strict=True):
        event.set()
        with pytest.raises(QueryError):
            await loss
    # Heard between the two: the newer loss alone casts doubt on it.
    assert await ask(pool) == [3]
    assert drivers[0].ended == "by force"


async def test_closing_the_pool_closes_idle_connections(
    pool: ConnectionPool, drivers: Drivers
) -> None:
    await ask(pool, 3)
    await pool.close()
    assert {driver.ended for driver in drivers} == {"within 0.15 s"}
    assert counts(pool) == (0, 0, 3)
