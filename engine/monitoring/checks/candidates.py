"""Whether the log of these days can judge the policies that wait to be tried."""

from __future__ import annotations

import numpy as np

from engine.experiments.records import is_version
from engine.monitoring.records import Check
from engine.monitoring.sample import recent_sample
from engine.monitoring.window import Window
from engine.registry.states import States
from engine.registry.versions import Registry
from engine.store.database import Database
from offline_eval.diagnostics import effective_sample_size
from policies.records import FloatArray, InteractionBatch
from policies.sampling import with_explore_share

_LEAST = 500
_TOP = 0.01


def overlap(database: Database, window: Window, registry: Registry | None) -> Check:
    """Effective rows and the tail of the weights of each candidate on the newest decisions."""
    if registry is None:
        return Check("overlap", "off", "Asked without a registry of policies.")
    names = candidates(database, window)
    if not names:
        return Check("overlap", "off", "No policy waits to be tried here.")
    batches = recent_sample(database, window)
    n = sum(len(b) for b in batches)
    if n < _LEAST:
        return Check("overlap", "unknown", f"{n} recent decisions are too few to tell.")
    lines, bad = [], []
    least = np.inf
    for name in names:
        try:
            policy = registry.load(name).policy
            weights = np.concatenate([_weights(policy.probabilities(b.table), b, window) for b in batches])
        except Exception as error:  # a plug-in may raise anything
            lines.append(f"{name}: cannot be asked ({error})")
            continue
        effective = effective_sample_size(weights)
        top = np.sort(weights)[-max(1, round(_TOP * n)) :].sum() / max(weights.sum(), 1e-12)
        least = min(least, effective)
        line = f"{name}: {effective:.0f} effective of {n} decisions, {top:.0%} of the weight on the heaviest hundredth"
        lines.append(line)
        if effective < window.limits.overlap_ess or top > window.limits.overlap_top_share:
            bad.append(line)
    told = f"The log can hardly judge a candidate: {bad[0]}." if bad else "The log can judge the candidates."
    value = float(least) if np.isfinite(least) else None
    return Check("overlap", "ringing" if bad else "ok", told, value, window.limits.overlap_ess, tuple(bad or lines))


def candidates(database: Database, window: Window) -> list[str]:
    """Policies that wait: of experiments that have not started, and candidates and shadows of the promotion."""
    standings = States(database).all(placement=window.watched.placement.id)
    found = {s.policy for s in standings if s.state in ("candidate", "shadow")}
    found |= {
        v.policy
        for e in window.watched.experiments
        if e.state in ("draft", "scheduled")
        for v in e.variants
        if is_version(v.policy)
    }
    return sorted(found)


def _weights(probabilities: FloatArray, batch: InteractionBatch, window: Window) -> FloatArray:
    mixed = with_explore_share(probabilities, batch.table.eligible, window.watched.placement.explore_share)
    return np.asarray(mixed[np.arange(len(batch)), batch.chosen] / batch.propensity)
