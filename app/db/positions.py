"""Positions: strings that order siblings by code point (contract, tag `organizing`).

A position is a fraction in base 62, without the point. A resource that was never moved has the
position of its creation, which the database computes from `created_at` and `id`. A move stores a
position between those of two siblings. Random digits make equal positions of concurrent moves
unlikely. If a gap has become too small, `respace` plans new positions for the siblings around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from secrets import randbelow
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Text, cast, extract, func, literal_column, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from app.db.models import ResourceRecord

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAX_LENGTH = 64
# Microseconds since the year 1 have 18 decimal digits.
TIME_LENGTH = 18
ID_LENGTH = 8  # of 32 hexadecimal digits
MAX_NEIGHBORS = 500  # that one move may change
_BASE = len(DIGITS)
_VALUES = {digit: value for value, digit in enumerate(DIGITS)}
_MIN_DATETIME = datetime(1, 1, 1, tzinfo=UTC)
_UNIX_EPOCH_SECONDS = (datetime(1970, 1, 1, tzinfo=UTC) - _MIN_DATETIME) // timedelta(seconds=1)
# A gap needs this many free positions for one move, so that two concurrent moves rarely collide.
_MIN_ROOM = _BASE**3
# How many siblings on each side of a gap are respaced, and how long their positions may become.
# The first combination that has room is used.
_WINDOWS = (16, 32, 64, 128, MAX_NEIGHBORS // 2)
_TARGET_LENGTHS = (32, 40, 52, 60)


class NoRoomError(Exception):
    """No position of at most the requested length lies between two positions."""


class PositionedRecord(ResourceRecord):
    """A row that has a place among its siblings."""

    __abstract__ = True

    # NULL until the first move.
    stored_position: Mapped[str | None] = mapped_column(
        "position", Text(collation="C"), sort_order=1
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
    micros = (created_at - _MIN_DATETIME) // timedelta(microseconds=1)
    return f"{micros:0{TIME_LENGTH}d}{id_.hex[-ID_LENGTH:]}"


def position_expression(
    position: InstrumentedAttribute[str | None] | Mapped[str | None],
    created_at: InstrumentedAttribute[datetime] | Mapped[datetime],
    id_: InstrumentedAttribute[UUID] | Mapped[UUID],
) -> ColumnElement[str]:
    """Build the SQL of a position. It is IMMUTABLE and has no parameters, as an index requires."""
    seconds: ColumnElement[Any] = extract("epoch", func.timezone(text("'UTC'"), created_at))
    seconds = seconds + literal_column(str(_UNIX_EPOCH_SECONDS))
    micros = cast(cast(seconds * literal_column("1000000"), BigInteger), Text)
    padded = func.lpad(micros, literal_column(str(TIME_LENGTH)), literal_column("'0'"))
    suffix = func.right(cast(id_, Text), literal_column(str(ID_LENGTH)))
    return func.coalesce(position, padded.op("||")(suffix)).collate("C")


def position_between(before: str | None, after: str | None, *, current: str) -> str:
    """Return the position of a resource that moves between two siblings.

    None stands for no sibling on that side. Without any sibling, the resource keeps its `current`
    position. Raises NoRoomError.
    """
    if before is None and after is None:
        return current
    (position,) = positions_between(before, after, 1)
    return position


def positions_between(
    before: str | None, after: str | None, count: int, max_length: int = MAX_LENGTH
) -> list[str]:
    """Return `count` positions between those of two siblings, ascending and evenly spaced.

    One of the siblings may be None, for an end. There, positions continue in steps of one
    microsecond: they stay short, however many moves there are. Raises NoRoomError.
    """
    if before is None or after is None:
        return _positions_at_end(before, after, count)
    low = high = 0
    for length in range(1, max_length + 1):
        low = low * _BASE + _digit(before, length)
        high = high * _BASE + _digit(after, length)
        room = (high - low - 1) // count  # for each position
        if room >= _MIN_ROOM:
            return [
                # The random part is the middle half of the position's room.
                _to_digits(low + 1 + index * room + room // 4 + randbelow(room // 2), length)
                for index in range(count)
            ]
    raise NoRoomError


def respace(before: Sequence[Sibling], after: Sequence[Sibling]) -> Respacing:
    """Plan a move into a gap that is too small: new positions for the siblings around it.

    `before` and `after` are the siblings on both sides of the gap in ascending order, without the
    moved resource. Each has at most `MAX_NEIGHBORS // 2 + 1` siblings, and fewer only if there are
    no others on that side. The order of the siblings stays the same. Raises NoRoomError.
    """
    raise NotImplementedError


def _positions_at_end(before: str | None, after: str | None, count: int) -> list[str]:
    anchor = _to_integer(before or after or "", TIME_LENGTH)
    steps = range(1, count + 1) if before else range(-count, 0)
    if not 0 < anchor + steps[0] <= anchor + steps[-1] < _BASE**TIME_LENGTH:
        raise NoRoomError
    return [
        _to_digits((anchor + step) * _MIN_ROOM + randbelow(_MIN_ROOM - 1) + 1, TIME_LENGTH + 3)
        for step in steps
    ]


def _digit(position: str, number: int) -> int:
    """Return the digit with this number, counted from 1. Missing digits are zeros."""
    return _VALUES[position[number - 1]] if number <= len(position) else 0


def _to_integer(position: str, length: int) -> int:
    """Return the first `length` digits as an integer."""
    value = 0
    for number in range(1, length + 1):
        value = value * _BASE + _digit(position, number)
    return value


def _to_digits(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        value, digit = divmod(value, _BASE)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
