"""The contract as a document: its two operations, and the page that shows it to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litestar_offline_docs
from litestar import MediaType, Request, Response, get
from litestar.response import File
from litestar.status_codes import HTTP_304_NOT_MODIFIED
from litestar.types import ControllerRouterHandler

from app.core import core
from app.etags import is_unchanged
from app.parameters import IfNoneMatch, Nothing, Parameters
from app.problems import PathNotFound

GET_CONTRACT = Parameters(Nothing, Nothing, IfNoneMatch)
PAGE = (Path(__file__).parent / "docs.html").read_text("utf-8")
FILES = {"swagger-ui.css", "swagger-ui-bundle.js"}
ASSETS = Path(litestar_offline_docs.__file__).parent / "static"


@get("/openapi.yaml", operation_id="getContractYaml")
async def get_contract_yaml(request: Request[Any, Any, Any]) -> Response[bytes | None]:
    """Answer the file, byte for byte."""
    contract = core(request).contract
    return _document(request, contract.yaml, contract.yaml_etag, "application/yaml")


@get("/openapi.json", operation_id="getContractJson")
async def get_contract_json(request: Request[Any, Any, Any]) -> Response[bytes | None]:
    """Answer the same document as JSON."""
    contract = core(request).contract
    return _document(request, contract.json, contract.json_etag, MediaType.JSON)


def _document(
    request: Request[Any, Any, Any], content: bytes, etag: str, media_type: str
) -> Response[bytes | None]:
    _, _, headers = GET_CONTRACT.read(request)
    if is_unchanged(headers.if_none_match, etag):
        return Response(None, status_code=HTTP_304_NOT_MODIFIED, headers={"ETag": etag})
    return Response(content, media_type=media_type, headers={"ETag": etag})


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
