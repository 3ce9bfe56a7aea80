"""Response headers: one struct for each set of headers, encoded under their HTTP names."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.http.etags import EntityTag, WeakEntityTag

_REQUEST_ID = "[A-Za-z0-9._-]"
MAX_REQUEST_ID_LENGTH = 128
REQUEST_ID = re.compile(f"{_REQUEST_ID}{{1,{MAX_REQUEST_ID_LENGTH}}}".encode())

# `\Z` instead of `$`: Python's `$` also matches before a trailing newline, unlike ECMA-262's.
RequestId = Annotated[
    str, Meta(min_length=1, max_length=MAX_REQUEST_ID_LENGTH, pattern=rf"^{_REQUEST_ID}+\Z")
]
TraceId = Annotated[str, Meta(min_length=32, max_length=32, pattern=r"^[0-9a-f]+\Z")]
UriReference = Annotated[str, Meta(max_length=1024, extra_json_schema={"format": "uri-reference"})]
AllowValue = Annotated[str, Meta(max_length=128, pattern=r"^[A-Z]+(, [A-Z]+)*\Z")]
ChallengeValue = Annotated[str, Meta(max_length=1024)]
RetryAfterValue = Annotated[int, Meta(ge=1, le=60)]


class ResponseHeaders(msgspec.Struct, frozen=True):
    """Base class; a response with only the common headers uses it."""

    def to_dict(self) -> dict[str, str]:
        """Return the headers that are not None, by HTTP name."""
        values = zip(self.__struct_encode_fields__, msgspec.structs.astuple(self), strict=True)
        return {name: str(value) for name, value in values if value is not None}


class CommonHeaders(ResponseHeaders, frozen=True):
    """Headers of every response."""

    x_request_id: RequestId = msgspec.field(name="X-Request-ID")
    x_content_type_options: Literal["nosniff"] = msgspec.field(
        name="X-Content-Type-Options", default="nosniff"
    )
    cache_control: Literal["private, no-cache"] = msgspec.field(
        name="Cache-Control", default="private, no-cache"
    )


class ETagHeaders(ResponseHeaders, frozen=True):
    """ETag of the current representation (RFC 9110, section 8.8.3)."""

    etag: EntityTag = msgspec.field(name="ETag")


class CollectionHeaders(ResponseHeaders, frozen=True):
    """ETag of a collection. It also changes with items that a response does not contain."""

    etag: WeakEntityTag = msgspec.field(name="ETag")


class CreatedHeaders(ETagHeaders, frozen=True):
    """ETag and path of a created resource (RFC 9110, section 10.2.2)."""

    location: UriReference = msgspec.field(name="Location")


class RetryAfterHeaders(ResponseHeaders, frozen=True):
    """Seconds to wait before a retry (RFC 9110, section 10.2.3)."""

    retry_after: RetryAfterValue = msgspec.field(name="Retry-After", default=1)


class AllowHeaders(ResponseHeaders, frozen=True):
    """Methods of a path (RFC 9110, section 10.2.1)."""

    allow: AllowValue | None = msgspec.field(name="Allow", default=None)


class AuthenticateHeaders(ResponseHeaders, frozen=True):
    """Authentication challenge of a plug-in guard or middleware (RFC 9110, section 11.6.1)."""

    www_authenticate: ChallengeValue | None = msgspec.field(name="WWW-Authenticate", default=None)
