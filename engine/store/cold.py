"""The cold path: facts that retention has taken out of the store, as Parquet files, each whole or absent.

``cold/events/…parquet`` and ``cold/decisions/…parquet`` hold the columns of their tables as they were; the names of files are
the offsets they hold, so that writing one again after a crash changes nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.store.bodies import stripped
from policies.errors import StoreUnavailableError

SCHEMAS: dict[str, Any] = {
    "events": pa.schema(
        [
            ("ledger_offset", pa.int64()),
            ("id", pa.string()),
            ("subject", pa.string()),
            ("kind", pa.string()),
            ("item", pa.string()),
            ("value", pa.float64()),
            ("at_us", pa.int64()),
        ]
    ),
    "decisions": pa.schema(
        [
            ("ledger_offset", pa.int64()),
            ("id", pa.string()),
            ("placement", pa.string()),
            ("subject", pa.string()),
            ("at_us", pa.int64()),
            ("is_activated", pa.bool_()),
            ("experiment", pa.string()),
            ("phase", pa.int64()),
            ("variant", pa.string()),
            ("policy", pa.string()),
            ("offer", pa.string()),
            ("propensity", pa.float64()),
            ("body", pa.binary()),
        ]
    ),
}


def write_cold(folder: Path, what: str, rows: Sequence[Sequence[Any]]) -> Path:
    """Write rows of a table, in order of their offsets, and return when the file is on disk."""
    schema = SCHEMAS[what]
    arrays = [
        # SQLite has no booleans
        pa.array([bool(v) for v in column] if field.type == pa.bool_() else column, field.type)
        for field, column in zip(schema, zip(*rows, strict=True), strict=True)
    ]
    table = pa.Table.from_arrays(arrays, schema=schema)
    path = folder / what / f"{rows[0][0]:012d}-{rows[-1][0]:012d}.parquet"
    write_whole(table, path)
    return path


def write_whole(table: Any, path: Path) -> None:
    """Write a Parquet file that appears whole, and is on disk when this returns.

    Raises
    ------
    StoreUnavailableError
        If the disk is full or the folder cannot be written; nothing is left behind then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise StoreUnavailableError(f"cannot write {path} ({error}); check the folder and disk space") from error
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=1 << 16)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).chmod(0o640)
        Path(scratch).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        Path(scratch).unlink(missing_ok=True)
        raise StoreUnavailableError(f"cannot write {path} ({error}); check the folder and disk space") from error
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_cold(folder: Path, what: str) -> Any:
    """All rows of a kind in the cold path, in order, as an Arrow table."""
    files = sorted((folder / what).glob("*.parquet"))
    if not files:
        return SCHEMAS[what].empty_table()
    return pa.concat_tables([pq.read_table(f, schema=SCHEMAS[what]) for f in files])


def forget_in_cold(folder: Path, ids: Sequence[str], pseudonym: str, *, decision_ids: Mapping[str, str]) -> int:
    """Write anew each file that names some subjects: their events go, their decisions keep what counts; return how many.

    Parameters
    ----------
    decision_ids
        What their decisions are called in the store now.
    """
    n = 0
    wanted = pa.array(ids, pa.string())
    for what, schema in SCHEMAS.items():
        for path in sorted((folder / what).glob("*.parquet")):
            is_theirs = pc.is_in(pq.read_table(path, columns=["subject"])["subject"], value_set=wanted)
            if not pc.any(is_theirs).as_py():
                continue
            table = pq.read_table(path, schema=schema)
            if what == "events":
                table = table.filter(pc.invert(is_theirs))
            else:
                body = [
                    stripped(b) if mine else b
                    for b, mine in zip(table["body"].to_pylist(), is_theirs.to_pylist(), strict=True)
                ]
                subject = pc.if_else(is_theirs, pseudonym, table["subject"])
                names = [decision_ids.get(i, i) for i in table["id"].to_pylist()]
                table = table.set_column(1, schema.field("id"), pa.array(names, pa.string()))
                table = table.set_column(3, schema.field("subject"), subject)
                table = table.set_column(12, schema.field("body"), pa.array(body, pa.binary()))
            write_whole(table, path)
            n += 1
    return n
