"""The table of tasks, as the migrations create it (data-model.md)."""

from __future__ import annotations

from datetime import date, datetime, time
from uuid import UUID

from sqlalchemy import (
    DDL,
    CheckConstraint,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models import NON_BLANK_PATTERN, after
from app.db.positions import PositionedRecord
from app.domain.tasks.problems import HierarchyConflict
from app.http.problems import ReferenceNotFound

# `alembic check` and a test compare this module with the migrations.
SEPARATORS = (
    r"\u0001-\u002F\u003A-\u0040\u005B-\u0060\u007B-\u00A9\u00AB-\u00B4\u00B6-\u00B9\u00BB-\u00BF"
    r"\u00D7\u00F7\u1680\u2000-\u206F\u3000-\u3004\u3008-\u3020\u3030\uFEFF\uFF01-\uFF0F"
    r"\uFF1A-\uFF20"
)
SEARCH_EXPRESSION = (
    "array_to_tsvector(string_to_array(ltrim(regexp_replace(regexp_replace(lower((((' '::text || "
    "title) || ' '::text) || COALESCE(description, ''::text))), "
    f"'([^{SEPARATORS}]{{255}})[^{SEPARATORS}]+'::text, '\\1'::text, 'g'::text), "
    f"'[{SEPARATORS}]+'::text, (' '::text || \"left\"(encode(sha256(decode(user_id, "
    "'escape'::text)), 'hex'::text), 8)), 'g'::text)), ' '::text))"
)
# Tasks without a time are after those with a time, and tasks without a due date are last.
DUE_EXPRESSION = (
    "COALESCE(due_date + COALESCE(due_time, '23:59:59'::time without time zone), "
    "'infinity'::timestamp without time zone)"
)
# Each label with the prefix of its user, so that one index covers both. Labels have no commas.
_USER_PREFIX = (
    "(\"left\"(encode(sha256(decode(user_id, 'escape'::text)), 'hex'::text), 8) || ':'::text)"
)
LABELS_EXPRESSION = (
    f"string_to_array({_USER_PREFIX} || "
    f"replace(labels, ','::text, ','::text || {_USER_PREFIX}), ','::text)"
)
# For the foreign key of parents.
SECOND_KEY = "uq_tasks_user_id_id_depth"
KEYS = {"pk_tasks", SECOND_KEY}


class TaskRecord(PositionedRecord):
    """A row of `tasks`. Not loaded as an entity: statements return columns."""

    __tablename__ = "tasks"
    kind = 1

    title: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    completed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    completed: Mapped[bool] = mapped_column(Computed("completed_at IS NOT NULL", persisted=True))
    search: Mapped[str] = mapped_column(
        TSVECTOR, Computed(SEARCH_EXPRESSION, persisted=True), sort_order=4
    )
    list_id: Mapped[UUID | None] = mapped_column(sort_order=5)
    parent_id: Mapped[UUID | None] = mapped_column(sort_order=5)
    # 0 for a task, 1 for a subtask. A parent must have the depth 0: see `fk_tasks_parent_id`.
    depth: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"), sort_order=5)
    parent_depth: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"), sort_order=5)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"), sort_order=5)
    due_date: Mapped[date | None] = mapped_column(sort_order=5)
    due_time: Mapped[time | None] = mapped_column(sort_order=5)
    due_timezone: Mapped[str | None] = mapped_column(Text, sort_order=5)
    # Sorted and joined by commas.
    labels: Mapped[str] = mapped_column(Text, server_default=text("''"), sort_order=5)

    __table_args__ = (
        # The contract has the same limits, so invalid requests are rejected before. If the two ever
        # differ, the client receives 422 with the pointer.
        CheckConstraint(r"user_id ~ '^[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}$'", name="user_id_form"),
        CheckConstraint(
            "char_length(title) BETWEEN 1 AND 500", name="title_length", info={"pointer": "/title"}
        ),
        CheckConstraint(
            f"title ~ '{NON_BLANK_PATTERN}'", name="title_not_blank", info={"pointer": "/title"}
        ),
        CheckConstraint(
            "char_length(description) <= 16384",
            name="description_length",
            info={"pointer": "/description"},
        ),
        CheckConstraint("updated_at >= created_at", name="updated_at_not_before_created_at"),
        CheckConstraint("depth = (parent_id IS NOT NULL)::integer", name="depth_of_parent"),
        CheckConstraint("parent_depth = 0", name="parent_depth_zero"),
        CheckConstraint(
            "list_id IS NULL OR parent_id IS NULL",
            name="list_or_parent",
            info={
                "pointer": "/list_id",
                "problem": HierarchyConflict,
                "detail": "must be null for a subtask",
            },
        ),
        CheckConstraint(
            "priority BETWEEN 0 AND 4", name="priority_range", info={"pointer": "/priority"}
        ),
        CheckConstraint(
            "due_date IS NOT NULL OR (due_time IS NULL AND due_timezone IS NULL)",
            name="due_has_date",
            info={"pointer": "/due"},
        ),
        CheckConstraint("position ~ '^[0-9A-Za-z]{1,64}$'", name="position_form"),
        UniqueConstraint("user_id", "id", "depth", name=SECOND_KEY),
        ForeignKeyConstraint(
            ["user_id", "list_id"],
            ["lists.user_id", "lists.id"],
            name="fk_tasks_list_id",
            info={
                "pointer": "/list_id",
                "problem": ReferenceNotFound,
                "detail": "this user has no list with this ID",
            },
        ),
        # The parent exists and is not a subtask. TaskRepository finds out which of them failed.
        ForeignKeyConstraint(
            ["user_id", "parent_id", "parent_depth"],
            ["tasks.user_id", "tasks.id", "tasks.depth"],
            name="fk_tasks_parent_id",
            info={
                "pointer": "/parent_id",
                "problem": HierarchyConflict,
                "detail": "this task is a subtask",
            },
        ),
        Index("ix_tasks_user_id_created_at_id", "user_id", "created_at", "id"),
        Index("ix_tasks_user_id_revision_id", "user_id", "revision", "id"),
        Index("ix_tasks_user_id_updated_at_id", "user_id", "updated_at", "id"),
        Index(
            "ix_tasks_user_id_completed_created_at_id", "user_id", "completed", "created_at", "id"
        ),
        Index(
            "ix_tasks_user_id_completed_updated_at_id", "user_id", "completed", "updated_at", "id"
        ),
        Index(
            "ix_tasks_search",
            "search",
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 256},
        ),
        Index(
            "ix_tasks_labels",
            text(LABELS_EXPRESSION),
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 256},
            postgresql_where=text("labels <> ''"),
        ),
    )


