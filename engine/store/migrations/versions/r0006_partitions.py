"""Tables of facts are partitioned by offset on PostgreSQL; on SQLite nothing changes.

Nothing is copied on the way forward: what there is becomes the first partition. Readers and writers of earlier versions go
on working, since the tables keep their names.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import inspect, text

from engine.store.partitions import FACT_TABLES, SCHEMA, boundary_after

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    head = connection.execute(text("SELECT next_offset FROM ledger_head")).scalar_one()
    boundary = boundary_after(int(head) + 1)
    for table in FACT_TABLES:
        old = f"{table}_first"
        indexes = _move_away(table, old)
        op.execute(f"CREATE TABLE {table} (LIKE {old} INCLUDING DEFAULTS) PARTITION BY RANGE (ledger_offset)")
        _index(table, indexes)
        op.execute(f"ALTER TABLE {old} SET SCHEMA {SCHEMA}")
        op.execute(f"ALTER TABLE {table} ATTACH PARTITION {SCHEMA}.{old} FOR VALUES FROM (MINVALUE) TO ({boundary})")
        op.execute(f"CREATE TABLE {SCHEMA}.{table}_default PARTITION OF {table} DEFAULT")


def downgrade() -> None:
    """Go back: rows are copied into plain tables."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in FACT_TABLES:
        old = f"{table}_parts"
        indexes = _move_away(table, old)
        op.execute(f"CREATE TABLE {table} (LIKE {old} INCLUDING DEFAULTS)")
        op.execute(f"INSERT INTO {table} SELECT * FROM {old} ORDER BY ledger_offset")
        _index(table, indexes)
        op.execute(f"DROP TABLE {old} CASCADE")
    op.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def _move_away(table: str, name: str) -> list[tuple[str, list[str]]]:
    """Rename a table with its key and indexes, and return what its indexes were."""
    inspector = inspect(op.get_bind())
    key = inspector.get_pk_constraint(table)["name"]
    found = [(str(i["name"]), [str(c) for c in i["column_names"]]) for i in inspector.get_indexes(table)]
    op.execute(f"ALTER TABLE {table} RENAME TO {name}")
    op.execute(f"ALTER TABLE {name} RENAME CONSTRAINT {key} TO {name}_pkey")
    for index, _ in found:
        op.execute(f"ALTER INDEX {index} RENAME TO {name}_{index}")
    return found


def _index(table: str, indexes: list[tuple[str, list[str]]]) -> None:
    op.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (ledger_offset)")
    for name, columns in indexes:
        op.create_index(name, table, columns)
