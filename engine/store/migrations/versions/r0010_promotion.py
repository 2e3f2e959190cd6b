"""Where versions stand, what the gate said, forecasts and what came of them, runs of retraining."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    op.add_column("policy_versions", sa.Column("removed_at_us", sa.BigInteger()))
    op.create_table(
        "promotions",
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("changed_at_us", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.Text()),
        sa.Column("experiment", sa.Text()),
        sa.Column("previous", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("placement", "policy"),
    )
    op.create_table(
        "gate_verdicts",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("approved_by", sa.Text()),
        sa.Column("approved_at_us", sa.BigInteger()),
    )
    op.create_index("gate_verdicts_by_policy", "gate_verdicts", ["policy", "at_us"])
    op.create_table(
        "forecasts",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("made_at_us", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Float(53), nullable=False),
        sa.Column("low", sa.Float(53), nullable=False),
        sa.Column("high", sa.Float(53), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("resolved_at_us", sa.BigInteger()),
        sa.Column("actual", sa.Float(53)),
        sa.Column("actual_standard_error", sa.Float(53)),
        sa.Column("note", sa.Text()),
    )
    op.create_table(
        "retrain_runs",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    """Go back."""
    for table in ("retrain_runs", "forecasts"):
        op.drop_table(table)
    op.drop_index("gate_verdicts_by_policy", "gate_verdicts")
    for table in ("gate_verdicts", "promotions"):
        op.drop_table(table)
    with op.batch_alter_table("policy_versions") as batch:
        batch.drop_column("removed_at_us")
