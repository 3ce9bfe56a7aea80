"""The contract as a document: its two operations, and the page that shows it to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litestar_offline_docs
from litestar import MediaType, Request, get
from litestar.response import File
from litestar.status_codes import HTTP_200_OK
from litestar.types import ControllerRouterHandler

from app.answers import Answer, NotModified
from app.contract import OpenApiDocument
from app.core import core
from app.etags import is_unchanged
from app.fields import Tagged
from app.parameters import IfNoneMatch, Nothing, Parameters
from app.problems import PathNotFound

GET_CONTRACT = Parameters(Nothing, Nothing, IfNoneMatch)
PAGE = (Path(__file__).parent / "docs.html").read_bytes().decode()
FILES = {"swagger-ui.css", "swagger-ui-bundle.js"}
ASSETS = Path(litestar_offline_docs.__file__).parent / "static"


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


@get("/docs", media_type=MediaType.HTML)
async def show_docs() -> str:
    """Show the contract in a browser. For people, and so no operation of the contract."""
    return PAGE


@get("/docs/assets/{name:str}")
async def get_asset(request: Request[Any, Any, Any]) -> File:
    """Answer a file of the page, and nothing else that a path may name."""
    name = request.path_params["name"]
    if name not in FILES:
        raise PathNotFound
    return File(ASSETS / name, filename=name, content_disposition_type="inline")


def docs_handlers() -> list[ControllerRouterHandler]:
    """The page and the files it needs, all from this process."""
    return [show_docs, get_asset]
