"""Logs in Arrow, Parquet and pandas: checked column by column, errors name the column, the rule and the rows."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from offline_eval.censoring import RewardWindow, inverse_censoring, matured
from offline_eval.interop.columns import Columns
from policies.errors import InvalidInputError, SchemaError
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet

if TYPE_CHECKING:
    from offline_eval.estimated import EstimatedLog

# Metadata of a schema: the offers of the log in their order, each with its features.
OFFERS_KEY = b"nextoffer.offers"


def from_arrow(
    table: pa.Table,
    *,
    offers: OfferSet | Sequence[str] | None = None,
    columns: Columns | None = None,
    window: RewardWindow | None = None,
    is_weighted: bool = False,
) -> InteractionBatch:
    """A log from an Arrow table.

    Parameters
    ----------
    offers
        All offers in the order candidates' columns have; None takes those that the file describes, else those in the log, sorted.
    columns
        What the columns are called.
    window
        When rewards count and until when they are known: rows whose window is still open are left out, rewards after it count
        as none. Needs the columns ``at`` and ``rewarded_at``.
    is_weighted
        Keep the rows with open windows and weigh the rewards that came by their chance of being seen
        (``offline_eval.censoring.inverse_censoring``).

    Raises
    ------
    SchemaError, InvalidInputError, SupportError
        Naming the column, the rule and how many rows break it.
    """
    names = columns or Columns()
    _need(table.schema, (names.offer, names.reward, names.propensity))
    return _batch(table, names, offers=offers, window=window, is_weighted=is_weighted)


def estimated_from_arrow(
    table: pa.Table,
    *,
    offers: OfferSet | Sequence[str] | None = None,
    columns: Columns | None = None,
    window: RewardWindow | None = None,
    is_weighted: bool = False,
) -> EstimatedLog:
    """A log from an Arrow table without propensities: they are estimated, and panels on it say so and never recommend."""
    from offline_eval.estimated import estimate_propensities

    names = columns or Columns()
    _need(table.schema, (names.offer, names.reward))
    certain = pa.array(np.ones(table.num_rows))  # a place holder: estimates replace it before anyone can read it
    if names.propensity in table.column_names:
        table = table.drop_columns([names.propensity])
    if names.probabilities in table.column_names:
        table = table.drop_columns([names.probabilities])
    table = table.append_column(names.propensity, certain)
    return estimate_propensities(_batch(table, names, offers=offers, window=window, is_weighted=is_weighted))


def _batch(
    table: pa.Table,
    names: Columns,
    *,
    offers: OfferSet | Sequence[str] | None,
    window: RewardWindow | None,
    is_weighted: bool,
) -> InteractionBatch:
    if window is not None:
        return _closed(table, names, offers=offers, window=window, is_weighted=is_weighted)
    if names.matured in table.column_names:
        table = table.filter(pc.fill_null(table[names.matured], False))
    if table.num_rows == 0:
        raise InvalidInputError("the log has no rows (with a closed reward window); expected at least two decisions")
    shown = pc.cast(table[names.offer], pa.string())
    catalogue = _catalogue(_described(table.schema) if offers is None else offers, shown)
    chosen = _positions(shown, catalogue, names.offer)
    n, k = table.num_rows, len(catalogue)
    features = [c for c in table.column_names if c not in names.names()]
    return InteractionBatch(
        table=DecisionTable(
            offers=catalogue,
            eligible=_eligible(table, names, catalogue)
            if names.eligible in table.column_names
            else np.ones((n, k), dtype=np.bool_),
            columns={c: _feature(c, table[c]) for c in features if not pa.types.is_nested(table.schema.field(c).type)},
            vectors={c: _vector(c, table[c], n) for c in features if pa.types.is_nested(table.schema.field(c).type)},
            subjects=_text(table, names.subject),
            at=_time(table, names.at),
        ),
        chosen=chosen,
        propensity=_number(table, names.propensity),
        reward=_number(table, names.reward),
        probabilities=_lists(table, names.probabilities, k) if names.probabilities in table.column_names else None,
        decision_ids=_text(table, names.decision_id),
        policies=_text(table, names.policy),
        variants=_text(table, names.variant),
        phases=_text(table, names.phase),
        variant_probability=_number(table, names.variant_probability)
        if names.variant_probability in table.column_names
        else None,
    )


def _closed(
    table: pa.Table,
    names: Columns,
    *,
    offers: OfferSet | Sequence[str] | None,
    window: RewardWindow,
    is_weighted: bool,
) -> InteractionBatch:
    """A log whose rewards are known for some rows only, closed by one of the two ways there are."""
    _need(table.schema, (names.at, names.rewarded_at))
    if names.matured in table.column_names:
        table = table.drop_columns([names.matured])
    came = pc.is_valid(table[names.rewarded_at])
    rewarded = _time(table.set_column(table.column_names.index(names.rewarded_at), names.rewarded_at,
                                      pc.coalesce(table[names.rewarded_at], table[names.at])), names.rewarded_at)  # fmt: skip
    reward = pc.fill_null(table[names.reward], 0)
    table = table.set_column(table.column_names.index(names.reward), names.reward, reward)
    log = _batch(table, names, offers=offers, window=None, is_weighted=False)
    assert log.table.at is not None
    assert rewarded is not None
    delay = np.where(np.asarray(came), (rewarded - log.table.at) / np.timedelta64(1, "D"), np.nan)
    early = int(np.count_nonzero(delay < 0))
    if early:
        raise InvalidInputError(
            f"column {names.rewarded_at!r} lies before {names.at!r} in {early} rows; expected rewards after their decision"
        )
    return (inverse_censoring if is_weighted else matured)(log, window, delay)


def from_pandas(
    frame: Any,
    *,
    offers: OfferSet | Sequence[str] | None = None,
    columns: Columns | None = None,
    window: RewardWindow | None = None,
    is_weighted: bool = False,
) -> InteractionBatch:
    """A log from a pandas data frame (which brings its own pandas); see ``from_arrow``."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return from_arrow(table, offers=offers, columns=columns, window=window, is_weighted=is_weighted)


