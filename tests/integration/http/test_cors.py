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
HOME = "https://tasks.example"
OTHER_HOME = "http://localhost:3000"
FOREIGN = [
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
    async with running(app), ContractClient(app) as opened:
        yield opened


@pytest.fixture
async def browser(settings: Settings) -> AsyncIterator[ContractClient]:
    async for opened in client_for(settings, HOME, OTHER_HOME):
        yield opened


@pytest.fixture
async def anybody(settings: Settings) -> AsyncIterator[ContractClient]:
    async for opened in client_for(settings, "*"):
        yield opened


async def preflight(
    client: ContractClient, path: str, method: str, origin: str = HOME, fields: str = ""
) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    headers |= {"Access-Control-Request-Headers": fields} if fields else {}
    return await client.options(path, headers=headers)


def names(response: httpx.Response, field: str) -> set[str]:
    return {name.strip().lower() for name in response.headers[field].split(",")}


def cors_fields(response: httpx.Response) -> list[str]:
    return [name for name in response.headers if name.startswith("access-control-")]


# --- off -----------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_no_origin_is_allowed_by_default(
    client: ContractClient, method: str, path: str
) -> None:
    asked = await preflight(client, path, method)
    answered = await client.request(method, path, headers={"Origin": HOME})
    assert asked.status_code == 204
    assert cors_fields(asked) == cors_fields(answered) == []


# --- on ------------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("origin", [HOME, OTHER_HOME])
async def test_preflight_of_every_operation_succeeds(
    browser: ContractClient, origin: str, method: str, path: str
) -> None:
    fields = "content-type, if-match, if-none-match, x-request-id, traceparent, authorization"
    asked = await preflight(browser, path, method, origin, fields)
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == origin
    assert method.lower() in names(asked, "access-control-allow-methods")
    assert names(asked, "access-control-allow-headers") >= {
        field.strip() for field in fields.split(",")
    }
    assert int(asked.headers["access-control-max-age"]) > 0
    assert "origin" in names(asked, "vary")


@pytest.mark.requirement("FR-030", "FR-031")
async def test_preflight_has_an_allow_header(browser: ContractClient) -> None:
    asked = await preflight(browser, TASK, "PATCH")
    assert asked.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", FOREIGN, ids=ascii)
@pytest.mark.parametrize("path", [ALICE, TASK, "/livez"])
async def test_preflight_from_other_origin_allows_nothing(
    browser: ContractClient, origin: str, path: str
) -> None:
    asked = await preflight(browser, path, "PATCH", origin)
    assert asked.status_code == 204
    assert cors_fields(asked) == []


@pytest.mark.requirement("FR-031")
async def test_preflight_of_an_unknown_path_is_404(browser: ContractClient) -> None:
    assert_problem(await preflight(browser, "/nope", "GET"), 404, "path-not-found")


@pytest.mark.requirement("FR-031")
async def test_only_options_is_a_preflight(browser: ContractClient) -> None:
    headers = {"Origin": HOME, "Access-Control-Request-Method": "GET"}
    answered = await browser.get("/livez", headers=headers)
    assert cors_fields(answered) == [
        "access-control-allow-origin",
        "access-control-expose-headers",
    ]


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", [HOME, OTHER_HOME])
async def test_response_has_the_origin_of_the_request(browser: ContractClient, origin: str) -> None:
    created = await browser.post(ALICE, json={"title": "a"}, headers={"Origin": origin})
    assert created.status_code == 201
    assert created.headers["access-control-allow-origin"] == origin
    assert "origin" in names(created, "vary")


@pytest.mark.requirement("FR-031")
async def test_declared_headers_are_exposed(
    browser: ContractClient,
) -> None:
    listed = await browser.get(ALICE, headers={"Origin": HOME})
    exposed = names(listed, "access-control-expose-headers")
    assert exposed == {"etag", "location", "retry-after", "x-request-id"}


@pytest.mark.requirement("FR-031")
async def test_credentials_are_not_allowed(browser: ContractClient) -> None:
    asked = await preflight(browser, ALICE, "POST")
    listed = await browser.get(ALICE, headers={"Origin": HOME})
    assert "access-control-allow-credentials" not in asked.headers
    assert "access-control-allow-credentials" not in listed.headers


@pytest.mark.requirement("FR-027", "FR-031")
@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
async def test_error_is_readable_from_allowed_origin(
    browser: ContractClient, method: str, path: str, status: int
) -> None:
    refused = await browser.request(method, path, headers={"Origin": HOME})
    assert refused.status_code == status
    assert refused.headers["access-control-allow-origin"] == HOME
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.requirement("FR-031")
async def test_304_is_readable_from_allowed_origin(browser: ContractClient) -> None:
    headers = {"Origin": HOME, "If-None-Match": "*"}
    answered = await browser.get("/openapi.json", headers=headers)
    assert answered.status_code == 304
    assert answered.headers["access-control-allow-origin"] == HOME


@pytest.mark.requirement("FR-030", "FR-031")
async def test_allow_header_is_readable_from_allowed_origin(browser: ContractClient) -> None:
    answered = await browser.options(ALICE, headers={"Origin": HOME})
    assert answered.status_code == 204
    assert answered.headers["access-control-allow-origin"] == HOME


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", FOREIGN, ids=ascii)
async def test_other_origin_cannot_read_the_response(browser: ContractClient, origin: str) -> None:
    listed = await browser.get(ALICE, headers={"Origin": origin})
    assert listed.status_code == 200
    assert "access-control-allow-origin" not in listed.headers


@pytest.mark.requirement("FR-031")
async def test_request_without_origin_is_unaffected(browser: ContractClient) -> None:
    listed = await browser.get(ALICE)
    assert listed.status_code == 200
    assert cors_fields(listed) == []


# --- every origin --------------------------------------------------------------------------------


@pytest.mark.requirement("FR-031")
@pytest.mark.parametrize("origin", [HOME, "https://evil.example", "null"])
async def test_asterisk_allows_every_origin(anybody: ContractClient, origin: str) -> None:
    asked = await preflight(anybody, TASK, "DELETE", origin)
    listed = await anybody.get(ALICE, headers={"Origin": origin})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "*"
    assert listed.headers["access-control-allow-origin"] == "*"


@pytest.mark.requirement("FR-031")
async def test_asterisk_does_not_allow_credentials(anybody: ContractClient) -> None:
    headers = {"Origin": "https://evil.example", "Cookie": "session=1"}
    listed = await anybody.get(ALICE, headers=headers)
    assert "access-control-allow-credentials" not in listed.headers


@pytest.mark.requirement("FR-031", "FR-037")
@pytest.mark.parametrize(
    "origin", ["https://*.tasks.example", "https://*", "https://tasks.example:*", "**"]
)
def test_asterisk_within_an_origin_is_invalid(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"^CORS_ORIGINS: "):
        Settings.from_env({"CORS_ORIGINS": origin})
