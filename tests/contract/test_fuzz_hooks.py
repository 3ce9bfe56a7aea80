"""The hooks of the fuzz, for cases that a short run may not generate."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    ("turn", "query", "expected", "sent"),
    [
        (1, {"wait": 7}, {"wait": 7}, ["store"]),
        (8, {"wait": 7}, {"wait": 1}, []),
        (1, {"since": "-", "wait": 7}, {"since": "token", "wait": 7}, ["post", "get", "store"]),
        (8, {"since": "-"}, {"since": "token"}, ["post", "get", "delete"]),
    ],
)
def test_feed_has_a_change_or_a_short_wait_or_an_expired_token(
    monkeypatch: pytest.MonkeyPatch,
    turn: int,
    query: dict[str, Any],
    expected: dict[str, Any],
    sent: list[str],
) -> None:
    seen: list[str] = []
    page = SimpleNamespace(json=lambda: {"next_since": "token"})

    def record(name: str) -> Callable[..., object]:
        def request(*_: object, **__: object) -> object:
            seen.append(name)
            return page

        return request

    for name in ("post", "get", "delete"):
        monkeypatch.setattr(f"requests.{name}", record(name))
    monkeypatch.setattr(hooks, "_store_task", record("store"))
    monkeypatch.setattr(hooks, "_user_url", lambda _: USER)
    case: Any = SimpleNamespace(query=query)
    assert hooks._with_changes(case, turn) == expected
    assert seen == sent


@pytest.mark.parametrize(
    ("length", "time"),
    [
        (20, "2026-01-02T03:04:05Z"),
        (21, "2026-01-02T03:04:05Z"),
        (22, "2026-01-02T03:04:05.0Z"),
        (64, f"2026-01-02T03:04:05.{'0' * 43}Z"),
    ],
)
def test_time_in_the_past_has_a_length(length: int, time: str) -> None:
    assert hooks._past(length) == time


@pytest.mark.parametrize(
    ("key", "known"),
    [("a", {}), ("used", {"1": True}), ("new", {"1": False, "2": True, "3": True})],
)
def test_tasks_after_a_batch_are_remembered_or_unknown(
    monkeypatch: pytest.MonkeyPatch, key: str, known: dict[str, bool]
) -> None:
    tasks = "/api/v1/users/alice/tasks"
    result: dict[str, list[Any]] = {
        "created": [{"id": "2", "parent_id": None}],
        "updated": [{"id": "3", "parent_id": None}],
        "deleted": ["1"],
    }
    response, _ = exchange("POST", f"{tasks}/batch", 200, **{"Idempotency-Key": key})
    response.content = json.dumps(result).encode()
    existing = {(tasks, "1"): True, ("/api/v1/users/bob/tasks", "1"): True}
    monkeypatch.setattr(hooks, "EXISTING", existing)
    monkeypatch.setattr(hooks, "KEYS", {("alice", "used")})
    hooks._remember_batch(response)
    assert existing.pop(("/api/v1/users/bob/tasks", "1"))
    assert existing == {(tasks, id_): exists for id_, exists in known.items()}


def test_deleted_user_has_no_tasks_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    existing = {("/api/v1/users/alice/tasks", "1"): True, ("/api/v1/users/alicia/tasks", "1"): True}
    monkeypatch.setattr(hooks, "EXISTING", existing)
    monkeypatch.setattr(hooks, "KEYS", {("alice", "key"), ("bob", "key")})
    hooks._forget_user(USER)
    assert list(existing.values()) == [False, True]
    assert list(hooks.KEYS) == [("bob", "key")]


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
