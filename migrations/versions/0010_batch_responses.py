"""Responses of batches.

Lock and deploy safety: ACCESS EXCLUSIVE on `idempotency_keys` for the time of a catalog change. It
is a migration of its own: a transaction that holds such a lock on two tables can deadlock with
requests.

Revision: 0010
After: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("idempotency_keys", sa.Column("response", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("idempotency_keys", "response")
