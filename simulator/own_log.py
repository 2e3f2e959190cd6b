"""A log of anybody's site as the fit of a site reads it: decisions in one table, contracts in another, offers described as ours are."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from policies.eligibility import EligibilityRule, eligible_mask
from policies.errors import InvalidInputError, SchemaError
from policies.records import BoolArray, DecisionTable, FloatArray, IntArray, Offer, OfferId, OfferSet
from simulator.rollouts import WINDOW_DAYS, Rollout, SubjectOutcomes, credit
from simulator.scenarios.car_subscription import CAR_CLASSES, FAMILIES, OFFERS, RULES, Scenario, reference
from simulator.world import KEPT_AFTER_DAYS

_DAY_US = 86_400_000_000
_DECISIONS = ("subject", "at", "offer", "clicked", "stage", "searched_class")
_CONTRACTS = ("subject", "signed_at", "cancelled_at")
# What a decisions table may have beside traits.
_OTHER = ("propensity", "eligible", "n_visits", "policy", "reward", "is_matured", "rewarded_at")


def site_with(name: str, offers: OfferSet, rules: tuple[EligibilityRule, ...] = RULES) -> Scenario:
    """A site of which offers and rules are known; parameters and people are what a fit finds.

    Raises
    ------
    InvalidInputError
        If its offers are not described by what the simulator's laws read.
    """
    about = f"no site can be fitted for {name!r}"
    wanted = set(next(iter(OFFERS)).features)
    words = {"car_class": (*CAR_CLASSES, "none"), "family": FAMILIES}
    for offer in offers:
        missing = sorted(wanted - set(offer.features))
        if missing:
            raise InvalidInputError(
                f"{about}: offer {offer.id!r} has no {', '.join(missing)}, which the simulator's laws read"
            )
        for feature, known in words.items():
            if offer.features[feature] not in known:
                raise InvalidInputError(
                    f"{about}: offer {offer.id!r} has {feature} {offer.features[feature]!r}; expected one of {', '.join(known)}"
                )
    if not any(o.features["car_class"] in CAR_CLASSES for o in offers):
        raise InvalidInputError(f"{about}: none of its offers is a car; expected one of class {', '.join(CAR_CLASSES)}")
    return replace(reference(), name=name, offers=offers, rules=rules)


def own_log(decisions: pa.Table, contracts: pa.Table, site: Scenario, *, until: datetime | None = None) -> Rollout:
    """Decisions and contracts as a rollout.

    Parameters
    ----------
    decisions
        One row a decision: ``subject``, ``at``, ``offer``, ``clicked`` (0 or 1), ``stage`` and ``searched_class`` of the visitor then.
        Optional: ``propensity`` (without it visits cannot be weighted), ``eligible`` (list of offers; default: the site's rules),
        ``n_visits`` (visits before, from 0; default: counted, as if the log had seen them all). Every other column is a trait.
    contracts
        One row a contract: ``subject``, ``signed_at``, ``cancelled_at`` (missing: still running).
    until
        Up to when everything is known; default: the last moment in the tables.

    Raises
    ------
    InvalidInputError
        If columns are missing or say what cannot be.
    """
    for what, table, wanted in (("decisions", decisions, _DECISIONS), ("contracts", contracts, _CONTRACTS)):
        missing = [c for c in wanted if c not in table.column_names]
        if missing:
            raise SchemaError(f"the {what} have no column {', '.join(missing)}; expected {', '.join(wanted)}")
        empty = [c for c in wanted if c != "cancelled_at" and table[c].null_count]
        if empty:
            raise SchemaError(
                f"column {empty[0]} of the {what} is missing in {table[empty[0]].null_count:,} rows; expected none"
            )
    if not decisions.num_rows:
        raise InvalidInputError("there are no decisions; expected some")
    at_us = _moments(decisions["at"], "at")
    signed_us, cancelled_us = (_moments(contracts[c], c) for c in ("signed_at", "cancelled_at"))
    if ((cancelled_us >= 0) & (cancelled_us < signed_us)).any():
        raise InvalidInputError(
            "some contracts are cancelled before they are signed; expected cancelled_at at or after signed_at"
        )
    told = max(int(x.max(initial=0)) for x in (at_us, signed_us, cancelled_us))
    until_us = told if until is None else round(until.replace(tzinfo=until.tzinfo or UTC).timestamp() * 1e6)
    people, row = np.unique(
        np.asarray(decisions["subject"].cast(pa.string()).to_pylist(), dtype=np.str_), return_inverse=True
    )
    keep = np.lexsort((at_us, row))
    keep = keep[at_us[keep] <= until_us]
    if not len(keep):
        raise InvalidInputError(f"no decision is older than {until}; expected a later moment")
    decisions, at_us, row = decisions.take(pa.array(keep)), at_us[keep], row[keep].astype(np.int64)
    start = int(at_us.min()) // _DAY_US
    signed, cancelled = _first_contracts(contracts, people, signed_us, cancelled_us, until_us=until_us)
    table = _table(decisions, people, row, at_us, site)
    chosen = _chosen(decisions, site.offers)
    if not table.eligible[np.arange(len(row)), chosen].all():
        i = int(np.flatnonzero(~table.eligible[np.arange(len(row)), chosen])[0])
        raise InvalidInputError(
            f"decision {i} shows {site.offers.ids[int(chosen[i])]!r}, which was not eligible; give the column eligible as it was"
        )

    def days(moments: IntArray) -> IntArray:
        return np.where(moments < 0, -1, moments // _DAY_US - start)

    last_day = until_us // _DAY_US - start
    signed_day, cancelled_day = days(signed), days(cancelled)
    stayed = np.where(cancelled_day >= 0, cancelled_day, last_day) - signed_day
    is_kept = (signed_day >= 0) & (stayed >= KEPT_AFTER_DAYS) & (cancelled_day != signed_day + KEPT_AFTER_DAYS)
    credited = credit(row, at_us, signed)
    margin = site.offer_numbers("margin_eur")
    of_subject = np.zeros(len(people))
    of_subject[row[credited]] = margin[chosen[credited]]
    first = np.full(len(people), last_day + 1)
    np.minimum.at(first, row, at_us // _DAY_US - start)
    outcomes = SubjectOutcomes(
        subscribed=signed_day >= 0,
        kept_30d=is_kept,
        margin_eur=of_subject,
        n_visits=np.bincount(row, minlength=len(people)).astype(np.int64),
        is_matured=first + WINDOW_DAYS <= last_day + 1,
        signed_day=signed_day,
        cancelled_day=cancelled_day,
    )
    rewards = {"clicked": _clicks(decisions)}
    for name in ("subscribed", "kept_30d", "margin_eur"):
        rewards[name] = np.where(credited, np.asarray(getattr(outcomes, name), dtype=np.float64)[row], 0.0)
    return Rollout(
        table=table,
        chosen=chosen,
        probabilities=_probabilities(decisions, table.eligible, chosen),
        row=row,
        day=at_us // _DAY_US - start,
        rewards=rewards,
        subjects=outcomes,
        policy="logged",
        last_day=last_day,
    )


def read_table(path: Path) -> pa.Table:
    """A Parquet file.

    Raises
    ------
    InvalidInputError
        If it is not there, or none.
    """
    if not path.is_file():
        raise InvalidInputError(f"there is no file {path}; expected Parquet")
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInputError(f"{path} cannot be read as Parquet ({error}); expected a file of that form") from error


def offers_of(path: Path) -> OfferSet:
    """Offers from a JSON list of objects with ``id`` and ``features``.

    Raises
    ------
    InvalidInputError
        If the file is no such list.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return OfferSet([Offer(OfferId(str(o["id"])), dict(o["features"])) for o in told])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f'{path} is no list of offers ({type(error).__name__}: {error}); expected JSON [{{"id": …, "features": {{…}}}}, …]'
        ) from error


