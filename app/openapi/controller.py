"""The contract as a document: its two operations."""

from __future__ import annotations

from litestar import get
from litestar.status_codes import HTTP_200_OK

from app.http.etags import is_not_modified
from app.http.headers import ETagHeaders
from app.http.operation import operation
from app.http.parameters import IfNoneMatchHeaders
from app.http.responses import APIResponse, NotModifiedResponse
from app.openapi.document import OpenAPIJson
from app.state import AppState


class OpenAPIYamlResponse(APIResponse[OpenAPIJson]):
    """The contract as YAML."""

    status = HTTP_200_OK
    content_type = "application/yaml"
    headers_type = ETagHeaders


class OpenAPIJsonResponse(APIResponse[OpenAPIJson]):
    """The contract as JSON."""

    status = HTTP_200_OK
    headers_type = ETagHeaders


@get("/openapi.yaml", operation_id="getContractYaml", tags=["contract"])
@operation()
async def get_contract_yaml(
    state: AppState, headers: IfNoneMatchHeaders
) -> OpenAPIYamlResponse | NotModifiedResponse:
    """Return `openapi.yaml` unchanged, or 304 if the client has it."""
    document = state.openapi
    if is_not_modified(headers.if_none_match, document.yaml_etag):
        return NotModifiedResponse(document.yaml_etag)
    return OpenAPIYamlResponse(document.yaml_bytes, ETagHeaders(document.yaml_etag))


@get("/openapi.json", operation_id="getContractJson", tags=["contract"])
@operation()
async def get_contract_json(
    state: AppState, headers: IfNoneMatchHeaders
) -> OpenAPIJsonResponse | NotModifiedResponse:
    """Answer the same document as JSON."""
    document = state.openapi
    if is_not_modified(headers.if_none_match, document.json_etag):
        return NotModifiedResponse(document.json_etag)
    return OpenAPIJsonResponse(document.json_bytes, ETagHeaders(document.json_etag))
