"""The ASGI messages of a response."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from app.http.headers import CreatedHeaders
from app.http.responses import APIResponse, NotModifiedResponse

pytestmark = pytest.mark.requirement("FR-029")


class Thing(msgspec.Struct):
    name: str


class CreatedThing(APIResponse[Thing]):
    status = 201
    fields = CreatedHeaders


async def messages_of(response: APIResponse[Any]) -> list[Any]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    receive: Any = None
    await response.to_asgi_response()(cast("Any", {}), receive, send)
    return messages


@pytest.mark.parametrize("content", [Thing("a"), b'{"name":"a"}'], ids=["struct", "bytes"])
async def test_response_is_two_asgi_messages(content: Thing | bytes) -> None:
    assert await messages_of(CreatedThing(content, CreatedHeaders('"1"', "/things/1"))) == [
        {
            "type": "http.response.start",
            "status": 201,
            "headers": [
                (b"etag", b'"1"'),
                (b"location", b"/things/1"),
                (b"content-type", b"application/json"),
                (b"content-length", b"12"),
            ],
        },
        {"type": "http.response.body", "body": b'{"name":"a"}', "more_body": False},
    ]


async def test_not_modified_response_has_no_body() -> None:
    assert await messages_of(NotModifiedResponse('"1"')) == [
        {"type": "http.response.start", "status": 304, "headers": [(b"etag", b'"1"')]},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


async def test_plug_in_may_add_headers() -> None:
    response = NotModifiedResponse('"1"')
    response.set_header("X-Plug-In", 7)
    start, _ = await messages_of(response)
    assert start["headers"] == [(b"etag", b'"1"'), (b"x-plug-in", b"7")]


def test_response_has_the_attributes_that_litestar_expects() -> None:
    response = NotModifiedResponse('"1"')
    litestar_response: Any = super(APIResponse, response)
    attributes = {name: getattr(response, name) for name in APIResponse.__mro__[1].__slots__}  # type: ignore[attr-defined]
    litestar_response.__init__(
        None, status_code=304, media_type="application/json", headers={"ETag": '"1"'}
    )
    assert attributes == {name: getattr(response, name) for name in attributes}
