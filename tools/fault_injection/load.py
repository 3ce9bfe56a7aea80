"""The load: clients that write, and a ledger of what each of them was told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from tests.support.client import tasks_of
from tools.fault_injection.contract import CHECK, HAS_IDEMPOTENCY_KEY

CLIENTS = 12
PAUSE_SECONDS = 0.02  # between two requests of a client: about 300 requests a second in all
REFUSED_SECONDS = 0.2  # after a connection was refused; else the machine does little but that
ANSWER_SECONDS = 5.0  # the contract's 4 at the database, and what surrounds them
REPEATED_SECONDS = 60  # longer than any fault lasts


@dataclass
class Write:
    """A write that was sent, under a title that no other request has."""

    title: str
    change: str  # as the history calls it
    acknowledged: bool = False
    etag: str | None = None  # of the task, where it was acknowledged
    task: str | None = None
    sent: bool = True  # False where the connection was refused, so that it cannot have happened
    once: bool = False  # was repeated until acknowledged, and must have happened exactly once


@dataclass
class Ledger:
    """What the clients were told, and what was wrong with it."""

    started: float = field(default_factory=time.monotonic)
    writes: list[Write] = field(default_factory=list)
    deletes: dict[str, bool] = field(default_factory=dict)  # task: acknowledged
    successes: list[float] = field(default_factory=list)  # instants of acknowledged writes
    unknowns: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    slowest: float = 0.0
    late: list[tuple[float, str]] = field(default_factory=list)  # seconds, and what was answered
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    undocumented: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """How many writes were."""
        return len(self.successes)


@dataclass(frozen=True)
class Allowed:
    """What a fault may do to the clients' own connections and answers."""

    cuts: bool = False  # the service's process ends without a warning
    refusals: bool = False  # nobody listens for a while
    internal_errors: bool = False  # the process itself is short of something


