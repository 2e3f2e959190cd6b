"""Logs in Arrow, Parquet and pandas: checked column by column, errors name the column, the rule and the rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from offline_eval.censoring import RewardWindow, inverse_censoring, matured
from offline_eval.interop import reading
from offline_eval.interop.columns import Columns
from policies.errors import InvalidInputError, SchemaError
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet

if TYPE_CHECKING:
    from offline_eval.estimated import EstimatedLog

# Metadata of a schema: the offers of the log in their order, each with its features.
OFFERS_KEY = b"nextoffer.offers"
# Metadata of a schema: rewards are weighted, and have means only.
WEIGHTED_KEY = b"nextoffer.is_reward_weighted"


def from_arrow(
    table: pa.Table,
    *,
    offers: OfferSet | Sequence[str] | None = None,
    columns: Columns | None = None,
    window: RewardWindow | None = None,
    is_weighted: bool = False,
) -> InteractionBatch:
    """A log from an Arrow table, or from what gives one (data frames of pandas and Polars, results of DuckDB).

    Parameters
    ----------
    offers
        All offers in the order candidates' columns have; None takes those that the file describes, else those that were shown
        or eligible in the log, sorted.
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
    names, table = columns or Columns(), _as_table(table)
    reading.need(table.schema, names, ("offer", "reward", "propensity"))
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

    names, table = columns or Columns(), _as_table(table)
    reading.need(table.schema, names, ("offer", "reward"))
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
    logged, table = table.num_rows, _closed_rows(table, names, None)
    if table.num_rows == 0:
        found = (
            f"the reward window of none of its {logged} rows is over ({names.matured!r})"
            if logged
            else "the log has no rows"
        )
        raise InvalidInputError(
            f"{found}; expected at least two decisions whose reward is known: wait, or pass another log"
        )
    shown = reading.offer_names(table, names.offer)
    known = offers if offers is not None else _described(table.schema) or sorted(reading.distinct_offers(table, names))
    catalogue = reading.catalogue_of(known)
    chosen = reading.positions(shown, catalogue, names.offer)
    eligible = reading.eligible(table, names, catalogue, chosen)
    propensity = reading.propensities(table, names.propensity)
    features = [c for c in table.column_names if c not in names.names()]
    is_nested = {c: pa.types.is_nested(table.schema.field(c).type) for c in features}
    return InteractionBatch(
        table=DecisionTable(
            offers=catalogue,
            eligible=eligible,
            columns={c: reading.feature(c, table[c]) for c in features if not is_nested[c]},
            vectors={c: reading.vector(c, table[c], table.num_rows) for c in features if is_nested[c]},
            subjects=reading.text(table, names.subject),
            at=reading.times(table, names.at),
        ),
        chosen=chosen,
        propensity=propensity,
        reward=reading.rewards(table, names.reward),
        probabilities=reading.distributions(table, names, catalogue, chosen=chosen, propensity=propensity),
        decision_ids=reading.text(table, names.decision_id),
        policies=reading.text(table, names.policy),
        variants=reading.text(table, names.variant),
        phases=reading.text(table, names.phase),
        variant_probability=_variant_probability(table, names.variant_probability),
        is_reward_weighted=WEIGHTED_KEY in (table.schema.metadata or {}),
    )


def _variant_probability(table: pa.Table, name: str) -> FloatArray | None:
    if name not in table.column_names:
        return None
    return reading.numbers(table, name, missing="expected the chance of the variant in every row")


def _closed(
    table: pa.Table,
    names: Columns,
    *,
    offers: OfferSet | Sequence[str] | None,
    window: RewardWindow,
    is_weighted: bool,
) -> InteractionBatch:
    """A log whose rewards are known for some rows only, closed by one of the two ways there are."""
    reading.need(table.schema, names, ("at", "rewarded_at"))
    if names.matured in table.column_names:
        table = table.drop_columns([names.matured])
    came = pc.is_valid(table[names.rewarded_at])
    table = _known_rewards(table, names, came)
    rewarded = reading.times(_filled(table, names.rewarded_at, names.at), names.rewarded_at)
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


