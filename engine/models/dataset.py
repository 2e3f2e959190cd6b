"""Decision points in memory: ragged sequences as flat values plus offsets, and columns beside them.

This is what every propensity model is fitted on, whatever its framework. Rows whose label window is
not over (``is_matured`` false) have label ``nan``: they can be scored, never trained on or judged by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from policies.errors import InvalidInputError, SchemaError
from policies.records import BoolArray, FloatArray, IntArray

Split = Literal["train", "validation", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "calibration", "test")
SEQUENCE_COLUMNS = ("event_type", "item", "gap_s", "value")
TABULAR_PREFIXES = ("agg_", "customer_", "offer_")
_REQUIRED = ("subject", "offer", "as_of", *SEQUENCE_COLUMNS, "gap_to_as_of_s", "label", "is_matured", "split")


@dataclass(frozen=True, slots=True, eq=False)
class SequenceDataset:
    """n decision points with m events in all.

    Parameters
    ----------
    event_type, item
        Vocabulary ids, 0 is unknown, shape ``(m,)``, int32; oldest first within a row.
    gap_s
        Seconds since the previous event of the row, 0 for its first, shape ``(m,)``, int32.
    value
        Amount of each event, shape ``(m,)``, float32.
    offsets
        Row i holds events ``offsets[i]:offsets[i + 1]``, shape ``(n + 1,)``, int64.
    gap_to_as_of_s
        Seconds from the last event to the decision, shape ``(n,)``, int32.
    columns
        ``agg_*``, ``customer_*`` and ``offer_*`` by name, each ``(n,)``: float64 (``nan`` missing) or text (``""`` missing).
    label
        The outcome, shape ``(n,)``, ``nan`` where it is not known yet.
    is_matured
        Whether the label's window is over, shape ``(n,)``.
    subject, offer, split
        Text of shape ``(n,)``.
    as_of
        When, shape ``(n,)``, ``datetime64[us]`` in UTC.
    manifest
        What the writer of the decision points says about them (vocabularies, label, split).
    kept
        A second outcome that implies the first, shape ``(n,)``, ``nan`` where it is not known yet; None where the source has none.
    """

    event_type: NDArray[np.int32]
    item: NDArray[np.int32]
    gap_s: NDArray[np.int32]
    value: NDArray[np.float32]
    offsets: IntArray
    gap_to_as_of_s: NDArray[np.int32]
    columns: Mapping[str, NDArray[Any]]
    label: FloatArray
    is_matured: BoolArray
    subject: NDArray[np.str_]
    offer: NDArray[np.str_]
    split: NDArray[np.str_]
    as_of: NDArray[np.datetime64]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    kept: FloatArray | None = None

    def __post_init__(self) -> None:
        n, m = len(self.offsets) - 1, len(self.event_type)
        for name in SEQUENCE_COLUMNS:
            if getattr(self, name).shape != (m,):
                raise SchemaError(f"{name} has shape {getattr(self, name).shape}; expected ({m},), one value per event")
        for name in ("gap_to_as_of_s", "label", "is_matured", "subject", "offer", "split", "as_of"):
            if getattr(self, name).shape != (n,):
                raise SchemaError(f"{name} has shape {getattr(self, name).shape}; expected ({n},), one value per row")
        for name, column in self.columns.items():
            if column.shape != (n,) or column.dtype.kind not in "fU":
                raise SchemaError(
                    f"column {name!r} has shape {column.shape} and type {column.dtype}; expected ({n},) of float64 or text"
                )
        if self.offsets[0] != 0 or self.offsets[-1] != m or (np.diff(self.offsets) < 0).any():
            raise SchemaError(f"offsets must rise from 0 to the number of events ({m}); found {self.offsets[[0, -1]]}")
        if self.kept is not None and (
            self.kept.shape != (n,) or (np.nan_to_num(self.kept) > np.nan_to_num(self.label, nan=1.0)).any()
        ):
            raise SchemaError(
                f"kept has shape {self.kept.shape} or is 1 where the label is 0; expected ({n},), and that keeping implies the label: "
                "correct [kept] in the source description"
            )
        odd = self.is_matured & ~np.isfinite(self.label)
        if odd.any():
            raise InvalidInputError(
                f"{int(odd.sum())} matured rows have no label, the first at row {int(np.argmax(odd))}; "
                "a row whose window is over must say what came of it: rebuild the decision points"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """Number of events of each row, shape ``(n,)``."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[Any]) -> SequenceDataset:
        """Return the chosen rows (positions or a mask), in the order asked for."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        events = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        per_row = {
            f.name: getattr(self, f.name)[rows]
            for f in fields(self)
            if f.name not in (*SEQUENCE_COLUMNS, "offsets", "columns", "manifest") and getattr(self, f.name) is not None
        }
        return replace(
            self,
            **{name: getattr(self, name)[events] for name in SEQUENCE_COLUMNS},
            **per_row,
            offsets=offsets,
            columns={name: column[rows] for name, column in self.columns.items()},
        )

    def part(self, *splits: Split) -> SequenceDataset:
        """Matured rows of the splits named: the only rows that may be trained on or judged by."""
        return self.take(np.isin(self.split, splits) & self.is_matured)

    def with_columns(self, columns: Mapping[str, NDArray[Any]]) -> SequenceDataset:
        """Return the same rows with other columns beside the sequence."""
        return replace(self, columns=dict(columns))

    def padded(self, rows: IntArray, *, length: int | None = None) -> dict[str, NDArray[Any]]:
        """Events of the chosen rows as ``(len(rows), t)`` arrays, padded with 0 at the end, plus ``lengths``.

        Rows without events get ``t >= 1`` and length 0. Where ``length`` is given, only the last ``length`` events are kept.
        """
        lengths = self.lengths[rows]
        kept = lengths if length is None else np.minimum(lengths, length)
        width = max(1, int(kept.max(initial=0)))
        positions = np.arange(width)[None, :]
        inside = positions < kept[:, None]
        source = np.where(inside, (self.offsets[rows] + lengths - kept)[:, None] + positions, 0)
        out: dict[str, NDArray[Any]] = {"lengths": kept.astype(np.int64)}
        for name in SEQUENCE_COLUMNS:
            values = getattr(self, name)
            out[name] = (
                np.where(inside, values[source], 0).astype(values.dtype)
                if len(values)
                else np.zeros(source.shape, values.dtype)
            )
        return out

    def to_arrow(self) -> pa.Table:
        """Write the rows back in the form of decision points (the seam's schema)."""
        offsets = pa.array(self.offsets, pa.int32())
        arrays: dict[str, pa.Array] = {
            "subject": pa.array(self.subject.tolist(), pa.string()),
            "offer": pa.array(self.offer.tolist(), pa.string()),
            "as_of": pa.array(self.as_of, pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC")),
        }
        for name in SEQUENCE_COLUMNS:
            arrays[name] = pa.ListArray.from_arrays(offsets, pa.array(getattr(self, name)))
        arrays["gap_to_as_of_s"] = pa.array(self.gap_to_as_of_s)
        for name, column in self.columns.items():
            if column.dtype.kind == "f":
                arrays[name] = pa.array(column, from_pandas=True)
            else:
                arrays[name] = pa.array([text or None for text in column.tolist()], pa.string())
        arrays["label"] = pa.array(self.label, from_pandas=True)
        arrays["is_matured"] = pa.array(self.is_matured)
        if self.kept is not None:
            arrays["kept"] = pa.array(self.kept, from_pandas=True)
        arrays["split"] = pa.array(self.split.tolist(), pa.string())
        return pa.table(arrays)

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, NDArray[Any]],
        *,
        label: FloatArray,
        subject: NDArray[np.str_],
        is_matured: BoolArray | None = None,
        offer: NDArray[np.str_] | None = None,
        split: NDArray[np.str_] | None = None,
        as_of: NDArray[np.datetime64] | None = None,
    ) -> Self:
        """Rows without events: a plain table of sessions or enrolments, one row a decision point.

        Parameters
        ----------
        is_matured, offer, split, as_of
            As in the dataset; by default all matured, one offer, all in ``train``, at the epoch.
        """
        n = len(label)
        none = np.zeros(0)
        return cls(
            event_type=none.astype(np.int32),
            item=none.astype(np.int32),
            gap_s=none.astype(np.int32),
            value=none.astype(np.float32),
            offsets=np.zeros(n + 1, dtype=np.int64),
            gap_to_as_of_s=np.zeros(n, dtype=np.int32),
            columns=dict(columns),
            label=label,
            is_matured=np.ones(n, dtype=np.bool_) if is_matured is None else is_matured,
            subject=subject,
            offer=np.full(n, "all") if offer is None else offer,
            split=np.full(n, "train") if split is None else split,
            as_of=np.zeros(n, dtype="datetime64[us]") if as_of is None else as_of,
        )

    @classmethod
    def from_arrow(cls, table: pa.Table, *, manifest: Mapping[str, Any] | None = None) -> Self:
        """Read decision points.

        Raises
        ------
        SchemaError
            If a column is missing or a split has an unknown name.
        """
        missing = [name for name in _REQUIRED if name not in table.column_names]
        if missing:
            raise SchemaError(
                f"decision points lack the column(s) {', '.join(missing)}; found {', '.join(table.column_names)}: "
                "build them with `nextoffer sequences build`"
            )
        if not table.num_rows:
            raise InvalidInputError("the decision points are empty; check the source and its cleaning report")
        offsets, events = _ragged(table)
        split = _text(table, "split")
        unknown = sorted(set(split.tolist()) - set(SPLITS))
        if unknown:
            raise SchemaError(f"split holds {', '.join(map(repr, unknown))}; expected {', '.join(SPLITS)}")
        matured = _numpy(table, "is_matured").astype(np.bool_)
        label = _numpy(table, "label").astype(np.float64)
        return cls(
            **events,
            offsets=offsets,
            gap_to_as_of_s=np.nan_to_num(_numpy(table, "gap_to_as_of_s")).astype(np.int32),
            columns={n: _column(table, n) for n in table.column_names if n.startswith(TABULAR_PREFIXES)},
            label=np.where(matured, label, np.nan),
            is_matured=matured,
            subject=_text(table, "subject"),
            offer=_text(table, "offer"),
            split=split,
            as_of=_numpy(table, "as_of").astype("datetime64[us]"),
            manifest=dict(manifest or {}),
            kept=_numpy(table, "kept").astype(np.float64) if "kept" in table.column_names else None,
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read decision points: Parquet files in ``folder/points`` (or in the folder itself) and ``manifest.json``.

        Rows and manifest are of one build, also where another is put in its place meanwhile.

        Raises
        ------
        SchemaError
            If the folder holds no Parquet file.
        """
        points, about = points_and_manifest(folder)
        files = _files_in(points)
        if not files:
            raise SchemaError(
                f"{points} holds no Parquet files; build decision points with `nextoffer sequences build --out {folder}`"
            )
        manifest = json.loads(about.read_text()) if about is not None else {}
        table = pa.concat_tables([pq.ParquetFile(path).read() for path in files], promote_options="permissive")
        return cls.from_arrow(table, manifest={**manifest, "folder": str(points)})


def point_files(folder: Path) -> list[Path]:
    """The Parquet files of decision points below a folder that was built, or that holds nothing else, in the order of their rows."""
    return _files_in(points_and_manifest(folder)[0])


def points_and_manifest(folder: Path) -> tuple[Path, Path | None]:
    """Folder of decision points, links followed, and its manifest, if there is one.

    Followed once, for a new build may change the link between two files; the manifest in the folder of a build is that of its rows.
    """
    named = folder / "points" if (folder / "points").is_dir() else folder
    points = named.resolve()
    places = (points / "_manifest.json", folder / "manifest.json", named.parent / "manifest.json")
    return points, next((file for file in places if file.is_file()), None)


def _files_in(points: Path) -> list[Path]:
    if files := sorted(points.glob("*.parquet")):
        return files
    below = [(file, file.relative_to(points).parts) for file in points.rglob("*.parquet")]
    return sorted(f for f, parts in below if not any(p.startswith((".", "_")) or p == "rejected" for p in parts))


def _ragged(table: pa.Table) -> tuple[IntArray, dict[str, Any]]:
    lengths: IntArray | None = None
    events: dict[str, Any] = {}
    for name in SEQUENCE_COLUMNS:
        column = table[name].combine_chunks()
        own = np.nan_to_num(pc.list_value_length(column).to_numpy(zero_copy_only=False)).astype(np.int64)
        if lengths is not None and not np.array_equal(lengths, own):
            row = int(np.argmax(lengths != own))
            raise SchemaError(
                f"{name} has {own[row]} events in row {row}, event_type has {lengths[row]}; lists must be parallel"
            )
        lengths = own
        kind = np.float32 if name == "value" else np.int32
        events[name] = pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(kind)
    return np.concatenate([[0], np.cumsum(cast(IntArray, lengths))]).astype(np.int64), events


def _numpy(table: pa.Table, name: str) -> NDArray[Any]:
    return cast(NDArray[Any], table[name].to_numpy())


def _text(table: pa.Table, name: str) -> NDArray[np.str_]:
    return np.asarray(["" if v is None else str(v) for v in table[name].to_pylist()], dtype=np.str_)


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    kind = table[name].type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return _text(table, name)
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise SchemaError(f"column {name!r} has type {kind}; expected a number or text")
    return cast(NDArray[Any], table[name].cast(pa.float64()).to_numpy()).astype(np.float64)
