"""Accounts that a provider of identities signs in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    op.add_column("accounts", sa.Column("identity", sa.Text()))
    op.create_index("accounts_by_identity", "accounts", ["identity"], unique=True)


def downgrade() -> None:
    """Go back; such accounts stay and nobody can sign in with them."""
    op.drop_index("accounts_by_identity", "accounts")
    with op.batch_alter_table("accounts") as batch:
        batch.drop_column("identity")
