"""One column of a log at a time: each is what it should be, or an error names the column, the rule and the rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from offline_eval.interop.columns import Columns
from policies.errors import InvalidInputError, SchemaError, SupportError
from policies.records import BoolArray, FloatArray, IntArray, Offer, OfferId, OfferSet

# Beyond this many letters one long text would make every row's place long.
_MAX_WIDTH = 64
# What others call the columns: Open Bandit Pipeline, Vowpal Wabbit, coba and everyday logs.
ALIASES = {
    "offer": ("action", "arm", "item", "item_id", "offer_id", "product", "treatment", "choice", "shown_offer"),
    "reward": ("click", "clicked", "conversion", "converted", "label", "outcome", "purchase", "revenue", "y"),
    "propensity": ("pscore", "propensity_score", "probability", "prob", "action_prob", "p"),
    "at": ("ts", "time", "timestamp", "datetime", "date", "created_at", "decided_at"),
    "rewarded_at": ("reward_at", "rewarded", "converted_at", "reward_time", "conversion_time"),
}  # fmt: skip


def need(schema: pa.Schema, names: Columns, keys: Sequence[str]) -> None:
    """Refuse a log that lacks a column, with what its columns may be meant.

    Parameters
    ----------
    keys
        Fields of ``Columns``.

    Raises
    ------
    SchemaError
        Naming every column that is missing at once.
    """
    missing = [key for key in keys if getattr(names, key) not in schema.names]
    if not missing:
        return
    taken = {getattr(names, key) for key in Columns.__slots__ if key != "ignore"}
    free = [name for name in schema.names if name not in taken]
    found: dict[str, str] = {}
    for key in missing:
        near = _near(key, getattr(names, key), [name for name in free if name not in found.values()])
        if near is not None:
            found[key] = near
    said = " and ".join(repr(getattr(names, key)) for key in missing)
    hint = f"did you mean {' and '.join(repr(name) for name in found.values())}? " if found else ""
    example = found or {missing[0]: "NAME"}
    python = ", ".join(f"{key}={name!r}" for key, name in example.items())
    shell = " ".join(f"--column {key}={name}" for key, name in example.items())
    without = (
        "; propensities that were never logged are estimated by estimated_from_arrow, or --estimate-propensities"
        if "propensity" in missing and "propensity" not in found
        else ""
    )
    raise SchemaError(
        f"the log has no column{'s' if len(missing) > 1 else ''} {said}; its columns are "
        f"{', '.join(schema.names[:20]) or 'none'}: {hint}say what they are called with columns=Columns({python}), on the "
        f"command line {shell}{without}"
    )


def _near(key: str, name: str, free: Sequence[str]) -> str | None:
    by_lower = {f.lower(): f for f in free}
    for alias in (name.lower(), *ALIASES.get(key, ())):
        if alias in by_lower:
            return by_lower[alias]
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.7)
    return by_lower[near[0]] if near else None


def offer_names(table: pa.Table, name: str) -> Any:
    """The shown offers as text.

    Raises
    ------
    InvalidInputError
        If some are missing.
    """
    shown = pc.cast(table[name], pa.string())
    if shown.null_count:
        raise InvalidInputError(
            f"column {name!r} is missing in {shown.null_count} rows; expected the offer that was shown in every row: leave out "
            "rows in which none was"
        )
    return shown


def catalogue_of(offers: OfferSet | Sequence[str]) -> OfferSet:
    """An offer set of ids alone, where it is none yet."""
    return offers if isinstance(offers, OfferSet) else OfferSet([Offer(OfferId(o)) for o in offers])


def distinct_offers(table: pa.Table, names: Columns) -> set[str]:
    """Ids of all offers that were shown or could have been."""
    columns = [table[names.offer]]
    if names.eligible in table.column_names and pa.types.is_list(table.schema.field(names.eligible).type):
        columns.append(pc.list_flatten(table[names.eligible]))
    if names.probabilities in table.column_names:
        kind = table.schema.field(names.probabilities).type
        if pa.types.is_struct(kind):
            columns.append(pa.array([field.name for field in kind]))
        elif pa.types.is_map(kind):
            columns.append(pc.unique(_combined(table[names.probabilities]).keys))
    found: set[str] = set()
    for column in columns:
        found |= {str(o) for o in pc.unique(pc.cast(column, pa.string())).to_pylist() if o is not None}
    return found


def positions(shown: Any, catalogue: OfferSet, name: str) -> IntArray:
    """Where each offer is in the set, shape ``(n,)``."""
    found = pc.index_in(shown, value_set=pa.array(catalogue.ids, pa.string()))
    missing = found.null_count
    if missing:
        unknown = pc.unique(shown.filter(pc.is_null(found))).to_pylist()[:3]
        raise InvalidInputError(
            f"column {name!r} names offers that are not in the offer set in {missing} rows, such as {unknown}; "
            "add them to offers= (--offer), or leave these rows out"
        )
    return np.asarray(found.to_numpy(), dtype=np.int64)


def propensities(table: pa.Table, name: str) -> FloatArray:
    """Probabilities with which the shown offers were drawn, shape ``(n,)``.

    Raises
    ------
    SupportError
        If some are outside (0, 1].
    """
    values = numbers(
        table, name, missing="log the probability with which the shown offer was drawn, or leave these rows out"
    )
    bad = ~((values > 0) & (values <= 1))
    if bad.any():
        first = int(np.argmax(bad))
        above = values[bad] > 1
        advice = "log the probability with which the shown offer was drawn, or leave out rows that were not drawn"
        if above.sum() > 0.5 * len(values):
            advice = "these look like percent or weights: divide by 100, or take 1 / weight"
        raise SupportError(
            f"column {name!r} is outside (0, 1] in {int(bad.sum())} rows, the first at {first} ({values[first]:g}); {advice}"
        )
    return values


def rewards(table: pa.Table, name: str) -> FloatArray:
    """Rewards, finite, shape ``(n,)``."""
    advice = (
        "write 0 where it is known that nothing came, and leave out rows whose window is still open (--window-days)"
    )
    values = numbers(table, name, missing=advice)
    bad = ~np.isfinite(values)
    if bad.any():
        raise InvalidInputError(
            f"column {name!r} is not finite in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; {advice}"
        )
    return values


def numbers(table: pa.Table, name: str, *, missing: str) -> FloatArray:
    """A column of numbers; ``missing`` says what to do where some are not there."""
    column = table[name]
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        some = [repr(v) for v in column.slice(0, 3).to_pylist()]
        raise SchemaError(
            f"column {name!r} has type {kind}; expected numbers in all {table.num_rows} rows, found {', '.join(some)}: "
            "convert it, or name another column"
        )
    if column.null_count:
        raise InvalidInputError(f"column {name!r} is missing in {column.null_count} rows; {missing}")
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)


def text(table: pa.Table, name: str) -> NDArray[np.str_] | None:
    """A column of text, where there is one."""
    if name not in table.column_names:
        return None
    column = table[name]
    if column.null_count:
        raise InvalidInputError(
            f"column {name!r} is missing in {column.null_count} rows; expected a text in every row: fill it, or leave these "
            "rows out"
        )
    return _fixed_width(pc.cast(column, pa.large_string()))


def _fixed_width(column: Any) -> NDArray[np.str_]:
    """Text as numpy keeps it; where all of it is ASCII, by its bytes: one by one takes several times as long."""
    flat = _combined(column)
    n = len(flat)
    _, bounds, letters = flat.buffers()
    if n == 0 or letters is None:
        return np.zeros(n, dtype="U1")
    offsets = np.frombuffer(bounds, dtype=np.int64)[flat.offset : flat.offset + n + 1]
    codes = np.frombuffer(letters, dtype=np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    width = max(int(lengths.max()), 1)
    if codes.max(initial=0) > 127 or width > _MAX_WIDTH:
        return np.asarray(flat.to_pylist(), dtype=np.str_)
    out = np.zeros((n, width), dtype=np.uint32)
    out[np.arange(width) < lengths[:, None]] = codes  # a row after the other, as the bytes lie
    return out.view(f"U{width}").ravel()


def times(table: pa.Table, name: str) -> NDArray[np.datetime64] | None:
    """A column of moments in UTC, where there is one; those without a time zone are taken for UTC.

    Raises
    ------
    SchemaError
        If it holds no moments; numbers are refused, for nobody can know whether they count seconds or milliseconds.
    """
    if name not in table.column_names:
        return None
    kind = table.schema.field(name).type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        raise SchemaError(
            f"column {name!r} has type {kind}; expected timestamps: convert numbers with their unit, such as "
            "pandas.to_datetime(column, unit='s')"
        )
    try:
        column = pc.cast(table[name], pa.timestamp("us"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        try:
            column = pc.cast(pc.cast(table[name], pa.timestamp("us", "UTC")), pa.timestamp("us"))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            some = table[name].drop_null().slice(0, 1).to_pylist()
            raise SchemaError(
                f"column {name!r} has type {kind} and holds {some[0] if some else None!r}; expected timestamps such as "
                "2026-03-01T12:00:00+00:00, all with a time zone or all without: convert it"
            ) from error
    if column.null_count:
        raise InvalidInputError(
            f"column {name!r} is missing in {column.null_count} rows; expected a time in every row: fill it, or leave these "
            "rows out"
        )
    return np.asarray(column.to_numpy(), dtype="datetime64[us]")


def feature(name: str, column: Any) -> NDArray[Any]:
    """A feature of the context: text, or numbers with not-a-number where one is missing."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = pc.cast(column, pa.string())
        return np.asarray(pc.fill_null(column, "").to_pylist(), dtype=np.str_)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64())
    try:
        return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), float("nan")).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _no_feature(name, kind, "numbers, text or booleans") from error


