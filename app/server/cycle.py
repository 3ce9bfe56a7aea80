"""ASGI cycle of one request and its response."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.http.problems import ProblemError
from app.server.transport import CoalescingTransport


class RequestCycle(RequestResponseCycle):
    """uvicorn's cycle, extended by a failure while the application reads the body."""

    transport: CoalescingTransport  # type: ignore[assignment]  # the protocol passes one
    problem: ProblemError | None = None
    is_exempt = False  # from the limit of concurrent requests
    counts = False  # against that limit: admitted and without a complete response
    parts = 0  # of the response; the client has WRITE_TIMEOUT for each

    def fail(self, problem: ProblemError) -> None:
        """Raise this problem where the application reads the body, and close the connection after.

        Exception handlers turn it into the response. It has no effect after a response has started.
        """
        self.problem = problem
        self.keep_alive = False
        if not self.response_started:
            self.message_event.set()

    async def receive(self) -> Any:  # noqa: ANN401 - an event of ASGI
        """Wait for the next ASGI event; raises the problem if the request has failed."""
        if not self._has_failed():
            event = await super().receive()
            if not self._has_failed():
                return event
        raise self.problem  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]

    def _has_failed(self) -> bool:
        return self.problem is not None and not (self.response_started or self.disconnected)

    def send(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        message: Any,  # noqa: ANN401 - an event of ASGI
    ) -> Coroutine[Any, Any, None]:
        """Send an ASGI event; headers are sent together with the first bytes of the body."""
        self.parts += 1
        if not self.response_started:
            self.transport.buffer_next_write = True
            # After an early response the client may send its body or omit it (RFC 9110, section
            # 10.1.1). The start of the next request is then ambiguous.
            if self.waiting_for_100_continue and self.more_body:
                self.keep_alive = False
        return super().send(message)
