"""The CORS headers of a response."""

from __future__ import annotations

import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.http.cors import CORSPolicy, HeaderList

pytestmark = pytest.mark.requirement("FR-031")

ORIGIN = b"https://tasks.example"
VARY = (b"vary", b"Origin")
EXPOSE_HEADERS = (b"access-control-expose-headers", b"ETag, Location, Retry-After, X-Request-ID")
PREFLIGHT = {b"origin": ORIGIN, b"access-control-request-method": b"PUT"}


def allow_origin(origin: bytes) -> HeaderList:
    return [(b"access-control-allow-origin", origin), EXPOSE_HEADERS]


def preflight_headers(headers: bytes) -> HeaderList:
    return [
        (b"access-control-allow-methods", b"GET, PUT"),
        (b"access-control-allow-headers", headers),
        (b"access-control-max-age", b"600"),
    ]


@pytest.mark.parametrize(
    ("origins", "request_headers", "methods", "expected"),
    [
        ([], {b"origin": ORIGIN}, None, []),
        (["https://tasks.example"], {}, None, [VARY]),
        (["https://tasks.example"], {b"origin": b"https://evil.example"}, None, [VARY]),
        (["https://tasks.example"], {b"origin": b"*"}, None, [VARY]),
        (["https://tasks.example"], {b"origin": ORIGIN}, None, [VARY, *allow_origin(ORIGIN)]),
        (["null"], {b"origin": b"null"}, None, [VARY, *allow_origin(b"null")]),
        (["tauri://localhost"], {b"origin": ORIGIN}, None, [VARY]),
        (["*"], {}, None, []),
        (["*"], {b"origin": ORIGIN}, None, allow_origin(b"*")),
        # Only a preflight (OPTIONS with a requested method) receives more headers.
        (["*"], PREFLIGHT, None, allow_origin(b"*")),
        (["*"], {b"origin": ORIGIN}, b"GET, PUT", allow_origin(b"*")),
        (["*"], PREFLIGHT, b"GET, PUT", [*allow_origin(b"*"), *preflight_headers(b"*")]),
        (
            ["https://tasks.example"],
            PREFLIGHT | {b"access-control-request-headers": b"if-match"},
            b"GET, PUT",
            [VARY, *allow_origin(ORIGIN), *preflight_headers(b"if-match")],
        ),
    ],
)
def test_cors_headers(
    origins: list[str],
    request_headers: dict[bytes, bytes],
    methods: bytes | None,
    expected: HeaderList,
) -> None:
    assert CORSPolicy(origins).headers(request_headers, methods) == expected


# --- the log of rejected origins -----------------------------------------------------------------


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def lines_of(cors: CORSPolicy, *requests: dict[bytes, bytes]) -> list[Any]:
    """Return the log lines of these requests."""
    with capture_logs() as lines:
        for request in requests:
            cors.headers(request, None)
    return lines


def origins_of(cors: CORSPolicy, *origins: bytes) -> list[str]:
    """Return the origins that are logged for these requests, in order."""
    return [line["origin"] for line in lines_of(cors, *({b"origin": name} for name in origins))]


@pytest.mark.parametrize("allowed", [[], ["https://tasks.example"]])
def test_rejected_origin_is_logged_with_the_setting(allowed: list[str]) -> None:
    assert lines_of(CORSPolicy(allowed), {b"origin": b"http://localhost:3000"}) == [
        {
            "event": "cross-origin request not allowed by CORS_ORIGINS",
            "origin": "http://localhost:3000",
            "log_level": "warning",
        }
    ]


@pytest.mark.parametrize(
    ("allowed", "request_headers"),
    [
        ([], {}),
        (["*"], {b"origin": b"https://evil.example"}),
        (["https://tasks.example"], {b"origin": ORIGIN}),
        # Same origin, as for /docs: no permission is needed.
        ([], {b"origin": b"http://127.0.0.1:8000", b"host": b"127.0.0.1:8000"}),
        ([], {b"origin": b"https://tasks.example", b"host": b"Tasks.example"}),
    ],
)
def test_allowed_origin_is_not_logged(
    allowed: list[str], request_headers: dict[bytes, bytes]
) -> None:
    assert lines_of(CORSPolicy(allowed), request_headers) == []


def test_origin_is_logged_once_a_minute(clock: Clock) -> None:
    cors = CORSPolicy(["https://tasks.example"])
    assert origins_of(cors, b"https://a", b"https://b", b"https://a") == ["https://a", "https://b"]
    clock.now += 59.9
    assert origins_of(cors, b"https://a", b"https://b") == []
    clock.now += 0.2
    assert origins_of(cors, b"https://a", b"https://a", b"https://c", b"https://b") == [
        "https://a",
        "https://c",
        "https://b",
    ]


def test_number_of_logged_origins_is_limited(clock: Clock) -> None:
    cors = CORSPolicy([])
    many = [b"https://%d.example" % number for number in range(1000)]
    assert origins_of(cors, *many) == [name.decode() for name in many[:100]]
    clock.now += 60.1
    assert origins_of(cors, *many[::-1]) == [name.decode() for name in many[::-1][:100]]


def test_logged_origin_is_truncated_and_escaped() -> None:
    (logged,) = origins_of(CORSPolicy([]), b"https://\x1b[31m\xe4" + b"a" * 1_000)
    assert logged == "https://\\x1b[31m\\xe4" + "a" * 186
