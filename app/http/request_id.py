"""Request ID and trace ID of a request."""

from __future__ import annotations

import re

from uuid_utils import uuid7

from app.http.headers import REQUEST_ID

_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def request_id_from(header: bytes) -> str:
    """Return the value of `X-Request-ID` if it is valid, else a new UUIDv7."""
    return header.decode() if REQUEST_ID.fullmatch(header) else str(uuid7())


def parse_traceparent(header: bytes) -> str | None:
    """Return the trace ID of a `traceparent` (W3C Trace Context, section 3.2), or None."""
    match = _TRACEPARENT.fullmatch(header)
    return match[1].decode() if match else None
