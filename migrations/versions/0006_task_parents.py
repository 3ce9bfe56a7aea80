"""Subtasks: the foreign key to the parent, and the check of the existing rows.

Lock and deploy safety: ACCESS EXCLUSIVE on `tasks` for the time of a catalog change, to turn the
index into a constraint and to add the foreign key. The checks of the existing rows take SHARE UPDATE
EXCLUSIVE, which blocks neither reads nor writes.

Revision: 0006
After: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CHECKS = (
    "ck_tasks_depth_of_parent",
    "ck_tasks_parent_depth_zero",
    "ck_tasks_list_or_parent",
    "ck_tasks_priority_range",
    "ck_tasks_due_has_date",
    "ck_tasks_position_form",
    "fk_tasks_list_id",
    "fk_tasks_parent_id",
)


def upgrade() -> None:
    """Add the constraints, then check the rows in transactions of their own."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(
        "ALTER TABLE tasks ADD CONSTRAINT uq_tasks_user_id_id_depth "
        "UNIQUE USING INDEX uq_tasks_user_id_id_depth"
    )
    op.create_foreign_key(
        "fk_tasks_parent_id",
        "tasks",
        "tasks",
        ["user_id", "parent_id", "parent_depth"],
        ["user_id", "id", "depth"],
        postgresql_not_valid=True,
    )
    with op.get_context().autocommit_block():
        for name in CHECKS:
            op.execute(f"ALTER TABLE tasks VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """Drop the foreign key; the index stays for the migration before."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_constraint("fk_tasks_parent_id", "tasks", type_="foreignkey")
    op.drop_constraint("uq_tasks_user_id_id_depth", "tasks", type_="unique")
