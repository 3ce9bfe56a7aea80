"""The command `import`, with exports of the service."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app import cli
from app.db.statements import compile_statement
from app.domain.lists.models import TaskListRecord
from app.domain.tasks.models import TaskRecord
from app.domain.users import export_file
from app.domain.users.export_file import UserImportError
from app.domain.users.statements import INSERTS, READS, REFERENCES
from app.settings import Settings
from tests.integration.changes.test_list_changes import Copy
from tests.support.client import ContractClient, tasks_of
from tests.support.distributed import find_errors
from tests.support.process import command, environment, run_program, until
from tests.support.query_trees import FunctionCatalog, analyze

USER = "/api/v1/users/alice"
ALICE = tasks_of("alice")
LISTS = f"{USER}/lists"
NEW = "0198c5a2-0000-7000-8000-000000000001"
# Every property, and every kind of text.
TASKS: list[dict[str, Any]] = [
    {"title": "a"},
    {"title": "\u0041\u030a \U0001f600 \u2028 \ufeff \u202e", "description": '"\\\n\t\x7f'},
    {"title": "\U0001f600" * 500, "description": "\u20ac" * 16384},
    {"title": "a", "completed": True, "priority": "urgent", "labels": ["b", "a", "\u00e9"]},
    {"title": "a", "due": {"date": "0001-01-01", "time": None, "timezone": None}},
    {"title": "a", "due": {"date": "9999-12-31", "time": "23:59", "timezone": None}},
    {"title": "a", "due": {"date": "2026-03-29", "time": "02:30", "timezone": "Europe/Berlin"}},
]


class Importer:
    """Runs the command in this process."""

    def __init__(
        self, settings: Settings, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._settings = settings
        self._capsys = capsys
        self.file = folder / "export"

    async def __call__(self, content: bytes, user: str | None = None) -> tuple[int, int, int, int]:
        """Return the numbers of stored items, all, unchanged and different ones."""
        self.file.write_bytes(content)
        await asyncio.to_thread(cli.import_user, self._settings, str(self.file), user)
        words = self._capsys.readouterr().out.splitlines()[-1].split()
        return int(words[1]), int(words[3]), int(words[7]), int(words[9])


@pytest.fixture
def imported(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importer:
    return Importer(settings, tmp_path, capsys)


async def export(client: ContractClient, user: str = USER) -> bytes:
    return (await client.get(f"{user}/export")).content


async def erase(client: ContractClient) -> None:
    while (await client.delete(USER)).status_code == 202:
        pass


def items_of(content: bytes) -> dict[str, Any]:
    """Return the items of an export by ID."""
    return {line["id"]: line for line in map(json.loads, content.splitlines()[:-1])}


def exported(*lines: dict[str, Any]) -> bytes:
    """Return a complete export."""
    encoded = [json.dumps(line) for line in (*lines, {"kind": "end", "lines": len(lines)})]
    return "".join(f"{line}\n" for line in encoded).encode()


async def create(client: ContractClient, **properties: Any) -> Any:
    response = await client.post(ALICE, json={"title": "a", **properties})
    assert response.status_code == 201
    return response.json()["id"]


async def fill(client: ContractClient) -> None:
    """Create items of every kind. A list follows its tasks, and a task its subtasks."""
    lists = [(await client.post(LISTS, json={"name": name})).json()["id"] for name in "ab"]
    for properties in TASKS:
        await create(client, **properties)
    parent = await create(client, list_id=lists[0])
    subtasks = [await create(client, parent_id=parent, labels=["a"]) for _ in range(3)]
    body = {"after_id": subtasks[0]}
    assert (await client.post(f"{ALICE}/{subtasks[2]}/move", json=body)).status_code == 200
    body = {"after_id": None}
    assert (await client.post(f"{LISTS}/{lists[1]}/move", json=body)).status_code == 200
    await client.patch(f"{ALICE}/{parent}", json={"description": "changed"})
    await client.patch(f"{LISTS}/{lists[0]}", json={"name": "changed"})
    old = {"id": NEW, "title": "old", "created_at": "1970-01-01T00:00:00+14:00", "completed": True}
    assert (await client.post(f"{ALICE}/batch", json={"create": [old]})).status_code == 200


async def revision(database: asyncpg.Connection, user: str = "alice") -> Any:
    return await database.fetchval("SELECT revision FROM users WHERE user_id = $1", user)


@pytest.mark.requirement("FR-236")
async def test_import_restores_an_erased_user(
    client: ContractClient, imported: Importer, database: asyncpg.Connection
) -> None:
    await fill(client)
    before = await export(client)
    kinds = [json.loads(line)["kind"] for line in before.splitlines()]
    assert kinds.index("task") < max(i for i, kind in enumerate(kinds) if kind == "list")
    await erase(client)
    assert await imported(before) == (14, 14, 0, 0)
    assert items_of(await export(client)) == items_of(before)
    infinite = "SELECT count(*) FROM tasks WHERE NOT isfinite(due_date)"
    assert await database.fetchval(infinite) == 0
    # Including the entity tags: a client may still change what it read.
    task = next(line["task"] for line in items_of(before).values() if line["task"])
    headers = {"If-Match": task["etag"]}
    response = await client.patch(f"{ALICE}/{task['id']}", json={"title": "b"}, headers=headers)
    assert response.status_code == 200


@pytest.mark.requirement("FR-236")
async def test_repeated_import_changes_nothing(
    client: ContractClient, imported: Importer, database: asyncpg.Connection
) -> None:
    await fill(client)
    before, number = await export(client), await revision(database)
    assert await imported(before) == (0, 14, 14, 0)
    assert await export(client) == before
    assert await revision(database) == number


@pytest.mark.requirement("FR-236")
async def test_feed_returns_imported_rows(client: ContractClient, imported: Importer) -> None:
    await fill(client)
    before = await export(client)
    copy = Copy(client)
    await erase(client)
    await client.put(
        f"{ALICE}/{NEW}", json={"title": "other", "description": None, "completed": False}
    )
    await copy.walk()
    await imported(before)
    await copy.walk()
    assert len(copy.items) == 14
    assert copy.items[("task", NEW)]["title"] == "other"


@pytest.mark.requirement("FR-236")
async def test_stored_items_are_kept(client: ContractClient, imported: Importer) -> None:
    await fill(client)
    before = await export(client)
    await client.patch(f"{ALICE}/{NEW}", json={"title": "newer"})
    await create(client, title="another")
    expected = items_of(await export(client))
    assert await imported(before) == (0, 14, 13, 1)
    assert items_of(await export(client)) == expected


@pytest.mark.requirement("FR-236")
async def test_deleted_items_are_restored(
    client: ContractClient, imported: Importer, database: asyncpg.Connection
) -> None:
    await fill(client)
    before = await export(client)
    copy = Copy(client)
    await copy.walk()
    await client.delete(f"{ALICE}/{NEW}")
    number = await revision(database)
    assert await imported(before) == (1, 14, 13, 0)
    assert await revision(database) == number + 1
    assert await copy.walk() == [("task", NEW, False)]
    assert items_of(await export(client)) == items_of(before)


@pytest.mark.requirement("FR-236")
async def test_import_under_another_user(client: ContractClient, imported: Importer) -> None:
    await fill(client)
    before = await export(client)
    assert await imported(before, "bob") == (14, 14, 0, 0)
    assert await export(client) == before
    bob = await export(client, "/api/v1/users/bob")
    assert items_of(bob.replace(b'"bob"', b'"alice"')) == items_of(before)


@pytest.mark.requirement("FR-236")
async def test_export_without_items_is_imported(
    client: ContractClient, imported: Importer, database: asyncpg.Connection
) -> None:
    assert await imported(await export(client)) == (0, 0, 0, 0)
    assert await database.fetchval("SELECT count(*) FROM users") == 0


# --- the lines -----------------------------------------------------------------------------------


def change(kind: str, resource: dict[str, Any] | None, **properties: Any) -> dict[str, Any]:
    """Return a line of an export."""
    id_ = NEW if resource is None else resource["id"]
    line = {"kind": kind, "id": id_, "deleted": resource is None, "task": None, "list": None}
    return {**line, kind: resource, **properties}


def task_of(**properties: Any) -> dict[str, Any]:
    time = "2026-01-01T00:00:00Z"
    return {
        "id": NEW, "user_id": "alice", "title": "a", "description": None, "completed": False,
        "completed_at": None, "list_id": None, "parent_id": None, "priority": "none", "due": None,
        "due_at": None, "labels": [], "position": "1", "created_at": time, "updated_at": time,
        "etag": '"5f2b7c0e9a4d4e0c8f3e6b1d2a7c9e10"', **properties,
    }  # fmt: skip


def list_of(**properties: Any) -> dict[str, Any]:
    time = "2026-01-01T00:00:00Z"
    return {
        "id": NEW, "user_id": "alice", "name": "a", "position": "1", "created_at": time,
        "updated_at": time, "etag": '"5f2b7c0e9a4d4e0c8f3e6b1d2a7c9e10"', **properties,
    }  # fmt: skip


OTHER = NEW[:-1] + "2"
DUE = {"date": "2026-01-01", "time": None, "timezone": "Mars/Olympus"}


@pytest.mark.requirement("FR-236")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (change("task", task_of(title=" ")), "/task/title must contain a character that is not"),
        (change("task", task_of(title="a" * 501)), "/task/title must have at most 500 characters"),
        (change("task", task_of(labels=[" "])), "/task/labels/0 must contain no comma and no"),
        (change("task", task_of(created_at="2026-01-01")), "/task/created_at must be a date-time"),
        (change("task", task_of(created_at="0000-01-01T00:00:00Z")), "Invalid RFC3339 encoded"),
        (change("list", list_of(name=None)), "/list/name must be a string"),
        (change("task", {"id": NEW}), "/task/user_id is required"),
        ({"kind": "end"}, "/id is required"),
        ({"kind": "end", "lines": "3"}, "/id is required"),
        ([], " must be an object"),
        (change("task", task_of(), task=None), "/task must be an object"),
        (change("list", task_of(), list=None, task=task_of()), "/list must be an object"),
        (change("task", task_of(), id=OTHER), "/task/id must be the ID of the line"),
        (change("task", task_of(user_id="bob")), "/task/user_id must be that of the other lines"),
        (
            change("list", list_of(created_at="1969-12-30T23:59:59Z")),
            "/list/created_at must be in 1970 or later",
        ),
        (
            change("task", task_of(updated_at="2025-12-31T00:00:00Z")),
            "/task/updated_at must not be before created_at",
        ),
        (
            change("task", task_of(updated_at="9999-12-31T23:00:00-02:00")),
            "/task/updated_at must not be before created_at, nor after 9998",
        ),
        (change("task", task_of(completed=True)), "/task/completed_at must be null for an open"),
        (
            change("task", task_of(completed=True, completed_at="9999-12-31T23:00:00-02:00")),
            "/task/completed_at must be in the years 1970 to 9998",
        ),
        (
            change("task", task_of(list_id=OTHER, parent_id=OTHER)),
            "/task/list_id must be null for a subtask",
        ),
        (change("task", task_of(parent_id=NEW)), "/task/parent_id must be another task"),
        (change("task", task_of(labels=["a", "a"])), "/task/labels must not contain an item twice"),
        (change("task", task_of(due=DUE)), "/task/due/timezone is not the name of an IANA"),
    ],
)
async def test_faulty_line_is_reported_and_nothing_is_stored(
    client: ContractClient, imported: Importer, line: Any, message: str
) -> None:
    before = await export(client)
    with pytest.raises(UserImportError) as raised:
        await imported(exported(change("list", list_of(id=OTHER)), line))
    assert str(raised.value).startswith(f"Line 2: {message}")
    assert await export(client) == before


@pytest.mark.requirement("FR-236")
@pytest.mark.parametrize("line", [b"{", b"\xff", b"[" * 100_000, b"", b"{}{}"])
async def test_line_that_is_not_json_is_reported(imported: Importer, line: bytes) -> None:
    with pytest.raises(UserImportError, match=r"^Line 2 is not valid JSON\.$"):
        await imported(exported(change("task", task_of())).splitlines()[0] + b"\n" + line + b"\n")


@pytest.mark.requirement("FR-236")
async def test_text_without_lines_is_read_in_parts(imported: Importer) -> None:
    with pytest.raises(UserImportError, match=r"incomplete: line 1 has no end, or is too long\.$"):
        await imported(b"[" + b" " * 10_000_000)


@pytest.mark.requirement("FR-236")
async def test_truncated_file_is_rejected(client: ContractClient, imported: Importer) -> None:
    await fill(client)
    before = await export(client)
    await erase(client)
    lines = before.splitlines(keepends=True)
    for content in (
        b"",
        *(before[:length] for length in (1, 500, len(before) - 2)),
        *(b"".join(lines[:number]) for number in (1, 7, len(lines) - 1)),
        b"".join([*lines[:3], *lines[4:]]),
    ):
        with pytest.raises(UserImportError, match=r"^The export is incomplete: "):
            await imported(content)
    with pytest.raises(UserImportError, match=r"^Line 16 follows the last line of the export\.$"):
        await imported(before + before)
    assert items_of(await export(client)) == {}
    # An editor may have removed the end of the last line.
    assert await imported(before[:-1]) == (14, 14, 0, 0)


@pytest.mark.requirement("FR-231", "FR-236")
async def test_last_line_of_an_item_counts(client: ContractClient, imported: Importer) -> None:
    deleted = [NEW[:-1] + digit for digit in "3456"]
    lines = [
        change("task", task_of()),
        change("list", list_of()),
        change("list", None, id=deleted[0]),
        *(change("task", task_of(id=id_, parent_id=NEW)) for id_ in deleted),
        change("task", task_of(title="newer", labels=["b", "a"])),
        *(change("task", None, id=id_) for id_ in deleted[:3]),
        change("task", task_of(id=deleted[0], title="created again")),
    ]
    assert await imported(exported(*lines)) == (4, 4, 0, 0)
    content = await export(client)
    found = {line["id"]: line["task"] for line in map(json.loads, content.splitlines()[1:-1])}
    assert {id_: task["title"] for id_, task in found.items()} == {
        NEW: "newer", deleted[0]: "created again", deleted[3]: "a",
    }  # fmt: skip
    assert found[NEW]["labels"] == ["a", "b"]
    assert found[deleted[3]]["parent_id"] == NEW


@pytest.mark.requirement("FR-236")
@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"list_id": OTHER}, "/task/list_id: this user has no list with this ID"),
        ({"parent_id": OTHER}, "/task/parent_id: this user has no task with this ID, or it is a"),
    ],
)
@pytest.mark.usefixtures("database")
async def test_item_without_its_list_or_parent_is_rejected(
    imported: Importer, properties: dict[str, str], message: str
) -> None:
    lines = [change("task", task_of()), change("task", task_of(id=OTHER[:-1] + "3", **properties))]
    with pytest.raises(UserImportError, match=f"^Line 2: {message}"):
        await imported(exported(*lines))
    # The lists or tasks of another user do not count.
    assert await imported(exported(change("list", list_of(id=OTHER, user_id="bob")))) > (0,)
    assert await imported(exported(change("task", task_of(id=OTHER, user_id="bob")))) > (0,)
    with pytest.raises(UserImportError, match=f"^Line 2: {message}"):
        await imported(exported(*lines))


@pytest.mark.requirement("FR-236")
async def test_subtask_of_a_stored_subtask_is_rejected(
    client: ContractClient, imported: Importer
) -> None:
    parent, task = [await create(client) for _ in range(2)]
    await create(client, parent_id=task)
    before = await export(client)
    (subtask,) = [i for i, line in items_of(before).items() if line["task"]["parent_id"]]
    await client.delete(f"{ALICE}/{subtask}")
    assert (await client.patch(f"{ALICE}/{task}", json={"parent_id": parent})).status_code == 200
    number = items_of(before)[subtask]
    expected = items_of(await export(client))
    line = before.splitlines().index(json.dumps(number, separators=(",", ":")).encode()) + 1
    with pytest.raises(UserImportError, match=f"^Line {line}: /task/parent_id: this user has no"):
        await imported(before)
    assert items_of(await export(client)) == expected


# --- batches and processes -----------------------------------------------------------------------


@pytest.mark.requirement("FR-236")
@pytest.mark.parametrize(("limit", "value"), [("BATCH_ITEMS", 2), ("BATCH_BYTES", 1), (None, 0)])
async def test_batch_has_one_revision(
    client: ContractClient,
    imported: Importer,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    limit: str | None,
    value: int,
) -> None:
    await fill(client)
    before = await export(client)
    await erase(client)
    if limit:
        monkeypatch.setattr(export_file, limit, value)
    await imported(before)
    # Two lists, nine tasks and three subtasks.
    batches = {"BATCH_ITEMS": 1 + 5 + 2, "BATCH_BYTES": 14, None: 3}
    assert await revision(database) == batches[limit]
    assert items_of(await export(client)) == items_of(before)


@pytest.mark.requirement("FR-236")
async def test_interrupted_import_is_continued(
    client: ContractClient,
    imported: Importer,
    database: asyncpg.Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await fill(client)
    before = await export(client)
    await erase(client)
    monkeypatch.setattr(export_file, "BATCH_ITEMS", 2)
    lines = before.splitlines()
    with pytest.raises(UserImportError):  # in a later batch
        await imported(
            exported(*map(json.loads, lines[:-1]), change("task", task_of(list_id=OTHER)))
        )
    stored = len(items_of(await export(client)))
    assert 2 < stored < 14
    # A process that waits for another change of the user is terminated.
    async with database.transaction():
        await database.execute("SELECT pg_advisory_xact_lock(hashtextextended('alice', 0))")
        imported.file.write_bytes(before)
        process = await asyncio.create_subprocess_exec(
            *command("import"), str(imported.file), env=environment(DATABASE_URL=database_url),
            stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

        async def is_waiting() -> bool:
            sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            waiting: int = await database.fetchval(sql)
            return waiting == 1

        await until(is_waiting)
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert err.splitlines()[-1] == b"The import was interrupted. Repeat it to store the rest."
    assert await imported(before) == (14 - stored, 14, stored, 0)
    assert items_of(await export(client)) == items_of(before)


@pytest.mark.requirement("FR-236")
@pytest.mark.parametrize("source", ["file", "input"])
async def test_command_reports_what_it_stored(
    client: ContractClient, database_url: str, tmp_path: Path, source: str
) -> None:
    await fill(client)
    content = await export(client)
    await erase(client)
    file = tmp_path / "export"
    file.write_bytes(content)
    arguments = [*command("import"), str(file) if source == "file" else "-", "--user", "alice"]
    completed = await asyncio.to_thread(
        subprocess.run, arguments, input=content, env=environment(DATABASE_URL=database_url),
        capture_output=True, check=False,
    )  # fmt: skip
    assert completed.stderr == b"Importing 14 tasks and lists ...\n"
    assert completed.returncode == 0
    assert completed.stdout.startswith(
        b"Stored 14 of 14 tasks and lists, 0 existed, 0 existed with other content: postgresql"
    )


@pytest.mark.requirement("FR-236")
def test_command_reports_errors(tmp_path: Path) -> None:
    def message(*arguments: str, status: int = 1) -> str:
        completed = run_program([*command("import"), *arguments], {"DATA_DIR": tmp_path / "data"})
        assert (completed.returncode, completed.stdout) == (status, "")
        return completed.stderr

    (tmp_path / "cut").write_bytes(b"{")
    assert message(str(tmp_path / "cut")) == (
        "The export is incomplete: line 1 has no end, or is too long.\n"
    )
    absent = str(tmp_path / "absent")
    assert message(absent) == (
        f"The export cannot be read: [Errno 2] No such file or directory: {absent!r}\n"
    )
    assert message("-", "--user", "a b", status=2).endswith(
        "argument --user: must start with a letter or digit and contain only letters, digits and "
        ". _ : | @ + -\n"
    )
    # The service and its database were not started.
    assert not (tmp_path / "data").exists()


@pytest.mark.requirement("FR-236")
def test_disk_without_room_is_reported(tmp_path: Path) -> None:
    code = """
