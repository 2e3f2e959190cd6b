"""What one subject adds to the sums of an experiment: in Python for subjects worked out again, in SQL for all at once.

Both ways have to give the same rows; the tests hold them against each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, delete, text

from engine.store import tables

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
DERIVED: tuple[Table, ...] = (tables.experiment_cells, tables.experiment_values, tables.experiment_stays)
CELL_SUMS = (
    "n", "n_subscribed", "n_kept", "sum_margin", "sum_margin_squared", "sum_revenue", "sum_revenue_squared",
    "sum_x", "sum_xx", "sum_x_subscribed", "sum_x_kept", "sum_x_margin", "sum_x_revenue",
)  # fmt: skip
VALUE_SUMS = ("n", "total", "total_squares", "sum_x", "sum_xy")
MEASURES = ("margin", "revenue")
# Ten steps a decade (preferred numbers R10), from a cent to a billion; the first bin is of what is not positive.
EDGES: tuple[float, ...] = (
    0.0,
    *(float(f"{step}e{decade}") for decade in range(-2, 9) for step in ("1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8")),
)  # fmt: skip


class Row(NamedTuple):
    """One exposed subject, as ``exposures`` has it."""

    subject: str
    phase: int
    variant: str
    exposed_us: int
    subscribed: int
    kept: int
    margin: float
    revenue: float
    covariate: float
    subscribed_us: int | None
    left_us: int | None
    segments: str


_CELL_KEY = ("phase", "variant", "hour", "segments")
_VALUE_KEY = ("measure", "phase", "variant", "hour", "segments", "bin")
_STAY_KEY = ("phase", "variant", "day", "stayed")


@dataclass(slots=True)
class Sums:
    """Changes of the sums, collected before they are written."""

    cells: dict[tuple[Any, ...], list[float]] = field(default_factory=dict)
    values: dict[tuple[Any, ...], list[float]] = field(default_factory=dict)
    stays: dict[tuple[Any, ...], list[float]] = field(default_factory=dict)

    def add(self, rows: Iterable[Row], sign: int) -> None:
        """Add subjects, or take them out with sign -1."""
        for (
            _,
            phase,
            variant,
            exposed_us,
            subscribed,
            kept,
            margin,
            revenue,
            x,
            subscribed_us,
            left_us,
            segments,
        ) in rows:
            hour = exposed_us // HOUR_US
            parts = (
                1, subscribed, kept, margin, margin * margin, revenue, revenue * revenue,
                x, x * x, x * subscribed, x * kept, x * margin, x * revenue,
            )  # fmt: skip
            _add(self.cells, (phase, variant, hour, segments), parts, sign)
            for measure, y in zip(MEASURES, (margin, revenue), strict=True):
                if y:
                    key = (measure, phase, variant, hour, segments, bisect_left(EDGES, y))
                    _add(self.values, key, (1, y, y * y, x, x * y), sign)
            if subscribed_us is not None:
                stayed = -1 if left_us is None else (left_us - subscribed_us) // DAY_US
                _add(self.stays, (phase, variant, subscribed_us // DAY_US, stayed), (1,), sign)

    def write(self, connection: Connection, experiment_id: str) -> None:
        """Change the stored sums."""
        for table, key, sums, changes in (
            (tables.experiment_cells, _CELL_KEY, CELL_SUMS, self.cells),
            (tables.experiment_values, _VALUE_KEY, VALUE_SUMS, self.values),
            (tables.experiment_stays, _STAY_KEY, ("n",), self.stays),
        ):
            rows = [
                {"experiment": experiment_id, **dict(zip(key, at, strict=True)), **dict(zip(sums, change, strict=True))}
                for at, change in changes.items()
                if any(change)
            ]
            if rows:
                connection.execute(text(_upsert(table, key, sums)), rows)
                connection.execute(delete(table).where(table.c.experiment == experiment_id, table.c.n == 0))


def _add(sums: dict[tuple[Any, ...], list[float]], key: tuple[Any, ...], parts: Sequence[float], sign: int) -> None:
    found = sums.setdefault(key, [0] * len(parts))
    for i, part in enumerate(parts):
        found[i] += sign * part


def _upsert(table: Table, key: Sequence[str], sums: Sequence[str]) -> str:
    columns = ("experiment", *key, *sums)
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join(':' + c for c in columns)}) "
        f"ON CONFLICT (experiment, {', '.join(key)}) DO UPDATE SET "
        + ", ".join(f"{c} = {table.name}.{c} + excluded.{c}" for c in sums)
    )


def cells_sql(*, has_covariate: bool) -> str:
    """All cells of an experiment from its subjects."""
    crossed = (
        "SUM(covariate), SUM(covariate * covariate), SUM(covariate * subscribed), SUM(covariate * kept), SUM(covariate * margin), SUM(covariate * revenue)"
        if has_covariate
        else "0, 0, 0, 0, 0, 0"
    )
    return f"""
    INSERT INTO experiment_cells (experiment, phase, variant, hour, segments, {", ".join(CELL_SUMS)})
    SELECT experiment, phase, variant, exposed_us / {HOUR_US}, segments, COUNT(*), SUM(subscribed), SUM(kept),
      SUM(margin), SUM(margin * margin), SUM(revenue), SUM(revenue * revenue), {crossed}
    FROM exposures WHERE experiment = :experiment GROUP BY experiment, phase, variant, exposed_us / {HOUR_US}, segments
    """


def told_sql() -> str:
    """The few subjects of whom anything was told, so that values and stays need one pass over all subjects and not three."""
    return """
    SELECT experiment, phase, variant, exposed_us, segments, margin, revenue, covariate, subscribed_us, left_us
    FROM exposures WHERE experiment = :experiment AND (margin <> 0 OR revenue <> 0 OR subscribed_us IS NOT NULL)
    """


def values_sql(source: str) -> tuple[str, ...]:
    """All values of an experiment by size, a statement for each measure; from ``told_sql``'s rows."""
    return tuple(
        f"""
    INSERT INTO experiment_values (experiment, measure, phase, variant, hour, segments, bin, {", ".join(VALUE_SUMS)})
    SELECT experiment, '{m}', phase, variant, hour, segments, bin, COUNT(*), SUM(y), SUM(y * y), SUM(covariate), SUM(covariate * y)
    FROM (
      SELECT experiment, phase, variant, exposed_us / {HOUR_US} AS hour, segments, {m} AS y, covariate, {bin_sql(m)} AS bin
      FROM {source} WHERE experiment = :experiment AND {m} <> 0
    ) sized GROUP BY experiment, phase, variant, hour, segments, bin
    """
        for m in MEASURES
    )


def stays_sql(source: str) -> str:
    """All subscribers of an experiment by day and stay; from ``told_sql``'s rows."""
    stayed = f"CASE WHEN left_us IS NULL THEN -1 ELSE (left_us - subscribed_us) / {DAY_US} END"
    return f"""
    INSERT INTO experiment_stays (experiment, phase, variant, day, stayed, n)
    SELECT experiment, phase, variant, day, stayed, COUNT(*)
    FROM (
      SELECT experiment, phase, variant, subscribed_us / {DAY_US} AS day, {stayed} AS stayed
      FROM {source} WHERE experiment = :experiment AND subscribed_us IS NOT NULL
    ) stays GROUP BY experiment, phase, variant, day, stayed
    """


def bin_sql(column: str, first: int = 0, last: int = len(EDGES)) -> str:
    """Number of the first edge that is not below a value, as a search by halves that every database can do."""
    if first == last:
        return str(first)
    middle = (first + last) // 2
    return f"CASE WHEN {column} <= {EDGES[middle]!r} THEN {bin_sql(column, first, middle)} ELSE {bin_sql(column, middle + 1, last)} END"