def _known_rewards(table: pa.Table, names: Columns, came: Any) -> pa.Table:
    """Rewards with 0 where nothing came; what says at once that one came and that none did is refused, never taken for 0."""
    given = table[names.reward]
    unsaid = pc.sum(pc.and_(came, pc.is_null(given))).as_py() or 0
    if unsaid:
        raise InvalidInputError(
            f"column {names.reward!r} is missing in {unsaid} rows in which {names.rewarded_at!r} says that a reward came; expected both "
            "or neither: write the reward, or leave the time out where nothing came"
        )
    table = table.set_column(table.column_names.index(names.reward), names.reward, pc.fill_null(given, 0))
    undated = (reading.rewards(table, names.reward) != 0) & ~np.asarray(came)
    if undated.any():
        raise InvalidInputError(
            f"column {names.rewarded_at!r} is missing in {int(undated.sum())} rows, the first at {int(np.argmax(undated))}, in which "
            f"{names.reward!r} is not 0; expected when each reward came: write the time, or leave these rows out, or drop the window "
            "if all rewards count"
        )
    return table


def _filled(table: pa.Table, name: str, other: str) -> pa.Table:
    """Moments that are missing replaced by those of another column, so that what is left is what was written."""
    filled = pc.coalesce(table[name], pc.cast(table[other], table[name].type))
    return table.set_column(table.column_names.index(name), name, filled)


def from_pandas(
    frame: Any,
    *,
    offers: OfferSet | Sequence[str] | None = None,
    columns: Columns | None = None,
    window: RewardWindow | None = None,
    is_weighted: bool = False,
) -> InteractionBatch:
    """A log from a pandas data frame (which brings its own pandas); see ``from_arrow``."""
    return from_arrow(frame, offers=offers, columns=columns, window=window, is_weighted=is_weighted)


def _as_table(data: Any) -> pa.Table:
    """An Arrow table of whatever knows how to become one."""
    if isinstance(data, pa.Table):
        return data
    is_pandas = type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns")
    if not is_pandas and not hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__arrow_c_array__"):
        raise SchemaError(
            f"the log is a {type(data).__name__}; expected an Arrow table or a data frame: files are read by read_parquet, dictionaries of "
            "obp by from_obp, lines of dsjson by read_dsjson"
        )
    try:
        # The index of a pandas frame is no column of the log.
        return pa.Table.from_pandas(data, preserve_index=False) if is_pandas else pa.table(data)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"the {type(data).__name__} cannot be read as a table ({error}); expected one type in every column: convert it, or leave it out"
        ) from error


def read_parquet(
    path: Path | str,
    *,
    offers: OfferSet | Sequence[str] | None = None,
    columns: Columns | None = None,
    window: RewardWindow | None = None,
    is_weighted: bool = False,
) -> InteractionBatch:
    """A log from a Parquet file or folder, whole in memory; see ``from_arrow``."""
    return from_arrow(
        read_table(path, columns=columns), offers=offers, columns=columns, window=window, is_weighted=is_weighted
    )


def read_table(path: Path | str, *, columns: Columns | None = None) -> pa.Table:
    """A Parquet file or folder, or a CSV file, as an Arrow table.

    Names of folders (``variant=b``) count as columns where ``columns`` asks for them.

    Raises
    ------
    InvalidInputError
        If it is not there, or is not what its name says.
    """
    if is_csv(path):
        return _csv(Path(path))
    with _readable(path):
        return _dataset(path, columns or Columns()).to_table()


def count_rows(path: Path | str) -> int:
    """Rows of a Parquet file or folder, from what the files say of themselves."""
    with _readable(path):
        return int(_dataset(path, Columns()).count_rows())


def is_csv(path: Path | str) -> bool:
    """Whether the name of a file says that it holds separated values."""
    return Path(path).name.lower().endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz"))


def _csv(path: Path) -> pa.Table:
    """Separated values; what separates them is seen from the first line."""
    from pyarrow import csv

    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; expected a file of separated values with a line of names")
    try:
        with pa.input_stream(str(path)) as stream:
            first = stream.read(1 << 16).decode("utf-8", "replace").partition("\n")[0]
        separator = max(",;\t|", key=first.count)
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=separator))
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInputError(
            f"{path} is not readable as separated values ({error}); expected a line of names and lines of as many values"
        ) from error


@dataclass(frozen=True, eq=False)
class ParquetLog:
    """A Parquet file or folder read in parts: ``evaluate`` needs memory for one part, whatever the size.

    Parameters
    ----------
    catalogue
        All offers; None reads the columns that name offers once to find them.
    window
        When rewards count; rows whose window is still open are left out. Keeping and weighing them takes the whole log at once
        (``read_parquet``).
    """

    path: Path | str
    catalogue: OfferSet | Sequence[str] | None = None
    columns: Columns | None = None
    window: RewardWindow | None = None

    @property
    def offers(self) -> OfferSet:
        """Offers of all rows."""
        known = self.__dict__.get("_offers")
        if known is None:
            names = self.columns or Columns()
            with _readable(self.path):
                data = _dataset(self.path, names)
                reading.need(data.schema, names, ("offer", "reward", "propensity"))
                described = None if self.catalogue is not None else _described(data.schema)
                known = reading.catalogue_of(self.catalogue or described or sorted(_distinct_offers(data, names)))
            self.__dict__["_offers"] = known
        assert isinstance(known, OfferSet)
        return known

    def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
        """Consecutive parts of at most ``n_rows`` rows."""
        names = self.columns or Columns()
        offers = self.offers
        for read in _tables(self.path, names, n_rows):
            part = _closed_rows(read, names, self.window)
            if part.num_rows:
                yield from_arrow(part, offers=offers, columns=names, window=self.window)


