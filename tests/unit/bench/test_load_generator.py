"""The load generator, and the metrics that `task bench:load` and `task bench:soak` check."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from bench.load.generator import RESPONSE_TIMEOUT, LoadGenerator, LoadResult, percentile
from bench.load.soak import Measurement, memory_growth


@pytest.mark.requirement("NFR-016")
@pytest.mark.parametrize(("share", "value"), [(0, 1.0), (50, 51.0), (99, 100.0), (100, 100.0)])
def test_percentile_returns_an_observed_value(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value


@pytest.mark.requirement("NFR-016")
@pytest.mark.parametrize(
    ("sent", "delay", "verdict"),
    [(100, 0.0, "in time"), (90, 0.0, "behind"), (100, 0.006, "behind"), (95, 0.004, "in time")],
)
def test_generator_reports_that_it_is_behind(sent: int, delay: float, verdict: str) -> None:
    load = LoadResult(rate=100, duration=1.0, send_delays=[delay] * sent)
    assert load.is_behind is (verdict == "behind")


@pytest.mark.requirement("NFR-019")
def test_growth_counts_from_the_end_of_the_warm_up() -> None:
    measurements = [Measurement(1.0, 1, 0.1, memory) for memory in (100, 130, 104)]
    assert memory_growth(measurements) == pytest.approx(0.04)


@pytest.mark.requirement("NFR-019")
def test_closed_loop_without_requests_in_progress_ends_immediately() -> None:
    generator, started_at = LoadGenerator(0), time.monotonic()
    load = generator.closed_loop([b"never sent"], clients=1, seconds=0.0)
    generator.close()
    assert load.accepted == []
    assert time.monotonic() - started_at < RESPONSE_TIMEOUT / 2


class Server(socketserver.ThreadingTCPServer):
    """Send the same response pieces to each request, 10 ms apart, or none."""

    daemon_threads = True
    pieces: tuple[bytes, ...] = ()


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        while self.request.recv(1024):
            for piece in self.server.pieces:
                time.sleep(0.01)
                self.request.sendall(piece)
                if not piece:
                    return


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server that sends no responses until the test sets some."""
    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OVERLOADED = b'{"type": "/problems/overloaded"}'


def unavailable(problem: bytes) -> bytes:
    return b"HTTP/1.1 503 \r\nContent-Length: %d\r\n\r\n%b" % (len(problem), problem)


@pytest.mark.requirement("NFR-016")
@pytest.mark.parametrize(
    ("pieces", "accepted", "rejected", "others"),
    [
        ((b"HTTP/1.1 200 \r\nContent-Le", b"ngth: 3\r\n\r\na", b"bc"), 3, 0, {}),
        ((b"HTTP/1.1 204 \r\n\r\n",), 3, 0, {}),
        ((b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n",), 3, 0, {}),
        ((b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n",), 0, 0, {404: 3}),
        ((unavailable(OVERLOADED),), 0, 3, {}),
        ((unavailable(OVERLOADED)[:-5], OVERLOADED[-5:]), 0, 3, {}),
        ((unavailable(b'{"type": "/problems/database-unavailable"}'),), 0, 0, {503: 3}),
        ((b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\na", b""), 0, 0, {0: 3}),
    ],
)
def test_responses_are_classified_by_status_and_problem_type(
    server: Server, pieces: tuple[bytes, ...], accepted: int, rejected: int, others: dict[int, int]
) -> None:
    server.pieces = pieces
    generator = LoadGenerator(server.server_address[1])
    load = generator.closed_loop([REQUEST] * 3, clients=2)
    generator.close()
    assert (len(load.accepted), len(load.rejected)) == (accepted, rejected)
    assert load.other_statuses == others


@pytest.mark.requirement("NFR-016")
def test_missing_responses_end_the_load(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.load.generator.RESPONSE_TIMEOUT", 0.1)
    for loop, argument in ((LoadGenerator.closed_loop, 2), (LoadGenerator.open_loop, 1000)):
        generator = LoadGenerator(server.server_address[1], connections=2)
        assert loop(generator, [REQUEST] * 3, argument).other_statuses == {0: 2}
        generator.close()


@pytest.mark.requirement("NFR-016")
def test_open_loop_counts_waiting_time_and_sleeps_while_saturated(server: Server) -> None:
    server.pieces = (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",)
    generator = LoadGenerator(server.server_address[1], connections=1)
    load = generator.open_loop([REQUEST] * 50, rate=5000)
    generator.close()
    # All were due within 10 ms, and each waited for the responses before its own.
    assert load.accepted == sorted(load.accepted)
    assert load.accepted[-1] > 50 * 0.01 - 50 / 5000
    assert load.cpu_time < 0.1


@pytest.mark.requirement("NFR-016")
def test_open_loop_opens_no_unused_connections(server: Server) -> None:
    server.pieces = (b"HTTP/1.1 204 \r\n\r\n",)
    generator = LoadGenerator(server.server_address[1], connections=50)
    generator.open_loop([REQUEST], rate=2)
    assert len(generator.connections) == 2
    generator.close()
