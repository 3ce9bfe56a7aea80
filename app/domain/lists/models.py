"""The table of lists, as the migrations create it (data-model.md)."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models import NON_BLANK_PATTERN
from app.db.positions import PositionedRecord


class TaskListRecord(PositionedRecord):
    """A row of `lists`."""

    __tablename__ = "lists"
    kind = 0

    name: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        # The contract has the same limits, so invalid requests are rejected before. If the two ever
        # differ, the client receives 422 with the pointer.
        CheckConstraint(r"user_id ~ '^[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}$'", name="user_id_form"),
        CheckConstraint(
            "char_length(name) BETWEEN 1 AND 200", name="name_length", info={"pointer": "/name"}
        ),
        CheckConstraint(
            f"name ~ '{NON_BLANK_PATTERN}'", name="name_not_blank", info={"pointer": "/name"}
        ),
        CheckConstraint("position ~ '^[0-9A-Za-z]{1,64}$'", name="position_form"),
        CheckConstraint("updated_at >= created_at", name="updated_at_not_before_created_at"),
    )


Index(
    "ix_lists_user_id_revision_id",
    TaskListRecord.user_id,
    TaskListRecord.revision,
    TaskListRecord.id,
)
Index(
    "ix_lists_user_id_position_id",
    TaskListRecord.user_id,
    TaskListRecord.position,
    TaskListRecord.id,
)
