"""Header fields of responses: one struct for each set of them, under their wire names."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.http.etags import EntityTag

_REQUEST_ID = "[A-Za-z0-9._-]"
MAX_REQUEST_ID_LENGTH = 128
REQUEST_ID = re.compile(f"{_REQUEST_ID}{{1,{MAX_REQUEST_ID_LENGTH}}}".encode())

# `\Z`, not `$`: Python's `$` lets a trailing newline through, ECMA 262's does not.
RequestId = Annotated[
    str, Meta(min_length=1, max_length=MAX_REQUEST_ID_LENGTH, pattern=rf"^{_REQUEST_ID}+\Z")
]
TraceId = Annotated[str, Meta(min_length=32, max_length=32, pattern=r"^[0-9a-f]+\Z")]
UriReference = Annotated[str, Meta(max_length=1024, extra_json_schema={"format": "uri-reference"})]
AllowValue = Annotated[str, Meta(max_length=128, pattern=r"^[A-Z]+(, [A-Z]+)*\Z")]
ChallengeValue = Annotated[str, Meta(max_length=1024)]
RetryAfterValue = Annotated[int, Meta(ge=1, le=60)]


class ResponseHeaders(msgspec.Struct, frozen=True):
    """No header fields beside those of every response."""

    def to_dict(self) -> dict[str, str]:
        """The fields that are present, as they are sent."""
        values = zip(self.__struct_encode_fields__, msgspec.structs.astuple(self), strict=True)
        return {name: str(value) for name, value in values if value is not None}


class CommonHeaders(ResponseHeaders, frozen=True):
    """What every response has, whatever it answers."""

    x_request_id: RequestId = msgspec.field(name="X-Request-ID")
    x_content_type_options: Literal["nosniff"] = msgspec.field(
        name="X-Content-Type-Options", default="nosniff"
    )
    cache_control: Literal["private, no-cache"] = msgspec.field(
        name="Cache-Control", default="private, no-cache"
    )


class ETagHeaders(ResponseHeaders, frozen=True):
    """The entity tag of the current representation."""

    etag: EntityTag = msgspec.field(name="ETag")


class CreatedHeaders(ETagHeaders, frozen=True):
    """The tag and the path of what was created."""

    location: UriReference = msgspec.field(name="Location")


class RetryAfterHeaders(ResponseHeaders, frozen=True):
    """How many seconds to wait."""

    retry_after: RetryAfterValue = msgspec.field(name="Retry-After", default=1)


class AllowHeaders(ResponseHeaders, frozen=True):
    """The methods of a path."""

    allow: AllowValue | None = msgspec.field(name="Allow", default=None)


class AuthenticateHeaders(ResponseHeaders, frozen=True):
    """How to authenticate, where a component composed into the service says so."""

    www_authenticate: ChallengeValue | None = msgspec.field(name="WWW-Authenticate", default=None)
