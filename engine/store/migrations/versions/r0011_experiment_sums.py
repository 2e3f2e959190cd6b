"""Revenue, a covariate, sizes of values and stays of subscribers in the rollup, which is worked out anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SUMS = (
    "sum_revenue", "sum_revenue_squared", "sum_x", "sum_xx", "sum_x_subscribed", "sum_x_kept", "sum_x_margin", "sum_x_revenue",
)  # fmt: skip


def upgrade() -> None:
    """Go forward."""
    _drop()
    _make(is_new=True)
    op.create_table(
        "experiment_values",
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("measure", sa.String(16), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("segments", sa.Text(), nullable=False),
        sa.Column("bin", sa.SmallInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Float(53), nullable=False) for name in ("total", "total_squares", "sum_x", "sum_xy")),
        sa.PrimaryKeyConstraint("experiment", "measure", "phase", "variant", "hour", "segments", "bin"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiment_stays",
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("stayed", sa.Integer(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "phase", "variant", "day", "stayed"),
        sqlite_with_rowid=False,
    )
    _unlog("experiment_values", "experiment_stays")


def downgrade() -> None:
    """Go back."""
    op.drop_table("experiment_stays")
    op.drop_table("experiment_values")
    _drop()
    _make(is_new=False)


def _drop() -> None:
    op.execute("UPDATE rollups SET next_offset = -1, rules = ''")
    for table in ("experiment_cells", "exposures"):
        op.drop_table(table)


def _make(*, is_new: bool) -> None:
    key = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    added = [
        sa.Column("revenue", sa.Float(53), nullable=False),
        sa.Column("covariate", sa.Float(53), nullable=False),
        sa.Column("subscribed_us", sa.BigInteger()),
        sa.Column("left_us", sa.BigInteger()),
    ]
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
        *(added if is_new else ()),
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
        *(sa.Column(name, sa.Float(53), nullable=False) for name in (_SUMS if is_new else ())),
        sa.PrimaryKeyConstraint("experiment", "phase", "variant", "hour", "segments"),
        sqlite_with_rowid=False,
    )
    _unlog("exposures", "experiment_cells")


def _unlog(*names: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in names:
            op.execute(f"ALTER TABLE {table} SET UNLOGGED")
