"""Every statement is one that a PostgreSQL distributed by `user_id` accepts (NFR-020).

The trees and the volatilities are PostgreSQL's own (research/0053).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import asyncpg
import pytest
from sqlalchemy import ColumnElement, Executable

from app.db import idempotency
from app.db.idempotency import delete_expired_keys
from app.db.statements import _compile
from app.domain.tasks import repository
from app.domain.tasks.schemas import TaskPatch
from bench.scaling.explain import Call, Explainer
from tests.integration.db.test_sharding import CALLS, MATCHING, TASK
from tests.support.analyzed import Catalogue, analyzed
from tests.support.database import connection_to
from tests.support.distributed import faults

pytestmark = pytest.mark.requirement("NFR-020")


def patching(patch: TaskPatch, *, matching: bool) -> Call:
    return lambda tasks: tasks.update_task(
        "alice", TASK, patch, if_match=MATCHING if matching else None
    )


SENT: dict[str, Call] = {**CALLS, "sweep": lambda tasks: delete_expired_keys(tasks.fetch)}
for title, description, completed, matching in product(
    ({}, {"title": "New"}), ({}, {"description": None}),
    ({}, {"completed": True}, {"completed": False}), (False, True),
):  # fmt: skip
    members: dict[str, Any] = title | description | completed
    SENT[f"update, {members}, {matching=}"] = patching(TaskPatch(**members), matching=matching)

# What 1.1.0 sent, and what Citus said to it.
REFUSED = {
    "sweep": (
        (
            "DELETE FROM idempotency_keys WHERE (user_id, key) IN (SELECT user_id, key "
            "FROM idempotency_keys WHERE created_at < now() - interval '24 hours' LIMIT 10000 "
            "FOR UPDATE SKIP LOCKED)"
        ),
        {"FOR UPDATE without a user", "idempotency_keys without a user"},
    ),
    "patch": (
        (
            "UPDATE tasks SET updated_at = greatest(now(), updated_at + interval '1 microsecond') "
            "WHERE user_id = $1 AND id = $2"
        ),
        {"UPDATE: + is STABLE and takes a column"},
    ),
    "patch, completed": (
        (
            "UPDATE tasks SET completed_at = "
            "CASE WHEN $3 = 1 THEN coalesce(completed_at, now()) END WHERE user_id = $1 AND id = $2"
        ),
        {"UPDATE: now is not IMMUTABLE in CASE or COALESCE"},
    ),
    "replace": (
        (
            "INSERT INTO tasks (user_id, id, title, created_at, updated_at, etag) "
            "VALUES ($1, $2, $3, now(), now(), $4) ON CONFLICT (user_id, id) DO UPDATE "
            "SET updated_at = greatest(now(), tasks.updated_at)"
        ),
        {"ON CONFLICT: now is not IMMUTABLE"},
    ),
    "create, key": (
        (
            "INSERT INTO idempotency_keys "
            "(user_id, key, payload_digest, task_id, etag, created_at) "
            "VALUES ($1, $2, $3, $4, $5, now()) ON CONFLICT (user_id, key) DO UPDATE "
            "SET created_at = excluded.created_at "
            "WHERE idempotency_keys.created_at < now() - interval '24 hours'"
        ),
        {"ON CONFLICT: now is not IMMUTABLE", "ON CONFLICT: - is not IMMUTABLE"},
    ),
    "cast": (
        "UPDATE tasks SET title = updated_at::text WHERE user_id = $1",
        {"UPDATE: cast through text is STABLE and takes a column"},
    ),
    "volatile": (
        "UPDATE tasks SET etag = gen_random_uuid() WHERE user_id = $1 RETURNING current_date",
        {
            "UPDATE: gen_random_uuid is VOLATILE",
            "RETURNING: SQL value function is not IMMUTABLE",
        },
    ),
    "no user": ("SELECT id FROM tasks WHERE id = $1", {"tasks without a user"}),
    "any user": (
        "DELETE FROM tasks WHERE user_id = $1 OR id = $2",
        {"tasks without a user"},
    ),
    "another user": (
        (
            "INSERT INTO tasks (user_id, id, title, created_at, updated_at, etag) "
            "SELECT title, id, title, created_at, updated_at, etag FROM tasks WHERE user_id = $1"
        ),
        {"tasks without a user"},
    ),
}


@pytest.fixture(scope="module")
async def explainer(database_url: str) -> AsyncIterator[Explainer]:
    async with Explainer.connect(connection_to(database_url).direct_config()) as made:
        yield made


@pytest.fixture(scope="module")
async def catalogue(explainer: Explainer) -> Catalogue:
    return await Catalogue.read(explainer.plain)


@pytest.mark.parametrize(
    ("name", "counts_bytes"),
    [(name, False) for name in SENT] + [(name, True) for name in SENT if name.startswith("list")],
)
async def test_a_distributed_database_accepts_the_statement(
    explainer: Explainer, catalogue: Catalogue, name: str, *, counts_bytes: bool
) -> None:
    sql = (await explainer.statement(SENT[name], counts_bytes=counts_bytes)).sql
    found = faults(await analyzed(explainer.plain, sql), catalogue)
    # The sweep is housekeeping: it is about all users, and needs one of them for nothing.
    assert found == ({"idempotency_keys without a user"} if name == "sweep" else set()), sql


@pytest.mark.parametrize("name", REFUSED)
async def test_a_statement_that_it_would_refuse_is_found(
    explainer: Explainer, catalogue: Catalogue, name: str
) -> None:
    sql, expected = REFUSED[name]
    assert faults(await analyzed(explainer.plain, sql), catalogue) == expected


async def test_every_statement_of_the_repositories_is_among_them(explainer: Explainer) -> None:
    sent = {(await explainer.statement(call)).sql for call in SENT.values()}
    kept = {
        _compile(value).sql
        for module in (repository, idempotency)
        for name, value in vars(module).items()
        if isinstance(value, Executable) and not isinstance(value, ColumnElement)
        if not name.startswith("_")
    }
    assert len(kept) > 5
    assert kept <= sent


async def test_nothing_is_counted_and_nothing_is_triggered(database: asyncpg.Connection) -> None:
    sequences = "SELECT count(*) FROM pg_class WHERE relkind = 'S'"
    triggers = "SELECT count(*) FROM pg_trigger"
    assert await database.fetchval(sequences) == await database.fetchval(triggers) == 0