def _distinct_offers(data: Any, names: Columns) -> set[str]:
    wanted = [c for c in (names.offer, names.eligible) if c in data.schema.names]
    kinds = [data.schema.field(names.probabilities).type] if names.probabilities in data.schema.names else []
    if any(pa.types.is_map(kind) or pa.types.is_struct(kind) for kind in kinds):
        wanted.append(names.probabilities)
    found: set[str] = set()
    for batch in _batches(data, columns=wanted, n_rows=1 << 17):
        found |= reading.distinct_offers(pa.Table.from_batches([batch]), names)
    return found


def _tables(path: Path | str, names: Columns, n_rows: int) -> Iterator[pa.Table]:
    with _readable(path):
        for batch in _batches(_dataset(path, names), columns=None, n_rows=n_rows):
            yield pa.Table.from_batches([batch])


def _batches(data: Any, *, columns: list[str] | None, n_rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of all files in order, a row group at a time: one scan of all of them runs ahead of its reader without bound."""
    for file in data.get_fragments():
        for rows in file.split_by_row_group():
            for batch in rows.to_batches(schema=data.schema, columns=columns, batch_size=n_rows, batch_readahead=1):
                if batch.num_rows:
                    yield batch


def _closed_rows(table: pa.Table, names: Columns, window: RewardWindow | None) -> pa.Table:
    """Rows whose window has closed."""
    if window is None:
        is_told = names.matured in table.column_names
        return table.filter(pc.fill_null(table[names.matured], False)) if is_told else table
    reading.need(table.schema, names, ("at", "rewarded_at"))
    at = reading.times(table, names.at)
    assert at is not None
    return table.filter(pa.array(window.followed_days(at) >= window.days))


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
    weighted = {WEIGHTED_KEY: b"true"} if batch.is_reward_weighted else {}
    return pa.table(data).replace_schema_metadata({OFFERS_KEY: described, **weighted})


def _described(schema: pa.Schema) -> OfferSet | None:
    """Offers with their features, where ``to_arrow`` wrote the log: a column holds only the ids of those shown."""
    text = (schema.metadata or {}).get(OFFERS_KEY)
    if text is None:
        return None
    return OfferSet([Offer(OfferId(o["id"]), o["features"]) for o in json.loads(text)])


def write_parquet(batch: InteractionBatch, path: Path | str) -> None:
    """Write a log as one Parquet file."""
    pq.write_table(to_arrow(batch), path, row_group_size=1 << 16)


def _dataset(path: Path | str, names: Columns) -> Any:
    if not Path(path).exists():
        raise InvalidInputError(f"{path} does not exist; expected a Parquet file or a folder of them")
    data = ds.dataset(path, format="parquet", partitioning="hive")
    files = [f.physical_schema for f in data.get_fragments()]
    if not files:
        raise InvalidInputError(
            f"{path} holds no Parquet file; expected at least one: pass the folder or file of the log"
        )
    # A log that grows by files has its later features and offers in the later files only.
    described = {o["id"]: o for schema in files for o in json.loads((schema.metadata or {}).get(OFFERS_KEY, b"[]"))}
    whole = pa.unify_schemas([schema.remove_metadata() for schema in files])
    # What only the names of folders tell (offer=trial, phase=2) belongs to the log where it is asked for; a day is no feature.
    for field in data.schema:
        if field.name not in whole.names and field.name in names.names():
            whole = whole.append(field)
    told = {OFFERS_KEY: json.dumps(list(described.values())).encode()} if described else {}
    if any(WEIGHTED_KEY in (schema.metadata or {}) for schema in files):
        told[WEIGHTED_KEY] = b"true"
    if told:
        whole = whole.with_metadata(told)
    return ds.dataset(path, format="parquet", schema=whole, partitioning="hive")


@contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    """What goes wrong while a file is read, in a sentence."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise InvalidInputError(
            f"{path} is not readable as Parquet ({error}); write it again or pass another file"
        ) from error
