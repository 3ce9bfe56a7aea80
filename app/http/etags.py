"""Entity tags (RFC 9110, section 8.8.3) and preconditions (section 13.1)."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app.http.validation import PATTERN_MESSAGE

EntityTag = Annotated[
    str,
    Meta(
        min_length=34,
        max_length=34,
        pattern=r'^"[0-9a-f]{32}"\Z',
        extra_json_schema={PATTERN_MESSAGE: "must be 32 hexadecimal digits in double quotes"},
    ),
]
WeakEntityTag = Annotated[str, Meta(min_length=36, max_length=36, pattern=r'^W/"[0-9a-f]{32}"\Z')]

_TAG = re.compile(r'(W/)?"([!#-~]*)"')
_OWN_ETAG = re.compile(r"[0-9a-f]{32}")


class ETagCondition(msgspec.Struct, frozen=True):
    """Condition of `If-Match` or `If-None-Match`: any representation, or one of these ETags."""

    any: bool
    strong: tuple[UUID, ...] = ()
    weak: tuple[UUID, ...] = ()

    @classmethod
    def parse(cls, value: str | None) -> ETagCondition | None:
        """Parse a header that matches the contract's `ETagList`; return None without a header.

        ETags that are not in the service's format cannot match and are omitted.
        """
        if value is None:
            return None
        if value == "*":
            return cls(any=True)
        strong: list[UUID] = []
        weak: list[UUID] = []
        for weakness, opaque in _TAG.findall(value):
            if _OWN_ETAG.fullmatch(opaque):
                (weak if weakness else strong).append(UUID(opaque))
        return cls(any=False, strong=tuple(strong), weak=tuple(weak))

    def matches_weak(self, etag: str) -> bool:
        """Compare as `If-None-Match` requires: W/"a" equals "a" (RFC 9110, section 8.8.3.2)."""
        return self.any or parse_etag(etag) in self.strong + self.weak

    def matches_strong(self, etag: str) -> bool:
        """Compare as `If-Match` requires: a weak ETag never matches (section 8.8.3.2)."""
        return self.any or parse_etag(etag) in self.strong


def is_not_modified(if_none_match: str | None, etag: str) -> bool:
    """Return whether a read with this `If-None-Match` receives 304 (Not Modified)."""
    condition = ETagCondition.parse(if_none_match)
    return condition is not None and condition.matches_weak(etag)


def etag_of(content: bytes) -> str:
    """Return the ETag of a static representation: a hash of its content."""
    return f'"{blake2b(content, digest_size=16).hexdigest()}"'


def format_etag(version: UUID) -> str:
    """Return the ETag of a version, in the contract's `EntityTag` format."""
    return f'"{version.hex}"'


def parse_etag(etag: str) -> UUID:
    """Return the version in an `EntityTag` or a `WeakEntityTag`."""
    return UUID(etag.removeprefix("W/")[1:-1])
