"""The HTTP server: it looks at its connections while it serves, and cuts nobody off at its end.

uvicorn closes every connection on which no request is under way. A client, or a balancer, that
keeps connections may have sent one that was not read yet, and would see it cut.
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
    """uvicorn's server, with an eye on time and on who waits at the door when it closes it."""

    def __init__(self, config: uvicorn.Config, load: AdmissionControl) -> None:
        """Take the configuration and what the connections share."""
        super().__init__(config)
        self.server_state = self.admission = load
        self.last_check = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done every tenth of a second; True ends the service.

        The clock says when a second is over: under load a tenth takes longer than that.
        """
        leaves = await super().on_tick(counter)
        now = asyncio.get_running_loop().time()
        if leaves or now >= self.last_check + CHECK_INTERVAL:
            self.last_check = now
            await _poll()
            try:
                self.admission.check_timeouts(now)
            except Exception:  # noqa: BLE001 - it would end the service
                log.exception("fault", during="the check of connections")
        return leaves

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Write the log before the signal is raised again, which may end the process."""
        with super().capture_signals():
            yield
            log_writer.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in the connections that the kernel has made already; then end as uvicorn does."""
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            for accepted in _accept_pending(listener):
                await loop.connect_accepted_socket(self._create_protocol, accepted)
        await super().shutdown(sockets)

    def _create_protocol(self) -> HTTPProtocol:
        return HTTPProtocol(self.config, self.admission, self.lifespan.state)


async def _poll() -> None:
    """Let the event loop read what has arrived.

    A process that was stopped for a while would otherwise take its own silence for that of its
    clients. uvloop runs timers before it polls, and what follows a poll in its next turn.
    """
    for _ in range(2):
        await asyncio.sleep(0)


def _accept_pending(listener: socket.socket) -> Iterable[socket.socket]:
    """The connections that wait to be accepted."""
    with suppress(OSError):  # none waits, or there is no descriptor for it
        while True:
            accepted, _ = listener.accept()
            accepted.settimeout(0)  # as an event loop needs it
            yield accepted