NOW = func.now()
# Strictly increasing, even if the clock is set back or two changes have the same microsecond.
NEXT_UPDATED_AT = func.greatest(NOW, after(TaskRecord.updated_at))
DUE = text(DUE_EXPRESSION)
Index(
    "ix_tasks_user_id_completed_due_id",
    TaskRecord.user_id,
    TaskRecord.completed,
    DUE,
    TaskRecord.id,
)
Index(
    "ix_tasks_user_id_completed_priority_id",
    TaskRecord.user_id,
    TaskRecord.completed,
    TaskRecord.priority,
    TaskRecord.id,
)
# One of three indexes has the place of a task: its list, the inbox or its parent.
Index(
    "ix_tasks_list",
    TaskRecord.user_id,
    TaskRecord.list_id,
    TaskRecord.completed,
    TaskRecord.position,
    TaskRecord.id,
    postgresql_where=TaskRecord.list_id.is_not(None),
)
Index(
    "ix_tasks_inbox",
    TaskRecord.user_id,
    TaskRecord.completed,
    TaskRecord.position,
    TaskRecord.id,
    postgresql_where=TaskRecord.list_id.is_(None) & TaskRecord.parent_id.is_(None),
)
Index(
    "ix_tasks_parent",
    TaskRecord.user_id,
    TaskRecord.parent_id,
    TaskRecord.completed,
    TaskRecord.position,
    TaskRecord.id,
    postgresql_where=TaskRecord.parent_id.is_not(None),
)
# PostgreSQL counts nothing for the expression of a partial index.
LABELS_STATISTICS = f"CREATE STATISTICS st_tasks_labels ON ({LABELS_EXPRESSION}) FROM tasks"
event.listen(TaskRecord.__table__, "after_create", DDL(LABELS_STATISTICS))  # type: ignore[no-untyped-call]
