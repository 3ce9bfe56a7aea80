"""The problem types of tasks."""

from __future__ import annotations

from http import HTTPStatus

from app.http.problems import ProblemError


class TaskNotFound(ProblemError):
    """The user in the path has no task with the ID in the path."""

    status = HTTPStatus.NOT_FOUND
    title = "Task not found"
    detail = "This user has no task with this ID."
    advice = "Check the user ID and the task ID. The task may have been deleted."
