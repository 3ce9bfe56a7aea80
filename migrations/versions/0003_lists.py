"""The table of lists.

Lock and deploy safety: makes a new table, which the version before does not use; no lock on
anything else.

Revision: 0003
After: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BLANK = r"[^\u0001\u0009-\u000D\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]"
POSITION = (
    "coalesce(position, lpad(CAST(trunc((EXTRACT(epoch FROM timezone('UTC', created_at)) "
    "+ 62135596800) * 1000000) AS TEXT), 18, '0') || right(CAST(id AS TEXT), 8))"
)


def upgrade() -> None:
    """Make the table and its index."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "lists",
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("etag", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Text(collation="C"), nullable=True),
        sa.CheckConstraint(
            r"user_id ~ '^[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}$'",
            name=op.f("ck_lists_user_id_form"),
        ),
        sa.CheckConstraint(
            "char_length(name) BETWEEN 1 AND 200", name=op.f("ck_lists_name_length")
        ),
        sa.CheckConstraint(f"name ~ '{BLANK}'", name=op.f("ck_lists_name_not_blank")),
        sa.CheckConstraint("position ~ '^[0-9A-Za-z]{1,64}$'", name=op.f("ck_lists_position_form")),
        sa.CheckConstraint(
            "updated_at >= created_at", name=op.f("ck_lists_updated_at_not_before_created_at")
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_lists")),
    )
    op.create_index("ix_lists_user_id_position_id", "lists", ["user_id", sa.text(POSITION), "id"])


def downgrade() -> None:
    """Drop the table, its index with it."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("lists")
