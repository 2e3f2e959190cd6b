"""A log of another system in ours: what is exported again is what was taken in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.imported import take_in
from engine.learner.audit import audit
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.sources.personalizer_export import import_lines
from policies.errors import InvalidInputError, UnknownNameError
from policies.records import Offer, OfferId
from tests.engine.service_world import SECRET, exported, open_shop
from tests.engine.sources.personalizer_log import export

MENU = Placement(
    "menu",
    (CatalogueOffer(Offer(OfferId("sent-with-each-request"))),),
    reward=RewardDefinition((RewardTerm("reward"),), window_s=600.0),
)


def test_the_log_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Offers, features, distributions and rewards of the export equal the import; a second import changes nothing."""
    log = import_lines(export(120)).batch
    with open_shop(tmp_path, placements=[MENU]) as service:
        assert take_in(service, "menu", log) == 120
        assert take_in(service, "menu", log) == 0
        again = exported(service.database, "menu", as_of=datetime(2026, 6, 1, tzinfo=UTC))
        assert again.table.offers is log.table.offers
        assert again.decision_ids is not None
        assert log.decision_ids is not None
        order = [again.decision_ids.tolist().index(d) for d in log.decision_ids.tolist()]
        for name in ("chosen", "propensity", "reward", "probabilities", "policies"):
            np.testing.assert_array_equal(getattr(again, name)[order], getattr(log, name), err_msg=name)
        for name, column in log.table.columns.items():
            np.testing.assert_array_equal(again.table.columns[name][order], column)
        np.testing.assert_array_equal(again.table.at[order] if again.table.at is not None else None, log.table.at)
        status = service.status("menu")
        assert (status.n_decisions, status.n_rewards) == (120, int((log.reward != 0).sum()))
        found = audit(service.database, service.policies, secret=SECRET)
        assert found.n_recomputed == 0
        assert sum(found.not_recomputed.values()) >= 120
        assert found.is_clean


def test_what_cannot_be_taken_in_is_refused(tmp_path: Path) -> None:
    """A placement that is not there, or a log without times, is an error before anything is written."""
    log = import_lines(export(3)).batch
    with open_shop(tmp_path, placements=[MENU]) as service:
        with pytest.raises(UnknownNameError, match="did you mean 'menu'"):
            take_in(service, "menue", log)
        from dataclasses import replace

        with pytest.raises(InvalidInputError, match="times"):
            take_in(service, "menu", replace(log, table=replace(log.table, at=None)))
        assert service.status("menu").n_decisions == 0
