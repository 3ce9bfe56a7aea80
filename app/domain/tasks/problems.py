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


class HierarchyConflict(ProblemError):
    """The change breaks a rule of subtasks."""

    status = HTTPStatus.CONFLICT
    title = "Hierarchy conflict"
    detail = "The change breaks a rule of subtasks. Nothing was changed."
    advice = (
        "A subtask has no subtasks, and its list_id is null. To turn a task of a list into a "
        "subtask, send list_id and parent_id in one request."
    )


class BatchConflict(ProblemError):
    """The batch breaks a rule that no schema states."""

    status = HTTPStatus.CONFLICT
    title = "Batch conflict"
    detail = "The batch breaks a rule of batches. Nothing was changed."
    advice = (
        "Send 1 to 100 changes, each of another task. A new task has an ID that is not in use, and "
        "no time in the future."
    )
