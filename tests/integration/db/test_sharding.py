"""Every operation uses one shard of a database distributed by user (NFR-020).

The tables are partitioned by the hash of `user_id`, and the plan of each statement must use one
partition. A distributed PostgreSQL routes such a statement to one shard (research/0048). The sweep
of expired keys is not an operation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.domain.tasks.lists import FILTERS
from app.domain.tasks.schemas import (
    ListTasksQuery,
    SortOrder,
    TaskCreate,
    TaskPatch,
    TaskReplace,
    TaskSort,
)
from app.http.etags import ETagCondition
from app.http.pagination import CursorPosition
from bench.scaling.explain import MODES, Call, Explainer, Mode
from tests.support.database import database_config_for

pytestmark = pytest.mark.requirement("NFR-020")

SHARDS = 8
TABLES = ("tasks", "lists", "idempotency_keys")
KEYS = """
    SELECT tables.relname, indexes.relname, attributes.attname FROM pg_index
    JOIN pg_class indexes ON indexes.oid = indexrelid
    JOIN pg_class tables ON tables.oid = indrelid
    JOIN pg_am methods ON methods.oid = indexes.relam
    JOIN pg_attribute attributes ON attrelid = indrelid AND attnum = indkey[0]
    WHERE tables.relname = ANY($1) AND tables.relnamespace = 'public'::regnamespace
      AND methods.amname = 'btree'
"""
AT = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TASK = UUID(int=1)
MATCHING = ETagCondition(any=False, strong=(UUID(int=2),))
WHOLE = TaskReplace("New title", None, completed=True)
VALUES: dict[str, Any] = {
    "completed": True,
    "created_after": AT - DAY,
    "created_before": AT + DAY,
    "updated_after": AT - DAY,
    "updated_before": AT + DAY,
    "q": "milk",
}
CALLS: dict[str, Call] = {
    "get": lambda tasks: tasks.get_task("alice", TASK),
    "create": lambda tasks: tasks.create_task("alice", TaskCreate("New"), None),
    "create, key": lambda tasks: tasks.create_task("alice", TaskCreate("New"), str(uuid4())),
    "replace": lambda tasks: tasks.replace_task(
        "alice", TASK, WHOLE, if_match=None, must_not_exist=False
    ),
    "replace, if absent": lambda tasks: tasks.replace_task(
        "alice", TASK, WHOLE, if_match=None, must_not_exist=True
    ),
    "replace, if it matches": lambda tasks: tasks.replace_task(
        "alice", TASK, WHOLE, if_match=MATCHING, must_not_exist=False
    ),
    "update": lambda tasks: tasks.update_task(
        "alice", TASK, TaskPatch(title="New", completed=True), if_match=None
    ),
    "update, if it matches": lambda tasks: tasks.update_task(
        "alice", TASK, TaskPatch(description=None), if_match=MATCHING
    ),
    "delete": lambda tasks: tasks.delete_task("alice", TASK, if_match=None),
    "delete, if it matches": lambda tasks: tasks.delete_task("alice", TASK, if_match=MATCHING),
}

# A new row and its conflict are in the partition of the user. A plan shows only the rows it reads.
INSERTS = {"create", "replace", "replace, if absent"}


def listing(sort: TaskSort, order: SortOrder, after: CursorPosition | None, **filters: Any) -> Call:
    query = ListTasksQuery(sort=sort, order=order, **filters)
    return lambda tasks: tasks.list_tasks("alice", query, after)


for sort, order, after in product(TaskSort, SortOrder, (None, CursorPosition(AT, TASK))):
    name = f"list, {sort} {order}{', next page' if after else ''}"
    CALLS[name] = listing(sort, order, after)
    CALLS[f"{name}, every filter"] = listing(sort, order, after, **VALUES)
CALLS |= {
    f"list, {name}": listing(TaskSort.CREATED_AT, SortOrder.DESC, None, **{name: value})
    for name, value in VALUES.items()
}


@pytest.fixture(scope="module")
async def explainer(database_url: str) -> AsyncIterator[Explainer]:
    """An explainer on equal tables that are partitioned into shards."""
    # A pooler would reuse the session with this search path.
    async with Explainer.connect(database_config_for(database_url).direct_config()) as opened:
        await opened.connection.execute("CREATE SCHEMA sharded")
        for table in TABLES:
            await opened.connection.execute(
                f"CREATE TABLE sharded.{table} (LIKE public.{table} INCLUDING ALL) "
                "PARTITION BY HASH (user_id)"
            )
            for number in range(SHARDS):
                await opened.connection.execute(
                    f"CREATE TABLE sharded.{table}_{number} PARTITION OF sharded.{table} "
                    f"FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {number})"
                )
        await opened.connection.execute("SET search_path TO sharded")
        yield opened
        await opened.connection.execute("DROP SCHEMA sharded CASCADE")


async def test_every_key_and_b_tree_starts_with_the_user(database: asyncpg.Connection) -> None:
    rows = await database.fetch(KEYS, TABLES)
    assert {table for table, *_ in rows} == set(TABLES)
    assert {index for _, index, _ in rows} >= {"pk_tasks", "pk_lists", "pk_idempotency_keys"}
    assert [row for row in rows if row[2] != "user_id"] == []


def test_every_filter_is_covered() -> None:
    assert VALUES.keys() == FILTERS.keys()


def shards(nodes: list[dict[str, Any]]) -> set[str]:
    """Return the numbers of the shards that a plan reads or changes."""
    shard_tables = {node["Relation Name"] for node in nodes if "Relation Name" in node}
    assert shard_tables, "no table at all"
    return {name.rpartition("_")[2] for name in shard_tables - set(TABLES)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CALLS)
async def test_operation_touches_one_shard(explainer: Explainer, name: str, mode: Mode) -> None:
    plan = await explainer.explain(CALLS[name], mode)
    assert len(shards(plan.nodes)) == (0 if name in INSERTS else 1), plan.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("list")])
async def test_page_of_long_texts_touches_one_shard(
    explainer: Explainer, name: str, mode: Mode
) -> None:
    plan = await explainer.explain(CALLS[name], mode, counts_bytes=True)
    assert len(shards(plan.nodes)) == 1, plan.text


async def test_statement_without_a_user_would_be_detected(explainer: Explainer) -> None:
    rows = await explainer.connection.fetch(
        "EXPLAIN (FORMAT JSON) SELECT * FROM tasks WHERE title = ''"
    )
    assert sum(row[0].count('"Relation Name": "tasks_') for row in rows) == SHARDS
