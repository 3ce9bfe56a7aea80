"""The contract as a document: its two operations."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.status_codes import HTTP_200_OK

from app.http.etags import is_unchanged
from app.http.headers import Tagged
from app.http.parameters import IfNoneMatch, Nothing, Parameters
from app.http.responses import Answer, NotModified
from app.openapi.document import OpenApiDocument
from app.state import core

GET_CONTRACT = Parameters(Nothing, Nothing, IfNoneMatch)


class Yaml(Answer[OpenApiDocument]):
    """The contract's file."""

    status = HTTP_200_OK
    declared_media_type = "application/yaml"
    fields = Tagged


class Json(Answer[OpenApiDocument]):
    """The same document as JSON."""

    status = HTTP_200_OK
    fields = Tagged


@get(
    "/openapi.yaml",
    operation_id="getContractYaml",
    tags=["contract"],
    parameters=GET_CONTRACT,
)
async def get_contract_yaml(request: Request[Any, Any, Any]) -> Yaml | NotModified:
    """Answer the file, byte for byte."""
    _, _, headers = GET_CONTRACT.read(request)
    contract = core(request).contract
    if is_unchanged(headers.if_none_match, contract.yaml_etag):
        return NotModified(contract.yaml_etag)
    return Yaml(contract.yaml, Tagged(contract.yaml_etag))


@get(
    "/openapi.json",
    operation_id="getContractJson",
    tags=["contract"],
    parameters=GET_CONTRACT,
)
async def get_contract_json(request: Request[Any, Any, Any]) -> Json | NotModified:
    """Answer the same document as JSON."""
    _, _, headers = GET_CONTRACT.read(request)
    contract = core(request).contract
    if is_unchanged(headers.if_none_match, contract.json_etag):
        return NotModified(contract.json_etag)
    return Json(contract.json, Tagged(contract.json_etag))
