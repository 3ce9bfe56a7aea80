"""Operations that return the contract, `openapi.yaml`."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.status_codes import HTTP_200_OK

from app.http.etags import is_not_modified
from app.http.headers import ETagHeaders
from app.http.parameters import IfNoneMatchHeaders, NoParameters, Parameters
from app.http.responses import APIResponse, NotModifiedResponse
from app.openapi.document import OpenAPIJson
from app.state import app_state

GET_DOCUMENT = Parameters(NoParameters, NoParameters, IfNoneMatchHeaders)


class OpenAPIYamlResponse(APIResponse[OpenAPIJson]):
    """The contract as YAML."""

    status = HTTP_200_OK
    content_type = "application/yaml"
    headers_type = ETagHeaders


class OpenAPIJsonResponse(APIResponse[OpenAPIJson]):
    """The contract as JSON."""

    status = HTTP_200_OK
    headers_type = ETagHeaders


@get(
    "/openapi.yaml",
    operation_id="getContractYaml",
    tags=["contract"],
    parameters=GET_DOCUMENT,
)
async def get_contract_yaml(
    request: Request[Any, Any, Any],
) -> OpenAPIYamlResponse | NotModifiedResponse:
    """Return `openapi.yaml` unchanged, or 304 if the client has it."""
    _, _, headers = GET_DOCUMENT.parse(request)
    contract = app_state(request).openapi
    if is_not_modified(headers.if_none_match, contract.yaml_etag):
        return NotModifiedResponse(contract.yaml_etag)
    return OpenAPIYamlResponse(contract.yaml_bytes, ETagHeaders(contract.yaml_etag))


@get(
    "/openapi.json",
    operation_id="getContractJson",
    tags=["contract"],
    parameters=GET_DOCUMENT,
)
async def get_contract_json(
    request: Request[Any, Any, Any],
) -> OpenAPIJsonResponse | NotModifiedResponse:
    """Return the contract as JSON, or 304 if the client has it."""
    _, _, headers = GET_DOCUMENT.parse(request)
    contract = app_state(request).openapi
    if is_not_modified(headers.if_none_match, contract.json_etag):
        return NotModifiedResponse(contract.json_etag)
    return OpenAPIJsonResponse(contract.json_bytes, ETagHeaders(contract.json_etag))
