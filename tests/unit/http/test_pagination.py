"""Cursors are opaque, tamper-evident and bound to their query."""

from __future__ import annotations

import string
from base64 import urlsafe_b64encode
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.tasks.schemas import ListTasksQuery, SortOrder, TaskSort
from app.http.pagination import _POSITION, _TEXT_POSITION, CursorCodec, CursorPosition
from app.http.problems import FieldError, InvalidCursor

pytestmark = pytest.mark.requirement("FR-017")

URL_SAFE = string.ascii_letters + string.digits + "-_"
DAY = date(2026, 11, 24)
AT = datetime(2026, 11, 23, 8, 0, 0, 250, tzinfo=UTC)
POSITION = CursorPosition(AT, UUID(int=7))
PUBLIC = CursorCodec(None)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

sort_values: dict[type[Any], st.SearchStrategy[Any]] = {
    datetime: st.datetimes(timezones=st.just(UTC)),
    int: st.integers(-(2**63), 2**63 - 1),
    str: st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=16),
}
positions = st.builds(CursorPosition, sort_values[datetime], st.uuids())
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


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize("sort_type", sort_values)
@given(data=st.data(), id_=st.uuids())
def test_cursor_of_every_type_of_sort_value_round_trips(
    sort_type: type[Any], data: st.DataObject, id_: UUID
) -> None:
    position = CursorPosition(data.draw(sort_values[sort_type]), id_)
    cursor = PUBLIC.encode("alice", ListTasksQuery(), position)
    assert PUBLIC.decode("alice", follow(ListTasksQuery(), cursor), sort_type) == position


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


@pytest.mark.requirement("FR-145", "FR-146")
@pytest.mark.parametrize(
    ("sort_value", "length"),
    [
        (datetime.min.replace(tzinfo=UTC), 56),
        (datetime.max.replace(tzinfo=UTC), 56),
        (0, 56),
        (4, 56),
        ("", 132),
        ("0639310176000000000c1e8a44", 132),
        ("z" * 64, 132),
        ("\U0010ffff" * 16, 132),
    ],
    ids=ascii,
)
def test_length_of_a_cursor_depends_only_on_the_type_of_its_sort_value(
    sort_value: Any, length: int
) -> None:
    cursor = PUBLIC.encode("alice", ListTasksQuery(), CursorPosition(sort_value, UUID(int=0)))
    assert len(cursor) == length
    assert "=" not in cursor


@pytest.mark.parametrize("text", ["z" * 65, "\U0010ffff" * 16 + "a"], ids=len)
def test_text_that_does_not_fit_a_cursor_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        PUBLIC.encode("alice", ListTasksQuery(), CursorPosition(text, UUID(int=0)))


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize("index", [0, 7, 30, 64, 86, 107, 108, 131])
def test_position_cursor_with_a_changed_character_is_rejected(index: int) -> None:
    position = CursorPosition("0639310176000000000c1e8a44", UUID(int=7))
    cursor = PUBLIC.encode("alice", ListTasksQuery(), position)
    for character in URL_SAFE.replace(cursor[index], ""):
        changed = cursor[:index] + character + cursor[index + 1 :]
        with pytest.raises(InvalidCursor):
            PUBLIC.decode("alice", follow(ListTasksQuery(), changed), str)


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize("length", range(56, 133))
@pytest.mark.parametrize("sort_type", sort_values)
def test_cursor_of_any_other_length_is_rejected(length: int, sort_type: type[Any]) -> None:
    # The schema allows all of these lengths, base64 a quarter of them.
    for character in "A_":
        with pytest.raises(InvalidCursor):
            PUBLIC.decode("alice", follow(ListTasksQuery(), character * length), sort_type)


def sign(packed: bytes) -> str:
    """Return a cursor with a valid digest, as a client can: the default key is public."""
    return urlsafe_b64encode(packed + PUBLIC._digest("alice", ListTasksQuery(), packed)).decode()


@pytest.mark.requirement("FR-145")
@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xed\xa0\x80", b"a\0b", b"\0b", b"z" * 65],
    ids=["not UTF-8", "surrogate", "zero inside", "zero first", "too long"],
)
def test_signed_text_that_no_list_returns_is_rejected(text: bytes) -> None:
    forged = sign(_TEXT_POSITION.pack(text, UUID(int=7).bytes))
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice", follow(ListTasksQuery(), forged), str)


def test_signed_text_of_a_list_is_accepted() -> None:
    cursor = sign(_TEXT_POSITION.pack(b"z" * 64, UUID(int=7).bytes))
    decoded = PUBLIC.decode("alice", follow(ListTasksQuery(), cursor), str)
    assert decoded == CursorPosition("z" * 64, UUID(int=7))


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
    "list_id": "none",
    "parent_id": "none",
    "priority": "none",
    "labels": "none",
    "has_due": True,
    "due_after": DAY,
    "due_before": DAY,
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
    later = CursorPosition(AT + timedelta(microseconds=1), POSITION.id)
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
    forged = sign(_POSITION.pack(micros, POSITION.id.bytes))
    with pytest.raises(InvalidCursor):
        PUBLIC.decode("alice", follow(ListTasksQuery(), forged))


# --- contract 1.0.0 ------------------------------------------------------------------------------

# The properties of the query in the order in which version 1.0.0 encoded them.
QUERY_1_0_0 = (
    '["alice",{"limit":1,"cursor":null,"completed":%s,"q":%s,"created_after":%s,'
    '"created_before":null,"updated_after":null,"updated_before":null,"sort":"%s","order":"%s"}]'
)


def cursor_1_0_0(query: str, position: CursorPosition, secret: bytes) -> str:
    """Return the cursor that version 1.0.0 issued for an encoded query."""
    assert isinstance(position.sort_value, datetime)
    micros = (position.sort_value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    packed = micros.to_bytes(8, "big", signed=True) + position.id.bytes
    key = blake2b(secret, person=b"cursor key 1").digest()
    digest = blake2b(query.encode() + packed, key=key, digest_size=18).digest()
    return urlsafe_b64encode(packed + digest).decode()


@pytest.mark.requirement("FR-114", "FR-146")
@pytest.mark.parametrize("secret", [None, "s" * 32])
@pytest.mark.parametrize(
    ("query", "encoded"),
    [
        ({}, ("null", "null", "null", "created_at", "desc")),
        (
            {"completed": False, "sort": TaskSort.UPDATED_AT, "order": SortOrder.ASC},
            ("false", "null", "null", "updated_at", "asc"),
        ),
        (
            {"q": 'a "quote"', "created_after": NOON},
            ("null", r'"a \"quote\""', '"2026-11-23T12:00:00Z"', "created_at", "desc"),
        ),
        ({"q": "\U0001f95b é"}, ("null", '"\U0001f95b é"', "null", "created_at", "desc")),
    ],
    ids=["no filter", "completed", "search", "letters"],
)
def test_cursors_of_contract_1_0_0_stay_valid(
    query: dict[str, Any], encoded: tuple[str, ...], secret: str | None
) -> None:
    codec = CursorCodec(secret)
    key = b"tasks-api: not a secret" if secret is None else secret.encode()
    old = cursor_1_0_0(QUERY_1_0_0 % encoded, POSITION, key)
    assert codec.encode("alice", ListTasksQuery(**query), POSITION) == old
    assert codec.decode("alice", follow(ListTasksQuery(**query), old)) == POSITION
