"""Checks that a PostgreSQL distributed by `user_id` accepts a statement.

The rules are those of Citus 13.2 (multi_router_planner.c). The coordinator evaluates each function
that is not IMMUTABLE before it sends the statement to the worker. It rejects a function that needs
the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.support.query_trees import DELETE, INSERT, UPDATE, FunctionCatalog, Node, walk

USER_ID = "1"  # the first column of both tables
RELATION, SUBQUERY = "0", "1"  # RTEKind, in parsenodes.h
EXTERNAL = "0"  # ParamKind: a parameter of the statement
TEXT_EQUAL = "98"  # OID in pg_operator


def find_errors(query: Node, catalog: FunctionCatalog) -> set[str]:
    """Return the reasons why a distributed database would reject a statement."""
    errors: set[str] = set()
    for each in query.all("QUERY"):
        errors.update(_without_user(each), _mutable(each, catalog))
        if each.text("commandType") in {UPDATE, DELETE}:
            errors.update(_changed(each, catalog))
    return errors


def _changed(query: Node, catalog: FunctionCatalog) -> Iterator[str]:
    """Find functions in SET and WHERE that cannot be evaluated without the row."""
    changed = [*_outer(query.fields["targetList"]), *_outer(query.fields["jointree"])]
    for call in catalog.calls(changed):
        if call.volatility == "v":
            yield f"UPDATE: {call.name} is VOLATILE"
        if call.volatility == "s" and any(call.node.all("VAR")):
            yield f"UPDATE: {call.name} is STABLE and takes a column"
    conditional = [node for node in walk(changed) if node.kind in {"CASEEXPR", "COALESCEEXPR"}]
    for call in catalog.calls(conditional):
        if call.volatility != "i":
            yield f"UPDATE: {call.name} is not IMMUTABLE in CASE or COALESCE"


def _mutable(query: Node, catalog: FunctionCatalog) -> Iterator[str]:
    """Find functions that are not IMMUTABLE in clauses that require it."""
    for clause, field in (("ON CONFLICT", "onConflict"), ("RETURNING", "returningList")):
        for call in catalog.calls(query.fields[field]):
            if call.volatility != "i":
                yield f"{clause}: {call.name} is not IMMUTABLE"


def _without_user(query: Node) -> Iterator[str]:
    """Find tables where a query reads or writes rows of more than one user."""
    user_bound = {*_compared(query), *_inserted(query)}
    for index, table in enumerate(_range(query), 1):
        (name,) = (alias.text("aliasname") for alias in table.fields["eref"])
        reads_table = table.text("rtekind") == RELATION and name != "excluded"
        if reads_table and str(index) not in user_bound:
            yield f"{name} without a user"
            if query.fields["rowMarks"] != ["<>"]:
                yield "FOR UPDATE without a user"


def _compared(query: Node) -> Iterator[str]:
    """Return the range-table indexes of tables whose user equals a parameter."""
    for column, value in _equalities(query):
        if column.kind == "VAR" and column.text("varattno") == USER_ID and _is_parameter(value):
            yield column.text("varno")


def _inserted(query: Node) -> Iterator[str]:
    """Return the range-table index of the target table if its user is a parameter."""
    if query.text("commandType") == INSERT:
        for column in walk(_outer(query.fields["targetList"])):
            if column.fields.get("resname") == ["user_id"] and _is_parameter(
                _origin(query, column)
            ):
                yield query.text("resultRelation")


def _equalities(query: Node) -> Iterator[tuple[Node, Node]]:
    """Return both sides of each equality that holds for all rows: not below OR, NOT or a join."""
    (tree,) = query.fields["jointree"]
    pending = tree.fields["quals"]
    while pending:
        node, *pending = pending
        if node == "<>":
            continue
        if node.fields.get("boolop") == ["and"]:
            pending = [*pending, *node.fields["args"][0]]
        if node.fields.get("opno") == [TEXT_EQUAL]:
            left, right = map(_bare, node.fields["args"][0])
            yield left, right
            yield right, left


def _origin(query: Node, column: Node) -> Node:
    """Return the expression of an INSERT column, from VALUES or from the selected rows."""
    value = _bare(column.fields["expr"][0])
    if value.kind != "VAR":
        return value
    selected = _range(query)[int(value.text("varno")) - 1]
    assert selected.text("rtekind") == SUBQUERY
    columns: list[Node] = selected.fields["subquery"][0].fields["targetList"][0]
    return _bare(columns[int(value.text("varattno")) - 1].fields["expr"][0])


def _range(query: Node) -> list[Node]:
    """Return the range table of a query: its tables and subqueries, in `varno` order."""
    (tables,) = query.fields["rtable"]
    return [] if tables == "<>" else tables


def _is_parameter(node: Node) -> bool:
    return node.kind == "PARAM" and node.text("paramkind") == EXTERNAL


def _bare(node: Node) -> Node:
    """Remove type and collation labels from a value."""
    while node.kind in {"RELABELTYPE", "COLLATEEXPR"}:
        (node,) = node.fields["arg"]
    return node


def _outer(values: list[Any]) -> list[Any]:
    """Return a part of a tree without its subqueries, which are checked separately."""
    result: list[Any] = []
    for value in values:
        if isinstance(value, list):
            result.append(_outer(value))
        elif not isinstance(value, Node):
            result.append(value)
        elif value.kind != "QUERY":
            fields = {name: _outer(field) for name, field in value.fields.items()}
            result.append(Node(value.kind, fields))
    return result
