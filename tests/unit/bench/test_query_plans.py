"""Query plans over a small table. `task bench:query-plans` checks 1.2 million tasks."""

import pytest
from sqlalchemy import text

from bench.scaling.data import Size
from bench.scaling.explain import Case, Plan, find_errors
from bench.scaling.query_plans import main

SMALL = Size(large=32_000, reverse=8_000, others=60)


@pytest.mark.requirement("NFR-005", "NFR-206", "NFR-207")
def test_every_statement_uses_its_index() -> None:
    assert main(SMALL) == 0


def test_expensive_plan_is_reported() -> None:
    scan = {
        "Node Type": "Seq Scan",
        "Actual Rows": 51.0,
        "Actual Loops": 1,
        "Rows Removed by Filter": 900,
        "Shared Hit Blocks": 700,
        "Shared Read Blocks": 7,
    }
    case = Case(
        name="list",
        call=lambda tasks: tasks.fetch(text("SELECT 1")),
        indexes=frozenset({"ix_tasks_search"}),
        max_rows=51,
    )

    assert find_errors(case, Plan("", [scan], 1.0, 1.0)) == [
        "uses no index",
        "touches 951 rows, found 0, allowed 51",
        "reads 707 buffers, allowed 63",
    ]
