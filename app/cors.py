"""Cross-origin requests (the Fetch standard's CORS protocol), for every answer of the process.

The framework's own layer does not see the answers made around it, and refuses in plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXPOSED = b"ETag, Location, Retry-After, X-Request-ID"
PREFLIGHT_SECONDS = b"600"

Fields = list[tuple[bytes, bytes]]


class Cors:
    """The origins whose pages may call the service."""

    def __init__(self, origins: Sequence[str]) -> None:
        """Take the origins as browsers send them; `*` is every one."""
        self.origins = {origin.encode() for origin in origins}
        self.everyone = "*" in origins

    def fields(self, request: Mapping[bytes, bytes], allowed_methods: bytes | None) -> Fields:
        """The header fields for a response; a foreign origin gets none that would let it read.

        `allowed_methods` is the `Allow` of the path where the request is OPTIONS, else None.
        """
        if not self.origins:
            return []
        vary: Fields = [] if self.everyone else [(b"vary", b"Origin")]
        origin = request.get(b"origin")
        if origin is None or not (self.everyone or origin in self.origins):
            return vary
        fields = [
            *vary,
            (b"access-control-allow-origin", b"*" if self.everyone else origin),
            (b"access-control-expose-headers", EXPOSED),
        ]
        if allowed_methods is not None and b"access-control-request-method" in request:
            wanted = request.get(b"access-control-request-headers", b"*")
            fields += [
                (b"access-control-allow-methods", allowed_methods),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", PREFLIGHT_SECONDS),
            ]
        return fields
