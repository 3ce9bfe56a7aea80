"""Tests of `/docs` in Chromium. Run by `task check:docs-page`."""

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
    """The parameters and body to send, and the expected status and properties of the response."""

    name: str
    fields: dict[str, str]
    body: str | None
    status: int
    properties: dict[str, Any]


NAMED = '{"name": "Groceries"}'
ONE_LIST = {"user_id": "alice", "list_id": "{list_id}"}
ABSENT_LIST = {"user_id": "carol", "list_id": NEW_ID}
# The tasks and lists of their examples do not exist, or have other ETags.
EXAMPLES_FAIL = {
    *("getTask", "updateTask", "deleteTask", "replaceTask", "moveTask", "changeTasks"),
    *("getList", "updateList", "deleteList", "replaceList", "moveList"),
}

# {id}, {etag} and {list_id} are those of the fixture `task`.
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
    Trial("countTasks", {"user_id": "nobody", "labels": "shop"}, None, 200, {"count": 0}),
    Trial("listLabels", {"user_id": "nobody"}, None, 200, {"items": [], "is_capped": False}),
    Trial("moveTask", ONE, '{"after_id": null}', 200, {"title": "Buy milk"}),
    Trial(
        "moveTask",
        {**ABSENT, "user_id": "dave"},
        '{"after_id": null}',
        404,
        {"title": "Task not found"},
    ),
    Trial(
        "changeTasks",
        {"user_id": "bob"},
        '{"create": [{"title": "Tea"}]}',
        200,
        {"updated": [], "deleted": []},
    ),
    Trial("changeTasks", {"user_id": "bob"}, "{}", 409, {"type": "/problems/batch-conflict"}),
    Trial("listChanges", {"user_id": "nobody", "limit": "1"}, None, 200, {"items": []}),
    Trial(
        "listChanges",
        {"user_id": "alice", "since": "A" * 88},
        None,
        400,
        {"type": "/problems/invalid-token"},
    ),
    Trial("exportUser", {"user_id": "nobody"}, None, 200, {"kind": "end", "lines": 0}),
    Trial("deleteUser", {"user_id": "alice"}, None, 204, {}),
    Trial("listLists", {"user_id": "nobody", "limit": "1"}, None, 200, {"items": []}),
    Trial("createList", {"user_id": "bob"}, NAMED, 201, {"name": "Groceries"}),
    Trial("getList", ONE_LIST, None, 200, {"name": "Errands"}),
    Trial("getList", ABSENT_LIST, None, 404, {"title": "List not found"}),
    Trial("replaceList", {**ONE_LIST, "If-Match": FOREIGN_TAG}, NAMED, 412, FAILED),
    Trial("replaceList", ONE_LIST, NAMED, 200, {"name": "Groceries"}),
    Trial("updateList", ONE_LIST, NAMED, 200, {"name": "Groceries"}),
    Trial("moveList", ONE_LIST, '{"after_id": null}', 200, {"name": "Errands"}),
    Trial("deleteList", ONE_LIST, None, 204, {}),
    Trial("getLiveness", {}, None, 200, {"status": "alive"}),
    Trial("getReadiness", {}, None, 200, {"status": "ready"}),
    Trial("getContractYaml", {}, None, 200, {}),
    Trial("getContractJson", {}, None, 200, {"openapi": "3.1.0"}),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Start a service with a separate database."""
    with serving(DATA_DIR=tmp_path_factory.mktemp("service") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    """Start one browser for all pages, which then share its cache."""
    with chromium() as browser:
        yield browser.new_context(viewport={"width": 1280, "height": 1000})


@contextmanager
def open_docs(context: BrowserContext, service: Service) -> Iterator[DocsPage]:
    """Open the page. At the end, check that it had no errors and used no other host."""
    docs = DocsPage(context.new_page(), service.url)
    yield docs
    expect(docs.page.locator(".errors-wrapper")).to_have_count(0)
    docs.page.close()
    assert [url for url in docs.requested if not url.startswith(f"{service.url}/")] == []
    assert docs.errors == []


@pytest.fixture(scope="module")
def shown(context: BrowserContext, service: Service) -> Iterator[DocsPage]:
    """Return a page that is only read, for all tests of the module."""
    with open_docs(context, service) as docs:
        yield docs


@pytest.fixture
def docs(context: BrowserContext, service: Service) -> Iterator[DocsPage]:
    """Return a new page."""
    with open_docs(context, service) as page:
        yield page


@pytest.fixture
def task(service: Service) -> dict[str, str]:
    """Create a task and an empty list for alice. Return the task with the ID of the list."""
    user = f"{service.url}/api/v1/users/alice"
    created = httpx.post(f"{user}/tasks", json={"title": "Buy milk"})
    created_list = httpx.post(f"{user}/lists", json={"name": "Errands"})
    return {**created.json(), "list_id": created_list.json()["id"]}


# --- shown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "summary", "path"), OPERATIONS, ids=[name for name, _, _ in OPERATIONS]
)
def test_operation_is_shown(shown: DocsPage, name: str, summary: str, path: str) -> None:
    block = shown.operation(name)
    expect(block).to_contain_text(summary)
    expect(block.locator(f".opblock-summary-path[data-path='{path}']")).to_be_visible()


def test_title_and_guide_are_shown(shown: DocsPage) -> None:
    expect(shown.page).to_have_title("Tasks API")
    expect(shown.page.get_by_role("heading", name="Quick start")).to_be_visible()
    expect(shown.page.locator("body")).not_to_contain_text("Failed to load")


def test_operations_are_above_the_guide(shown: DocsPage) -> None:
    top = shown.page.locator(".opblock").first.bounding_box()
    assert top is not None
    assert top["y"] < 1000
    guide = shown.page.locator("#guide").bounding_box()
    last = shown.page.locator(".opblock").last.bounding_box()
    assert guide is not None
    assert last is not None
    assert guide["y"] > last["y"]


def test_tags_are_described(shown: DocsPage) -> None:
    for tag in OpenAPIDocument.load().document["tags"]:
        name = tag["name"]
        described = shown.page.locator(f".opblock-tag[data-tag='{name}'], #guide section#{name}")
        expect(described).to_contain_text(name)
        expect(described).to_be_visible()


def test_inline_script_is_blocked(context: BrowserContext, service: Service) -> None:
    docs = DocsPage(context.new_page(), service.url)
    docs.page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'document.title = "taken over"';
            document.body.append(script);
        }"""
    )
    expect(docs.page).to_have_title("Tasks API")
    [error] = docs.errors
    assert "Content Security Policy" in error
    docs.page.close()


