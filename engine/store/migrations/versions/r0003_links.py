"""Subjects that are one person."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    op.create_table(
        "links",
        sa.Column(
            "ledger_offset", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("identified_as", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("ledger_offset"),
    )
    op.create_index("links_by_subject", "links", ["subject"], unique=False)
    op.create_index("links_by_identified_as", "links", ["identified_as"], unique=False)


def downgrade() -> None:
    """Go back."""
    op.drop_index("links_by_identified_as", table_name="links")
    op.drop_index("links_by_subject", table_name="links")
    op.drop_table("links")
