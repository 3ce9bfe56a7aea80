"""Lists in the database."""

from __future__ import annotations

from uuid import UUID

from asyncpg import ForeignKeyViolationError
from sqlalchemy.exc import IntegrityError

from app.db.repository import PositionedRepository
from app.domain.lists.models import TaskListRecord
from app.domain.lists.problems import ListNotEmpty, ListNotFound
from app.http.etags import ETagCondition


class TaskListRepository(PositionedRepository[TaskListRecord]):
    """The lists of all users."""

    model_type = TaskListRecord
    not_found = ListNotFound
    unknown_neighbor = "this user has no other list with this ID"

    async def remove(self, user_id: str, id_: UUID, if_match: ETagCondition | None) -> None:
        """Delete an empty list. Raises ListNotFound, PreconditionFailed and ListNotEmpty."""
        try:
            await super().remove(user_id, id_, if_match)
        except IntegrityError as error:
            # Tasks refer to their list with a foreign key.
            if isinstance(error.driver_exception, ForeignKeyViolationError):
                raise ListNotEmpty from None
            raise
