"""Explains statements of the repository's and holds their plans against what they must be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
import pytest
from msgspec import Struct
from sqlalchemy import ClauseElement

from app.db.config import DatabaseConfig
from app.db.statements import CompiledStatement, compile_statement
from app.domain.tasks.repository import TaskRepository

# The way down an index and the leaves a page lies on.
INDEX_BUFFERS = 12
# PostgreSQL may go over to a generic plan after the fifth execution.
EXECUTIONS = 6

# `service`: as the service has it planned, for its values or as PostgreSQL decides. `generic`: the
# plan that knows no parameter, which PostgreSQL may decide for.
Mode = Literal["service", "generic"]
MODES: tuple[Mode, ...] = ("service", "generic")
Call = Callable[[TaskRepository], Awaitable[object]]


class Case(Struct, frozen=True, kw_only=True):
    """A call of the repository's and what the plan of its statement must be."""

    name: str
    call: Call
    indexes: frozenset[str] | None = None  # exactly these; None for any
    rows: int | None = None  # to be touched at most; None for any number
    modes: tuple[Mode, ...] = MODES
    writes: bool = False
    counts_bytes: bool = False  # the page has a text that is too long for it


class Plan(Struct, frozen=True):
    """What PostgreSQL did."""

    text: str
    nodes: list[dict[str, Any]]  # outermost first
    milliseconds: float
    planning: float

    @property
    def shape(self) -> str:
        """The nodes with the indexes they use."""
        return " > ".join(_label(node) for node in self.nodes)

    @property
    def indexes(self) -> frozenset[str]:
        """All indexes that rows were looked for in."""
        used = {node["Index Name"] for node in self.nodes if "Index Name" in node}
        return frozenset(used.union(*(n.get("Conflict Arbiter Indexes", []) for n in self.nodes)))

    @property
    def rows(self) -> int:
        """Rows taken from the table, those that a filter threw away included."""
        scans = [node for node in self.nodes if node["Node Type"].endswith("Scan")]
        return sum(
            _count(node, "Actual Rows")
            + _count(node, "Rows Removed by Filter")
            + _count(node, "Rows Removed by Index Recheck")
            for node in scans
            if node["Node Type"] not in {"Bitmap Index Scan", "Subquery Scan"}
        )

    @property
    def found(self) -> int:
        """Rows that the search index came up with."""
        return sum(
            _count(node, "Actual Rows")
            for node in self.nodes
            if node.get("Index Name") == "ix_tasks_search"
        )

    @property
    def buffers(self) -> int:
        """Blocks read, from memory or from the disk."""
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


def faults(case: Case, plan: Plan) -> list[str]:
    """What is wrong with a plan; nothing when it is as it must be."""
    found = []
    if case.indexes is not None and plan.indexes != case.indexes:
        found.append(f"uses {', '.join(sorted(plan.indexes)) or 'no index'}")
    if case.rows is not None:
        if max(plan.rows, plan.found) > case.rows:
            found.append(f"touches {plan.rows} rows, found {plan.found}, allowed {case.rows}")
        most = case.rows + INDEX_BUFFERS * max(1, len(plan.indexes))
        if plan.buffers > most and not case.writes:
            found.append(f"reads {plan.buffers} buffers, allowed {most}")
    return found


class _CapturedError(Exception):
    """Carries a statement out of the repository, which then does not send it."""


def _repository(*answers: list[Any]) -> TaskRepository:
    """A repository whose first statements are answered with these, and the next one captured."""
    left = list(answers)

    async def fetch(
        statement: ClauseElement, values: Mapping[str, Any] = {}, **_: object
    ) -> list[Any]:
        if left:
            return left.pop()
        raise _CapturedError(*compile_statement(statement, values))

    return TaskRepository(fetch)


class Explainer:
    """Explains what the repository would send, without sending it."""

    def __init__(self, plain: asyncpg.Connection[Any]) -> None:
        """Take a connection that is set as those of the service's pool."""
        self.plain = plain

    @classmethod
    @asynccontextmanager
    async def connect(cls, connection: DatabaseConfig) -> AsyncIterator[Explainer]:
        """An explainer for the database."""
        plain = await asyncpg.connect(**connection.connect_kwargs())
        try:
            yield cls(plain)
        finally:
            await plain.close()

    async def explain(self, call: Call, mode: Mode, *, counts_bytes: bool = False) -> Plan:
        """The plan of a call's statement. Nothing is changed in the table."""
        sent = await self.statement(call, counts_bytes=counts_bytes)
        arguments = ", ".join(_literal(value) for value in sent.arguments)
        execute = f"EXECUTE explained ({arguments})"
        usual = "auto" if sent.named else "force_custom_plan"
        wanted = "force_generic_plan" if mode == "generic" else usual
        await self.plain.execute(f"SET plan_cache_mode = {wanted}")
        await self.plain.execute(f"PREPARE explained AS {sent.sql}")
        answer = ""
        try:
            for _ in range(EXECUTIONS):
                answer = await self._rolled_back(f"(ANALYZE, BUFFERS, WAL, FORMAT JSON) {execute}")
            text = await self._rolled_back(
                f"(ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) {execute}"
            )
        finally:
            await self.plain.execute("DEALLOCATE explained")
            await self.plain.execute("RESET plan_cache_mode")
        plan = json.loads(answer)[0]
        return Plan(text, list(_walk(plan["Plan"])), plan["Execution Time"], plan["Planning Time"])

    async def statement(self, call: Call, *, counts_bytes: bool = False) -> CompiledStatement:
        """The statement of a call, which is not sent; of a page that is too long, the second."""
        marked = [[[True]]] if counts_bytes else []
        with pytest.raises(_CapturedError) as captured:
            await call(_repository(*marked))
        return CompiledStatement(*captured.value.args)

    async def _rolled_back(self, explained: str) -> str:
        transaction = self.plain.transaction()
        await transaction.start()
        try:
            return "\n".join(row[0] for row in await self.plain.fetch(f"EXPLAIN {explained}"))
        finally:
            await transaction.rollback()


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _walk(child)


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        value = f"\\x{value.hex()}"
    if isinstance(value, (list, tuple)):
        value = "{" + ",".join(str(item) for item in value) + "}"
    return "'" + str(value).replace("'", "''") + "'"
