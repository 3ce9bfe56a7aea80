"""The statements that read a page of tasks, and the size limits of a page."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from itertools import chain, islice, product
from itertools import combinations as combinations_of
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.domain.tasks import pages
from app.domain.tasks.filters import FILTERS, PLACES
from app.domain.tasks.models import DUE_EXPRESSION
from app.domain.tasks.pages import count_statement, list_statement, max_text_bytes, truncate_page
from app.domain.tasks.schemas import Due, Priority, SortOrder, Task, TaskPage, TaskSort

pytestmark = pytest.mark.requirement("NFR-005")

TIMESTAMPTZ = "TIMESTAMP WITH TIME ZONE"
TIMESTAMPS = [TaskSort.CREATED_AT, TaskSort.UPDATED_AT]
ORDERS = [(SortOrder.ASC, ">"), (SortOrder.DESC, "<")]
# The SQL of each sort key, and the type of its value in a cursor.
MERGED = {
    TaskSort.DUE: (r"COALESCE\(due_date .*?'infinity'::\w+ without time zone\)", "TIMESTAMP "),
    TaskSort.PRIORITY: (r"tasks\.priority", "BIGINT"),
    TaskSort.POSITION: (r"coalesce\(tasks\.position, .*?", 'VARCHAR COLLATE "C"'),
}
LONGEST_CURSOR = "x" * 132
LONGEST = Task(
    id=UUID(int=1),
    user_id="u" * 128,
    title="",
    description="",
    completed=False,
    completed_at=datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
    list_id=UUID(int=2),
    parent_id=UUID(int=3),
    priority=Priority.URGENT,
    due=Due(date(2026, 1, 1), "00:00", "Z" * 64),
    due_at=datetime(2026, 1, 1, tzinfo=UTC),
    labels=("",) * 50,
    position="z" * 64,
    created_at=datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
    updated_at=datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
    etag=f'"{"0" * 32}"',
)


def sql_of(statement: ClauseElement) -> str:
    compiled = str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]
    return " ".join(compiled.split())


def bounds(sort: TaskSort, order: SortOrder, *filters: str, has_cursor: bool = False) -> list[str]:
    """Return the conditions after the user's, then the ordering.

    $1 is the maximum length of a row's texts, and $2 the length of an absent description.
    """
    sql = sql_of(list_statement(frozenset(filters), sort, order, has_cursor=has_cursor))
    conditions, _, ordering = sql.partition("FROM tasks WHERE ")[2].partition(" ORDER BY ")
    ordering, _, limit = ordering.partition(" LIMIT ")
    assert limit.startswith("$")
    return [*conditions.split(" AND ")[1:], ordering]


@pytest.mark.parametrize(
    ("sort", "filters", "conditions"),
    [
        # updated_at is never before created_at, so a bound on one may also bound the other.
        (
            TaskSort.CREATED_AT,
            ["updated_before"],
            [f"tasks.updated_at < $4::{TIMESTAMPTZ}", f"tasks.created_at < $4::{TIMESTAMPTZ}"],
        ),
        (TaskSort.CREATED_AT, ["created_after"], [f"tasks.created_at > $4::{TIMESTAMPTZ}"]),
        (TaskSort.CREATED_AT, ["created_before"], [f"tasks.created_at < $4::{TIMESTAMPTZ}"]),
        (
            TaskSort.UPDATED_AT,
            ["created_after"],
            [f"tasks.created_at > $4::{TIMESTAMPTZ}", f"tasks.updated_at > $4::{TIMESTAMPTZ}"],
        ),
        (TaskSort.UPDATED_AT, ["updated_before"], [f"tasks.updated_at < $4::{TIMESTAMPTZ}"]),
        (TaskSort.UPDATED_AT, ["updated_after"], [f"tasks.updated_at > $4::{TIMESTAMPTZ}"]),
        (TaskSort.UPDATED_AT, ["completed"], ["tasks.completed = $4::BOOLEAN"]),
    ],
)
def test_list_is_bounded_on_its_sort_column(
    sort: TaskSort, filters: list[str], conditions: list[str]
) -> None:
    ordering = f"tasks.{sort} DESC, tasks.id DESC"
    assert bounds(sort, SortOrder.DESC, *filters) == [*conditions, ordering]


@pytest.mark.parametrize("sort", TIMESTAMPS)
@pytest.mark.parametrize(("order", "sign"), ORDERS, ids=["asc", "desc"])
def test_page_starts_after_the_cursor_position(sort: TaskSort, order: SortOrder, sign: str) -> None:
    assert bounds(sort, order, has_cursor=True) == [
        f"(tasks.{sort}, tasks.id) {sign} ($4::{TIMESTAMPTZ}, $5::UUID)",
        f"tasks.{sort} {order.upper()}, tasks.id {order.upper()}",
    ]


@pytest.mark.requirement("FR-145", "NFR-102")
@pytest.mark.parametrize("sort", MERGED)
@pytest.mark.parametrize(("order", "sign"), ORDERS, ids=["asc", "desc"])
def test_open_and_completed_tasks_are_merged_if_an_index_begins_with_completed(
    sort: TaskSort, order: SortOrder, sign: str
) -> None:
    filters = frozenset({"in_inbox"} if sort is TaskSort.POSITION else ())
    sql = sql_of(list_statement(filters, sort, order, has_cursor=True))
    key, type_ = MERGED[sort]
    direction = order.upper()
    branch = re.compile(
        rf"\(({key}), tasks\.id\) {sign} \((?:greatest\()?\$4::{re.escape(type_)}.*?, \$5::UUID\)"
        rf" AND tasks\.completed = (false|true)"
        rf" ORDER BY \1 {direction}, tasks\.id {direction} LIMIT \$6\)"
    )
    first, second = sql.split(" UNION ALL ")
    assert [branch.search(part)[2] for part in (first, second)] == ["false", "true"]  # type: ignore[index]
    assert sql.endswith(
        f") AS merged ORDER BY merged.sort_key {direction}, merged.id {direction} LIMIT $6"
    )
    assert "sort_key" not in sql.partition(" FROM ")[0]


@pytest.mark.requirement("NFR-102")
@pytest.mark.parametrize("filters", [[], ["no_subtask"], ["labels"]])
def test_tasks_of_all_places_are_collected_once_by_position(filters: list[str]) -> None:
    statement = list_statement(
        frozenset(filters), TaskSort.POSITION, SortOrder.ASC, has_cursor=True
    )
    assert "UNION" not in sql_of(statement)
    assert not is_named(statement)


@pytest.mark.requirement("NFR-102")
@pytest.mark.parametrize(("filter_", "sign"), [("has_due", ">"), ("has_no_due", "=")])
def test_due_filter_is_a_condition_on_the_expression_of_the_index(filter_: str, sign: str) -> None:
    condition = f"'infinity'::timestamp {sign} {DUE_EXPRESSION}"
    assert condition in sql_of(count_statement(frozenset({filter_})))


@pytest.mark.requirement("FR-145", "NFR-102")
@pytest.mark.parametrize("sort", MERGED)
@pytest.mark.parametrize(("order", "sign"), ORDERS, ids=["asc", "desc"])
def test_one_range_of_the_index_is_read_with_the_filter_completed(
    sort: TaskSort, order: SortOrder, sign: str
) -> None:
    sql = sql_of(list_statement(frozenset({"completed"}), sort, order, has_cursor=True))
    key, type_ = MERGED[sort]
    conditions, _, ordering = sql.partition("FROM tasks WHERE ")[2].partition(" ORDER BY ")
    assert "UNION" not in sql
    assert re.fullmatch(
        r'tasks\.user_id = \$3::VARCHAR COLLATE "C" AND tasks\.completed = \$4::BOOLEAN'
        rf" AND \({key}, tasks\.id\) {sign} "
        rf"\((?:greatest\()?\$5::{re.escape(type_)}.*?, \$6::UUID\)",
        conditions,
    )
    direction = order.upper()
    assert re.fullmatch(rf"{key} {direction}, tasks\.id {direction} LIMIT \$7", ordering)


INDEXED = [
    (TaskSort.CREATED_AT, {"completed", "created_after", "created_before"}),
    (TaskSort.UPDATED_AT, {"completed", "updated_after", "updated_before"}),
    (TaskSort.DUE, {"completed", "has_due", "due_after", "due_before"}),
    (TaskSort.DUE, {"completed", "has_no_due"}),
    (TaskSort.PRIORITY, {"completed"}),
    (TaskSort.POSITION, {"completed", "in_list"}),
    (TaskSort.POSITION, {"completed", "in_inbox"}),
    (TaskSort.POSITION, {"completed", "subtask_of"}),
]


def is_named(statement: ClauseElement) -> bool:
    """Return whether PostgreSQL may plan a statement once for all values."""
    return not statement.get_execution_options().get("unnamed", False)  # type: ignore[attr-defined]


@pytest.mark.requirement("NFR-102")
@pytest.mark.parametrize(
    ("sort", "filters"),
    INDEXED,
    ids=[f"{sort} {' '.join(sorted(names))}" for sort, names in INDEXED],
)
def test_statement_is_planned_once_if_one_index_has_its_order(
    sort: TaskSort, filters: set[str]
) -> None:
    for has_cursor, counts_bytes in product((False, True), repeat=2):
        for subset in (PLACES & filters, frozenset(filters)):
            statement = list_statement(
                subset, sort, SortOrder.ASC, has_cursor=has_cursor, counts_bytes=counts_bytes
            )
            assert is_named(statement)


@pytest.mark.requirement("NFR-102")
@pytest.mark.parametrize(
    ("sort", "name"),
    [
        *product(TaskSort, ["q", "labels", "priorities", "no_subtask"]),
        *product([*TIMESTAMPS, TaskSort.PRIORITY, TaskSort.POSITION], ["has_due", "has_no_due"]),
    ],
)
def test_statement_with_another_filter_is_planned_for_its_values(sort: TaskSort, name: str) -> None:
    for filters in ({name}, {name, "completed"}):
        assert not is_named(
            list_statement(frozenset(filters), sort, SortOrder.DESC, has_cursor=False)
        )
        assert not is_named(count_statement(frozenset(filters)))


@pytest.mark.requirement("FR-147")
@pytest.mark.parametrize("filters", [set(), {"completed"}], ids=str)
def test_count_without_other_filters_is_planned_once(filters: set[str]) -> None:
    assert is_named(count_statement(frozenset(filters)))


@pytest.mark.requirement("NFR-004")
def test_cached_statements_are_bounded_in_number() -> None:
    limit = pages.STATEMENT_CACHE_SIZE
    combinations = chain.from_iterable(combinations_of(FILTERS, size) for size in range(5))
    for filters in islice(combinations, limit + 1):
        count_statement(frozenset(filters))
    assert count_statement.cache_info().currsize == limit
    assert list_statement.cache_info().maxsize == limit


# --- size limits ---------------------------------------------------------------------------------


@pytest.mark.requirement("FR-015")
def test_page_without_tasks_fits_its_overhead() -> None:
    page = msgspec.json.encode(TaskPage([], LONGEST_CURSOR))
    assert len(page) <= pages.PAGE_OVERHEAD_BYTES


@pytest.mark.requirement("FR-015")
def test_task_without_texts_fits_its_overhead() -> None:
    # A comma separates the tasks of a page.
    assert len(msgspec.json.encode(LONGEST)) + 1 <= pages.TASK_OVERHEAD_BYTES


@pytest.mark.requirement("FR-015")
@pytest.mark.parametrize("character", ["\x01", '"', "\u2028", "\uffff", "\U0010ffff"], ids=ascii)
def test_character_has_a_limited_number_of_bytes(character: str) -> None:
    size = len(msgspec.json.encode(character)) - 2
    assert size <= pages.MAX_CHARACTER_BYTES


@pytest.mark.requirement("FR-015")
@pytest.mark.parametrize("limit", [1, 50, 200])
def test_full_page_and_one_more_row_fit_their_texts(limit: int) -> None:
    longest_title = len(("\U0010ffff" * 500).encode())
    row = max_text_bytes(limit) + longest_title
    assert 0 < (limit + 1) * row <= pages.MAX_PAGE_BYTES < (limit + 1) * (row + 1)


texts = st.text(st.sampled_from('a"\x01\u2028\U0001f95b'), max_size=60)
tasks = st.builds(
    lambda title, description, labels: msgspec.structs.replace(
        LONGEST, title=title, description=description, labels=tuple(labels)
    ),
    texts,
    st.none() | texts,
    st.lists(texts, max_size=5),
)


@pytest.mark.requirement("FR-015")
@given(st.lists(tasks, max_size=8), st.integers(0, 10_000))
def test_page_has_the_most_tasks_that_fit(page: list[Task], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "MAX_PAGE_BYTES", pages.PAGE_OVERHEAD_BYTES + room)
        fitting = truncate_page(page)
    sizes = [len(msgspec.json.encode(task)) + 1 for task in page]
    assert fitting == page[: len(fitting)]
    assert sum(sizes[: len(fitting)]) <= room
    assert len(fitting) == len(page) or sum(sizes[: len(fitting) + 1]) > room


@pytest.mark.requirement("FR-015")
def test_page_of_short_texts_is_not_encoded_to_measure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(_: Any) -> bytes:
        raise AssertionError

    page = [msgspec.structs.replace(LONGEST, title="x" * 500, labels=("y" * 64,) * 2)] * 200
    monkeypatch.setattr("app.domain.tasks.pages.msgspec.json.encode", encode)
    assert truncate_page(page) is page
