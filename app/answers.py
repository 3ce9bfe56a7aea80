"""Successful responses: a class for each, which says of it what the contract says.

A handler's return annotation names those that it answers with, so the type checker sees to it that
there are no others.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from litestar import MediaType, Response
from litestar.status_codes import HTTP_304_NOT_MODIFIED

from app.fields import Fields, Tagged

ContentT = TypeVar("ContentT")
NO_FIELDS = Fields()


class Answer(Response[ContentT | bytes]):
    """A response with a fixed status, media type and set of header fields.

    The type argument is the content, None for none; bytes are taken as encoded already.
    """

    status: ClassVar[int]
    declared_media_type: ClassVar[str] = MediaType.JSON.value
    fields: ClassVar[type[Fields]] = Fields
    # Path parameters of the operations on what was created, each with the member that holds it.
    links: ClassVar[dict[str, str]] = {}

    def __init__(self, content: ContentT | bytes, fields: Fields = NO_FIELDS) -> None:
        """`fields` is an instance of the class's own `fields`."""
        super().__init__(
            content,
            status_code=self.status,
            media_type=self.declared_media_type,
            headers=fields.named(),
        )


class NotModified(Answer[None]):
    """The client has the current representation already."""

    status = HTTP_304_NOT_MODIFIED
    fields = Tagged

    def __init__(self, etag: str) -> None:
        """`etag` is that of the current representation."""
        super().__init__(None, Tagged(etag))