def vector(name: str, column: Any, n: int) -> NDArray[np.float32]:
    """A feature of several numbers, shape ``(n, width)``."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise _no_feature(name, kind, "numbers, text, booleans or lists of numbers")
    lengths, values = _flat(column)
    width = lengths[0].as_py() if len(lengths) else 0
    off = int(pc.sum(pc.fill_null(pc.not_equal(lengths, width or 0), True)).as_py() or 0)
    if off or not width or not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        told = f", found another length than {width} in {off} rows" if off and width else ""
        raise _no_feature(name, kind, f"lists of equally many numbers in every row{told}")
    return np.asarray(pc.cast(values, pa.float32()).to_numpy(zero_copy_only=False), dtype=np.float32).reshape(n, width)


def _no_feature(name: str, kind: Any, expected: str) -> SchemaError:
    return SchemaError(
        f"context column {name!r} has type {kind}; expected {expected}: leave it out with columns=Columns(ignore=({name!r},)), "
        f"on the command line --column ignore={name}"
    )


def eligible(table: pa.Table, names: Columns, catalogue: OfferSet, chosen: IntArray) -> BoolArray:
    """Which offers could be shown, shape ``(n, k)``; the shown one must be among them."""
    name = names.eligible
    if name not in table.column_names:
        return np.ones((table.num_rows, len(catalogue)), dtype=np.bool_)
    kind = table.schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise SchemaError(f"column {name!r} has type {kind}; expected the list of ids that could be shown in each row")
    lengths, values = _flat(table[name])
    if lengths.null_count:
        raise InvalidInputError(
            f"column {name!r} is missing in {lengths.null_count} rows; expected the ids that could be shown in every row"
        )
    where = positions(pc.cast(values, pa.string()), catalogue, name)
    rows = np.repeat(np.arange(table.num_rows), np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64))
    out = np.zeros((table.num_rows, len(catalogue)), dtype=np.bool_)
    out[rows, where] = True
    bad = ~out[np.arange(table.num_rows), chosen]
    if bad.any():
        raise SupportError(
            f"column {name!r} lacks the shown offer in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; expected "
            "every shown offer among those that could be: log the set the policy drew from, or leave these rows out"
        )
    return out


def distributions(
    table: pa.Table, names: Columns, catalogue: OfferSet, *, chosen: IntArray, propensity: FloatArray
) -> FloatArray | None:
    """Logged distributions, shape ``(n, k)``, where there are any: lists in the order of the offers, or maps by offer."""
    name, k = names.probabilities, len(catalogue)
    if name not in table.column_names:
        return None
    kind = table.schema.field(name).type
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        whole = _by_offer(table[name], kind, catalogue, name)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        whole = _lists(table, name, k)
    else:
        raise SchemaError(
            f"column {name!r} has type {kind}; expected a list of {k} numbers, or a map from offer to number"
        )
    bad = ~(np.abs(whole.sum(axis=1) - 1.0) <= 1e-6) | (whole.min(axis=1) < 0)
    if bad.any():
        raise SupportError(
            f"column {name!r} holds no distribution in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; expected "
            "numbers of at least 0 that sum to 1 over the offers"
        )
    bad = ~(np.abs(whole[np.arange(len(whole)), chosen] - propensity) <= 1e-6)
    if bad.any():
        raise SupportError(
            f"column {name!r} gives the shown offer another probability than {names.propensity!r} in {int(bad.sum())} rows, the "
            f"first at {int(np.argmax(bad))}; expected lists in the order {', '.join(catalogue.ids[:8])}"
            f"{', …' if k > 8 else ''}: pass offers= in the order the lists have (--offer), or log maps from offer to probability"
        )
    return whole


def _by_offer(column: Any, kind: Any, catalogue: OfferSet, name: str) -> FloatArray:
    """Maps from offer to probability; an offer that a row does not name has probability 0."""
    column, n = _combined(column), len(column)
    out = np.zeros((n, len(catalogue)))
    if pa.types.is_struct(kind):
        ids = [field.name for field in kind]
        where = positions(pa.array(ids, pa.string()), catalogue, name)
        for j, values in zip(where, column.flatten(), strict=True):
            out[:, j] = pc.fill_null(pc.cast(values, pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        return out
    lengths = np.diff(column.offsets.to_numpy())
    first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
    keys, items = column.keys.slice(first, last - first), column.items.slice(first, last - first)
    rows = np.repeat(np.arange(n), lengths)
    where = positions(pc.cast(keys, pa.string()), catalogue, name)
    out[rows, where] = pc.fill_null(pc.cast(items, pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    return out


def _lists(table: pa.Table, name: str, k: int) -> FloatArray:
    lengths, values = _flat(table[name])
    off = int(pc.sum(pc.fill_null(pc.not_equal(lengths, k), True)).as_py() or 0)
    if off:
        raise SchemaError(
            f"column {name!r} has lists of another length than {k} in {off} rows; expected one number per offer: pass all "
            "offers in offers= (--offer), in the order the lists have"
        )
    return np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64).reshape(-1, k)


def _flat(column: Any) -> tuple[Any, Any]:
    combined = _combined(column)
    return pc.list_value_length(combined), pc.list_flatten(combined)


def _combined(column: Any) -> Any:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
