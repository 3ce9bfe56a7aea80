"""HTTP/1.1 request parser: httptools with size limits and stricter framing.

httptools has no size limits, reports trailers as headers and stops parsing at an upgrade. It
accepts requests without `Host` and with any transfer coding.
"""

from __future__ import annotations

from typing import Any, Protocol

import httptools

from app.http.problems import (
    ContentTooLarge,
    HeaderFieldsTooLarge,
    MalformedRequest,
    Unimplemented,
)

MAX_HEADER_BYTES = 32_768
# Bytes received without progress: within headers, a chunk size or trailers.
MAX_FRAMING_BYTES = 32_768
# Bytes of a body except accepted content: chunk sizes, extensions, trailers, and content after the
# response. The latter is read so that a client that sends it can receive the response.
MAX_TOTAL_FRAMING_BYTES = 1_048_576

Headers = list[tuple[bytes, bytes]]
Target = Any  # httptools.URL, which has no types


class StopParsing(Exception):
    """The receiver does not accept more data on this connection."""


class RequestHandler(Protocol):
    """Receiver of parser events. Each method may raise StopParsing or ProblemError."""

    def on_request(self, method: str, target: Target, version: str, *, keep_alive: bool) -> None:
        """Handle the request line and headers of a request."""

    def on_content(self, content: bytes) -> bool:
        """Handle content of the last request; return False if its response is complete."""
        ...

    def on_request_end(self) -> None:
        """Handle the end of the last request."""

    def stop_reading(self) -> None:
        """Handle the end of readable data."""


class RequestParser:
    """Parser of one connection's requests; httptools calls the `on_` methods."""

    def __init__(self, receiver: RequestHandler) -> None:
        self._receiver = receiver
        self._parser: Any = self._new_parser()
        self.requests = 0  # started so far
        self.in_request = self.in_headers = False  # `in_request`: from the first byte to the last
        self.url = b""
        self.headers: Headers = []
        self._has_progress = self._has_trailer = False
        self._header_bytes = self._framing_bytes = self._total_framing_bytes = 0

    def _new_parser(self) -> Any:  # noqa: ANN401 - httptools has no types
        parser = httptools.HttpRequestParser(self)
        # Data after a request with `Connection: close` is skipped instead of raising an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    @property
    def method(self) -> str:
        """The method of the request in progress; empty before it is parsed."""
        return self._parser.get_method().decode() if self.url else ""

    def close(self) -> None:
        """Break the reference cycle with httptools' parser."""
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Parse received bytes and call the receiver.

        Raises MalformedRequest, HeaderFieldsTooLarge, ContentTooLarge or Unimplemented for a
        request that cannot be parsed.
        """
        self._has_progress = False
        if self.in_request and not self.in_headers:
            self._total_framing_bytes += len(data)
        self._parse(data)
        if not self.in_request:
            return
        # httptools buffers a header until it is complete: no callback reports progress until then.
        self._framing_bytes = 0 if self._has_progress else self._framing_bytes + len(data)
        if self._framing_bytes > MAX_FRAMING_BYTES:
            raise HeaderFieldsTooLarge if self.in_headers else ContentTooLarge
        if self._total_framing_bytes > MAX_TOTAL_FRAMING_BYTES:
            raise ContentTooLarge

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = memoryview(data)[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__  # raised in a callback
            if cause is None or isinstance(cause, httptools.HttpParserError):
                raise MalformedRequest from None
            raise cause from None
        else:
            return
        # httptools treats the rest as another protocol. A server may ignore `Upgrade` (RFC 9110,
        # section 7.8): the request is parsed again without this header.
        headers = self._headers_without_upgrade()
        self._parser = self._new_parser()
        self._parse(headers)
        self._parse(rest)

    def _headers_without_upgrade(self) -> bytes:
        parser = self._parser
        line = (parser.get_method(), self.url, parser.get_http_version().encode())
        fields = (b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"%b %b HTTP/%b\r\n" % line + b"".join(fields) + b"\r\n"

    def on_message_begin(self) -> None:
        """Reset the state for a new request."""
        self.requests += 1
        self.in_headers = self.in_request = self._has_progress = True
        self._header_bytes = self._total_framing_bytes = 0
        self.url, self.headers, self._has_trailer = b"", [], False

    def on_url(self, url: bytes) -> None:
        """Append a part of the request target."""
        self._count(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers are discarded (RFC 9110, section 6.5.1)."""
        if self.in_headers:
            self._count(len(name) + len(value) + len(": \r\n"))
            # Trailing white space is not part of the value (RFC 9110, section 5.5).
            self.headers.append((name.lower(), value.rstrip(b" \t")))
        else:
            self._has_trailer = True

    def on_headers_complete(self) -> None:
        """Check the framing and report the request."""
        method: bytes = self._parser.get_method()
        self._count(len(method) + len("  HTTP/1.1\r\n\r\n"))
        if self._parser.should_upgrade() and method != b"CONNECT":
            return  # `_parse` parses it again
        version: str = self._parser.get_http_version()
        check_framing(method, version, self.headers)
        target = httptools.parse_url(self.url)
        self.in_headers, self._has_progress = False, True
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        self._receiver.on_request(method.decode(), target, version, keep_alive=keep_alive)

    def on_chunk_header(self) -> None:
        """Record progress: a chunk size is complete."""
        self._has_progress = True

    def on_chunk_complete(self) -> None:
        """Record progress: a chunk or the trailers are complete."""
        self._has_progress = True

    def on_body(self, body: bytes) -> None:
        """Report content of the body."""
        self._has_progress = True
        if self._receiver.on_content(body):
            self._total_framing_bytes -= len(body)

    def on_message_complete(self) -> None:
        """Report the end of a request; httptools also calls this before an upgrade."""
        if not self.in_headers:
            self.in_request = False
            self._receiver.on_request_end()
            # llhttp obeys `Connection: close` in a trailer and skips the data that follows.
            if self._has_trailer and not self._parser.should_keep_alive():
                self._receiver.stop_reading()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise HeaderFieldsTooLarge


def check_framing(method: bytes, version: str, headers: Headers) -> None:
    """Raise MalformedRequest or Unimplemented if the framing or method is not supported.

    llhttp has already rejected `Content-Length` with `Transfer-Encoding`, repeated and invalid
    lengths, and `chunked` before another coding.
    """
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if version not in {"1.0", "1.1"} or hosts > 1 or (hosts == 0 and version == "1.1"):
        raise MalformedRequest
    if b"transfer-encoding" in names:
        if version == "1.0":  # the framing may be faulty (RFC 9112, section 6.1)
            raise MalformedRequest
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise Unimplemented
    if method == b"CONNECT":  # the target is not a path
        raise Unimplemented


def expects_continue(version: str, headers: Headers) -> bool:
    """Return whether the client waits for 100 (Continue) (RFC 9110, section 10.1.1)."""
    return version == "1.1" and dict(headers).get(b"expect", b"").lower() == b"100-continue"
