"""What is answered, and when a connection ends, before there is a request or beside it.

uvicorn's HTTP/1.1 protocol with the bounds it lacks: on heads, on what a client sends ahead, on
the time that it may take, and on how many requests are served at once.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.fields import OnEveryResponse
from app.ids import request_id, trace_id
from app.joined import Joined
from app.load import Load, refusal
from app.logs import RequestLine, request_log
from app.problems import (
    MEDIA_TYPE,
    HeaderFieldsTooLarge,
    MalformedBody,
    MalformedRequest,
    Problem,
    RequestTimeout,
)

HEAD_BYTES_AT_MOST = 32_768
# A kept connection may bring one more request before its client can know that the service ends.
LEAVE_SECONDS = 1.0
# Past the answer to a request, so that a client that has sent it all can read the answer.
UNWANTED_BYTES_AT_MOST = 1_048_576
AHEAD_AT_MOST = 16
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0
RESPONSE_SECONDS = 30.0
IDLE_SECONDS = 5.0
# A balancer that is refused here would take the service for dead, and send others its load.
PROBES = frozenset({b"/livez", b"/readyz"})
READING_METHODS = frozenset({"POST", "PUT", "PATCH"})


class Wait(Enum):
    """What a connection waits for from its client."""

    FIRST = auto()  # the first byte of all
    HEAD = auto()  # the rest of a head
    BODY = auto()  # the rest of a body
    UNWANTED = auto()  # the rest of a body that is no longer wanted
    READING = auto()  # that what was sent is read
    NEXT = auto()  # another request


PATIENCE = {
    Wait.FIRST: HEAD_SECONDS,
    Wait.HEAD: HEAD_SECONDS,
    Wait.BODY: BODY_SECONDS,
    Wait.UNWANTED: BODY_SECONDS,
    Wait.READING: RESPONSE_SECONDS,
    Wait.NEXT: IDLE_SECONDS,
}


class Protocol(HttpToolsProtocol):
    """One connection.

    The parser below has no limit of its own, so a head without an end would fill the memory.
    """

    server_state: Load
    transport: Joined  # type: ignore[assignment]
    head_bytes = 0
    in_head = False
    unparsed_bytes = 0
    is_leaving = False
    unwanted_bytes: int
    requests = 0
    requests_in_read: int
    in_request = False  # from its first byte to its last
    is_refused: bool  # the request that arrives was answered at its head
    is_unread = False  # the answer is complete, and the client does not take it
    is_deaf = False  # nothing more is read: what was asked is answered, then it ends
    wait: tuple[int, Wait | None]  # of how many requests it is, and what for
    waits_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the transport, so that an answer is sent as a whole."""
        super().connection_made(cast("asyncio.Transport", Joined(transport)))

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that goes on: the parser tells of a field when it ends."""
        if self.is_deaf:
            return
        went_on = self.in_head
        self.requests_in_read = 0
        super().data_received(data)
        if self.transport.is_closing():
            return
        if went_on and self.in_head:
            self.unparsed_bytes += len(data)
            if self.unparsed_bytes > HEAD_BYTES_AT_MOST:
                self._refuse(HeaderFieldsTooLarge())
        elif self.in_request:
            self._note_wait()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """Answer a client that has closed its side: the rest of its request will not come."""
        if self.in_head:
            self._refuse(MalformedRequest())
        elif not self._is_served():
            return False
        elif self.cycle.more_body and not self.pipeline:
            self._refuse(MalformedBody("The body was cut short."))
        else:
            self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self.server_state.waiting.discard(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Read nothing from a client that does not read what is being sent."""
        super().pause_writing()
        self.flow.pause_reading()
        self._note_wait()

    def resume_writing(self) -> None:
        """Go on when it does."""
        super().resume_writing()
        self._note_wait()
        if self.is_unread:
            self.on_response_complete()
        else:
            self.flow.resume_reading()

    def on_message_begin(self) -> None:
        """Start to count."""
        self.requests_in_read += 1
        if self.requests_in_read > AHEAD_AT_MOST or len(self.pipeline) >= AHEAD_AT_MOST:
            self._stop_reading()
        super().on_message_begin()
        self.requests += 1
        self.in_head = self.in_request = True
        self.is_refused = False
        self.head_bytes = self.unparsed_bytes = self.unwanted_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count a piece of the request target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field, with its colon, its space and the end of its line."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Count what is left: the method, the version and two ends of lines. Then let it in."""
        method: bytes = self.parser.get_method()  # pyright: ignore[reportOptionalMemberAccess]
        self._count(len(method) + len("  HTTP/1.1\r\n\r\n"))
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise ValueError  # ends the parsing, as in _count
        self.in_head = False
        if self.url in PROBES or self._is_served() or self.server_state.admits():
            super().on_headers_complete()
            if self.is_leaving:
                self.cycle.keep_alive = False
        else:
            self._refuse_for_load(method)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401
        # Whoever waits to be told to go on is told so first.
        self.transport.expects_head = not cycle.waiting_for_100_continue
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, or leave it where the request was answered already."""
        if self._is_served() and not self.is_refused:
            super().on_body(body)
            return
        self.unwanted_bytes += len(body)
        if self.unwanted_bytes > UNWANTED_BYTES_AT_MOST:
            self._stop_reading()

    def on_message_complete(self) -> None:
        """Note that a request is there as a whole."""
        self.in_request = False
        if not self.is_refused:
            super().on_message_complete()
            self._note_wait()

    def on_response_complete(self) -> None:
        """Go on with what was sent ahead, once the client takes what it was sent."""
        # The request is done but for its last steps: its place is free for the next one, which may
        # be there before uvicorn takes the task away.
        task = asyncio.current_task(self.loop)
        self.server_state.tasks.discard(cast("asyncio.Task[None]", task))
        self.transport.flush()
        self.is_unread = self.flow.write_paused
        if not self.is_unread:
            super().on_response_complete()
        self._note_wait()

    def shutdown(self) -> None:
        """End after the answer that is due; where none is, a request may still be on its way."""
        self.is_leaving = True
        if not self._is_served():
            self.loop.call_later(LEAVE_SECONDS, self._leave)
        else:
            super().shutdown()

    def _leave(self) -> None:
        if not self._is_served() and not self.in_head:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Answer what cannot be parsed."""
        if not self.is_deaf:
            too_large = self.head_bytes > HEAD_BYTES_AT_MOST
            self._refuse(HeaderFieldsTooLarge() if too_large else MalformedRequest())

    def look(self, now: float) -> None:
        """End the connection when it has waited too long for the same thing.

        Called every second, so a limit is kept to a second; no request sets a timer for it.
        """
        wait = (self.requests, self._wait())
        if self.waits_since is None or wait != self.wait:
            self.wait, self.waits_since = wait, now
            return
        kind, waited = wait[1], now - self.waits_since
        if kind is not None and waited >= PATIENCE[kind]:
            self._give_up(kind)

    def _wait(self) -> Wait | None:
        """What the client has to do next; None where it is the service's turn."""
        if self.transport.get_write_buffer_size():
            return Wait.READING
        if self.transport.is_closing():
            return None
        if self._is_served():
            return Wait.BODY if self._lacks_body() else None
        if self.in_head:
            return Wait.HEAD
        if self.in_request:
            return Wait.UNWANTED
        return Wait.NEXT if self.requests else Wait.FIRST

    def _give_up(self, kind: Wait) -> None:
        if kind in {Wait.HEAD, Wait.BODY}:
            self._refuse(RequestTimeout())
        elif kind is Wait.READING:
            self.transport.abort()  # closing would wait for what is not read
        else:
            self.transport.close()

    def _is_served(self) -> bool:
        """Whether a request of this connection is not yet answered; uvicorn's own test."""
        first = self.cycle is None  # pyright: ignore[reportUnnecessaryComparison]
        return not first and not self.cycle.response_complete

    def _lacks_body(self) -> bool:
        """Whether the request that is being served waits for its body.

        Others than these ignore it, and those sent ahead do not yet wait.
        """
        reads = self.cycle.scope["method"] in READING_METHODS
        return reads and self.cycle.more_body and not self.pipeline

    def _note_wait(self) -> None:
        if self._is_served() and (self.flow.write_paused or self._lacks_body()):
            self.server_state.waiting.add(self)
        else:
            self.server_state.waiting.discard(self)

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > HEAD_BYTES_AT_MOST:
            # Ends the parsing; uvicorn then calls send_400_response, and shows no message of ours.
            raise ValueError

    def _stop_reading(self) -> None:
        """Answer what was asked so far and end the connection (RFC 9112, section 9.3.2)."""
        self.is_deaf = True
        self.transport.pause_reading()
        if self._is_served():
            self.cycle.keep_alive = False  # the last of all
        else:
            self.transport.close()
        raise ValueError  # as in _count

    def _refuse_for_load(self, method: bytes) -> None:
        """Answer at once, without a task, and read what else belongs to the request."""
        self.is_refused = True
        headers = dict(self.headers)
        # Whoever awaits 100 does not send the body now, or does: where the next request begins
        # cannot be told.
        ends = self.expect_100_continue or self.is_leaving
        keep_alive = self.parser.should_keep_alive() and not ends  # pyright: ignore[reportOptionalMemberAccess]
        self.transport.write(
            refusal(
                request_id(headers.get(b"x-request-id", b"")),
                trace_id(headers.get(b"traceparent", b"")),
                self.server_state.cors.fields(headers, None),
                has_body=method != b"HEAD",
                keep_alive=keep_alive,
            )
        )
        if not keep_alive:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        own_id = request_id(b"")
        body = msgspec.json.encode(problem.body(own_id))
        fields = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": len(body),
            **OnEveryResponse(own_id).named(),
            "Connection": "close",
        }
        head = "".join(f"{name.lower()}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        request_log.write(
            RequestLine(
                method=None,
                route=None,
                status=int(problem.status),
                duration_ms=0.0,
                request_id=own_id,
                trace_id=None,
            )
        )
        self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
        self.transport.close()
