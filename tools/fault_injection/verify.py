"""Compares the log of acknowledged writes with the audit table in PostgreSQL."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import datetime
from itertools import product
from uuid import UUID

import asyncpg
import httpx

from app.http.etags import format_etag
from tests.support.integrity import integrity_errors
from tools.fault_injection.load import CLIENTS, WriteLog

SELECT_HISTORY = """
    SELECT change, id, title, etag, updated_at, place, title = lag(title) OVER (
      PARTITION BY id ORDER BY number) AND change = 'UPDATE' AS is_move
    FROM history ORDER BY number
"""
SELECT_STORED = "SELECT id, etag FROM tasks UNION ALL SELECT id, etag FROM lists"
PAGE_SIZE = 20  # small, so that lists have several pages


async def reconcile(log: WriteLog, connection: asyncpg.Connection) -> None:
    """Add lost and duplicated writes to the log."""
    rows = await connection.fetch(SELECT_HISTORY)
    _verify_writes(log, [row for row in rows if not row["is_move"]])
    _verify_moves(log, [row for row in rows if row["is_move"]])
    _verify_deletes(log, rows)
    await _verify_table(log, rows, connection)
    log.lost += await integrity_errors(connection)


def _verify_writes(log: WriteLog, rows: list[asyncpg.Record]) -> None:
    changes: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for row in rows:
        if row["change"] != "DELETE":
            version = row["change"], str(row["id"]), format_etag(row["etag"])
            changes[row["title"]].append(version)
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


def _verify_moves(log: WriteLog, rows: list[asyncpg.Record]) -> None:
    """Check that each acknowledged move is stored as in its response."""
    stored = {(str(row["id"]), format_etag(row["etag"])): json.loads(row["place"]) for row in rows}
    for moved in (move.moved for move in log.moves if move.moved):
        place = stored.get((moved["id"], moved["etag"]))
        if place is None:
            log.lost.append(f"a move of {moved['id']} was acknowledged and not written")
        elif any(moved[name] != place[name] for name in place if name in moved):
            log.lost.append(f"a move of {moved['id']} was written as {place}")
    sent = Counter(move.id for move in log.moves if move.sent)
    applied = Counter(str(row["id"]) for row in rows)
    log.applied_twice += [
        f"{id_} was moved {applied[id_]} times and not {sent[id_]}"
        for id_ in applied
        if applied[id_] > sent[id_]
    ]


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
    """Check that the tables have the last version of each task and list in the audit table."""
    expected: dict[UUID, UUID] = {}
    timestamps: dict[UUID, datetime] = {}
    for row in rows:
        id_, updated_at = row["id"], row["updated_at"]
        if row["change"] == "DELETE":
            del expected[id_]
            continue
        if id_ in timestamps and updated_at <= timestamps[id_]:
            log.lost.append(f"{row['title']!r} is not later than the previous change")
        expected[id_], timestamps[id_] = row["etag"], updated_at
    stored = {row["id"]: row["etag"] for row in await connection.fetch(SELECT_STORED)}
    log.lost += [
        f"{task} differs from its last change" for task in expected.items() ^ stored.items()
    ]


async def verify_lists(log: WriteLog, url: str, connection: asyncpg.Connection) -> None:
    """Check that the pages of the service have every task and list of the database once."""
    rows = await connection.fetch(SELECT_STORED)
    stored = Counter((str(row["id"]), format_etag(row["etag"])) for row in rows)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for number, kind in product(range(CLIENTS), ("tasks", "lists")):
            cursor: dict[str, str] = {}
            while True:
                path = f"/api/v1/users/client-{number}/{kind}"
                page = (await client.get(path, params={"limit": PAGE_SIZE, **cursor})).json()
                stored.subtract((item["id"], item["etag"]) for item in page["items"])
                if page["next_cursor"] is None:
                    break
                cursor = {"cursor": page["next_cursor"]}
    log.lost += [f"{item} is on no page" for item, count in stored.items() if count > 0]
    log.applied_twice += [f"{item} is listed twice" for item, count in stored.items() if count < 0]
