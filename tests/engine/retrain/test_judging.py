"""What the log and the simulator say together of a candidate that is better."""

from __future__ import annotations

import numpy as np
import pytest

from engine.gate.parts import simulator_part
from engine.gate.records import Limits, conclude
from engine.retrain.judging import judge
from engine.retrain.records import RetrainConfig
from engine.retrain.simulated import simulate
from engine.training.reward import fit_reward_model
from policies.features import FeatureSpace
from policies.fixed import FixedOrder, Uniform
from policies.greedy import greedy
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from tests.engine.service_world import START

SHARE = 0.05


@pytest.mark.slow
def test_the_gate_passes_what_log_and_fitted_site_both_find_better() -> None:
    """Learned on half of a rotation's visitors, a policy passes every question on the other half and on the site fitted on them all."""
    site, limits = reference(), Limits()
    run = rollout(site, Uniform(), n_subjects=8_000, visit_days=28, seed=3)
    logs = {name: run.interactions(name) for name in ("subscribed", "margin_eur", "kept_30d")}
    subjects = logs["subscribed"].table.subjects
    assert subjects is not None
    is_learned = np.isin(subjects, np.unique(subjects)[::2])
    part = logs["subscribed"].take(np.flatnonzero(is_learned))
    candidate = greedy(fit_reward_model(part, kind="logistic", seed=0, space=FeatureSpace.fit(part.table)))
    incumbent = FixedOrder(("compact_year", *(o for o in site.offers.ids if o != "compact_year")))
    held_out = {name: log.take(np.flatnonzero(~is_learned)) for name, log in logs.items()}
    found = judge(
        held_out.pop("subscribed"), held_out, {"learned": candidate, "copy": incumbent}, incumbent=incumbent,
        explore_share=SHARE, limits=limits, seed=0, n_resamples=20,
    )  # fmt: skip
    assert found.chosen == "learned"
    config = RetrainConfig("site", n_members=4, n_simulated=600)
    differences = simulate(run, site, candidate, incumbent, config=config, explore_share=SHARE)
    parts = [*found.parts, simulator_part(differences, primary="kept_30d", limits=limits, n_visitors=8_000)]
    assert {p.name: p.word for p in parts if p.is_needed} == dict.fromkeys(
        ("contract", "latency", "calibration", "off-policy evaluation", "guardrail margin_eur", "guardrail kept_30d", "simulator"),
        "pass",
    )  # fmt: skip
    verdict = conclude(parts, placement="site", policy="c@1", incumbent="i@1", at=START, inputs="x")
    assert verdict.outcome == "pass"
    assert verdict.may_go_on
    # The word of the log is not enough.
    parts[-1] = simulator_part("No site could be fitted.", primary="kept_30d", limits=limits)
    verdict = conclude(parts, placement="site", policy="c@1", incumbent="i@1", at=START, inputs="x")
    assert verdict.outcome == "log cannot answer"
