"""The table of tasks.

Lock and deploy safety: makes a new table, which nothing uses yet; no lock on anything else.

Revision: 0001
After: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BLANK = r"[^\u0001\u0009-\u000D\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]"
SEPARATORS = (
    r"\u0001-\u002F\u003A-\u0040\u005B-\u0060\u007B-\u00A9\u00AB-\u00B4\u00B6-\u00B9\u00BB-\u00BF"
    r"\u00D7\u00F7\u1680\u2000-\u206F\u3000-\u3004\u3008-\u3020\u3030\uFEFF\uFF01-\uFF0F"
    r"\uFF1A-\uFF20"
)
SEARCH = (
    "array_to_tsvector(string_to_array(ltrim(regexp_replace(regexp_replace(lower((((' '::text || "
    "title) || ' '::text) || COALESCE(description, ''::text))), "
    f"'([^{SEPARATORS}]{{255}})[^{SEPARATORS}]+'::text, '\\1'::text, 'g'::text), "
    f"'[{SEPARATORS}]+'::text, (' '::text || \"left\"(encode(sha256(decode(user_id, "
    "'escape'::text)), 'hex'::text), 8)), 'g'::text)), ' '::text))"
)


def upgrade() -> None:
    """Make the table and its indexes."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    # The search folds letters with the database's own lower(); under the locale C it knows ASCII
    # alone, and in another encoding the contract's code points mean nothing.
    op.execute(
        """
        DO $$ BEGIN
          IF current_setting('server_encoding') <> 'UTF8' OR lower('É') <> 'é' THEN
            RAISE EXCEPTION 'the database needs the encoding UTF8 and a UTF-8 locale, '
              'for example C.UTF-8; lower() must know letters beyond ASCII';
          END IF;
        END $$
        """
    )
    op.create_table(
        "tasks",
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "completed",
            sa.Boolean(),
            sa.Computed("completed_at IS NOT NULL", persisted=True),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("etag", sa.Uuid(), nullable=False),
        sa.Column(
            "search", postgresql.TSVECTOR(), sa.Computed(SEARCH, persisted=True), nullable=False
        ),
        sa.CheckConstraint(
            r"user_id ~ '^[A-Za-z0-9][A-Za-z0-9._:|@+-]{0,127}$'",
            name=op.f("ck_tasks_user_id_form"),
        ),
        sa.CheckConstraint(
            "char_length(title) BETWEEN 1 AND 500", name=op.f("ck_tasks_title_length")
        ),
        sa.CheckConstraint(f"title ~ '{BLANK}'", name=op.f("ck_tasks_title_not_blank")),
        sa.CheckConstraint(
            "char_length(description) <= 16384", name=op.f("ck_tasks_description_length")
        ),
        sa.CheckConstraint(
            "updated_at >= created_at", name=op.f("ck_tasks_updated_at_not_before_created_at")
        ),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_tasks")),
    )
    for columns in (
        ["user_id", "created_at", "id"],
        ["user_id", "updated_at", "id"],
        ["user_id", "completed", "created_at", "id"],
        ["user_id", "completed", "updated_at", "id"],
    ):
        op.create_index("ix_tasks_" + "_".join(columns), "tasks", columns)
    op.create_index(
        "ix_tasks_search",
        "tasks",
        ["search"],
        postgresql_using="gin",
        # A search reads the whole list of pending entries: kept short.
        postgresql_with={"gin_pending_list_limit": 256},
    )


def downgrade() -> None:
    """Drop the table, its indexes with it."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("tasks")
