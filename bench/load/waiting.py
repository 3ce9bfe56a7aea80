"""`task bench:waiting`: hold 5,000 requests of `listChanges` that wait for a change (NFR-205).

Each user has one waiting request, which is repeated after each response. Prints the memory and the
CPU time of the service and of the database, the delay of changes, and the time that a shutdown
needs. Exits with 1 if a request fails or a limit is exceeded.

WAITING_REQUESTS and WAITING_SECONDS change the number of requests and the duration.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from random import Random

from bench.load.generator import LoadGenerator, percentile
from bench.load.workload import cpu_seconds, create_request, filled_database, memory
from tests.support.live import request
from tests.support.long_task import progress, run
from tests.support.process import Service, serving
from tests.support.processes import processes_of

REQUESTS = int(os.environ.get("WAITING_REQUESTS") or 5_000)
SECONDS = float(os.environ.get("WAITING_SECONDS") or 60)
WAIT = 30  # seconds
OTHER_FILES = 200  # open files of a process besides its waiting connections
MAX_PAUSE = 0.5  # seconds between two changes, random so that they are not in step with the polls
TIMEOUT = 10.0  # seconds for any single step
MAX_MEMORY = 64 * 1024  # bytes per request
MAX_DELAY = 1.0  # seconds, 99th percentile
MAX_SHUTDOWN = 5.0  # seconds until all requests are answered
CREATE_USERS = f"""
    INSERT INTO users (user_id, revision, epoch)
    SELECT 'user-' || number, 0, gen_random_uuid() FROM generate_series(0, {REQUESTS - 1}) number
"""  # noqa: S608 - a number


class Clients:
    """One connection for each user, with a request that waits."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.epoll = select.epoll()
        self.connections: dict[int, socket.socket] = {}
        self.users: dict[int, int] = {}  # by file descriptor
        self.since: dict[int, str] = {}  # by user
        self.failed: list[bytes] = []

    def open(self, user: int) -> None:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        self.connections[connection.fileno()] = connection
        self.users[connection.fileno()] = user
        self.epoll.register(connection, select.EPOLLIN)
        self.send(connection)

    def send(self, connection: socket.socket) -> None:
        user = self.users[connection.fileno()]
        since = f"&since={self.since[user]}" if user in self.since else ""
        path = f"/api/v1/users/user-{user}/changes?wait={WAIT}{since}"
        connection.sendall(request("GET", path))

    def receive(self, seconds: float, *, repeat: bool = True) -> list[int]:
        """Return the users with a response within some seconds, and repeat their requests."""
        answered: list[int] = []
        for number, _ in self.epoll.poll(seconds, len(self.connections)):
            connection = self.connections[number]
            response = connection.recv(65_536)  # a small response arrives in one piece
            if not response.startswith(b"HTTP/1.1 200 "):
                self.failed.append(response[:200])
            user = self.users[number]
            answered.append(user)
            self.since[user] = response.partition(b'"next_since":"')[2].partition(b'"')[0].decode()
            if repeat:
                self.send(connection)
            else:
                self.epoll.unregister(connection)
        return answered

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()
        self.epoll.close()


def raise_file_limit() -> None:
    """Raise the limit of open files, which the service inherits, or exit with a message."""
    needed = REQUESTS + OTHER_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"{REQUESTS} waiting requests need {needed} open files; `ulimit -Hn` is {hard}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def main() -> int:
    """Return 1 if a request fails or a limit is exceeded."""
    raise_file_limit()
    progress(f"starting a service for {REQUESTS} users")
    with (
        filled_database(CREATE_USERS) as (url, data_dir),
        serving(DATABASE_URL=url, LOG_FORMAT="json") as service,
    ):
        clients = Clients(int(service.url.rpartition(":")[2]))
        try:
            missed = [
                *hold(clients, service, lambda: sum(map(cpu_seconds, processes_of(data_dir)))),
                *shut_down(clients, service),
            ]
        finally:
            clients.close()
    print(*missed, sep="\n")
    return 1 if missed else 0


