"""`task bench:slow-clients`: check the effect of slow and hostile clients on the service.

Each attack has many concurrent connections to a service with default limits, without a proxy.
Prints when the service has closed all of them, their memory, and the latency of another client.
Exits with 1 if a limit is exceeded.
"""

from __future__ import annotations

import resource
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from app.server.protocol import BODY_TIMEOUT, HEADER_TIMEOUT, WRITE_TIMEOUT
from app.settings import Settings
from bench.load.generator import LoadGenerator, percentile
from bench.load.workload import JSON, loaded_service, memory, open_files, peak_memory
from tests.support.client import tasks_of
from tests.support.live import request
from tests.support.long_task import progress, run
from tests.support.process import Service, execute

MAX_OPEN_FILES = 12_000  # of a process
POOL_SIZE = Settings().database_pool_size
KEEP_ALIVE_TIMEOUT = 5.0  # setting of the service
PAUSE = 0.1  # seconds between two pieces, and between two requests of the other client
TOLERANCE = 5.0  # seconds; the service checks its timeouts once a second
KIB = 1024
CREATE = request("POST", tasks_of("mallory"), JSON, "Transfer-Encoding: chunked")
# The largest tasks that the contract allows: 200 of them are 12.6 MiB.
INSERT_LARGE_TASKS = """
    INSERT INTO tasks (user_id, id, title, description, created_at, updated_at, etag)
    SELECT 'big-0', gen_random_uuid(), 'Buy milk', repeat('\U0001f95b', 16384),
           now(), now(), gen_random_uuid()
    FROM generate_series(1, 200)
"""
READERS = 16  # other clients that read the same pages
MAX_MEMORY = 256 * 2**20  # bytes; the limit in deploy/
LIST_LARGE_TASKS = request("GET", tasks_of("big-0") + "?limit=200")
SMALL_REQUEST = request("GET", tasks_of("user-0") + "?limit=1")


class Attack(NamedTuple):
    """An attack and its limits."""

    name: str
    connections: int
    first: bytes
    """Sent by each connection when it is opened."""
    piece: bytes
    """Then sent repeatedly."""
    max_seconds: float
    """Time until the service has closed all connections."""
    max_memory: int
    """Bytes per connection."""
    other_request: bytes = SMALL_REQUEST
    """The request of other clients during the attack."""
    other_clients: int = 1


ATTACKS = (
    Attack("nothing is sent", 1_000, b"", b"", HEADER_TIMEOUT, 64 * KIB),
    Attack("5,000 idle", 5_000, request("GET", "/livez"), b"", KEEP_ALIVE_TIMEOUT, 32 * KIB),
    Attack(
        "headers byte by byte", 500, b"GET /livez HTTP/1.1\r\nX: ", b"a", HEADER_TIMEOUT, 64 * KIB
    ),
    Attack("empty lines", 500, request("GET", "/livez"), b"\r\n", KEEP_ALIVE_TIMEOUT, 64 * KIB),
    Attack("1 MB of headers", 100, b"GET /livez HTTP/1.1\r\nX: " + b"a" * 10**6, b"", 5, 256 * KIB),
    Attack("body byte by byte", 500, CREATE, b"1\r\n \r\n", BODY_TIMEOUT, 64 * KIB),
    Attack("endless body", 50, CREATE, b"8000\r\n" + b" " * 32_768 + b"\r\n", 30, 512 * KIB),
    Attack("5,000 pipelined", 50, request("GET", "/livez") * 5_000, b"", 5, 512 * KIB),
    Attack(
        "unread lists",
        60,
        LIST_LARGE_TASKS * 16,
        b"",
        WRITE_TIMEOUT,
        2_048 * KIB,
        LIST_LARGE_TASKS,
        READERS,
    ),
)


HEADER = "attack               connections closed after memory each others: p99   worst rejected"


