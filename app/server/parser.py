"""Which requests a connection brings: HTTP/1.1 framing by httptools, with the rules it lacks.

httptools has no bounds, reports trailer fields as header fields, stops at an upgrade, and accepts
requests without a Host and with any transfer coding.
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
# Received without any progress: in a header section, a chunk size, or the trailer section.
MAX_FRAMING_BYTES = 32_768
# Of a body, beside the content that is taken: chunk sizes, extensions, trailer fields, and the
# content after the response, so that a client that has sent it all can read the response.
MAX_TOTAL_FRAMING_BYTES = 1_048_576

Headers = list[tuple[bytes, bytes]]
Target = Any  # httptools.URL, which has no types


class StopParsing(Exception):
    """The receiver wants nothing more of the connection."""


class RequestHandler(Protocol):
    """Takes the requests. Each method may raise StopParsing or a Problem."""

    def on_request(self, method: str, target: Target, version: str, *, keep_alive: bool) -> None:
        """Take a request at the end of its header section; its target is parsed."""

    def on_content(self, content: bytes) -> bool:
        """Take content of the last request; False where its response is complete."""
        ...

    def on_request_end(self) -> None:
        """Take note that the last request is complete."""

    def stop_reading(self) -> None:
        """Take note that nothing more can be read."""


class RequestParser:
    """Parses the requests of one connection; httptools calls the methods `on_`."""

    def __init__(self, receiver: RequestHandler) -> None:
        self._receiver = receiver
        self._parser: Any = self._new_parser()
        self.requests = 0  # that have begun
        self.in_request = self.in_headers = False  # the former from its first byte to its last
        self.url = b""
        self.headers: Headers = []
        self._has_progress = self._has_trailer = False
        self._header_bytes = self._framing_bytes = self._total_framing_bytes = 0

    def _new_parser(self) -> Any:  # noqa: ANN401 - httptools has no types
        parser = httptools.HttpRequestParser(self)
        # What follows a request with `Connection: close` is skipped. It is no error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    @property
    def method(self) -> str:
        """The method of the request in progress, empty where it has not been read yet."""
        return self._parser.get_method().decode() if self.url else ""

    def close(self) -> None:
        """Let go of httptools' parser, which refers to this object."""
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Parse. Raises the Problem of a request that cannot be read to its end."""
        self._has_progress = False
        if self.in_request and not self.in_headers:
            self._total_framing_bytes += len(data)
        self._parse(data)
        if not self.in_request:
            return
        # httptools appends to what it has of a field, and tells of a field when it ends.
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
            cause = error.__context__  # what a method below has raised
            if cause is None or isinstance(cause, httptools.HttpParserError):
                raise MalformedRequest from None
            raise cause from None
        else:
            return
        # httptools takes the rest for another protocol. No upgrade is taken up here, so the request
        # is like any other (RFC 9110, section 7.8): it is parsed again without the field.
        head = self._headers_without_upgrade()
        self._parser = self._new_parser()
        self._parse(head)
        self._parse(rest)

    def _headers_without_upgrade(self) -> bytes:
        parser = self._parser
        line = (parser.get_method(), self.url, parser.get_http_version().encode())
        fields = (b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"%b %b HTTP/%b\r\n" % line + b"".join(fields) + b"\r\n"

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.requests += 1
        self.in_headers = self.in_request = self._has_progress = True
        self._header_bytes = self._total_framing_bytes = 0
        self.url, self.headers, self._has_trailer = b"", [], False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._count(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field. Trailer fields are discarded (RFC 9110, section 6.5.1)."""
        if self.in_headers:
            self._count(len(name) + len(value) + len(": \r\n"))
            # White space after a value is no part of it (RFC 9110, section 5.5).
            self.headers.append((name.lower(), value.rstrip(b" \t")))
        else:
            self._has_trailer = True

    def on_headers_complete(self) -> None:
        """Check the framing and hand the request over."""
        method: bytes = self._parser.get_method()
        self._count(len(method) + len("  HTTP/1.1\r\n\r\n"))
        if self._parser.should_upgrade() and method != b"CONNECT":
            return  # parsed again
        version: str = self._parser.get_http_version()
        check_framing(method, version, self.headers)
        target = httptools.parse_url(self.url)
        self.in_headers, self._has_progress = False, True
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        self._receiver.on_request(method.decode(), target, version, keep_alive=keep_alive)

    def on_chunk_header(self) -> None:
        """Note that the size of a chunk was read."""
        self._has_progress = True

    def on_chunk_complete(self) -> None:
        """Note that a chunk, or the trailer section, was read."""
        self._has_progress = True

    def on_body(self, body: bytes) -> None:
        """Hand content over."""
        self._has_progress = True
        if self._receiver.on_content(body):
            self._total_framing_bytes -= len(body)

    def on_message_complete(self) -> None:
        """Note the end of a request; before an upgrade it is not its end."""
        if not self.in_headers:
            self.in_request = False
            self._receiver.on_request_end()
            # llhttp heeds `Connection: close` in a trailer, and skips what follows.
            if self._has_trailer and not self._parser.should_keep_alive():
                self._receiver.stop_reading()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise HeaderFieldsTooLarge


def check_framing(method: bytes, version: str, headers: Headers) -> None:
    """Raise the Problem of a request whose framing or method is not supported.

    llhttp has already refused `Content-Length` together with `Transfer-Encoding`, repeated and
    invalid lengths, and `chunked` that is not the last coding.
    """
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if version not in {"1.0", "1.1"} or hosts > 1 or (hosts == 0 and version == "1.1"):
        raise MalformedRequest
    if b"transfer-encoding" in names:
        if version == "1.0":  # its framing may be wrong (RFC 9112, section 6.1)
            raise MalformedRequest
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise Unimplemented
    if method == b"CONNECT":  # its target is no path
        raise Unimplemented


def expects_continue(version: str, headers: Headers) -> bool:
    """Whether the client waits for 100 before it sends the body (RFC 9110, section 10.1.1)."""
    return version == "1.1" and dict(headers).get(b"expect", b"").lower() == b"100-continue"
