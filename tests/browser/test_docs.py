"""`/docs` in a real browser. Not a part of the default run: `task docs:check`, needs chromium."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.contract import METHODS, Contract
from tests.support.process import ROOT, serving

CHROMIUM = os.environ.get("CHROMIUM") or "chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--window-size=1280,4600",
    # The browser itself wants to know the time, its updates and more: it finds no other host, and
    # neither would the page.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--virtual-time-budget=15000",
]
SCREENSHOT = ROOT / "reports/docs.png"


class Visit(NamedTuple):
    """What a browser made of the page."""

    origin: str
    dom: str
    requested: set[str]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """The page, shown once; the screenshot is left in reports/docs.png."""
    folder = tmp_path_factory.mktemp("browser")
    SCREENSHOT.parent.mkdir(exist_ok=True)
    SCREENSHOT.unlink(missing_ok=True)
    with serving(DATA_DIR=folder / "data") as service:
        shown = subprocess.run(
            [
                CHROMIUM,
                *FLAGS,
                f"--user-data-dir={folder / 'profile'}",
                f"--screenshot={SCREENSHOT}",
                f"--log-net-log={folder / 'net.json'}",
                "--dump-dom",
                f"{service.url}/docs",
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )
        yield Visit(service.url, shown.stdout, requested(folder / "net.json"))


def requested(net_log: Path) -> set[str]:
    """Every URL that a page asked for, according to the browser's own log."""
    log: Any = json.loads(net_log.read_text("utf-8"))
    of_a_request = log["constants"]["logSourceType"]["URL_REQUEST"]
    parameters = [
        event.get("params", {})
        for event in log["events"]
        if event["source"]["type"] == of_a_request
    ]
    # Without an origin are the address that was typed in, and what the browser wants for itself.
    return {
        found["url"]
        for found in parameters
        if found.get("initiator", "not an origin") != "not an origin"
    }


def text_of(dom: str) -> str:
    """The text of a page, without its scripts and tags."""
    without_code = re.sub(r"<(script|style)\b.*?</\1>", " ", dom, flags=re.DOTALL)
    # Browsers may break a long path anywhere, and are told so by these.
    without_breaks = re.sub(r"<wbr/?>|\u200b", "", without_code)
    return html.unescape(re.sub(r"<[^>]+>", "", without_breaks))


OPERATIONS = [
    (operation["operationId"], operation["summary"], path)
    for path, item in Contract.load().document["paths"].items()
    for method, operation in item.items()
    if method in METHODS
]


@pytest.mark.requirement("FR-032")
@pytest.mark.parametrize(
    ("name", "summary", "path"), OPERATIONS, ids=[name for name, _, _ in OPERATIONS]
)
def test_an_operation_is_shown(visit: Visit, name: str, summary: str, path: str) -> None:
    assert re.search(rf'id="[^"]*{name}"', visit.dom)
    assert summary in text_of(visit.dom)
    assert path in text_of(visit.dom)


@pytest.mark.requirement("FR-032")
def test_the_contract_is_shown_with_its_title_and_no_error(visit: Visit) -> None:
    text = text_of(visit.dom)
    assert "Tasks API" in text
    assert "A first session" in text
    assert "Failed to load" not in text
    assert "Resolver error" not in text


@pytest.mark.requirement("FR-032")
def test_the_page_asks_for_the_contract_and_its_own_files_alone(visit: Visit) -> None:
    assert visit.requested == {
        f"{visit.origin}/docs/assets/swagger-ui-bundle.js",
        f"{visit.origin}/docs/assets/swagger-ui.css",
        f"{visit.origin}/openapi.json",
    }


@pytest.mark.requirement("FR-032")
@pytest.mark.usefixtures("visit")
def test_a_screenshot_is_left() -> None:
    assert SCREENSHOT.read_bytes().startswith(b"\x89PNG")
