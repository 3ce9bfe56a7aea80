"""The base model of every resource, and the JSON Pointers of the models' constraints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

from advanced_alchemy.base import DefaultBase, metadata_registry
from sqlalchemy import ColumnElement, Constraint, DateTime, Index, Text, func, literal_column, text
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column
from uuid_utils.compat import uuid7

_UTC = text("'UTC'")
# A character that is not white space, as a regular expression of PostgreSQL.
NON_BLANK_PATTERN = (
    r"[^\u0001\u0009-\u000D\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]"
)


def after(
    timestamp: InstrumentedAttribute[datetime] | ColumnElement[datetime],
) -> ColumnElement[datetime]:
    """Add one microsecond to a timestamp.

    Computed in UTC, because distributed PostgreSQL accepts only IMMUTABLE functions of a column:
    `timestamptz + interval` depends on the session's time zone (research/0053).
    """
    local = func.timezone(_UTC, timestamp) + text("interval '1 microsecond'")
    return func.timezone(_UTC, local)


class ResourceRecord(DefaultBase):
    """A row that belongs to a user. Each change sets a new ETag and a later `updated_at`.

    `updated_at` increases strictly, also if the clock is set back or two changes have the same
    microsecond. A model declares which property a constraint checks with
    `info={"pointer": "/title"}`. Its violation is InvalidBody, or the declared `problem`, with the
    declared `detail`.
    """

    __abstract__ = True

    user_id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True, sort_order=-2)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=func.now(), sort_order=1
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True),
        default=func.now(),
        onupdate=func.greatest(
            func.now(), after(literal_column("updated_at", DateTime(timezone=True)))
        ),
        sort_order=2,
    )
    etag: Mapped[UUID] = mapped_column(default=uuid4, onupdate=uuid4, sort_order=3)

    # INSERT and UPDATE return what the database computed, so that no attribute is left to load.
    __mapper_args__: Any = {"eager_defaults": True}  # noqa: RUF012 - as SQLAlchemy declares it


def constraint_info(name: str | None) -> Mapping[str, Any]:
    """Return what a model declares for a constraint or unique index: `info`, or nothing."""
    checks = (
        check
        for key in metadata_registry
        for table in metadata_registry[key].tables.values()
        for check in chain[Constraint | Index](table.constraints, table.indexes)
    )
    check = next((check for check in checks if name and check.name == name), None)
    info: Mapping[str, Any] = {} if check is None else check.info
    return info
