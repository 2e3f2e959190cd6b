"""Sessions: events of one subject with no pause longer than a gap between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def sessions(events: DataFrame, *, gap_minutes: float = 30.0) -> DataFrame:
    """One row per session: ``subject, started_at, ended_at, n_events, amount``.

    A pause of exactly ``gap_minutes`` still belongs to the session; ``ended_at`` is the time of its last event.
    """
    from pyspark.sql import functions as F

    # Spark joins an event that begins exactly where a session's window ends, so a pause of the gap itself stays inside.
    gap_us = round(gap_minutes * 60_000_000)
    window = F.session_window("at", f"{gap_us} microseconds")
    grouped = events.groupBy("subject", window.alias("w")).agg(
        F.max("at").alias("ended_at"), F.count(F.lit(1)).alias("n_events"), F.sum("value").alias("amount")
    )
    return grouped.select("subject", F.col("w.start").alias("started_at"), "ended_at", "n_events", "amount")