def read_parquet(
    path: Path | str,
    *,
    offers: OfferSet | Sequence[str] | None = None,
    columns: Columns | None = None,
    window: RewardWindow | None = None,
    is_weighted: bool = False,
) -> InteractionBatch:
    """A log from a Parquet file or folder, whole in memory; see ``from_arrow``."""
    return from_arrow(read_table(path), offers=offers, columns=columns, window=window, is_weighted=is_weighted)


def read_table(path: Path | str) -> pa.Table:
    """A Parquet file or folder, or a CSV file, as an Arrow table."""
    if Path(path).name.endswith((".csv", ".csv.gz")):
        from pyarrow import csv

        return csv.read_csv(path)
    return _dataset(path).to_table()


@dataclass(frozen=True, eq=False)
class ParquetLog:
    """A Parquet file or folder read in parts: ``evaluate`` needs memory for one part, whatever the size.

    Parameters
    ----------
    offers
        All offers; None reads the offer column once to find them.
    """

    path: Path | str
    catalogue: OfferSet | Sequence[str] | None = None
    columns: Columns | None = None

    @property
    def offers(self) -> OfferSet:
        """Offers of all rows."""
        known = self.__dict__.get("_offers")
        if known is None:
            names = self.columns or Columns()
            data = _dataset(self.path)
            _need(data.schema, (names.offer, names.reward, names.propensity))
            if self.catalogue is None and (described := _described(data.schema)) is not None:
                known = described
            elif self.catalogue is None:
                found: set[str] = set()
                for batch in data.to_batches(columns=[names.offer]):
                    found |= set(pc.unique(pc.cast(batch.column(0), pa.string())).to_pylist())
                known = _catalogue(sorted(str(f) for f in found), None)
            else:
                known = _catalogue(self.catalogue, None)
            self.__dict__["_offers"] = known
        assert isinstance(known, OfferSet)
        return known

    def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
        """Consecutive parts of at most ``n_rows`` rows."""
        names = self.columns or Columns()
        for batch in _dataset(self.path).to_batches(batch_size=n_rows, batch_readahead=1, fragment_readahead=1):
            part = pa.Table.from_batches([batch])
            if names.matured in part.column_names:
                part = part.filter(pc.fill_null(part[names.matured], False))
            if part.num_rows:
                yield from_arrow(part, offers=self.offers, columns=names)


