"""Who was erased, and below which offset facts were moved to the cold path."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    op.create_table(
        "erasures",
        sa.Column("pseudonym", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pseudonym"),
    )
    op.create_table(
        "retention",
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("below_offset", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("what"),
    )


def downgrade() -> None:
    """Go back."""
    op.drop_table("retention")
    op.drop_table("erasures")
