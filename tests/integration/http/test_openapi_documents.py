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
    got = await client.get("/openapi.yaml")
    assert got.status_code == 200
    assert got.content == OPENAPI_PATH.read_bytes()


@pytest.mark.requirement("FR-032")
async def test_json_equals_the_yaml(client: ContractClient) -> None:
    got = await client.get("/openapi.json")
    assert got.status_code == 200
    assert got.json() == yaml.safe_load(OPENAPI_PATH.read_bytes())


@pytest.mark.requirement("FR-032")
async def test_json_keeps_the_order_of_the_file(client: ContractClient) -> None:
    got = await client.get("/openapi.json")
    assert json.dumps(got.json()) == json.dumps(yaml.safe_load(OPENAPI_PATH.read_bytes()))


@pytest.mark.requirement("FR-032")
@pytest.mark.parametrize(("path", "media_type"), DOCUMENTS.items())
async def test_document_has_its_media_type(
    client: ContractClient, path: str, media_type: str
) -> None:
    got = await client.get(path)
    assert got.headers["content-type"] == media_type
    assert int(got.headers["content-length"]) == len(got.content)


@pytest.mark.requirement("FR-013", "FR-032")
@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*", '{},W/"other"'])
async def test_current_etag_is_304(client: ContractClient, path: str, form: str) -> None:
    tag = (await client.get(path)).headers["etag"]
    got = await client.get(path, headers={"If-None-Match": form.format(tag)})
    assert got.status_code == 304
    assert got.headers["etag"] == tag
    assert got.content == b""


@pytest.mark.requirement("FR-013", "FR-032")
@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("tag", ['"other"', f'"{"0" * 32}"', f'W/"{"0" * 32}"', '""'])
async def test_other_etag_is_200(client: ContractClient, path: str, tag: str) -> None:
    got = await client.get(path, headers={"If-None-Match": tag})
    assert got.status_code == 200


@pytest.mark.requirement("FR-032", "NFR-002")
@pytest.mark.parametrize("path", DOCUMENTS)
async def test_etag_is_stable(client: ContractClient, path: str) -> None:
    one = await client.get(path)
    other = await client.get(path)
    assert one.headers["etag"] == other.headers["etag"]


@pytest.mark.requirement("FR-032")
async def test_yaml_and_json_have_different_etags(client: ContractClient) -> None:
    tags = [(await client.get(path)).headers["etag"] for path in DOCUMENTS]
    assert tags[0] != tags[1]


@pytest.mark.requirement("FR-021", "FR-032")
@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize(
    ("query", "headers", "fault"),
    [("?x=1", {}, "x"), ("", {"If-None-Match": "tag"}, "If-None-Match")],
)
async def test_document_parameters_are_validated(
    client: ContractClient, path: str, query: str, headers: dict[str, str], fault: str
) -> None:
    refused = await client.get(path + query, headers=headers)
    assert_problem(refused, 400, "invalid-parameter", fault)
