"""One request and its response, as the application sees them through ASGI."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.http.problems import ProblemError
from app.server.transport import CoalescingTransport


class RequestCycle(RequestResponseCycle):
    """uvicorn's cycle, which can also end in the middle of a body."""

    transport: CoalescingTransport  # type: ignore[assignment]  # made with one
    problem: ProblemError | None = None
    is_exempt = False  # from the limit of requests that are served at once
    counts = False  # against that limit: it was admitted, and is not answered

    def fail(self, problem: ProblemError) -> None:
        """Raise this problem where the application reads the body, whose rest does not come.

        It is then answered like every other problem of the request, as the last response of its
        connection. A response that has started is not disturbed.
        """
        self.problem = problem
        self.keep_alive = False
        if not self.response_started:
            self.message_event.set()

    async def receive(self) -> Any:  # noqa: ANN401 - an event of ASGI
        """Wait for a part of the body. Raises the problem that the request failed with."""
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
        """Send a part of the response, and the header section together with what follows it."""
        if not self.response_started:
            self.transport.buffer_next_write = True
            # The client may now send its body or leave it out: nobody can tell what comes next.
            if self.waiting_for_100_continue and self.more_body:
                self.keep_alive = False
        return super().send(message)
