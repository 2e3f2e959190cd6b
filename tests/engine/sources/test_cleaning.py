"""Reading and cleaning raw tables with Spark."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.sources.cleaning import CleanTable, DropShareError, clean
from engine.sources.description import Drop, Fix, Table
from engine.sources.reading import read_table
from policies.errors import InvalidInputError, SchemaError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def _clean(spark: SparkSession, table: Table, folder: Path, *, time_zone: str = "UTC") -> CleanTable:
    return clean(read_table(spark, "t", table, folder=folder, time_zone=time_zone), rejected=folder / "rejected")


def _counts(cleaned: CleanTable) -> dict[str, int]:
    return {rule.rule: rule.rows for rule in cleaned.rules if rule.rows}


def _rows(cleaned: CleanTable) -> list[dict[str, Any]]:
    return sorted((row.asDict() for row in cleaned.frame.collect()), key=str)


def test_every_planted_fault_is_counted_by_its_rule_and_kept_aside(spark: SparkSession, tmp_path: Path) -> None:
    """Each fault is dropped or changed by the rule that names it, and what is dropped lies unchanged in a side folder."""
    (tmp_path / "orders.csv").write_text(
        "who,amount,currency,at,note\n"
        "a,10,EUR,2024-01-01 10:00:00,fine\n"
        "a,10,EUR,2024-01-01 10:00:00,fine\n"  # a copy
        'b,20,USD,2024-01-02 10:00:00,"a, quoted"\n'  # changed to euro
        ",30,EUR,2024-01-03 10:00:00,nobody\n"
        "c,twelve,EUR,2024-01-04 10:00:00,words\n"
        "d,-5,EUR,2024-01-05 10:00:00,negative\n"
        "e,7,EUR,yesterday,no time\n"
    )
    table = Table(
        path="orders.csv",
        format="csv",
        columns={"who": "string", "amount": "double", "currency": "string", "at": "timestamp", "note": "string"},
        required=("who",),
        unique=("*",),
        drop=(Drop("negative", "amount < 0"),),
        fix=(Fix("dollars", "amount", "amount * 0.5", "currency = 'USD'"),),
        max_drop_share=0.5,
    )
    cleaned = _clean(spark, table, tmp_path)
    assert _counts(cleaned) == {
        "missing:who": 1,
        "wrong_type:at": 1,
        "negative": 1,
        "duplicate": 1,
        "dollars": 1,
        "wrong_type:amount": 1,
    }
    assert (cleaned.n_read, cleaned.n_kept) == (7, 2)
    assert [(row["who"], row["amount"], row["note"]) for row in _rows(cleaned)] == [
        ("a", 10.0, "fine"),
        ("b", 10.0, "a, quoted"),
    ]
    aside = pq.read_table(tmp_path / "rejected" / "t" / "wrong_type-amount").to_pylist()
    assert [row["amount"] for row in aside] == ["twelve"]


def test_a_rule_that_drops_too_much_stops_the_run(spark: SparkSession, tmp_path: Path) -> None:
    """Above its share a rule stops the run with its name, its count and rows to look at."""
    (tmp_path / "t.csv").write_text("who,amount\n" + "".join(f"s{i},{-1 if i < 4 else 1}\n" for i in range(10)))
    table = Table("t.csv", "csv", {"who": "string", "amount": "double"}, drop=(Drop("refund", "amount < 0", 0.3),))
    with pytest.raises(
        DropShareError, match=re.escape("rule 'refund' would drop 4 of 10 rows (40.0%; at most 30.0%")
    ) as info:
        _clean(spark, table, tmp_path)
    assert info.value.rule == "refund"
    assert "'who': 's0'" in str(info.value)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_missing_column_is_one_clear_error(spark: SparkSession, tmp_path: Path, form: str) -> None:
    """A declared column that the file lacks is named with the file and, where there is one, the nearest column."""
    path = tmp_path / f"t.{form}"
    if form == "csv":
        path.write_text("customer_id,amount\n1,2\n")
    elif form == "json":
        path.write_text('{"customer_id": 1, "amount": 2}\n')
    else:
        pq.write_table(pa.table({"customer_id": [1], "amount": [2.0]}), path)
    table = Table(path.name, form, {"customer": "string", "amount": "double"})  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="customer") as info:
        _clean(spark, table, tmp_path)
    assert str(path) in str(info.value)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_of_the_wrong_type_is_one_clear_error(spark: SparkSession, tmp_path: Path, form: str) -> None:
    """A column in which no value is of the declared type stops the run with an example."""
    path = tmp_path / f"t.{form}"
    if form == "csv":
        path.write_text("who,at\na,soon\nb,later\n")
    else:
        pq.write_table(pa.table({"who": ["a", "b"], "at": ["soon", "later"]}), path)
    table = Table(path.name, form, {"who": "string", "at": "timestamp"})  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=re.escape("column 'at' has the wrong type: none of 2 values is a timestamp")):
        _clean(spark, table, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "who,amount\n", "has columns but no rows"),
        ("t.json", "", "is empty"),
        ("t.parquet", "this is not parquet", "cannot be read as parquet"),
    ],
)
def test_an_empty_or_broken_file_is_one_clear_error(
    spark: SparkSession, tmp_path: Path, name: str, content: str, message: str
) -> None:
    """Nothing in the file, only a header, or another format: an input error that names the file."""
    (tmp_path / name).write_text(content)
    table = Table(name, name.split(".")[1], {"who": "string", "amount": "double"})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=message) as info:
        _clean(spark, table, tmp_path)
    assert str(tmp_path / name) in str(info.value)


def test_a_file_that_is_not_there_names_its_neighbour(spark: SparkSession, tmp_path: Path) -> None:
    """A misspelt file name is answered with the nearest file of the folder."""
    (tmp_path / "orders.csv").write_text("who\na\n")
    with pytest.raises(InvalidInputError, match=re.escape("does not exist")) as info:
        _clean(spark, Table("order.csv", "csv", {"who": "string"}), tmp_path)
    assert "did you mean 'orders.csv'" in str(info.value)


def test_malformed_lines_are_counted_not_swallowed(spark: SparkSession, tmp_path: Path) -> None:
    """A broken JSON line is set aside by a rule of its own; the others are read with their numbers unharmed."""
    lines = [json.dumps({"who": f"s{i}", "big": 9_007_199_254_740_993 + i}) for i in range(3)]
    (tmp_path / "t.json").write_text("\n".join([*lines, '{"who": "s4", ']) + "\n")
    cleaned = _clean(spark, Table("t.json", "json", {"who": "string", "big": "long"}, max_drop_share=0.3), tmp_path)
    assert _counts(cleaned) == {"malformed_line": 1}
    assert [row["big"] for row in _rows(cleaned)] == [9_007_199_254_740_993 + i for i in range(3)]


def test_times_of_every_kind_become_the_right_instants(spark: SparkSession, tmp_path: Path) -> None:
    """Local times follow the source's zone through a change of clocks, offsets win over it, days start and end at local midnight."""
    (tmp_path / "t.csv").write_text(
        "local,offset,day,last,micros\n"
        "2024-03-30 12:00:00,2024-03-30T12:00:00+05:00,2024-03-31,2024-03-31,1711800000000001\n"
        "2024-04-01 12:00:00,2024-03-30T12:00:00Z,2024-04-01,2024-04-01,0\n"
    )
    columns = {"local": "timestamp", "offset": "timestamp", "day": "date", "last": "day_end", "micros": "epoch_us"}
    rows = _rows(_clean(spark, Table("t.csv", "csv", columns), tmp_path, time_zone="Europe/Berlin"))
    first, second = [
        {name: value.replace(tzinfo=UTC) for name, value in row.items()}
        for row in sorted(rows, key=lambda r: str(r["local"]))
    ]
    assert first == {
        "local": datetime(2024, 3, 30, 11, tzinfo=UTC),  # winter: one hour
        "offset": datetime(2024, 3, 30, 7, tzinfo=UTC),
        "day": datetime(2024, 3, 30, 23, tzinfo=UTC),
        # The clocks change on this day: it has 23 hours and ends at 22:00 UTC.
        "last": datetime(2024, 3, 31, 21, 59, 59, 999_999, tzinfo=UTC),
        "micros": datetime(2024, 3, 30, 12, 0, 0, 1, tzinfo=UTC),
    }
    assert second["local"] == datetime(2024, 4, 1, 10, tzinfo=UTC)
    assert second["offset"] == datetime(2024, 3, 30, 12, tzinfo=UTC)


def test_ids_stored_as_numbers_read_as_ids(spark: SparkSession, tmp_path: Path) -> None:
    """A customer 17850.0 in one table and 17850 in another is the same subject; NaN is no subject."""
    pq.write_table(pa.table({"who": [17850.0, float("nan"), 12.5]}), tmp_path / "t.parquet")
    cleaned = _clean(
        spark, Table("t.parquet", "parquet", {"who": "string"}, required=("who",), max_drop_share=0.5), tmp_path
    )
    assert [row["who"] for row in _rows(cleaned)] == ["12.5", "17850"]
    assert _counts(cleaned) == {"missing:who": 1}
