"""Entity tags and preconditions (RFC 9110, sections 8.8.3 and 13.1)."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.etags import ETagCondition, format_etag, parse_etag

ONE, TWO, THREE = (UUID(int=number << 64 | number) for number in (1, 2, 0xABCDEF))
A, B, C = (f'"{version.hex}"' for version in (ONE, TWO, THREE))

pytestmark = pytest.mark.requirement("FR-010", "FR-013")


def parsed(value: str) -> ETagCondition:
    """Parse a header that is present."""
    condition = ETagCondition.parse(value)
    assert condition is not None
    return condition


@given(st.uuids())
def test_etag_round_trip(version: UUID) -> None:
    assert parse_etag(format_etag(version)) == version


def test_etag_is_32_quoted_hexadecimal_digits() -> None:
    assert format_etag(UUID(int=0xAB)) == '"000000000000000000000000000000ab"'


def test_absent_header_has_no_condition() -> None:
    assert ETagCondition.parse(None) is None


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        ("*", ETagCondition(any=True)),
        (A, ETagCondition(any=False, strong=(ONE,))),
        (f"W/{A}", ETagCondition(any=False, weak=(ONE,))),
        (f"{A},{B}", ETagCondition(any=False, strong=(ONE, TWO))),
        (f"{A} \t, \t{B}", ETagCondition(any=False, strong=(ONE, TWO))),
        (f"W/{A}, {B}, W/{C}", ETagCondition(any=False, strong=(TWO,), weak=(ONE, THREE))),
        (f"{A}, {A}", ETagCondition(any=False, strong=(ONE, ONE))),
        ('""', ETagCondition(any=False)),
        ('"*"', ETagCondition(any=False)),
        ('"other"', ETagCondition(any=False)),
        (f'"other", {A}', ETagCondition(any=False, strong=(ONE,))),
        ('"a,b", "c"', ETagCondition(any=False)),
        (f'"x,W/", {A}', ETagCondition(any=False, strong=(ONE,))),
        # Without a space, a tag that the parser misses would hide the next one.
        (f'"",{A}', ETagCondition(any=False, strong=(ONE,))),
        (f'"!",{A}', ETagCondition(any=False, strong=(ONE,))),
        (f'"#",{A}', ETagCondition(any=False, strong=(ONE,))),
        (f'"~",{A}', ETagCondition(any=False, strong=(ONE,))),
        (f'"{ONE}"', ETagCondition(any=False)),
        (C.upper(), ETagCondition(any=False)),
        (f'"{ONE.hex}0"', ETagCondition(any=False)),
        (f'"{ONE.hex[1:]}"', ETagCondition(any=False)),
    ],
)
def test_header_is_parsed(value: str, condition: ETagCondition) -> None:
    assert ETagCondition.parse(value) == condition


@given(st.lists(st.tuples(st.booleans(), st.uuids()), min_size=1, max_size=20))
def test_list_of_etags_is_parsed(tags: list[tuple[bool, UUID]]) -> None:
    value = ", ".join(("W/" if weak else "") + format_etag(version) for weak, version in tags)
    condition = parsed(value)
    assert condition.strong == tuple(version for weak, version in tags if not weak)
    assert condition.weak == tuple(version for weak, version in tags if weak)


@pytest.mark.parametrize(
    ("value", "strongly", "weakly"),
    [
        # RFC 9110, section 8.8.3.2. The service creates only strong tags.
        (A, True, True),
        (f"W/{A}", False, True),
        (B, False, False),
        (f"W/{B}", False, False),
        (f"{B}, {A}", True, True),
        (f"{B}, W/{A}", False, True),
        ("*", True, True),
        ('"other"', False, False),
    ],
)
def test_etags_are_compared(value: str, *, strongly: bool, weakly: bool) -> None:
    condition = parsed(value)
    assert condition.matches_strong(A) is strongly
    assert condition.matches_weak(A) is weakly


@given(st.lists(st.uuids(), min_size=1, max_size=5), st.uuids())
def test_strong_etags_match_strongly_and_weakly(listed: list[UUID], current: UUID) -> None:
    condition = parsed(", ".join(map(format_etag, listed)))
    matches = (
        condition.matches_strong(format_etag(current)),
        condition.matches_weak(format_etag(current)),
    )
    assert matches == (current in listed, current in listed)
