"""The filters of a query as conditions with parameters."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest

from app.domain.tasks.filters import DUE, FILTERS, PLACES, PRIORITIES, filter_params
from app.domain.tasks.schemas import CountTasksQuery, ListTasksQuery, Priority
from app.domain.tasks.search import user_prefix

pytestmark = pytest.mark.requirement("FR-142")

ID = UUID("0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = date(2026, 11, 24)
ALICE = user_prefix("alice")


@pytest.mark.parametrize("query_type", [CountTasksQuery, ListTasksQuery])
@pytest.mark.parametrize(
    ("query", "params"),
    [
        ({}, {}),
        ({"completed": False}, {"completed": False}),
        ({"created_after": NOON}, {"created_after": NOON}),
        ({"updated_before": NOON}, {"updated_before": NOON}),
        ({"list_id": "none"}, {"in_inbox": None}),
        ({"list_id": str(ID)}, {"in_list": ID}),
        ({"list_id": str(ID).upper()}, {"in_list": ID}),
        ({"parent_id": "none"}, {"no_subtask": None}),
        ({"parent_id": str(ID)}, {"subtask_of": ID}),
        ({"priority": "none"}, {"priorities": [0]}),
        ({"priority": "urgent,low,low"}, {"priorities": [4, 1, 1]}),
        ({"labels": "b,a b"}, {"labels": [f"{ALICE}:b", f"{ALICE}:a b"]}),
        ({"has_due": True}, {"has_due": None}),
        ({"has_due": False}, {"has_no_due": None}),
        ({"due_after": DAY}, {"due_after": DAY}),
        ({"due_before": DAY}, {"due_before": DAY}),
        ({"q": "milk"}, {"q": f"'{ALICE}milk':*"}),
        ({"q": "milk", "completed": True}, {"q": f"'{ALICE}milk':*", "completed": True}),
        ({"q": "--"}, None),
        ({"q": "--", "completed": True}, None),
    ],
    ids=str,
)
def test_query_becomes_filters_with_parameters(
    query_type: type[Any], query: dict[str, Any], params: dict[str, Any] | None
) -> None:
    assert filter_params("alice", query_type(**query)) == params
    assert set(params or ()) <= set(FILTERS)


@pytest.mark.requirement("FR-116")
def test_labels_have_the_prefix_of_their_user() -> None:
    of_alice, of_bob = (
        filter_params(user, CountTasksQuery(labels="a")) for user in ("alice", "bob")
    )
    assert of_alice != of_bob


@pytest.mark.requirement("FR-144")
def test_priorities_are_stored_in_ascending_order() -> None:
    assert PRIORITIES == {"none": 0, "low": 1, "medium": 2, "high": 3, "urgent": 4}
    assert list(PRIORITIES) == list(Priority)


def test_list_and_count_have_the_same_filters() -> None:
    paging = {"limit", "cursor", "sort", "order"}
    fields = set(ListTasksQuery.__struct_fields__)
    assert fields - paging == set(CountTasksQuery.__struct_fields__)
    for name in CountTasksQuery.__struct_fields__:
        assert getattr(CountTasksQuery(), name) is getattr(ListTasksQuery(), name)


@pytest.mark.requirement("NFR-102")
def test_limits_of_the_due_date_are_limits_of_the_indexed_expression() -> None:
    # The left side has no column, so that the index on the expression is used.
    for name in ("due_after", "due_before"):
        compared = str(FILTERS[name])
        assert str(DUE) in compared
        assert str(DUE) not in compared.partition(" >" if name == "due_before" else " <=")[0]


def test_places_are_filters() -> None:
    assert set(FILTERS) > PLACES
