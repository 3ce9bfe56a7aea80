"""The problem types of lists."""

from __future__ import annotations

from http import HTTPStatus

from app.http.problems import ProblemError


class ListNotFound(ProblemError):
    """The user in the path has no list with the ID in the path."""

    status = HTTPStatus.NOT_FOUND
    title = "List not found"
    detail = "This user has no list with this ID."
    advice = "Check the user ID and the list ID. The list may have been deleted."


class ListNotEmpty(ProblemError):
    """A list that contains tasks cannot be deleted."""

    status = HTTPStatus.CONFLICT
    title = "List not empty"
    detail = "The list contains tasks. Move or delete them first."
    advice = "Move the tasks to another list or delete them, and retry."
