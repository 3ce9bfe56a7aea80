"""HTML pages outside the contract: `/`, `/docs` and `/problems/{slug}`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any

import litestar_offline_docs
from litestar import MediaType, Request, Response, get
from litestar.response import Redirect, Stream
from litestar.types import ControllerRouterHandler

from app.http.etags import etag_of, is_not_modified
from app.http.problems import PROBLEM_TYPES, PathNotFound
from app.state import app_state

DOCS_DIR = Path(__file__).parent
SWAGGER_UI_DIR = Path(litestar_offline_docs.__file__).parent / "static"
CHUNK_SIZE = 65_536  # bytes buffered per client that does not read

# Only files of this service; Swagger UI's style sheet has images in `data:` URLs.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}

RETRY = "Retry after the number of seconds in `Retry-After`."
READ_FIRST = "A write may or may not have been applied. Read the resource before you retry."
# What to do about each problem type; the contract describes when it occurs.
ADVICE = {
    "malformed-request": "Fix the client or the proxy: it does not send valid HTTP/1.1.",
    "invalid-parameter": "Fix each parameter and header that `errors` lists.",
    "invalid-cursor": "Start again at the first page, without `cursor`.",
    "malformed-body": "Send a complete body of UTF-8 JSON without duplicate property names.",
    "path-not-found": "Compare the path with the contract. Letter case and slashes matter.",
    "task-not-found": "Check the user ID and the task ID. The task may have been deleted.",
    "method-not-allowed": "Use one of the methods in the `Allow` header.",
    "request-timeout": "Retry, and send the complete request without a pause.",
    "idempotency-key-in-use": RETRY,
    "precondition-failed": "Read the resource, decide whether the change still applies, and retry "
    "with the new ETag. With `If-None-Match`, the resource already exists.",
    "content-too-large": "Send a smaller body.",
    "unsupported-media-type": "Send `Content-Type: application/json` and no `Content-Encoding`.",
    "invalid-body": "Fix each property that `errors` lists.",
    "idempotency-key-reused": "Use a new `Idempotency-Key` for each new resource.",
    "header-fields-too-large": "Send fewer or shorter headers, or a shorter query.",
    "internal-error": f"Report it with the request ID in `instance`. {READ_FIRST}",
    "not-implemented": "Send the body with `Content-Length` or `Transfer-Encoding: chunked`.",
    "overloaded": RETRY,
    "database-unavailable": f"{RETRY} {READ_FIRST}",
    "not-ready": "Use another replica until this one is ready.",
}
PROBLEMS = {kind.type.rpartition("/")[2]: kind for kind in PROBLEM_TYPES}
PROBLEM_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{title}</title>
    <link rel="icon" href="data:,">
  </head>
  <body>
    <h1>{title}</h1>
    <p><code>/problems/{slug}</code>, HTTP status {status} {phrase}</p>
    <h2>When it occurs</h2>
    <p>{meaning}.</p>
    <h2>What to do</h2>
    <p>{advice}</p>
    <p><a href="/docs">The API's documentation</a></p>
  </body>
</html>
"""


class Asset:
    """A file that `/docs` loads; its ETag is a hash of the content, identical in all replicas."""

    def __init__(self, path: Path, media_type: str) -> None:
        self.content = path.read_bytes()
        self.media_type = media_type
        self.etag = etag_of(self.content)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the content in chunks of CHUNK_SIZE bytes."""
        for start in range(0, len(self.content), CHUNK_SIZE):
            yield self.content[start : start + CHUNK_SIZE]


ASSETS = {
    "docs.js": Asset(DOCS_DIR / "docs.js", "text/javascript"),
    "swagger-ui-bundle.js": Asset(SWAGGER_UI_DIR / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": Asset(SWAGGER_UI_DIR / "swagger-ui.css", "text/css"),
}
DOCS_HTML = (DOCS_DIR / "docs.html").read_text("utf-8")


@get("/")
async def redirect_to_docs() -> Redirect:
    """Redirect a browser to the documentation."""
    return Redirect("/docs")


@get("/docs", media_type=MediaType.HTML, response_headers=PAGE_HEADERS)
async def get_docs() -> str:
    """Return the Swagger UI page for the contract."""
    return DOCS_HTML


@get("/docs/assets/{name:str}")
async def get_asset(request: Request[Any, Any, Any]) -> Response[Any]:
    """Return a file of the documentation page; raises PathNotFound for any other name."""
    asset = ASSETS.get(request.path_params["name"])
    if asset is None:
        raise PathNotFound
    headers = {"ETag": asset.etag}
    if is_not_modified(request.headers.get("if-none-match"), asset.etag):
        return Response(None, status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Length"] = str(len(asset.content))
    return Stream(asset.chunks(), media_type=asset.media_type, headers=headers)


@get("/problems/{slug:str}", media_type=MediaType.HTML, response_headers=PAGE_HEADERS)
async def get_problem_page(request: Request[Any, Any, Any]) -> str:
    """Return the page of a problem type, whose `type` URI is this path (RFC 9457, section 3.1.1).

    Raises PathNotFound for an unknown problem type.
    """
    slug = request.path_params["slug"]
    kind = PROBLEMS.get(slug)
    if kind is None:
        raise PathNotFound
    meaning = app_state(request).openapi.problems[slug]
    return PROBLEM_PAGE.format(
        title=escape(kind.title),
        slug=slug,
        status=int(kind.status),
        phrase=escape(HTTPStatus(kind.status).phrase),
        meaning=_html(meaning[:1].upper() + meaning[1:]),
        advice=_html(ADVICE[slug]),
    )


def page_routes() -> list[ControllerRouterHandler]:
    """Return the route handlers of the pages and their assets."""
    return [redirect_to_docs, get_docs, get_asset, get_problem_page]


def _html(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
