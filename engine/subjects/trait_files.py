"""Load traits from Parquet: one row a subject, every other column a trait; null is no trait."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from policies.errors import InvalidInputError
from policies.records import Features

_ROWS = 20_000
Load = Callable[[Mapping[str, Features]], None]


def load_trait_files(folder: Path, load: Load) -> int:
    """Hand the rows of a Parquet file, or of a folder of them, to ``load`` in parts; returns how many subjects.

    Raises
    ------
    InvalidInputError
        If there is no file, no column ``subject`` or no other column, or a subject comes twice.
    """
    import pyarrow.parquet as pq

    files = [folder] if folder.is_file() else sorted(folder.glob("*.parquet"))
    if not files:
        raise InvalidInputError(
            f"{folder} holds no Parquet file; write one with a column `subject` and a column for each trait, or run `nextoffer train score`"
        )
    for path in files:
        names = pq.read_schema(path).names
        if "subject" not in names or len(names) < 2:
            raise InvalidInputError(
                f"{path} has the columns {', '.join(names)}; expected `subject` and at least one trait"
            )
    seen: set[str] = set()
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS):
            rows = batch.to_pylist()
            part = {row["subject"]: _features(row) for row in rows}
            twice = len(part) < len(rows) or not seen.isdisjoint(part)
            if twice:
                raise InvalidInputError(
                    f"{path} names a subject that came before; traits are one row a subject: keep its latest row"
                )
            seen |= part.keys()
            load(part)
    return len(seen)


def _features(row: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in row.items() if name != "subject" and value is not None}
    return {name: value for name, value in known.items() if not (isinstance(value, float) and math.isnan(value))}