def to_arrow(batch: InteractionBatch) -> pa.Table:
    """A log as an Arrow table with the default column names; ``from_arrow`` reads it back."""
    names = Columns()
    ids = np.asarray(batch.table.offers.ids)
    data: dict[str, Any] = {
        names.offer: ids[batch.chosen],
        names.reward: batch.reward,
        names.propensity: batch.propensity,
        **batch.table.columns,
        **{name: pa.array(list(block)) for name, block in batch.table.vectors.items()},
    }
    for name, column in (
        (names.subject, batch.table.subjects),
        (names.at, batch.table.at),
        (names.decision_id, batch.decision_ids),
        (names.policy, batch.policies),
        (names.variant, batch.variants),
        (names.phase, batch.phases),
        (names.variant_probability, batch.variant_probability),
    ):
        if column is not None:
            data[name] = column
    if batch.probabilities is not None:
        data[names.probabilities] = pa.array(list(batch.probabilities))
    if not batch.table.eligible.all():
        data[names.eligible] = pa.array([list(ids[row]) for row in batch.table.eligible])
    described = json.dumps([{"id": o.id, "features": dict(o.features)} for o in batch.table.offers])
    return pa.table(data).replace_schema_metadata({OFFERS_KEY: described})


def _described(schema: pa.Schema) -> OfferSet | None:
    """Offers with their features, where ``to_arrow`` wrote the log: a column holds only the ids of those shown."""
    text = (schema.metadata or {}).get(OFFERS_KEY)
    if text is None:
        return None
    return OfferSet([Offer(OfferId(o["id"]), o["features"]) for o in json.loads(text)])


def write_parquet(batch: InteractionBatch, path: Path | str) -> None:
    """Write a log as one Parquet file."""
    pq.write_table(to_arrow(batch), path, row_group_size=1 << 16)


def _dataset(path: Path | str) -> Any:
    if not Path(path).exists():
        raise InvalidInputError(f"{path} does not exist; expected a Parquet file or a folder of them")
    try:
        data = ds.dataset(path, format="parquet")
        files = [f.physical_schema for f in data.get_fragments()]
        if len(files) < 2:
            return data
        # A log that grows by files has its later features and offers in the later files only.
        described = {o["id"]: o for schema in files for o in json.loads((schema.metadata or {}).get(OFFERS_KEY, b"[]"))}
        whole = pa.unify_schemas([schema.remove_metadata() for schema in files])
        if described:
            whole = whole.with_metadata({OFFERS_KEY: json.dumps(list(described.values()))})
        return ds.dataset(path, format="parquet", schema=whole)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInputError(
            f"{path} is not readable as Parquet ({error}); write it again or pass another file"
        ) from error


def _need(schema: pa.Schema, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=2, cutoff=0.4)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise SchemaError(
                f"the log has no column {name!r}; its columns are {', '.join(schema.names[:20])}: {hint}"
                "pass columns=Columns(...) with the names it has"
            )


def _catalogue(offers: OfferSet | Sequence[str] | None, shown: Any) -> OfferSet:
    if isinstance(offers, OfferSet):
        return offers
    if offers is None:
        offers = sorted(str(o) for o in pc.unique(shown).to_pylist() if o is not None)
    return OfferSet([Offer(OfferId(o)) for o in offers])


