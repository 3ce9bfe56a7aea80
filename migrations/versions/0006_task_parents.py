"""Subtasks: the foreign key to the parent.

Lock and deploy safety: ACCESS EXCLUSIVE on `tasks` for the time of a catalog change, to turn the
index into a constraint and to add the foreign key, which is not checked against existing rows.

Revision: 0006
After: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the constraints."""
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


def downgrade() -> None:
    """Drop the foreign key; the index stays for the migration before."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_constraint("fk_tasks_parent_id", "tasks", type_="foreignkey")
    op.drop_constraint("uq_tasks_user_id_id_depth", "tasks", type_="unique")
