"""The same sequences and sessions by DuckDB and Polars, each in a process of its own: what Spark's builder is measured against.

``python -m benchmarks._sequence_engines ENGINE JOB FOLDER OUT`` reads ``events``, ``points`` and ``words`` below FOLDER, writes
Parquet to OUT and prints its wall and processor seconds and its largest resident size as JSON. Imports are not counted.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAST_EVENTS = 128
GAP_MINUTES = 30
THREADS = 2


def duckdb_histories(folder: Path, out: Path) -> None:
    """Events joined to points, ranked from the newest, collected in order."""
    connection = _duckdb(out)
    connection.execute(
        f"""
        COPY (
          WITH placed AS (
            SELECT p.point, p.as_of, e."at", e.id, coalesce(k.number, 0) AS event_type, coalesce(i.number, 0) AS item, e.value::FLOAT AS value,
                   row_number() OVER (PARTITION BY p.point ORDER BY e."at" DESC, e.id DESC) AS newest
            FROM read_parquet('{folder}/events/*.parquet') e
            JOIN read_parquet('{folder}/points.parquet') p ON e.subject = p.subject AND e."at" < p.as_of
            LEFT JOIN read_parquet('{folder}/words/event_type.parquet') k ON e.kind = k.word
            LEFT JOIN read_parquet('{folder}/words/item.parquet') i ON e.item = i.word
            QUALIFY newest <= {LAST_EVENTS}
          ), timed AS (SELECT *, epoch_us("at") // 1000000 AS second FROM placed)
          SELECT point, list(event_type ORDER BY newest DESC) AS event_type, list(item ORDER BY newest DESC) AS item,
                 list(value ORDER BY newest DESC) AS value, list(second ORDER BY newest DESC) AS second,
                 (epoch_us(any_value(as_of)) // 1000000 - max(second))::INTEGER AS gap_to_as_of_s
          FROM timed GROUP BY point
        ) TO '{out}' (FORMAT parquet, COMPRESSION zstd)
        """
    )


def duckdb_histories_whole(folder: Path, out: Path) -> None:
    """Each subject's events as one sorted list, cut at each of its points."""
    connection = _duckdb(out)
    connection.execute(
        f"""
        COPY (
          WITH whole AS (
            SELECT e.subject, list({{'at': e.at, 'id': e.id, 'event_type': coalesce(k.number, 0), 'item': coalesce(i.number, 0),
                                     'value': e.value::FLOAT}} ORDER BY e.at, e.id) AS events
            FROM read_parquet('{folder}/events/*.parquet') e
            LEFT JOIN read_parquet('{folder}/words/event_type.parquet') k ON e.kind = k.word
            LEFT JOIN read_parquet('{folder}/words/item.parquet') i ON e.item = i.word
            GROUP BY e.subject
          ), cut AS (
            SELECT p.point, p.as_of, list_filter(w.events, lambda e: e.at < p.as_of)[-{LAST_EVENTS}:] AS events
            FROM read_parquet('{folder}/points.parquet') p JOIN whole w ON p.subject = w.subject
          )
          SELECT point, list_transform(events, lambda e: e.event_type) AS event_type, list_transform(events, lambda e: e.item) AS item,
                 list_transform(events, lambda e: e.value) AS value, list_transform(events, lambda e: epoch_us(e.at) // 1000000) AS second,
                 (epoch_us(as_of) // 1000000 - epoch_us(events[-1].at) // 1000000)::INTEGER AS gap_to_as_of_s
          FROM cut WHERE len(events) > 0
        ) TO '{out}' (FORMAT parquet, COMPRESSION zstd)
        """
    )


def polars_histories(folder: Path, out: Path) -> None:
    """Events joined to points, sorted once, the last of each point collected."""
    import polars as pl

    second = pl.col("at").dt.epoch("us") // 1_000_000
    words = {name: pl.read_parquet(folder / "words" / f"{name}.parquet") for name in ("event_type", "item")}
    rows = (
        pl.scan_parquet(folder / "events" / "*.parquet")
        .join(pl.scan_parquet(folder / "points.parquet"), on="subject")
        .filter(pl.col("at") < pl.col("as_of"))
        .join(words["event_type"].lazy().rename({"number": "event_type"}), left_on="kind", right_on="word", how="left")
        .join(words["item"].lazy().rename({"number": "item_id"}), left_on="item", right_on="word", how="left")
        .select(
            "point",
            "at",
            "id",
            pl.col("event_type").fill_null(0).cast(pl.Int32),
            pl.col("item_id").fill_null(0).cast(pl.Int32).alias("item"),
            pl.col("value").cast(pl.Float32),
            second.alias("second"),
            (pl.col("as_of").dt.epoch("us") // 1_000_000).alias("as_of_second"),
        )
        .sort("point", "at", "id")
        .group_by("point", maintain_order=True)
        .agg(
            *[pl.col(name).tail(LAST_EVENTS) for name in ("event_type", "item", "value", "second")],
            (pl.col("as_of_second").first() - pl.col("second").last()).cast(pl.Int32).alias("gap_to_as_of_s"),
        )
    )
    rows.collect().write_parquet(out, compression="zstd")


def duckdb_sessions(folder: Path, out: Path) -> None:
    """A session begins where the pause before an event is longer than the gap."""
    connection = _duckdb(out)
    connection.execute(
        f"""
        COPY (
          WITH marked AS (
            SELECT subject, "at", value, "at" - lag("at") OVER w > INTERVAL {GAP_MINUTES} MINUTE AS begins
            FROM read_parquet('{folder}/events/*.parquet') WINDOW w AS (PARTITION BY subject ORDER BY "at")
          ), numbered AS (
            SELECT *, sum(coalesce(begins, true)::INTEGER) OVER (PARTITION BY subject ORDER BY "at" ROWS UNBOUNDED PRECEDING) AS session FROM marked
          )
          SELECT subject, min("at") AS started_at, max("at") AS ended_at, count(*) AS n_events, sum(value) AS amount
          FROM numbered GROUP BY subject, session
        ) TO '{out}' (FORMAT parquet, COMPRESSION zstd)
        """
    )


def polars_sessions(folder: Path, out: Path) -> None:
    """The same over one sorted frame: a new number where the subject changes or the pause is too long."""
    import polars as pl

    begins = (pl.col("subject") != pl.col("subject").shift()) | (pl.col("at").diff() > pl.duration(minutes=GAP_MINUTES))
    rows = (
        pl.scan_parquet(folder / "events" / "*.parquet")
        .select("subject", "at", "value")
        .sort("subject", "at")
        .with_columns(begins.fill_null(value=True).cum_sum().alias("session"))
        .group_by("session")
        .agg(
            pl.col("subject").first(),
            pl.col("at").first().alias("started_at"),
            pl.col("at").last().alias("ended_at"),
            pl.len().cast(pl.Int64).alias("n_events"),
            pl.col("value").sum().alias("amount"),
        )
        .drop("session")
    )
    rows.collect().write_parquet(out, compression="zstd")


JOBS: dict[tuple[str, str], Callable[[Path, Path], None]] = {
    ("duckdb", "histories"): duckdb_histories,
    ("duckdb-whole", "histories"): duckdb_histories_whole,
    ("polars", "histories"): polars_histories,
    ("duckdb", "sessions"): duckdb_sessions,
    ("polars", "sessions"): polars_sessions,
}


def _duckdb(out: Path) -> Any:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {THREADS}; SET temp_directory = '{out.parent}'; SET TimeZone = 'UTC'")
    return connection


def main() -> int:
    """Run one job and print what it took."""
    engine, job, folder, out = sys.argv[1:5]
    if engine == "polars":
        import polars  # noqa: F401 - imported before the clock starts
    else:
        import duckdb  # noqa: F401 - imported before the clock starts
    started, cpu = time.monotonic(), time.process_time()
    JOBS[engine, job](Path(folder), Path(out))
    taken = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({**taken, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
