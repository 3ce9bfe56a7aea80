"""Explains the statements of the repository and checks their query plans."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal

import asyncpg
import pytest
from msgspec import Struct
from sqlalchemy import ClauseElement
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from app.db.config import DatabaseConfig
from app.db.statements import CompiledStatement, compile_statement
from app.domain.tasks.repository import TaskRepository

# Inner blocks of an index, and the leaves of one page.
INDEX_BUFFERS = 12
# Statements that read a collection also read its version, which is in one row.
VERSION_INDEX, VERSION_ROWS = frozenset({"pk_users"}), 1
# PostgreSQL may switch to a generic plan after the fifth execution. Other plans are executed twice,
# so that the blocks are in memory.
EXECUTIONS, EXECUTIONS_OF_SAME_PLAN = 6, 2

# `service`: the plan mode of the service, custom or automatic. `generic`: a plan that is the same
# for all parameters, which PostgreSQL may choose in automatic mode.
Mode = Literal["service", "generic"]
MODES: tuple[Mode, ...] = ("service", "generic")
Call = Callable[[TaskRepository], Awaitable[object]]


class Case(Struct, frozen=True, kw_only=True):
    """A call of the repository, and the limits of its query plan."""

    name: str
    call: Call
    user: str = ""
    row: str = ""  # of the table in data-model.md
    indexes: frozenset[str] | None = None  # at least one of these, and no other; None allows any
    max_rows: int | None = None  # touched rows; None allows any number
    modes: tuple[Mode, ...] = MODES
    writes: bool = False


class Plan(Struct, frozen=True):
    """The executed plan of a statement."""

    text: str
    nodes: list[dict[str, Any]]  # outermost first
    execution_time: float  # milliseconds
    planning_time: float  # milliseconds

    @property
    def shape(self) -> str:
        """The nodes and their indexes."""
        return " > ".join(_label(node) for node in self.nodes)

    @property
    def access(self) -> str:
        """How the rows are found, as in data-model.md."""
        indexes = sorted(self.indexes - VERSION_INDEX)
        names = " and ".join(f"`{name}`" for name in indexes) or "the table"
        if any(node["Node Type"] in {"Sort", "Incremental Sort"} for node in self.nodes):
            return f"{names}, collected"
        if any(node.get("Rows Removed by Filter") for node in self.nodes):
            return "scanned in the order of an index" if indexes else "the table, scanned"
        return names

    @property
    def indexes(self) -> frozenset[str]:
        """The indexes that were searched."""
        used = {node["Index Name"] for node in self.nodes if "Index Name" in node}
        return frozenset(used.union(*(n.get("Conflict Arbiter Indexes", []) for n in self.nodes)))

    @property
    def rows(self) -> int:
        """Rows read from the table, including those that a filter removed."""
        scans = [node for node in self.nodes if node["Node Type"].endswith("Scan")]
        return sum(
            _count(node, "Actual Rows")
            + _count(node, "Rows Removed by Filter")
            + _count(node, "Rows Removed by Index Recheck")
            for node in scans
            if node["Node Type"] not in {"Bitmap Index Scan", "Subquery Scan"}
        )

    @property
    def gin_matches(self) -> int:
        """Rows that the GIN indexes returned."""
        return sum(
            _count(node, "Actual Rows")
            for node in self.nodes
            if node.get("Index Name") in {"ix_tasks_search", "ix_tasks_labels"}
        )

    @property
    def buffers(self) -> int:
        """Blocks read, from memory or disk."""
        return int(self.nodes[0]["Shared Hit Blocks"] + self.nodes[0]["Shared Read Blocks"])

    @property
    def wal(self) -> int:
        """Bytes of the write-ahead log."""
        return int(self.nodes[0]["WAL Bytes"])


def _label(node: dict[str, Any]) -> str:
    backward = " Backward" if node.get("Scan Direction") == "Backward" else ""
    index = f" {node['Index Name']}" if "Index Name" in node else ""
    return f"{node['Node Type']}{backward}{index}"


def _count(node: dict[str, Any], name: str) -> int:
    return round(float(node.get(name, 0)) * int(node.get("Actual Loops", 1)))


def find_errors(case: Case, plan: Plan) -> list[str]:
    """Return the limits that a plan exceeds."""
    errors = []
    if case.indexes is not None and not (
        plan.indexes <= case.indexes and bool(plan.indexes) == bool(case.indexes)
    ):
        errors.append(f"uses {', '.join(sorted(plan.indexes)) or 'no index'}")
    if case.max_rows is not None:
        if max(plan.rows, plan.gin_matches) > case.max_rows:
            errors.append(
                f"touches {plan.rows} rows, found {plan.gin_matches}, allowed {case.max_rows}"
            )
        index_scans = sum("Index Name" in node for node in plan.nodes)
        max_buffers = case.max_rows + INDEX_BUFFERS * max(1, index_scans)
        if plan.buffers > max_buffers and not case.writes:
            errors.append(f"reads {plan.buffers} buffers, allowed {max_buffers}")
    return errors


class _CapturedError(Exception):
    """Carries a statement out of the repository instead of sending it."""


async def _capture(
    statement: ClauseElement, values: Mapping[str, Any] = {}, **_: object
) -> list[Any]:
    raise _CapturedError(*compile_statement(statement, values))


class CapturingSession(AsyncSession):
    """A session that carries its first statement out of a repository instead of sending it."""

    def __init__(self) -> None:
        super().__init__(create_async_engine("postgresql+asyncpg://"))

    async def execute(self, statement: Any, *_: Any, **__: Any) -> Any:
        raise _CapturedError(*compile_statement(statement, {}))


def after_results(call: Call, *results: list[Any]) -> Call:
    """Return a call whose first statements return `results` and are not sent."""

    def resumed(repository: TaskRepository) -> Awaitable[object]:
        remaining = iter(results)

        async def fetch(*arguments: Any, **options: Any) -> list[Any]:
            for rows in remaining:
                return rows
            return await repository.fetch(*arguments, **options)

        return call(TaskRepository(fetch))

    return resumed


class Explainer:
    """Explains the statements that the repository would send.

    The connection has the settings of the service's pool.
    """

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def connect(cls, config: DatabaseConfig) -> AsyncIterator[Explainer]:
        connection = await asyncpg.connect(**config.connect_kwargs())
        try:
            yield cls(connection)
        finally:
            await connection.close()

    async def explain(self, call: Call, mode: Mode) -> Plan:
        """Return the plan of a call's first statement. All changes are rolled back."""
        return await self.explain_statement(await self.statement(call), mode)

    async def explain_statement(self, statement: CompiledStatement, mode: Mode) -> Plan:
        """Return the plan of a statement. All changes are rolled back."""
        arguments = ", ".join(_literal(value) for value in statement.arguments)
        execute = f"EXECUTE explained ({arguments})"
        service_mode = "auto" if statement.named else "force_custom_plan"
        plan_mode = "force_generic_plan" if mode == "generic" else service_mode
        await self.connection.execute(f"SET plan_cache_mode = {plan_mode}")
        await self.connection.execute(f"PREPARE explained AS {statement.sql}")
        output = ""
        try:
            for _ in range(EXECUTIONS if plan_mode == "auto" else EXECUTIONS_OF_SAME_PLAN):
                output = await self._explain_and_roll_back(
                    f"(ANALYZE, BUFFERS, WAL, FORMAT JSON) {execute}"
                )
            text = await self._explain_and_roll_back(
                f"(ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) {execute}"
            )
        finally:
            await self.connection.execute("DEALLOCATE explained")
            await self.connection.execute("RESET plan_cache_mode")
        plan = json.loads(output)[0]
        return Plan(text, list(_walk(plan["Plan"])), plan["Execution Time"], plan["Planning Time"])

    async def statement(self, call: Call) -> CompiledStatement:
        """Return the first statement of a call without sending it."""
        with pytest.raises(_CapturedError) as captured:
            await call(TaskRepository(_capture))
        return CompiledStatement(*captured.value.args)

    async def _explain_and_roll_back(self, explained: str) -> str:
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            return "\n".join(row[0] for row in await self.connection.fetch(f"EXPLAIN {explained}"))
        finally:
            await transaction.rollback()


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _walk(child)


def _literal(value: object) -> str:
    return "NULL" if value is None else "'" + _text(value).replace("'", "''") + "'"


def _array_item(value: object) -> str:
    """Return PostgreSQL's text of an item of an array."""
    if value is None:
        return "NULL"
    return '"' + _text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(value: object) -> str:
    """Return PostgreSQL's text of a value."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(map(_array_item, value)) + "}"
    # The driver sends this value as infinity.
    return "infinity" if value == datetime.max else str(value)  # noqa: DTZ901 - a local time
