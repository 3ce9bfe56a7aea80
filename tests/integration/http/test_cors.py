"""CORS: requests from browsers on other origins."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from msgspec.structs import replace

from app.asgi import create_app
from app.settings import Settings, SettingsError
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running

pytestmark = pytest.mark.usefixtures("database")

ALICE = tasks_of("alice")
ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
TASK = f"{ALICE}/{ID}"
ALLOWED_ORIGIN = "https://tasks.example"
SECOND_ALLOWED_ORIGIN = "http://localhost:3000"
OTHER_ORIGIN = [
    "https://evil.example",
    "http://tasks.example",
    "https://tasks.example:444",
    "https://tasks.example.evil.example",
    "https://evil-tasks.example",
    "https://TASKS.example.",
    "https://tasksXexample",
    "https://tasks.example/",
    "https://tasks.example\n",
    "null",
    "",
    "*",
]
OPERATIONS = [
    ("GET", ALICE),
    ("POST", ALICE),
    ("GET", TASK),
    ("PUT", TASK),
    ("PATCH", TASK),
    ("DELETE", TASK),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
]
ERRORS = [
    ("GET", f"{ALICE}?x=1", 400),
    ("GET", TASK, 404),
    ("GET", "/nope", 404),
    ("GET", "/livez/", 404),
    ("OPTIONS", "/nope", 404),
    ("DELETE", ALICE, 405),
    ("POST", ALICE, 415),
]


async def client_for(settings: Settings, *origins: str) -> AsyncIterator[ContractClient]:
    app = create_app(replace(settings, cors_origins=origins))
    async with running(app), ContractClient(app) as client:
        yield client


@pytest.fixture
async def browser(settings: Settings) -> AsyncIterator[ContractClient]:
    async for client in client_for(settings, ALLOWED_ORIGIN, SECOND_ALLOWED_ORIGIN):
        yield client


@pytest.fixture
async def any_origin_client(settings: Settings) -> AsyncIterator[ContractClient]:
    async for client in client_for(settings, "*"):
        yield client


async def preflight(
    client: ContractClient, path: str, method: str, origin: str = ALLOWED_ORIGIN, fields: str = ""
) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    headers |= {"Access-Control-Request-Headers": fields} if fields else {}
    return await client.options(path, headers=headers)


def names(response: httpx.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in response.headers[header].split(",")}


def cors_fields(response: httpx.Response) -> list[str]:
    return [name for name in response.headers if name.startswith("access-control-")]


# --- off -----------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_no_origin_is_allowed_by_default(
    client: ContractClient, method: str, path: str
) -> None:
    response = await preflight(client, path, method)
    get_response = await client.request(method, path, headers={"Origin": ALLOWED_ORIGIN})
    assert response.status_code == 204
    assert cors_fields(response) == cors_fields(get_response) == []


# --- on ------------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("origin", [ALLOWED_ORIGIN, SECOND_ALLOWED_ORIGIN])
async def test_preflight_of_every_operation_succeeds(
    browser: ContractClient, origin: str, method: str, path: str
) -> None:
    fields = "content-type, if-match, if-none-match, x-request-id, traceparent, authorization"
    response = await preflight(browser, path, method, origin, fields)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == origin
    assert method.lower() in names(response, "access-control-allow-methods")
    assert names(response, "access-control-allow-headers") >= {
        header.strip() for header in fields.split(",")
    }
    assert int(response.headers["access-control-max-age"]) > 0
    assert "origin" in names(response, "vary")


@pytest.mark.requirement("FR-030", "FR-031")
async def test_preflight_has_an_allow_header(browser: ContractClient) -> None:
    response = await preflight(browser, TASK, "PATCH")
    assert response.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", OTHER_ORIGIN, ids=ascii)
@pytest.mark.parametrize("path", [ALICE, TASK, "/livez"])
async def test_preflight_from_other_origin_allows_nothing(
    browser: ContractClient, origin: str, path: str
) -> None:
    response = await preflight(browser, path, "PATCH", origin)
    assert response.status_code == 204
    assert cors_fields(response) == []


@pytest.mark.requirement("FR-031")
async def test_preflight_of_an_unknown_path_is_404(browser: ContractClient) -> None:
    assert_problem(await preflight(browser, "/nope", "GET"), 404, "path-not-found")


@pytest.mark.requirement("FR-031")
async def test_only_options_is_a_preflight(browser: ContractClient) -> None:
    headers = {"Origin": ALLOWED_ORIGIN, "Access-Control-Request-Method": "GET"}
    response = await browser.get("/livez", headers=headers)
    assert cors_fields(response) == [
        "access-control-allow-origin",
        "access-control-expose-headers",
    ]


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", [ALLOWED_ORIGIN, SECOND_ALLOWED_ORIGIN])
async def test_response_has_the_origin_of_the_request(browser: ContractClient, origin: str) -> None:
    created = await browser.post(ALICE, json={"title": "a"}, headers={"Origin": origin})
    assert created.status_code == 201
    assert created.headers["access-control-allow-origin"] == origin
    assert "origin" in names(created, "vary")


@pytest.mark.requirement("FR-031")
async def test_declared_headers_are_exposed(
    browser: ContractClient,
) -> None:
    tasks = await browser.get(ALICE, headers={"Origin": ALLOWED_ORIGIN})
    exposed = names(tasks, "access-control-expose-headers")
    assert exposed == {"etag", "location", "retry-after", "x-request-id"}


@pytest.mark.requirement("FR-031")
async def test_credentials_are_not_allowed(browser: ContractClient) -> None:
    response = await preflight(browser, ALICE, "POST")
    tasks = await browser.get(ALICE, headers={"Origin": ALLOWED_ORIGIN})
    assert "access-control-allow-credentials" not in response.headers
    assert "access-control-allow-credentials" not in tasks.headers


@pytest.mark.requirement("FR-027", "FR-031")
@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
async def test_error_is_readable_from_allowed_origin(
    browser: ContractClient, method: str, path: str, status: int
) -> None:
    response = await browser.request(method, path, headers={"Origin": ALLOWED_ORIGIN})
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.requirement("FR-031")
async def test_304_is_readable_from_allowed_origin(browser: ContractClient) -> None:
    headers = {"Origin": ALLOWED_ORIGIN, "If-None-Match": "*"}
    response = await browser.get("/openapi.json", headers=headers)
    assert response.status_code == 304
    assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN


@pytest.mark.requirement("FR-030", "FR-031")
async def test_allow_header_is_readable_from_allowed_origin(browser: ContractClient) -> None:
    response = await browser.options(ALICE, headers={"Origin": ALLOWED_ORIGIN})
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", OTHER_ORIGIN, ids=ascii)
async def test_other_origin_cannot_read_the_response(browser: ContractClient, origin: str) -> None:
    response = await browser.get(ALICE, headers={"Origin": origin})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.requirement("FR-031")
async def test_request_without_origin_is_unaffected(browser: ContractClient) -> None:
    response = await browser.get(ALICE)
    assert response.status_code == 200
    assert cors_fields(response) == []


# --- every origin --------------------------------------------------------------------------------


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", [ALLOWED_ORIGIN, "https://evil.example", "null"])
async def test_asterisk_allows_every_origin(any_origin_client: ContractClient, origin: str) -> None:
    response = await preflight(any_origin_client, TASK, "DELETE", origin)
    tasks = await any_origin_client.get(ALICE, headers={"Origin": origin})
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "*"
    assert tasks.headers["access-control-allow-origin"] == "*"


@pytest.mark.requirement("FR-031")
async def test_asterisk_does_not_allow_credentials(any_origin_client: ContractClient) -> None:
    headers = {"Origin": "https://evil.example", "Cookie": "session=1"}
    response = await any_origin_client.get(ALICE, headers=headers)
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.requirement("FR-031", "FR-037")
@pytest.mark.parametrize(
    "origin", ["https://*.tasks.example", "https://*", "https://tasks.example:*", "**"]
)
def test_asterisk_within_an_origin_is_invalid(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"^CORS_ORIGINS: "):
        Settings.from_env({"CORS_ORIGINS": origin})
