"""Experiments in simulation: cells of setting, policy and seed that can be lived anywhere, in any order, once.

A cell is a few plain values; living it gives one row a visitor, kept as Parquet. So a sweep can be spread over a cluster, stopped and
begun again, and judged visitor by visitor: policies of one setting and seed met the same people with the same luck.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import t as student

from policies.artifact import load_artifact
from policies.errors import InvalidInputError, UnknownNameError
from policies.records import FloatArray, IntArray
from policies.sampling import DEFAULT_EXPLORE_SHARE
from simulator.crossings import crossings
from simulator.exact import solve
from simulator.habit import AnyWorld, HabitScenario
from simulator.named_policies import LEARNERS, policy_named
from simulator.rollouts import REWARDS, WINDOW_DAYS, RewardName, rollout
from simulator.scenarios.car_subscription import Scenario
from simulator.scenarios.suite import Study, study_named
from simulator.truth import OUTCOMES, upper_bound
from simulator.world import KEPT_AFTER_DAYS

Z95 = 1.959964
# With fewer seeds Student's interval over them is wider than anything it could be about.
MIN_SEEDS = 5
# A bound is known well enough from so many visitors, and dates make each of them dear.
_N_BOUND = 20_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One cohort under one policy: everything that its result depends on.

    Parameters
    ----------
    scenario, policy
        Names as ``study_named`` and ``policy_named`` take them.
    n_subjects, visit_days
        Visitors, and the days over which they arrive.
    learn_from
        Which reward a learner learns from; empty for policies that do not learn.
    content
        Hash of the world the name and setting stand for, and of what lies in a folder that a policy's name points to.
    """

    scenario: str
    setting: float
    policy: str
    seed: int
    n_subjects: int
    visit_days: int
    explore_share: float = DEFAULT_EXPLORE_SHARE
    content: str = ""
    learn_from: RewardName | Literal[""] = ""

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that no other cell has."""
        told = {name: value for name, value in asdict(self).items() if name != "learn_from" or value}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def path(self, folder: Path) -> Path:
        """Where its result is kept."""
        return folder / "cells" / f"{self.digest}.parquet"


def plan(
    scenario: str,
    policies: Sequence[str],
    *,
    n_subjects: int,
    visit_days: int,
    seeds: Sequence[int],
    settings: Sequence[float] | None = None,
    explore_share: float = DEFAULT_EXPLORE_SHARE,
    learn_from: RewardName | None = None,
) -> list[Cell]:
    """All cells of an experiment; the first policy is the one others are compared with.

    Parameters
    ----------
    learn_from
        Which reward learners learn from; default: what the scenario scores.

    Raises
    ------
    InvalidInputError
        If there are no policies or seeds, too few visitors, a policy twice, or a setting for a scenario that has none.
    UnknownNameError
        If the scenario or a policy is not known.
    """
    if not policies or not seeds or n_subjects < 2 or visit_days < 1:
        raise InvalidInputError(
            f"got {len(policies)} policies, {len(seeds)} seeds, {n_subjects} subjects and {visit_days} days; expected at least "
            "one policy, one seed, two subjects and one day"
        )
    if len(set(policies)) < len(policies):
        raise InvalidInputError(f"a policy is given twice among {', '.join(policies)}; name each once")
    study = study_named(scenario)
    reward = learned_reward(study, learn_from)
    wanted = tuple(study.setting_of(s) for s in dict.fromkeys(settings)) if settings else study.settings
    sites = {setting: study.make(setting) for setting in wanted}
    for name in policies:
        policy_named(name, sites[wanted[0]], seed=seeds[0], outcome=study.outcome)
    worlds = {setting: _world(site) for setting, site in sites.items()}
    return [
        Cell(
            scenario=scenario,
            setting=float(setting),
            policy=name,
            seed=int(seed),
            n_subjects=n_subjects,
            visit_days=visit_days,
            explore_share=explore_share,
            content=worlds[setting] + _content(name),
            learn_from=reward if name in LEARNERS else "",
        )
        for setting in wanted
        for seed in seeds
        for name in policies
    ]


def learned_reward(study: Study, learn_from: str | None) -> RewardName:
    """Which reward learners of a study learn from: the one that is asked for, else what the study scores.

    Raises
    ------
    UnknownNameError
        If there is no such reward.
    """
    if learn_from is not None and learn_from not in REWARDS:
        raise UnknownNameError("reward", learn_from, REWARDS)
    return cast(RewardName, learn_from or study.outcome)


def with_baseline(scenario: str, policies: Sequence[str]) -> tuple[str, ...]:
    """The policies, and last the one whose score is 0 where it is not among them; nothing where there are none."""
    baseline = study_named(scenario).baseline
    return (*policies, *(() if baseline in policies or not policies else (baseline,)))


def _world(site: AnyWorld) -> str:
    """Hash of a world's numbers: results kept from laws that have changed since are not those of this world."""
    own = site.margin_contrast if isinstance(site, HabitScenario) else [repr(site.calendar), site.shows_history]
    told = [
        site.parameters.values(),
        site.offers.revision,
        repr(site.rules),
        own,
        site.usual_price_eur,
        site.population.digest(),
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _content(name: str) -> str:
    folder = Path(name)
    return load_artifact(folder).digest if folder.is_dir() else ""


def live(cell: Cell) -> pa.Table:
    """Let the cell's policy choose for its cohort; one row a visitor, in the order of their ids."""
    study = study_named(cell.scenario)
    site = study.make(cell.setting)
    policy = policy_named(cell.policy, site, seed=cell.seed, outcome=study.outcome)
    run = rollout(
        site,
        policy,
        n_subjects=cell.n_subjects,
        visit_days=cell.visit_days,
        seed=cell.seed,
        explore_share=cell.explore_share,
        learn_from=cell.learn_from or None,
    )
    s = run.subjects
    arrived = np.full(cell.n_subjects, -1, dtype=np.int16)
    arrived[run.row[::-1]] = run.day[::-1]  # decisions are in order of time: the first one is written last
    return pa.table(
        {
            "arrived": arrived,
            "signed_day": s.signed_day.astype(np.int16),
            "subscribed": s.subscribed,
            "kept_30d": s.kept_30d,
            "margin_eur": s.margin_eur.astype(np.float32),
            "n_visits": s.n_visits.astype(np.int16),
        }
    )


def live_once(cell: Cell, folder: Path) -> Path:
    """Live a cell unless its result is there already; a file appears whole or not at all."""
    path = cell.path(folder)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    table = live(cell).replace_schema_metadata({"cell": json.dumps(asdict(cell))})
    # A name of its own: two processes may live the same cell at once, and whoever is last writes the same rows again.
    part = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}.part")
    pq.write_table(table, part)
    part.replace(path)
    return path


