"""One open episode an alarm, and what is counted of each placement, kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Of an alarm that two monitors opened at once the oldest episode lasts; the others end where they began.
_END_TWINS = (
    "UPDATE alarm_episodes SET ended_at_us = began_at_us WHERE ended_at_us IS NULL AND EXISTS "
    "(SELECT 1 FROM alarm_episodes e WHERE e.placement = alarm_episodes.placement AND e.alarm = alarm_episodes.alarm "
    "AND e.ended_at_us IS NULL AND e.began_at_us < alarm_episodes.began_at_us)"
)


def upgrade() -> None:
    """Go forward."""
    op.execute(_END_TWINS)
    lasts = sa.text("ended_at_us IS NULL")
    op.create_index(
        "alarm_episodes_open",
        "alarm_episodes",
        ["placement", "alarm"],
        unique=True,
        sqlite_where=lasts,
        postgresql_where=lasts,
    )
    op.create_table(
        "placement_tallies",
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("n_decisions", sa.BigInteger(), nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("last_offset", sa.BigInteger(), nullable=False),
        sa.Column("n_rewards", sa.BigInteger(), nullable=False),
        sa.Column("last_reward_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("placement", "policy"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tally_cursor",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    """Go back; counts are derived from facts and can be made anew."""
    op.drop_table("tally_cursor")
    op.drop_table("placement_tallies")
    op.drop_index("alarm_episodes_open", "alarm_episodes")
