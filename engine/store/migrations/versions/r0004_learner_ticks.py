"""A tick of a learner says at which placement, by which reward definition, and whether it was left out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward; what an earlier version wrote has none of it, and such a version goes on writing without it."""
    op.add_column("learner_ticks", sa.Column("placement", sa.Text()))
    op.add_column("learner_ticks", sa.Column("definition", sa.Text()))
    op.add_column("learner_ticks", sa.Column("is_left_out", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Go back."""
    with op.batch_alter_table("learner_ticks") as table:
        table.drop_column("is_left_out")
        table.drop_column("definition")
        table.drop_column("placement")
