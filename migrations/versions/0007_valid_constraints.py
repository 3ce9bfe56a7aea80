"""Check the constraints of tasks against the existing rows.

Lock and deploy safety: SHARE UPDATE EXCLUSIVE on `tasks`, which blocks neither reads nor writes,
while the table is read. Each check is a transaction of its own. It can be repeated.

Revision: 0007
After: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
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
    """Check each constraint."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    with op.get_context().autocommit_block():
        for name in CHECKS:
            op.execute(f"ALTER TABLE tasks VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """Keep the constraints: an unchecked state is of no use."""
    op.execute("SET LOCAL lock_timeout = '5s'")
