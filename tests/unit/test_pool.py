"""The pool's own rules, without a database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from asyncpg import exceptions as pg
from sqlalchemy import create_engine
from sqlalchemy.exc import DisconnectionError

from app.pool import BRIDGED_SECONDS, Connector, UnreachableError, Watch

pytestmark = pytest.mark.requirement("NFR-015")


class Clock:
    """The monotonic clock, moved by hand; sleeping moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("app.pool.monotonic", lambda: self.now)
        monkeypatch.setattr("app.pool.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- opening -------------------------------------------------------------------------------------


class Server:
    """A server that fails as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults: list[Exception] = []
        self.tries = 0
        self.given: Any = None
        monkeypatch.setattr(asyncpg, "connect", self.connect)

    async def connect(self, *args: Any, **options: Any) -> str:
        self.tries += 1
        self.given = (args, options)
        if self.faults:
            raise self.faults.pop(0)
        return "opened"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.usefixtures("clock")
async def test_a_connection_is_opened_as_asked(server: Server) -> None:
    assert await Connector().connect(1, timeout=2) == "opened"
    assert server.given == ((1,), {"timeout": 2})


@pytest.mark.parametrize(
    "fault",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        pg.CannotConnectNowError(),
        pg.TooManyConnectionsError(),
        pg.InterfaceError("closed"),
    ],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.usefixtures("clock")
async def test_a_connection_that_cannot_be_opened_is_tried_again(
    server: Server, fault: Exception
) -> None:
    server.faults = [fault] * 3
    assert await Connector().connect() == "opened"
    assert server.tries == 4


@pytest.mark.usefixtures("clock")
async def test_a_fault_of_ours_is_not_tried_again(server: Server) -> None:
    server.faults = [TypeError("unexpected keyword")]
    with pytest.raises(TypeError):
        await Connector().connect()
    assert server.tries == 1


async def test_a_longer_outage_is_not_waited_for(server: Server, clock: Clock) -> None:
    server.faults = [ConnectionRefusedError()] * 1000
    connector = Connector()
    with pytest.raises(UnreachableError) as away:
        await connector.connect()
    assert isinstance(away.value.cause, ConnectionRefusedError)
    assert clock.now == pytest.approx(1000 + BRIDGED_SECONDS)
    server.tries = 0
    with pytest.raises(UnreachableError):
        await connector.connect()
    assert server.tries == 1


async def test_an_outage_after_a_success_is_a_new_one(server: Server, clock: Clock) -> None:
    connector = Connector()
    for _ in range(2):
        server.faults = [ConnectionRefusedError()]
        assert await connector.connect() == "opened"
        clock.now += 10 * BRIDGED_SECONDS


# --- watching ------------------------------------------------------------------------------------


class Connection:
    """One of the pool's, as the pool tells the watch of it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.record: Any = SimpleNamespace(info={})
        self.closed = False
        self.driver = SimpleNamespace(
            driver_connection=SimpleNamespace(is_closed=lambda: self.closed)
        )
        self.give_back()

    def take(self) -> None:
        self.watch.give_out(self.driver, self.record, None)

    def give_back(self) -> None:
        self.watch.hear(self.driver, self.record)

    def lose(self) -> None:
        self.watch.lose(self.driver, self.record, None)
        self.watch.hear(None, self.record)  # how the pool is given back what is no more


@pytest.fixture
def watch() -> Watch:
    return Watch(create_engine("postgresql+asyncpg://nobody@127.0.0.1/nothing"))


@pytest.mark.usefixtures("clock")
def test_a_connection_that_has_ended_is_not_given_out(watch: Watch) -> None:
    connection = Connection(watch)
    connection.take()
    connection.give_back()
    connection.closed = True
    with pytest.raises(DisconnectionError):
        connection.take()


def test_a_loss_casts_doubt_on_those_that_were_silent_since(watch: Watch, clock: Clock) -> None:
    silent, heard, lost = (Connection(watch) for _ in range(3))
    clock.now += 1
    lost.take()
    clock.now += 1
    heard.take()
    heard.give_back()
    lost.lose()
    heard.take()
    with pytest.raises(DisconnectionError):
        silent.take()
    Connection(watch).take()


def test_doubt_is_not_taken_back_by_a_later_look_at_an_older_loss(
    watch: Watch, clock: Clock
) -> None:
    older, newer = (Connection(watch) for _ in range(2))
    older.take()
    clock.now += 1
    newer.take()
    newer.lose()
    older.lose()
    assert watch.doubted == clock.now


def test_what_was_never_given_out_casts_no_doubt(watch: Watch) -> None:
    connection = Connection(watch)
    connection.lose()
    connection.take()


def test_a_loss_leaves_the_others_in_the_pool(watch: Watch) -> None:
    context: Any = SimpleNamespace(invalidate_pool_on_disconnect=True)
    watch.keep_others(context)
    assert context.invalidate_pool_on_disconnect is False


def test_the_watch_is_told_by_its_engine() -> None:
    engine = create_engine("postgresql+asyncpg://nobody@127.0.0.1/nothing")
    watch = Watch(engine)
    told: Any = engine.pool.dispatch
    faults: Any = engine.dialect.dispatch
    for listeners, listener in [
        (told.connect, watch.hear),
        (told.checkout, watch.give_out),
        (told.checkin, watch.hear),
        (told.invalidate, watch.lose),
        (faults.handle_error, watch.keep_others),
    ]:
        assert listener in list(listeners)
