"""Compares the log of acknowledged writes with the audit table in PostgreSQL."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from uuid import UUID

import asyncpg
import httpx

from app.http.etags import format_etag
from tests.support.client import tasks_of
from tools.fault_injection.load import CLIENTS, WriteLog

SELECT_HISTORY = "SELECT change, id, title, etag, updated_at FROM history ORDER BY number"
PAGE_SIZE = 20  # small, so that lists have several pages


async def reconcile(log: WriteLog, connection: asyncpg.Connection) -> None:
    """Add lost and duplicated writes to the log."""
    rows = await connection.fetch(SELECT_HISTORY)
    _verify_writes(log, rows)
    _verify_deletes(log, rows)
    await _verify_table(log, rows, connection)


def _verify_writes(log: WriteLog, rows: list[asyncpg.Record]) -> None:
    changes: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for change, task, title, etag, _ in rows:
        if change != "DELETE":
            changes[title].append((change, str(task), format_etag(etag)))
    for write in log.writes:
        applied = changes.pop(write.title, [])
        if len(applied) > 1:
            log.applied_twice.append(f"{write.title!r} was written {len(applied)} times")
        if write.acknowledged and (write.change, write.task, write.etag) not in applied:
            log.lost.append(f"{write.title!r} was acknowledged and not written")
        if write.is_idempotent and not applied:
            log.lost.append(f"{write.title!r} was repeated and not written")
        if applied and not write.sent:
            log.applied_twice.append(f"{write.title!r} was written and not sent")
    log.applied_twice += [f"{title!r} was written without a request" for title in changes]


def _verify_deletes(log: WriteLog, rows: list[asyncpg.Record]) -> None:
    deleted = Counter(str(row["id"]) for row in rows if row["change"] == "DELETE")
    for task, acknowledged in log.deletes.items():
        if acknowledged and deleted[task] != 1:
            log.lost.append(f"the delete of {task}")
    log.applied_twice += [
        f"{task} was deleted without a request" for task in deleted.keys() - log.deletes
    ]


async def _verify_table(
    log: WriteLog, rows: list[asyncpg.Record], connection: asyncpg.Connection
) -> None:
    """Check that the table has the last version of each task in the audit table."""
    expected: dict[UUID, UUID] = {}
    timestamps: dict[UUID, datetime] = {}
    for change, task, title, etag, updated_at in rows:
        if change == "DELETE":
            del expected[task]
            continue
        if task in timestamps and updated_at <= timestamps[task]:
            log.lost.append(f"{title!r} is not later than the previous change")
        expected[task], timestamps[task] = etag, updated_at
    stored = {
        row["id"]: row["etag"] for row in await connection.fetch("SELECT id, etag FROM tasks")
    }
    log.lost += [
        f"{task} differs from its last change" for task in expected.items() ^ stored.items()
    ]


async def verify_lists(log: WriteLog, url: str, connection: asyncpg.Connection) -> None:
    """Check that the lists of the service have every task of the database once."""
    rows = await connection.fetch("SELECT id, etag FROM tasks")
    stored = Counter((str(row["id"]), format_etag(row["etag"])) for row in rows)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for number in range(CLIENTS):
            cursor: dict[str, str] = {}
            while True:
                path = tasks_of(f"client-{number}")
                page = (await client.get(path, params={"limit": PAGE_SIZE, **cursor})).json()
                stored.subtract((task["id"], task["etag"]) for task in page["items"])
                if page["next_cursor"] is None:
                    break
                cursor = {"cursor": page["next_cursor"]}
    log.lost += [f"{task} is in no list" for task, count in stored.items() if count > 0]
    log.applied_twice += [f"{task} is listed twice" for task, count in stored.items() if count < 0]
