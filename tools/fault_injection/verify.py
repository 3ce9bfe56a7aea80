"""What really happened, read from PostgreSQL past the service, and held against the ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from uuid import UUID

import asyncpg
import httpx

from app.http.etags import format_etag
from tests.support.client import tasks_of
from tools.fault_injection.load import CLIENTS, Ledger

HISTORY = "SELECT change, id, title, etag, updated_at FROM history ORDER BY number"
PAGE = 20  # small, so that walks have cursors


async def settle(ledger: Ledger, session: asyncpg.Connection) -> None:
    """Add what was lost and what was doubled to the ledger."""
    rows = await session.fetch(HISTORY)
    _hold_writes_against(ledger, rows)
    _hold_deletes_against(ledger, rows)
    await _hold_table_against(ledger, rows, session)


def _hold_writes_against(ledger: Ledger, rows: list[asyncpg.Record]) -> None:
    changes: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for change, task, title, etag, _ in rows:
        if change != "DELETE":
            changes[title].append((change, str(task), format_etag(etag)))
    for write in ledger.writes:
        found = changes.pop(write.title, [])
        if len(found) > 1:
            ledger.doubled.append(f"{write.title!r} was written {len(found)} times")
        if write.acknowledged and (write.change, write.task, write.etag) not in found:
            ledger.lost.append(f"{write.title!r} was acknowledged and never written")
        if write.once and not found:
            ledger.lost.append(f"{write.title!r} was repeated and never written")
        if found and not write.sent:
            ledger.doubled.append(f"{write.title!r} was written and never sent")
    ledger.doubled += [f"{title!r} was never asked for" for title in changes]


def _hold_deletes_against(ledger: Ledger, rows: list[asyncpg.Record]) -> None:
    deleted = Counter(str(row["id"]) for row in rows if row["change"] == "DELETE")
    for task, acknowledged in ledger.deletes.items():
        if acknowledged and deleted[task] != 1:
            ledger.lost.append(f"the delete of {task}")
    ledger.doubled += [f"{task} was deleted unasked" for task in deleted.keys() - ledger.deletes]


async def _hold_table_against(
    ledger: Ledger, rows: list[asyncpg.Record], session: asyncpg.Connection
) -> None:
    """The table is where its history ended: nothing that was written went back."""
    expected: dict[UUID, UUID] = {}
    instants: dict[UUID, datetime] = {}
    for change, task, title, etag, updated_at in rows:
        if change == "DELETE":
            del expected[task]
            continue
        if task in instants and updated_at <= instants[task]:
            ledger.lost.append(f"{title!r} was not later than the change before it")
        expected[task], instants[task] = etag, updated_at
    stored = {row["id"]: row["etag"] for row in await session.fetch("SELECT id, etag FROM tasks")}
    ledger.lost += [f"{task} is not as it was left" for task in expected.items() ^ stored.items()]


async def hold_service_against(ledger: Ledger, url: str, session: asyncpg.Connection) -> None:
    """The service hands out what the database holds: every task once, walked page by page."""
    rows = await session.fetch("SELECT id, etag FROM tasks")
    stored = Counter((str(row["id"]), format_etag(row["etag"])) for row in rows)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for number in range(CLIENTS):
            cursor: dict[str, str] = {}
            while True:
                path = tasks_of(f"client-{number}")
                page = (await client.get(path, params={"limit": PAGE, **cursor})).json()
                stored.subtract((task["id"], task["etag"]) for task in page["items"])
                if page["next_cursor"] is None:
                    break
                cursor = {"cursor": page["next_cursor"]}
    ledger.lost += [f"{task} is not handed out" for task, left in stored.items() if left > 0]
    ledger.doubled += [f"{task} is handed out twice" for task, left in stored.items() if left < 0]