def main() -> int:
    """Return 1 if an attack exceeds a limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(MAX_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))  # inherited by the service
    chosen = [attack for attack in ATTACKS if not sys.argv[1:] or attack.name in sys.argv[1:]]
    progress("starting the service")
    with loaded_service(KEEP_ALIVE_TIMEOUT=int(KEEP_ALIVE_TIMEOUT)) as (service, database_url):
        execute(database_url, INSERT_LARGE_TASKS)
        # Opens all database connections, so that later changes of the open files are clients.
        warm_up = LoadGenerator(_port(service))
        warm_up.closed_loop([LIST_LARGE_TASKS] * 5 * POOL_SIZE, clients=READERS)
        warm_up.close()
        print(HEADER, flush=True)
        exceeded = [text for attack in chosen for text in _run_attack(attack, service)]
    print(*exceeded, sep="\n")
    return 1 if exceeded else 0


def _run_attack(attack: Attack, service: Service) -> Iterator[str]:
    """Run an attack, print its results, and yield the exceeded limits."""
    port = _port(service)
    other_clients = LoadGenerator(port)
    other_clients.closed_loop([SMALL_REQUEST] * 20, clients=attack.other_clients)
    memory_before = peak = memory(service.pid)
    files = open_files(service.pid)
    latencies: list[float] = []
    rejected = failed = 0
    attackers = Attackers(attack, port)
    started_at = time.monotonic()
    # A client that does not read sees no close, so the open files of the service are counted.
    all_closed = False
    while not all_closed and time.monotonic() < started_at + attack.max_seconds + 2 * TOLERANCE:
        attackers.send_next()
        peak = max(peak, memory(service.pid))
        load = other_clients.closed_loop(
            [attack.other_request] * attack.other_clients, clients=attack.other_clients
        )
        latencies += load.accepted
        rejected += len(load.rejected)
        failed += sum(load.other_statuses.values())
        time.sleep(PAUSE)
        all_closed = not attackers.open or open_files(service.pid) <= files
    seconds = time.monotonic() - started_at
    other_clients.close()
    attackers.close()
    memory_each = (peak - memory_before) / attack.connections
    print(
        f"{attack.name:20} {attack.connections:11} {seconds:10.1f} s {memory_each / KIB:8.1f} KiB "
        f"{percentile(latencies, 99) * 1000:9.1f} ms {max(latencies, default=0) * 1000:5.0f} ms "
        f"{rejected:8}",
        flush=True,
    )
    if not all_closed:
        yield f"{attack.name}: {len(attackers.open)} connections are still open"
    if seconds > attack.max_seconds + TOLERANCE:
        yield f"{attack.name}: closed after {seconds:.1f} s instead of {attack.max_seconds:.0f} s"
    if memory_each > attack.max_memory:
        yield f"{attack.name}: {memory_each / KIB:.0f} KiB per connection"
    if peak_memory(service.pid) > MAX_MEMORY:
        yield f"{attack.name}: the service used {peak_memory(service.pid) / 2**20:.0f} MiB"
    if failed:
        yield f"{attack.name}: {failed} requests of another client were not served"


def _port(service: Service) -> int:
    return int(service.url.rpartition(":")[2])


class Attackers:
    """The connections of an attack. None of them reads responses."""

    def __init__(self, attack: Attack, port: int) -> None:
        self.attack = attack
        self.epoll = select.epoll()
        self.open: dict[int, socket.socket] = {}
        for _ in range(attack.connections):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(ConnectionError, TimeoutError):
                # The service may stop reading, so the rest is dropped.
                connection.settimeout(0.05)
                connection.sendall(attack.first)
            connection.settimeout(0)
            self.open[connection.fileno()] = connection
            # EPOLLRDHUP reports a close without reading.
            self.epoll.register(connection, select.EPOLLRDHUP)

    def send_next(self) -> None:
        """Send the next piece, and drop connections that the service has closed."""
        for connection in self.open.values() if self.attack.piece else ():
            with suppress(BlockingIOError, ConnectionError):
                connection.send(self.attack.piece)
        for number, _ in self.epoll.poll(0, len(self.open)):
            self.open.pop(number).close()

    def close(self) -> None:
        for connection in self.open.values():
            connection.close()
        self.epoll.close()


if __name__ == "__main__":
    run(main)
