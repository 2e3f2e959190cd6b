"""A live experiment without a server: the same split, the same draws, the same judge as the service, thousands of visits at once.

What the service does for one request happens here for a day of requests: the sticky hash picks the variant
(``policies.allocation``), the keyed hash of the decision's id gives the number it is drawn with
(``policies.sampling.uniform_for``), ``policies.sampling.decide`` mixes in the explore share and draws, and
``offline_eval.abtest`` reads the result under the plan that ``engine.experiments.records`` makes. A test lets one cohort
come through the real service, over HTTP and in-process, and through here: offers and probabilities are equal bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from engine.demo.live import CONTROL, EXPERIMENT, TREATMENT
from engine.demo.reading import WORTHWHILE_LIFT, counting
from engine.experiments.records import Experiment, plan_for_statistics
from engine.experiments.records import Plan as ExperimentChoices
from engine.proof.config import ProofConfig
from engine.proof.learning import FIRST, AnyWorld
from offline_eval.abtest import ExperimentPlan, Replay, SubjectOutcomes, required_subjects
from offline_eval.abtest.replay import replay
from policies.allocation import Allocator, Split, Trial, Variant
from policies.protocols import Policy, PolicyTraits
from policies.records import DecisionTable, FloatArray, IntArray
from policies.sampling import uniform_for
from simulator.rollouts import WINDOW_DAYS, Rollout, rollout
from simulator.scenarios.car_subscription import PLACEMENT
from simulator.site import START, Visits

VARIANTS = (CONTROL, TREATMENT)
# A random split of n subjects carries a hair less information than an even one: a little more come than are planned.
_MORE = 1.02


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How many visitors an experiment needs, from the training log, before it starts.

    Attributes
    ----------
    effect
        Absolute change of *kept per visitor* that is worth finding.
    planned
        Visitors with which it is found with the plan's power.
    """

    kept_per_visitor: float
    effect: float
    planned: int

    @property
    def comes(self) -> int:
        """Visitors who come."""
        return ceil(_MORE * self.planned)


def sample_size(kept_per_visitor: float, config: ProofConfig) -> SampleSize:
    """The power plan: the worthwhile lift of *kept per visitor*, found in ``config.power`` of experiments."""
    effect = WORTHWHILE_LIFT * kept_per_visitor
    spread = sqrt(kept_per_visitor * (1 - kept_per_visitor))
    planned = required_subjects(standard_deviation=spread, effect=effect, power=config.power, n_looks=config.n_looks)
    return SampleSize(kept_per_visitor, effect, planned)


def choices(size: SampleSize, config: ProofConfig) -> ExperimentChoices:
    """The plan as an experiment of the service keeps it."""
    return ExperimentChoices(
        planned_subjects=size.planned,
        effect=size.effect,
        primary="kept",
        n_looks=config.n_looks,
        visitors_per_day=size.comes / config.visit_days,
    )


def statistics_plan(size: SampleSize, config: ProofConfig) -> ExperimentPlan:
    """The plan as the service hands it to the statistics."""
    variants = tuple(Variant(name, 5_000, name) for name in VARIANTS)
    experiment = Experiment(EXPERIMENT, PLACEMENT, variants, counting=counting(), plan=choices(size, config))
    assert experiment.plan is not None
    return plan_for_statistics(experiment, experiment.plan)


def secret_of(seed: int) -> bytes:
    """Secret that a sandbox of the demo draws with."""
    return hashlib.sha256(f"demo {seed}".encode()).digest()


class ByVariant:
    """Each visitor gets the policy of its variant, by the sticky hash of the service."""

    name = "by variant"
    traits = PolicyTraits()

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self._policies = [policies[name] for name in VARIANTS]
        split = Split(EXPERIMENT, tuple(Variant(name, 5_000, name) for name in VARIANTS))
        self._allocator = Allocator([Trial(split)], memory=1_000_000)

    def variant_of(self, subjects: np.ndarray) -> IntArray:
        """Position of each subject's variant, shape ``(n,)``."""
        found = [self._allocator.positions(s)[0] for s in subjects.tolist()]
        return np.asarray(found, dtype=np.int64)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Distribution of each decision by its visitor's variant, shape ``(n, k)``."""
        assert table.subjects is not None
        variant = self.variant_of(table.subjects)
        out = np.zeros(table.eligible.shape)
        for position, policy in enumerate(self._policies):
            rows = np.flatnonzero(variant == position)
            if len(rows):
                out[rows] = policy.probabilities(table.take(rows))
        return out


@dataclass(frozen=True, slots=True, eq=False)
class LiveRun:
    """What came of an experiment: the log, which visitor had which variant, and the rows that are judged."""

    run: Rollout
    variant: IntArray
    outcomes: SubjectOutcomes


def live(
    world: AnyWorld,
    policies: Mapping[str, Policy],
    *,
    n_subjects: int,
    config: ProofConfig,
    seed: int,
    first_subject: int = FIRST["live"],
) -> LiveRun:
    """Let a cohort live under a 50/50 split until every window is over."""
    by_variant = ByVariant(policies)
    secret = secret_of(seed)

    def drawn_with(visits: Visits) -> FloatArray:
        assert visits.table.subjects is not None
        names = visits.table.subjects.tolist()
        numbers = visits.visit_number.tolist()
        return np.asarray(
            [uniform_for(secret, PLACEMENT, f"{s}-{n}") for s, n in zip(names, numbers, strict=True)], dtype=np.float64
        )

    run = rollout(
        world, by_variant, n_subjects=n_subjects, visit_days=config.visit_days, seed=seed, first_subject=first_subject,
        explore_share=config.serve_explore_share, uniforms_of=drawn_with,
    )  # fmt: skip
    assert run.table.subjects is not None
    assert run.table.at is not None
    first = np.full(n_subjects, -1, dtype=np.int64)
    first[run.row[::-1]] = np.arange(len(run.row))[::-1]
    variant = by_variant.variant_of(run.table.subjects[first])
    exposed = (run.table.at[first] - START) / np.timedelta64(1, "D")
    s = run.subjects
    outcomes = SubjectOutcomes(
        variants=np.asarray(VARIANTS)[variant],
        values={
            "subscribed": s.subscribed.astype(np.float64),
            "kept": s.kept_30d.astype(np.float64),
            "margin": s.margin_eur,
        },
        exposed_day=exposed.astype(np.float64),
        as_of_day=float(config.visit_days + WINDOW_DAYS + 1),  # the moment the last window closes
    )
    return LiveRun(run, variant, outcomes)


def read(run: LiveRun, plan: ExperimentPlan, *, n_points: int = 0) -> Replay:
    """The experiment under its plan, every look when it was due."""
    return replay(run.outcomes, plan, n_points=n_points, in_simulation=True)
