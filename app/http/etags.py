"""Entity tags (RFC 9110, section 8.8.3) and the preconditions made of them (section 13.1)."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

EntityTag = Annotated[str, Meta(min_length=34, max_length=34, pattern=r'^"[0-9a-f]{32}"\Z')]

_TAG = re.compile(r'(W/)?"([!#-~]*)"')
_OWN_ETAG = re.compile(r"[0-9a-f]{32}")


class ETagCondition(msgspec.Struct, frozen=True):
    """What `If-Match` or `If-None-Match` asks for: any tag at all, or one of some."""

    any: bool
    strong: tuple[UUID, ...] = ()
    weak: tuple[UUID, ...] = ()

    @classmethod
    def parse(cls, value: str | None) -> ETagCondition | None:
        """Read a header field that matches the contract's `ETagList`; None for an absent one.

        Tags that this service cannot have given out match nothing and are left out.
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
        """Weak comparison, as `If-None-Match` needs: W/"a" equals "a"."""
        return self.any or parse_etag(etag) in self.strong + self.weak

    def matches_strong(self, etag: str) -> bool:
        """Strong comparison, as `If-Match` needs: a weak tag equals none."""
        return self.any or parse_etag(etag) in self.strong


def is_not_modified(if_none_match: str | None, etag: str) -> bool:
    """Whether a read with this `If-None-Match` is 304: the client has this very representation."""
    condition = ETagCondition.parse(if_none_match)
    return condition is not None and condition.matches_weak(etag)


def etag_of(content: bytes) -> str:
    """The entity tag of a representation that is its content alone."""
    return f'"{blake2b(content, digest_size=16).hexdigest()}"'


def format_etag(version: UUID) -> str:
    """The contract's `EntityTag` for a version."""
    return f'"{version.hex}"'


def parse_etag(etag: str) -> UUID:
    """The version in an `EntityTag`."""
    return UUID(etag[1:-1])
