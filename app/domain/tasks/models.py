"""The table of tasks, as the migrations create it (data-model.md)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Computed, DateTime, Index, Text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models import ResourceRecord

# `alembic check` and a test compare this module with the migrations.
NON_BLANK_PATTERN = (
    r"[^\u0001\u0009-\u000D\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]"
)
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


class TaskRecord(ResourceRecord):
    """A row of `tasks`. Not loaded as an entity: statements return columns."""

    __tablename__ = "tasks"

    title: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    completed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    completed: Mapped[bool] = mapped_column(Computed("completed_at IS NOT NULL", persisted=True))
    search: Mapped[str] = mapped_column(
        TSVECTOR, Computed(SEARCH_EXPRESSION, persisted=True), sort_order=4
    )

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
        Index("ix_tasks_user_id_created_at_id", "user_id", "created_at", "id"),
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
    )
