"""Tests of the installed TypeScript client. Run by `task check:typescript-client`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from app.openapi.document import METHODS, OpenAPIDocument
from tests.e2e.typescript_client.conftest import (
    NODE,
    URLs,
    Use,
    compile_example,
    compile_project,
    examples_in_the_guide,
    in_page,
    run,
)
from tests.e2e.typescript_client.site import REQUEST_ID
from tests.support.process import ROOT

pytestmark = pytest.mark.requirement("NFR-012")

NONE = "nothing was thrown"
SCREENSHOT = ROOT / "reports/package.png"
TASK = "/api/v1/users/alice/tasks/1"


# --- the package -------------------------------------------------------------------------------


def test_package_has_no_dependencies_and_the_contract_version(project: Path) -> None:
    installed = project / "node_modules"
    manifest = json.loads((installed / "tasks-api-client/package.json").read_text("utf-8"))
    assert [path.name for path in installed.iterdir() if path.is_dir()] == ["tasks-api-client"]
    assert "dependencies" not in manifest
    assert manifest["version"] == OpenAPIDocument.load().document["info"]["version"]
    assert (installed / "tasks-api-client/LICENSE").is_file()


@pytest.mark.parametrize(
    "options",
    [("--module", "nodenext"), ("--module", "esnext", "--moduleResolution", "bundler")],
    ids=["node", "bundler"],
)
def test_strict_project_compiles_and_type_errors_are_found(
    project: Path, options: tuple[str, ...]
) -> None:
    assert compile_project(project, "--noEmit", *options) == ""
    assert (project / "mistakes.ts").read_text("utf-8").count("@ts-expect-error") == 29


@pytest.mark.parametrize(
    ("number", "output"),
    [
        (0, ["Buy milk", "Precondition failed, it is completed: true"]),
        (1, ["due: Buy milk", "list: Buy eggs", "list: Buy milk"]),
        (
            2,
            [
                "update 1: the task has a different ETag",
                "not changed: Buy six eggs",
                "restored: true",
            ],
        ),
    ],
)
def test_example_in_the_guide_compiles_and_runs(
    project: Path, places: URLs, number: int, output: list[str]
) -> None:
    examples = examples_in_the_guide("client")
    assert len(examples) == 3
    compile_example(project, examples[number], places["service"])
    assert run(NODE, "example.js", folder=project).splitlines() == output


# --- operations --------------------------------------------------------------------------------


@pytest.mark.requirement("NFR-109")
def test_every_operation_succeeds(use: Use) -> None:
    answer = use("everyOperation")
    statuses = {
        operation["operationId"]: int(min(operation["responses"]))
        for item in OpenAPIDocument.load().document["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    }
    special = {"replaceTask": 201, "replaceList": 201, "deleteUser": 204}
    assert answer.pop("statuses") == {**statuses, **special}
    assert answer == {
        "titles": ["Buy milk", "Buy milk", "Buy milk", "Buy oat milk"],
        "completed": True,
        "names": ["Groceries", "Shop", "Work", "Shop"],
        "count": {"count": 1, "is_capped": False},
        "labels": [{"label": "errands", "open_tasks": 1}],
        "created": ["Call Bob"],
        "changes": [True, "Shop", True, "Buy oat milk", "Call Bob"],
        "exported": ['{"kind":"end","lines":3}', ""],
        "health": ["alive", "ready"],
        "yaml": "openapi: 3.1.0",
        "json": "3.1.0",
    }


def test_response_headers_can_be_read(use: Use) -> None:
    answer = use("headerFields")
    assert re.fullmatch("[0-9a-f-]{36}", answer.pop("requestId"))
    assert answer == {"isTheTag": True, "location": TASK}


def test_refresh_reads_only_a_changed_task(use: Use) -> None:
    answer = use("refreshed")
    assert answer["isTheSame"] is True
    assert answer["completed"] == [False, True]
    assert answer["notModified"]["status"] == 304
    assert answer["gone"]["status"] == 404


def test_to_replace_keeps_unchanged_properties(use: Use) -> None:
    assert use("replaced") == {
        "done": {
            "title": "Buy milk",
            "description": "Two litres",
            "completed": True,
            "listed": True,
            "parent_id": None,
            "priority": "high",
            "due": {"date": "2026-11-24", "time": "17:30", "timezone": "Europe/Berlin"},
            "labels": ["errands", "shop"],
        },
        "paid": [True, True],
        "same": True,
        "again": 412,
    }


def test_missing_base_url_is_an_error(use: Use) -> None:
    message = "TasksApi needs a baseUrl, such as 'http://127.0.0.1:8000'"
    assert use("withoutBaseUrl") == [message, message]


def test_base_url_may_end_with_a_slash(use: Use) -> None:
    assert use("slashAtTheEnd") == "alive"


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "slug", "errors"),
    [
        (400, "invalid-parameter", ["limit"]),
        (404, "task-not-found", []),
        (412, "precondition-failed", []),
        (422, "invalid-body", ["/title", "/colour"]),
    ],
)
def test_problem_is_typed(use: Use, status: int, slug: str, errors: list[str]) -> None:
    problem = use("problems")[str(status)]
    assert problem["name"] == "ProblemError"
    assert problem["status"] == status
    assert problem["type"] == f"/problems/{slug}"
    assert sorted(problem["errors"]) == sorted(errors)
    first = "".join(f" ({problem['errors'][0]}: {it})" for it in problem["details"][:1])
    assert problem["message"] == f"{problem['title']}: {problem['detail']}{first}"
    assert problem["requestId"] == problem["instance"] != ""
    assert problem["retryAfter"] is None


def test_problem_can_be_returned_instead_of_thrown(use: Use) -> None:
    assert use("returnedProblem") == {"isProblemError": True, "status": 400, "data": None}


def test_problem_has_the_retry_delay(use: Use) -> None:
    problems = use("withoutDatabase")
    assert [problem["type"] for problem in problems] == [
        "/problems/not-ready",
        "/problems/database-unavailable",
    ]
    assert [problem["retryAfter"] for problem in problems] == [1, 1]


@pytest.mark.parametrize(
    ("kind", "status", "title", "body", "wait"),
    [
        ("html", 502, "Bad Gateway", "string", 7),
        ("json", 403, "Forbidden", "object", None),
        ("empty", 504, "Gateway Timeout", "string", None),
        ("partial", 429, "Slow down", "object", None),
        ("nonsense", 503, "Service Unavailable", "string", None),
    ],
)
def test_proxy_error_becomes_a_problem(
    use: Use, kind: str, status: int, title: str, body: str, wait: int | None
) -> None:
    assert use("behindAProxy")[kind] == {
        "name": "ProblemError",
        "message": title,
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": "",
        "instance": REQUEST_ID,
        "traceId": None,
        "requestId": REQUEST_ID,
        "errors": [],
        "details": [],
        "retryAfter": wait,
        "body": body,
    }


def test_date_in_retry_after_becomes_seconds(use: Use) -> None:
    assert use("behindAProxy")["date"]["retryAfter"] > 1_000_000_000


def test_network_error_is_the_error_of_fetch(use: Use) -> None:
    assert use("withoutService") == [{"name": "TypeError"}, {"name": "TypeError"}]


# --- lists -------------------------------------------------------------------------------------


def test_all_pages_are_read(use: Use) -> None:
    assert use("pages") == {"all": [f"Task {number}" for number in range(1, 6)], "requests": 3}


def test_filters_and_order_apply_to_every_page(use: Use) -> None:
    assert use("filteredPages") == {"done": ["Task 4", "Task 2"], "requests": 2}


def test_empty_list_is_one_page(use: Use) -> None:
    assert use("noPages") == {"all": [], "requests": 1}


def test_break_requests_no_further_page(use: Use) -> None:
    assert use("breakEarly") == 1


def test_iteration_can_be_aborted(use: Use) -> None:
    assert use("aborted") == {
        "inAPage": {"name": "AbortError", "seen": 1, "requests": 1},
        "betweenPages": {"name": "AbortError", "seen": 2, "requests": 2},
    }


def test_request_can_be_aborted(use: Use) -> None:
    assert use("abortedOnTheWay") == [
        {"name": "AbortError"},
        {"name": "AbortError"},
        {"name": "too slow"},
    ]


def test_empty_search_is_omitted(use: Use) -> None:
    assert use("emptySearch") == {"page": 2, "all": 5, "count": 5, "given": {"q": "", "limit": 2}}


def test_iteration_resumes_after_an_error_or_break(use: Use) -> None:
    assert use("resumed") == {
        "found": [f"Task {number}" for number in range(1, 6)],
        "ends": [NONE, "ProblemError", "TypeError", NONE, NONE],
    }


def test_concurrent_next_calls_return_different_tasks(use: Use) -> None:
    assert use("atTheSameTime") == [f"Task {number}" for number in range(1, 6)] + [None]


# --- organizing --------------------------------------------------------------------------------


def test_move_places_a_task_beside_another(use: Use) -> None:
    assert use("moved") == {
        "orders": ["BCAD", "DBCA", "BDCA", "BDAC"],
        "etag": True,
        "rest": "DA",
        "subtasks": "SB",
        "inbox": "CP",
        "lists": [None, True, None],
    }


def test_move_to_no_place_changes_nothing(use: Use) -> None:
    missing = ["ProblemError", "/problems/reference-not-found", ["/after_id"]]
    assert use("notMoved") == {
        "errors": [["RangeError", None, None]] * 2
        + [missing] * 2
        + [["AbortError", None, None]] * 2,
        "order": "A",
    }


def test_labels_are_added_and_removed(use: Use) -> None:
    answer = use("labels")
    assert answer.pop("comma")["status"] == 422
    assert answer == {"added": ["errands", "shop"], "same": [True, 1], "removed": ["errands"]}


def test_concurrent_changes_of_labels_are_all_applied(use: Use) -> None:
    answer = use("labelsConcurrently")
    assert answer.pop("gone")["status"] == 404
    assert answer == {"labels": ["c", "d", "e", "f", "g"], "completed": True}


def test_change_of_labels_ends_after_ten_attempts(use: Use) -> None:
    assert use("labelsInVain") == {
        "status": 412,
        "patches": 10,
        "aborted": [{"name": "AbortError"}] * 2,
        "labels": [],
    }


@pytest.mark.requirement("NFR-109")
def test_all_lists_are_in_the_order_of_their_positions(use: Use) -> None:
    assert use("lists") == {
        "names": ["One", "Two", "Three", "Four", "Five"],
        "requests": 5,  # three pages and two changes
        "outdated": 412,
        "notEmpty": "/problems/list-not-empty",
        "unknown": ["/list_id"],
    }


def test_due_dates_are_stored_as_given(use: Use) -> None:
    answer = use("dates")
    here, is_today = answer.pop("here")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", here)
    assert is_today is True
    assert answer == {
        "due": [
            {"date": "2026-11-24", "time": None, "timezone": None},
            {"date": "2026-11-24", "time": "00:30", "timezone": None},
            {"date": "2026-11-24", "time": "00:30", "timezone": "Pacific/Kiritimati"},
            {"date": "2026-11-24", "time": None, "timezone": "America/Los_Angeles"},
        ],
        "at": [None, None, "2026-11-23T10:30:00Z", None],
        "newYear": ["2026-12-31", "2027-01-01", "2026-12-31", "2027-01-01"],
        "days": ["2027-01-01", "2028-02-29", "2026-03-29"],
        "wrong": {"name": "RangeError"},
    }


# --- retries -----------------------------------------------------------------------------------


def test_only_safe_requests_are_retried(use: Use) -> None:
    safe = ["get", "put", "keyed", "move"]
    every = ["get", "put", "patch", "post", "keyed", "move", "delete"]
    assert use("sentAgain") == {
        "OVERLOADED": every,
        "IN_USE": every,
        "UNAVAILABLE": safe,
        "gateway": safe,
        "network": safe,
    }


def test_retries_are_optional_and_limited(use: Use) -> None:
    assert use("notSentAgain") == {
        "byDefault": [503, 1],
        "inTheEnd": [503, 3],
        "tooLong": [503, 1],
    }


def test_retry_waits_for_retry_after_and_a_random_time(use: Use) -> None:
    waits = use("waits")
    minimum = [1000, 1000, 0, 0]
    assert all(
        low < wait < low + 500 * 2**at
        for at, (low, wait) in enumerate(zip(minimum, waits, strict=True))
    )
    assert len(waits) == len({wait % 1000 for wait in waits}) == 4


def test_wait_for_a_retry_can_be_aborted(use: Use) -> None:
    assert use("abortedWaiting") == {"name": "AbortError", "requests": 1, "early": "AbortError"}


def test_retried_create_with_a_key_creates_one_task(use: Use) -> None:
    assert use("keyedOnce") == ["Buy milk"]


def test_412_caused_by_an_earlier_attempt_is_not_reported(use: Use) -> None:
    assert use("replacedUnseen") == {"name": "TypeError", "last": "TypeError", "completed": True}


def test_burst_above_the_limit_succeeds_with_retries(use: Use) -> None:
    assert use("burst") == 50


# --- another origin ----------------------------------------------------------------------------


def test_page_is_on_another_origin(page: Page, places: URLs) -> None:
    assert page.evaluate("location.origin") not in places["service"]
    in_page(page, "problems", places)
    page.screenshot(path=SCREENSHOT, full_page=True)


def test_origin_that_is_not_allowed_cannot_use_the_api(
    browser: Browser, foreign_origin: str, places: URLs
) -> None:
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.goto(foreign_origin)
    assert in_page(page, "fromForeignOrigin", places) == [{"name": "TypeError"}] * 3
    page.close()
    assert len([text for text in messages if "blocked by CORS policy" in text]) == 3
    tasks = httpx.get(f"{places['service']}/api/v1/users/abroad/tasks").json()
    assert tasks == {"items": [], "next_cursor": None}
