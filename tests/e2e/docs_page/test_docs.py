"""`/docs` in a real browser. Run by `task check:docs-page`; needs chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import BrowserContext, expect

from app.openapi.document import METHODS, OpenAPIDocument
from tests.e2e.docs_page.chromium import chromium
from tests.e2e.docs_page.docs_page import DocsPage
from tests.support.client import FOREIGN_TAG, tasks_of
from tests.support.process import ROOT, Service, serving

pytestmark = pytest.mark.requirement("FR-032")

REPORTS = ROOT / "reports"
NEW_ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
MERGE_PATCH = "application/merge-patch+json"
OPERATIONS = [
    (operation["operationId"], operation["summary"], path)
    for path, item in OpenAPIDocument.load().document["paths"].items()
    for method, operation in item.items()
    if method in METHODS
]
FULL = '{"title": "Buy oat milk", "description": null, "completed": true}'
ONE = {"user_id": "alice", "task_id": "{id}"}
ABSENT = {"user_id": "carol", "task_id": NEW_ID}
FAILED = {"type": "/problems/precondition-failed"}


class Trial(NamedTuple):
    """What is filled in, and the status and some members of the body that the page then shows."""

    name: str
    fields: dict[str, str]
    body: str | None
    status: int
    members: dict[str, Any]


# {id} and {etag} are those of a task of alice's.
TRIALS = [
    Trial("listTasks", {"user_id": "nobody", "limit": "1"}, None, 200, {"items": []}),
    Trial(
        "listTasks",
        {"user_id": "alice", "cursor": "A" * 56},
        None,
        400,
        {"type": "/problems/invalid-cursor"},
    ),
    Trial("createTask", {"user_id": "bob"}, '{"title": "Tea"}', 201, {"title": "Tea"}),
    Trial(
        "createTask", {"user_id": "bob"}, '{"title": ""}', 422, {"type": "/problems/invalid-body"}
    ),
    Trial("getTask", ONE, None, 200, {"title": "Buy milk"}),
    Trial("getTask", {**ONE, "If-None-Match": "{etag}"}, None, 304, {}),
    Trial("getTask", {**ABSENT, "user_id": "dave"}, None, 404, {"title": "Task not found"}),
    Trial("replaceTask", {**ONE, "If-Match": "{etag}"}, FULL, 200, {"title": "Buy oat milk"}),
    Trial("replaceTask", {**ABSENT, "If-None-Match": "*"}, FULL, 201, {"id": NEW_ID}),
    Trial("replaceTask", {**ONE, "If-None-Match": "*"}, FULL, 412, FAILED),
    Trial(
        "updateTask", {**ONE, "If-Match": "{etag}"}, '{"completed": true}', 200, {"completed": True}
    ),
    Trial("updateTask", ONE, '{"completed": null}', 422, {"type": "/problems/invalid-body"}),
    Trial("updateTask", {**ONE, "If-Match": FOREIGN_TAG}, "{}", 412, FAILED),
    Trial("deleteTask", {**ONE, "If-Match": FOREIGN_TAG}, None, 412, FAILED),
    Trial("deleteTask", {**ONE, "If-Match": "{etag}"}, None, 204, {}),
    Trial("getLiveness", {}, None, 200, {"status": "alive"}),
    Trial("getReadiness", {}, None, 200, {"status": "ready"}),
    Trial("getContractYaml", {}, None, 200, {}),
    Trial("getContractJson", {}, None, 200, {"openapi": "3.1.0"}),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a database of its own."""
    with serving(DATA_DIR=tmp_path_factory.mktemp("service") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    """One browser for all pages, which need not read the scripts anew each time."""
    with chromium() as browser:
        yield browser.new_context(viewport={"width": 1280, "height": 1000})


@contextmanager
def opened(context: BrowserContext, service: Service) -> Iterator[DocsPage]:
    """The page; whatever is done there, it asks no other host and has no fault."""
    docs = DocsPage(context.new_page(), service.url)
    yield docs
    expect(docs.page.locator(".errors-wrapper")).to_have_count(0)
    docs.page.close()
    assert [url for url in docs.requested if not url.startswith(f"{service.url}/")] == []
    assert docs.faults == []


@pytest.fixture(scope="module")
def shown(context: BrowserContext, service: Service) -> Iterator[DocsPage]:
    """The page as it opens, only looked at."""
    with opened(context, service) as docs:
        yield docs


@pytest.fixture
def docs(context: BrowserContext, service: Service) -> Iterator[DocsPage]:
    """The page, opened anew, to do something there."""
    with opened(context, service) as page:
        yield page


@pytest.fixture
def task(service: Service) -> dict[str, str]:
    """A task of alice's."""
    created = httpx.post(f"{service.url}{tasks_of('alice')}", json={"title": "Buy milk"})
    stored: dict[str, str] = created.json()
    return stored


# --- shown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "summary", "path"), OPERATIONS, ids=[name for name, _, _ in OPERATIONS]
)
def test_an_operation_is_shown(shown: DocsPage, name: str, summary: str, path: str) -> None:
    block = shown.operation(name)
    expect(block).to_contain_text(summary)
    expect(block.locator(f".opblock-summary-path[data-path='{path}']")).to_be_visible()


