"""Query trees of statements, as PostgreSQL parses and analyzes them.

PostgreSQL stores the body of an SQL function as an analyzed tree. In it, each function and
operator is resolved to its OID. An external parser cannot resolve overloads, so it cannot
determine the volatility of a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import asyncpg
from msgspec import Struct

UPDATE, INSERT, DELETE = "2", "3", "4"  # CmdType, in nodes.h

_TOKEN = re.compile(r"[{}()\[\]]|(?:\\.|[^\s{}()\[\]\\])+", re.DOTALL)
_ENDS = {"(": ")", "[": "]", "{": "}"}
_VOLATILITY = """
    SELECT oid::text, proname::text, provolatile::text FROM pg_proc
    UNION ALL
    SELECT 'operator ' || pg_operator.oid, oprname::text, provolatile::text
    FROM pg_operator JOIN pg_proc ON pg_proc.oid = oprcode
"""

Value = Any  # a token, a list of values, or a Node


class Node(Struct, frozen=True):
    """A node of the tree. `kind` is its type in PostgreSQL's primnodes.h."""

    kind: str
    fields: dict[str, list[Value]]

    def all(self, *kinds: str) -> Iterator[Node]:
        """Return this node and its descendants that have one of these kinds."""
        return (node for node in walk([self]) if node.kind in kinds)

    def text(self, field: str) -> str:
        """Return the only token of a field."""
        (token,) = self.fields[field]
        return str(token)


class Call(Struct, frozen=True):
    """A call of a function or an operator."""

    name: str
    volatility: str  # pg_proc.provolatile: i, s or v
    node: Node


class FunctionCatalog(Struct, frozen=True):
    known: dict[str, tuple[str, str]]

    @classmethod
    async def read(cls, database: asyncpg.Connection[Any]) -> FunctionCatalog:
        rows = await database.fetch(_VOLATILITY)
        return cls({oid: (name, volatility) for oid, name, volatility in rows})

    def calls(self, values: list[Value]) -> Iterator[Call]:
        """Return all calls in a part of a tree."""
        for node in walk(values):
            for oid in _called(node):
                yield Call(*self.known[oid], node)
            if node.kind == "SQLVALUEFUNCTION":  # CURRENT_TIMESTAMP and similar
                yield Call("SQL value function", "s", node)
            if node.kind == "COERCEVIAIO":  # STABLE or IMMUTABLE, depending on both types
                yield Call("cast through text", "s", node)


def walk(values: list[Value]) -> Iterator[Node]:
    """Return all nodes in a part of a tree."""
    for value in values:
        if isinstance(value, list):
            yield from walk(value)
        elif isinstance(value, Node):
            yield value
            for field in value.fields.values():
                yield from walk(field)


async def analyze(database: asyncpg.Connection[Any], sql: str) -> Node:
    """Return the tree of a statement without executing the statement."""
    prepared = await database.prepare(sql)
    types = ", ".join(each.name for each in prepared.get_parameters())
    transaction = database.transaction()
    await transaction.start()
    try:
        await database.execute(
            f"CREATE FUNCTION analyzed({types}) RETURNS void BEGIN ATOMIC {sql}; END"
        )
        text = await database.fetchval(
            "SELECT prosqlbody::text FROM pg_proc WHERE proname = 'analyzed'"
        )
    finally:
        await transaction.rollback()
    (((query,),),) = _read(iter(_TOKEN.findall(text)), "")
    assert isinstance(query, Node)
    return query


def _called(node: Node) -> Iterator[str]:
    if "funcid" in node.fields:
        yield node.text("funcid")
    if "opno" in node.fields:
        yield f"operator {node.text('opno')}"


def _read(tokens: Iterator[str], end: str) -> list[Value]:
    """Parse values up to the closing token."""
    values: list[Value] = []
    for token in tokens:
        if token == end:
            break
        if token in _ENDS:
            inner = _read(tokens, _ENDS[token])
            values.append(_node(inner) if token == "{" else inner)  # noqa: S105 - no password
        else:
            values.append(token)
    return values


def _node(values: list[Value]) -> Node:
    kind, *rest = values
    fields: dict[str, list[Value]] = {}
    name = ""
    for value in rest:
        if isinstance(value, str) and value.startswith(":"):
            name = value[1:]
            fields[name] = []
        else:
            fields[name].append(value)
    return Node(kind, fields)
