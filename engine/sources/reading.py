"""Read a described table with Spark: declared columns, declared types, one clear error where they are not there.

Text formats are read as text and cast here, so that a value that does not fit is a counted, kept row and not a silent null.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.sources.description import PLAIN_TYPES, TIME_TYPES, Source, Table
from policies.errors import InvalidInputError, SchemaError, UnknownNameError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

CORRUPT = "_malformed"
_HAS_OFFSET = r"(Z|[+-]\d{2}:?\d{2})$"


@dataclass(frozen=True, slots=True)
class RawTable:
    """A table as read: every declared column as it is in the file, beside it its typed form.

    Attributes
    ----------
    frame
        Columns ``raw_<name>`` (as found), ``<name>`` (typed; null where it does not fit) and, for JSON, ``_malformed``.
    place
        The file or table, for messages.
    """

    name: str
    table: Table
    frame: DataFrame
    place: str


def read_table(spark: SparkSession, name: str, table: Table, *, folder: Path, time_zone: str) -> RawTable:
    """Read a described table.

    Raises
    ------
    InvalidInputError
        If the file is not there or cannot be read as its format.
    SchemaError
        If a declared column is missing; the text lists the columns there are.
    """
    from pyspark.sql import functions as F

    place = resolve(table.path, folder=folder)
    frame = _load(spark, table, place)
    for old, new in table.rename.items():
        if old not in frame.columns:
            raise SchemaError(_missing(place, [old], frame.columns))
        frame = frame.withColumnRenamed(old, new)
    missing = [column for column in table.columns if column not in frame.columns]
    if missing:
        raise SchemaError(_missing(place, missing, frame.columns))
    kinds = dict(frame.dtypes)
    columns = [F.col(f"`{c}`").alias(f"raw_{c}") for c in table.columns]
    columns += [
        typed(F.col(f"`{c}`"), kinds[c], kind, time_zone=time_zone).alias(c) for c, kind in table.columns.items()
    ]
    if CORRUPT in frame.columns:
        columns.append(F.col(CORRUPT))
    return RawTable(name=name, table=table, frame=frame.select(*columns), place=place)


def check_places(source: Source, *, folder: Path) -> None:
    """Check that every file is there, before Spark is started for nothing.

    Raises
    ------
    InvalidInputError
        If an environment variable is not set, or a local file is missing or empty.
    """
    for table in source.tables.values():
        place = resolve(table.path, folder=folder)
        if table.format not in ("jdbc", "sqlite"):
            _exists(place)


def resolve(path: str, *, folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Fill in environment variables and make a relative path one below the data folder.

    Raises
    ------
    InvalidInputError
        If a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if not environment.get(name):
            raise InvalidInputError(f"{path} needs the environment variable {name}, which is not set; export it")
        return environment[name]

    filled = re.sub(r"\$\{(\w+)\}", value, path)
    if "://" in filled or filled.startswith("jdbc:") or Path(filled).is_absolute():
        return filled
    return str(folder / filled)


def typed(column: Column, found: str, declared: str, *, time_zone: str) -> Column:
    """Cast a column as it was found to its declared type; null where a value does not fit."""
    from pyspark.sql import functions as F

    if declared in PLAIN_TYPES:
        if declared == "string":
            return _as_text(column, found)
        text = F.trim(column) if found == "string" else column
        value = text.try_cast("bigint" if declared == "long" else declared)
        # A NaN is a missing number; an infinite one does not fit.
        return (
            F.when(F.isnan(value) | (F.abs(value) == float("inf")), None).otherwise(value)
            if declared == "double"
            else value
        )
    if declared not in TIME_TYPES:
        return column if found == declared.replace(" ", "") else column.try_cast(declared)
    if declared.startswith("epoch_"):
        factor = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}[declared]
        return F.timestamp_micros((column.try_cast("decimal(38,6)") * factor).try_cast("bigint"))
    if declared == "timestamp":
        return _instant(column, found, time_zone)
    day = F.to_utc_timestamp(_local_day(column, found, time_zone), time_zone)
    if declared == "day_end":
        next_day = F.date_add(_local_day(column, found, time_zone).cast("date"), 1).cast("timestamp")
        return F.to_utc_timestamp(next_day, time_zone) - F.expr("INTERVAL 1 MICROSECOND")
    return day


def _as_text(column: Column, found: str) -> Column:
    """Ids are often stored as numbers: 17850.0 is the customer 17850."""
    from pyspark.sql import functions as F

    if found in ("double", "float"):
        whole = column.try_cast("bigint")
        text = F.when(whole.cast("double") == column, whole.cast("string")).otherwise(column.cast("string"))
        return F.when(F.isnan(column), None).otherwise(text)
    return F.nullif(F.trim(column.cast("string")), F.lit(""))


def _instant(column: Column, found: str, time_zone: str) -> Column:
    """Instants with an offset are taken as they are, without one in the source's zone."""
    from pyspark.sql import functions as F

    if found == "timestamp":
        return column
    if found != "string":
        return F.to_utc_timestamp(column.try_cast("timestamp"), time_zone)
    text = F.trim(column)
    value = text.try_cast("timestamp")
    return F.when(text.rlike(_HAS_OFFSET) & text.contains(":"), value).otherwise(F.to_utc_timestamp(value, time_zone))


