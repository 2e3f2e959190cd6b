"""Switches over experiments, the rollup of their subjects, accounts and sessions of the console."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    key = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    controls = op.create_table(
        "controls",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("holdout_bp", sa.Integer(), nullable=False),
        sa.Column("needs_approval", sa.Boolean(), nullable=False),
    )
    op.bulk_insert(controls, [{"id": 1, "is_paused": False, "holdout_bp": 0, "needs_approval": False}])
    op.create_table(
        "exposures",
        sa.Column("experiment", key, nullable=False),
        sa.Column("subject", key, nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("exposed_us", sa.BigInteger(), nullable=False),
        sa.Column("subscribed", sa.SmallInteger(), nullable=False),
        sa.Column("kept", sa.SmallInteger(), nullable=False),
        sa.Column("margin", sa.Float(53), nullable=False),
        sa.Column("segments", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "subject"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiment_cells",
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("segments", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("n_subscribed", sa.BigInteger(), nullable=False),
        sa.Column("n_kept", sa.BigInteger(), nullable=False),
        sa.Column("sum_margin", sa.Float(53), nullable=False),
        sa.Column("sum_margin_squared", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "phase", "variant", "hour", "segments"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollups",
        sa.Column("experiment", sa.Text(), primary_key=True),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in ("exposures", "experiment_cells", "rollups"):
            op.execute(f"ALTER TABLE {table} SET UNLOGGED")
    op.create_table(
        "accounts",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("form_key", sa.Text(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
    )
    op.create_index("sessions_by_account", "sessions", ["account"])


def downgrade() -> None:
    """Go back."""
    op.drop_index("sessions_by_account", "sessions")
    for table in ("sessions", "accounts", "rollups", "experiment_cells", "exposures", "controls"):
        op.drop_table(table)