def _moments(column: pa.ChunkedArray, name: str) -> IntArray:
    """Microseconds, -1 where missing."""
    if not pa.types.is_timestamp(column.type):
        if column.null_count == len(column):
            return np.full(len(column), -1, dtype=np.int64)
        raise SchemaError(f"column {name} has type {column.type}; expected timestamps")
    whole = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())
    return np.asarray(pc.fill_null(whole, -1).to_numpy(), dtype=np.int64)


def _first_contracts(
    contracts: pa.Table, people: NDArray[np.str_], signed_us: IntArray, cancelled_us: IntArray, *, until_us: int
) -> tuple[IntArray, IntArray]:
    """Moments of signing and of leaving the first contract of each person, -1 where there is none; shape ``(n,)`` each."""
    signed, cancelled = np.full(len(people), -1, dtype=np.int64), np.full(len(people), -1, dtype=np.int64)
    names = np.asarray(contracts["subject"].cast(pa.string()).to_pylist(), dtype=np.str_)
    place = np.clip(np.searchsorted(people, names), 0, len(people) - 1)
    known = (people[place] == names) & (signed_us <= until_us)
    for i in np.argsort(-signed_us, kind="stable"):  # the earliest is written last
        if known[i]:
            signed[place[i]] = signed_us[i]
            cancelled[place[i]] = cancelled_us[i] if cancelled_us[i] <= until_us else -1
    return signed, cancelled