def _positions(shown: Any, catalogue: OfferSet, name: str) -> NDArray[np.int64]:
    found = pc.index_in(shown, value_set=pa.array(catalogue.ids, pa.string()))
    missing = found.null_count
    if missing:
        unknown = pc.unique(shown.filter(pc.is_null(found))).to_pylist()[:3]
        raise InvalidInputError(
            f"column {name!r} names offers that are not in the offer set in {missing} rows, such as {unknown}; add them to offers="
        )
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _number(table: pa.Table, name: str) -> NDArray[np.float64]:
    column = table[name]
    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
        or pa.types.is_decimal(column.type)
    ):
        raise SchemaError(f"column {name!r} has type {column.type}; expected numbers")
    if column.null_count:
        raise InvalidInputError(
            f"column {name!r} is missing in {column.null_count} rows; leave out rows whose outcome is not known yet"
        )
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)


def _text(table: pa.Table, name: str) -> NDArray[np.str_] | None:
    if name not in table.column_names:
        return None
    column = table[name]
    if column.null_count:
        raise InvalidInputError(f"column {name!r} is missing in {column.null_count} rows; expected a text in every row")
    return np.asarray(pc.cast(column, pa.string()).to_pylist(), dtype=np.str_)


def _time(table: pa.Table, name: str) -> NDArray[np.datetime64] | None:
    if name not in table.column_names:
        return None
    try:
        column = pc.cast(table[name], pa.timestamp("us"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        try:
            column = pc.cast(pc.cast(table[name], pa.timestamp("us", "UTC")), pa.timestamp("us"))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(f"column {name!r} has type {table[name].type} ({error}); expected timestamps") from error
    if column.null_count:
        raise InvalidInputError(f"column {name!r} is missing in {column.null_count} rows; expected a time in every row")
    return np.asarray(column.to_numpy(), dtype="datetime64[us]")


def _feature(name: str, column: Any) -> NDArray[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.asarray(pc.fill_null(column, "").to_pylist(), dtype=np.str_)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64())
    try:
        return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), float("nan")).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"context column {name!r} has type {kind}; expected numbers, text or booleans: name it in Columns(ignore=...)"
        ) from error


def _flat(table_column: Any) -> tuple[Any, Any]:
    combined = table_column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        combined = combined.chunk(0)
    return pc.list_value_length(combined), pc.list_flatten(combined)


def _lists(table: pa.Table, name: str, k: int) -> NDArray[np.float64]:
    lengths, values = _flat(table[name])
    off = int(pc.sum(pc.fill_null(pc.not_equal(lengths, k), True)).as_py() or 0)
    if off:
        raise SchemaError(
            f"column {name!r} has lists of another length than {k} in {off} rows; expected one number per offer"
        )
    return np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64).reshape(-1, k)


def _vector(name: str, column: Any, n: int) -> NDArray[np.float32]:
    lengths, values = _flat(column)
    width = lengths[0].as_py() if len(lengths) else 0
    off = int(pc.sum(pc.fill_null(pc.not_equal(lengths, width or 0), True)).as_py() or 0)
    if off or not width or not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise SchemaError(
            f"context column {name!r} is a list of numbers of different lengths or of {values.type}; "
            "expected the same length in every row: name it in Columns(ignore=...)"
        )
    return np.asarray(pc.cast(values, pa.float32()).to_numpy(zero_copy_only=False), dtype=np.float32).reshape(n, width)


def _eligible(table: pa.Table, names: Columns, catalogue: OfferSet) -> NDArray[np.bool_]:
    lengths, values = _flat(table[names.eligible])
    positions = _positions(pc.cast(values, pa.string()), catalogue, names.eligible)
    rows = np.repeat(np.arange(table.num_rows), np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64))
    out = np.zeros((table.num_rows, len(catalogue)), dtype=np.bool_)
    out[rows, positions] = True
    return out
