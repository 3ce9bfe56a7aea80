"""`task bench:contention`: concurrent changes of the same tasks, and many moves into one gap.

CLIENTS clients move, nest, relabel, complete, delete and create the same tasks for a minute. Then
no reference may be dangling, no subtask may have a subtask, and no two siblings may have the same
position. Every acknowledged change must be present: each version of a task must be the previous
version with the requested change, and the last version must be stored.

Then MOVES moves go into one gap: always directly after one task, on alternating sides and on random
sides. The order must be the requested one, and no position longer than MAX_POSITION_BYTES.

CONTENTION_SECONDS and CONTENTION_MOVES make it shorter.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from bench.load.generator import percentile
from bench.load.workload import filled_database
from tests.support.integrity import integrity_errors
from tests.support.long_task import progress, run
from tests.support.process import serving

SECONDS = float(os.environ.get("CONTENTION_SECONDS") or 60)
MOVES = int(os.environ.get("CONTENTION_MOVES") or 10_000)
CLIENTS = 16
TASKS = [str(UUID(int=number)) for number in range(1, 51)]
LISTS = [str(UUID(int=number)) for number in range(1, 4)]
USER = "/api/v1/users/alice"
LABELS = ["errands", "home", "shop"]
EMPTY = {"title": "Buy milk", "description": None, "completed": False}
# A move may conflict with any other change, and a task may have been deleted.
STATUSES = {200, 201, 204, 404, 409}
MAX_POSITION_BYTES = 64
MAX_ROWS_PER_MOVE = 3.0  # the moved row, and two neighbors (NFR-106)
MOVERS = 100
REPORT = Path("reports/contention.md")
RESPACED = {"position", "updated_at", "etag"}

JSON = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """An acknowledged change: what was requested, and the task in the response."""

    requested: JSON
    task: JSON
    creates: bool


@dataclass
class Log:
    """The responses to all clients."""

    changes: list[Change] = field(default_factory=list)
    deletes: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Client:
    """Sends random changes of the same tasks as all others."""

    def __init__(self, number: int, http: httpx.AsyncClient, log: Log) -> None:
        self.random = Random(number)  # noqa: S311 - no secret
        self.http = http
        self.log = log

    async def run(self, deadline: float) -> None:
        operations = [*[self.move] * 6, self.nest, self.unnest, self.relabel, self.complete]
        # A delete also deletes subtasks, so more tasks are created.
        operations += [self.relocate, self.delete, *[self.create] * 4]
        while time.monotonic() < deadline:
            await self.random.choice(operations)(self.random.choice(TASKS))

    async def move(self, task: str) -> None:
        """Move a task after another one or to the start, in its place or to another one."""
        after = self.random.choice([None, self.random.choice(TASKS)])
        place = self.random.choice([{}, self.list_id(), self.list_id(), self.parent_id()])
        body = {"after_id": after, **place}
        whole = {"list_id": None, "parent_id": None, **place} if place else {}
        await self.change("POST", f"{USER}/tasks/{task}/move", body, whole | {"position": ...})

    async def nest(self, task: str) -> None:
        await self.patch(task, {"list_id": None, **self.parent_id()})

    async def unnest(self, task: str) -> None:
        await self.patch(task, {"parent_id": None})

    async def relocate(self, task: str) -> None:
        await self.patch(task, {"parent_id": None, **self.list_id()})

    async def relabel(self, task: str) -> None:
        await self.patch(task, {"labels": sorted(self.random.sample(LABELS, 2))})

    async def complete(self, task: str) -> None:
        await self.patch(task, {"completed": self.random.choice([True, False])})

    async def create(self, task: str) -> None:
        body = {**EMPTY, **self.random.choice([{}, self.list_id(), self.parent_id()])}
        requested = {"list_id": None, "parent_id": None, "labels": [], **body}
        await self.change("PUT", f"{USER}/tasks/{task}", body, requested)

    async def delete(self, task: str) -> None:
        response = await self.send("DELETE", f"{USER}/tasks/{task}")
        if response.status_code == 204:
            self.log.deletes.add(task)

    async def patch(self, task: str, body: JSON) -> None:
        await self.change("PATCH", f"{USER}/tasks/{task}", body, body)

    async def change(self, method: str, path: str, body: JSON, requested: JSON) -> None:
        response = await self.send(method, path, json=body)
        if response.is_success:
            self.log.changes.append(
                Change(requested, response.json(), creates=response.status_code == 201)
            )

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        started_at = time.monotonic()
        response = await self.http.request(method, path, **options)
        self.log.latencies.append(time.monotonic() - started_at)
        self.log.statuses[f"{method} {response.status_code}"] += 1
        if response.status_code not in STATUSES:
            self.log.unexpected.append(f"{method} {path} {options}: {response.text}")
        return response

    def list_id(self) -> JSON:
        return {"list_id": self.random.choice([None, *LISTS])}

    def parent_id(self) -> JSON:
        return {"parent_id": self.random.choice(TASKS)}


def lost_changes(log: Log, stored: dict[str, JSON]) -> Iterator[str]:
    """Yield the acknowledged changes of which a later version shows nothing."""
    # A task that is deleted and created again has another `created_at`.
    lives: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in log.changes:
        lives[change.task["id"], change.task["created_at"]].append(change)
    for (id_, created_at), changes in lives.items():
        changes.sort(key=lambda change: _time(change.task["updated_at"]))
        if not changes[0].creates:
            yield f"{id_} was changed before its creation at {created_at}"
        for before, after in pairwise(changes):
            yield from _differences(id_, before.task | after.requested, after.task)
        yield from _missing(changes, stored.get(id_), log.deletes)
    for id_, now in stored.items():
        if (id_, now["created_at"]) not in lives:
            yield f"{id_} was created without a response"


def _missing(changes: list[Change], now: JSON | None, deletes: set[str]) -> Iterator[str]:
    last = changes[-1].task
    if now is not None and now["created_at"] == last["created_at"]:
        yield from _differences(last["id"], last, now)
    elif now is None and not {last["id"], *_parents(changes)} & deletes:
        yield f"{last['id']} is missing and was not deleted"


def _differences(id_: str, expected: JSON, found: JSON) -> Iterator[str]:
    # `completed_at` follows from `completed`. A move of another task may change the position.
    for name in expected.keys() - RESPACED - {"completed_at"}:
        if expected[name] != found[name]:
            yield f"{id_} has {name} {found[name]!r} instead of {expected[name]!r}"


def _parents(changes: list[Change]) -> set[str]:
    return {change.task["parent_id"] for change in changes if change.task["parent_id"]}


def _time(timestamp: str) -> str:
    """Return a timestamp with all digits of its microseconds."""
    whole, _, digits = timestamp.removesuffix("Z").partition(".")
    return f"{whole}.{digits:0<6}"


async def read_all(http: httpx.AsyncClient, **params: Any) -> list[JSON]:
    """Return the tasks of a query in their order."""
    items: list[JSON] = []
    cursor: JSON = {}
    while True:
        page = (await http.get(f"{USER}/tasks", params={"limit": 200, **params, **cursor})).json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"cursor": page["next_cursor"]}


async def contend(http: httpx.AsyncClient, connection: asyncpg.Connection) -> tuple[str, bool]:
    """Run the clients. Return the figures, and whether everything is as it must be."""
    log = Log()
    for list_id in LISTS:
        (await http.put(f"{USER}/lists/{list_id}", json={"name": "Home"})).raise_for_status()
    clients = [Client(number, http, log) for number in range(CLIENTS)]
    for task in TASKS:
        await clients[0].create(task)
    progress(f"{CLIENTS} clients change the same {len(TASKS)} tasks for {SECONDS:.0f} s")
    deadline = time.monotonic() + SECONDS
    await asyncio.gather(*(client.run(deadline) for client in clients))
    stored = {task["id"]: task for task in await read_all(http)}
    lost = list(lost_changes(log, stored))
    errors = [*log.unexpected, *await integrity_errors(connection), *lost]
    statuses = ", ".join(f"{name}: {n}" for name, n in sorted(log.statuses.items()))
    text = (
        f"{len(log.latencies)} requests of {CLIENTS} clients in {SECONDS:.0f} s; "
        f"p50 {_ms(log.latencies, 50)}, p99 {_ms(log.latencies, 99)}; {statuses}\n"
        f"acknowledged changes {len(log.changes)}, lost {len(lost)}; unexpected responses "
        f"{len(log.unexpected)}; deadlocks {await _deadlocks(connection)}; dangling references, "
        f"second levels or equal positions {len(errors) - len(log.unexpected) - len(lost)}"
    )
    return "\n".join([text, *errors[:10]]), not errors


def _ms(values: list[float], percent: float) -> str:
    return f"{percentile(values, percent) * 1000:.1f} ms"


async def fill_gap(
    http: httpx.AsyncClient, connection: asyncpg.Connection, name: str, side: Callable[[int], bool]
) -> tuple[str, bool]:
    """Move tasks into the gap between the first two tasks of a list.

    `side` returns for each move on which side of the moved task the gap continues.
    """
    list_id = (await http.post(f"{USER}/lists", json={"name": name})).json()["id"]
    body = {"title": name, "list_id": list_id}
    order = [(await http.post(f"{USER}/tasks", json=body)).json()["id"] for _ in range(MOVERS)]
    low, high = order[:2]
    movers = order[2:]
    written = await _updated_rows(connection)
    latencies: list[float] = []
    longest = 0
    progress(f"{MOVES} moves into one gap, {name}")
    for number in range(MOVES):
        mover = next(each for each in movers if each not in {low, high})
        movers.remove(mover)
        movers.append(mover)
        started_at = time.monotonic()
        response = await http.post(f"{USER}/tasks/{mover}/move", json={"after_id": low})
        latencies.append(time.monotonic() - started_at)
        longest = max(longest, len(response.raise_for_status().json()["position"]))
        order.remove(mover)
        order.insert(order.index(low) + 1, mover)
        low, high = (low, mover) if side(number) else (mover, high)
    rows = (await _updated_rows(connection) - written) / MOVES
    tasks = await read_all(http, list_id=list_id, sort="position", order="asc")
    longest = max(longest, *(len(task["position"]) for task in tasks))
    is_ordered = [task["id"] for task in tasks] == order
    text = (
        f"{MOVES} moves {name}: longest position {longest} bytes, {rows:.2f} rows written per "
        f"move, p50 {_ms(latencies, 50)}, p99 {_ms(latencies, 99)}, "
        f"slowest {_ms(latencies, 100)}, {'in the requested' if is_ordered else 'IN ANOTHER'} order"
    )
    return text, is_ordered and longest <= MAX_POSITION_BYTES and rows <= MAX_ROWS_PER_MOVE


async def _updated_rows(connection: asyncpg.Connection) -> int:
    """Return the number of updated rows of tasks."""
    await asyncio.sleep(3)  # idle sessions report their numbers after a second
    query = "SELECT pg_stat_clear_snapshot(), n_tup_upd FROM pg_stat_user_tables WHERE relname = $1"
    return int((await connection.fetch(query, "tasks"))[0]["n_tup_upd"])


async def _deadlocks(connection: asyncpg.Connection) -> int:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int((await connection.fetch(query))[0]["deadlocks"])


async def measure(url: str, database_url: str) -> list[tuple[str, bool]]:
    connection = await asyncpg.connect(database_url)
    random = Random(1)  # noqa: S311 - no secret
    sides: dict[str, Callable[[int], bool]] = {
        "directly after one task": lambda _: True,
        "on alternating sides": lambda number: number % 2 == 0,
        "on random sides": lambda _: random.random() < 0.5,
    }
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        results = [await contend(http, connection)]
        print(results[-1][0], flush=True)
        for name, side in sides.items():
            results.append(await fill_gap(http, connection, name, side))
            print(results[-1][0], flush=True)
    await connection.close()
    return results


def main() -> None:
    """Exit with 1 if anything is not as it must be."""
    with filled_database() as (database_url, _), serving(DATABASE_URL=database_url) as service:
        results = asyncio.run(measure(service.url, database_url))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n\n".join(["# Contention", *(text for text, _ in results), ""]), "utf-8")
    sys.exit(not all(passed for _, passed in results))


if __name__ == "__main__":
    run(main)
