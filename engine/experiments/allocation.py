"""Who decides for a subject at a placement: a variant of a running experiment, or the placement's own policy.

The hash is sticky while weights stand. Whoever was exposed before the weights changed, before a login, or before a feature that
the experiment looks at changed is found in the store and stays where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.experiments.controls import Controls
from engine.experiments.records import OWN_POLICY, Experiment
from policies.allocation import Allocator, Trial, Variant
from policies.records import Features

_MEMORY = 100_000
# Phase, variant and its probability at first exposure of a person in an experiment; None where there was none.
Assigned = Callable[[str, tuple[str, ...]], tuple[int, str, float] | None]


@dataclass(frozen=True, slots=True)
class Allocation:
    """Who decides.

    Parameters
    ----------
    policy
        None is the baseline order.
    forced
        ``experiment: variant`` that a person looks at without being counted; the decision belongs to no experiment.
    """

    policy: str | None
    experiment: str | None = None
    phase: int | None = None
    variant: str | None = None
    probability: float | None = None
    forced: str = ""


class PlacementTrials:
    """The running experiments of a placement, at most one of which takes any subject.

    Parameters
    ----------
    own_policy
        What decides outside experiments.
    """

    def __init__(self, experiments: Sequence[Experiment], controls: Controls, *, own_policy: str | None) -> None:
        self.experiments = () if controls.is_paused else tuple(experiments)
        self._own = Allocation(own_policy)
        self._allocator = Allocator(
            [Trial(e.split(e.phases[-1]), e.layer, e.slots) for e in self.experiments], holdout_bp=controls.holdout_bp
        )
        self._forced = {
            subject: self._of_forced(e, e.variant(key)) for e in self.experiments for subject, key in e.forced.items()
        }
        self._is_targeted = any(e.targeting for e in self.experiments)
        self._known: dict[tuple[str, ...], Allocation] = {}

    @property
    def policies(self) -> tuple[str | None, ...]:
        """What variants of running experiments decide by."""
        return tuple(self._policy(v) for e in self.experiments for v in e.phases[-1].variants)

    def allocate(self, ids: tuple[str, ...], features: Features, *, assigned: Assigned) -> Allocation:
        """Allocation of a person.

        Parameters
        ----------
        ids
            All ids of the person, its name first.
        assigned
            Reads the store; asked only where the hash alone does not tell.
        """
        if not self.experiments:
            return self._own
        if self._forced:
            for id_ in ids:
                if id_ in self._forced:
                    return self._forced[id_]
        if self._is_targeted:
            return self._decide(ids, features, assigned)
        known = self._known.get(ids)
        if known is None:
            known = self._decide(ids, features, assigned)
            if len(self._known) >= _MEMORY:
                del self._known[next(iter(self._known))]
            self._known[ids] = known
        return known

    def _decide(self, ids: tuple[str, ...], features: Features, assigned: Assigned) -> Allocation:
        positions = self._allocator.positions(ids[0])
        for experiment, position in zip(self.experiments, positions, strict=True):
            phase = experiment.phases[-1]
            is_meant = all(c.holds(features) for c in experiment.targeting)
            if phase.number > 1 or len(ids) > 1 or not is_meant:
                kept = assigned(experiment.id, ids)
                if kept is not None:
                    number, key, probability = kept
                    variant = next(v for v in experiment.phases[number - 1].variants if v.key == key)
                    return Allocation(self._policy(variant), experiment.id, number, key, probability)
            if is_meant and position is not None:
                chosen = phase.variants[position]
                probability = experiment.split(phase).probability(chosen.key)
                return Allocation(self._policy(chosen), experiment.id, phase.number, chosen.key, probability)
        return self._own

    def _policy(self, variant: Variant) -> str | None:
        return self._own.policy if variant.policy == OWN_POLICY else variant.policy

    def _of_forced(self, experiment: Experiment, variant: Variant) -> Allocation:
        return Allocation(self._policy(variant), forced=f"{experiment.id}: {variant.key}")
