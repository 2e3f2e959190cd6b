"""Partitions of the ledger on PostgreSQL: each table of facts is cut by ``ledger_offset``, so that old facts go by a drop.

Offsets and not days: the primary key is the offset, learners and audits read by it, and days follow it (a fact that comes
late lies where it was committed). Ids are unique through ``fact_keys``, which is not partitioned. What has no partition of
its own lands in a default one, so that no write is ever refused; the next ``ensure_partitions`` moves it out.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from engine.store.database import Database

SCHEMA = "ledger_partitions"
FACT_TABLES = ("decisions", "rewards", "outcomes", "events", "activations", "voids", "links")
WIDTH = 1 << 25
AHEAD = 2

_EXISTING = (
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent "
    "JOIN pg_namespace n ON n.oid = p.relnamespace WHERE p.relname = :parent AND n.nspname = current_schema()"
)


def boundary_after(next_offset: int) -> int:
    """First multiple of the width above all offsets given out so far."""
    return ((next_offset - 1) // WIDTH + 1) * WIDTH


def ensure_partitions(database: Database) -> int:
    """Make the partitions that the next facts will need; return how many. Does nothing on SQLite.

    Cheap where they exist. Runs when a store is opened and with each run of retention.
    """
    if database.is_sqlite:
        return 0
    first = (database.head() - 1) // WIDTH
    wanted = range(first, first + AHEAD)
    with database.reading() as connection:
        missing = {t: [n for n in wanted if not _is_there(connection, t, n)] for t in FACT_TABLES}
    if not any(missing.values()):
        return 0
    made = 0
    with database.writing() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('nextoffer partitions'))"))
        for table, numbers in missing.items():
            for number in numbers:
                if not _is_there(connection, table, number):
                    _make(connection, table, number)
                    made += 1
    return made


def drop_emptied_partitions(database: Database, table: str, *, below_offset: int) -> int:
    """Drop partitions of a table that lie below an offset and hold nothing any more; return how many."""
    if database.is_sqlite:
        return 0
    ensure_partitions(database)
    n = 0
    with database.writing() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        for name in _names(connection, table):
            number = name.rpartition("_p")[2]
            if not number.isdigit() or (int(number) + 1) * WIDTH > below_offset:
                continue
            if connection.execute(text(f"SELECT 1 FROM {SCHEMA}.{name} LIMIT 1")).first() is None:
                connection.execute(text(f"DROP TABLE {SCHEMA}.{name}"))
                n += 1
    return n


def _names(connection: Connection, table: str) -> list[str]:
    return sorted(str(row[0]) for row in connection.execute(text(_EXISTING), {"parent": table}))


def _is_there(connection: Connection, table: str, number: int) -> bool:
    """Whether offsets of a partition's range have one: its own, or the first, which reaches up to where it was cut."""
    names = _names(connection, table)
    if not names or f"{table}_p{number}" in names:
        return True  # a table that is not partitioned needs none
    if f"{table}_first" not in names:
        return False
    bound = connection.execute(
        text(
            "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relname = :name AND n.nspname = :schema"
        ),
        {"name": f"{table}_first", "schema": SCHEMA},
    ).scalar_one()
    upper = int(str(bound).rpartition("TO (")[2].strip("()'"))
    return (number + 1) * WIDTH <= upper


def _make(connection: Connection, table: str, number: int) -> None:
    name, low, high = f"{SCHEMA}.{table}_p{number}", number * WIDTH, (number + 1) * WIDTH
    default = f"{SCHEMA}.{table}_default"
    within = f"ledger_offset >= {low} AND ledger_offset < {high}"
    if connection.execute(text(f"SELECT 1 FROM {default} WHERE {within} LIMIT 1")).first() is None:
        connection.execute(text(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ({low}) TO ({high})"))
        return
    connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
    connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
    connection.execute(text(f"INSERT INTO {name} SELECT * FROM {default} WHERE {within}"))
    connection.execute(text(f"DELETE FROM {default} WHERE {within}"))
    connection.execute(text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})"))
