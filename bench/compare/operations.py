"""The operations of the benchmark, and their requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from math import ceil
from random import Random
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from bench.compare.data import (
    FIXED_TASK_URL,
    LABELS,
    LARGE_USER,
    LARGE_USER_TASKS,
    LISTS_PER_USER,
    TASKS_PER_USER,
    USERS,
    WORDS,
    ZONES,
    insert_lists,
    insert_tasks,
    list_id,
    task_id,
)
from bench.compare.targets import RunningTarget
from tests.support.client import tasks_of
from tests.support.live import request
from tests.support.process import execute

JSON = "Content-Type: application/json"
MERGE_PATCH = "Content-Type: application/merge-patch+json"
TASK = {"title": "Buy milk", "description": "Two litres, with the blue cap.", "completed": False}
PATCH = {"completed": True, "title": "Buy bread"}
PRIORITIES = ("low", "medium", "high", "urgent")
PAGE = "limit=20"
DEEP_PAGES = 20
LARGE_PAGE = 200
MIX = {"get": 40, "list 20": 30, "list with q": 10, "create": 10, "patch": 6, "delete": 4}
CHANGES = f"/api/v1/users/{LARGE_USER}/changes"
BATCH_SIZE = 20
# Each batch of deletes has new users, so that each request finds its task. Consecutive requests
# have different users, as those of the other operations.
DELETES_PER_USER = 10
_delete_batches = count()


class Requests:
    """Creates the requests for one service, in the same order for each service.

    ETags and cursors differ between the services, so they are read from the service.
    """

    def __init__(self, target: RunningTarget, database_url: str) -> None:
        self._database_url = database_url
        with httpx.Client(base_url=f"http://127.0.0.1:{target.port}") as client:
            self._etag = client.get(FIXED_TASK_URL).headers["etag"]
            self._deep_cursor = self._find_deep_cursor(client)
            self._tokens = list(self._walk(client))
            self._list_etag = client.get(tasks_of(LARGE_USER)).headers.get("etag")
        self._factories: dict[str, Callable[[Random], bytes]] = {
            "get": lambda random: request("GET", _task_path(random)),
            "get, 304": lambda _: request("GET", FIXED_TASK_URL, f"If-None-Match: {self._etag}"),
            "list 20": lambda random: request("GET", f"{_tasks_path(random)}?{PAGE}"),
            "list 20, deep": lambda _: request(
                "GET", f"{tasks_of(LARGE_USER)}?{PAGE}&cursor={self._deep_cursor}"
            ),
            "list with q": lambda random: request(
                "GET", f"{_tasks_path(random)}?{PAGE}&q={random.choice(WORDS)}"
            ),
            "list, label": lambda random: request(
                "GET", f"{_tasks_path(random)}?{PAGE}&labels={random.choice(LABELS)}"
            ),
            "list by position": lambda random: request(
                "GET",
                f"{_tasks_path(random)}?{PAGE}&list_id={list_id(0)}&completed=false"
                "&sort=position&order=asc",
            ),
            "list by due": lambda random: request(
                "GET", f"{_tasks_path(random)}?{PAGE}&sort=due&order=asc"
            ),
            "create": lambda random: request(
                "POST", _new_tasks_path(random), JSON, body=_body(random, TASK)
            ),
            "create, key": lambda random: request(
                "POST",
                _new_tasks_path(random),
                JSON,
                f"Idempotency-Key: {uuid4()}",
                body=_body(random, TASK),
            ),
            "patch": lambda random: request(
                "PATCH", _task_path(random), MERGE_PATCH, body=_body(random, PATCH)
            ),
            "replace": lambda random: request(
                "PUT", _task_path(random), JSON, body=_body(random, TASK)
            ),
            "list 20, 304": lambda _: request(
                "GET", f"{tasks_of(LARGE_USER)}?{PAGE}", f"If-None-Match: {self._list_etag}"
            ),
            "changes, none": lambda _: request("GET", f"{CHANGES}?since={self._tokens[-1]}"),
            "changes, 20": lambda _: request("GET", f"{CHANGES}?{PAGE}&since={self._tokens[0]}"),
            "batch of 20": lambda random: request(
                "POST", f"{_new_tasks_path(random)}/batch", JSON, body=_batch(random)
            ),
        }

    def create(self, operation: str, count: int) -> list[bytes]:
        """Return `count` requests. Each succeeds if it is sent once."""
        random = Random(count)  # noqa: S311 - no secret
        if operation == "delete":
            return list(self._deletes(count))
        if operation != "mix":
            return [self._factories[operation](random) for _ in range(count)]
        deletes = self._deletes(count)
        names = random.choices(list(MIX), list(MIX.values()), k=count)
        return [
            next(deletes) if name == "delete" else self._factories[name](random) for name in names
        ]

    def _deletes(self, count: int) -> Iterator[bytes]:
        batch = next(_delete_batches)
        users = ceil(count / DELETES_PER_USER)
        user = f"'doomed-{batch}-' || user_number"
        execute(
            self._database_url,
            insert_lists(user, users),
            insert_tasks(user, users, DELETES_PER_USER),
        )
        paths = (tasks_of(f"doomed-{batch}-{number % users}") for number in range(count))
        return (
            request("DELETE", f"{path}/{task_id(number // users)}")
            for number, path in enumerate(paths)
        )

    def _walk(self, client: httpx.Client) -> Iterator[str]:
        """Walk through the feed, if the service has one. Return its tokens."""
        query = f"?limit={LARGE_PAGE}"
        while (response := client.get(CHANGES + query)).is_success:
            page = response.json()
            yield page["next_since"]
            if not page["has_more"]:
                break
            query = f"?limit={LARGE_PAGE}&since={page['next_since']}"

    def _find_deep_cursor(self, client: httpx.Client) -> str:
        """Return the cursor of a page in the middle of a long list."""
        cursor = ""
        for _ in range(min(DEEP_PAGES, LARGE_USER_TASKS // LARGE_PAGE - 1)):
            path = f"{tasks_of(LARGE_USER)}?limit={LARGE_PAGE}{cursor and f'&cursor={cursor}'}"
            cursor = quote(client.get(path).json()["next_cursor"], safe="")
        return cursor


OPERATIONS = (
    "get",
    "get, 304",
    "list 20",
    "list 20, deep",
    "list with q",
    "list, label",
    "list by position",
    "list by due",
    "create",
    "create, key",
    "patch",
    "replace",
    "delete",
    "mix",
)
# Those that only contract 1.2.0 has.
OPERATIONS_OF_SYNC = ("list 20, 304", "changes, none", "changes, 20", "batch of 20")


def _body(random: Random, properties: dict[str, Any]) -> bytes:
    """Return a body with some of the other properties, as often as the stored tasks have them."""
    body = dict(properties)
    if random.random() < 0.5:
        body["list_id"] = str(list_id(random.randrange(LISTS_PER_USER)))
    if random.random() < 0.3:
        body["priority"] = random.choice(PRIORITIES)
    if random.random() < 0.3:
        time = random.choice((None, "17:30"))
        timezone = random.choice((None, random.choice(ZONES))) if time else None
        body["due"] = {"date": "2026-11-24", "time": time, "timezone": timezone}
    if random.random() < 0.3:
        body["labels"] = random.sample(LABELS, random.randint(1, 3))
    return json.dumps(body).encode()


def _batch(random: Random) -> bytes:
    """Return the body of a batch with some creates."""
    bodies = b",".join(_body(random, TASK) for _ in range(BATCH_SIZE))
    return b'{"create":[%b]}' % bodies


def _tasks_path(random: Random) -> str:
    return tasks_of(f"user-{random.randrange(USERS)}")


def _task_path(random: Random) -> str:
    return f"{_tasks_path(random)}/{task_id(random.randrange(TASKS_PER_USER))}"


def _new_tasks_path(random: Random) -> str:
    """Return the path of a user without a list operation, so that lists keep their length."""
    return tasks_of(f"new-{random.randrange(USERS)}")
