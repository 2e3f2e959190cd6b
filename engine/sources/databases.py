"""Tables inside a database: through JDBC where Spark has the driver, else through Python's own driver and Parquet.

Spark ships a JDBC driver for Derby only. For another database put its jar on Spark's class path (``spark.jars`` or ``--jars``). Where the
jar is not there, PostgreSQL is read through psycopg and SQLite through the standard library, batch by batch into Parquet files that Spark
then reads: one process does the reading, so for a billing table of hundreds of millions of rows use the jar.
"""

from __future__ import annotations

import atexit
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.sources.description import Table
from policies.errors import InvalidInputError, MissingExtraError, SchemaError, UnknownNameError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_BATCH = 65_536
_FETCH = 20_000
_DRIVERS = {
    "postgresql": "org.postgresql.Driver",
    "sqlite": "org.sqlite.JDBC",
    "mysql": "com.mysql.cj.jdbc.Driver",
    "derby": "org.apache.derby.iapi.jdbc.AutoloadedDriver",
    "sqlserver": "com.microsoft.sqlserver.jdbc.SQLServerDriver",
    "oracle": "oracle.jdbc.OracleDriver",
}


def read_database(spark: SparkSession, table: Table, place: str) -> DataFrame:
    """Read a table of a database.

    Raises
    ------
    InvalidInputError
        If there is no driver, no connection or no such file.
    SchemaError
        If there is no such table.
    """
    if not table.table:
        raise SchemaError(f'{masked(place)}: no `table` is named; add table = "NAME" to the description')
    if table.format == "sqlite":
        return _staged(spark, _sqlite_rows(Path(place), table))
    kind = place.split(":")[1] if place.startswith("jdbc:") else ""
    if not kind:
        raise InvalidInputError(
            f"{masked(place)} is not a JDBC URL; expected jdbc:postgresql://host/database or the like"
        )
    driver = _DRIVERS.get(kind, "")
    if driver and not _has_class(spark, driver):
        if kind == "postgresql":
            return _staged(spark, _postgres_rows(place, table))
        raise InvalidInputError(
            f"{masked(place)} needs the JDBC driver {driver}, which Spark does not have; "
            "put its jar on the class path: PYSPARK_SUBMIT_ARGS='--jars /path/to/driver.jar pyspark-shell'"
        )
    return _jdbc(spark, table, place, driver=driver)


def masked(url: str) -> str:
    """Hide a password in a URL, for messages."""
    return re.sub(r"(password=)[^&;]+|(//[^:/@]+:)[^@/]+(?=@)", lambda m: f"{m.group(1) or m.group(2)}…", url)


def _jdbc(spark: SparkSession, table: Table, url: str, *, driver: str) -> DataFrame:
    options = {"url": url, "fetchsize": str(_FETCH), **({"driver": driver} if driver else {})}
    try:
        whole = spark.read.format("jdbc").options(**options, dbtable=table.table)
        if not table.partition_column:
            return whole.load()
        dialects: Any = spark.sparkContext._jvm
        column = dialects.org.apache.spark.sql.jdbc.JdbcDialects.get(url).quoteIdentifier(table.partition_column)
        query = f"SELECT min({column}) AS lo, max({column}) AS hi FROM {table.table}"
        low, high = spark.read.format("jdbc").options(**options, query=query).load().collect()[0]
        if low is None:
            return whole.load()
        # Only the stride depends on the bounds: the first and last partitions are open, so no row is lost.
        bounds = {"lowerBound": str(low), "upperBound": str(high), "numPartitions": str(table.partitions)}
        return whole.options(partitionColumn=table.partition_column, **bounds).load()
    except Exception as error:
        text = masked(str(error).strip().splitlines()[0][:300])
        raise InvalidInputError(
            f"{masked(url)}: table {table.table!r} cannot be read ({text}); check the URL, the rights and the table's name"
        ) from error


def _has_class(spark: SparkSession, name: str) -> bool:
    from py4j.protocol import Py4JError

    jvm: Any = spark.sparkContext._jvm
    try:
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        jvm.java.lang.Class.forName(name, False, loader)
    except Py4JError:
        return False
    return True


def _sqlite_rows(path: Path, table: Table) -> Iterator[tuple[list[str], Sequence[Sequence[Any]]]]:
    if not path.is_file() or not path.stat().st_size:
        raise InvalidInputError(f"{path} is not there or empty; name the SQLite file in the description's `path`")
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            found = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
        except sqlite3.DatabaseError as error:
            raise InvalidInputError(f"{path} is not a SQLite database ({error}); correct `path` or `format`") from error
        if table.table not in found:
            raise SchemaError(f"{path}: {UnknownNameError('table', table.table, found)}")
        quoted = table.table.replace('"', '""')
        cursor = connection.execute(f'SELECT * FROM "{quoted}"')
        names = [column[0] for column in cursor.description]
        yield names, []
        while rows := cursor.fetchmany(_BATCH):
            yield names, rows


def _postgres_rows(url: str, table: Table) -> Iterator[tuple[list[str], Sequence[Sequence[Any]]]]:
    try:
        import psycopg
        from psycopg import sql
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    try:
        with (
            psycopg.connect(url.removeprefix("jdbc:")) as connection,
            connection.cursor(name="nextoffer_read") as cursor,
        ):
            cursor.itersize = _FETCH
            parts = sql.Identifier(*table.table.split("."))
            cursor.execute(sql.SQL("SELECT * FROM {}").format(parts))
            names = [column.name for column in cursor.description or ()]
            yield names, []
            while rows := cursor.fetchmany(_BATCH):
                yield names, rows
    except psycopg.Error as error:
        raise InvalidInputError(
            f"{masked(url)}: table {table.table!r} cannot be read ({masked(str(error).splitlines()[0])}); "
            "check the URL, the rights and the table's name"
        ) from error


def _staged(spark: SparkSession, batches: Iterator[tuple[list[str], Sequence[Sequence[Any]]]]) -> DataFrame:
    """Write batches as text columns (cast later by the described types) and read them with Spark."""
    folder = Path(tempfile.mkdtemp(prefix="nextoffer-database-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "rows.parquet"
    names, _ = next(batches)
    schema = pa.schema([(name, pa.string()) for name in names])
    with pq.ParquetWriter(target, schema) as writer:
        for _, rows in batches:
            columns = [pa.array([_text(row[i]) for row in rows], pa.string()) for i in range(len(names))]
            writer.write_table(pa.table(columns, schema=schema))
    return spark.read.parquet(str(target))


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("utf-8", "replace")
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat() if callable(isoformat) else value)