import atexit
import resource
from app import cli
from app.domain.lists.models import TaskListRecord
from app.domain.tasks.models import TaskRecord
from app.domain.users import export_file

export_file.CACHE_KIBIBYTES = 8
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
atexit.register(resource.setrlimit, resource.RLIMIT_FSIZE, (hard, hard))  # for coverage.py
cli.main()
"""
    file = tmp_path / "export"
    tasks = (task_of(id=str(UUID(int=number)), title="a" * 500) for number in range(500))
    file.write_bytes(exported(*(change("task", task) for task in tasks)))
    arguments = [sys.executable, "-c", code, "import", str(file)]
    completed = run_program(arguments, {"DATA_DIR": tmp_path})
    assert completed.stderr == "The export cannot be read: disk I/O error\n"
    assert completed.returncode == 1


@pytest.mark.requirement("NFR-208")
async def test_distributed_database_accepts_every_statement(database: asyncpg.Connection) -> None:
    catalog = await FunctionCatalog.read(database)
    references = [statement for _, statement, _ in REFERENCES.values()]
    columns = {*TaskRecord.__mapper__.columns.keys(), *TaskListRecord.__mapper__.columns.keys()}
    values = dict.fromkeys(["owner", "new_revision", *(f"{name}s" for name in columns)])
    for statement in (*READS.values(), *INSERTS.values(), *references):
        sql = compile_statement(statement, values).sql
        assert find_errors(await analyze(database, sql), catalog) == set(), sql
