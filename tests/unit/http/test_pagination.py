"""Cursors are opaque, tamper-evident and bound to their query."""

from __future__ import annotations

import string
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.tasks.schemas import ListTasksQuery, SortOrder, TaskSort
from app.http.pagination import (
    _POSITION,
    _TEXT_POSITION,
    MAX_TEXT_BYTES,
    CursorCodec,
    CursorPosition,
    PageQuery,
    SortValue,
)
from app.http.problems import FieldError, InvalidCursor

pytestmark = pytest.mark.requirement("FR-017")

URL_SAFE = string.ascii_letters + string.digits + "-_"
CREATED_AT = datetime(2026, 11, 23, 8, 0, 0, 250, tzinfo=UTC)
POSITION = CursorPosition(CREATED_AT, UUID(int=7))
PUBLIC = CursorCodec(None)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

positions = st.builds(CursorPosition, st.datetimes(timezones=st.just(UTC)), st.uuids())
queries = st.builds(
    ListTasksQuery,
    limit=st.integers(1, 200),
    completed=st.none() | st.booleans(),
    q=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    created_after=st.none() | st.datetimes(timezones=st.just(UTC)),
    sort=st.sampled_from(TaskSort),
    order=st.sampled_from(SortOrder),
)


def follow(query: ListTasksQuery, cursor: str, **changes: Any) -> ListTasksQuery:
    """Return the query for the next page."""
    return msgspec.structs.replace(query, cursor=cursor, **changes)


@given(st.text(min_size=1, max_size=128, alphabet=URL_SAFE), queries, positions)
def test_cursor_round_trip(user: str, query: ListTasksQuery, position: CursorPosition) -> None:
    cursor = PUBLIC.encode(user, query, position)
    assert PUBLIC.decode(user, follow(query, cursor)) == position


@pytest.mark.parametrize("timestamp", [datetime.min, datetime.max, datetime(1970, 1, 1)])  # noqa: DTZ001, DTZ901 - UTC is set below
@pytest.mark.parametrize("id_", [UUID(int=0), UUID(int=2**128 - 1)])
def test_extreme_timestamps_are_valid_positions(timestamp: datetime, id_: UUID) -> None:
    position = CursorPosition(timestamp.replace(tzinfo=UTC), id_)
    cursor = PUBLIC.encode("alice", ListTasksQuery(), position)
    assert PUBLIC.decode("alice", follow(ListTasksQuery(), cursor)) == position


@given(queries, positions)
def test_cursor_is_56_url_safe_characters(query: ListTasksQuery, position: CursorPosition) -> None:
    cursor = PUBLIC.encode("alice", query, position)
    assert len(cursor) == 56
    assert set(cursor) <= set(URL_SAFE)


def test_missing_cursor_has_no_position() -> None:
    assert PUBLIC.decode("alice", ListTasksQuery()) is None


@pytest.mark.parametrize("index", range(56))
def test_cursor_with_a_changed_character_is_rejected(index: int) -> None:
    cursor = PUBLIC.encode("alice", ListTasksQuery(), POSITION)
    rejected = 0
    for character in URL_SAFE.replace(cursor[index], ""):
        changed = cursor[:index] + character + cursor[index + 1 :]
        with pytest.raises(InvalidCursor):
            PUBLIC.decode("alice", follow(ListTasksQuery(), changed))
        rejected += 1
    assert rejected == 63


