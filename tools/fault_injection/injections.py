"""The faults: each is begun, lasts for a while, and is over when its function returns."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg

from tests.support.process import until
from tools.fault_injection.environment import Replica, Stage
from tools.fault_injection.proxy import Hook, Link

Inject = Callable[[Stage], Awaitable[None]]
GRACE_SECONDS = 10.0  # the service's own, for what is under way at SIGTERM
LONGER_THAN_THE_LIMIT = 6.0
READY_SECONDS = 30.0
HEADROOM_BYTES = 4 << 20
HITS = 20  # statements that a hook of the proxy meets
EVERY = 7  # chunks; so that every kind of statement is met

# --- PostgreSQL --------------------------------------------------------------------------------


async def kill_postgres(stage: Stage) -> None:
    await stage.postgres.kill()
    await asyncio.sleep(1.5)
    await stage.postgres.start()


async def restart_postgres(stage: Stage) -> None:
    await stage.postgres.shut_down()
    await asyncio.sleep(0.5)
    await stage.postgres.start()


def some(hook: Hook) -> tuple[Hook, asyncio.Event]:
    """A hook that meets every seventh chunk until it has met enough; then the event is set."""
    done = asyncio.Event()
    seen = met = 0

    async def counted(link: Link, chunk: bytes) -> bytes:
        nonlocal seen, met
        seen += 1
        if done.is_set() or seen % EVERY:
            return chunk
        met += 1
        if met == HITS:
            done.set()
        return await hook(link, chunk)

    return counted, done


async def in_requests(stage: Stage, hook: Hook) -> None:
    """Let a hook meet some of what the service sends."""
    stage.proxy.on_request, done = some(hook)
    await done.wait()
    stage.proxy.on_request = None


async def in_responses(stage: Stage, hook: Hook) -> None:
    """Let a hook meet some of what the server answers."""
    stage.proxy.on_response, done = some(hook)
    await done.wait()
    stage.proxy.on_response = None


def terminating(stage: Stage) -> Hook:
    """A hook that passes a chunk on once its backend is ended."""

    async def hook(link: Link, chunk: bytes) -> bytes:
        await stage.postgres.terminate(link.server_port)
        return chunk

    return hook


async def terminate_before(stage: Stage) -> None:
    """The statement is under way to a backend that is ended before it arrives."""
    await in_requests(stage, terminating(stage))


async def terminate_during(stage: Stage) -> None:
    """Backends are ended while their statements wait for a lock."""
    session = await stage.postgres.connect()
    for _ in range(5):
        async with session.transaction():
            await session.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(0.3)
            await session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'tasks-api' AND wait_event_type = 'Lock'"
            )
        await asyncio.sleep(0.1)
    await session.close()


async def terminate_after(stage: Stage) -> None:
    """The backend is ended between the statement and its answer, which arrives nevertheless."""
    await in_responses(stage, terminating(stage))


async def cut_before_acknowledgement(stage: Stage) -> None:
    """The statement is executed and committed, and the connection is cut before its answer."""

    async def hook(link: Link, _: bytes) -> bytes:
        link.reset()
        return b""

    await in_responses(stage, hook)


@contextmanager
def filled(disk: Path | None) -> Iterator[None]:
    """A file system without room (ENOSPC)."""
    assert disk
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    yield
    filler.unlink()


async def fill_disk(stage: Stage) -> None:
    """The file system of the tables is full; the write-ahead log has room."""
    with filled(stage.disk):
        await asyncio.sleep(5)


async def fill_log_disk(stage: Stage) -> None:
    """That of the write-ahead log is: PostgreSQL ends itself, and is started when there is room."""
    with filled(stage.disk):
        await stage.postgres.use_up_log()
        await asyncio.sleep(5)
        stage.complaints += ["PostgreSQL went on"] * stage.postgres.is_running
    await stage.postgres.start()


async def use_up_connections(stage: Stage) -> None:
    """Others take every connection that the server has, the service's too."""
    taken: list[asyncpg.Connection] = []
    stage.proxy.refuse()
    with suppress(asyncpg.TooManyConnectionsError):
        while True:
            taken.append(await stage.postgres.connect())
    await stage.proxy.open()
    await asyncio.sleep(3)
    for session in taken:
        session.terminate()  # all at once: the fault is over with the first


