"""`task bench:feed`: follow the feed next to 16 writers (NFR-203).

Two pollers keep a copy of one user's tasks: one asks once a second, the other with `wait`. The
writers first change tasks without a pause, then with pauses. Prints how long after its response
each change was in the copies, and how many acknowledged changes a copy misses. That must be none.

FEED_SECONDS changes the duration of the first part.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import defaultdict
from random import Random
from typing import Any

import httpx

from bench.load.generator import percentile
from bench.load.workload import filled_database
from tests.support.client import tasks_of
from tests.support.long_task import progress, run
from tests.support.process import serving

SECONDS = float(os.environ.get("FEED_SECONDS") or 60)
WRITERS = 16
MAX_PAUSE = 4.0  # seconds, in the second part
PAUSED_SECONDS = SECONDS / 2
ASK_INTERVAL = 1.0  # seconds, without `wait`
WAIT = 30  # seconds
DELETED = "deleted"


class Changes:
    """The acknowledged changes: for each task, its ETags in their order, and their times."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, list[tuple[str, float]]] = defaultdict(list)

    def add(self, task_id: str, etag: str) -> None:
        self.acknowledged[task_id].append((etag, time.monotonic()))

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))


class Poller:
    """Keeps a copy of the tasks from the feed only."""

    def __init__(self, name: str, http: httpx.AsyncClient, user: str, **params: int) -> None:
        self.name = name
        self.http = http
        self.url = f"/api/v1/users/{user}/changes"
        self.params = params
        self.since: dict[str, str] = {}
        self.seen: list[tuple[str, str, float]] = []
        self.requests = 0

    async def run(self, finished: asyncio.Event) -> None:
        """Follow the feed until everything after `finished` is read."""
        is_last = False
        while not is_last:
            is_last = finished.is_set()
            has_more = True
            while has_more:
                has_more = (await self.page(wait=not is_last))["has_more"]
            if not self.params and not is_last:
                await asyncio.sleep(ASK_INTERVAL)

    async def page(self, *, wait: bool) -> dict[str, Any]:
        params: dict[str, Any] = {"limit": 200, **self.since, **(self.params if wait else {})}
        response = await self.http.get(self.url, params=params)
        page: dict[str, Any] = response.raise_for_status().json()
        self.requests += 1
        now = time.monotonic()
        for item in page["items"]:
            etag = DELETED if item["deleted"] else item["task"]["etag"]
            self.seen.append((item["id"], etag, now))
        self.since = {"since": page["next_since"]}
        return page

    def delays(self, changes: Changes) -> list[float]:
        """Return the delay of each acknowledged change; infinite if the copy misses it.

        A page has the current state of a task, so it also shows the changes before.
        """
        seen: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for task_id, etag, at in self.seen:
            seen[task_id].append((etag, at))
        delays: list[float] = []
        for task_id, acknowledged in changes.acknowledged.items():
            order = [etag for etag, _ in acknowledged]
            shown = [float("inf")] * len(order)
            for etag, at in reversed(seen[task_id]):
                position = order.index(etag) if etag in order else -1
                shown[: position + 1] = [at] * (position + 1)
            delays += [max(0.0, at - t) for at, (_, t) in zip(shown, acknowledged, strict=True)]
        return delays


async def write(
    http: httpx.AsyncClient, user: str, number: int, deadline: float, pause: float, log: Changes
) -> None:
    """Create, change and delete own tasks until a time."""
    random = Random(number)  # noqa: S311 - no secret
    own: list[str] = []
    while time.monotonic() < deadline:
        await asyncio.sleep(random.uniform(0, pause))
        if not own or random.random() < 0.4:
            response = await http.post(tasks_of(user), json={"title": "Buy milk"})
            own.append(response.raise_for_status().json()["id"])
            log.add(own[-1], response.json()["etag"])
            continue
        task_id = random.choice(own)
        if random.random() < 0.7:
            response = await http.patch(f"{tasks_of(user)}/{task_id}", json={"title": str(number)})
            log.add(task_id, response.raise_for_status().json()["etag"])
        else:
            (await http.delete(f"{tasks_of(user)}/{task_id}")).raise_for_status()
            log.add(task_id, DELETED)
            own.remove(task_id)


async def follow(url: str, user: str, seconds: float, pause: float) -> int:
    """Write for some seconds. Print a line for each poller, and return the missed changes."""
    log, finished = Changes(), asyncio.Event()
    async with httpx.AsyncClient(base_url=url, timeout=WAIT + 10, trust_env=False) as http:
        pollers = [
            Poller("once a second", http, user),
            Poller("with wait", http, user, wait=WAIT),
        ]
        polling = [asyncio.create_task(poller.run(finished)) for poller in pollers]
        deadline = time.monotonic() + seconds
        await asyncio.gather(
            *(write(http, user, number, deadline, pause, log) for number in range(WRITERS))
        )
        finished.set()
        # It ends a request that waits. It is not logged, because the last read may be before it.
        (await http.post(tasks_of(user), json={"title": "The last one"})).raise_for_status()
        await asyncio.gather(*polling)
    missed = 0
    for poller in pollers:
        delays = poller.delays(log)
        lost = delays.count(float("inf"))
        missed += lost
        print(
            f"{poller.name:13} {log.count / seconds:8.0f} {log.count:8} {lost:6} "
            f"{poller.requests:8} {percentile(delays, 50) * 1000:8.0f} "
            f"{percentile(delays, 99) * 1000:8.0f} {max(delays) * 1000:8.0f}",
            flush=True,
        )
    return missed


HEADER = "poller        changes/s  changes missed requests   p50 ms   p99 ms   max ms"


def main() -> None:
    """Exit with 1 if a copy misses an acknowledged change."""
    with filled_database() as (database_url, _), serving(DATABASE_URL=database_url) as service:
        print(HEADER, flush=True)
        progress(f"{WRITERS} writers without a pause, for {SECONDS:.0f} s")
        missed = asyncio.run(follow(service.url, "busy", SECONDS, 0.0))
        progress(f"{WRITERS} writers with pauses, for {PAUSED_SECONDS:.0f} s")
        missed += asyncio.run(follow(service.url, "calm", PAUSED_SECONDS, MAX_PAUSE))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    run(main)
