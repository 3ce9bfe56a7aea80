"""The structs of the operations on all data of a user. Components of the contract have their names.

`UserExport` is an alias, because its lines are not one JSON value.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# Lines of JSON, each of which ends with a newline.
UserExport = Annotated[str, Meta(pattern=r"^(\{[^\n]+\}\n)+\Z")]


class ExportEnd(msgspec.Struct, frozen=True):
    """The last line of a complete export."""

    kind: Literal["end"]
    lines: int


class UserDeletion(msgspec.Struct, frozen=True):
    """The state of an erasure that needs another request."""

    has_more: bool
