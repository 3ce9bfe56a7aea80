"""Notes in the database."""

from __future__ import annotations

from app.db.repository import ResourceRepository
from tests.integration.notes.models import NoteRecord
from tests.integration.notes.problems import NoteNotFound


class NoteRepository(ResourceRepository[NoteRecord]):
    """The notes of all users."""

    model_type = NoteRecord
    not_found = NoteNotFound
