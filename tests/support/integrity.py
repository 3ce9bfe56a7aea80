"""Checks of the references and positions of all stored tasks and lists, by SQL only."""

from __future__ import annotations

import asyncpg

# As in the migrations: the position of a row that was never moved.
_POSITION = """
    coalesce(position, lpad(((extract(epoch FROM created_at AT TIME ZONE 'UTC') + 62135596800)
      * 1000000)::bigint::text, 18, '0') || right(id::text, 8))
"""
ERRORS = {
    "tasks in a list that does not exist": """
        SELECT count(*) FROM tasks WHERE list_id IS NOT NULL AND NOT EXISTS (
          SELECT FROM lists WHERE lists.user_id = tasks.user_id AND lists.id = tasks.list_id)
    """,
    "subtasks of a task that does not exist": """
        SELECT count(*) FROM tasks WHERE parent_id IS NOT NULL AND NOT EXISTS (
          SELECT FROM tasks p WHERE p.user_id = tasks.user_id AND p.id = tasks.parent_id)
    """,
    "subtasks of a subtask": """
        SELECT count(*) FROM tasks JOIN tasks p ON p.user_id = tasks.user_id
          AND p.id = tasks.parent_id WHERE p.parent_id IS NOT NULL
    """,
    "subtasks in a list": """
        SELECT count(*) FROM tasks WHERE parent_id IS NOT NULL AND list_id IS NOT NULL
    """,
    "tasks with the position of a sibling": f"""
        SELECT count(*) - count(DISTINCT (user_id, coalesce(list_id, parent_id), {_POSITION}))
        FROM tasks
    """,  # noqa: S608 - a constant
    "lists with the position of another list": f"""
        SELECT count(*) - count(DISTINCT (user_id, {_POSITION})) FROM lists
    """,  # noqa: S608 - a constant
}
_COUNTS = "SELECT " + ", ".join(f"({query})" for query in ERRORS.values())


async def integrity_errors(connection: asyncpg.Connection) -> list[str]:
    """Return the number of rows with each error, without the errors that no row has."""
    (counts,) = await connection.fetch(_COUNTS)
    return [f"{count} {error}" for error, count in zip(ERRORS, counts, strict=True) if count]
