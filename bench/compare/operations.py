"""What is asked of each peer: the bytes of the requests of each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from urllib.parse import quote
from uuid import uuid4

import httpx

from bench.compare.catalogue import Running
from bench.compare.data import (
    DEEP,
    DEEP_USER,
    EACH,
    URL_OF_ONE,
    USERS,
    WORDS,
    fill,
    id_of,
)
from tests.support.client import tasks_of
from tests.support.live import request
from tests.support.process import execute

JSON = "Content-Type: application/json"
MERGE_PATCH = "Content-Type: application/merge-patch+json"
WHOLE = (
    b'{"title": "Buy milk", "description": "Two litres, with the blue cap.", "completed": false}'
)
PART = b'{"completed": true, "title": "Buy bread"}'
PAGE = "limit=20"
DEEP_PAGES = 20
LARGE_PAGE = 200
MIX = {"get": 40, "list 20": 30, "list with q": 10, "create": 10, "patch": 6, "delete": 4}
# The users whose tasks are deleted, one for each time, so that each request finds its task.
_doomed = count()


class Requests:
    """Makes requests for one peer, in an order that is the same for each."""

    def __init__(self, to: Running, database: str) -> None:
        """Look up what only the peer itself can tell: its tag of a task, its way to a deep page."""
        self._database = database
        with httpx.Client(base_url=f"http://127.0.0.1:{to.port}") as client:
            self._etag = client.get(URL_OF_ONE).headers["etag"]
            self._deep = self._walk(client)
        self._makers: dict[str, Callable[[Random], bytes]] = {
            "get": lambda random: request("GET", _task(random)),
            "get, 304": lambda _: request("GET", URL_OF_ONE, f"If-None-Match: {self._etag}"),
            "list 20": lambda random: request("GET", f"{_tasks(random)}?{PAGE}"),
            "list 20, deep": lambda _: request(
                "GET", f"{tasks_of(DEEP_USER)}?{PAGE}&cursor={self._deep}"
            ),
            "list with q": lambda random: request(
                "GET", f"{_tasks(random)}?{PAGE}&q={random.choice(WORDS)}"
            ),
            "create": lambda random: request("POST", _new(random), JSON, body=WHOLE),
            "create, key": lambda random: request(
                "POST", _new(random), JSON, f"Idempotency-Key: {uuid4()}", body=WHOLE
            ),
            "patch": lambda random: request("PATCH", _task(random), MERGE_PATCH, body=PART),
            "replace": lambda random: request("PUT", _task(random), JSON, body=WHOLE),
        }

    def of(self, operation: str, number: int) -> list[bytes]:
        """So many requests of an operation, each of which succeeds when it is sent once."""
        random = Random(number)  # noqa: S311 - no secret
        if operation == "delete":
            return list(self._deletes(number))
        if operation != "mix":
            return [self._makers[operation](random) for _ in range(number)]
        deletes = self._deletes(number)
        kinds = random.choices(list(MIX), list(MIX.values()), k=number)
        return [next(deletes) if kind == "delete" else self._makers[kind](random) for kind in kinds]

    def _deletes(self, number: int) -> Iterator[bytes]:
        user = f"doomed-{next(_doomed)}"
        execute(self._database, fill(f"'{user}'", 1, number))
        return (request("DELETE", f"{tasks_of(user)}/{id_of(n)}") for n in range(number))

    def _walk(self, client: httpx.Client) -> str:
        """The cursor of a page that is deep inside a long list."""
        cursor = ""
        for _ in range(min(DEEP_PAGES, DEEP // LARGE_PAGE - 1)):
            path = f"{tasks_of(DEEP_USER)}?limit={LARGE_PAGE}{cursor and f'&cursor={cursor}'}"
            cursor = quote(client.get(path).json()["next_cursor"], safe="")
        return cursor


OPERATIONS = (
    "get",
    "get, 304",
    "list 20",
    "list 20, deep",
    "list with q",
    "create",
    "create, key",
    "patch",
    "replace",
    "delete",
    "mix",
)


def _tasks(random: Random) -> str:
    return tasks_of(f"user-{random.randrange(USERS)}")


def _task(random: Random) -> str:
    return f"{_tasks(random)}/{id_of(random.randrange(EACH))}"


def _new(random: Random) -> str:
    """Users of their own, so that the lists that are read stay as long as they are."""
    return tasks_of(f"new-{random.randrange(USERS)}")
