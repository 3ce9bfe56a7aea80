"""HTTP/1.1 protocol with size, pipelining and timeout limits that uvicorn's protocol lacks.

uvicorn's cycle runs the application. uvicorn's protocol also sends errors before the responses to
earlier requests, without problem bodies, request IDs and access log entries.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum, auto
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from app.http.problems import (
    MalformedBody,
    MalformedRequest,
    Overloaded,
    ProblemError,
    RequestTimeout,
)
from app.http.request_id import parse_traceparent, request_id_from
from app.http.waiting import resolve
from app.server.admission import AdmissionControl, overloaded_response
from app.server.cycle import RequestCycle
from app.server.parser import RequestParser, StopParsing, Target, expects_continue
from app.server.transport import CoalescingTransport

MAX_PIPELINED_REQUESTS = 16
# A client may send another request on an idle connection before it can learn of the shutdown.
DRAIN_TIMEOUT = 1.0
HEADER_TIMEOUT = 10.0
BODY_TIMEOUT = 30.0
WRITE_TIMEOUT = 30.0
# A load balancer would remove an overloaded replica if its health checks were rejected, which moves
# the load to the others.
HEALTH_PATHS = frozenset({b"/livez", b"/readyz"})
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
LOGGER = logging.getLogger("uvicorn.error")


class ConnectionState(Enum):
    """The client action that a connection waits for."""

    NEW = auto()  # send the first request
    READING_HEADERS = auto()  # complete the request line and headers
    READING_BODY = auto()  # complete the body
    DRAINING_BODY = auto()  # complete a body whose content is discarded
    WRITING = auto()  # read the response
    KEEP_ALIVE = auto()  # send another request


STATE_TIMEOUTS = {  # KEEP_ALIVE has a setting: KEEP_ALIVE_TIMEOUT
    ConnectionState.NEW: HEADER_TIMEOUT,
    ConnectionState.READING_HEADERS: HEADER_TIMEOUT,
    ConnectionState.READING_BODY: BODY_TIMEOUT,
    ConnectionState.DRAINING_BODY: BODY_TIMEOUT,
    ConnectionState.WRITING: WRITE_TIMEOUT,
}


class HTTPProtocol(asyncio.Protocol):
    """Protocol of one connection; uvicorn's server passes the parameters."""

    def __init__(
        self,
        config: Config,
        server_state: AdmissionControl,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = config
        self.asgi_app: Any = config.loaded_app
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.parser = RequestParser(self)
        self.transport: CoalescingTransport = None  # type: ignore[assignment]
        self.flow: FlowControl = None  # type: ignore[assignment]
        # Requests without a complete response, in order; the application runs for the first one.
        self.queue = deque[RequestCycle]()
        self.receiving: RequestCycle | None = None  # the one whose body arrives
        self.awaited: asyncio.Future[bool] | None = None  # by the first one, if it waits
        self.pipelined_in_read = 0
        self.is_draining = False
        self.reading_stopped = False  # the connection closes after the queued responses
        self.write_blocked = False  # the response is complete, but the client does not read it
        # Number of requests, parts of the first response, state.
        self.state: tuple[int, int, ConnectionState | None]
        self.state_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        opened = cast("asyncio.Transport", transport)
        self.transport = CoalescingTransport(opened, self.loop)
        self.flow = FlowControl(opened)
        self.server_state.connections.add(cast("Any", self))
        self.addresses: dict[str, Any] = {
            "server": get_local_addr(opened),
            "client": get_remote_addr(opened),
            "scheme": "https" if is_ssl(opened) else "http",
        }

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Disconnect the queued requests and unregister the connection."""
        self.server_state.connections.discard(cast("Any", self))
        self.server_state.write_resumed(self.transport)
        for cycle in self.queue:
            self.server_state.body_ended(cycle)
            cycle.disconnected = True
            cycle.message_event.set()
        self.queue.clear()
        self.receiving = None
        self._end_wait()
        self.flow.resume_writing()
        self.parser.close()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self.reading_stopped:
            return
        self.pipelined_in_read = 0
        try:
            self.parser.feed(data)
        except StopParsing:
            return
        except ProblemError as problem:
            self._send_problem_and_close(problem)
        if self.parser.in_request:
            self._update_state()

    def eof_received(self) -> bool:
        """Reject an incomplete request; return whether to keep the connection open for writing."""
        if not self.reading_stopped:
            if self.parser.in_headers:
                self._send_problem_and_close(MalformedRequest())
            elif self.receiving is not None:
                self._send_problem_and_close(MalformedBody("The request body ended unexpectedly."))
            else:
                self.stop_reading()
        return bool(self.queue)

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its response."""
        self.flow.pause_writing()
        self.flow.pause_reading()
        self.server_state.write_blocked(self.transport)
        self._update_state()

    def resume_writing(self) -> None:
        """Resume reading when the client reads its response again."""
        self.flow.resume_writing()
        self.server_state.write_resumed(self.transport)
        self._update_state()
        if self.write_blocked:
            self._start_next()
        else:
            self.flow.resume_reading()

    # --- parser events ---------------------------------------------------------------------------

    def on_request(self, method: str, target: Target, version: str, *, keep_alive: bool) -> None:
        """Start a request, or queue it behind requests without a complete response."""
        self.pipelined_in_read += 1
        if (
            self.pipelined_in_read > MAX_PIPELINED_REQUESTS
            or len(self.queue) > MAX_PIPELINED_REQUESTS
        ):
            self.stop_reading()
        if self.reading_stopped:
            raise StopParsing
        scope = self._scope(method, version)
        scope["raw_path"] = raw_path = target.path or b"/"
        scope["path"] = unquote(raw_path.decode())
        scope["query_string"] = target.query or b""
        cycle = self._cycle(scope, keep_alive=keep_alive and not self.is_draining)
        # A rejected preflight is only a network error to the page that sent it.
        cycle.is_exempt = self.parser.url in HEALTH_PATHS or method == "OPTIONS"
        cycle.waiting_for_100_continue = expects_continue(version, self.parser.headers)
        self.receiving = cycle
        self._enqueue(cycle)

    def on_content(self, content: bytes) -> bool:
        """Buffer content for the application; pause reading above HIGH_WATER_LIMIT bytes."""
        cycle = self.receiving
        if cycle is None:
            return False
        self.server_state.body_received(cycle, len(content))
        cycle.body += content
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()
        return True

    def on_request_end(self) -> None:
        """Signal the end of the body to the application."""
        if self.receiving is not None:
            self.server_state.body_ended(self.receiving)
            self.receiving.more_body = False
            self.receiving.message_event.set()
            self.receiving = None
            self._update_state()

    # --- responses -------------------------------------------------------------------------------

    def _scope(self, method: str, version: str = "1.1") -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            **self.addresses,
            "method": method,
            "root_path": "",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "headers": self.parser.headers,
            "state": {**self.app_state, "connection": self},
        }

    def _cycle(self, scope: Any, *, keep_alive: bool) -> RequestCycle:  # noqa: ANN401 - an ASGI scope
        return RequestCycle(
            scope,
            cast("asyncio.Transport", self.transport),
            self.flow,
            LOGGER,
            LOGGER,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _enqueue(self, cycle: RequestCycle) -> None:
        self.queue.append(cycle)
        if len(self.queue) == 1:
            self._start(cycle)
        else:
            self.flow.pause_reading()

    def _start(self, cycle: RequestCycle) -> None:
        """Run the application for the first request of the queue, or reject it when overloaded."""
        if not cycle.is_exempt:
            if not self.server_state.try_admit(self, self.loop.time()):
                self._reject_overloaded(cycle)
                return
            cycle.counts = True
            self.server_state.in_progress.add(cycle)
        task = self.loop.create_task(cycle.run_asgi(self.asgi_app))
        self.server_state.tasks.add(task)
        task.add_done_callback(partial(self._handler_ended, cycle))

    def _handler_ended(self, cycle: RequestCycle, task: asyncio.Task[None]) -> None:
        """Release the slot of a request; a handler may outlive its client's connection."""
        self.server_state.tasks.discard(task)
        self._release(cycle)

    def _release(self, cycle: RequestCycle) -> None:
        """Release the slot of a request that is complete or whose handler has ended."""
        cycle.counts = False
        self.server_state.in_progress.discard(cycle)

    def on_response_complete(self) -> None:
        """Start the next pipelined request when the client has read enough of the response."""
        cycle = self.queue.popleft()
        self._release(cycle)
        if cycle is self.receiving:
            self.server_state.body_ended(cycle)
            self.receiving = None
        self.transport.flush()
        self._start_next()

    def _start_next(self) -> None:
        self.write_blocked = self.flow.write_paused
        if not self.write_blocked and not self.transport.is_closing():
            self.flow.resume_reading()
            if self.queue:
                self._start(self.queue[0])
        self._update_state()

    def _send_problem_and_close(self, problem: ProblemError) -> None:
        """Respond with a problem to a request that cannot be read, then close the connection.

        Responses keep the order of the requests (RFC 9112, section 9.3.2). The application sends
        the problem, so that it has the common headers, a log entry and metrics.
        """
        if self.receiving is not None:
            self.receiving.fail(problem)
        elif self.parser.in_headers or not self.parser.in_request:
            scope = self._scope(self.parser.method)
            scope["state"]["problem"] = problem
            cycle = self._cycle(scope, keep_alive=False)
            cycle.is_exempt = True
            self._enqueue(cycle)
        self.stop_reading()

    def stop_reading(self) -> None:
        """Stop reading and close the connection after the last queued response."""
        self.reading_stopped = True
        self.transport.pause_reading()
        self._end_wait()
        if self.queue:
            self.queue[-1].keep_alive = False
        else:
            self.transport.close()

    @contextmanager
    def waiting(self, event: asyncio.Future[bool]) -> Generator[None]:
        """Do not count the first request in the block, which awaits the event.

        The event becomes False at a shutdown, or when the client sends no more. A client that has
        closed its connection is only detected in this way.
        """
        self.awaited = event
        if self.is_draining or self.reading_stopped or self.transport.is_closing():
            self._end_wait()
        self._update_state()
        try:
            yield
        finally:
            self.awaited = None
            # It was admitted before, so it is not rejected now.
            if self.queue and self.queue[0].counts:
                self.server_state.in_progress.add(self.queue[0])

    def _end_wait(self) -> None:
        if self.awaited is not None:
            resolve(self.awaited, False)  # noqa: FBT003

    def _reject_overloaded(self, cycle: RequestCycle) -> None:
        """Send `503 /problems/overloaded` without a task; the parser discards the body."""
        # After an early response to `Expect: 100-continue`, the client may send its body or omit
        # it. The start of the next request is then ambiguous.
        keep_alive = cycle.keep_alive and not cycle.waiting_for_100_continue
        headers = dict(cycle.scope["headers"])
        self.transport.write(
            overloaded_response(
                request_id_from(headers.get(b"x-request-id", b"")),
                parse_traceparent(headers.get(b"traceparent", b"")),
                self.server_state.cors.headers(headers, None),
                has_body=cycle.scope["method"] != "HEAD",
                keep_alive=keep_alive,
            )
        )
        cycle.response_complete = True
        if not keep_alive:
            self.reading_stopped = True
            self.transport.close()
        self.on_response_complete()

    # --- shutdown and timeouts -------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close after the last queued response; if idle, wait DRAIN_TIMEOUT for a request."""
        self.is_draining = True
        self._end_wait()
        if self.queue:
            self.queue[-1].keep_alive = False
        else:
            self.loop.call_later(DRAIN_TIMEOUT, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.queue and not self.parser.in_headers:
            self.transport.close()

    def check_timeout(self, now: float) -> None:
        """End the connection if its state has not changed for the timeout of the state.

        The server calls this once a second, so no request needs a timer. Timeouts are accurate to
        one second.
        """
        if self.awaited is not None:
            return  # thousands of requests may wait
        parts = self.queue[0].parts if self.queue else 0
        current = (self.parser.requests, parts, self._current_state())
        if self.state_since is None or current != self.state:
            self.state, self.state_since = current, now
            return
        state, age = current[-1], now - self.state_since
        if state is not None and age >= STATE_TIMEOUTS.get(state, self.config.timeout_keep_alive):
            self._on_timeout(state)

    def _current_state(self) -> ConnectionState | None:
        """Return the client action that the connection waits for, or None if it waits for none."""
        if self.transport.get_write_buffer_size():
            return ConnectionState.WRITING
        if self.transport.is_closing() or self.reading_stopped:
            return None
        if self.queue:
            return ConnectionState.READING_BODY if self._awaits_body() else None
        if self.parser.in_headers:
            return ConnectionState.READING_HEADERS
        if self.parser.in_request:
            return ConnectionState.DRAINING_BODY
        return ConnectionState.KEEP_ALIVE if self.parser.requests else ConnectionState.NEW

    def _on_timeout(self, state: ConnectionState) -> None:
        if state in {ConnectionState.READING_HEADERS, ConnectionState.READING_BODY}:
            self._send_problem_and_close(RequestTimeout())
        elif state is ConnectionState.WRITING:
            self.transport.abort()  # `close` would wait until the client reads
        else:
            self.transport.close()

    def _awaits_body(self) -> bool:
        """Return whether the request in progress waits for its body.

        Other methods ignore a body, and pipelined requests are not started yet.
        """
        cycle = self.queue[0]
        return cycle is self.receiving and cycle.scope["method"] in METHODS_WITH_BODY

    def _update_state(self) -> None:
        """Count the request in progress, unless it waits for its client or for an event.

        Other requests may take its slot while it waits for its body, so it is admitted again.
        """
        cycle = self.queue[0] if self.queue else None
        if cycle is None or not cycle.counts:
            return
        in_progress = self.server_state.in_progress
        if self.flow.write_paused or self._awaits_body() or self.awaited is not None:
            in_progress.discard(cycle)
        elif cycle in in_progress:
            return
        elif cycle.response_started or self.server_state.try_admit(self, self.loop.time()):
            in_progress.add(cycle)
        else:
            cycle.counts = False
            cycle.fail(Overloaded())
