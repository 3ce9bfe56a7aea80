"""CORS protocol (Fetch standard) for every response of the process.

Litestar's CORS middleware does not see responses created outside Litestar, and rejects a preflight
request in plain text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from app.logging import log

EXPOSE_HEADERS = b"ETag, Location, Retry-After, X-Request-ID"
MAX_AGE = b"600"  # seconds
LOG_INTERVAL = 60  # seconds
MAX_LOGGED_ORIGINS = 100  # in each interval: a client can invent any number of origins
MAX_LOGGED_BYTES = 200

HeaderList = list[tuple[bytes, bytes]]


class CORSPolicy:
    """Origins whose pages may call the service, as browsers send them; `*` allows any origin."""

    def __init__(self, origins: Sequence[str]) -> None:
        self.origins = {origin.encode() for origin in origins}
        self.allow_any_origin = "*" in origins
        self._logged: dict[bytes, float] = {}  # time of each log line, in order

    def headers(self, request: Mapping[bytes, bytes], allowed_methods: bytes | None) -> HeaderList:
        """Return the CORS headers of a response; for an origin that is not allowed, only `Vary`.

        `request` has the request's headers, with names in lower case. `allowed_methods` is the
        `Allow` value of the path if the request is OPTIONS, else None.
        """
        vary: HeaderList = (
            [(b"vary", b"Origin")] if self.origins and not self.allow_any_origin else []
        )
        origin = request.get(b"origin")
        if origin is None:
            return vary
        if not (self.allow_any_origin or origin in self.origins):
            self._log(origin, request.get(b"host", b""))
            return vary
        headers = [
            *vary,
            (b"access-control-allow-origin", b"*" if self.allow_any_origin else origin),
            (b"access-control-expose-headers", EXPOSE_HEADERS),
        ]
        if allowed_methods is not None and b"access-control-request-method" in request:
            requested = request.get(b"access-control-request-headers", b"*")
            headers += [
                (b"access-control-allow-methods", allowed_methods),
                (b"access-control-allow-headers", requested),
                (b"access-control-max-age", MAX_AGE),
            ]
        return headers

    def _log(self, origin: bytes, host: bytes) -> None:
        """Log an origin that is not allowed; browsers do not tell the page why a request failed."""
        if origin.partition(b"://")[2] == host.lower():
            return  # same origin: a page of this service
        now = time.monotonic()
        while self._logged and now - next(iter(self._logged.values())) >= LOG_INTERVAL:
            del self._logged[next(iter(self._logged))]
        origin = origin[:MAX_LOGGED_BYTES]
        if origin in self._logged or len(self._logged) >= MAX_LOGGED_ORIGINS:
            return
        self._logged[origin] = now
        printable = origin.decode("latin-1").encode("unicode_escape").decode()
        log.warning("cross-origin request not allowed by CORS_ORIGINS", origin=printable)
