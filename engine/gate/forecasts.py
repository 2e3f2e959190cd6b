"""The prediction ledger: every forecast is written before its outcome is known, resolved later from the live log, and counted.

A forecast is a row that never changes; what came of it is filled in once. What cannot come any more (an experiment that was
stopped before anybody came) is resolved without a number and counted apart, so that nothing is dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import insert, select, update

from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us, to_us
from policies.errors import InvalidInputError

Kind = Literal["ope value", "simulator value", "lift", "days to finish"]
KINDS: tuple[Kind, ...] = ("ope value", "simulator value", "lift", "days to finish")
CONFIDENCE = 0.95
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Forecast:
    """One number that was foretold, and what came of it.

    Parameters
    ----------
    about
        Whom: ``name@version``, or ``experiment NAME``.
    low, high
        95 % interval, as it was believed when it was made.
    document
        What it takes to resolve it: metric, unit, whom it was compared with, whether it comes from a simulator.
    actual, actual_standard_error
        From the live log; None while open, or where nothing could come of it (``note`` says why).
    """

    kind: Kind
    placement: str
    about: str
    made_at: datetime
    value: float
    low: float
    high: float
    document: Mapping[str, Any] = field(default_factory=dict)
    resolved_at: datetime | None = None
    actual: float | None = None
    actual_standard_error: float | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInputError(f"kind of a forecast is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if not all(map(math.isfinite, (self.value, self.low, self.high))) or not self.low <= self.value <= self.high:
            raise InvalidInputError(
                f"the forecast is {self.value} in [{self.low}, {self.high}]; expected finite numbers in order"
            )

    @property
    def id(self) -> str:
        """Hash of what was foretold of whom: made again from the same inputs it is the same forecast."""
        said = [self.kind, self.placement, self.about, self.value, self.low, self.high, dict(self.document)]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def is_inside(self) -> bool | None:
        """Whether what came lies in the interval; None while open."""
        return None if self.actual is None else self.low <= self.actual <= self.high

    @property
    def agrees(self) -> bool | None:
        """The same where what came has an error of its own: whether zero lies in the interval of the difference."""
        if self.actual is None:
            return None
        half = self.high - self.value if self.actual >= self.value else self.value - self.low
        return abs(self.actual - self.value) <= math.hypot(half, _Z * (self.actual_standard_error or 0.0))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id,
            "kind": self.kind,
            "placement": self.placement,
            "about": self.about,
            "made_at": self.made_at.isoformat(),
            "value": self.value,
            "low": self.low,
            "high": self.high,
            **dict(self.document),
            "resolved_at": None if self.resolved_at is None else self.resolved_at.isoformat(),
            "actual": self.actual,
            "actual_standard_error": self.actual_standard_error,
            "is_inside": self.is_inside,
            "agrees": self.agrees,
            "note": self.note,
        }


def foretell(database: Database, forecasts: Sequence[Forecast]) -> int:
    """Write forecasts down; those that are there already stay as they are. Returns how many are new."""
    table = tables.forecasts
    n = 0
    with database.writing() as connection:
        for f in forecasts:
            if connection.execute(select(table.c.id).where(table.c.id == f.id)).first() is not None:
                continue
            connection.execute(
                insert(table).values(
                    id=f.id,
                    kind=f.kind,
                    placement=f.placement,
                    about=f.about,
                    made_at_us=to_us(f.made_at),
                    value=f.value,
                    low=f.low,
                    high=f.high,
                    document=json.dumps(dict(f.document)),
                )
            )
            n += 1
    return n


def settle(
    database: Database,
    forecast: Forecast,
    *,
    at: datetime,
    actual: float | None,
    standard_error: float | None = None,
    note: str | None = None,
) -> bool:
    """Fill in what came of a forecast, once; False where somebody did before."""
    if at < forecast.made_at:
        raise InvalidInputError(
            f"forecast {forecast.id} was made at {forecast.made_at.isoformat()}, after {at.isoformat()}; what is known is no forecast"
        )
    table = tables.forecasts
    with database.writing() as connection:
        done = connection.execute(
            update(table)
            .where(table.c.id == forecast.id, table.c.resolved_at_us.is_(None))
            .values(resolved_at_us=to_us(at), actual=actual, actual_standard_error=standard_error, note=note)
        )
    return done.rowcount > 0


def forecasts_of(
    database: Database, *, placement: str | None = None, is_open: bool | None = None, limit: int | None = None
) -> list[Forecast]:
    """Forecasts, the newest first."""
    table = tables.forecasts
    query = select(table).order_by(table.c.made_at_us.desc(), table.c.id)
    if placement is not None:
        query = query.where(table.c.placement == placement)
    if is_open is not None:
        query = query.where(table.c.resolved_at_us.is_(None) if is_open else table.c.resolved_at_us.is_not(None))
    if limit is not None:
        query = query.limit(limit)
    with database.reading() as connection:
        rows = connection.execute(query).all()
    return [
        Forecast(
            r.kind,
            r.placement,
            r.about,
            from_us(r.made_at_us),
            r.value,
            r.low,
            r.high,
            json.loads(r.document),
            None if r.resolved_at_us is None else from_us(r.resolved_at_us),
            r.actual,
            r.actual_standard_error,
            r.note,
        )
        for r in rows
    ]


@dataclass(frozen=True, slots=True)
class Record:
    """How forecasts of one kind have fared.

    Parameters
    ----------
    n_open, n_resolved, n_void
        Still to come, come, and such of which nothing can come any more.
    n_inside
        What came lies in the interval that was given: coverage is its share, nominally 95 %.
    n_agree
        The same with the error of what came taken into account: what a true forecast of a mean can promise.
    n_right_sign
        Of forecasts of a lift: whether it went the way that was foretold.
    mean_error, mean_absolute_error
        Foretold less come, in the unit of the kind; None before anything came.
    """

    kind: Kind
    n_open: int
    n_resolved: int
    n_void: int
    n_inside: int
    n_agree: int
    n_right_sign: int | None
    mean_error: float | None
    mean_absolute_error: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        made = {name: getattr(self, name) for name in self.__slots__}
        n = self.n_resolved
        shares = {"coverage": self.n_inside / n if n else None, "agreement": self.n_agree / n if n else None}
        return {**made, "nominal": CONFIDENCE, **shares}


def track_record(forecasts: Sequence[Forecast]) -> list[Record]:
    """Hit rates and coverage by kind."""
    out = []
    for kind in KINDS:
        mine = [f for f in forecasts if f.kind == kind]
        done = [f for f in mine if f.actual is not None]
        errors = [f.value - f.actual for f in done if f.actual is not None]
        signs = [f.value * f.actual > 0 for f in done if f.actual is not None]
        out.append(
            Record(
                kind,
                n_open=sum(f.resolved_at is None for f in mine),
                n_resolved=len(done),
                n_void=sum(f.resolved_at is not None and f.actual is None for f in mine),
                n_inside=sum(f.is_inside is True for f in done),
                n_agree=sum(f.agrees is True for f in done),
                n_right_sign=sum(signs) if kind == "lift" else None,
                mean_error=math.fsum(errors) / len(errors) if errors else None,
                mean_absolute_error=math.fsum(map(abs, errors)) / len(errors) if errors else None,
            )
        )
    return out
