"""Which snapshots learners have published: the one thing that servers ask of the learners' table."""

from __future__ import annotations

from engine.store.database import Database


def newest_published(database: Database, ref: str) -> int | None:
    """Number of the newest published snapshot of a version, from the end of its own ticks; None: none yet.

    Raises
    ------
    StoreUnavailableError
        If the store cannot be read.
    """
    rows = database.rows(
        "SELECT number FROM learner_ticks WHERE policy = :policy AND is_published ORDER BY number DESC LIMIT 1",
        policy=ref,
    )
    return int(rows[0][0]) if rows else None
