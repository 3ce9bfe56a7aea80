"""Compilation of SQLAlchemy statements for the driver."""

from __future__ import annotations

import pytest
from sqlalchemy import BigInteger, bindparam, select

from app.db.statements import UNNAMED, _compile, compile_statement

pytestmark = pytest.mark.requirement("NFR-004")

ADD = select(bindparam("a", type_=BigInteger) + bindparam("b", 40, type_=BigInteger))


def test_compiled_statements_are_cached_up_to_a_limit() -> None:
    assert _compile(ADD) is _compile(ADD)
    assert _compile.cache_parameters()["maxsize"] == 2048


def test_arguments_follow_the_parameter_order() -> None:
    sql, arguments, _ = compile_statement(ADD, {"a": 2})
    assert sql.index("$1") < sql.index("$2")
    assert arguments == [2, 40]
    assert compile_statement(ADD, {"b": 1, "a": 2}) == (sql, [2, 1], True)


def test_statement_may_be_unnamed_to_be_planned_for_its_values() -> None:
    assert compile_statement(ADD, {"a": 2}).named
    assert not compile_statement(ADD.execution_options(**UNNAMED), {"a": 2}).named
