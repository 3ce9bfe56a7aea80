"""Tests of the local copy, of batches and of `restore`. Run by `task check:typescript-client`."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser

from tests.e2e.typescript_client.conftest import (
    URLs,
    Use,
    compile_example,
    examples_in_the_guide,
    in_page,
)
from tests.support.process import eventually

pytestmark = pytest.mark.requirement("NFR-212")

OFFLINE = "() => import('/usage.js').then(({followed}) => followed.failures)"
TITLES = "() => import('/usage.js').then(({followed}) => followed.tasks)"


# --- the copy ----------------------------------------------------------------------------------


def test_copy_equals_the_service_after_every_kind_of_change(use: Use) -> None:
    assert use("copied") == {
        "equal": [True] * 4,
        "pages": [1, 4, 2, 2],  # of two items
        "resumed": True,
        "tasks": ["Call", "Rent"],
        "lists": ["Groceries"],
    }


def test_copy_is_rebuilt_after_erasure_and_never_empty_meanwhile(use: Use) -> None:
    assert use("rebuilt") == {
        "erased": [[3, 0], 0],
        # A reset, the first new task, an interruption, the second new task and the end.
        "sizes": [3, 4, 2],
        "equal": True,
    }


def test_copy_is_rebuilt_if_the_token_is_invalid(use: Use) -> None:
    assert use("invalidToken") == {"sizes": [2, 1], "equal": True}


def test_changes_of_another_client_end_the_wait(use: Use) -> None:
    answer = use("waited")
    assert answer["found"] == ["A", "B", "C"]
    assert answer["waits"] == ["0", "30", "30", "30"]
    assert 4.5 < answer["seconds"] < 15


# --- interruptions -----------------------------------------------------------------------------


def test_sync_continues_when_the_service_is_back(use: Use) -> None:
    assert use("offlineAndBack") == {
        "states": [True, False, True],
        "shown": [1, 1, 1],
        "failed": "TypeError",
        "tasks": ["Bread false", "Milk true"],
        "equal": True,
    }


def test_copy_equals_the_database_after_a_restore(use: Use) -> None:
    assert use("restoredDatabase") == {"sizes": [2, 2, 1], "tasks": ["Milk"], "equal": True}


def test_temporary_errors_are_reported_and_retried(use: Use) -> None:
    answer = use("failures")
    assert answer["errors"] == ["network", 502, 503, 429, 408] + ["network"] * 8
    assert answer["sent"] == 14  # the option `retries` does not apply
    minimum = [0, 0, 7000, 60_000] + [0] * 9  # `Retry-After`, at most a minute
    for number, (low, wait) in enumerate(zip(minimum, answer["waits"], strict=True)):
        assert low <= wait <= low + min(500 * 2**number, 60_000)
    assert len(set(answer["waits"])) == 13


def test_permanent_errors_are_thrown(use: Use) -> None:
    assert use("permanentErrors") == [
        ["ProblemError", 403],
        ["RangeError", None],
        ["ProblemError", 400],
    ]


def test_sync_can_be_aborted_at_any_time(use: Use) -> None:
    answer = use("abortedSync")
    assert answer["results"][:3] == [
        ["AbortError", []],
        ["AbortError", []],
        ["AbortError", [False]],
    ]
    name, results = answer["results"][3]
    assert (name, set(results)) == ("AbortError", {True})
    assert answer["seconds"] < 6


def test_silent_connection_is_an_error(use: Use) -> None:
    assert use("silentConnection") == {"online": False, "name": "TimeoutError", "limits": [30_000]}


def test_browser_continues_as_soon_as_it_has_a_network(
    browser: Browser, origin: str, places: URLs
) -> None:
    user = str(uuid4())
    tasks = f"{places['service']}/api/v1/users/{user}/tasks"
    context = browser.new_context()
    page = context.new_page()
    page.goto(origin)
    httpx.post(tasks, json={"title": "Milk"}).raise_for_status()
    in_page(page, "follow", {**places, "user": user})
    eventually(lambda: page.evaluate(TITLES) == ["Milk"], 10)
    context.set_offline(True)
    httpx.post(tasks, json={"title": "Bread"}).raise_for_status()
    eventually(lambda: page.evaluate(OFFLINE) == 5, 30)  # the next wait is 8 seconds
    assert page.evaluate(TITLES) == ["Milk"]
    context.set_offline(False)
    eventually(lambda: page.evaluate(TITLES) == ["Milk", "Bread"], 4)
    context.close()


def test_example_with_local_storage_in_the_guide_runs(
    browser: Browser, origin: str, project: Path, places: URLs
) -> None:
    [example] = examples_in_the_guide("client in a browser")
    compile_example(project, example, places["service"])
    tasks = f"{places['service']}/api/v1/users/grace/tasks"
    httpx.post(tasks, json={"title": "Buy milk"}).raise_for_status()
    context = browser.new_context()
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))

    def start() -> None:
        page.goto(origin)
        page.evaluate("() => void import('/example.js')")

    def has_shown(*expected: str) -> bool:
        page.wait_for_timeout(50)  # receives the messages
        return [message for message in messages if "Buy" in message][: len(expected)] == [*expected]

    start()
    eventually(lambda: has_shown("online: Buy milk"), 10)
    messages.clear()
    page.route(f"{places['service']}/**", lambda route: route.abort())
    start()
    eventually(lambda: has_shown("stored: Buy milk", "offline: Buy milk"), 10)
    context.close()


# --- batches -----------------------------------------------------------------------------------


def test_problem_of_a_batch_names_the_rejected_changes(use: Use) -> None:
    assert use("batches") == {
        "outdated": [
            "/problems/precondition-failed",
            ["update", 0, "a", "/update/0"],
            ["delete", 0, "c", "/delete/0"],
        ],
        "references": [
            "/problems/reference-not-found",
            ["create", 1, "E", "/create/1/list_id"],
            ["update", 0, "b", "/update/0/parent_id"],
        ],
        "missing": ["/problems/task-not-found", ["delete", 0, "unknown", "/delete/0"]],
        "invalid": [
            "/problems/invalid-body",
            ["create", 0, "", "/create/0/title"],
            ["create", 2, "E", "/create/2/labels/0"],
        ],
        "twice": ["/problems/batch-conflict", ["delete", 0, "b", "/delete/0/id"]],
        "empty": ["/problems/batch-conflict"],
        "last": [[12, {"id": "12"}]],
        "others": [],
        "tasks": "ABC",
    }


# --- undo of a delete --------------------------------------------------------------------------


def test_restored_task_keeps_everything_but_its_moved_position(use: Use) -> None:
    assert use("restored") == {
        "changed": ["updated_at", "etag"],
        "changedSubtask": ["updated_at", "etag"],
        "changedMoved": ["position", "updated_at", "etag"],
        "subtasksLeft": 0,
        "exists": ["/problems/batch-conflict", ["/create/0/id"]],
        "requests": 2,
        "aborted": "AbortError",
        "properties": [
            "completed",
            "completed_at",
            "created_at",
            "description",
            "due",
            "id",
            "labels",
            "list_id",
            "parent_id",
            "priority",
            "title",
        ],
    }
