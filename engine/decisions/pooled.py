"""A placement's decisions as a log to judge policies on: by themselves, or as if an experiment's variants had drawn them together."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from engine.decisions.service import DecisionService
from engine.experiments.records import BASELINE
from engine.rewards.export import export_interactions
from offline_eval.candidates import Candidate
from offline_eval.loggers import balanced
from policies.errors import InvalidInputError
from policies.fixed import FixedOrder
from policies.records import InteractionBatch


def logged(
    service: DecisionService, placement: str, *, experiment: str | None = None, as_of: datetime
) -> InteractionBatch:
    """Decisions of a placement with closed windows; of an experiment, its last phase as if the mixture of its variants had drawn it.

    Raises
    ------
    InvalidInputError, UnknownNameError
        If nothing has closed, there is no such placement or experiment, or a variant was served by several snapshots.
    """
    if experiment is not None:
        service.experiments.get(experiment)  # or say which there are
    definition = service.placement(placement)[0].reward
    log = export_interactions(service.database, placement, definition=definition, as_of=as_of, experiment=experiment)
    return log if experiment is None else _mixture(service, placement, log)


def _mixture(service: DecisionService, placement: str, log: InteractionBatch) -> InteractionBatch:
    assert log.phases is not None
    log = log.take(np.flatnonzero(log.phases == log.phases[-1]))
    assert log.variants is not None
    assert log.policies is not None
    served = service.placement(placement)[0]
    order = (*served.baseline, *(e.offer.id for e in served.offers if e.offer.id not in served.baseline))
    loggers: dict[str, Candidate] = {}
    for variant in np.unique(log.variants):
        names = np.unique(log.policies[log.variants == variant])
        if len(names) > 1:
            raise InvalidInputError(
                f"variant {variant!s} was served by {', '.join(map(str, names))}; expected one snapshot in the phase: "
                "judge it without --experiment, by each row's own propensity"
            )
        name = str(names[0])
        is_baseline = name.startswith(f"{BASELINE}@")
        loggers[str(variant)] = FixedOrder(order) if is_baseline else service.policies.load(name).policy
    return balanced(log, loggers, explore_share=served.explore_share)
