"""The rows of the benchmark, and a PostgreSQL server with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from bench.load.workload import filled_database
from tests.support.client import tasks_of
from tests.support.long_task import progress
from tests.support.process import ROOT

USERS, TASKS_PER_USER = 950, 100
LISTS_PER_USER = 5
LARGE_USER, LARGE_USER_TASKS = "deep", 5_000
FIRST_TASK_ID = UUID("01980000-0000-7000-8000-000000000000")
FIRST_LIST_ID = UUID("01980000-0000-7000-9000-000000000000")
FIXED_TASK_URL = f"{tasks_of(LARGE_USER)}/{FIRST_TASK_ID}"  # no operation changes this task
WORDS = ("milk", "bread", "paint", "call", "report", "garden", "invoice", "train", "doctor")
LABELS = ("calls", "errands", "home", "office", "phone", "shop", "someday", "waiting")
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Calcutta")
INSERT_LISTS = """
    INSERT INTO lists (user_id, id, name, created_at, updated_at, etag)
    SELECT {user}, ('01980000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid,
           'List no. ' || n, timestamptz '2026-01-01', timestamptz '2026-01-01', gen_random_uuid()
    FROM generate_series(0, {users}) user_number, generate_series(0, {lists}) n
"""
# Half of the tasks are in a list, most of them in the first one. Three of ten have a due date, half
# of these a time, and half of those a time zone. Three of ten have one to three labels, and three
# of ten a priority. The factors make these properties and `completed` nearly independent.
INSERT_TASKS = """
    INSERT INTO tasks (user_id, id, title, description, completed_at, created_at, updated_at, etag,
                       list_id, priority, due_date, due_time, due_timezone, labels)
    SELECT u, ('01980000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
           ({words})[1 + n % {count}] || ' no. ' || n,
           CASE WHEN n % 3 > 0 THEN repeat('Two litres, with the blue cap. ', 1 + n % 4) END,
           CASE WHEN n % 4 = 0 THEN at END, at, at, gen_random_uuid(),
           CASE WHEN place < 50 THEN ('01980000-0000-7000-9000-00000000000'
                                      || greatest(0, (place - 25) / 5))::uuid END,
           greatest(0, (importance - 62) / 8),
           CASE WHEN due < 30 THEN at::date + place END,
           CASE WHEN due < 15 THEN time '08:00' + due * interval '30 minutes' END,
           CASE WHEN due < 8 THEN ({zones})[1 + due % 3] END,
           CASE WHEN label < 30 THEN
               array_to_string(({labels})[1 + label % 6 : 1 + label % 6 + label / 10], ',')
           ELSE '' END
    FROM (SELECT {user} AS u, n, timestamptz '2026-01-01' + n * interval '1 minute' AS at,
                 n * 37 % 100 AS place, n * 61 % 100 AS due, n * 83 % 100 AS label,
                 n * 29 % 100 AS importance
          FROM generate_series(0, {users}) user_number, generate_series(0, {tasks}) n) rows
"""


class Database(NamedTuple):
    """A running PostgreSQL server with the rows."""

    url: str
    pid: int


def insert_lists(user: str, users: int) -> str:
    """Return a statement that inserts the lists of users.

    `user` is the SQL expression of a user id; it may use `user_number`.
    """
    return INSERT_LISTS.format(user=user, users=users - 1, lists=LISTS_PER_USER - 1)


def insert_tasks(user: str, users: int, tasks: int) -> str:
    """Return a statement that inserts tasks of users with lists. `user` is as in `insert_lists`."""
    arrays = {
        name: f"ARRAY{list(values)}"
        for name, values in {"words": WORDS, "zones": ZONES, "labels": LABELS}.items()
    }
    return INSERT_TASKS.format(
        **arrays, count=len(WORDS), user=user, users=users - 1, tasks=tasks - 1
    )


def task_id(number: int) -> UUID:
    """Return the id of a user's task; the first is 0."""
    return UUID(int=FIRST_TASK_ID.int + number)


def list_id(number: int) -> UUID:
    """Return the id of a user's list; the first is 0."""
    return UUID(int=FIRST_LIST_ID.int + number)


@contextmanager
def run_database(clone: Path = ROOT) -> Iterator[Database]:
    """Run a PostgreSQL server with a filled database, whose schema is that of `clone`."""
    progress("creating the database and its rows")
    statements = [
        insert_lists("'user-' || user_number", USERS),
        insert_lists("'new-' || user_number", USERS),
        insert_lists(f"'{LARGE_USER}'", 1),
        insert_tasks("'user-' || user_number", USERS, TASKS_PER_USER),
        insert_tasks(f"'{LARGE_USER}'", 1, LARGE_USER_TASKS),
        "VACUUM ANALYZE lists",
        "VACUUM ANALYZE tasks",
    ]
    with filled_database(*statements, clone=clone) as (url, data_dir):
        (pid_file,) = data_dir.glob("pg*/postmaster.pid")
        yield Database(url, int(pid_file.read_text("utf-8").split()[0]))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children, in nanosecond resolution (Linux)."""
    nanoseconds = 0
    for number in [pid, *_children(pid)]:
        with suppress(FileNotFoundError, ProcessLookupError):  # the process may end meanwhile
            for thread in Path(f"/proc/{number}/task").iterdir():
                nanoseconds += int((thread / "schedstat").read_text("ascii").split()[0])
    return nanoseconds / 1e9


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process may end meanwhile
            number, _, rest = entry.read_text("utf-8", "replace").partition(" (")
            if int(rest.rpartition(") ")[2].split()[1]) == pid:
                pids.append(int(number))
    return pids
