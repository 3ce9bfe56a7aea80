"""Revisions of users and tasks, and tombstones of deleted rows.

Lock and deploy safety: ACCESS EXCLUSIVE on `tasks` for the time of a catalog change. The default is
a constant, so no row is rewritten. The version before writes the default, and its changes have no
revision: `new-epoch` ends the update (research/0081).

Revision: 0008
After: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, and add the column."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Uuid(), nullable=False),
        sa.Column("oldest_revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_users")),
        # An update finds room in the block of its row, and changes no index.
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "tombstones",
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "revision", "id", "kind", name=op.f("pk_tombstones")),
    )
    op.execute("ALTER TABLE tasks ADD COLUMN revision bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Drop the column and the tables."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("tasks", "revision")
    op.drop_table("tombstones")
    op.drop_table("users")
