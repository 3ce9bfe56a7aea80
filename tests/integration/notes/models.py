"""The table of notes."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models import ResourceRecord


class NoteRecord(ResourceRecord):
    """A row of `notes`."""

    # Metadata of its own: Alembic and the check of privileges must not see this table.
    __bind_key__ = "notes"
    __tablename__ = "notes"

    text: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        # Less than the contract's limit, so that a test can violate it.
        CheckConstraint("char_length(text) <= 20", name="text_length", info={"pointer": "/text"}),
        Index("ix_notes_user_id_created_at_id", "user_id", "created_at", "id"),
    )
