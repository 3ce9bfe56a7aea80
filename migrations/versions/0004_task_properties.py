"""Properties of tasks: list, parent, priority, due date, labels and position.

Lock and deploy safety: ACCESS EXCLUSIVE on `tasks` for the time of a catalog change. The defaults
are constants, so no row is rewritten, and the constraints are not checked against existing rows.
The version before writes the defaults.

Revision: 0004
After: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = {
    "list_id": "uuid",
    "parent_id": "uuid",
    "depth": "smallint NOT NULL DEFAULT 0",
    "parent_depth": "smallint NOT NULL DEFAULT 0",
    "priority": "smallint NOT NULL DEFAULT 0",
    "due_date": "date",
    "due_time": "time",
    "due_timezone": "text",
    "labels": "text NOT NULL DEFAULT ''",
    "position": 'text COLLATE "C"',
}
CONSTRAINTS = {
    "ck_tasks_depth_of_parent": "CHECK (depth = (parent_id IS NOT NULL)::integer)",
    "ck_tasks_parent_depth_zero": "CHECK (parent_depth = 0)",
    "ck_tasks_list_or_parent": "CHECK (list_id IS NULL OR parent_id IS NULL)",
    "ck_tasks_priority_range": "CHECK (priority BETWEEN 0 AND 4)",
    "ck_tasks_due_has_date": (
        "CHECK (due_date IS NOT NULL OR (due_time IS NULL AND due_timezone IS NULL))"
    ),
    "ck_tasks_position_form": "CHECK (position ~ '^[0-9A-Za-z]{1,64}$')",
    "fk_tasks_list_id": "FOREIGN KEY (user_id, list_id) REFERENCES lists (user_id, id)",
}


def upgrade() -> None:
    """Add the columns and their constraints."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    columns = [f"ADD COLUMN {name} {type_}" for name, type_ in COLUMNS.items()]
    constraints = [
        f"ADD CONSTRAINT {name} {definition} NOT VALID" for name, definition in CONSTRAINTS.items()
    ]
    op.execute(f"ALTER TABLE tasks {', '.join([*columns, *constraints])}")


def downgrade() -> None:
    """Drop the columns, their constraints with them."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(f"ALTER TABLE tasks {', '.join(f'DROP COLUMN {name}' for name in COLUMNS)}")