@dataclass(frozen=True, slots=True, eq=False)
class Lives:
    """One row a visitor of all seeds of one setting and policy.

    Attributes
    ----------
    seed
        Shape ``(n,)``; rows of two policies of one setting are the same visitors.
    """

    seed: FloatArray
    arrived: FloatArray
    signed_day: FloatArray
    outcomes: dict[str, FloatArray]


def read_lives(cells: Sequence[Cell], folder: Path) -> dict[tuple[float, str], Lives]:
    """Results by setting and policy.

    Raises
    ------
    InvalidInputError
        If a cell has not been lived.
    """
    grouped: dict[tuple[float, str], list[tuple[Cell, pa.Table]]] = {}
    for cell in cells:
        path = cell.path(folder)
        if not path.exists():
            raise InvalidInputError(f"{path} is missing; run the same command again to live what is left")
        grouped.setdefault((cell.setting, cell.policy), []).append((cell, pq.read_table(path)))
    made = {}
    for key, parts in grouped.items():
        columns = {
            name: np.concatenate(
                [np.asarray(t[name].to_numpy(zero_copy_only=False), dtype=np.float64) for _, t in parts]
            )
            for name in ("arrived", "signed_day", *OUTCOMES)
        }
        made[key] = Lives(
            seed=np.concatenate([np.full(t.num_rows, float(c.seed)) for c, t in parts]),
            arrived=columns["arrived"],
            signed_day=columns["signed_day"],
            outcomes={o: columns[o] for o in OUTCOMES},
        )
    return made


def summarise(cells: Sequence[Cell], lives: dict[tuple[float, str], Lives]) -> dict[str, Any]:
    """Values, paired differences to the first policy and scores, with 95 % intervals; plain values, labelled as simulation."""
    study = study_named(cells[0].scenario)
    seeds = sorted({c.seed for c in cells})
    settings = list(dict.fromkeys(c.setting for c in cells))
    names = list(dict.fromkeys(c.policy for c in cells))
    told: dict[str, Any] = {
        "scenario": cells[0].scenario,
        "about": study.about,
        "in_simulation": True,
        "setting": study.setting,
        "outcome": study.outcome,
        "baseline": study.baseline,
        "n_subjects": cells[0].n_subjects,
        "visit_days": cells[0].visit_days,
        "seeds": seeds,
        "explore_share": cells[0].explore_share,
        "settings": [],
    }
    for setting in settings:
        best, is_exact = _best(study, setting, cells[0])
        first = lives[setting, names[0]]
        low = lives.get((setting, study.baseline))
        rows = []
        for name in names:
            mine = lives[setting, name]
            # Visitors of one seed share what a learner has learned: only seeds are independent.
            own, pair = (mine.seed if LEARNERS.keys() & set(of) else None for of in ([name], [name, names[0]]))
            row: dict[str, Any] = {
                "policy": name,
                **{o: _interval(mine.outcomes[o], seed=own) for o in OUTCOMES},
                "against_first": {o: _interval(mine.outcomes[o] - first.outcomes[o], seed=pair) for o in OUTCOMES},
            }
            if low is not None and best is not None:
                base = low.outcomes[study.outcome]
                gain = _interval(mine.outcomes[study.outcome] - base, seed=own)
                room = best - float(base.mean())
                row["score"] = gain["mean"] / room
                row["score_interval"] = {name: value / room for name, value in gain.items()}
            rows.append(row)
        entry = {"at": setting, "world": study.make(setting).name, "policies": rows}
        if best is not None:
            entry["best_possible"] = {"value": best, "is_exact": is_exact, "outcome": study.outcome}
        told["settings"].append(entry)
    learners = [name for name in names if name in LEARNERS]
    told["learners"] = {"policies": learners, "learn_from": next((c.learn_from for c in cells if c.learn_from), None)}
    told["crossings"] = crossings(
        study, settings, names, {key: made.outcomes[study.outcome] for key, made in lives.items()}
    )
    return told