def test_the_contract_is_shown_with_its_title_and_no_error(shown: DocsPage) -> None:
    expect(shown.page).to_have_title("Tasks API")
    expect(shown.page.get_by_role("heading", name="A first session")).to_be_visible()
    expect(shown.page.locator("body")).not_to_contain_text("Failed to load")


def test_the_operations_are_at_the_top(shown: DocsPage) -> None:
    top = shown.page.locator(".opblock").first.bounding_box()
    assert top is not None
    assert top["y"] < 1000
    guide = shown.page.locator("#guide").bounding_box()
    last = shown.page.locator(".opblock").last.bounding_box()
    assert guide is not None
    assert last is not None
    assert guide["y"] > last["y"]


def test_every_tag_is_described(shown: DocsPage) -> None:
    for tag in OpenAPIDocument.load().document["tags"]:
        name = tag["name"]
        described = shown.page.locator(f".opblock-tag[data-tag='{name}'], #guide section#{name}")
        expect(described).to_contain_text(name)
        expect(described).to_be_visible()


def test_a_script_that_is_not_the_services_own_does_not_run(
    context: BrowserContext, service: Service
) -> None:
    docs = DocsPage(context.new_page(), service.url)
    docs.page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'document.title = "taken over"';
            document.body.append(script);
        }"""
    )
    expect(docs.page).to_have_title("Tasks API")
    [fault] = docs.faults
    assert "Content Security Policy" in fault
    docs.page.close()


def test_the_service_itself_leads_to_the_page(context: BrowserContext, service: Service) -> None:
    page = context.new_page()
    page.goto(f"{service.url}/")
    assert page.url == f"{service.url}/docs"
    page.close()


def test_the_type_of_a_problem_is_a_page(context: BrowserContext, service: Service) -> None:
    problem = httpx.get(f"{service.url}{tasks_of('alice')}?x=1").json()
    page = context.new_page()
    page.goto(service.url + problem["type"])
    expect(page.get_by_role("heading", name=problem["title"])).to_be_visible()
    expect(page.get_by_role("heading", name="What to do")).to_be_visible()
    page.get_by_role("link", name="documentation").click()
    expect(page).to_have_url(f"{service.url}/docs")
    page.close()


def test_the_page_asks_for_the_contract_and_its_own_files_alone(
    shown: DocsPage, service: Service
) -> None:
    expect(shown.page.locator(".opblock")).to_have_count(len(OPERATIONS))
    # Time for what it might still ask for. The browser's own word that all is quiet did not come
    # within half a minute on a busy machine, once.
    shown.page.wait_for_timeout(1000)
    shown.page.screenshot(path=REPORTS / "docs.png", full_page=True)
    assert sorted(shown.requested) == [
        f"{service.url}/docs",
        f"{service.url}/docs/assets/docs.js",
        f"{service.url}/docs/assets/swagger-ui-bundle.js",
        f"{service.url}/docs/assets/swagger-ui.css",
        f"{service.url}/openapi.json",
    ]


# --- tried -------------------------------------------------------------------------------------


def test_every_operation_is_tried() -> None:
    assert {trial.name for trial in TRIALS} == {name for name, _, _ in OPERATIONS}


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: f"{trial.name}-{trial.status}")
def test_an_operation_is_tried(docs: DocsPage, task: dict[str, str], trial: Trial) -> None:
    given = {field: value.format_map(task) for field, value in trial.fields.items()}
    answer = docs.tried(trial.name, given, trial.body)
    assert answer.status == str(trial.status), answer
    assert "x-request-id: " in answer.headers
    body = json.loads(answer.body) if trial.members else {}
    assert trial.members.items() <= body.items()


@pytest.mark.parametrize("name", [name for name, _, _ in OPERATIONS])
def test_what_the_page_proposes_can_be_sent(docs: DocsPage, name: str) -> None:
    answer = docs.executed(docs.opened(name))
    # The task of the examples is in no database; nothing else may be wrong with them.
    assert answer.status in {"200", "201", "404", "412"}
    assert (answer.status in {"404", "412"}) == (
        name in {"getTask", "updateTask", "deleteTask", "replaceTask"}
    )


def test_a_patch_is_sent_as_one(docs: DocsPage, task: dict[str, str]) -> None:
    given = {"user_id": "alice", "task_id": task["id"], "If-Match": task["etag"]}
    answer = docs.tried("updateTask", given, '{"completed": true}')
    assert answer.sent["method"] == "PATCH"
    assert answer.sent["content-type"] == MERGE_PATCH
    assert answer.sent["if-match"] == task["etag"]
    assert json.loads(answer.body)["etag"] != task["etag"]
    assert "etag: " in answer.headers
    docs.operation("updateTask").screenshot(path=REPORTS / "docs-tried.png")


def test_the_contract_is_shown_as_it_is_served(docs: DocsPage, service: Service) -> None:
    answer = docs.tried("getContractYaml", {})
    assert answer.body.split() == httpx.get(f"{service.url}/openapi.yaml").text.split()
