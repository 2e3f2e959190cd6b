"""What the site shows of its visitors as numbers: the feature space of a site."""

from __future__ import annotations

from policies.features import FeatureSpace
from policies.fixed import Uniform
from simulator.rollouts import rollout
from simulator.site import World


def reference_space(scenario: World, *, n_subjects: int = 2_000, seed: int = 0) -> FeatureSpace:
    """A feature space fitted on a uniform rollout of a site."""
    return FeatureSpace.fit(rollout(scenario, Uniform(), n_subjects=n_subjects, visit_days=7, seed=seed).table)
