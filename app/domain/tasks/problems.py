"""The problem types of tasks."""

from __future__ import annotations

from http import HTTPStatus

from app.http.problems import ProblemError


class TaskNotFound(ProblemError):
    """The user in the path has no task with the id in the path."""

    status = HTTPStatus.NOT_FOUND
    title = "There is no such task"
    detail = "This user has no task with this id."
    advice = "Check the user and the id. The task may have been deleted."