def _best(study: Study, setting: float, cell: Cell) -> tuple[float | None, bool]:
    """The exact optimum, or a bound no policy can beat, or nothing; and whether it is exact."""
    site = study.make(setting)
    if not isinstance(site, Scenario):
        return None, False
    try:
        return solve(site, outcome=study.outcome)[1], True
    except InvalidInputError:  # something is hidden, or the date matters: a bound is what there is
        n, days = min(cell.n_subjects, _N_BOUND), cell.visit_days
        return upper_bound(site, n_subjects=n, seed=cell.seed, outcome=study.outcome, visit_days=days)[0], False


def _interval(values: FloatArray, *, seed: FloatArray | None = None) -> dict[str, float]:
    """Mean and 95 % interval over visitors; over seeds where they are given and there are ``MIN_SEEDS`` of them."""
    mean, half = float(values.mean()), Z95 * float(values.std(ddof=1) / np.sqrt(len(values)))
    if seed is not None and len(seeds := np.unique(seed)) >= MIN_SEEDS:
        each = np.asarray([values[seed == s].mean() for s in seeds])
        half = float(student.ppf(0.975, len(seeds) - 1) * each.std(ddof=1) / np.sqrt(len(seeds)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """An outcome per visitor by day, cumulative, with a 95 % interval; all of shape ``(n_days,)``.

    Attributes
    ----------
    is_over_seeds
        Whether the interval is Student's over seeds; with fewer than ``MIN_SEEDS`` of them, where that says little, it is over visitors.
    """

    day: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    is_over_seeds: bool


def curve(lives: Lives, outcome: str, *, n_days: int, minus: Lives | None = None) -> Curve:
    """Cumulative outcome per visitor of the cohort by day; ``minus`` another policy's, visitor by visitor, for regret.

    A contract counts on the day of signing, keeping on the day it is known (30 days later), margin on the day of signing.
    """
    seeds = np.unique(lives.seed)
    mine, theirs = _Steps.of(lives, outcome, n_days), None if minus is None else _Steps.of(minus, outcome, n_days)
    if len(seeds) >= MIN_SEEDS:
        each = np.stack([_difference(mine, theirs, np.flatnonzero(lives.seed == s), n_days)[0] for s in seeds])
        mean = each.mean(axis=0)
        half = float(student.ppf(0.975, len(seeds) - 1)) * each.std(axis=0, ddof=1) / np.sqrt(len(seeds))
    else:
        n = len(lives.seed)
        mean, square = _difference(mine, theirs, np.arange(n), n_days)
        half = Z95 * np.sqrt(np.maximum(square - mean**2, 0.0) / n)
    return Curve(np.arange(n_days, dtype=np.float64), mean, mean - half, mean + half, len(seeds) >= MIN_SEEDS)


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """What each visitor brings, and from which day on it counts, each of shape ``(n,)``."""

    day: IntArray
    value: FloatArray

    @classmethod
    def of(cls, lives: Lives, outcome: str, n_days: int) -> _Steps:
        has = lives.signed_day >= 0
        day = np.where(has, lives.signed_day + (KEPT_AFTER_DAYS if outcome == "kept_30d" else 0), 0).astype(np.int64)
        return cls(np.minimum(day, n_days - 1), np.where(has, lives.outcomes[outcome], 0.0))


def _difference(mine: _Steps, theirs: _Steps | None, rows: IntArray, n_days: int) -> tuple[FloatArray, FloatArray]:
    """Mean and mean square by day of what some visitors bring, or of how much more they bring under the other policy."""

    def total(day: IntArray, value: FloatArray) -> FloatArray:
        return np.asarray(np.cumsum(np.bincount(day[rows], weights=value[rows], minlength=n_days)) / len(rows))

    mean, square = total(mine.day, mine.value), total(mine.day, mine.value**2)
    if theirs is None:
        return mean, square
    both = total(np.maximum(mine.day, theirs.day), mine.value * theirs.value)
    return total(theirs.day, theirs.value) - mean, square + total(theirs.day, theirs.value**2) - 2.0 * both


def n_days_of(cell: Cell) -> int:
    """Days from the first arrival until every window is over."""
    return cell.visit_days + WINDOW_DAYS
