"""The load: clients that write, and a log of the responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from tests.support.client import tasks_of
from tools.fault_injection.contract import CHECK, HAS_IDEMPOTENCY_KEY

CLIENTS = 12
PAUSE = 0.02  # seconds between two requests of a client, about 300 requests/s for all clients
RECONNECT_PAUSE = 0.2  # seconds; faster reconnects would take the CPU of the machine
MAX_LATENCY = 5.0  # seconds; the contract's 4 for the database, and a second for the rest
MAX_REPEAT_SECONDS = 60  # longer than any fault lasts
SUBTASKS = 3  # of a parent, until it is deleted
MAX_LISTS = 3  # of a client; the oldest is deleted
EMPTY = {"description": None, "completed": False}


@dataclass
class Write:
    """A write with a unique title, which is the name of a list."""

    title: str
    change: str  # as in the audit table
    acknowledged: bool = False
    etag: str | None = None  # of the acknowledged task or list
    task: str | None = None
    sent: bool = True  # False if the connection failed, so the write cannot be applied
    is_idempotent: bool = False  # repeated until acknowledged, and must be applied exactly once


@dataclass
class Move:
    """A move of a task or list. `moved` is the acknowledged response."""

    id: str
    moved: dict[str, Any] | None = None
    sent: bool = True


@dataclass
class WriteLog:
    """The writes of all clients, their responses, and all errors."""

    started: float = field(default_factory=time.monotonic)
    writes: list[Write] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    deletes: dict[str, bool] = field(default_factory=dict)  # task or list: acknowledged
    successes: list[float] = field(default_factory=list)  # times of acknowledged writes
    unknowns: list[float] = field(default_factory=list)  # times of requests with unknown outcome
    slowest: float = 0.0
    late: list[tuple[float, str]] = field(default_factory=list)  # seconds and response
    lost: list[str] = field(default_factory=list)
    applied_twice: list[str] = field(default_factory=list)
    undocumented: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # from the feed

    @property
    def acknowledged(self) -> int:
        """The number of acknowledged writes."""
        return len(self.successes)


@dataclass(frozen=True)
class Allowed:
    """The failures that clients may see during a fault."""

    connection_lost: bool = False  # the service is killed
    connection_refused: bool = False  # no process listens for a while
    internal_errors: bool = False  # the service lacks a resource


class Client:
    """A client with its own user, so that no other client changes its tasks and lists."""

    def __init__(self, number: int, url: str, log: WriteLog, allowed: Allowed) -> None:
        self.log = log
        self.allowed = allowed
        self.path = tasks_of(f"client-{number}")
        self.lists_path = f"/api/v1/users/client-{number}/lists"
        self.number = number
        self.count = number  # so that the clients run different operations
        self.tasks: dict[str, str] = {}  # id: etag, of tasks that must exist
        self.lists: list[str] = []  # ids of lists that must exist
        self.parent: str | None = None
        self.subtasks: dict[str, bool] = {}  # of the parent: id, and whether it must exist
        self.chain: tuple[str, str, str] | None = None  # id, etag and title
        self.unknown_step: Write | None = None  # the last step, if its outcome is unknown
        self.http = httpx.AsyncClient(base_url=url, timeout=3 * MAX_LATENCY, trust_env=False)

    async def run(self, stopped: asyncio.Event) -> None:
        """Write and read until stopped."""
        operations: list[Callable[[], Awaitable[None]]] = [
            self.create,
            self.put,
            self.advance,
            self.read,
            self.delete,
            self.advance,
            self.list_page,
            self.create_list,
            self.create_in_list,
            self.create_subtask,
            self.move,
            self.move_list,
            self.delete_parent,
            self.move,
            self.delete_list,
        ]
        if HAS_IDEMPOTENCY_KEY:
            operations.append(self.create_idempotently)
        async with self.http:
            while not stopped.is_set():
                await operations[self.count % len(operations)]()
                self.count += 1
                await asyncio.sleep(PAUSE)

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Send a request and log errors. Return None if its outcome is unknown."""
        log = self.log
        started_at = time.monotonic()
        try:
            response = await self.http.request(method, path, **options)
        except httpx.ConnectError:
            if not self.allowed.connection_refused:
                log.undocumented.append(f"{method}: connection refused")
            await asyncio.sleep(RECONNECT_PAUSE)
            raise
        except httpx.TransportError as error:
            log.unknowns.append(time.monotonic())
            if not self.allowed.connection_lost:
                log.undocumented.append(f"{method}: {type(error).__name__} {error}")
            return None
        latency = time.monotonic() - started_at
        log.slowest = max(log.slowest, latency)
        self.check_response(response, latency)
        if response.status_code in {500, 503}:
            log.unknowns.append(time.monotonic())
            return None
        return response

    def check_response(self, response: httpx.Response, latency: float) -> None:
        """Log a response that is not in the contract, is late, or is an internal error."""
        request = response.request
        name = f"{request.method} {response.status_code}"
        try:
            CHECK.check(request.method, request.url.raw_path.decode("ascii"), response)
        except AssertionError as error:
            self.log.undocumented.append(f"{name}: {error}")
        if latency > MAX_LATENCY:
            self.log.late.append((latency, name))
        if response.status_code == 500 and not self.allowed.internal_errors:
            self.log.undocumented.append(f"{name}: {response.text}")

    async def write(self, write: Write, method: str, path: str, **options: Any) -> Any:
        """Send a write and log its outcome. Return None if the outcome is unknown."""
        self.log.writes.append(write)
        try:
            response = await self.send(method, path, **options)
        except httpx.ConnectError:
            write.sent = False
            return None
        if response is not None and response.is_success:
            write.acknowledged = True
            self.log.successes.append(time.monotonic())
            task = response.json()
            write.task, write.etag = task["id"], task["etag"]
        return response

    def unique_title(self, operation: str) -> str:
        return f"{operation} {self.number} {self.count}"

    async def create(self) -> None:
        write = Write(self.unique_title("create"), "INSERT")
        await self.write(write, "POST", self.path, json={"title": write.title})
        if write.task and write.etag:
            self.tasks[write.task] = write.etag

    async def create_idempotently(self) -> None:
        """Repeat a create with one key until it is acknowledged. It must create one task."""
        write = Write(self.unique_title("once"), "INSERT", is_idempotent=True)
        headers = {"Idempotency-Key": f'"{uuid4()}"'}
        body = {"title": write.title}
        self.log.writes.append(write)
        deadline = time.monotonic() + MAX_REPEAT_SECONDS
        while time.monotonic() < deadline:
            try:
                response = await self.send("POST", self.path, json=body, headers=headers)
            except httpx.ConnectError:
                response = None
            if response is not None and response.is_success:
                write.acknowledged = True
                write.task, write.etag = response.json()["id"], response.json()["etag"]
                self.log.successes.append(time.monotonic())
                self.tasks[response.json()["id"]] = response.json()["etag"]
                return
            await asyncio.sleep(0.2)

    async def create_list(self) -> None:
        write = Write(self.unique_title("list"), "INSERT")
        await self.write(write, "POST", self.lists_path, json={"name": write.title})
        if write.task:
            self.lists.append(write.task)

    async def create_in_list(self) -> None:
        if self.lists:
            write = Write(self.unique_title("listed"), "INSERT")
            body = {"title": write.title, "list_id": self.lists[-1]}
            await self.write(write, "POST", self.path, json=body)
            if write.task and write.etag:
                self.tasks[write.task] = write.etag

    async def create_subtask(self) -> None:
        """Create a subtask with an id from the client."""
        if self.parent is None:
            write = Write(self.unique_title("parent"), "INSERT")
            await self.write(write, "POST", self.path, json={"title": write.title})
            self.parent = write.task
            return
        subtask = str(uuid4())
        write = Write(self.unique_title("subtask"), "INSERT")
        body = {**EMPTY, "title": write.title, "parent_id": self.parent}
        await self.write(write, "PUT", f"{self.path}/{subtask}", json=body)
        if write.sent:
            self.subtasks[subtask] = write.acknowledged

    async def move(self) -> None:
        """Move an acknowledged task: to the start of its place, of the inbox or of a list."""
        if not self.tasks:
            return
        task = list(self.tasks)[self.count % len(self.tasks)]
        places: list[dict[str, str | None]] = [{}, {"list_id": None}]
        places += [{"list_id": list_id} for list_id in self.lists[-1:]]
        place = places[self.count % len(places)]
        etag = await self.send_move(f"{self.path}/{task}", task, {"after_id": None, **place})
        if etag:
            self.tasks[task] = etag
        else:
            del self.tasks[task]  # its ETag is unknown

    async def move_list(self) -> None:
        """Move a list after the newest one."""
        if len(self.lists) > 1:
            body = {"after_id": self.lists[-1]}
            await self.send_move(f"{self.lists_path}/{self.lists[0]}", self.lists[0], body)

    async def send_move(self, path: str, id_: str, body: dict[str, Any]) -> str | None:
        """Move a task or list. Return its new ETag, or None if the outcome is unknown."""
        move = Move(id_)
        self.log.moves.append(move)
        try:
            response = await self.send("POST", f"{path}/move", json=body)
        except httpx.ConnectError:
            move.sent = False
            return None
        if response is None:
            return None
        if response.status_code != 200:
            self.log.lost.append(f"move of an acknowledged resource: {response.status_code}")
            return None
        move.moved = response.json()
        self.log.successes.append(time.monotonic())
        return str(response.json()["etag"])

    async def delete_parent(self) -> None:
        """Delete a task with its subtasks."""
        if self.parent is None or len(self.subtasks) < SUBTASKS:
            return
        deleted = await self.send_delete(f"{self.path}/{self.parent}", self.parent)
        self.log.deletes |= {id_: deleted and exists for id_, exists in self.subtasks.items()}
        self.parent, self.subtasks = None, {}

    async def delete_list(self) -> None:
        """Delete the oldest list, unless it contains tasks."""
        if len(self.lists) > MAX_LISTS:
            list_id = self.lists.pop(0)
            await self.send_delete(f"{self.lists_path}/{list_id}", list_id, conflict=True)

    async def put(self) -> None:
        """Create a task with an id from the client."""
        task = str(uuid4())
        write = Write(self.unique_title("put"), "INSERT")
        body = {**EMPTY, "title": write.title}
        await self.write(write, "PUT", f"{self.path}/{task}", json=body)
        if write.etag:
            self.tasks[task] = write.etag

    async def advance(self) -> None:
        """Update the task of the chain. Its If-Match has the ETag of the previous step."""
        if self.chain is None:
            write = Write(self.unique_title("chain"), "INSERT")
            await self.write(write, "POST", self.path, json={"title": write.title})
            if write.task and write.etag:
                self.chain = (write.task, write.etag, write.title)
            return
        task, etag, before = self.chain
        if self.unknown_step:
            await self.resolve_step(task, etag, before, self.unknown_step)
            return
        write = Write(self.unique_title("step"), "UPDATE")
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
            self.log.lost.append(f"step from {before!r}: {response.status_code}")
            self.chain = None
        elif write.sent:
            self.unknown_step = write

    async def resolve_step(self, task: str, etag: str, before: str, write: Write) -> None:
        """Read whether a step with unknown outcome was applied, and continue from there."""
        try:
            response = await self.send("GET", f"{self.path}/{task}")
        except httpx.ConnectError:
            response = None
        if response is None:
            return  # tried again at the next step
        self.unknown_step = None
        if response.status_code != 200:
            self.log.lost.append(f"chain of {before!r}: {response.status_code}")
            self.chain = None
            return
        current = response.json()
        new_etag, title = current["etag"], current["title"]
        if (new_etag, title) != (etag, before) and title != write.title:
            self.log.lost.append(f"chain of {before!r} is at {title!r}")
        self.chain = (task, new_etag, title)

    async def read(self) -> None:
        """Read an acknowledged task, and compare its ETag."""
        if not self.tasks:
            return
        task, etag = next(reversed(self.tasks.items()))
        try:
            response = await self.send("GET", f"{self.path}/{task}")
        except httpx.ConnectError:
            return
        if response is not None and response.headers.get("etag") != etag:
            self.log.lost.append(f"GET of an acknowledged task: {response.status_code}")

    async def list_page(self) -> None:
        try:
            await self.send("GET", self.path, params={"limit": 5})
        except httpx.ConnectError:
            return

    async def delete(self) -> None:
        """Delete an acknowledged task."""
        if not self.tasks:
            return
        task = next(iter(self.tasks))
        del self.tasks[task]
        await self.send_delete(f"{self.path}/{task}", task)

    async def send_delete(self, path: str, id_: str, *, conflict: bool = False) -> bool:
        """Delete a task or list. Return whether the delete is acknowledged.

        With `conflict`, it may be rejected, because a list may contain tasks.
        """
        try:
            response = await self.send("DELETE", path)
        except httpx.ConnectError:
            return False
        if conflict and response is not None and response.status_code == 409:
            return False
        self.log.deletes[id_] = response is not None
        if response is None:
            return False
        if response.status_code == 204:
            self.log.successes.append(time.monotonic())
        else:
            self.log.lost.append(f"DELETE of an acknowledged resource: {response.status_code}")
        return response.status_code == 204
