"""The end of the service: what was asked is answered, and so is what is asked meanwhile.

uvicorn closes every connection on which no request is under way. A client, or a balancer, that
keeps connections may have sent one that was not read yet, and would see it cut.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

import uvicorn

from app.transport import Protocol


class Server(uvicorn.Server):
    """uvicorn's server that leaves nobody standing at the door when it closes it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in the connections that the kernel has made already; then end as uvicorn does."""
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            for accepted in _waiting(listener):
                await loop.connect_accepted_socket(self._protocol, accepted)
        await super().shutdown(sockets)

    def _protocol(self) -> Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state)


def _waiting(listener: socket.socket) -> Iterable[socket.socket]:
    """The connections that wait to be accepted."""
    with suppress(BlockingIOError):
        while True:
            accepted, _ = listener.accept()
            accepted.settimeout(0)  # as an event loop needs it
            yield accepted
