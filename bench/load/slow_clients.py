"""What clients that mean harm cost the service: `python -m bench.load.slow_clients`.

Each kind of abuse has many connections at once, no proxy in front, and the limits as they are by
default. Prints for each until when the service had ended them all, what memory they cost, and how
another client was served meanwhile; ends with 1 where a bound is broken.
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

FILES = 12_000  # open at once, of a process
POOL = Settings().database_pool_size
IDLE_SECONDS = 5.0  # the service is started with it
PAUSE = 0.1  # seconds between two bytes, and between two requests of the other client
SLACK = 5.0  # seconds: the service looks once a second, and the machine has other things to do
KIB = 1024
CREATE = request("POST", tasks_of("mallory"), JSON, "Transfer-Encoding: chunked")
# The largest tasks that the contract allows: 200 of them are 12.6 MiB.
BIG = """
    INSERT INTO tasks (user_id, id, title, description, created_at, updated_at, etag)
    SELECT 'big-0', gen_random_uuid(), 'Buy milk', repeat('\U0001f95b', 16384),
           now(), now(), gen_random_uuid()
    FROM generate_series(1, 200)
"""
READERS = 16  # clients of the same pages that do read
CONTAINER_BYTES = 256 * 2**20  # what deploy/ allows to a process
LIST_BIG = request("GET", tasks_of("big-0") + "?limit=200")
OTHER = request("GET", tasks_of("user-0") + "?limit=1")


class Abuse(NamedTuple):
    """A kind of abuse, and its bounds."""

    name: str
    connections: int
    first: bytes
    """What each connection begins with."""
    piece: bytes
    """What it then sends again and again."""
    seconds: float
    """When the last one must have been ended, after the last one was opened."""
    memory: int
    """Bytes for each connection."""
    other: bytes = OTHER
    """What others request meanwhile."""
    others: int = 1
    """How many of them there are."""


ABUSES = (
    Abuse("nothing is sent", 1_000, b"", b"", HEADER_TIMEOUT, 64 * KIB),
    Abuse("5,000 idle", 5_000, request("GET", "/livez"), b"", IDLE_SECONDS, 32 * KIB),
    Abuse(
        "a head byte by byte", 500, b"GET /livez HTTP/1.1\r\nX: ", b"a", HEADER_TIMEOUT, 64 * KIB
    ),
    Abuse("empty lines", 500, request("GET", "/livez"), b"\r\n", IDLE_SECONDS, 64 * KIB),
    Abuse("a head of 1 MB", 100, b"GET /livez HTTP/1.1\r\nX: " + b"a" * 10**6, b"", 5, 256 * KIB),
    Abuse("a body byte by byte", 500, CREATE, b"1\r\n \r\n", BODY_TIMEOUT, 64 * KIB),
    Abuse("a body without end", 50, CREATE, b"8000\r\n" + b" " * 32_768 + b"\r\n", 30, 512 * KIB),
    Abuse("5,000 requests ahead", 50, request("GET", "/livez") * 5_000, b"", 5, 512 * KIB),
    Abuse(
        "lists ahead, unread",
        60,
        LIST_BIG * 16,
        b"",
        WRITE_TIMEOUT,
        2_048 * KIB,
        LIST_BIG,
        READERS,
    ),
)


HEAD = "abuse                connections ended after memory each  others: p99    worst refused"


def main() -> int:
    """Try each and judge."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))  # the service's as well
    chosen = [abuse for abuse in ABUSES if not sys.argv[1:] or abuse.name in sys.argv[1:]]
    progress("starting the service")
    with loaded_service(KEEP_ALIVE_TIMEOUT=int(IDLE_SECONDS)) as (service, database):
        execute(database, BIG)
        # All connections to the database are open by then, so that the service's open files tell of
        # its clients alone.
        warm = LoadGenerator(_port(service))
        warm.closed_loop([LIST_BIG] * 5 * POOL, clients=READERS)
        warm.close()
        print(HEAD, flush=True)
        faults = [fault for abuse in chosen for fault in _tried(abuse, service)]
    print(*faults, sep="\n")
    return 1 if faults else 0


def _tried(abuse: Abuse, service: Service) -> Iterator[str]:
    """Try one, print what it did, and give what went wrong."""
    port = _port(service)
    other = LoadGenerator(port)
    other.closed_loop([OTHER] * 20, clients=abuse.others)
    before = highest = memory(service.pid)
    files = open_files(service.pid)
    took: list[float] = []
    refused = failed = 0
    attackers = Attackers(abuse, port)
    started = time.monotonic()
    # Who does not read is not told of the end; the service's own files tell.
    ended = False
    while not ended and time.monotonic() < started + abuse.seconds + 2 * SLACK:
        attackers.go_on()
        highest = max(highest, memory(service.pid))
        load = other.closed_loop([abuse.other] * abuse.others, clients=abuse.others)
        took += load.accepted
        refused += len(load.rejected)
        failed += sum(load.other_statuses.values())
        time.sleep(PAUSE)
        ended = not attackers.open or open_files(service.pid) <= files
    seconds = time.monotonic() - started
    other.close()
    attackers.close()
    each = (highest - before) / abuse.connections
    print(
        f"{abuse.name:20} {abuse.connections:11} {seconds:10.1f} s {each / KIB:8.1f} KiB "
        f"{percentile(took, 99) * 1000:9.1f} ms {max(took, default=0) * 1000:5.0f} ms {refused:8}",
        flush=True,
    )
    if not ended:
        yield f"{abuse.name}: {len(attackers.open)} connections are still open"
    if seconds > abuse.seconds + SLACK:
        yield f"{abuse.name}: ended after {seconds:.1f} s instead of {abuse.seconds:.0f} s"
    if each > abuse.memory:
        yield f"{abuse.name}: {each / KIB:.0f} KiB for each connection"
    if peak_memory(service.pid) > CONTAINER_BYTES:
        yield f"{abuse.name}: the service had {peak_memory(service.pid) / 2**20:.0f} MiB"
    if failed:
        yield f"{abuse.name}: {failed} requests of another client were not served"


def _port(service: Service) -> int:
    return int(service.url.rpartition(":")[2])


class Attackers:
    """The connections of an abuse. None reads what it is sent."""

    def __init__(self, abuse: Abuse, port: int) -> None:
        """Open them all, and begin."""
        self.abuse = abuse
        self.epoll = select.epoll()
        self.open: dict[int, socket.socket] = {}
        for _ in range(abuse.connections):
            opened = socket.create_connection(("127.0.0.1", port), timeout=10)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(ConnectionError, TimeoutError):
                # What does not fit is cut off: the service does not read on, which is its right.
                opened.settimeout(0.05)
                opened.sendall(abuse.first)
            opened.settimeout(0)
            self.open[opened.fileno()] = opened
            # Not for reading: the end of a connection is seen all the same.
            self.epoll.register(opened, select.EPOLLRDHUP)

    def go_on(self) -> None:
        """Send the next piece over each, and forget those that the service has ended."""
        for opened in self.open.values() if self.abuse.piece else ():
            with suppress(BlockingIOError, ConnectionError):
                opened.send(self.abuse.piece)
        for number, _ in self.epoll.poll(0, len(self.open)):
            self.open.pop(number).close()

    def close(self) -> None:
        """Close what is left."""
        for opened in self.open.values():
            opened.close()
        self.epoll.close()


if __name__ == "__main__":
    run(main)