def hold(clients: Clients, service: Service, database_cpu: Callable[[], float]) -> Iterator[str]:
    """Hold the requests and change some users. Print the figures, and yield the missed limits."""
    writer = LoadGenerator(clients.port)
    writer.closed_loop([create_request("writer")] * 100, clients=1)
    before, started_at = memory(service.pid), time.monotonic()
    for user in range(REQUESTS):
        clients.open(user)
    progress(f"all requests were sent in {time.monotonic() - started_at:.1f} s")
    while clients.receive(1.0):  # the last ones have read their first page
        pass
    each = (memory(service.pid) - before) / REQUESTS
    progress(f"measuring for {SECONDS:.0f} s")
    delays, latencies = list[float](), list[float]()
    cpu_before, started_at = (cpu_seconds(service.pid), database_cpu()), time.monotonic()
    for user in changed_users(clients, started_at + SECONDS):
        latencies += writer.closed_loop([create_request(f"user-{user}")], clients=1).accepted
        delays.append(await_response(clients, user))
    seconds = time.monotonic() - started_at
    cpu = cpu_seconds(service.pid) - cpu_before[0], database_cpu() - cpu_before[1]
    writer.close()
    print(
        f"{REQUESTS} waiting requests: {each / 1024:.1f} KiB each; CPU: service "
        f"{cpu[0] / seconds:.1%}, database {cpu[1] / seconds:.1%} of a core\n"
        f"{len(delays)} changes: delay p50 {percentile(delays, 50) * 1000:.0f} ms, p99 "
        f"{percentile(delays, 99) * 1000:.0f} ms; createTask p50 "
        f"{percentile(latencies, 50) * 1000:.1f} ms, p99 {percentile(latencies, 99) * 1000:.1f} ms",
        flush=True,
    )
    if each > MAX_MEMORY:
        yield f"a waiting request needs more than {MAX_MEMORY // 1024} KiB"
    if percentile(delays, 99) > MAX_DELAY:
        yield f"the 99th percentile of the delay is above {MAX_DELAY} s"


def changed_users(clients: Clients, deadline: float) -> Iterator[int]:
    """Yield users with pauses, and repeat the requests of the others meanwhile."""
    random = Random(1)  # noqa: S311 - no secret
    while time.monotonic() < deadline:
        yield random.randrange(REQUESTS)
        pause_ends_at = time.monotonic() + random.uniform(0, MAX_PAUSE)
        while (remaining := pause_ends_at - time.monotonic()) > 0:
            clients.receive(remaining)


def await_response(clients: Clients, user: int) -> float:
    """Return the seconds until the request of a user is answered, or infinity."""
    started_at = time.monotonic()
    while time.monotonic() < started_at + TIMEOUT:
        if user in clients.receive(TIMEOUT):
            return time.monotonic() - started_at
    return float("inf")


def shut_down(clients: Clients, service: Service) -> Iterator[str]:
    """Stop the service. Print when all requests were answered, and yield the missed limits."""
    started_at, answered = time.monotonic(), 0
    service.process.send_signal(signal.SIGTERM)
    while answered < REQUESTS and time.monotonic() < started_at + TIMEOUT:
        answered += len(clients.receive(0.5, repeat=False))
    seconds = time.monotonic() - started_at
    service.process.wait(TIMEOUT)
    print(f"SIGTERM: {answered} requests answered in {seconds:.2f} s; failed {len(clients.failed)}")
    if seconds > MAX_SHUTDOWN or answered < REQUESTS:
        yield f"{answered} requests were answered {seconds:.1f} s after SIGTERM"
    if clients.failed:
        yield f"{len(clients.failed)} requests failed, the first with {clients.failed[0]!r}"


if __name__ == "__main__":
    run(main)
