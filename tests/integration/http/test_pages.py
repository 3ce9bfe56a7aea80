"""The pages for people: `/`, `/docs` and `/problems/...`."""

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


# --- the contract's page -------------------------------------------------------------------------


async def test_the_root_leads_to_the_docs(client: ContractClient) -> None:
    answered = await client.get("/")
    assert answered.status_code == 302
    assert answered.headers["location"] == "/docs"


class References(HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.found += [value for name, value in attrs if name in {"src", "href"} and tag != "a"]


async def test_the_page_is_html_that_reads_the_contract(client: ContractClient) -> None:
    got = await client.get("/docs")
    assert got.status_code == 200
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    script = await client.get("/docs/assets/docs.js")
    assert "'/openapi.json'" in script.text


async def test_the_page_needs_no_other_host(client: ContractClient) -> None:
    page = (await client.get("/docs")).text
    references = References()
    references.feed(page)
    assert sorted(references.found) == [
        "/docs/assets/docs.js",
        "/docs/assets/swagger-ui-bundle.js",
        "/docs/assets/swagger-ui.css",
        "data:,",
    ]
    assert re.findall(r"(?:https?:)?//[a-z]", page) == []


async def test_the_style_sheet_loads_nothing_from_elsewhere(client: ContractClient) -> None:
    style = (await client.get("/docs/assets/swagger-ui.css")).text
    loaded = re.findall(r"url\(\s*['\"]?([^'\")]{5})", style)
    assert set(loaded) <= {"data:"}
    assert "@import" not in style


@pytest.mark.parametrize(("name", "media_type"), MEDIA_TYPES.items())
async def test_every_file_of_the_page_is_there(
    client: ContractClient, name: str, media_type: str
) -> None:
    got = await client.get(f"/docs/assets/{name}")
    assert got.status_code == 200
    assert got.headers["content-type"] == media_type
    assert int(got.headers["content-length"]) == len(got.content) > 1_000


@pytest.mark.parametrize("name", MEDIA_TYPES)
async def test_a_file_that_is_known_already_is_not_sent_again(
    client: ContractClient, name: str
) -> None:
    got = await client.get(f"/docs/assets/{name}")
    known = {"If-None-Match": got.headers["etag"]}
    again = await client.get(f"/docs/assets/{name}", headers=known)
    assert again.status_code == 304
    assert again.headers["etag"] == got.headers["etag"]
    assert again.content == b""
    other = await client.get(f"/docs/assets/{name}", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_the_tag_of_a_file_is_made_of_its_content(name: str, tmp_path: Path) -> None:
    copy = tmp_path / name
    copy.write_bytes(ASSETS[name].content)
    os.utime(copy, (0, 0))  # as on a replica that was installed at another time
    assert Asset(copy, "text/plain").etag == ASSETS[name].etag
    copy.write_bytes(ASSETS[name].content + b" ")
    assert Asset(copy, "text/plain").etag != ASSETS[name].etag


@pytest.mark.parametrize("path", ["/docs", "/problems/invalid-body"])
async def test_a_page_runs_the_services_own_scripts_only(client: ContractClient, path: str) -> None:
    got = await client.get(path)
    policy = dict(
        directive.split(" ", 1) for directive in got.headers["content-security-policy"].split("; ")
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
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", got.text) == []


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
async def test_a_file_that_is_not_there_is_404(client: ContractClient, name: str) -> None:
    refused = await client.get(f"/docs/assets/{name}")
    assert_problem(refused, 404, "path-not-found")


# --- the pages of the problems -------------------------------------------------------------------


def slug_of(kind: type[ProblemError]) -> str:
    """The last part of a kind's type."""
    return kind.type.removeprefix("/problems/")


def test_every_kind_of_problem_has_a_meaning_and_advice(contract: OpenAPIDocument) -> None:
    slugs = {slug_of(kind) for kind in PROBLEM_TYPES}
    assert set(contract.problems) == slugs
    assert all(kind.advice for kind in PROBLEM_TYPES)


@pytest.mark.parametrize("kind", PROBLEM_TYPES, ids=slug_of)
async def test_the_type_of_a_problem_is_a_page(
    client: ContractClient, contract: OpenAPIDocument, kind: type[ProblemError]
) -> None:
    got = await client.get(kind.type)
    assert got.status_code == 200
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    text = re.sub(r"<[^>]*>", "", got.text).replace("&#x27;", "'")
    assert f"{kind.type}, HTTP status {int(kind.status)} {REASON_PHRASES[kind.status]}" in text
    for part in (kind.title, contract.problems[slug_of(kind)][1:], kind.advice):
        assert part.replace("`", "") in text


@pytest.mark.usefixtures("database")
async def test_the_type_in_a_problem_leads_to_its_page(client: ContractClient) -> None:
    refused = await client.get(f"{tasks_of('alice')}?x=1")
    page = await client.get(refused.json()["type"])
    assert f"<h1>{refused.json()['title']}</h1>" in page.text


@pytest.mark.parametrize(
    "slug", ["nope", "Overloaded", "<script>", "%3Cscript%3E", "overloaded/x", "about:blank", "%ff"]
)
async def test_a_problem_that_there_is_not_is_404(client: ContractClient, slug: str) -> None:
    assert_problem(await client.get(f"/problems/{slug}"), 404, "path-not-found")


def test_the_pages_are_no_operations(contract: OpenAPIDocument) -> None:
    assert {"/", "/docs", "/problems/{slug}"} & set(contract.document["paths"]) == set()
    assert (DOCS_DIR / "docs.html").is_file()
