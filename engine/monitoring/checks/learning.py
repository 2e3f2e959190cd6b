"""Learning: whether learners keep up, and whether what policies predict comes true."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from engine.monitoring.cells import HOUR_US
from engine.monitoring.records import Check
from engine.monitoring.sample import closed_sample
from engine.monitoring.usual import of_key
from engine.monitoring.window import Window
from engine.registry.versions import Registry
from engine.store.database import Database
from engine.store.facts import to_us
from policies.errors import NextofferError
from policies.greedy import RewardModelPolicy
from policies.protocols import OnlineLearner, RewardModel
from policies.records import FloatArray

_LEAST_WAITING = 50
_LEAST_CLOSED = 200
_TICKS = "SELECT max(as_of_us), count(*) FROM learner_ticks WHERE policy = :policy AND NOT is_left_out"


def learner(database: Database, window: Window, registry: Registry | None) -> Check:
    """Decisions whose window closed well ago, of policies that learn, against the last tick of their learner."""
    limit = window.limits.learner_behind_s
    now_us = to_us(window.as_of)
    window_us = round(window.watched.placement.reward.window_s * 1e6)
    n_learning, longest, bad = 0, 0.0, list[str]()
    for ref in sorted({key[0] for key in window.today("choice").keys}):
        ((ticked_us, n_ticks),) = database.rows(_TICKS, policy=ref)
        if not n_ticks and not _learns(registry, ref):
            continue
        n_learning += 1
        # Of what nobody has seen there is nothing to learn.
        mine = of_key(window.cells["seen"], ref)
        closes_us = (mine.hour + 1) * HOUR_US + window_us
        waits = (closes_us > (ticked_us or 0)) & (closes_us <= now_us)
        n_waiting = float(mine.n[waits].sum())
        if not n_waiting:
            continue
        behind_s = (now_us - max(ticked_us or 0, int(closes_us[waits].min()))) / 1e6
        longest = max(longest, behind_s)
        if n_waiting >= _LEAST_WAITING and behind_s > limit:
            since = (
                "it has never ticked"
                if ticked_us is None
                else f"its last tick is {(now_us - ticked_us) / 3.6e9:.1f} h old"
            )
            bad.append(f"{ref}: {n_waiting:.0f} closed decisions wait, {since}")
    if not n_learning:
        return Check("learner", "off", "No policy that decides here learns online.")
    told = f"A learner is stuck: {bad[0]}." if bad else "Learners keep up with closed windows."
    return Check("learner", "ringing" if bad else "ok", told, longest, limit, tuple(bad))


def _learns(registry: Registry | None, ref: str) -> bool:
    if registry is None:
        return False
    try:
        return isinstance(registry.load(ref).policy, OnlineLearner)
    except NextofferError:
        return False


def calibration(database: Database, window: Window, registry: Registry | None) -> Check:
    """Mean reward of freshly closed decisions against what the model of their policy predicts for the offer that was shown."""
    limit = window.limits.calibration_share
    if registry is None:
        return Check("calibration", "off", "Asked without a registry of policies.")
    sums: defaultdict[str, list[FloatArray]] = defaultdict(list)
    n_closed = 0
    for ref, batch in closed_sample(database, window):
        n_closed += len(batch)
        model = _model(registry, ref)
        if model is None:
            continue
        predicted = np.asarray(model.expected_reward(batch.table))[np.arange(len(batch)), batch.chosen]
        sums[ref].append(np.stack([batch.reward, predicted]))
    if not sums:
        told = (
            "No policy whose windows have closed lately predicts rewards."
            if n_closed
            else "No window has closed lately."
        )
        return Check("calibration", "off", told)
    bad: list[str] = []
    worst, lines = 0.0, []
    for ref, parts in sums.items():
        realised, predicted = np.concatenate(parts, axis=1)
        n = len(realised)
        if n < _LEAST_CLOSED:
            continue
        off = float((realised - predicted).mean())
        error = max(float((realised - predicted).std()) / math.sqrt(n), 1e-12)
        share = abs(off) / max(abs(float(predicted.mean())), 1e-9)
        line = f"{ref}: {realised.mean():.4g} realised, {predicted.mean():.4g} predicted in {n} decisions"
        lines.append(line)
        worst = max(worst, share)
        if share > limit and abs(off) > window.limits.calibration_errors * error:
            bad.append(line)
    if not lines:
        return Check("calibration", "unknown", f"{n_closed} closed decisions are too few to tell.")
    told = f"Predictions do not come true: {bad[0]}." if bad else f"Predictions come true: {lines[0]}."
    return Check("calibration", "ringing" if bad else "ok", told, worst, limit, tuple(bad))


def _model(registry: Registry, ref: str) -> RewardModel | None:
    """The reward model that a policy carries; None where it has none or cannot be loaded."""
    try:
        policy = registry.load(ref).policy
    except NextofferError:
        return None
    return policy.model if isinstance(policy, RewardModelPolicy) else None
