"""Positions: strings that order siblings by code point (contract, tag `organizing`).

A position is a fraction in base 62, without the point. A resource that was never moved has the
position of its creation, which the database computes from `created_at` and `id`. A move stores a
position between those of two siblings. Random digits make equal positions of concurrent moves
unlikely.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from secrets import randbelow
from typing import Annotated
from uuid import UUID

from msgspec import Meta
from sqlalchemy import BigInteger, ColumnElement, Text, cast, extract, func, text
from sqlalchemy.orm import InstrumentedAttribute

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAX_LENGTH = 64
# Microseconds since the year 1 have 18 decimal digits.
TIME_LENGTH = 18
ID_LENGTH = 8  # of 32 hexadecimal digits
Position = Annotated[
    str, Meta(min_length=1, max_length=MAX_LENGTH, pattern=r"^[0-9A-Za-z]+\Z")
]
_BASE = len(DIGITS)
_VALUES = {digit: value for value, digit in enumerate(DIGITS)}
_MIN_DATETIME = datetime(1, 1, 1, tzinfo=UTC)
_UNIX_EPOCH_SECONDS = (datetime(1970, 1, 1, tzinfo=UTC) - _MIN_DATETIME) // timedelta(seconds=1)
# A gap needs this many free positions for one move, so that two concurrent moves rarely collide.
_MIN_ROOM = _BASE**3


# Numbers of siblings on each side of a gap, and lengths of positions, that `respace` tries.
WINDOWS = (16, 32, 64, 128, 250)
MAX_WINDOW = WINDOWS[-1]
RESPACED_LENGTHS = (32, 40, 52, 60)


class NoRoomError(Exception):
    """No position of at most the requested length lies between two positions."""


def initial_position(created_at: datetime, id_: UUID) -> str:
    """Return the position of a resource that was never moved."""
    micros = (created_at - _MIN_DATETIME) // timedelta(microseconds=1)
    return f"{micros:0{TIME_LENGTH}d}{id_.hex[-ID_LENGTH:]}"


def position_expression(
    position: InstrumentedAttribute[str | None],
    created_at: InstrumentedAttribute[datetime],
    id_: InstrumentedAttribute[UUID],
) -> ColumnElement[str]:
    """Build the SQL of a position. It is IMMUTABLE, so that an index may contain it."""
    seconds = extract("epoch", func.timezone(text("'UTC'"), created_at)) + _UNIX_EPOCH_SECONDS
    micros = cast(cast(seconds * 1_000_000, BigInteger), Text)
    initial = func.lpad(micros, TIME_LENGTH, "0").op("||")(func.right(cast(id_, Text), ID_LENGTH))
    return func.coalesce(position, initial).collate("C")


def position_between(before: str | None, after: str | None, max_length: int = MAX_LENGTH) -> str:
    """Return a position between those of two siblings. None stands for no sibling on that side.

    Raises NoRoomError.
    """
    (position,) = positions_between(before, after, 1, max_length)
    return position


def positions_between(
    before: str | None, after: str | None, count: int, max_length: int = MAX_LENGTH
) -> list[str]:
    """Return `count` positions between those of two siblings, ascending and evenly spaced.

    At an end, positions continue in steps of one microsecond. They then stay short, however many
    moves there are. Raises NoRoomError.
    """
    if before is None or after is None:
        return _positions_at_end(before, after, count)
    for length in range(1, max_length + 1):
        low, high = _to_integer(before, length), _to_integer(after, length)
        room = (high - low - 1) // count  # for each position
        if room >= _MIN_ROOM:
            return [
                # The random part is the middle half of the position's room.
                _to_digits(low + 1 + index * room + room // 4 + randbelow(room // 2), length)
                for index in range(count)
            ]
    raise NoRoomError


def respace(
    preceding: Sequence[tuple[UUID, str]], following: Sequence[tuple[UUID, str]]
) -> tuple[str, dict[UUID, str]]:
    """Make room between two siblings: return the position for the gap, and the changed ones.

    `preceding` ends and `following` begins at the gap. Both are ascending. If they have more than
    MAX_WINDOW siblings, the outermost keep their positions. Raises NoRoomError.
    """
    for max_length in RESPACED_LENGTHS:
        for window in WINDOWS:
            left, right = preceding[-window:], following[:window]
            outer_left, outer_right = preceding[:-window], following[window:]
            try:
                positions = positions_between(
                    outer_left[-1][1] if outer_left else None,
                    outer_right[0][1] if outer_right else None,
                    len(left) + 1 + len(right),
                    max_length,
                )
            except NoRoomError:
                continue
            own = positions.pop(len(left))
            ids = [id_ for id_, _ in (*left, *right)]
            return own, dict(zip(ids, positions, strict=True))
    raise NoRoomError


def _positions_at_end(before: str | None, after: str | None, count: int) -> list[str]:
    anchor = _to_integer(before or after or "V", TIME_LENGTH)
    steps = range(1, count + 1) if before else range(-count, 0)
    if not 0 < anchor + steps[0] <= anchor + steps[-1] < _BASE**TIME_LENGTH:
        raise NoRoomError
    return [
        _to_digits((anchor + step) * _MIN_ROOM + randbelow(_MIN_ROOM - 1) + 1, TIME_LENGTH + 3)
        for step in steps
    ]


def _to_integer(position: str, length: int) -> int:
    """Return the first `length` digits as an integer. Missing digits are zeros."""
    value = 0
    for digit in position[:length].ljust(length, DIGITS[0]):
        value = value * _BASE + _VALUES[digit]
    return value


def _to_digits(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        value, digit = divmod(value, _BASE)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
