"""Positions are between their neighbors, short, and hardly ever equal."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.db.positions import (
    DIGITS,
    MAX_LENGTH,
    MAX_NEIGHBORS,
    SIBLINGS_TO_READ,
    NoRoomError,
    Respacing,
    Sibling,
    initial_position,
    position_between,
    respace,
)

pytestmark = pytest.mark.requirement("FR-129", "FR-130")

MIN_ROOM = len(DIGITS) ** 3
MOVES = 10_000
NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
UNUSED = "unused"

texts = st.text(DIGITS, min_size=1, max_size=MAX_LENGTH)
instants = st.datetimes(timezones=st.just(UTC))


def number_of(position: str) -> int:
    """Return a position as an integer of the maximum length."""
    value = 0
    for digit in position.ljust(MAX_LENGTH, "0"):
        value = value * len(DIGITS) + DIGITS.index(digit)
    return value


def is_valid(position: str) -> bool:
    return 1 <= len(position) <= MAX_LENGTH and set(position) <= set(DIGITS)


def between(before: str | None, after: str | None) -> str:
    return position_between(before, after, current=UNUSED)


def siblings(positions: list[str]) -> list[Sibling]:
    return [Sibling(UUID(int=number), position) for number, position in enumerate(positions)]


def initial_positions(count: int) -> list[str]:
    """Return the positions of resources that were created one after the other."""
    return [
        initial_position(NOW + timedelta(milliseconds=number), UUID(int=number * 7919))
        for number in range(count)
    ]


# --- positions of resources that were never moved ------------------------------------------------


def test_initial_position_is_the_example_of_the_contract() -> None:
    id_ = UUID("0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
    assert initial_position(NOW, id_) == "0639310176000000000c1e8a44"


@given(instants, st.uuids(), instants, st.uuids())
def test_initial_positions_have_the_order_of_creation(
    one: datetime, id_: UUID, other: datetime, other_id: UUID
) -> None:
    assume(one != other)
    positions = initial_position(one, id_), initial_position(other, other_id)
    assert all(is_valid(position) and len(position) == 26 for position in positions)
    assert (positions[0] < positions[1]) == (one < other)


# --- moves ---------------------------------------------------------------------------------------


@given(texts, texts)
def test_position_is_strictly_between_its_neighbors(one: str, other: str) -> None:
    before, after = sorted((one, other))
    free = number_of(after) - number_of(before) - 1
    if free < MIN_ROOM:
        with pytest.raises(NoRoomError):
            between(before, after)
        return
    position = between(before, after)
    assert before < position < after
    assert is_valid(position)


@given(texts, st.integers(0, 2 * MIN_ROOM))
def test_gap_needs_room_for_several_moves(before: str, free: int) -> None:
    digits: list[str] = []
    value = number_of(before) + free + 1
    assume(value < len(DIGITS) ** MAX_LENGTH)
    for _ in range(MAX_LENGTH):
        value, digit = divmod(value, len(DIGITS))
        digits.insert(0, DIGITS[digit])
    after = "".join(digits)
    if free < MIN_ROOM:
        with pytest.raises(NoRoomError):
            between(before, after)
    else:
        assert before < between(before, after) < after


@given(texts)
def test_position_at_an_end_is_short(position: str) -> None:
    assume(position[:18].strip("0") and position[:18].ljust(18, "0").strip("z"))
    first, last = between(None, position), between(position, None)
    assert first < position < last
    assert len(first) == len(last) == 21


@pytest.mark.parametrize(("before", "after"), [(None, "0" * 18), ("z" * 18, None)])
def test_no_position_is_beyond_the_last_digits(before: str | None, after: str | None) -> None:
    with pytest.raises(NoRoomError):
        between(before, after)


def test_position_without_siblings_is_kept() -> None:
    assert position_between(None, None, current="0639") == "0639"


def test_moves_to_the_ends_keep_positions_short_and_in_order() -> None:
    first, last = initial_positions(2)
    for _ in range(MOVES):
        earlier, later = between(None, first), between(last, None)
        assert earlier < first < last < later
        first, last = earlier, later
    assert len(first) == len(last) == 21
    assert last < initial_position(NOW + timedelta(seconds=1), UUID(int=2))


@pytest.mark.requirement("FR-131")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "06393101760"),
        ("06393101760", None),
        ("06", "07"),
        ("V".ljust(MAX_LENGTH, "0"), "V".ljust(MAX_LENGTH - 4, "0") + "11"),
    ],
    ids=["first", "last", "wide", "narrow"],
)
def test_positions_of_concurrent_moves_are_rarely_equal(
    before: str | None, after: str | None
) -> None:
    # Of 1000 random values among 119,164, on average 4 are equal to another one.
    positions = {between(before, after) for _ in range(1000)}
    assert len(positions) > 970


# --- respacing -----------------------------------------------------------------------------------


def apply(before: list[Sibling], after: list[Sibling]) -> tuple[Respacing, list[str]]:
    """Respace the siblings around a gap, and return the plan and all positions in their order."""
    read = before[-SIBLINGS_TO_READ:], after[:SIBLINGS_TO_READ]
    plan = respace(*read)
    assert set(plan.neighbors) <= {sibling.id for side in read for sibling in side}
    assert len(plan.neighbors) <= MAX_NEIGHBORS
    new = [
        [plan.neighbors.get(sibling.id, sibling.position) for sibling in side]
        for side in (before, after)
    ]
    return plan, [*new[0], plan.position, *new[1]]


def dense_positions(count: int) -> list[str]:
    """Return adjacent positions of the maximum length."""
    return [
        "V".ljust(MAX_LENGTH - 2, "0") + DIGITS[number // 62] + DIGITS[number % 62]
        for number in range(count)
    ]


@given(st.integers(0, 300), st.integers(0, 300), st.integers(2, 250), st.data())
def test_respacing_keeps_the_order(
    sparse_before: int, sparse_after: int, dense: int, data: st.DataObject
) -> None:
    old = [f"U{number:03}" for number in range(sparse_before)]
    old += [*dense_positions(dense), *(f"W{number:03}" for number in range(sparse_after))]
    gap = sparse_before + data.draw(st.integers(1, dense - 1))
    everything = siblings(old)
    plan, positions = apply(everything[:gap], everything[gap:])
    assert all(one < other for one, other in pairwise(positions))
    assert all(is_valid(position) for position in positions)
    assert positions[-1] == old[-1]  # new resources stay last
    assert max(map(len, (plan.position, *plan.neighbors.values()))) <= 60
    # The gap has room again on both sides.
    assert is_valid(between(positions[gap - 1], plan.position))
    assert is_valid(between(plan.position, positions[gap + 1]))


def test_most_of_the_room_is_left_where_the_next_moves_are_likely() -> None:
    everything = siblings(["U", *dense_positions(500), "W"])
    _, positions = apply(everything[:251], everything[251:])
    room = number_of(positions[252]) - number_of(positions[250])
    assert room > 0.9 * (number_of("W") - number_of("U"))


@pytest.mark.parametrize("count", [2, 3, 17])
def test_equal_positions_become_different(count: int) -> None:
    everything = siblings(["V"] * count)
    for gap in {1, count // 2, count - 1}:
        _, positions = apply(everything[:gap], everything[gap:])
        assert len(set(positions)) == count + 1
        assert positions == sorted(positions)


@pytest.mark.parametrize(("sparse", "dense", "changed"), [(20, 2, 32), (70, 60, 64), (0, 2, 1)])
def test_smallest_window_with_room_is_used(sparse: int, dense: int, changed: int) -> None:
    positions = [f"U{number:02}" for number in range(sparse)]
    positions += [*dense_positions(dense), *(f"W{number:02}" for number in range(sparse))]
    everything = siblings(positions)
    middle = len(everything) // 2
    plan, _ = apply(everything[:middle], everything[middle:])
    assert len(plan.neighbors) == changed
    assert max(map(len, plan.neighbors.values())) <= 32


def test_dense_siblings_beyond_the_largest_window_have_no_room() -> None:
    everything = siblings(dense_positions(600))
    with pytest.raises(NoRoomError):
        apply(everything[:300], everything[300:])


# Each returns the number of siblings before the gap, from that of the previous move.
PATTERNS: dict[str, Callable[[int, int, random.Random], int]] = {
    "after one task": lambda gap, _, __: gap,
    "after the last moved task": lambda gap, _, __: gap + 1,
    "alternating sides": lambda gap, number, _: gap + number % 2,
    "random sides": lambda gap, _, choices: gap + choices.randrange(2),
}


@pytest.mark.requirement("NFR-106")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_ten_thousand_moves_into_one_gap(pattern: str) -> None:
    choices = random.Random(1)  # noqa: S311 - not a secret
    positions = initial_positions(1000)
    gap = 500
    rewritten = 0
    for number in range(MOVES):
        gap = PATTERNS[pattern](gap, number, choices)
        try:
            position = between(positions[gap - 1], positions[gap])
        except NoRoomError:
            first = gap - SIBLINGS_TO_READ
            window = siblings(positions[first : gap + SIBLINGS_TO_READ])
            plan = respace(window[:SIBLINGS_TO_READ], window[SIBLINGS_TO_READ:])
            assert len(plan.neighbors) <= MAX_NEIGHBORS
            rewritten += len(plan.neighbors)
            for id_, respaced in plan.neighbors.items():
                positions[first + id_.int] = respaced
            position = plan.position
        positions.insert(gap, position)
    assert all(one < other for one, other in pairwise(positions))
    assert max(map(len, positions)) <= MAX_LENGTH
    assert 0 < rewritten <= 2 * MOVES
