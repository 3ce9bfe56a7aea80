"""What is flat and what is not."""

from __future__ import annotations

import pytest

from bench.scaling.data import Size
from bench.scaling.explain import Plan
from bench.scaling.report import Cost, Figures, Without, chart_data, missed, text

pytestmark = pytest.mark.requirement("NFR-021")


def table(rows: int, **medians: float) -> Figures:
    costs = {"list, first page": Cost(1.0, 2.0, 3)}
    costs |= {name.replace("_", ", "): Cost(p50, 2 * p50, 3) for name, p50 in medians.items()}
    sizes = {"tasks": rows * 400}
    wal = {"create": 1200, "update": 1300, "delete": 90}
    indexes = {"ix_tasks_search": Without((30, 4_000), (1200, 800))}
    return Figures(rows=rows, loaded=1.0, costs=costs, sizes=sizes, wal=wal, indexes=indexes)


def test_what_takes_up_to_half_as_long_again_is_flat() -> None:
    assert list(missed([table(10, get=1.0), table(100, get=1.5)])) == []


def test_what_takes_longer_is_told() -> None:
    told = list(missed([table(10, get=1.0), table(50, get=9.0), table(100, get=1.6)]))
    assert told == ["get: 1.60 times as long, allowed 1.5"]


def test_what_the_smallest_table_has_not_is_held_to_the_first_page() -> None:
    told = list(missed([table(10), table(100, deep=1.6)]))
    assert told == ["deep: 1.60 times as long, allowed 1.5"]


def test_the_tables_stand_side_by_side() -> None:
    lines = text([table(10, get=1.0), table(100_000, get=1.25)]).splitlines()
    assert "| operation | 10 | 100,000 | p50, last / first |" in lines
    assert "| get | 1.00 / 2.00, 3 | 1.25 / 2.50, 3 | 1.25 |" in lines
    assert "| log, create | 1,200 | 1,200 |" in lines
    assert "| ix_tasks_search | search, rare word | 30 | 4,000 | 1,200 | 800 |" in lines


def test_a_tenth_of_a_table_is_one_users_up_to_a_million() -> None:
    assert Size.of(10_000) == Size(large=1_000, reverse=100, others=241)
    assert Size.of(100_000_000).large == 1_000_000


def test_a_plan_knows_what_it_wrote() -> None:
    assert Plan("", [{"WAL Bytes": 7}], 1.0, 1.0).wal == 7


def test_a_chart_has_the_median_of_each_operation_in_each_table() -> None:
    data = chart_data([table(10), table(100, get=1.254)], "2026-11-27", "a machine")
    assert data["rows"] == [10, 100]
    assert data["p50"] == {"list, first page": [1.0, 1.0], "get": [None, 1.25]}
    assert (data["date"], data["machine"]) == ("2026-11-27", "a machine")
