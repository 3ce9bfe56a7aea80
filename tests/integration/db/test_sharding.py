"""Every operation uses one shard of a database distributed by user (NFR-020).

The tables are partitioned by the hash of `user_id`, and the plan of each statement must use one
partition. A distributed PostgreSQL routes such a statement to one shard (research/0048). The sweep
of expired keys is not an operation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from app.db.positions import Sibling
from app.db.statements import CompiledStatement
from app.domain.changes.repository import ChangeRepository
from app.domain.changes.tokens import START
from app.domain.tasks.filters import FILTERS, filter_params
from app.domain.tasks.pages import IS_OMITTED
from app.domain.tasks.repository import DELETES_PER_REMOVAL
from app.domain.tasks.schemas import (
    CountTasksQuery,
    DueInput,
    ListTasksQuery,
    Priority,
    SortOrder,
    TaskCreate,
    TaskMove,
    TaskPatch,
    TaskReplace,
    TaskSort,
)
from app.http.etags import ETagCondition
from app.http.pagination import CursorPosition
from bench.scaling.explain import MODES, Call, Explainer, Mode, after_results
from tests.integration.lists.test_statements import send_all
from tests.integration.tasks.test_change_tasks import send_all as send_batch
from tests.integration.tasks.test_change_tasks import store_tasks
from tests.support.client import ContractClient
from tests.support.database import database_config_for

pytestmark = pytest.mark.requirement("NFR-020", "NFR-104", "NFR-208")

SHARDS = 8
TABLES = ("tasks", "lists", "idempotency_keys", "users", "tombstones")
# The first column of each key and B-tree index; NULL for an expression.
KEYS = """
    SELECT tables.relname, indexes.relname, attributes.attname FROM pg_index
    JOIN pg_class indexes ON indexes.oid = indexrelid
    JOIN pg_class tables ON tables.oid = indrelid
    JOIN pg_am methods ON methods.oid = indexes.relam
    LEFT JOIN pg_attribute attributes ON attrelid = indrelid AND attnum = indkey[0]
    WHERE tables.relname = ANY($1) AND tables.relnamespace = 'public'::regnamespace
      AND methods.amname = 'btree'
    UNION ALL
    SELECT tables.relname, conname, attname FROM pg_constraint
    JOIN pg_class tables ON tables.oid = conrelid
    JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
    WHERE tables.relname = ANY($1) AND tables.relnamespace = 'public'::regnamespace
      AND contype = 'f'
