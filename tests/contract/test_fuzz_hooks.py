"""The hooks of the fuzz, for cases that a short run may not generate."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from tools.fuzz import hooks

pytestmark = pytest.mark.requirement("NFR-013")

USER = "http://127.0.0.1/api/v1/users/alice"
KEY_REUSED = b'{"type": "/problems/idempotency-key-reused"}'


@pytest.mark.parametrize(
    ("query", "due"),
    [
        ({"due_after": "2026-11-30"}, "2026-12-01"),
        ({"due_after": str(date.max), "due_before": "2026-12-01"}, "2026-11-30"),
        ({"due_before": str(date.min)}, hooks.DUE["date"]),
        ({}, hooks.DUE["date"]),
    ],
    ids=str,
)
def test_due_date_matches_the_filters(query: dict[str, str], due: str) -> None:
    assert hooks._due_date(query) == due


@pytest.mark.parametrize(("name", "collection"), [("list_id", "lists"), ("parent_id", "tasks")])
def test_task_refers_to_the_resource_of_a_filter(
    monkeypatch: pytest.MonkeyPatch, name: str, collection: str
) -> None:
    stored: list[str] = []
    monkeypatch.setattr(hooks, "_put", lambda url, _: stored.append(url))
    task = hooks._matching_task(USER, {name: hooks.LIST_ID})
    assert task[name] == hooks.LIST_ID
    assert stored == [f"{USER}/{collection}/{hooks.LIST_ID}"]


def test_tasks_of_an_earlier_round_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    page = SimpleNamespace(json=lambda: {"items": [{"id": "1"}, {"id": "2"}]})
    deleted: list[str] = []
    monkeypatch.setattr("requests.get", lambda *_, **__: page)
    monkeypatch.setattr(hooks, "_delete", deleted.append)
    hooks._empty(USER, hooks.LIST_ID)
    assert deleted == [f"{USER}/tasks/1", f"{USER}/tasks/2"]


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (0, {"wait": 0, "since": "-"}),
        (7, {"wait": 1, "since": "-"}),
        (hooks.MAX_WAIT, {"wait": hooks.MAX_WAIT}),
    ],
)
def test_wait_is_short_or_ends_immediately(
    monkeypatch: pytest.MonkeyPatch, wait: int, expected: dict[str, Any]
) -> None:
    stored: list[str] = []
    monkeypatch.setattr("requests.post", lambda url, **_: stored.append(url))
    monkeypatch.setattr(hooks, "_user_url", lambda _: USER)
    case: Any = SimpleNamespace(query={"wait": wait, "since": "-"})
    assert hooks._with_short_wait(case) == expected
    assert bool(stored) == (wait == hooks.MAX_WAIT)


def exchange(method: str, url: str, status: int, **headers: str) -> tuple[Any, Any]:
    """Return a response and its case."""
    request = SimpleNamespace(method=method, path_url=url, url=url, headers=headers)
    response = SimpleNamespace(request=request, status_code=status, content=KEY_REUSED, headers={})
    operation = SimpleNamespace(method=method, path=url)
    return response, SimpleNamespace(
        meta=None, path_parameters={"task_id": ""}, operation=operation
    )


@pytest.mark.parametrize("is_used", [True, False])
def test_new_key_must_not_be_reported_as_reused(
    monkeypatch: pytest.MonkeyPatch, *, is_used: bool
) -> None:
    response, case = exchange(
        "POST", f"{hooks.USERS_PATH}alice/tasks", 422, **{"Idempotency-Key": "new"}
    )
    monkeypatch.setattr(hooks, "KEYS", {("alice", "new")} if is_used else set())
    if is_used:
        hooks.keys_make_one_task(SimpleNamespace(), response, case)  # type: ignore[arg-type]
    else:
        with pytest.raises(AssertionError, match="a new key was reported as reused"):
            hooks.keys_make_one_task(SimpleNamespace(), response, case)  # type: ignore[arg-type]


def test_task_that_was_not_read_is_not_remembered() -> None:
    url = f"{hooks.USERS_PATH}alice/tasks/{uuid4()}"
    response, case = exchange("HEAD", url, 200)
    case.operation.method = "HEAD"
    hooks.resource_exists_until_deletion(SimpleNamespace(), response, case)  # type: ignore[arg-type]
    assert hooks._resource(url) not in hooks.EXISTING
