"""Rules for every path: common headers, HEAD, OPTIONS, 404 and 405."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.http.middleware import HTTPMiddleware
from app.openapi.document import OPENAPI_PATH
from app.settings import Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.live import Browser, LiveServer, request, serve_in_thread

ALICE = tasks_of("alice")
ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
TASK = f"{ALICE}/{ID}"
MILK = {"title": "Buy milk", "description": None, "completed": False}
ALLOW = {
    ALICE: "GET, HEAD, OPTIONS, POST",
    TASK: "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
    "/livez": "GET, HEAD, OPTIONS",
    "/readyz": "GET, HEAD, OPTIONS",
    "/openapi.yaml": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
}
DOCS = ["/docs", "/docs/assets/swagger-ui.css", "/", "/problems/invalid-body"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "QUERY", "OPTIONS"]
OTHER_METHODS = [
    (method, path)
    for path, allowed in ALLOW.items()
    for method in METHODS
    if method not in allowed.split(", ")
]
# One request for each type of response.
RESPONSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "200": ("GET", TASK, {}),
    "201": ("POST", ALICE, {"json": MILK}),
    "204 deleted": ("DELETE", TASK, {}),
    "204 options": ("OPTIONS", TASK, {}),
    "304": ("GET", TASK, {"headers": {"If-None-Match": "*"}}),
    "400 parameter": ("GET", f"{ALICE}?x=1", {}),
    "400 cursor": ("GET", f"{ALICE}?cursor={'A' * 56}", {}),
    "400 body": ("POST", ALICE, {"content": "{", "headers": {"Content-Type": "application/json"}}),
    "404 task": ("GET", f"{tasks_of('bob')}/{ID}", {}),
    "404 path": ("GET", "/nope", {}),
    "404 slash": ("GET", "/livez/", {}),
    "404 double slash": ("GET", "//livez", {}),
    "404 options": ("OPTIONS", "/nope", {}),
    "405": ("DELETE", ALICE, {}),
    "412": ("PUT", TASK, {"json": MILK, "headers": {"If-None-Match": "*"}}),
    "413": (
        "POST",
        ALICE,
        {"content": b" " * 131_073, "headers": {"Content-Type": "application/json"}},
    ),
    "415": ("POST", ALICE, {"content": "{}"}),
    "422": ("POST", ALICE, {"json": {}}),
    "liveness": ("GET", "/livez", {}),
    "readiness": ("GET", "/readyz", {}),
    "contract": ("GET", "/openapi.yaml", {}),
    "docs": ("GET", "/docs", {}),
    "asset": ("GET", "/docs/assets/swagger-ui.css", {}),
    "asset 404": ("GET", "/docs/assets/nope.js", {}),
    "asset 304": ("GET", "/docs/assets/docs.js", {"headers": {"If-None-Match": "*"}}),
    "redirect": ("GET", "/", {}),
    "problem page": ("GET", "/problems/invalid-body", {}),
}


@pytest.fixture(scope="module")
def live(settings: Settings) -> Iterator[LiveServer]:
    with serve_in_thread(settings) as server:
        yield server


@pytest.fixture
async def client(app: HTTPMiddleware) -> AsyncIterator[Browser]:
    async with Browser(app) as browser:
        yield browser


@pytest.fixture
async def stored_task(client: ContractClient) -> None:
    await client.put(TASK, json=MILK)


async def ask(
    client: ContractClient, name: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    method, path, options = RESPONSES[name]
    data = {**options, "headers": {**options.get("headers", {}), **(headers or {})}}
    return await client.request(method, httpx.URL(f"http://tasks.test{path}"), **data)


def assert_common_headers(response: httpx.Response) -> str:
    """Check that each common header occurs once, and return the request id."""
    names = [name.lower() for name, _ in response.headers.multi_items()]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-cache"
    for name in ("x-request-id", "x-content-type-options", "cache-control"):
        assert names.count(name) == 1
    return response.headers["x-request-id"]


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-029")
@pytest.mark.usefixtures("stored_task")
@pytest.mark.parametrize("name", list(RESPONSES))
async def test_every_response_has_the_common_headers(client: ContractClient, name: str) -> None:
    response = await ask(client, name)
    assert str(response.status_code) == name[:3] or name[:1].isalpha()
    assert UUID(assert_common_headers(response)).version == 7


@pytest.mark.requirement("FR-029")
@pytest.mark.usefixtures("stored_task")
@pytest.mark.parametrize("name", list(RESPONSES))
async def test_every_response_repeats_a_valid_request_id(client: ContractClient, name: str) -> None:
    response = await ask(client, name, {"X-Request-ID": "Trace_1.a-Z"})
    assert assert_common_headers(response) == "Trace_1.a-Z"


@pytest.mark.requirement("FR-027", "FR-029")
@pytest.mark.usefixtures("stored_task")
@pytest.mark.parametrize("name", [name for name in RESPONSES if name[0] == "4"])
async def test_every_error_is_a_problem_with_its_request_id(
    client: ContractClient, name: str
) -> None:
    response = await ask(client, name, {"X-Request-ID": "mine"})
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["instance"] == "mine"
    assert problem["status"] == response.status_code


@pytest.mark.requirement("FR-027")
@pytest.mark.usefixtures("stored_task")
@pytest.mark.parametrize("name", list(RESPONSES))
@pytest.mark.parametrize("accept", ["text/html", "application/xml;q=1", "nonsense", "*/*;q=0"])
async def test_accept_is_ignored(client: ContractClient, name: str, accept: str) -> None:
    plain = await ask(client, name)
    await client.put(TASK, json=MILK)
    response = await ask(client, name, {"Accept": accept})
    assert response.status_code == plain.status_code
    assert response.headers.get("content-type") == plain.headers.get("content-type")


@pytest.mark.requirement("FR-029")
@pytest.mark.parametrize("value", ["a", "0", "-", ".", "_", "x" * 128, str(UUID(int=7))])
async def test_valid_request_id_is_kept(client: ContractClient, value: str) -> None:
    response = await client.get("/livez", headers={"X-Request-ID": value})
    assert response.headers["x-request-id"] == value


@pytest.mark.requirement("FR-029")
@pytest.mark.parametrize(
    "value", ["", " ", "x" * 129, "a b", "a/b", "a,b", "{a}", 'a"', "a:b", "a+b", "a\tb", "é"]
)
async def test_invalid_request_id_is_replaced(client: ContractClient, value: str) -> None:
    response = await client.get("/livez", headers={b"X-Request-ID": value.encode()})
    assert UUID(response.headers["x-request-id"]).version == 7


@pytest.mark.requirement("FR-029")
async def test_request_ids_are_unique(client: ContractClient) -> None:
    one = await client.get("/livez")
    other = await client.get("/livez")
    assert one.headers["x-request-id"] != other.headers["x-request-id"]


@pytest.mark.requirement("FR-028", "FR-029")
@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/livez", "Connection: close"),
        request("GET", "/nope", "Connection: close"),
        b"garbage\r\n\r\n",
        request("GET", "/livez", "X: " + "x" * 40_000),
    ],
    ids=["200", "404", "400", "431"],
)
def test_response_has_no_server_header(live: LiveServer, data: bytes) -> None:
    response = live.exchange(data)
    assert "server" not in response.headers
    assert assert_common_headers(response)


# --- HEAD ----------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-030")
@pytest.mark.usefixtures("stored_task")
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (ALICE, {}),
        (f"{ALICE}?limit=1", {}),
        (f"{ALICE}?limit=0", {}),
        (TASK, {}),
        (TASK, {"If-None-Match": "*"}),
        (TASK, {"If-None-Match": "?"}),
        (f"{tasks_of('bob')}/{ID}", {}),
        ("/livez", {}),
        ("/livez?x=1", {}),
        ("/readyz", {}),
        ("/openapi.yaml", {}),
        ("/openapi.json", {}),
        ("/openapi.json", {"If-None-Match": "*"}),
        ("/docs", {}),
        ("/docs/assets/swagger-ui.css", {}),
        ("/", {}),
        ("/problems/invalid-body", {}),
        ("/nope", {}),
        ("/livez/", {}),
    ],
    ids=str,
)
async def test_head_has_the_headers_of_get_and_no_body(
    client: ContractClient, path: str, headers: dict[str, str]
) -> None:
    headers = {**headers, "X-Request-ID": "the-same"}
    response = await client.get(path, headers=headers)
    head = await client.head(path, headers=headers)
    assert head.status_code == response.status_code
    assert head.headers == response.headers
    assert head.content == b""


@pytest.mark.requirement("FR-030")
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("path", ["/livez", "/openapi.json", "/docs", "/nope", ALICE, *DOCS[1:]])
def test_head_has_the_content_length_of_get(live: LiveServer, path: str) -> None:
    response = live.call("GET", path)
    head = live.call("HEAD", path)
    assert int(head.headers["content-length"]) == len(response.content)


# --- OPTIONS and 405 -----------------------------------------------------------------------------


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize(("path", "allowed"), ALLOW.items())
async def test_options_is_204_with_all_methods(
    client: ContractClient, path: str, allowed: str
) -> None:
    response = await client.options(path)
    assert response.status_code == 204
    assert response.headers["allow"] == allowed


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize("path", DOCS)
async def test_options_is_204_on_html_pages(client: ContractClient, path: str) -> None:
    response = await client.options(path)
    assert response.status_code == 204
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.requirement("FR-030")
async def test_options_of_a_missing_task_is_204(client: ContractClient) -> None:
    assert (await client.options(f"{ALICE}/{ID}")).status_code == 204


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize("path", ["/nope", "/livez/", "/openapiXyaml", "/problems"])
async def test_options_of_an_unknown_path_is_404(client: ContractClient, path: str) -> None:
    assert_problem(await client.options(path), 404, "path-not-found")


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json", "/schema/swagger"])
async def test_framework_adds_no_routes(client: ContractClient, path: str) -> None:
    assert_problem(await client.get(path), 404, "path-not-found")


@pytest.mark.requirement("FR-027", "FR-030")
@pytest.mark.parametrize(("method", "path"), OTHER_METHODS)
async def test_other_method_is_405_with_all_methods(
    client: ContractClient, method: str, path: str
) -> None:
    response = await client.request(method, path)
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == ALLOW[path]


@pytest.mark.requirement("FR-027", "FR-030")
@pytest.mark.parametrize("path", DOCS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_other_method_is_405_on_html_pages(
    client: ContractClient, method: str, path: str
) -> None:
    response = await client.request(method, path)
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.requirement("FR-027", "FR-030")
@pytest.mark.parametrize(("method", "path"), [*OTHER_METHODS[:1], ("PUT", "/livez")])
async def test_method_is_checked_before_parameters(
    client: ContractClient, method: str, path: str
) -> None:
    response = await client.request(method, f"{path}?x=1", content=b"{")
    assert_problem(response, 405, "method-not-allowed")


@pytest.mark.requirement("FR-027")
@pytest.mark.parametrize("method", METHODS)
async def test_unknown_path_is_404_for_every_method(client: ContractClient, method: str) -> None:
    response = await client.request(method, "/api/v1/nope?x=1")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize("value", ["POST", "DELETE"])
@pytest.mark.usefixtures("stored_task")
async def test_method_overrides_are_ignored(client: ContractClient, value: str) -> None:
    headers = {"X-HTTP-Method-Override": value, "X-HTTP-Method": value, "X-Method-Override": value}
    assert (await client.get(TASK, headers=headers)).json()["title"] == "Buy milk"


@pytest.mark.requirement("FR-027", "FR-028")
@pytest.mark.usefixtures("stored_task")
@pytest.mark.parametrize("name", [name for name in RESPONSES if name[0] == "4"])
async def test_errors_do_not_reveal_the_implementation(client: ContractClient, name: str) -> None:
    text = (await ask(client, name)).text
    forbidden = (
        r"(?i)litestar|uvicorn|msgspec|asyncpg|sqlalchemy|postgres|python|traceback|\.py|"
        + re.escape(str(OPENAPI_PATH.parent))
    )
    assert re.search(forbidden, text) is None


@pytest.mark.requirement("FR-029")
async def test_last_of_several_request_ids_is_used(client: ContractClient) -> None:
    fields = [("X-Request-ID", "first"), ("X-Request-ID", "last")]
    response = await client.get("/livez", headers=fields)
    assert response.headers["x-request-id"] == "last"


@pytest.mark.requirement("FR-022")
async def test_path_is_matched_after_decoding(client: ContractClient) -> None:
    app = client._transport
    async with httpx.AsyncClient(transport=app, base_url="http://tasks.test") as plain:
        response = await plain.get("/%6civez")
    assert response.json() == {"status": "alive"}
