"""Revisions of lists.

Lock and deploy safety: ACCESS EXCLUSIVE on `lists` for the time of a catalog change. It is a
migration of its own: a transaction that holds such a lock on two tables can deadlock with requests.

Revision: 0009
After: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("ALTER TABLE lists ADD COLUMN revision bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Drop the column."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("lists", "revision")
