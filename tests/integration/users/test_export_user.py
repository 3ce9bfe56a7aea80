"""The export of a user, over HTTP and in parts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.domain.changes.repository import ChangeRepository
from app.domain.users.repository import export_lines, read_first_page
from app.http.middleware import HTTPMiddleware
from app.http.problems import DatabaseUnavailable
from tests.support.client import ContractClient, tasks_of
from tests.support.in_process import app_state_of
from tests.support.recorded_statements import record_statements

USER = "/api/v1/users/alice"
ALICE = tasks_of("alice")
LISTS = f"{USER}/lists"
EXPORT = f"{USER}/export"


def lines_of(content: bytes) -> list[dict[str, Any]]:
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


async def create_tasks(client: ContractClient, number: int) -> list[str]:
    """Create tasks in batches, and return their IDs."""
    ids: list[str] = []
    while len(ids) < number:
        batch = {"create": [{"title": "a"}] * min(100, number - len(ids))}
        response = await client.post(f"{ALICE}/batch", json=batch)
        ids += [task["id"] for task in response.json()["created"]]
    return ids


async def stored(client: ContractClient, url: str) -> dict[str, Any]:
    """Return all items of a collection by ID."""
    items: dict[str, Any] = {}
    params: dict[str, Any] | None = {"limit": 200}
    while params:
        page = (await client.get(url, params=params)).json()
        items |= {item["id"]: item for item in page["items"]}
        cursor = page["next_cursor"]
        params = None if cursor is None else {"limit": 200, "cursor": cursor}
    return items


@pytest.mark.requirement("FR-231")
@pytest.mark.parametrize("number", [1, 200, 450])
async def test_export_has_every_task_and_list(client: ContractClient, number: int) -> None:
    task_list = (await client.post(LISTS, json={"name": "a"})).json()["id"]
    (first, *_) = await create_tasks(client, number)
    await client.patch(f"{ALICE}/{first}", json={"list_id": task_list, "description": "a\n\u2028"})
    deleted = (await client.post(ALICE, json={"title": "a"})).json()["id"]
    await client.delete(f"{ALICE}/{deleted}")
    await client.post(tasks_of("bob"), json={"title": "b"})
    response = await client.get(EXPORT)
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, end = lines_of(response.content)
    assert end == {"kind": "end", "lines": len(lines)}
    tasks = {line["id"]: line["task"] for line in lines if line["kind"] == "task"}
    lists = {line["id"]: line["list"] for line in lines if line["kind"] == "list"}
    assert len(lines) == len(tasks) + len(lists) == number + 1
    assert tasks == await stored(client, ALICE)
    assert lists == await stored(client, LISTS)


@pytest.mark.requirement("FR-231")
async def test_export_of_an_unknown_user_is_only_the_last_line(client: ContractClient) -> None:
    response = await client.get(EXPORT)
    assert response.content == b'{"kind":"end","lines":0}\n'


@pytest.mark.requirement("FR-231")
async def test_changes_during_an_export_are_in_later_lines(client: ContractClient) -> None:
    before = (await client.post(ALICE, json={"title": "a"})).json()["id"]
    await client.delete(f"{ALICE}/{before}")
    first, second, *_ = await create_tasks(client, 250)
    changes = app_state_of(client).change_repository
    parts = export_lines(changes, "alice", await read_first_page(changes, "alice"))
    content = await anext(parts)
    await client.patch(f"{ALICE}/{first}", json={"title": "b"})
    await client.delete(f"{ALICE}/{second}")
    content += b"".join([part async for part in parts])
    *lines, end = lines_of(content)
    assert end["lines"] == len(lines) == 252
    assert [(line["id"], line["deleted"]) for line in lines[-2:]] == [
        (first, False), (second, True)
    ]  # fmt: skip
    copy: dict[str, Any] = {}
    for line in lines:
        copy[line["id"]] = line["task"]
    assert {id_: task for id_, task in copy.items() if task} == await stored(client, ALICE)
    assert before not in copy


@pytest.mark.requirement("FR-232")
async def test_waiting_export_holds_no_connection_and_one_page(client: ContractClient) -> None:
    await create_tasks(client, 450)
    state = app_state_of(client)
    parts = export_lines(
        state.change_repository, "alice", await read_first_page(state.change_repository, "alice")
    )
    sizes = []
    async for part in parts:
        sizes.append(part.count(b"\n"))
        assert state.database.pool.in_use() == 0
    assert sizes == [200, 200, 50, 1]


class Exchange:
    """A request to the application whose client disconnects after some parts."""

    def __init__(self, *, parts: int | None) -> None:
        self.messages: list[Any] = []
        self._remaining = parts
        self._is_requested = False
        self._is_disconnected = asyncio.Event()

    async def receive(self) -> Any:
        if not self._is_requested:
            self._is_requested = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._is_disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.body" and self._remaining is not None:
            self._remaining -= 1
            if self._remaining == 0:
                self._is_disconnected.set()
        for _ in range(10):  # the application notices it in another task
            await asyncio.sleep(0)

    async def run(self, app: HTTPMiddleware) -> None:
        scope: Any = {
            "type": "http", "method": "GET", "path": EXPORT, "raw_path": EXPORT.encode(),
            "query_string": b"", "headers": [(b"host", b"tasks.test")], "http_version": "1.1",
            "scheme": "http", "server": ("tasks.test", 80), "client": ("127.0.0.1", 1),
            "root_path": "", "asgi": {"version": "3.0"}, "extensions": {}, "state": {},
        }  # fmt: skip
        await app(scope, self.receive, self.send)


@pytest.mark.requirement("FR-232")
async def test_disconnect_ends_the_export(
    app: HTTPMiddleware, client: ContractClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_tasks(client, 900)
    statements = record_statements(monkeypatch)
    for parts, pages in ((1, 1), (2, 2), (None, 5)):
        statements.clear()
        exchange = Exchange(parts=parts)
        await exchange.run(app)
        assert len(statements) == pages
        assert exchange.messages[-1].get("more_body") is (parts is not None)


@pytest.mark.requirement("FR-231")
async def test_failure_during_an_export_leaves_it_incomplete(
    app: HTTPMiddleware, client: ContractClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_tasks(client, 250)
    list_changes = ChangeRepository.list_changes
    calls = 0

    async def fail_later(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise DatabaseUnavailable
        return await list_changes(self, *args)

    monkeypatch.setattr(ChangeRepository, "list_changes", fail_later)
    exchange = Exchange(parts=None)
    with pytest.raises(Exception, match="response"):  # the server closes the connection
        await exchange.run(app)
    assert [message["type"] for message in exchange.messages] == [
        "http.response.start", "http.response.body"
    ]  # fmt: skip
    assert exchange.messages[-1]["more_body"] is True


@pytest.mark.requirement("FR-232")
async def test_head_reads_one_page(client: ContractClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await create_tasks(client, 450)
    statements = record_statements(monkeypatch)
    response = await client.head(EXPORT)
    assert (response.status_code, response.content) == (200, b"")
    assert len(statements) == 1
