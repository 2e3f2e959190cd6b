"""The log of a service, read back as the rollout that the simulator would have written."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import IdentifyRequest, OutcomeRequest
from engine.offers.placement import CatalogueOffer, Placement
from engine.retrain.records import RetrainConfig
from engine.retrain.simulated import MIN_VISITORS, main
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.simulation.store_log import last_told, rollout_of, scenario_of
from engine.simulation.traffic import InProcess, live_through, moment
from policies.errors import InvalidInputError
from simulator.rollouts import WINDOW_DAYS
from simulator.scenarios.car_subscription import PLACEMENT, reference
from simulator.site import START
from tests.engine.service_world import SECRET, shop

KINDS = {"clicked": "clicked", "subscribed": "subscribed", "kept_30d": "active_30d", "margin_eur": "margin_eur", "cancelled": "cancelled"}  # fmt: skip


@pytest.mark.slow
def test_what_the_site_lived_is_what_the_log_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contracts, their ends, who stayed, margins and the offers shown agree, subject by subject, with the site's own memory."""
    made = reference()
    site = replace(made, parameters=made.parameters.with_assumed(convert_base=-1.5)).open(
        n_subjects=120, visit_days=3, seed=4
    )
    start = moment(START)
    placement = Placement(
        PLACEMENT,
        tuple(CatalogueOffer(o) for o in reversed(list(made.offers))),
        rules=made.rules,
        explore_share=0.9,
        reward=RewardDefinition((RewardTerm("subscribed"),), window_s=WINDOW_DAYS * DAY_S),
    )
    with open_service(tmp_path, secret=SECRET, clock=lambda: start, commit_timeout_s=60.0) as service:
        service.put_placement(placement)
        live_through(site, InProcess(service))
        end = start + timedelta(days=3 + 2 * WINDOW_DAYS)
        fitted = scenario_of(placement)
        run = rollout_of(service.database, placement, fitted, kinds=KINDS, as_of=end)
        early = rollout_of(service.database, placement, fitted, as_of=start + timedelta(days=13))
        last = last_told(service.database, PLACEMENT)
        config = tmp_path / "config.json"
        config.write_text(json.dumps(RetrainConfig(PLACEMENT, kept="active_30d").to_json()))
        monkeypatch.setenv("STORE", service.database.url.render_as_string(hide_password=False))
        asked = {
            "config": config, "candidate": tmp_path, "incumbent": tmp_path, "out": tmp_path / "out.json", "database": "STORE",
            "as-of": (start + timedelta(days=13)).isoformat(), "explore-share": 0.05,
        }  # fmt: skip
        assert main([word for name, value in asked.items() for word in (f"--{name}", str(value))]) == 0
        silent = {**KINDS, "kept_30d": "never told", "cancelled": "nor this"}
        with pytest.raises(InvalidInputError, match="how long they last cannot be known"):
            rollout_of(service.database, placement, fitted, kinds=silent, as_of=end)
        # A customer number that billing uses, and the visitor's own id: one person.
        assert run.table.subjects is not None
        signer = str(run.table.subjects[np.flatnonzero(run.rewards["subscribed"])[0]])
        service.identify(IdentifyRequest(signer, "customer-1"))
        service.outcome(OutcomeRequest("customer-1", "cancelled", 1.0, id="by-number", at=start + timedelta(days=30)))
        joined = rollout_of(service.database, placement, fitted, as_of=end)
    assert run.table.subjects is not None
    who = np.asarray([np.flatnonzero(site.names == n)[0] for n in np.unique(run.table.subjects)])
    assert np.array_equal(run.subjects.subscribed, site.signed_day[who] >= 0)
    assert run.subjects.subscribed.sum() > 10
    assert np.array_equal(run.subjects.kept_30d, site.is_kept[who])
    assert np.array_equal(run.subjects.signed_day, site.signed_day[who])
    # The fit takes open windows as censored, so visitors with one count when it is said how many there are.
    n_early = len(early.subjects.n_visits)
    assert early.subjects.is_matured.sum() < n_early
    reason = json.loads((tmp_path / "out.json").read_text())["reason"]
    assert reason == f"The log has {n_early} visitors; a fit of a site takes {MIN_VISITORS:,}."
    # Twelve whole days before the thirteenth and a day for clicks to come: open windows are in it, what came later is not.
    assert early.last_day == 11
    whole = run.day <= 11
    assert np.array_equal(early.chosen, run.chosen[whole])
    known = np.where(run.subjects.signed_day <= 11, run.subjects.signed_day, -1)
    assert np.array_equal(early.subjects.signed_day[early.subjects.signed_day >= 0], known[known >= 0])
    assert last.date() <= end.date()
    row = joined.row[np.flatnonzero(joined.table.subjects == signer)[0]]
    assert 0 <= joined.subjects.cancelled_day[row] <= 30
    assert len(joined.subjects.n_visits) == len(run.subjects.n_visits)
    assert run.table.offers.ids == fitted.offers.ids == placement.offer_set.ids
    assert np.allclose(run.probabilities.sum(axis=1), 1.0)
    assert (run.probabilities[np.arange(len(run.chosen)), run.chosen] > 0).all()
    assert (run.probabilities[~run.table.eligible] == 0).all()


def test_a_site_that_cannot_be_fitted_is_named() -> None:
    """Offers that say nothing of what the laws read give a sentence with what is missing."""
    with pytest.raises(InvalidInputError, match="offer 'a' has no car_class, discount_pct, family"):
        scenario_of(shop())
