"""Positions: strings that order siblings by code point (contract, tag `organizing`).

A position is a fraction in base 62, without the point. A resource that was never moved has the
position of its creation, which the database computes from `created_at` and `id`. A move stores a
position between those of two siblings. Random digits make equal positions of concurrent moves
unlikely. If a gap has become too small, `respace` plans new positions for the siblings around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import product
from secrets import randbelow
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from msgspec import Meta
from sqlalchemy import (
    ColumnElement,
    Text,
    cast,
    extract,
    func,
    literal_column,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from app.db.revisions import RevisedRecord

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAX_LENGTH = 64
Position = Annotated[str, Meta(min_length=1, max_length=MAX_LENGTH, pattern=r"^[0-9A-Za-z]+\Z")]
# Microseconds since the year 1 have 18 decimal digits.
TIME_LENGTH = 18
ID_LENGTH = 8  # of 32 hexadecimal digits
MAX_NEIGHBORS = 500  # that one move may change
SIBLINGS_TO_READ = MAX_NEIGHBORS // 2 + 1  # on each side of a gap, to respace them
_BASE = len(DIGITS)
_VALUES = {digit: value for value, digit in enumerate(DIGITS)}
_MIN_DATETIME = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNIX_EPOCH_SECONDS = (datetime(1970, 1, 1, tzinfo=UTC) - _MIN_DATETIME) // timedelta(seconds=1)
# A gap needs this many free positions for one move, so that two concurrent moves rarely collide.
_MIN_ROOM = _BASE**3
# The length that positions may reach by respacing, and how many siblings on each side are respaced.
# The first combination with enough room is used, so short positions have priority.
_TARGET_LENGTHS = (32, 40, 52, 60)
_WINDOWS = (16, 32, 64, 128, MAX_NEIGHBORS // 2)


class NoRoomError(Exception):
    """The gap between two positions is too small for another one."""


class PositionedRecord(RevisedRecord):
    """A row that has a place among its siblings."""

    __abstract__ = True

    # NULL until the first move. The library expects the key of a column to be its attribute.
    stored_position: Mapped[str | None] = mapped_column(
        "position", Text(collation="C"), key="stored_position", sort_order=6
    )

    @hybrid_property
    def position(self) -> str:
        """The position, also of a resource that was never moved."""
        return self.stored_position or initial_position(self.created_at, self.id)

    @position.inplace.expression
    @classmethod
    def _position_expression(cls) -> ColumnElement[str]:
        return position_expression(cls.stored_position, cls.created_at, cls.id)


class Sibling(NamedTuple):
    """A resource and its position."""

    id: UUID
    position: str


class Respacing(NamedTuple):
    """The positions that make room for a move."""

    position: str  # of the moved resource
    neighbors: dict[UUID, str]  # the new position of each sibling that changes


def initial_position(created_at: datetime, id_: UUID) -> str:
    """Return the position of a resource that was never moved."""
    micros = (created_at - _MIN_DATETIME) // _MICROSECOND
    return str(micros).zfill(TIME_LENGTH) + id_.hex[-ID_LENGTH:]


def position_expression(
    position: InstrumentedAttribute[str | None] | Mapped[str | None],
    created_at: InstrumentedAttribute[datetime] | Mapped[datetime],
    id_: InstrumentedAttribute[UUID] | Mapped[UUID],
) -> ColumnElement[str]:
    """Build the SQL of a position. It is IMMUTABLE and has no parameters, as an index requires."""
    seconds: ColumnElement[Any] = extract("epoch", func.timezone(text("'UTC'"), created_at))
    seconds = seconds + literal_column(str(_UNIX_EPOCH_SECONDS))
    micros = cast(func.trunc(seconds * literal_column("1000000")), Text)
    padded = func.lpad(micros, literal_column(str(TIME_LENGTH)), literal_column("'0'"))
    suffix = func.right(cast(id_, Text), literal_column(str(ID_LENGTH)))
    return func.coalesce(position, padded.op("||")(suffix))


def position_between(before: str | None, after: str | None, *, current: str) -> str:
    """Return the position of a resource that moves between two siblings.

    None means no sibling on that side. Without any sibling, the resource keeps its `current`
    position. Raises NoRoomError.
    """
    if before is None and after is None:
        return current
    if before is None or after is None:
        return _position_at_end(before, after)
    (position,) = _fill_gap(before, after, (0, 0), MAX_LENGTH)
    return position


def respace(before: Sequence[Sibling], after: Sequence[Sibling]) -> Respacing:
    """Plan a move into a gap that is too small: new positions for the siblings around it.

    `before` and `after` are the siblings on both sides of the gap in ascending order, without the
    moved resource. Each has `SIBLINGS_TO_READ` siblings, or all on that side if there are fewer.
    Neither is empty, because a gap at an end is never too small. Raises NoRoomError.
    """
    for max_length, window in product(_TARGET_LENGTHS, _WINDOWS):
        with suppress(NoRoomError):
            return _respace_window(before, after, window, max_length)
    raise NoRoomError


def _respace_window(
    before: Sequence[Sibling], after: Sequence[Sibling], window: int, max_length: int
) -> Respacing:
    # The last of all siblings keeps its position, so that new siblings stay after it.
    *after, next_unchanged = after[: window + 1]
    if len(before) > window:
        low = before[-window - 1].position
    else:
        low = _position_at_end(None, next_unchanged.position)
    before = before[-window:]
    counts = (len(before), len(after))
    positions = _fill_gap(low, next_unchanged.position, counts, max_length)
    position = positions.pop(len(before))
    ids = [sibling.id for sibling in (*before, *after)]
    return Respacing(position, dict(zip(ids, positions, strict=True)))


def _fill_gap(low: str, high: str, counts: tuple[int, int], max_length: int) -> list[str]:
    """Return ascending positions between two others: one in the middle, and some on each side.

    The positions on the sides are close to the ends. They leave the room in the middle, where the
    next moves are likely. With even spacing, the room would shrink with every respacing.
    """
    count_before, count_after = counts
    start = end = 0
    digits = zip(_pad(low, max_length), _pad(high, max_length), strict=True)
    for length, (low_digit, high_digit) in enumerate(digits, 1):
        start = start * _BASE + _VALUES[low_digit]
        end = end * _BASE + _VALUES[high_digit]
        # For each position. `start` itself is not between the two: it may be a prefix of `low`.
        room = (end - start - 1) // (max(counts) * _BASE or 1)
        if room >= _MIN_ROOM:
            middle, last = start + 1 + count_before * room, end - count_after * room
            values = [
                *(_random_value(start + 1 + index * room, room) for index in range(count_before)),
                _random_value(middle, last - middle),
                *(_random_value(last + index * room, room) for index in range(count_after)),
            ]
            return [_to_digits(value, length) for value in values]
    raise NoRoomError


def _position_at_end(before: str | None, after: str | None) -> str:
    """Return the position one microsecond after the last sibling, or before the first one.

    Such positions stay short, however many moves there are.
    """
    micros = 1 if before else -1
    for exponent, digit in enumerate(reversed(_pad(before or after or "", TIME_LENGTH))):
        micros += _VALUES[digit] * _BASE**exponent
    if not 0 <= micros < _BASE**TIME_LENGTH:
        raise NoRoomError
    return _to_digits(micros * _MIN_ROOM + _random_value(0, _MIN_ROOM), TIME_LENGTH + 3)


def _random_value(start: int, room: int) -> int:
    """Return a random integer in the middle half of the `room` integers from `start`."""
    return start + room // 4 + randbelow(room // 2)


def _pad(position: str, length: int) -> str:
    """Return the first `length` digits. Missing digits are zeros."""
    return position[:length].ljust(length, DIGITS[0])


def _to_digits(value: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        value, digit = divmod(value, _BASE)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
