"""The requests of a load, a service to load, and the resource use of processes (Linux)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import httpx

from app import embedded_postgres
from tests.support.client import tasks_of
from tests.support.live import request
from tests.support.process import ROOT, Service, execute, run, serving

USERS = [f"user-{number}" for number in range(20)]
TASKS = 100  # per user and page
JSON = "Content-Type: application/json"
INSERT = """
    INSERT INTO tasks (user_id, id, title, description, created_at, updated_at, etag)
    SELECT '{user}-' || u, gen_random_uuid(), 'Buy milk', repeat('Two litres. ', {length}),
           now(), now(), gen_random_uuid()
    FROM generate_series(0, {users}) u, generate_series(1, {tasks})
"""
FILL = INSERT.format(user="user", length=5, users=len(USERS) - 1, tasks=TASKS)
NEW = b'{"title": "Buy milk", "description": "Two litres, the one with the blue cap."}'
# Lists need the most CPU time of the service, so its CPU saturates first.
LISTS, READS, WRITES = 70, 20, 10  # percent


@contextmanager
def filled_database(*statements: str, clone: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """Run a migrated PostgreSQL and execute the statements. Yield its URL and data directory.

    The schema is that of `clone`, which may be another version. The server does not wait for the
    disk, whose speed would affect the results.
    """
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        data_dir = Path(directory) / "data"
        with embedded_postgres.run_postgres(data_dir, durable=False) as url:
            run("migrate", clone, DATABASE_URL=url).check_returncode()
            execute(url, *statements)
            yield url, data_dir


@contextmanager
def loaded_service(**settings: object) -> Iterator[tuple[Service, str]]:
    """Run a service with the tasks of several users. Yield it and the URL of its database."""
    with (
        filled_database(FILL) as (url, _),
        serving(DATABASE_URL=url, LOG_FORMAT="json", **settings) as service,
    ):
        yield service, url


def create_request(user: str) -> bytes:
    return request("POST", tasks_of(user), JSON, body=NEW)


def mix(url: str, count: int, seed: int = 1) -> list[bytes]:
    """Return `count` mixed requests, in the same order for the same seed."""
    task_ids = {user: httpx.get(url + tasks_of(user)).json()["items"][0]["id"] for user in USERS}
    operations = ["list"] * LISTS + ["read"] * READS + ["write"] * WRITES
    random = Random(seed)  # noqa: S311 - no secret
    requests = {
        (operation, user): raw
        for user in USERS
        for operation, raw in {
            "list": request("GET", f"{tasks_of(user)}?limit={TASKS}"),
            "read": request("GET", f"{tasks_of(user)}/{task_ids[user]}"),
            "write": create_request(user),
        }.items()
    }
    return [requests[random.choice(operations), random.choice(USERS)] for _ in range(count)]


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory(pid: int) -> int:
    """Return the peak resident memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def open_files(pid: int) -> int:
    """Return the number of open files and connections of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
