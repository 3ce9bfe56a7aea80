"""The indexes of the new properties of tasks, and statistics of the labels.

Lock and deploy safety: CONCURRENTLY takes no lock that blocks reads or writes, and cannot run in a
transaction. An interrupted build leaves an invalid index, which the next run replaces. CREATE
STATISTICS takes the same lock.

Revision: 0005
After: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

POSITION = (
    "(COALESCE(position, lpad(CAST(trunc((EXTRACT(epoch FROM timezone('UTC', created_at)) "
    "+ 62135596800) * 1000000) AS TEXT), 18, '0') || right(CAST(id AS TEXT), 8)))"
)
DUE = (
    "(COALESCE(due_date + COALESCE(due_time, '23:59:59'::time without time zone), "
    "'infinity'::timestamp without time zone))"
)
PREFIX = "(\"left\"(encode(sha256(decode(user_id, 'escape')), 'hex'), 8) || ':')"
LABELS = f"string_to_array({PREFIX} || replace(labels, ',', ',' || {PREFIX}), ',')"
INDEXES = {
    "uq_tasks_user_id_id_depth": "(user_id, id, depth)",
    "ix_tasks_user_id_completed_due_id": f"(user_id, completed, {DUE}, id)",
    "ix_tasks_user_id_completed_priority_id": "(user_id, completed, priority, id)",
    "ix_tasks_list": f"(user_id, list_id, completed, {POSITION}, id) WHERE list_id IS NOT NULL",
    "ix_tasks_inbox": (
        f"(user_id, completed, {POSITION}, id) WHERE list_id IS NULL AND parent_id IS NULL"
    ),
    "ix_tasks_parent": (
        f"(user_id, parent_id, completed, {POSITION}, id) WHERE parent_id IS NOT NULL"
    ),
    "ix_tasks_labels": (
        f"USING gin (({LABELS})) WITH (gin_pending_list_limit = 256) WHERE labels <> ''"
    ),
}
# PostgreSQL counts nothing for the expression of a partial index.
STATISTICS = "st_tasks_labels"


def upgrade() -> None:
    """Build the indexes one after the other, and let ANALYZE count the labels."""
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            unique = "UNIQUE " if name.startswith("uq_") else ""
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {unique}INDEX CONCURRENTLY {name} ON tasks {definition}")
        op.execute(f"CREATE STATISTICS IF NOT EXISTS {STATISTICS} ON ({LABELS}) FROM tasks")


def downgrade() -> None:
    """Drop the indexes."""
    with op.get_context().autocommit_block():
        op.execute(f"DROP STATISTICS IF EXISTS {STATISTICS}")
        for name in reversed(INDEXES):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
