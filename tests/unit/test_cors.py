"""The header fields of CORS, as they stand in an ASGI message."""

from __future__ import annotations

import pytest

from app.cors import Cors, Fields

pytestmark = pytest.mark.requirement("FR-031")

HOME = b"https://tasks.example"
VARY = (b"vary", b"Origin")
EXPOSED = (b"access-control-expose-headers", b"ETag, Location, Retry-After, X-Request-ID")
PREFLIGHT = {b"origin": HOME, b"access-control-request-method": b"PUT"}


def allowed(origin: bytes) -> Fields:
    return [(b"access-control-allow-origin", origin), EXPOSED]


def granted(headers: bytes) -> Fields:
    return [
        (b"access-control-allow-methods", b"GET, PUT"),
        (b"access-control-allow-headers", headers),
        (b"access-control-max-age", b"600"),
    ]


@pytest.mark.parametrize(
    ("origins", "request_fields", "methods", "fields"),
    [
        ([], {b"origin": HOME}, None, []),
        (["https://tasks.example"], {}, None, [VARY]),
        (["https://tasks.example"], {b"origin": b"https://evil.example"}, None, [VARY]),
        (["https://tasks.example"], {b"origin": b"*"}, None, [VARY]),
        (["https://tasks.example"], {b"origin": HOME}, None, [VARY, *allowed(HOME)]),
        (["*"], {}, None, []),
        (["*"], {b"origin": HOME}, None, allowed(b"*")),
        # Only a preflight is granted more: OPTIONS, and the method it asks for.
        (["*"], PREFLIGHT, None, allowed(b"*")),
        (["*"], {b"origin": HOME}, b"GET, PUT", allowed(b"*")),
        (["*"], PREFLIGHT, b"GET, PUT", [*allowed(b"*"), *granted(b"*")]),
        (
            ["https://tasks.example"],
            PREFLIGHT | {b"access-control-request-headers": b"if-match"},
            b"GET, PUT",
            [VARY, *allowed(HOME), *granted(b"if-match")],
        ),
    ],
)
def test_a_response_gets_these_fields(
    origins: list[str], request_fields: dict[bytes, bytes], methods: bytes | None, fields: Fields
) -> None:
    assert Cors(origins).fields(request_fields, methods) == fields
