"""One HTTP/1.1 connection: requests are bounded in number and time, and answered in their order.

uvicorn's cycle runs the application. uvicorn's own protocol has no such bounds, answers errors
ahead of earlier requests, and knows nothing of problems, request ids and the access log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
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
from app.server.admission import AdmissionControl, overloaded_response
from app.server.cycle import RequestCycle
from app.server.parser import RequestParser, StopParsing, Target, expects_continue
from app.server.transport import CoalescingTransport

MAX_PIPELINED_REQUESTS = 16
# A kept connection may bring one more request before its client can know that the service ends.
DRAIN_TIMEOUT = 1.0
HEADER_TIMEOUT = 10.0
BODY_TIMEOUT = 30.0
WRITE_TIMEOUT = 30.0
# A balancer that is refused here would take the service for dead, and send others its load.
HEALTH_PATHS = frozenset({b"/livez", b"/readyz"})
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
LOGGER = logging.getLogger("uvicorn.error")


class ConnectionState(Enum):
    """What a connection waits for from its client."""

    NEW = auto()  # the first byte of all
    READING_HEADERS = auto()  # the rest of a head
    READING_BODY = auto()  # the rest of a body
    DRAINING_BODY = auto()  # the rest of a body that is no longer wanted
    WRITING = auto()  # that what was sent is read
    KEEP_ALIVE = auto()  # another request


STATE_TIMEOUTS = {  # but for NEXT: that is the setting KEEP_ALIVE_TIMEOUT
    ConnectionState.NEW: HEADER_TIMEOUT,
    ConnectionState.READING_HEADERS: HEADER_TIMEOUT,
    ConnectionState.READING_BODY: BODY_TIMEOUT,
    ConnectionState.DRAINING_BODY: BODY_TIMEOUT,
    ConnectionState.WRITING: WRITE_TIMEOUT,
}


class HTTPProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: AdmissionControl,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take what uvicorn's server gives to each connection."""
        self.config = config
        self.asgi_app: Any = config.loaded_app
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.parser = RequestParser(self)
        self.transport: CoalescingTransport = None  # type: ignore[assignment]
        self.flow: FlowControl = None  # type: ignore[assignment]
        # Requests without a complete response; the application runs for the first one.
        self.queue = deque[RequestCycle]()
        self.receiving: RequestCycle | None = None  # the one whose body arrives
        self.pipelined_in_read = 0
        self.is_draining = False
        self.reading_stopped = (
            False  # nothing more is read: what was asked is answered, then it ends
        )
        self.write_blocked = False  # the response is complete, and the client does not take it
        self.state: tuple[int, ConnectionState | None]  # of how many requests it is, and what for
        self.state_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note whose connection it is."""
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
        """Tell the requests that have no response yet, and forget the client."""
        self.server_state.connections.discard(cast("Any", self))
        self.server_state.write_resumed(self.transport)
        for cycle in self.queue:
            self.server_state.body_ended(cycle)
            cycle.disconnected = True
            cycle.message_event.set()
        self.queue.clear()
        self.receiving = None
        self.flow.resume_writing()
        self.parser.close()

    def data_received(self, data: bytes) -> None:
        """Parse what was read."""
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
        """Answer a client that has closed its side: the rest of its request will not come."""
        if not self.reading_stopped:
            if self.parser.in_headers:
                self._send_problem_and_close(MalformedRequest())
            elif self.receiving is not None:
                self._send_problem_and_close(MalformedBody("The body was cut short."))
            else:
                self.stop_reading()
        return bool(self.queue)

    def pause_writing(self) -> None:
        """Read nothing from a client that does not read what is being sent."""
        self.flow.pause_writing()
        self.flow.pause_reading()
        self.server_state.write_blocked(self.transport)
        self._update_state()

    def resume_writing(self) -> None:
        """Go on when it does."""
        self.flow.resume_writing()
        self.server_state.write_resumed(self.transport)
        self._update_state()
        if self.write_blocked:
            self._start_next()
        else:
            self.flow.resume_reading()

    # --- what the parser finds -------------------------------------------------------------------

    def on_request(self, method: str, target: Target, version: str, *, keep_alive: bool) -> None:
        """Start a request, or queue it behind those that have no response yet."""
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
        # A page cannot see why its preflight was rejected: the browser reports a network error.
        cycle.is_exempt = self.parser.url in HEALTH_PATHS or method == "OPTIONS"
        cycle.waiting_for_100_continue = expects_continue(version, self.parser.headers)
        self.receiving = cycle
        self._enqueue(cycle)

    def on_content(self, content: bytes) -> bool:
        """Keep content for the application."""
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
        """Tell the application that there is nothing more of the body."""
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
            "state": self.app_state.copy(),
        }

    def _cycle(self, scope: Any, *, keep_alive: bool) -> RequestCycle:  # noqa: ANN401 - as ASGI has it
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
        """Run the application for a request whose turn it is, or refuse the request for load."""
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
        """Release what the request still holds. A handler goes on when its client is gone."""
        self.server_state.tasks.discard(task)
        self._release(cycle)

    def _release(self, cycle: RequestCycle) -> None:
        """Let another request in: this one is answered, or its handler has ended."""
        cycle.counts = False
        self.server_state.in_progress.discard(cycle)

    def on_response_complete(self) -> None:
        """Go on with what was sent ahead, once the client takes what it was sent."""
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
        """Answer a request that cannot be read to its end, and end the connection.

        In the order of the requests (RFC 9112, section 9.3.2), and by the application, which knows
        what every response carries and what is logged and counted.
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
        """End the connection after the last response."""
        self.reading_stopped = True
        self.transport.pause_reading()
        if self.queue:
            self.queue[-1].keep_alive = False
        else:
            self.transport.close()

    def _reject_overloaded(self, cycle: RequestCycle) -> None:
        """Answer without a task; what else belongs to the request is skipped."""
        # Whoever awaits 100 does not send the body now, or does: where the next request begins
        # cannot be told.
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

    # --- the end of the service, and time --------------------------------------------------------

    def shutdown(self) -> None:
        """End after the response that is due; where none is, a request may be on its way."""
        self.is_draining = True
        if self.queue:
            self.queue[-1].keep_alive = False
        else:
            self.loop.call_later(DRAIN_TIMEOUT, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.queue and not self.parser.in_headers:
            self.transport.close()

    def check_timeout(self, now: float) -> None:
        """End the connection when it has waited too long for the same thing.

        Called every second, so a limit is kept to a second; no request sets a timer for it.
        """
        wait = (self.parser.requests, self._current_state())
        if self.state_since is None or wait != self.state:
            self.state, self.state_since = wait, now
            return
        kind, waited = wait[1], now - self.state_since
        if kind is not None and waited >= STATE_TIMEOUTS.get(kind, self.config.timeout_keep_alive):
            self._on_timeout(kind)

    def _current_state(self) -> ConnectionState | None:
        """What the client has to do next; None where it is the service's turn."""
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

    def _on_timeout(self, kind: ConnectionState) -> None:
        if kind in {ConnectionState.READING_HEADERS, ConnectionState.READING_BODY}:
            self._send_problem_and_close(RequestTimeout())
        elif kind is ConnectionState.WRITING:
            self.transport.abort()  # closing would wait for what is not read
        else:
            self.transport.close()

    def _awaits_body(self) -> bool:
        """Whether the request that is being served waits for its body.

        Others than these ignore it, and those sent ahead do not yet wait.
        """
        cycle = self.queue[0]
        return cycle is self.receiving and cycle.scope["method"] in METHODS_WITH_BODY

    def _update_state(self) -> None:
        """Count the request whose turn it is, unless it waits for its client.

        Others may have been admitted while it waited for its body, so it is judged once more.
        """
        cycle = self.queue[0] if self.queue else None
        if cycle is None or not cycle.counts:
            return
        in_progress = self.server_state.in_progress
        if self.flow.write_paused or self._awaits_body():
            in_progress.discard(cycle)
        elif cycle in in_progress:
            return
        elif cycle.response_started or self.server_state.try_admit(self, self.loop.time()):
            in_progress.add(cycle)
        else:
            cycle.counts = False
            cycle.fail(Overloaded())
