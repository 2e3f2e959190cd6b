"""Sums from which the health of a placement's log is read, episodes of alarms, and what a page says it showed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    op.add_column("activations", sa.Column("shown", sa.Text()))
    op.create_table(
        "health_cells",
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("a", sa.Float(53), nullable=False),
        sa.Column("b", sa.Float(53), nullable=False),
        sa.Column("c", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("placement", "hour", "what", "key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "health_cursor",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
    )
    op.create_table(
        "alarm_episodes",
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("alarm", sa.String(32), nullable=False),
        sa.Column("began_at_us", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger()),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("placement", "alarm", "began_at_us"),
    )


def downgrade() -> None:
    """Go back."""
    for table in ("alarm_episodes", "health_cursor", "health_cells"):
        op.drop_table(table)
    op.drop_column("activations", "shown")
