"""The requests of a load, and a service with the tasks that they are about."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator as Iterates
from contextlib import contextmanager
from pathlib import Path
from random import Random

import httpx

from app import embedded_postgres
from app.db.config import DatabaseConfig
from app.db.migrations import upgrade
from tests.support.client import tasks_of
from tests.support.live import request
from tests.support.process import Service, execute, serving

USERS = [f"user-{number}" for number in range(20)]
TASKS = 100  # of each user, and on a page
JSON = "Content-Type: application/json"
INSERT = """
    INSERT INTO tasks (user_id, id, title, description, created_at, updated_at, etag)
    SELECT '{user}-' || u, gen_random_uuid(), 'Buy milk', repeat('Two litres. ', {length}),
           now(), now(), gen_random_uuid()
    FROM generate_series(0, {users}) u, generate_series(1, {tasks})
"""
FILL = INSERT.format(user="user", length=5, users=len(USERS) - 1, tasks=TASKS)
NEW = b'{"title": "Buy milk", "description": "Two litres, the one with the blue cap."}'
# Lists are what costs most in the service itself, so its processor is what runs out first.
LISTS, READS, WRITES = 70, 20, 10  # percent


@contextmanager
def filled_database(*statements: str) -> Iterates[tuple[str, Path]]:
    """The URL of a database of its own, migrated, after these statements, and its data folder.

    It does not wait for the disk, whose speed is not the question.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(folder) / "data"
        with embedded_postgres.run_postgres(data, durable=False) as url:
            upgrade(DatabaseConfig.from_url(url))
            execute(url, *statements)
            yield url, data


@contextmanager
def loaded_service(**settings: object) -> Iterates[tuple[Service, str]]:
    """A service in a process of its own with tasks of several users, and its database's URL."""
    with (
        filled_database(FILL) as (url, _),
        serving(DATABASE_URL=url, LOG_FORMAT="json", **settings) as service,
    ):
        yield service, url


def create(user: str) -> bytes:
    """A request that creates a task."""
    return request("POST", tasks_of(user), JSON, body=NEW)


def mix(url: str, count: int, seed: int = 1) -> list[bytes]:
    """So many requests in an order that is always the same."""
    found = {user: httpx.get(url + tasks_of(user)).json()["items"][0]["id"] for user in USERS}
    kinds = ["list"] * LISTS + ["read"] * READS + ["write"] * WRITES
    random = Random(seed)  # noqa: S311 - no secret
    made = {
        (kind, user): sent
        for user in USERS
        for kind, sent in {
            "list": request("GET", f"{tasks_of(user)}?limit={TASKS}"),
            "read": request("GET", f"{tasks_of(user)}/{found[user]}"),
            "write": create(user),
        }.items()
    }
    return [made[random.choice(kinds), random.choice(USERS)] for _ in range(count)]


def memory(pid: int) -> int:
    """The bytes of memory that a process holds (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory(pid: int) -> int:
    """The most bytes of memory that a process has held so far (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def open_files(pid: int) -> int:
    """How many files and connections a process has open (Linux)."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def processor(pid: int) -> float:
    """The seconds of processor time that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
