"""The HTML pages: `/`, `/docs` and `/problems/...`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.http.middleware import HTTPMiddleware
from app.http.problems import PROBLEM_TYPES, REASON_PHRASES, ProblemError
from app.openapi.document import OpenAPIDocument
from app.openapi.pages import ASSETS, DOCS_DIR, Asset
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.live import Browser

pytestmark = pytest.mark.requirement("FR-032")

MEDIA_TYPES = {
    "docs.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}


@pytest.fixture
async def client(app: HTTPMiddleware) -> AsyncIterator[Browser]:
    async with Browser(app) as opened:
        yield opened


# --- API documentation ---------------------------------------------------------------------------


async def test_root_redirects_to_the_docs(client: ContractClient) -> None:
    response = await client.get("/")
    assert response.status_code == 302
    assert response.headers["location"] == "/docs"


class References(HTMLParser):
    """Collects the URLs that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.urls += [value for name, value in attrs if name in {"src", "href"} and tag != "a"]


async def test_docs_page_loads_the_openapi_document(client: ContractClient) -> None:
    response = await client.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    script = await client.get("/docs/assets/docs.js")
    assert "'/openapi.json'" in script.text


async def test_docs_page_needs_no_other_host(client: ContractClient) -> None:
    page = (await client.get("/docs")).text
    references = References()
    references.feed(page)
    assert sorted(references.urls) == [
        "/docs/assets/docs.js",
        "/docs/assets/swagger-ui-bundle.js",
        "/docs/assets/swagger-ui.css",
        "data:,",
    ]
    assert re.findall(r"(?:https?:)?//[a-z]", page) == []


async def test_style_sheet_needs_no_other_host(client: ContractClient) -> None:
    style = (await client.get("/docs/assets/swagger-ui.css")).text
    loaded = re.findall(r"url\(\s*['\"]?([^'\")]{5})", style)
    assert set(loaded) <= {"data:"}
    assert "@import" not in style


@pytest.mark.parametrize(("name", "media_type"), MEDIA_TYPES.items())
async def test_every_asset_of_the_docs_page_exists(
    client: ContractClient, name: str, media_type: str
) -> None:
    response = await client.get(f"/docs/assets/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert int(response.headers["content-length"]) == len(response.content) > 1_000


@pytest.mark.parametrize("name", MEDIA_TYPES)
async def test_cached_asset_is_304(client: ContractClient, name: str) -> None:
    response = await client.get(f"/docs/assets/{name}")
    known = {"If-None-Match": response.headers["etag"]}
    second = await client.get(f"/docs/assets/{name}", headers=known)
    assert second.status_code == 304
    assert second.headers["etag"] == response.headers["etag"]
    assert second.content == b""
    other = await client.get(f"/docs/assets/{name}", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_asset_etag_depends_on_its_content(name: str, tmp_path: Path) -> None:
    copy = tmp_path / name
    copy.write_bytes(ASSETS[name].content)
    os.utime(copy, (0, 0))  # like on a replica that was installed at another time
    assert Asset(copy, "text/plain").etag == ASSETS[name].etag
    copy.write_bytes(ASSETS[name].content + b" ")
    assert Asset(copy, "text/plain").etag != ASSETS[name].etag


@pytest.mark.parametrize("path", ["/docs", "/problems/invalid-body"])
async def test_content_security_policy_allows_own_scripts_only(
    client: ContractClient, path: str
) -> None:
    response = await client.get(path)
    policy = dict(
        directive.split(" ", 1)
        for directive in response.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", response.text) == []


@pytest.mark.requirement("FR-022", "FR-027")
@pytest.mark.parametrize(
    "name",
    [
        "nope.js",
        ".",
        "../__init__.py",
        "%2e%2e/__init__.py",
        "..%2f__init__.py",
        "..%5c__init__.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "swagger-ui.css/",
        "swagger-ui.css/x",
        "swagger-ui.css%00",
        "%00",
        "%ff",
        "x" * 300,
        "x/" * 3000 + "x",
    ],
    ids=lambda name: name[:24],
)
async def test_missing_asset_is_404(client: ContractClient, name: str) -> None:
    response = await client.get(f"/docs/assets/{name}")
    assert_problem(response, 404, "path-not-found")


# --- problem types -------------------------------------------------------------------------------


def slug_of(problem_type: type[ProblemError]) -> str:
    """Return the last path segment of a problem type."""
    return problem_type.type.removeprefix("/problems/")


def test_every_problem_type_has_a_description_and_advice(contract: OpenAPIDocument) -> None:
    slugs = {slug_of(problem_type) for problem_type in PROBLEM_TYPES}
    assert set(contract.problems) == slugs
    assert all(problem_type.advice for problem_type in PROBLEM_TYPES)


@pytest.mark.parametrize("problem", PROBLEM_TYPES, ids=slug_of)
async def test_problem_type_is_a_page(
    client: ContractClient, contract: OpenAPIDocument, problem: type[ProblemError]
) -> None:
    response = await client.get(problem.type)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    text = re.sub(r"<[^>]*>", "", response.text).replace("&#x27;", "'")
    assert (
        f"{problem.type}, HTTP status {int(problem.status)} {REASON_PHRASES[problem.status]}"
        in text
    )
    for part in (
        problem.title,
        contract.problems[slug_of(problem)][1:],
        problem.advice,
    ):
        assert part.replace("`", "") in text


@pytest.mark.usefixtures("database")
async def test_type_of_a_returned_problem_is_a_page(client: ContractClient) -> None:
    response = await client.get(f"{tasks_of('alice')}?x=1")
    page = await client.get(response.json()["type"])
    assert f"<h1>{response.json()['title']}</h1>" in page.text


@pytest.mark.parametrize(
    "slug", ["nope", "Overloaded", "<script>", "%3Cscript%3E", "overloaded/x", "about:blank", "%ff"]
)
async def test_unknown_problem_type_is_404(client: ContractClient, slug: str) -> None:
    assert_problem(await client.get(f"/problems/{slug}"), 404, "path-not-found")


def test_pages_are_not_operations(contract: OpenAPIDocument) -> None:
    assert {"/", "/docs", "/problems/{slug}"} & set(contract.document["paths"]) == set()
    assert (DOCS_DIR / "docs.html").is_file()
