"""A log of a site as the likelihood of responses reads it: what was shown, what it rests on, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError, SchemaError
from policies.records import BoolArray, FloatArray, IntArray
from simulator import world
from simulator.rollouts import Rollout
from simulator.scenarios.car_subscription import CAR_CLASSES, FAMILIES, Scenario

Floats = NDArray[np.float32]
_MAX_LAG = 64
_MAX_WEIGHT = 10.0
_MAX_VALUES = 8
# Columns that are not traits of the person but of the visit, or that the model takes in another way.
_NOT_TRAITS = frozenset(
    ("stage", "searched_class", "device", "channel", "n_visits", "days_since_last_visit", "tenure_days",
     "discounts_seen", "days_since_first_visit")
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """A log as the likelihood reads it: visits in the order of subjects, contracts one a subject at most.

    Attributes
    ----------
    start
        Where each subject's visits begin, shape ``(n_subjects,)``.
    day, shown
        Of each visit: its day in the log and the position of the offer, shape ``(n_visits,)``.
    group
        Searched class times classes of offers, shape ``(n_visits,)``: which row of the tables of taste a visit reads.
    linear
        What acts on the log-odds in proportion, shape ``(n_visits, n_linear)``, its names in ``linear_names``.
    lags
        Earlier views of the same family by days ago, shape ``(n_visits, n_lags)``.
    signs
        1 signed, 0 not, -1 not known, shape ``(n_visits,)``.
    weight
        Of what each visit adds to those before it; None: all alike.
    contract
        Subjects with a contract, and of each: hazard covariates ``(m, n_hazard)``, group, days at risk without and with care,
        whether it was cancelled, and whether cared for on that day.
    """

    start: IntArray
    day: IntArray
    shown: IntArray
    group: IntArray
    linear: Floats
    linear_names: tuple[str, ...]
    price: Floats
    discount: Floats
    lags: NDArray[np.int8]
    clicked: Floats
    signs: NDArray[np.int8]
    weight: Floats | None
    contract: IntArray
    hazard: FloatArray
    hazard_names: tuple[str, ...]
    hazard_group: IntArray
    days: FloatArray
    is_cancelled: BoolArray
    is_cared_at_end: BoolArray
    traits: FloatArray

    @property
    def n_subjects(self) -> int:
        """How many visitors the log has."""
        return len(self.start)


def trait_design(columns: dict[str, NDArray[Any]]) -> tuple[FloatArray, tuple[str, ...]]:
    """Traits as centred numbers of unit spread, text as indicators of its commonest values: ``(n, d)`` and names.

    Of a text all values but the first get one where they are few; of many only the commonest ``_MAX_VALUES`` do, the others are one
    group. Numbers that are all missing, or all the same, are no trait.
    """
    blocks, names = [], []
    for name in sorted(columns):
        column = columns[name]
        if column.dtype.kind in "US":
            found, counts = np.unique(column, return_counts=True)
            common = np.sort(np.argsort(-counts, kind="stable")[:_MAX_VALUES])
            values = found[1:] if len(found) <= _MAX_VALUES + 1 else found[common]
            blocks += [(column == v).astype(np.float64) for v in values]
            names += [f"{name}={v or '(missing)'}" for v in values]
        else:
            numbers = np.asarray(column, dtype=np.float64)
            known = numbers[~np.isnan(numbers)]
            if not len(known) or known.min() == known.max():
                continue
            blocks.append(np.where(np.isnan(numbers), np.nanmean(numbers), numbers))
            names.append(name)
    if not blocks:
        return np.zeros((len(next(iter(columns.values()), ())), 0)), ()
    design = np.stack(blocks, axis=1)
    design = (design - design.mean(axis=0)) / np.maximum(design.std(axis=0), 1e-9)
    return design, tuple(names)


def traits_of(run: Rollout) -> dict[str, NDArray[Any]]:
    """Columns of a log that describe the person, one value a subject that was seen."""
    _, first = np.unique(run.row, return_index=True)
    return {name: column[first] for name, column in run.table.columns.items() if name not in _NOT_TRAITS}


def evidence_of(run: Rollout, scenario: Scenario, *, is_weighted: bool = False) -> Evidence:
    """Read a log of a site with known offers.

    Parameters
    ----------
    is_weighted
        Weigh what each visit adds by its inverse propensity, cut at ten times the mean: for models that are wrong, the fit is then
        best for offers shown at random instead of for those the log prefers.

    Raises
    ------
    InvalidInputError
        If contracts begin with a trial, or some visitors had one before. Dates are not known to the likelihood either: what they do is read as chance.
    """
    check_log(run)
    if (run.table.columns["stage"] == world.STAGES[world.TRIAL]).any():
        raise InvalidInputError(
            "the log has subjects on trial; expected a site without trials: the likelihood knows no end of one"
        )
    if (run.table.columns["stage"] == world.STAGES[world.LAPSED]).any():
        raise InvalidInputError(
            "the log has lapsed subjects among its visitors; expected none: the likelihood takes all visitors for new ones"
        )
    order = np.lexsort((run.day, run.row))
    row, day, chosen = run.row[order], run.day[order], run.chosen[order]
    subjects, start = np.unique(row, return_index=True)
    at = np.searchsorted(subjects, row)
    offers = world.OfferNumbers.of(scenario)
    known = {name: column[order] for name, column in run.table.columns.items()}
    is_visitor = known["stage"] == world.STAGES[world.VISITOR]
    clicked = run.rewards["clicked"][order] > 0
    credited = run.rewards["subscribed"][order] > 0
    last_day = run.last_day
    signs = np.where(is_visitor & clicked & (day + world.MAX_DELAY_DAYS <= last_day), credited, -1).astype(np.int8)
    searched = np.searchsorted(np.asarray(sorted(CAR_CLASSES)), known["searched_class"])
    searched = np.asarray([CAR_CLASSES.index(c) for c in sorted(CAR_CLASSES)])[searched]
    car = offers.car_class[chosen]  # -1 without a car
    contract = offers.is_contract[chosen]
    effective = offers.price[chosen] * (1.0 - offers.discount[chosen])
    price = np.where(contract, (effective - offers.reference[chosen]) / 100.0, 0.0)
    traits, trait_names = trait_design(
        {name: column[start] for name, column in known.items() if name not in _NOT_TRAITS}
    )
    discount = offers.discount[chosen]
    seen = _count_before(start, discount > 0)
    dependence = np.minimum(seen, world.MAX_DEPENDENCE)
    columns = {
        "click_base": np.ones(len(row)),
        "no_offer_penalty": (offers.family[chosen] == 0).astype(np.float64),
        "discount_appeal": discount,
        "perk_appeal": offers.perk[chosen],
        "term_dislike": -offers.term[chosen],
        "engagement_gain": world.engagement(known["n_visits"]),
        "appeal_per_dependence": -dependence * offers.is_list_price[chosen],
        "discount_wear": -dependence * (discount > 0),
        **{f"affinity:{n}": discount * traits[at, j] for j, n in enumerate(trait_names)},
    }
    lags = _family_lags(start, day, offers.family[chosen])
    weight = _weights(run, order, start, is_visitor) if is_weighted else None
    stays = _contracts(
        scenario, offers, at, day, chosen, clicked, credited, dependence + (discount > 0),
        signed=run.subjects.signed_day[subjects], cancelled=run.subjects.cancelled_day[subjects], last_day=last_day,
        searched=searched,
    )  # fmt: skip
    return Evidence(
        start=start,
        day=day,
        shown=chosen,
        group=searched * (len(CAR_CLASSES) + 1) + car + 1,
        linear=np.stack(list(columns.values()), axis=1).astype(np.float32),
        linear_names=tuple(columns),
        price=price.astype(np.float32),
        discount=discount.astype(np.float32),
        lags=lags,
        clicked=clicked.astype(np.float32),
        signs=signs,
        weight=weight,
        traits=traits,
        **stays,
    )


def check_log(run: Rollout) -> None:
    """Refuse a log whose columns the likelihood cannot read.

    Raises
    ------
    SchemaError
        If a column is missing, or has words that the site does not know.
    """
    columns = run.table.columns
    missing = [name for name in ("stage", "searched_class", "n_visits") if name not in columns]
    if missing:
        raise SchemaError(
            f"the log has no column {', '.join(missing)}; expected stage, searched_class and n_visits of every visit"
        )
    for name, known in (("stage", world.STAGES), ("searched_class", CAR_CLASSES)):
        unknown = sorted(set(np.unique(columns[name]).tolist()) - set(known))
        if unknown:
            told = ", ".join(repr(u) for u in unknown[:3])
            raise SchemaError(f"column {name} of the log has {told}; expected one of {', '.join(known)}")


def seen_from_the_start(run: Rollout) -> Rollout:
    """The visitors of a log that it has seen since their first visit, up to the end of their first contract.

    Of the others nobody knows what they were shown before; who has left a contract follows other laws than who never had one.

    Raises
    ------
    InvalidInputError
        If there are none.
    """
    check_log(run)
    columns = run.table.columns
    order = np.lexsort((run.day, run.row))
    subjects, start = np.unique(run.row[order], return_index=True)
    first = order[start]
    is_new = (columns["n_visits"][first] == 0) & (columns["stage"][first] == world.STAGES[world.VISITOR])
    if not is_new.any():
        raise InvalidInputError(
            "the log has no visitor whose first visit it saw (column n_visits counts the visits before, from 0); expected some"
        )
    is_kept = np.isin(run.row, subjects[is_new]) & (columns["stage"] != world.STAGES[world.LAPSED])
    if is_kept.all():
        return run
    keep = np.flatnonzero(is_kept)
    return replace(
        run,
        table=run.table.take(keep),
        chosen=run.chosen[keep],
        probabilities=run.probabilities[keep],
        row=run.row[keep],
        day=run.day[keep],
        rewards={name: values[keep] for name, values in run.rewards.items()},
    )


def _weights(run: Rollout, order: IntArray, start: IntArray, is_visitor: BoolArray) -> Floats:
    """Inverse propensities of visits, cut at ``_MAX_WEIGHT`` times their mean, mean 1; shape ``(n_visits,)``.

    What follows a contract (how long it lasts, clicks on the way) is one piece of evidence: it weighs what the last visit before it
    does.
    """
    n = len(order)
    propensity = run.probabilities[order, run.chosen[order]]
    if not (propensity > 0).all():
        raise InvalidInputError(
            f"{int((~(propensity > 0)).sum()):,} of {n:,} visits have no propensity above 0; weights need one for every visit: fit "
            "without weights"
        )
    weight = 1.0 / propensity
    weight = np.minimum(weight / weight[is_visitor].mean(), _MAX_WEIGHT) if is_visitor.any() else weight
    position = np.arange(n)
    before = np.maximum.accumulate(np.where(is_visitor, position, -1))
    first = np.repeat(start, np.diff(np.append(start, n)))
    weight = np.where(before >= first, weight[before], 1.0)
    return np.asarray(weight / weight.mean(), dtype=np.float32)


def _count_before(start: IntArray, flag: BoolArray) -> IntArray:
    """How often a flag was up earlier in the visits of the same subject."""
    total: IntArray = np.cumsum(flag) - flag
    lengths = np.diff(np.append(start, len(flag)))
    return np.asarray(total - np.repeat(total[start], lengths), dtype=np.int64)


def _family_lags(start: IntArray, day: IntArray, family: IntArray) -> NDArray[np.int8]:
    """Earlier views of the family of each visit by days ago, shape ``(n, lags)``; nothing for the family of no offer."""
    n = len(day)
    first = np.repeat(start, np.diff(np.append(start, n)))
    span = int(np.clip(day - day[first], 0, _MAX_LAG).max(initial=0)) + 1
    out = np.zeros((n, span), dtype=np.int8)
    position, back = np.arange(n) - first, 1
    while True:
        rows = np.flatnonzero(position >= back)
        if not len(rows):
            return out
        same = rows[(family[rows] == family[rows - back]) & (family[rows] != 0)]
        lag = np.minimum(day[same] - day[same - back], span - 1)
        out[same, lag] = np.minimum(out[same, lag], 126) + 1
        back += 1


def _contracts(
    scenario: Scenario, offers: world.OfferNumbers, at: IntArray, day: IntArray, chosen: IntArray, clicked: BoolArray,
    credited: BoolArray, dependence: IntArray, *, signed: IntArray, cancelled: IntArray,
    last_day: int, searched: IntArray,
) -> dict[str, Any]:  # fmt: skip
    """Contracts with their days at risk, and how many of them a loyalty offer covers."""
    visit = np.flatnonzero(credited)
    who = at[visit]
    first = int(np.flatnonzero(offers.is_contract)[0])
    offer = np.where(offers.is_contract[chosen[visit]], chosen[visit], first)
    is_cancelled = cancelled[who] >= 0
    end = np.where(is_cancelled, cancelled[who], last_day)
    total = np.maximum(end - signed[who], 0)
    place = np.full(len(signed), -1, dtype=np.int64)
    place[who] = np.arange(len(who))
    loyal = np.flatnonzero(clicked & (offers.family[chosen] == FAMILIES.index("loyalty")) & (place[at] >= 0))
    mine, since = place[at[loyal]], day[loyal]
    until = np.minimum(since + world.CARE_DAYS, end[mine])
    is_followed = np.append(mine[1:] == mine[:-1], False)
    until = np.where(is_followed, np.minimum(until, np.append(since[1:], 0) - 1), until)
    cared = np.bincount(mine, weights=np.maximum(until - since + 1, 0), minlength=len(who))
    at_end = np.zeros(len(who), dtype=np.bool_)
    at_end[mine[(~is_followed) & (since + world.CARE_DAYS >= end[mine])]] = True
    columns = {
        "cancel_per_day": np.ones(len(who)),
        "cancel_per_discount": offers.discount[offer],
        "cancel_per_term": offers.term[offer],
        "cancel_per_perk": offers.perk[offer],
        "cancel_per_dependence": np.minimum(dependence[visit], world.MAX_DEPENDENCE),
    }
    return {
        "contract": who,
        "hazard": np.stack(list(columns.values()), axis=1).astype(np.float64),
        "hazard_names": tuple(columns),
        "hazard_group": searched[visit] * (len(CAR_CLASSES) + 1) + offers.car_class[offer] + 1,
        "days": np.stack([total - cared, cared], axis=1).astype(np.float64),
        "is_cancelled": is_cancelled,
        "is_cared_at_end": at_end,
    }
