"""HTTP server: uvicorn with connection timeouts and a graceful shutdown.

On shutdown uvicorn closes idle connections immediately. A client or load balancer may have sent a
request that is not read yet, and would see a connection reset.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress

import uvicorn

from app.logging import log, log_writer
from app.server.admission import AdmissionControl
from app.server.protocol import HTTPProtocol

CHECK_INTERVAL = 1.0


class Server(uvicorn.Server):
    """uvicorn's server; it checks connection timeouts and drains the accept queue on shutdown.

    `admission` is the state that all connections share.
    """

    def __init__(self, config: uvicorn.Config, admission: AdmissionControl) -> None:
        super().__init__(config)
        self.server_state = self.admission = admission
        self.last_check = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Check timeouts every CHECK_INTERVAL (seconds); return whether to stop the server.

        uvicorn calls this about every 0.1 s. Ticks take longer under load, so the clock decides.
        """
        should_exit = await super().on_tick(counter)
        now = asyncio.get_running_loop().time()
        if should_exit or now >= self.last_check + CHECK_INTERVAL:
            self.last_check = now
            await _poll()
            try:
                self.admission.check_timeouts(now)
            except Exception:  # noqa: BLE001 - an error here would stop the server
                log.exception("unhandled exception", during="connection timeout check")
        return should_exit

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Flush the log before uvicorn raises the signal again, which may end the process."""
        with super().capture_signals():
            yield
            log_writer.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections in the accept queue, then shut down as uvicorn does."""
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            for accepted in _accept_pending(listener):
                await loop.connect_accepted_socket(self._create_protocol, accepted)
        await super().shutdown(sockets)

    def _create_protocol(self) -> HTTPProtocol:
        return HTTPProtocol(self.config, self.admission, self.lifespan.state)


async def _poll() -> None:
    """Let the event loop read received data.

    After a suspension of the process, waiting clients must not be timed out before their data is
    read. uvloop runs timers before it polls, and callbacks of a poll in its next iteration.
    """
    for _ in range(2):
        await asyncio.sleep(0)


def _accept_pending(listener: socket.socket) -> Iterable[socket.socket]:
    """Yield the connections in the accept queue."""
    with suppress(OSError):  # the queue is empty, or no file descriptor is free
        while True:
            accepted, _ = listener.accept()
            accepted.settimeout(0)  # event loops require non-blocking sockets
            yield accepted
