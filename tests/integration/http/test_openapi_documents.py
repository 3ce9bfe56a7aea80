"""getContractYaml and getContractJson."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import yaml

from app.http.middleware import HTTPMiddleware
from app.openapi.document import OPENAPI_PATH
from tests.support.client import ContractClient, assert_problem

DOCUMENTS = {"/openapi.yaml": "application/yaml", "/openapi.json": "application/json"}


@pytest.fixture
async def client(app: HTTPMiddleware) -> AsyncIterator[ContractClient]:
    async with ContractClient(app) as opened:
        yield opened


@pytest.mark.requirement("FR-032")
async def test_yaml_equals_the_file(client: ContractClient) -> None:
    response = await client.get("/openapi.yaml")
    assert response.status_code == 200
    assert response.content == OPENAPI_PATH.read_bytes()


@pytest.mark.requirement("FR-032")
async def test_json_equals_the_yaml(client: ContractClient) -> None:
    response = await client.get("/openapi.json")
    assert response.status_code == 200
    assert response.json() == yaml.safe_load(OPENAPI_PATH.read_bytes())


@pytest.mark.requirement("FR-032")
async def test_json_keeps_the_order_of_the_file(client: ContractClient) -> None:
    response = await client.get("/openapi.json")
    assert json.dumps(response.json()) == json.dumps(yaml.safe_load(OPENAPI_PATH.read_bytes()))


@pytest.mark.requirement("FR-032")
@pytest.mark.parametrize(("path", "media_type"), DOCUMENTS.items())
async def test_document_has_its_media_type(
    client: ContractClient, path: str, media_type: str
) -> None:
    response = await client.get(path)
    assert response.headers["content-type"] == media_type
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.requirement("FR-013", "FR-032")
@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("template", ["{}", "W/{}", '"other", {}', "*", '{},W/"other"'])
async def test_current_etag_is_304(client: ContractClient, path: str, template: str) -> None:
    etag = (await client.get(path)).headers["etag"]
    response = await client.get(path, headers={"If-None-Match": template.format(etag)})
    assert response.status_code == 304
    assert response.headers["etag"] == etag
    assert response.content == b""


@pytest.mark.requirement("FR-013", "FR-032")
@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("etag", ['"other"', f'"{"0" * 32}"', f'W/"{"0" * 32}"', '""'])
async def test_other_etag_is_200(client: ContractClient, path: str, etag: str) -> None:
    response = await client.get(path, headers={"If-None-Match": etag})
    assert response.status_code == 200


@pytest.mark.requirement("FR-032", "NFR-002")
@pytest.mark.parametrize("path", DOCUMENTS)
async def test_etag_is_stable(client: ContractClient, path: str) -> None:
    one = await client.get(path)
    other = await client.get(path)
    assert one.headers["etag"] == other.headers["etag"]


@pytest.mark.requirement("FR-032")
async def test_yaml_and_json_have_different_etags(client: ContractClient) -> None:
    etags = [(await client.get(path)).headers["etag"] for path in DOCUMENTS]
    assert etags[0] != etags[1]


@pytest.mark.requirement("FR-021", "FR-032")
@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize(
    ("query", "headers", "error"),
    [("?x=1", {}, "x"), ("", {"If-None-Match": "tag"}, "If-None-Match")],
)
async def test_document_parameters_are_validated(
    client: ContractClient, path: str, query: str, headers: dict[str, str], error: str
) -> None:
    response = await client.get(path + query, headers=headers)
    assert_problem(response, 400, "invalid-parameter", error)