def _table(
    decisions: pa.Table, people: NDArray[np.str_], row: IntArray, at_us: IntArray, site: Scenario
) -> DecisionTable:
    columns: dict[str, NDArray[Any]] = {}
    for name in decisions.column_names:
        if name in (*_OTHER, "subject", "at", "offer", "clicked"):
            continue
        column = decisions[name]
        if (
            pa.types.is_string(column.type)
            or pa.types.is_large_string(column.type)
            or pa.types.is_dictionary(column.type)
        ):
            columns[name] = np.asarray([v or "" for v in column.cast(pa.string()).to_pylist()], dtype=np.str_)
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            columns[name] = np.asarray(
                pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(), dtype=np.float64
            )
        else:
            raise SchemaError(
                f"column {name} of the decisions has type {column.type}; expected numbers or text: drop it"
            )
    if "n_visits" in decisions.column_names:
        columns["n_visits"] = np.asarray(decisions["n_visits"].cast(pa.float64()).to_numpy(), dtype=np.float64)
    else:
        start = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        columns["n_visits"] = (np.arange(len(row)) - np.repeat(start, np.diff(np.append(start, len(row))))).astype(
            np.float64
        )
    return DecisionTable(
        offers=site.offers,
        eligible=_eligible(decisions, site, columns),
        columns=columns,
        subjects=people[row],
        at=at_us.astype("datetime64[us]"),
    )


def _eligible(decisions: pa.Table, site: Scenario, columns: dict[str, NDArray[Any]]) -> BoolArray:
    n = decisions.num_rows
    if "eligible" not in decisions.column_names:
        return eligible_mask(site.rules, site.offers, columns, n=n)
    out = np.zeros((n, len(site.offers)), dtype=np.bool_)
    known = {str(o): i for i, o in enumerate(site.offers.ids)}
    for i, ids in enumerate(decisions["eligible"].to_pylist()):
        out[i, [known[o] for o in ids if o in known]] = True
    return out


def _chosen(decisions: pa.Table, offers: OfferSet) -> IntArray:
    ids = decisions["offer"].cast(pa.string()).to_pylist()
    known = {str(o): i for i, o in enumerate(offers.ids)}
    unknown = sorted(set(ids) - set(known))
    if unknown:
        raise InvalidInputError(
            f"the log shows {', '.join(repr(u) for u in unknown[:3])}; the site has {', '.join(known)}: describe every offer that was shown"
        )
    return np.asarray([known[o] for o in ids], dtype=np.int64)


def _clicks(decisions: pa.Table) -> FloatArray:
    clicked = np.asarray(decisions["clicked"].cast(pa.float64()).to_numpy(), dtype=np.float64)
    if not np.isin(clicked, (0.0, 1.0)).all():
        raise InvalidInputError(f"column clicked has {clicked[~np.isin(clicked, (0.0, 1.0))][0]:g}; expected 0 or 1")
    return clicked


def _probabilities(decisions: pa.Table, eligible: BoolArray, chosen: IntArray) -> FloatArray:
    """The propensity on what was shown, the rest spread over what else might have been; nought everywhere without propensities."""
    n = len(chosen)
    out = np.zeros(eligible.shape)
    if "propensity" not in decisions.column_names:
        return out
    p = np.asarray(pc.fill_null(decisions["propensity"].cast(pa.float64()), float("nan")).to_numpy(), dtype=np.float64)
    if not ((p > 0) & (p <= 1)).all():
        bad = p[~((p > 0) & (p <= 1))]
        raise InvalidInputError(
            f"column propensity has {bad[0]:g} in one of {len(bad):,} rows; expected above 0 and at most 1"
        )
    others = eligible.copy()
    others[np.arange(n), chosen] = False
    out = others * ((1.0 - p) / np.maximum(others.sum(axis=1), 1))[:, None]
    out[np.arange(n), chosen] = p
    return np.asarray(out, dtype=np.float64)