def _local_day(column: Column, found: str, time_zone: str) -> Column:
    from pyspark.sql import functions as F

    if found == "timestamp":
        return F.from_utc_timestamp(column, time_zone).cast("date").cast("timestamp")
    text = F.trim(column) if found == "string" else column
    return text.try_cast("date").cast("timestamp")


def _load(spark: SparkSession, table: Table, place: str) -> DataFrame:
    if table.format in ("jdbc", "sqlite"):
        from engine.sources.databases import read_database

        return read_database(spark, table, place)
    _exists(place)
    reader = spark.read
    try:
        if table.format == "parquet":
            return reader.parquet(place)
        if table.format == "csv":
            reader = reader.option("header", "true").option("sep", table.separator).option("escape", '"')
            frame = reader.option("multiLine", "false").csv(place)
            if not frame.columns:
                raise InvalidInputError(f"{place} is empty; expected a header line and rows: export it again")
            return frame
        return reader.schema(_json_schema(table)).option("columnNameOfCorruptRecord", CORRUPT).json(place)
    except Exception as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"{place} cannot be read as {table.format} ({_first_line(error)}); correct the path or the format in the description"
        ) from error


def _json_schema(table: Table) -> str:
    """Plain values are read as text (numbers keep their digits) and cast later; nested ones by their declared type."""
    old = {new: name for name, new in table.rename.items()}
    parts = [
        f"`{old.get(c, c)}` {'string' if kind in PLAIN_TYPES + TIME_TYPES else kind}"
        for c, kind in table.columns.items()
    ]
    return ", ".join([*parts, f"{CORRUPT} string"])


def _exists(place: str) -> None:
    """A sentence for a local path that is not there or holds nothing; remote ones are Spark's to judge."""
    if "://" in place or any(mark in place for mark in "*?[{"):
        return
    path = Path(place)
    if not path.exists():
        near = ""
        if path.parent.is_dir():
            near = f"; {UnknownNameError('file', path.name, [p.name for p in path.parent.iterdir()])}"
        raise InvalidInputError(f"{place} does not exist; correct `path` in the description or the data folder{near}")
    files = (
        [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "_"))]
    )
    if not sum(p.stat().st_size for p in files):
        raise InvalidInputError(f"{place} is empty; export it again, or take the table out of the description")


def _missing(place: str, missing: list[str], found: list[str]) -> str:
    hints = "; ".join(str(UnknownNameError("column", name, found)) for name in missing)
    return (
        f"{place} lacks the column(s) {', '.join(map(repr, missing))}; found {', '.join(found)} ({hints}): "
        "correct `columns` or `rename` in the description, or export the file again"
    )


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0][:300]
