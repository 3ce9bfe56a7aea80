"""A single-threaded HTTP/1.1 load generator over keep-alive connections (Linux).

An open loop sends requests on a schedule, regardless of the responses. Latency counts from the time
when a request was due, so time spent waiting in the generator is included (coordinated omission).
A closed loop sends the next request when a response is complete. It measures the capacity.
See decision D58 for what autocannon cannot show.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import httptools

READ_BYTES = 262_144
SATURATED_POLL_INTERVAL = 0.0005
RESPONSE_TIMEOUT = 10.0
MAX_CONNECTIONS = 128  # a typical limit of a reverse proxy
UNAVAILABLE = 503
OVERLOADED = b'"/problems/overloaded"'


@dataclass
class LoadResult:
    """The responses to a load. All times are in seconds."""

    rate: float = 0.0
    """Requested rate in requests per second; 0 in a closed loop."""
    duration: float = 0.0
    """Time until the last request was sent (open loop) or its response arrived (closed loop)."""
    accepted: list[float] = field(default_factory=list)
    """Latencies of 2xx and 3xx responses."""
    rejected: list[float] = field(default_factory=list)
    """Latencies of 503 responses with the problem type `/problems/overloaded`."""
    other_statuses: Counter[int] = field(default_factory=Counter)
    """Number of other responses by status; 0 counts missing responses."""
    send_delays: list[float] = field(default_factory=list)
    """Delays between due time and sending, in an open loop."""
    cpu_time: float = 0.0
    """CPU time of the generator."""

    @property
    def is_behind(self) -> bool:
        """Whether the generator offered less load than requested."""
        sent_rate = len(self.send_delays) / self.duration
        return sent_rate < 0.95 * self.rate or percentile(self.send_delays, 50) > 0.005


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile, or 0 if there are no values."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


class _Connection:
    """A connection with at most one request in progress."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=RESPONSE_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self.parser = httptools.HttpResponseParser(self)
        self.due_at = 0.0
        self.is_busy = False
        self.problem = b""

    def send(self, request: bytes, due_at: float) -> None:
        self.due_at, self.is_busy, self.problem = due_at, True, b""
        # Never blocks: a request is small, and the socket's send buffer is empty.
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Return the status of a complete response, 0 for a lost connection, otherwise None."""
        try:
            data = self.socket.recv(READ_BYTES)
        except ConnectionError:
            return 0
        if not data:
            return 0
        self.parser.feed_data(data)
        return None if self.is_busy else self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.parser.get_status_code() == UNAVAILABLE:
            self.problem += body

    def on_message_complete(self) -> None:
        self.is_busy = False


class LoadGenerator:
    """Sends requests to local ports; connections are divided evenly between the ports."""

    def __init__(self, *ports: int, connections: int = MAX_CONNECTIONS) -> None:
        self.ports = ports
        self.max_connections = connections
        self.epoll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.idle: deque[_Connection] = deque()

    def close(self) -> None:
        for connection in self.connections.values():
            connection.socket.close()
        self.epoll.close()

    def open_loop(self, requests: Iterable[bytes], rate: float) -> LoadResult:
        """Send each request once, `rate` requests per second, evenly spaced."""
        result, pending = LoadResult(rate), deque(requests)
        self._receive(result, 0.0)  # drops connections that the service has closed
        # A reverse proxy has its connections open, too. More than one second's requests need would
        # be closed by the service, possibly at the moment of their first request.
        while len(self.connections) < min(self.max_connections, rate):
            self.idle.append(self._connect())
        started_at, cpu_before = time.perf_counter(), time.process_time()
        due_at, interval = started_at, 1 / rate
        while pending or self._in_progress:
            now = time.perf_counter()
            while pending and due_at <= now and (connection := self._acquire()):
                connection.send(pending.popleft(), due_at)
                result.send_delays.append(now - due_at)
                result.duration = now - started_at
                due_at += interval
                now = time.perf_counter()
            if now > due_at + RESPONSE_TIMEOUT:
                self._abandon(result)
                break
            if pending and due_at <= now:
                # All connections are busy. Waiting in epoll would wake the generator for each
                # response, and take CPU time from the service.
                time.sleep(SATURATED_POLL_INTERVAL)
                self._receive(result, 0.0)
            else:
                # epoll rounds up to a millisecond, which counts as a delay. Polling without a
                # pause would take CPU time from the service.
                self._receive(result, due_at - now if pending else 0.1)
        result.cpu_time = time.process_time() - cpu_before
        return result

    def closed_loop(
        self, requests: Iterable[bytes], clients: int, seconds: float = float("inf")
    ) -> LoadResult:
        """Send each request once over `clients` connections, but none after `seconds`."""
        result, pending = LoadResult(), deque(requests)
        self._receive(result, 0.0)
        started_at, cpu_before = time.perf_counter(), time.process_time()
        while pending or self._in_progress:
            if time.perf_counter() > started_at + seconds:
                pending.clear()
            while pending and self._in_progress < clients and (connection := self._acquire()):
                connection.send(pending.popleft(), time.perf_counter())
            if self._in_progress and not self._receive(result, RESPONSE_TIMEOUT):
                self._abandon(result)
                break
        result.duration = time.perf_counter() - started_at
        result.cpu_time = time.process_time() - cpu_before
        return result

    @property
    def _in_progress(self) -> int:
        return len(self.connections) - len(self.idle)

    def _acquire(self) -> _Connection | None:
        if self.idle:
            return self.idle.popleft()  # first in, first out, so that none reaches its idle timeout
        return self._connect() if len(self.connections) < self.max_connections else None

    def _connect(self) -> _Connection:
        connection = _Connection(self.ports[len(self.connections) % len(self.ports)])
        self.connections[connection.socket.fileno()] = connection
        self.epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def _receive(self, result: LoadResult, timeout: float) -> bool:
        """Record received responses. Return False if nothing happens before the timeout."""
        events = self.epoll.poll(timeout, 256)
        for number, _ in events:
            connection = self.connections[number]
            if not connection.is_busy:
                self._discard(connection)  # the service may close an idle connection
                continue
            status = connection.receive()
            if status is None:
                continue
            latency = time.perf_counter() - connection.due_at
            if 200 <= status < 400:
                result.accepted.append(latency)
            elif status == UNAVAILABLE and OVERLOADED in connection.problem:
                result.rejected.append(latency)
            else:
                result.other_statuses[status] += 1
            if status:
                self.idle.append(connection)
            else:
                self._discard(connection)
        return bool(events)

    def _discard(self, connection: _Connection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)
        self.epoll.unregister(connection.socket)
        del self.connections[connection.socket.fileno()]
        connection.socket.close()

    def _abandon(self, result: LoadResult) -> None:
        """Give up on requests in progress."""
        for connection in [each for each in self.connections.values() if each.is_busy]:
            result.other_statuses[0] += 1
            self._discard(connection)
