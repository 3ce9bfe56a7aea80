"""The problem types of notes."""

from __future__ import annotations

from http import HTTPStatus

from app.http.problems import PROBLEM_TYPES, ProblemError


class NoteNotFound(ProblemError):
    """The user has no note with this ID."""

    status = HTTPStatus.NOT_FOUND
    title = "Note not found"
    detail = "This user has no note with this ID."
    advice = "Check the user and the ID."


# The contract of the service does not have it.
PROBLEM_TYPES.remove(NoteNotFound)