@given(st.text(URL_SAFE, min_size=56, max_size=56))
def test_random_text_is_rejected_as_a_cursor(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice", follow(ListTasksQuery(), cursor))


def test_invalid_cursor_names_the_parameter() -> None:
    with pytest.raises(InvalidCursor) as raised:
        PUBLIC.decode("alice", follow(ListTasksQuery(), "A" * 56))
    (error,) = raised.value.errors
    detail = "invalid, or belongs to a different query"
    assert error == FieldError(parameter="cursor", detail=detail)


@pytest.mark.requirement("FR-020")
@pytest.mark.parametrize("user", ["bob", "Alice", "alice1", "alic"])
def test_cursor_is_bound_to_its_user(user: str) -> None:
    cursor = PUBLIC.encode("alice", ListTasksQuery(), POSITION)
    with pytest.raises(InvalidCursor):
        PUBLIC.decode(user, follow(ListTasksQuery(), cursor))


OTHER_VALUES: dict[str, Any] = {
    "completed": True,
    "q": "milk",
    "created_after": NOON,
    "created_before": NOON,
    "updated_after": NOON,
    "updated_before": NOON,
    "sort": TaskSort.UPDATED_AT,
    "order": SortOrder.ASC,
}


def test_every_parameter_except_limit_and_cursor_affects_the_list() -> None:
    assert {*OTHER_VALUES, "limit", "cursor"} == set(ListTasksQuery.__struct_fields__)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_cursor_is_bound_to_each_parameter(name: str) -> None:
    without, with_value = ListTasksQuery(), ListTasksQuery(**{name: OTHER_VALUES[name]})
    for issued_for, used_for in ((without, with_value), (with_value, without)):
        cursor = PUBLIC.encode("alice", issued_for, POSITION)
        with pytest.raises(InvalidCursor):
            PUBLIC.decode("alice", follow(used_for, cursor))


@pytest.mark.parametrize(
    ("one", "other"),
    [(one, other) for one in OTHER_VALUES for other in OTHER_VALUES if one != other],
)
def test_cursor_distinguishes_parameters_with_equal_values(one: str, other: str) -> None:
    cursor = PUBLIC.encode("alice", ListTasksQuery(**{one: OTHER_VALUES[one]}), POSITION)
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice", follow(ListTasksQuery(**{other: OTHER_VALUES[other]}), cursor))


def test_limit_may_change_between_pages() -> None:
    cursor = PUBLIC.encode("alice", ListTasksQuery(limit=1), POSITION)
    assert PUBLIC.decode("alice", follow(ListTasksQuery(), cursor, limit=200)) == POSITION


def test_timestamp_filter_is_independent_of_its_offset() -> None:
    shifted = datetime.fromisoformat("2026-11-23T14:00:00+02:00").astimezone(UTC)
    cursor = PUBLIC.encode("alice", ListTasksQuery(created_after=NOON), POSITION)
    assert PUBLIC.decode("alice", follow(ListTasksQuery(created_after=shifted), cursor)) == POSITION


def test_positions_a_microsecond_apart_have_different_cursors() -> None:
    later = CursorPosition(CREATED_AT + timedelta(microseconds=1), POSITION.id)
    cursors = {PUBLIC.encode("alice", ListTasksQuery(), position) for position in (POSITION, later)}
    assert len(cursors) == 2


@pytest.mark.requirement("NFR-002")
@pytest.mark.parametrize(
    ("secret", "cursor"),
    [
        (None, "AAZg7PsBoPoAAAAAAAAAAAAAAAAAAAAHSYRTADsgVy6U2szzrsOOb_eo"),
        ("s" * 32, "AAZg7PsBoPoAAAAAAAAAAAAAAAAAAAAH1vXiZ68rrxpqSHXUsIcFQagK"),
    ],
)
def test_cursor_format_is_stable_between_versions(secret: str | None, cursor: str) -> None:
    # During a rolling update, both versions accept the cursors of the other one.
    query = ListTasksQuery(q="milk")
    assert CursorCodec(secret).encode("alice", query, POSITION) == cursor


@pytest.mark.requirement("NFR-002")
def test_replicas_with_the_same_secret_accept_each_others_cursors() -> None:
    one, other = CursorCodec("s" * 32), CursorCodec("s" * 32)
    cursor = one.encode("alice", ListTasksQuery(), POSITION)
    assert other.decode("alice", follow(ListTasksQuery(), cursor)) == POSITION


@pytest.mark.parametrize("secret", [None, "t" * 32, "s" * 33, "s" * 200])
def test_cursor_of_another_secret_is_rejected(secret: str | None) -> None:
    cursor = CursorCodec("s" * 32).encode("alice", ListTasksQuery(), POSITION)
    with pytest.raises(InvalidCursor):
        CursorCodec(secret).decode("alice", follow(ListTasksQuery(), cursor))


def test_secret_is_significant_beyond_64_bytes() -> None:
    cursor = CursorCodec("s" * 100 + "a").encode("alice", ListTasksQuery(), POSITION)
    with pytest.raises(InvalidCursor):
        CursorCodec("s" * 100 + "b").decode("alice", follow(ListTasksQuery(), cursor))


@pytest.mark.requirement("FR-017")
@pytest.mark.parametrize("micros", [-(2**63), 2**63 - 1])
def test_signed_position_outside_the_calendar_is_rejected(micros: int) -> None:
    # The default key is public, so a client can sign a position that no list returned.
    packed = _POSITION.pack(micros, POSITION.id.bytes)
    query = ListTasksQuery()
    forged = urlsafe_b64encode(packed + PUBLIC._digest("alice", query, packed)).decode()
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice", msgspec.structs.replace(query, cursor=forged))


# --- other sort values ---------------------------------------------------------------------------

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(
    lambda text: len(text.encode()) <= MAX_TEXT_BYTES
)


def forge(text: bytes) -> PageQuery:
    """Return a query with a signed cursor of this text. The default key is public."""
    packed = _TEXT_POSITION.pack(text, POSITION.id.bytes)
    digest = PUBLIC._digest("alice/lists", PageQuery(), packed)
    return PageQuery(cursor=urlsafe_b64encode(packed + digest).decode())


@pytest.mark.requirement("FR-145", "FR-146")
@pytest.mark.parametrize(
    ("sort_type", "values", "length"),
    [(datetime, st.datetimes(timezones=st.just(UTC)), 56), (int, INTEGERS, 56), (str, TEXTS, 132)],
)
@given(data=st.data(), id_=st.uuids())
def test_cursor_of_each_sort_type(
    sort_type: type[SortValue],
    values: st.SearchStrategy[SortValue],
    length: int,
    data: st.DataObject,
    id_: UUID,
) -> None:
    position = CursorPosition(data.draw(values), id_)
    cursor = PUBLIC.encode("alice/lists", PageQuery(), position)
    decoded = PUBLIC.decode("alice/lists", PageQuery(cursor=cursor), sort_type)
    assert decoded == position
    assert decoded is not None
    assert type(decoded.sort_value) is sort_type
    assert len(cursor) == length
    assert set(cursor) <= set(URL_SAFE)


@pytest.mark.requirement("FR-145", "NFR-002")
@pytest.mark.parametrize(
    ("value", "cursor"),
    [
        (3, "AAAAAAAAAAMAAAAAAAAAAAAAAAAAAAAHN8VF8efANZ3ZPzte-lVUn2Ri"),
        (
            "0639310176000000000c1e8a44",
            (
                "MDYzOTMxMDE3NjAwMDAwMDAwMGMxZThhNDQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAHmiLZ6AOrJ_QQGMJh_mhhq3ZC"
            ),
        ),
    ],
    ids=["int", "str"],
)
def test_format_of_other_sort_types_is_stable(value: SortValue, cursor: str) -> None:
    position = CursorPosition(value, POSITION.id)
    assert PUBLIC.encode("alice/lists", PageQuery(), position) == cursor


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize("sort_type", [datetime, int, str])
@pytest.mark.parametrize("length", [56, 57, 58, 59, 60, 128, 131, 132])
def test_cursor_that_was_not_issued_is_rejected(sort_type: type[SortValue], length: int) -> None:
    query = PageQuery(cursor="A" * length)
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice/lists", query, sort_type)


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize(("value", "sort_type"), [("V", datetime), ("V", int), (1, str)])
def test_cursor_of_another_sort_type_is_rejected(
    value: SortValue, sort_type: type[SortValue]
) -> None:
    cursor = PUBLIC.encode("alice/lists", PageQuery(), CursorPosition(value, POSITION.id))
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice/lists", PageQuery(cursor=cursor), sort_type)


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize("index", [0, 43, 87, 88, 131])
def test_text_cursor_with_a_changed_character_is_rejected(index: int) -> None:
    cursor = PUBLIC.encode("alice/lists", PageQuery(), CursorPosition("V", POSITION.id))
    for character in URL_SAFE.replace(cursor[index], ""):
        changed = cursor[:index] + character + cursor[index + 1 :]
        with pytest.raises(InvalidCursor):
            PUBLIC.decode("alice/lists", PageQuery(cursor=changed), str)


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize(
    "text", [b"a\0b", b"\0a", b"\xff", "é".encode()[:1], b"\xed\xa0\x80", b"a" * 65]
)
def test_signed_text_that_no_database_returns_is_rejected(text: bytes) -> None:
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice/lists", forge(text), str)


@pytest.mark.requirement("FR-145")
def test_signed_text_of_the_maximum_length_is_valid() -> None:
    position = PUBLIC.decode("alice/lists", forge(b"z" * MAX_TEXT_BYTES), str)
    assert position == CursorPosition("z" * MAX_TEXT_BYTES, POSITION.id)


@pytest.mark.requirement("FR-145")
def test_longer_text_has_no_cursor() -> None:
    with pytest.raises(ValueError, match="too long"):
        PUBLIC.encode("alice/lists", PageQuery(), CursorPosition("z" * 65, POSITION.id))
