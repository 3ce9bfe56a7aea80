"""A function for each fault. The fault ends when its function returns."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg

from tests.support.process import until
from tools.fault_injection.environment import Environment, Replica
from tools.fault_injection.proxy import Hook, Link

Inject = Callable[[Environment], Awaitable[None]]
GRACEFUL_SHUTDOWN_TIMEOUT = 10.0  # of the service
LONGER_THAN_TIMEOUT = 6.0  # of the service's statements
READY_TIMEOUT = 30.0
MEMORY_HEADROOM = 4 << 20
HOOKED_CHUNKS = 20
HOOK_INTERVAL = 7  # chunks; a prime number, so that every operation is hooked

# --- PostgreSQL --------------------------------------------------------------------------------


async def kill_postgres(environment: Environment) -> None:
    await environment.postgres.kill()
    await asyncio.sleep(1.5)
    await environment.postgres.start()


async def restart_postgres(environment: Environment) -> None:
    await environment.postgres.stop()
    await asyncio.sleep(0.5)
    await environment.postgres.start()


def limit_hook(hook: Hook) -> tuple[Hook, asyncio.Event]:
    """Call a hook for every seventh chunk. Set the event after HOOKED_CHUNKS."""
    done = asyncio.Event()
    seen = hooked = 0

    async def limited(link: Link, chunk: bytes) -> bytes:
        nonlocal seen, hooked
        seen += 1
        if done.is_set() or seen % HOOK_INTERVAL:
            return chunk
        hooked += 1
        if hooked == HOOKED_CHUNKS:
            done.set()
        return await hook(link, chunk)

    return limited, done


async def hook_requests(environment: Environment, hook: Hook) -> None:
    """Call a hook for some chunks from the service to the database."""
    environment.proxy.on_request, done = limit_hook(hook)
    await done.wait()
    environment.proxy.on_request = None


async def hook_responses(environment: Environment, hook: Hook) -> None:
    """Call a hook for some chunks from the database to the service."""
    environment.proxy.on_response, done = limit_hook(hook)
    await done.wait()
    environment.proxy.on_response = None


def terminate_backend_hook(environment: Environment) -> Hook:
    """Return a hook that terminates the backend of a chunk before forwarding it."""

    async def hook(link: Link, chunk: bytes) -> bytes:
        await environment.postgres.terminate(link.server_port)
        return chunk

    return hook


async def terminate_before(environment: Environment) -> None:
    """Terminate backends before their statements arrive."""
    await hook_requests(environment, terminate_backend_hook(environment))


async def terminate_during(environment: Environment) -> None:
    """Terminate backends while their statements wait for a lock."""
    connection = await environment.postgres.connect()
    for _ in range(5):
        async with connection.transaction():
            await connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(0.3)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'tasks-api' AND wait_event_type = 'Lock'"
            )
        await asyncio.sleep(0.1)
    await connection.close()


async def terminate_after(environment: Environment) -> None:
    """Terminate backends after their statements. The responses still arrive."""
    await hook_responses(environment, terminate_backend_hook(environment))


async def drop_acknowledgement(environment: Environment) -> None:
    """Reset connections after the commit, before the response arrives."""

    async def hook(link: Link, _: bytes) -> bytes:
        link.reset()
        return b""

    await hook_responses(environment, hook)


@contextmanager
def full_disk(disk: Path | None) -> Iterator[None]:
    """Fill a file system (ENOSPC)."""
    assert disk
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    yield
    filler.unlink()


async def fill_disk(environment: Environment) -> None:
    """Fill the file system of the tables, but not that of the write-ahead log."""
    with full_disk(environment.disk):
        await asyncio.sleep(5)


async def fill_log_disk(environment: Environment) -> None:
    """Fill the file system of the write-ahead log. PostgreSQL ends, and is started afterwards."""
    with full_disk(environment.disk):
        await environment.postgres.fill_log()
        await asyncio.sleep(5)
        environment.errors += ["PostgreSQL still runs"] * environment.postgres.is_running
    await environment.postgres.start()


async def exhaust_connections(environment: Environment) -> None:
    """Take all connections of the server, including those of the service."""
    connections: list[asyncpg.Connection] = []
    environment.proxy.stop_listening()
    with suppress(asyncpg.TooManyConnectionsError):
        while True:
            connections.append(await environment.postgres.connect())
    await environment.proxy.open()
    await asyncio.sleep(3)
    for connection in connections:
        connection.terminate()  # without waiting: the fault ends with the first


async def lock_table(environment: Environment) -> None:
    connection = await environment.postgres.connect()
    async with connection.transaction():
        await connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(LONGER_THAN_TIMEOUT)
    await connection.close()


async def lock_rows(environment: Environment) -> None:
    """Lock the tasks of the update chains, and no others."""
    connection = await environment.postgres.connect()
    async with connection.transaction():
        await connection.execute("SELECT FROM tasks WHERE title ~ '^(chain|step)' FOR UPDATE")
        await asyncio.sleep(LONGER_THAN_TIMEOUT)
    await connection.close()


def suspend(seconds: float) -> Inject:
    """Reset and reject connections, as a suspended compute does."""

    async def inject(environment: Environment) -> None:
        environment.proxy.stop_listening()
        await asyncio.sleep(seconds)
        await environment.proxy.open()

    return inject


# --- the network -------------------------------------------------------------------------------


async def reset_connections(environment: Environment) -> None:
    for _ in range(8):
        environment.proxy.reset()
        await asyncio.sleep(0.25)


async def black_hole(environment: Environment) -> None:
    environment.proxy.is_black_hole = True
    await asyncio.sleep(LONGER_THAN_TIMEOUT)
    environment.proxy.is_black_hole = False
    # The dropped bytes are not sent again, so these connections stay silent.
    environment.proxy.make_half_open()


async def delay(environment: Environment) -> None:
    environment.proxy.delay = 0.1  # per direction
    await asyncio.sleep(4)
    environment.proxy.delay = 0.0


async def squeeze(environment: Environment) -> None:
    environment.proxy.bytes_per_second = 4000
    await asyncio.sleep(5)
    environment.proxy.bytes_per_second = 0


async def half_open(environment: Environment) -> None:
    environment.proxy.make_half_open()


# --- the pooler --------------------------------------------------------------------------------


async def restart_pooler(environment: Environment) -> None:
    assert environment.pooler
    environment.pooler.stop()
    await asyncio.sleep(1)
    await environment.pooler.start()


async def pause_pooler(environment: Environment) -> None:
    assert environment.pooler
    await environment.pooler.run_command("PAUSE")
    await asyncio.sleep(LONGER_THAN_TIMEOUT)
    await environment.pooler.run_command("RESUME")


# --- the service -------------------------------------------------------------------------------


async def kill_service(environment: Environment) -> None:
    await environment.replica.send_signal(signal.SIGKILL)
    await environment.replica.start()


async def stop_cleanly(environment: Environment, replica: Replica) -> None:
    exit_code, seconds = await replica.send_signal(signal.SIGTERM)
    if exit_code != 0:
        environment.errors.append(f"SIGTERM ended the service with status {exit_code}")
    if seconds > GRACEFUL_SHUTDOWN_TIMEOUT:
        environment.errors.append(f"SIGTERM took {seconds:.1f} s")


async def terminate_service(environment: Environment) -> None:
    for _ in range(3):
        await stop_cleanly(environment, environment.replica)
        await environment.replica.start()
        await asyncio.sleep(0.5)


async def rolling_restart(environment: Environment) -> None:
    """Restart the replicas in turn, each after the balancer reports the last one ready."""
    balancer = environment.balancer
    assert balancer
    for replica in environment.replicas * 2:
        await stop_cleanly(environment, replica)
        await replica.start()
        await until(balancer.all_ready, READY_TIMEOUT)


async def limit_memory(environment: Environment) -> None:
    """Limit the memory of the service to slightly more than it has (RLIMIT_AS)."""
    pid = environment.replica.pid
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    limit = environment.replica.address_space() + MEMORY_HEADROOM
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, before[1]))
    await asyncio.sleep(5)
    resource.prlimit(pid, resource.RLIMIT_AS, before)


async def set_clock_back(environment: Environment) -> None:
    """Set the clock back by an hour, and reset the connections, because the pool stores times."""
    assert environment.clock
    environment.clock.write_text("-3600\n", "ascii")
    environment.proxy.reset()
    await asyncio.sleep(3)
