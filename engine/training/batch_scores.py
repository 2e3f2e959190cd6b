"""Score all decision points of a folder in Spark: ``python -m engine.training.batch_scores --run DIR --data DIR --out DIR``.

Each Spark task scores its rows with ONNX Runtime, batch by batch, so memory does not grow with the table. Written are ``scores`` (a row per
decision point) and ``traits`` (a row per subject), which ``nextoffer sequences traits`` hands to the service.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.models.dataset import SequenceDataset, points_and_manifest
from engine.training.scoring import RunScorer
from policies.errors import InvalidInputError, NextofferError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_SCHEMA = "subject string, offer string, as_of timestamp, probability double"
TRAIT = "propensity"


def scored(spark: SparkSession, points: Path, scorer: RunScorer) -> DataFrame:
    """``subject, offer, as_of, probability`` of every row of a folder of decision points."""

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                table = pa.Table.from_batches([batch])
                probability = pa.array(scorer.probability(SequenceDataset.from_arrow(table)))
                kept = table.select(["subject", "offer", "as_of"]).append_column("probability", probability)
                yield from kept.to_batches()

    rows = spark.read.parquet(str(points))
    with warnings.catch_warnings():
        # pyspark warns about pandas 3 even where only Arrow is used.
        warnings.simplefilter("ignore", FutureWarning)
        return rows.mapInArrow(score, _SCHEMA)


def traits(scores: DataFrame, *, name: str = TRAIT, by_offer: bool = False) -> DataFrame:
    """One row a subject, of its latest moment: ``<name>``, the mean over the offers scored then, or a column ``<name>_<offer>`` for each.

    A subject that was not scored with an offer has null there.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    newest = F.max("as_of").over(Window.partitionBy("subject"))
    latest = scores.withColumn("_newest", newest).where(F.col("as_of") == F.col("_newest"))
    if not by_offer:
        return latest.groupBy("subject").agg(F.avg("probability").alias(name))
    offers = sorted(row["offer"] for row in latest.select("offer").distinct().collect())
    chosen = [F.avg(F.when(F.col("offer") == offer, F.col("probability"))).alias(f"{name}_{offer}") for offer in offers]
    return latest.groupBy("subject").agg(*chosen)


def main(arguments: list[str] | None = None) -> int:
    """Command line of the job; exit code 2 and one sentence for bad input."""
    parser = argparse.ArgumentParser(description="Score all decision points with what a training run chose, in Spark.")
    parser.add_argument("--run", type=Path, required=True, help="folder that train propensity --out wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of decision points")
    parser.add_argument("--out", type=Path, required=True, help="folder to write scores and traits into")
    parser.add_argument("--name", default=TRAIT, help="name of the trait")
    parser.add_argument("--by-offer", action="store_true", help="one trait an offer instead of their mean")
    options = parser.parse_args(arguments)
    try:
        scorer = RunScorer.of_run(options.run)
        points, manifest = points_and_manifest(options.data)
        if not (options.data / "points").is_dir() or manifest is None:
            raise InvalidInputError(
                f"{options.data} holds no decision points; build them with `nextoffer sequences build --out {options.data}`"
            )
        scorer.check_words(json.loads(manifest.read_text()))
        from engine.sequences.spark import spark_session

        with spark_session() as spark:
            scored(spark, points, scorer).write.mode("overwrite").parquet(str(options.out / "scores"))
            kept = spark.read.parquet(str(options.out / "scores"))
            found = traits(kept, name=options.name, by_offer=options.by_offer)
            found.write.mode("overwrite").parquet(str(options.out / "traits"))
            n_scores, n_subjects = kept.count(), spark.read.parquet(str(options.out / "traits")).count()
    except NextofferError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 (the one clear error)
        return 2
    print(json.dumps({"model": scorer.name, "n_scores": n_scores, "n_subjects": n_subjects}))  # noqa: T201 (data on stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