async def lock_table(stage: Stage) -> None:
    session = await stage.postgres.connect()
    async with session.transaction():
        await session.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(LONGER_THAN_THE_LIMIT)
    await session.close()


async def lock_rows(stage: Stage) -> None:
    """Every task that is changed step by step is locked, and others are not."""
    session = await stage.postgres.connect()
    async with session.transaction():
        await session.execute("SELECT FROM tasks WHERE title ~ '^(chain|step)' FOR UPDATE")
        await asyncio.sleep(LONGER_THAN_THE_LIMIT)
    await session.close()


def suspend(seconds: float) -> Inject:
    """Connections are cut and refused, as by a compute that was suspended."""

    async def inject(stage: Stage) -> None:
        stage.proxy.refuse()
        await asyncio.sleep(seconds)
        await stage.proxy.open()

    return inject


# --- the network -------------------------------------------------------------------------------


async def reset_connections(stage: Stage) -> None:
    for _ in range(8):
        stage.proxy.reset()
        await asyncio.sleep(0.25)


async def black_hole(stage: Stage) -> None:
    stage.proxy.is_black_hole = True
    await asyncio.sleep(LONGER_THAN_THE_LIMIT)
    stage.proxy.is_black_hole = False
    stage.proxy.forget()  # what was dropped is not sent again, so nobody answers on these


async def delay(stage: Stage) -> None:
    stage.proxy.delay = 0.1  # there and back
    await asyncio.sleep(4)
    stage.proxy.delay = 0.0


async def squeeze(stage: Stage) -> None:
    stage.proxy.bytes_per_second = 4000
    await asyncio.sleep(5)
    stage.proxy.bytes_per_second = 0


async def half_open(stage: Stage) -> None:
    stage.proxy.forget()


# --- the pooler --------------------------------------------------------------------------------


async def restart_pooler(stage: Stage) -> None:
    assert stage.pooler
    stage.pooler.stop()
    await asyncio.sleep(1)
    await stage.pooler.start()


async def pause_pooler(stage: Stage) -> None:
    assert stage.pooler
    await stage.pooler.order("PAUSE")
    await asyncio.sleep(LONGER_THAN_THE_LIMIT)
    await stage.pooler.order("RESUME")


# --- the service -------------------------------------------------------------------------------


async def kill_service(stage: Stage) -> None:
    await stage.replica.end(signal.SIGKILL)
    await stage.replica.start()


async def stop_cleanly(stage: Stage, replica: Replica) -> None:
    code, seconds = await replica.end(signal.SIGTERM)
    if code != 0:
        stage.complaints.append(f"SIGTERM ended the service with status {code}")
    if seconds > GRACE_SECONDS:
        stage.complaints.append(f"SIGTERM took {seconds:.1f} s")


async def terminate_service(stage: Stage) -> None:
    for _ in range(3):
        await stop_cleanly(stage, stage.replica)
        await stage.replica.start()
        await asyncio.sleep(0.5)


async def roll(stage: Stage) -> None:
    """Restart one replica after the other: the next when the balancer has taken the last one in."""
    balancer = stage.balancer
    assert balancer
    for replica in stage.replicas * 2:
        await stop_cleanly(stage, replica)
        await replica.start()
        await until(balancer.knows_all_ready, READY_SECONDS)


async def take_memory(stage: Stage) -> None:
    """The service may have a little more memory than it has, and no more (RLIMIT_AS)."""
    process = stage.replica.process_id
    before = resource.prlimit(process, resource.RLIMIT_AS)
    most = stage.replica.address_space() + HEADROOM_BYTES
    resource.prlimit(process, resource.RLIMIT_AS, (most, before[1]))
    await asyncio.sleep(5)
    resource.prlimit(process, resource.RLIMIT_AS, before)


async def set_clock_back(stage: Stage) -> None:
    """An hour back, and the connections are cut, since the pool keeps times too."""
    assert stage.clock
    stage.clock.write_text("-3600\n", "ascii")
    stage.proxy.reset()
    await asyncio.sleep(3)