"""
AT = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DUE_DATE = date(2026, 1, 1)
TASK, OTHER, THIRD, LIST = (UUID(int=number) for number in (1, 3, 5, 4))
MATCHING = ETagCondition(any=False, strong=(UUID(int=2),))
WHOLE = TaskReplace("New title", None, completed=True)
PROPERTIES: dict[str, Any] = {
    "list_id": str(LIST),
    "priority": Priority.HIGH,
    "due": DueInput(DUE_DATE, "17:30", "Europe/Berlin"),
    "labels": ("errands", "shop"),
}
# For each filter, the parameters of a query that has only this filter.
VALUES: dict[str, dict[str, Any]] = {
    "completed": {"completed": True},
    "in_list": {"list_id": str(LIST)},
    "in_inbox": {"list_id": "none"},
    "subtask_of": {"parent_id": str(TASK)},
    "no_subtask": {"parent_id": "none"},
    "priorities": {"priority": "high,urgent"},
    "labels": {"labels": "errands,shop"},
    "has_no_due": {"has_due": False},
    "has_due": {"has_due": True},
    "due_after": {"due_after": DUE_DATE - DAY},
    "due_before": {"due_before": DUE_DATE + DAY},
    "created_after": {"created_after": AT - DAY},
    "created_before": {"created_before": AT + DAY},
    "updated_after": {"updated_after": AT - DAY},
    "updated_before": {"updated_before": AT + DAY},
    "q": {"q": "milk"},
}
# Of two values of one parameter, the second.
EVERY_FILTER = {name: value for query in VALUES.values() for name, value in query.items()}
SORT_VALUES: dict[TaskSort, Any] = {
    TaskSort.CREATED_AT: AT,
    TaskSort.UPDATED_AT: AT,
    TaskSort.DUE: datetime.max,  # noqa: DTZ901 - of a task without a due date
    TaskSort.PRIORITY: 3,
    TaskSort.POSITION: "V",
}
CALLS: dict[str, Call] = {
    "get": lambda tasks: tasks.get_task("alice", TASK),
    "create": lambda tasks: tasks.create_task("alice", TaskCreate("New"), None),
    "create, every property": lambda tasks: tasks.create_task(
        "alice", TaskCreate("New", **PROPERTIES), None
    ),
    "create, key": lambda tasks: tasks.create_task(
        "alice", TaskCreate("New", **PROPERTIES), str(uuid4())
    ),
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
        "alice", TASK, TaskPatch(description=None, **PROPERTIES), if_match=MATCHING
    ),
    "delete": lambda tasks: tasks.delete_task("alice", TASK, if_match=None),
    "delete, if it matches": lambda tasks: tasks.delete_task("alice", TASK, if_match=MATCHING),
    "delete, and old tombstones": lambda tasks: tasks.delete_task(
        "alice", UUID(int=DELETES_PER_REMOVAL), if_match=None
    ),
    "labels": lambda tasks: tasks.list_labels("alice"),
    "changes": lambda tasks: ChangeRepository(tasks.fetch).list_changes("alice", START, 50),
}

# A new row and its conflict are in the partition of the user. A plan shows only the rows it reads.
INSERTS = {"create", "create, every property", "replace"}


def listing(sort: TaskSort, order: SortOrder, after: CursorPosition | None, **filters: Any) -> Call:
    query = ListTasksQuery(sort=sort, order=order, **filters)
    return lambda tasks: tasks.list_tasks("alice", query, after)


def counting(**filters: Any) -> Call:
    query = CountTasksQuery(**filters)
    return lambda tasks: tasks.count_tasks("alice", query)


def moving(after_id: UUID | None, if_match: ETagCondition | None = None, **place: Any) -> Call:
    move = TaskMove(None if after_id is None else str(after_id), **place)
    return lambda tasks: tasks.move_task("alice", TASK, move, if_match=if_match)


def stored(task: UUID, **place: Any) -> dict[str, Any]:
    """Return what a move reads of a task."""
    columns = {"id": task, "etag": MATCHING.strong[0], "position": "V", "created_at": AT}
    return {**columns, "list_id": None, "parent_id": None, **place}


PAGES: dict[str, Call] = {}
for sort, order, is_first in product(TaskSort, SortOrder, (True, False)):
    after = None if is_first else CursorPosition(SORT_VALUES[sort], TASK)
    name = f"list, {sort} {order}{'' if is_first else ', next page'}"
    PAGES[name] = listing(sort, order, after)
    PAGES[f"{name}, completed"] = listing(sort, order, after, completed=True)
    PAGES[f"{name}, every filter"] = listing(sort, order, after, **EVERY_FILTER)
# The second sort reads open and completed tasks separately.
PAGES |= {
    f"list, {sort}, {name}": listing(sort, SortOrder.DESC, None, **query)
    for sort in (TaskSort.CREATED_AT, TaskSort.PRIORITY)
    for name, query in VALUES.items()
}
CALLS |= PAGES
# The first page has a text that is too long, so it is read again.
LONG_TEXT = [None] * IS_OMITTED + [True, None]
CALLS |= {f"{name}, long texts": after_results(call, [LONG_TEXT]) for name, call in PAGES.items()}
CALLS |= {f"count, {name}": counting(**query) for name, query in VALUES.items()}
CALLS |= {"count": counting(), "count, every filter": counting(**EVERY_FILTER)}
PLACES: dict[str, dict[str, Any]] = {
    "list": {"list_id": str(LIST)},
    "inbox": {"list_id": None},
    "parent": {"parent_id": str(OTHER)},
}
for kind, place in PLACES.items():
    references = {name: value and UUID(value) for name, value in place.items()}
    both = [stored(TASK, **references), stored(OTHER, **references)]
    move, move_to_start = moving(OTHER, **place), moving(None, **place)
    matching = moving(OTHER, MATCHING, **place)
    # Without room between two siblings, more of them are read and respaced.
    near, distant = [Sibling(THIRD, f"V{'0' * 62}1")], [Sibling(THIRD, "W")]
    preceding = [Sibling(UUID(int=6), "U")]
    CALLS |= {
        f"move, {kind}, tasks": move,
        f"move, {kind}, first sibling": after_results(move_to_start, both),
        f"move, {kind}, next sibling": after_results(move, both),
        f"move, {kind}, siblings after": after_results(move, both, near),
        f"move, {kind}, siblings before": after_results(move, both, near, near),
        f"move, {kind}, respace": after_results(move, both, near, near, preceding),
        f"move, {kind}, change": after_results(move, both, distant),
        f"move, {kind}, change, if it matches": after_results(matching, both, distant),
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
    assert {index for _, index, _ in rows} >= {"pk_tasks", "pk_idempotency_keys", "pk_lists"}
    assert {index for _, index, _ in rows} >= {"fk_tasks_list_id", "fk_tasks_parent_id"}
    assert [row for row in rows if row[2] != "user_id"] == []


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_is_covered(name: str) -> None:
    assert list(filter_params("alice", CountTasksQuery(**VALUES[name])) or ()) == [name]


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
async def test_session_touches_one_shard(
    client: ContractClient, database: asyncpg.Connection, explainer: Explainer, mode: Mode
) -> None:
    sent: dict[str, Any] = {}

    def record(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> None:
        # A list has the parameters of several executions.
        sent[sql] = parameters[0] if isinstance(parameters, list) else parameters

    event.listen(Engine, "before_cursor_execute", record)
    try:
        await send_all(client, database)
        await store_tasks(client)
        await send_batch(client)
        await client.delete("/api/v1/users/alice")
    finally:
        event.remove(Engine, "before_cursor_execute", record)
    on_tables = {sql: values for sql, values in sent.items() if "user_id" in sql}
    assert len(on_tables) > 10
    for sql, values in on_tables.items():
        statement = CompiledStatement(sql, list(values), named=True)
        plan = await explainer.explain_statement(statement, mode)
        assert len(shards(plan.nodes)) == (0 if sql.startswith("INSERT") else 1), plan.text


async def test_statement_without_a_user_would_be_detected(explainer: Explainer) -> None:
    rows = await explainer.connection.fetch(
        "EXPLAIN (FORMAT JSON) SELECT * FROM tasks WHERE title = ''"
    )
    assert sum(row[0].count('"Relation Name": "tasks_') for row in rows) == SHARDS