class Client:
    """One client with users of its own, so that nobody else changes its tasks."""

    def __init__(self, number: int, url: str, ledger: Ledger, allowed: Allowed) -> None:
        self.ledger = ledger
        self.allowed = allowed
        self.path = tasks_of(f"client-{number}")
        self.number = number
        self.count = number  # so that not all do the same at once
        self.tasks: dict[str, str] = {}  # id: etag, of tasks that must be there
        self.chain: tuple[str, str, str] | None = None  # id, etag and title
        self.doubt: Write | None = None  # the step whose outcome is still to be read
        self.http = httpx.AsyncClient(base_url=url, timeout=3 * ANSWER_SECONDS, trust_env=False)

    async def run(self, stopped: asyncio.Event) -> None:
        """Write and read until stopped."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            self.create,
            self.put,
            self.advance,
            self.read,
            self.delete,
            self.advance,
            self.list_page,
        ]
        if HAS_IDEMPOTENCY_KEY:
            kinds.append(self.create_once)
        async with self.http:
            while not stopped.is_set():
                await kinds[self.count % len(kinds)]()
                self.count += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Send a request; None where its outcome is unknown. What is wrong goes to the ledger."""
        ledger = self.ledger
        began = time.monotonic()
        try:
            response = await self.http.request(method, path, **options)
        except httpx.ConnectError:
            ledger.refused += 1
            if not self.allowed.refusals:
                ledger.undocumented.append(f"{method}: refused")
            await asyncio.sleep(REFUSED_SECONDS)
            raise
        except httpx.TransportError as fault:
            ledger.unknowns.append(time.monotonic())
            ledger.answers["cut"] += 1
            if not self.allowed.cuts:
                ledger.undocumented.append(f"{method}: {type(fault).__name__} {fault}")
            return None
        took = time.monotonic() - began
        ledger.slowest = max(ledger.slowest, took)
        ledger.answers[str(response.status_code)] += 1
        self.hold_against_contract(response, took)
        if response.status_code in {500, 503}:
            ledger.unknowns.append(time.monotonic())
            return None
        return response

    def hold_against_contract(self, response: httpx.Response, took: float) -> None:
        """Note an answer that the contract does not state, that is late, or that blames us."""
        request = response.request
        name = f"{request.method} {response.status_code}"
        try:
            CHECK.check(request.method, request.url.raw_path.decode("ascii"), response)
        except AssertionError as violation:
            self.ledger.undocumented.append(f"{name}: {violation}")
        if took > ANSWER_SECONDS:
            self.ledger.late.append((took, name))
        if response.status_code == 500 and not self.allowed.internal_errors:
            self.ledger.undocumented.append(f"{name}: {response.text}")

    async def write(self, write: Write, method: str, path: str, **options: Any) -> Any:
        """Send a write and keep what was answered; the response, None where that is unknown."""
        self.ledger.writes.append(write)
        try:
            response = await self.ask(method, path, **options)
        except httpx.ConnectError:
            write.sent = False
            return None
        if response is not None and response.is_success:
            write.acknowledged = True
            self.ledger.successes.append(time.monotonic())
            task = response.json()
            write.task, write.etag = task["id"], task["etag"]
        return response

    def title(self, kind: str) -> str:
        return f"{kind} {self.number} {self.count}"

    async def create(self) -> None:
        write = Write(self.title("create"), "INSERT")
        await self.write(write, "POST", self.path, json={"title": write.title})
        if write.task and write.etag:
            self.tasks[write.task] = write.etag

    async def create_once(self) -> None:
        """Repeat a create under one key until it is acknowledged: exactly one task comes of it."""
        write = Write(self.title("once"), "INSERT", once=True)
        headers = {"Idempotency-Key": f'"{uuid4()}"'}
        body = {"title": write.title}
        self.ledger.writes.append(write)
        until = time.monotonic() + REPEATED_SECONDS
        while time.monotonic() < until:
            try:
                response = await self.ask("POST", self.path, json=body, headers=headers)
            except httpx.ConnectError:
                response = None
            if response is not None and response.is_success:
                write.acknowledged = True
                write.task, write.etag = response.json()["id"], response.json()["etag"]
                self.ledger.successes.append(time.monotonic())
                self.tasks[response.json()["id"]] = response.json()["etag"]
                return
            await asyncio.sleep(0.2)

    async def put(self) -> None:
        """Create a task under an id of the client's own."""
        task = str(uuid4())
        write = Write(self.title("put"), "INSERT")
        body = {"title": write.title, "description": None, "completed": False}
        await self.write(write, "PUT", f"{self.path}/{task}", json=body)
        if write.etag:
            self.tasks[task] = write.etag

    async def advance(self) -> None:
        """Take the chain one step on: a PATCH that holds only for the tag of the step before."""
        if self.chain is None:
            write = Write(self.title("chain"), "INSERT")
            await self.write(write, "POST", self.path, json={"title": write.title})
            if write.task and write.etag:
                self.chain = (write.task, write.etag, write.title)
            return
        task, etag, before = self.chain
        if self.doubt:
            await self.look_after(task, etag, before, self.doubt)
            return
        write = Write(self.title("step"), "UPDATE")
        response = await self.write(
            write,
            "PATCH",
            f"{self.path}/{task}",
            json={"title": write.title},
            headers={"If-Match": etag},
        )
        if write.etag:
            self.chain = (task, write.etag, write.title)
        elif response is not None:
            self.ledger.lost.append(f"step from {before!r}: {response.status_code}")
            self.chain = None
        elif write.sent:
            self.doubt = write

    async def look_after(self, task: str, etag: str, before: str, write: Write) -> None:
        """After an unknown outcome: read which of the two it was, and go on from there."""
        try:
            response = await self.ask("GET", f"{self.path}/{task}")
        except httpx.ConnectError:
            response = None
        if response is None:
            return  # asked again at the next step
        self.doubt = None
        if response.status_code != 200:
            self.ledger.lost.append(f"chain of {before!r}: {response.status_code}")
            self.chain = None
            return
        found = response.json()
        if (found["etag"], found["title"]) != (etag, before) and found["title"] != write.title:
            self.ledger.lost.append(f"chain of {before!r} is at {found['title']!r}")
        self.chain = (task, found["etag"], found["title"])

    async def read(self) -> None:
        """Read a task that was acknowledged, and hold its tag against the ledger."""
        if not self.tasks:
            return
        task, etag = next(reversed(self.tasks.items()))
        try:
            response = await self.ask("GET", f"{self.path}/{task}")
        except httpx.ConnectError:
            return
        if response is not None and response.headers.get("etag") != etag:
            self.ledger.lost.append(f"GET of an acknowledged task: {response.status_code}")

    async def list_page(self) -> None:
        try:
            await self.ask("GET", self.path, params={"limit": 5})
        except httpx.ConnectError:
            return

    async def delete(self) -> None:
        """Delete a task that was acknowledged."""
        if not self.tasks:
            return
        task = next(iter(self.tasks))
        del self.tasks[task]
        try:
            response = await self.ask("DELETE", f"{self.path}/{task}")
        except httpx.ConnectError:
            return
        self.ledger.deletes[task] = response is not None
        if response is None:
            return
        if response.status_code == 204:
            self.ledger.successes.append(time.monotonic())
        else:
            self.ledger.lost.append(f"DELETE of an acknowledged task: {response.status_code}")