def test_root_redirects_to_the_docs(context: BrowserContext, service: Service) -> None:
    page = context.new_page()
    page.goto(f"{service.url}/")
    assert page.url == f"{service.url}/docs"
    page.close()


def test_problem_type_is_a_page(context: BrowserContext, service: Service) -> None:
    problem = httpx.get(f"{service.url}{tasks_of('alice')}?x=1").json()
    page = context.new_page()
    page.goto(service.url + problem["type"])
    expect(page.get_by_role("heading", name=problem["title"])).to_be_visible()
    expect(page.get_by_role("heading", name="What to do")).to_be_visible()
    page.get_by_role("link", name="documentation").click()
    expect(page).to_have_url(f"{service.url}/docs")
    page.close()


def test_page_requests_only_its_files_and_the_contract(shown: DocsPage, service: Service) -> None:
    expect(shown.page.locator(".opblock")).to_have_count(len(OPERATIONS))
    # Wait for late requests. The browser's event for an idle network once took over 30 s on a busy
    # machine.
    shown.page.wait_for_timeout(1000)
    shown.page.screenshot(path=REPORTS / "docs.png", full_page=True)
    assert sorted(shown.requested) == [
        f"{service.url}/docs",
        f"{service.url}/docs/assets/docs.js",
        f"{service.url}/docs/assets/swagger-ui-bundle.js",
        f"{service.url}/docs/assets/swagger-ui.css",
        f"{service.url}/openapi.json",
    ]


# --- try it out --------------------------------------------------------------------------------


def test_trials_cover_every_operation() -> None:
    assert {trial.name for trial in TRIALS} == {name for name, _, _ in OPERATIONS}


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: f"{trial.name}-{trial.status}")
def test_operation_can_be_executed(docs: DocsPage, task: dict[str, str], trial: Trial) -> None:
    parameters = {field: value.format_map(task) for field, value in trial.fields.items()}
    response = docs.try_operation(trial.name, parameters, trial.body)
    assert response.status == str(trial.status), response
    assert "x-request-id: " in response.headers
    body = json.loads(response.body) if trial.properties else {}
    assert trial.properties.items() <= body.items()


@pytest.mark.parametrize("name", [name for name, _, _ in OPERATIONS])
def test_examples_of_the_page_can_be_sent(docs: DocsPage, name: str) -> None:
    response = docs.execute(docs.open_operation(name))
    assert response.status in {"200", "201", "204", "404", "412"}
    assert (response.status in {"404", "412"}) == (name in EXAMPLES_FAIL)


def test_patch_is_sent_as_merge_patch(docs: DocsPage, task: dict[str, str]) -> None:
    parameters = {"user_id": "alice", "task_id": task["id"], "If-Match": task["etag"]}
    response = docs.try_operation("updateTask", parameters, '{"completed": true}')
    assert response.sent["method"] == "PATCH"
    assert response.sent["content-type"] == MERGE_PATCH
    assert response.sent["if-match"] == task["etag"]
    assert json.loads(response.body)["etag"] != task["etag"]
    assert "etag: " in response.headers
    docs.operation("updateTask").screenshot(path=REPORTS / "docs-tried.png")


def test_contract_is_shown_unchanged(docs: DocsPage, service: Service) -> None:
    response = docs.try_operation("getContractYaml", {})
    assert response.body.split() == httpx.get(f"{service.url}/openapi.yaml").text.split()
