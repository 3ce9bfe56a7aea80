"""By which ids a request is known: its own, and that of the trace that it is part of."""

from __future__ import annotations

import re

from uuid_utils import uuid7

from app.http.headers import REQUEST_ID

_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def request_id_from(header: bytes) -> str:
    """The value of `X-Request-ID` where it is one, else a new id."""
    return header.decode() if REQUEST_ID.fullmatch(header) else str(uuid7())


def parse_traceparent(header: bytes) -> str | None:
    """The trace in a `traceparent` (W3C Trace Context, section 3.2), None where it is none."""
    found = _TRACEPARENT.fullmatch(header)
    return found[1].decode() if found else None
