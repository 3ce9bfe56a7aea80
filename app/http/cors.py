"""Cross-origin requests (the Fetch standard's CORS protocol), for every answer of the process.

The framework's own layer does not see the answers made around it, and refuses in plain text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from app.logging import log

EXPOSE_HEADERS = b"ETag, Location, Retry-After, X-Request-ID"
MAX_AGE = b"600"
LOG_INTERVAL = 60
MAX_LOGGED_ORIGINS = 100  # origins in that time: a client can make up any number of them
MAX_LOGGED_BYTES = 200

HeaderList = list[tuple[bytes, bytes]]


class CORSPolicy:
    """The origins whose pages may call the service."""

    def __init__(self, origins: Sequence[str]) -> None:
        """Take the origins as browsers send them; `*` is every one."""
        self.origins = {origin.encode() for origin in origins}
        self.allow_any_origin = "*" in origins
        self._logged: dict[bytes, float] = {}  # when each was, the earliest first

    def headers(self, request: Mapping[bytes, bytes], allowed_methods: bytes | None) -> HeaderList:
        """The header fields for a response; a foreign origin gets none that would let it read.

        `allowed_methods` is the `Allow` of the path where the request is OPTIONS, else None.
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
        fields = [
            *vary,
            (b"access-control-allow-origin", b"*" if self.allow_any_origin else origin),
            (b"access-control-expose-headers", EXPOSE_HEADERS),
        ]
        if allowed_methods is not None and b"access-control-request-method" in request:
            wanted = request.get(b"access-control-request-headers", b"*")
            fields += [
                (b"access-control-allow-methods", allowed_methods),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", MAX_AGE),
            ]
        return fields

    def _log(self, origin: bytes, host: bytes) -> None:
        """Log a rejected origin: the browser only tells its page that the request failed."""
        if origin.partition(b"://")[2] == host.lower():
            return  # a page of the service's own
        now = time.monotonic()
        while self._logged and now - next(iter(self._logged.values())) >= LOG_INTERVAL:
            del self._logged[next(iter(self._logged))]
        origin = origin[:MAX_LOGGED_BYTES]
        if origin in self._logged or len(self._logged) >= MAX_LOGGED_ORIGINS:
            return
        self._logged[origin] = now
        shown = origin.decode("latin-1").encode("unicode_escape").decode()
        log.warning("cross-origin request not allowed by CORS_ORIGINS", origin=shown)
