"""The scaling report and its limits."""

from __future__ import annotations

import pytest
from sqlalchemy import Table

from app.domain.tasks.models import SECOND_KEY, TaskRecord
from bench.scaling.data import Size
from bench.scaling.explain import Plan
from bench.scaling.report import (
    INDEXES,
    Cost,
    IndexEffect,
    TableResult,
    chart_data,
    find_regressions,
    render,
)

pytestmark = pytest.mark.requirement("NFR-021", "NFR-103")


def table(rows: int, **medians: float) -> TableResult:
    costs = {"list, first page": Cost(1.0, 2.0, 3)}
    costs |= {name.replace("_", ", "): Cost(p50, 2 * p50, 3) for name, p50 in medians.items()}
    sizes = {"tasks": rows * 400}
    wal = {"create": 1200, "update": 1300, "delete": 90}
    indexes = {
        "ix_tasks_search": IndexEffect((30, 4_000), (35, 32), (1200, 800), (46, 43), (1700, 1300))
    }
    return TableResult(rows=rows, load_time=1.0, costs=costs, sizes=sizes, wal=wal, indexes=indexes)


def test_latency_growth_up_to_the_limit_is_accepted() -> None:
    assert list(find_regressions([table(10, get=1.0), table(100, get=1.5)])) == []


def test_latency_growth_above_the_limit_is_reported() -> None:
    reported = list(find_regressions([table(10, get=1.0), table(50, get=9.0), table(100, get=1.6)]))
    assert reported == ["get: 1.60 times as long, limit 1.5"]


def test_operation_missing_from_smallest_table_is_compared_with_first_page() -> None:
    reported = list(find_regressions([table(10), table(100, deep=1.6)]))
    assert reported == ["deep: 1.60 times as long, limit 1.5"]


def test_report_shows_tables_side_by_side() -> None:
    lines = render([table(10, get=1.0), table(100_000, get=1.25)]).splitlines()
    assert "| operation | 10 | 100,000 | p50, last / first |" in lines
    assert "| get | 1.00 / 2.00, 3 | 1.25 / 2.50, 3 | 1.25 |" in lines
    assert "| log, create | 1,200 | 1,200 |" in lines
    effect = "30 / 4,000 | 35 / 32 | 1,200 / 800 | 46 / 43 | 1,700 / 1,300"
    assert f"| ix_tasks_search | search, rare word | {effect} |" in lines


def test_large_user_owns_a_tenth_of_the_table_up_to_a_million_tasks() -> None:
    assert Size.of(10_000) == Size(large=1_000, reverse=100, others=241)
    assert Size.of(100_000_000).large == 1_000_000


def test_plan_reports_its_wal_bytes() -> None:
    assert Plan("", [{"WAL Bytes": 7}], 1.0, 1.0).wal == 7


def test_a_chart_has_the_median_of_each_operation_in_each_table() -> None:
    data = chart_data([table(10), table(100, get=1.254)], "2026-11-27", "a machine")
    assert data["rows"] == [10, 100]
    assert data["p50"] == {"list, first page": [1.0, 1.0], "get": [None, 1.25]}
    assert (data["date"], data["machine"]) == ("2026-11-27", "a machine")


@pytest.mark.requirement("NFR-105")
def test_effect_of_every_index_is_measured() -> None:
    assert isinstance(TaskRecord.__table__, Table)
    indexes = {str(index.name) for index in TaskRecord.__table__.indexes}
    assert indexes | {SECOND_KEY} == INDEXES.keys()
