"""The figures by which `task overload` and `task soak` judge."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.overload.generator import GIVE_UP_SECONDS, Generator, Load, percentile
from tests.overload.soak import Moment, grown


@pytest.mark.requirement("NFR-016")
@pytest.mark.parametrize(("share", "value"), [(0, 1.0), (50, 51.0), (99, 100.0), (100, 100.0)])
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value


@pytest.mark.requirement("NFR-016")
@pytest.mark.parametrize(
    ("sent", "late", "verdict"),
    [(100, 0.0, "in time"), (90, 0.0, "behind"), (100, 0.006, "behind"), (95, 0.004, "in time")],
)
def test_a_generator_that_falls_behind_says_so(sent: int, late: float, verdict: str) -> None:
    load = Load(rate=100, seconds=1.0, late=[late] * sent)
    assert load.is_behind is (verdict == "behind")


@pytest.mark.requirement("NFR-019")
def test_growth_counts_from_the_end_of_the_warm_up() -> None:
    moments = [Moment(1.0, 1, 0.1, memory) for memory in (100, 130, 104)]
    assert grown(moments) == pytest.approx(0.04)


@pytest.mark.requirement("NFR-019")
def test_a_load_whose_time_is_up_waits_for_no_answer_that_is_not_due() -> None:
    generator, began = Generator(0), time.monotonic()
    load = generator.closed_loop([b"never sent"], clients=1, seconds=0.0)
    generator.close()
    assert load.accepted == []
    assert time.monotonic() - began < GIVE_UP_SECONDS / 2


class Slow(socketserver.BaseRequestHandler):
    """Takes a while for each answer."""

    def handle(self) -> None:
        while self.request.recv(1024):
            time.sleep(0.05)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def slow() -> Iterator[int]:
    """The port of a service that is slower than it is asked."""
    with socketserver.TCPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.requirement("NFR-016")
def test_a_generator_waits_for_a_connection_without_taking_the_processor(slow: int) -> None:
    generator = Generator(slow, connections=1)
    load = generator.open_loop([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] * 10, rate=1000)
    generator.close()
    # Each counts from when it was due, and they were due all at once.
    assert load.accepted == sorted(load.accepted)
    assert load.accepted[-1] > 10 * 0.05 - 10 / 1000
    assert load.processor < 0.1
