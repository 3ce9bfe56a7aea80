"""What uvicorn answers before there is a request: as problems, like everything else."""

from __future__ import annotations

import msgspec
from uuid_utils.compat import uuid7
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.fields import OnEveryResponse
from app.logs import log
from app.problems import MEDIA_TYPE, HeaderFieldsTooLarge, MalformedBody, MalformedRequest, Problem

HEAD_BYTES_AT_MOST = 32_768
# A kept connection may bring one more request before its client can know that the service ends.
LEAVE_SECONDS = 1.0


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with problem bodies and a limit for the head of a request.

    The parser below has no limit of its own, so a head without an end would fill the memory.
    """

    head_bytes = 0
    in_head = False
    unparsed_bytes = 0
    is_leaving = False

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that goes on: the parser tells of a field when it ends."""
        went_on = self.in_head
        super().data_received(data)
        if went_on and self.in_head and not self.transport.is_closing():
            self.unparsed_bytes += len(data)
            if self.unparsed_bytes > HEAD_BYTES_AT_MOST:
                self._refuse(HeaderFieldsTooLarge())

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """Answer a client that has closed its side: the rest of its request will not come."""
        if self.in_head:
            self._refuse(MalformedRequest())
        elif self._is_idle():
            return False
        elif self.cycle.more_body and not self.pipeline:
            self._refuse(MalformedBody("The body was cut short."))
        else:
            self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """Start to count."""
        super().on_message_begin()
        self.in_head = True
        self.head_bytes = self.unparsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count a piece of the request target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field, with its colon, its space and the end of its line."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Count what is left: the method, the version and two ends of lines."""
        method: bytes = self.parser.get_method()  # pyright: ignore[reportOptionalMemberAccess]
        self._count(len(method) + len("  HTTP/1.1\r\n\r\n"))
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise ValueError  # ends the parsing, as in _count
        super().on_headers_complete()
        self.in_head = False
        if self.is_leaving:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End after the answer that is due; where none is, a request may still be on its way."""
        self.is_leaving = True
        if self._is_idle():
            self.loop.call_later(LEAVE_SECONDS, self._leave)
        else:
            super().shutdown()

    def _leave(self) -> None:
        if self._is_idle() and not self.in_head:
            self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Answer what cannot be parsed."""
        too_large = self.head_bytes > HEAD_BYTES_AT_MOST
        self._refuse(HeaderFieldsTooLarge() if too_large else MalformedRequest())

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > HEAD_BYTES_AT_MOST:
            # Ends the parsing; uvicorn then calls send_400_response, and shows no message of ours.
            raise ValueError

    def _refuse(self, problem: Problem) -> None:
        request_id = str(uuid7())
        body = msgspec.json.encode(problem.body(request_id))
        fields = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": len(body),
            **OnEveryResponse(request_id).named(),
            "Connection": "close",
        }
        head = "".join(f"{name.lower()}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        log.info(
            "request",
            method=None,
            route=None,
            status=int(problem.status),
            duration_ms=0.0,
            request_id=request_id,
            trace_id=None,
        )
        self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
        self.transport.close()
