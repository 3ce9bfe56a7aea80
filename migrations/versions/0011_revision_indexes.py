"""The indexes on the revisions of tasks and lists.

Lock and deploy safety: CONCURRENTLY takes no lock that blocks reads or writes, and cannot run in a
transaction. An interrupted build leaves an invalid index, which the next run replaces.

Revision: 0011
After: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = ("tasks", "lists")


def upgrade() -> None:
    """Build the indexes one after the other."""
    with op.get_context().autocommit_block():
        for table in TABLES:
            name = f"ix_{table}_user_id_revision_id"
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} (user_id, revision, id)")


def downgrade() -> None:
    """Drop the indexes."""
    with op.get_context().autocommit_block():
        for table in TABLES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS ix_{table}_user_id_revision_id")
