"""Load on a service over keep-alive connections, from one thread and one epoll (Linux).

An open loop sends on a timetable, whatever the answers: a latency counts from the instant at which
a request was due, so that waiting in here is not left out (coordinated omission). A closed loop
sends the next request when the last one is answered, and so finds the capacity.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

READ_BYTES = 262_144
BEHIND_SECONDS = 0.0005
GIVE_UP_SECONDS = 10.0  # after the last request was due
CONNECTIONS_AT_MOST = 128  # as many as a proxy in front might keep
UNAVAILABLE = 503
OVERLOADED = b'"/problems/overloaded"'


@dataclass
class Load:
    """What became of a load."""

    rate: float
    """Requests per second that were due; 0 in a closed loop."""
    seconds: float = 0.0
    """How long it took to send them all."""
    accepted: list[float] = field(default_factory=list)
    """Seconds from due to answered, of what was answered 2xx or 304."""
    refused: list[float] = field(default_factory=list)
    """The same of what was refused for load."""
    others: Counter[int] = field(default_factory=Counter)
    """How many answers had which other status; 0 is none at all."""
    late: list[float] = field(default_factory=list)
    """Seconds from due to sent."""
    processor: float = 0.0
    """Seconds of processor time of the generator."""

    @property
    def is_behind(self) -> bool:
        """Whether the timetable was not kept, so that the load was a smaller one."""
        sent = len(self.late) / self.seconds
        return sent < 0.95 * self.rate or percentile(self.late, 50) > 0.005


def percentile(values: list[float], share: float) -> float:
    """The value that `share` percent of the values do not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(len(values) * share / 100))]


class _Connection:
    """A connection, and the request that it carries."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self.due = 0.0
        self.is_busy = False
        self.read = b""
        self.missing = 0

    def send(self, sent: bytes, due: float) -> None:
        """Send a request. They are short, and the one before it is answered: it fits."""
        self.due, self.read, self.missing, self.is_busy = due, b"", 0, True
        self.socket.sendall(sent)

    def status(self) -> int | None:
        """Read; the status where the answer is whole, 0 where none will come, else None."""
        try:
            data = self.socket.recv(READ_BYTES)
        except ConnectionError:
            return 0
        if not data:
            return 0
        if self.missing:
            self.missing -= len(data)
        else:
            self.read += data
            head, found, body = self.read.partition(b"\r\n\r\n")
            if not found:
                return None
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            self.missing = int(length or 0) - len(body)
        return None if self.missing > 0 else int(self.read[9:12])


class Generator:
    """Sends requests to ports of this machine."""

    def __init__(self, *ports: int, connections: int = CONNECTIONS_AT_MOST) -> None:
        """Open no connection yet; several ports, of replicas, get as many each."""
        self.ports = ports
        self.at_most = connections
        self.epoll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.idle: deque[_Connection] = deque()

    def close(self) -> None:
        """Close every connection."""
        for connection in self.connections.values():
            connection.socket.close()
        self.epoll.close()

    def open_loop(self, requests: Iterable[bytes], rate: float) -> Load:
        """Send each request when it is due, `rate` of them in a second."""
        load, upcoming = Load(rate), deque(requests)
        self._take_answers(load, 0.0)  # none is due: forgets connections that were closed meanwhile
        while len(self.connections) < self.at_most:  # a proxy in front has its connections, too
            self.idle.append(self._opened())
        started, used = time.perf_counter(), time.process_time()
        due, step = started, 1 / rate
        while upcoming or self._busy:
            now = time.perf_counter()
            while upcoming and due <= now and (connection := self._free()):
                connection.send(upcoming.popleft(), due)
                load.late.append(now - due)
                load.seconds = now - started
                due += step
                now = time.perf_counter()
            if now > due + GIVE_UP_SECONDS:
                self._give_up(load)
                break
            if upcoming and due <= now:
                # Every connection is busy. To ask again and again when one is free would take the
                # processor from the service, and so would a call of the system for each that is.
                time.sleep(BEHIND_SECONDS)
                self._take_answers(load, 0.0)
            else:
                # Rounded up to a millisecond, which counts as late, for the same reason.
                self._take_answers(load, due - now if upcoming else 0.1)
        load.processor = time.process_time() - used
        return load

    def closed_loop(
        self, requests: Iterable[bytes], clients: int, seconds: float = float("inf")
    ) -> Load:
        """Send the requests over `clients` connections, each as soon as it is answered.

        After so many `seconds` no further one is sent.
        """
        load, upcoming = Load(0.0), deque(requests)
        self._take_answers(load, 0.0)
        started, used = time.perf_counter(), time.process_time()
        while upcoming or self._busy:
            if time.perf_counter() > started + seconds:
                upcoming.clear()
            while upcoming and self._busy < clients and (connection := self._free()):
                connection.send(upcoming.popleft(), time.perf_counter())
            if self._busy:  # else the end of the time met all of them answered
                self._take_answers(load, GIVE_UP_SECONDS)
        load.seconds, load.processor = time.perf_counter() - started, time.process_time() - used
        return load

    @property
    def _busy(self) -> int:
        return len(self.connections) - len(self.idle)

    def _free(self) -> _Connection | None:
        if self.idle:
            return self.idle.popleft()  # in turn, so that none is idle for long
        if len(self.connections) >= self.at_most:
            return None
        return self._opened()

    def _opened(self) -> _Connection:
        opened = _Connection(self.ports[len(self.connections) % len(self.ports)])
        self.connections[opened.socket.fileno()] = opened
        self.epoll.register(opened.socket, select.EPOLLIN)
        return opened

    def _take_answers(self, load: Load, seconds: float) -> None:
        for number, _ in self.epoll.poll(seconds, 256):
            connection = self.connections[number]
            if not connection.is_busy:
                self._drop(connection)  # closed by the service, which may
                continue
            status = connection.status()
            if status is None:
                continue
            connection.is_busy = False
            took = time.perf_counter() - connection.due
            if 200 <= status < 400:
                load.accepted.append(took)
            elif status == UNAVAILABLE and OVERLOADED in connection.read:
                load.refused.append(took)
            else:
                load.others[status] += 1
            if status:
                self.idle.append(connection)
            else:
                self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)
        self.epoll.unregister(connection.socket)
        del self.connections[connection.socket.fileno()]
        connection.socket.close()

    def _give_up(self, load: Load) -> None:
        for connection in [it for it in self.connections.values() if it.is_busy]:
            load.others[0] += 1
            self._drop(connection)
