"""The rows that every peer works on, and a server for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from bench.load.workload import filled_database
from tests.support.client import tasks_of
from tests.support.long_task import progress

USERS, EACH = 950, 100
DEEP_USER, DEEP = "deep", 5_000
# Ids that are known without a question: the n-th task of a user.
ONE = UUID("01980000-0000-7000-8000-000000000000")
URL_OF_ONE = f"{tasks_of(DEEP_USER)}/{ONE}"  # which no operation changes
WORDS = ("milk", "bread", "paint", "call", "report", "garden", "invoice", "train", "doctor")
FILL = """
    INSERT INTO tasks (user_id, id, title, description, completed_at, created_at, updated_at, etag)
    SELECT u, ('01980000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
           (ARRAY[{words}])[1 + n % {count}] || ' no. ' || n,
           CASE WHEN n % 3 > 0 THEN repeat('Two litres, with the blue cap. ', 1 + n % 4) END,
           CASE WHEN n % 4 = 0 THEN at END, at, at, gen_random_uuid()
    FROM (SELECT {user} AS u, n, timestamptz '2026-01-01' + n * interval '1 minute' AS at
          FROM generate_series(0, {users}) user_number, generate_series(0, {tasks}) n) rows
"""


class Database(NamedTuple):
    """A running server with the rows."""

    url: str
    pid: int


def fill(user: str, users: int, tasks: int) -> str:
    """A statement that gives users tasks; `user` is SQL that may use `user_number`."""
    words = ", ".join(f"'{word}'" for word in WORDS)
    return FILL.format(words=words, count=len(WORDS), user=user, users=users - 1, tasks=tasks - 1)


def id_of(number: int) -> UUID:
    """The id of the n-th task of a user."""
    return UUID(int=ONE.int + number)


@contextmanager
def database() -> Iterator[Database]:
    """A server of its own, migrated and filled."""
    progress("making the database and its rows")
    users = fill("'user-' || user_number", USERS, EACH)
    with filled_database(users, fill(f"'{DEEP_USER}'", 1, DEEP), "VACUUM ANALYZE tasks") as opened:
        url, data = opened
        (pid_file,) = data.glob("pg*/postmaster.pid")
        yield Database(url, int(pid_file.read_text("utf-8").split()[0]))


def processor_seconds(pid: int) -> float:
    """What a process and those that it started have used, to the nanosecond (Linux)."""
    found = 0
    for number in [pid, *_children(pid)]:
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end while it is looked at
            for thread in Path(f"/proc/{number}/task").iterdir():
                found += int((thread / "schedstat").read_text("ascii").split()[0])
    return found / 1e9


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end while it is looked at
            number, _, rest = entry.read_text("utf-8", "replace").partition(" (")
            if int(rest.rpartition(") ")[2].split()[1]) == pid:
                found.append(int(number))
    return found
