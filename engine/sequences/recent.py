"""The newest events of every subject of a described source, for the online state: ``python -m engine.sequences.recent --source FILE --out DIR``.

Writes Parquet with ``subject, id, at, kind, item, value`` in the order of time, words as they are. Ids begin with the source's own, so that events
of one instant keep their order, and end in a hash of the whole event, so that a second run writes the same ids.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine.sequences.build import provide, register_tables
from engine.sequences.events import people_of, read_events
from engine.sources.description import Source, load_source
from engine.sources.reading import check_places
from policies.errors import NextofferError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def recent_events(spark: SparkSession, source: Source, *, before: datetime | None = None) -> DataFrame:
    """Last ``last_events`` events of each subject, of registered tables."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    events = read_events(spark, source, people=people_of(spark, source))
    if before is not None:
        events = events.where(F.col("at") < F.lit(before))
    parts = ["subject", F.unix_micros("at"), "kind", "item", "value", "id"]
    marked = events.withColumn("id", F.concat("id", F.lit("#"), F.hex(F.xxhash64(F.lit(source.name), *parts))))
    newest = Window.partitionBy("subject").orderBy(F.desc("at"), F.desc("id"))
    kept = marked.withColumn("rank", F.row_number().over(newest)).where(
        F.col("rank") <= F.lit(source.sequence.last_events)
    )
    return kept.select("subject", "id", "at", "kind", "item", "value").orderBy("at", "id")


def main(arguments: list[str] | None = None) -> int:
    """Command line of the job; exit code 2 and one sentence for bad input."""
    parser = argparse.ArgumentParser(description="Write the newest events of every subject of a described source.")
    parser.add_argument("--source", type=Path, required=True, help="TOML description of the source")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--data", type=Path, help="folder with the raw files")
    options = parser.parse_args(arguments)
    try:
        source = load_source(options.source)
        if options.data is not None or not source.provider:
            check_places(source, folder=options.data or source.folder)
        from engine.sequences.spark import spark_session

        with spark_session() as spark:
            folder = options.data or provide(source, options.out / "_raw", say=lambda _: None)
            register_tables(spark, source, folder=folder, rejected=None)
            recent_events(spark, source).write.mode("overwrite").parquet(str(options.out / "recent"))
    except NextofferError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 (the one clear error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
