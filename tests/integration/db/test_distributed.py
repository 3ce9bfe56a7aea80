"""A PostgreSQL distributed by `user_id` accepts every statement (NFR-020).

The query trees and the volatilities come from PostgreSQL (research/0053).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from itertools import product
from typing import Any

import asyncpg
import pytest
from sqlalchemy import ColumnElement, Executable

from app.db import idempotency
from app.db.idempotency import (
    CLAIM_KEY,
    READ_RESPONSE,
    STORE_RESPONSE,
    delete_expired_keys,
    idempotency_params,
)
from app.db.statements import _compile
from app.domain.tasks import siblings, statements
from app.domain.tasks.repository import TaskRepository
from app.domain.tasks.schemas import TaskCreate, TaskPatch
from bench.scaling.explain import Call, Explainer
from tests.integration.db.test_sharding import CALLS, MATCHING, PROPERTIES, TASK
from tests.support.database import database_config_for
from tests.support.distributed import find_errors
from tests.support.query_trees import FunctionCatalog, analyze

pytestmark = pytest.mark.requirement("NFR-020")


def patching(patch: TaskPatch, *, matching: bool) -> Call:
    return lambda tasks: tasks.update_task(
        "alice", TASK, patch, if_match=MATCHING if matching else None
    )


def claiming(tasks: TaskRepository) -> Awaitable[object]:
    """Send the claim of a key that ordinary resources send as a statement of its own."""
    params = idempotency_params("alice", "key", TaskCreate("New"))
    return tasks.fetch(CLAIM_KEY, params | {"resource_id": TASK, "new_etag": TASK})


SENT: dict[str, Call] = {
    **CALLS,
    "sweep": lambda tasks: delete_expired_keys(tasks.fetch),
    "claim": claiming,
    "read response": lambda tasks: tasks.fetch(READ_RESPONSE, {"owner": "alice", "key": "key"}),
    "store response": lambda tasks: tasks.fetch(
        STORE_RESPONSE, {"owner": "alice", "used_key": "key", "new_response": b"{}"}
    ),
}
for title, description, completed, matching in product(
    ({}, {"title": "New"}), ({}, {"description": None}),
    ({}, {"completed": True}, {"completed": False}), (False, True),
):  # fmt: skip
    fields: dict[str, Any] = title | description | completed
    SENT[f"update, {fields}, {matching=}"] = patching(TaskPatch(**fields), matching=matching)
for name, value in {**PROPERTIES, "parent_id": str(TASK)}.items():
    SENT[f"update, {name}"] = patching(TaskPatch(**{name: value}), matching=False)

# Earlier statements of the service, and the errors of Citus.
REJECTED = {
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
    async with Explainer.connect(database_config_for(database_url).direct_config()) as opened:
        yield opened


@pytest.fixture(scope="module")
async def catalog(explainer: Explainer) -> FunctionCatalog:
    return await FunctionCatalog.read(explainer.connection)


@pytest.mark.parametrize("name", SENT)
async def test_distributed_database_accepts_the_statement(
    explainer: Explainer, catalog: FunctionCatalog, name: str
) -> None:
    sql = (await explainer.statement(SENT[name])).sql
    errors = find_errors(await analyze(explainer.connection, sql), catalog)
    # The sweep deletes expired keys of all users, so it has no user.
    assert errors == ({"idempotency_keys without a user"} if name == "sweep" else set()), sql


@pytest.mark.parametrize("name", REJECTED)
async def test_unsupported_statement_is_detected(
    explainer: Explainer, catalog: FunctionCatalog, name: str
) -> None:
    sql, expected = REJECTED[name]
    assert find_errors(await analyze(explainer.connection, sql), catalog) == expected


async def test_every_repository_statement_is_covered(explainer: Explainer) -> None:
    sent = {(await explainer.statement(call)).sql for call in SENT.values()}
    objects = {
        _compile(value).sql
        for module in (statements, siblings, idempotency)
        for name, value in vars(module).items()
        if isinstance(value, Executable) and not isinstance(value, ColumnElement)
        if not name.startswith("_")
    }
    assert len(objects) > 5
    assert objects <= sent


async def test_schema_has_no_sequences_and_no_triggers(database: asyncpg.Connection) -> None:
    sequences = "SELECT count(*) FROM pg_class WHERE relkind = 'S'"
    triggers = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"
    assert await database.fetchval(sequences) == await database.fetchval(triggers) == 0
