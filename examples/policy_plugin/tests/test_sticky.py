"""The contract every policy keeps, run on ours; with nextoffer and this package installed: ``pytest``."""

import numpy as np
from sticky_policy import Sticky

from policies.contract import check_policy
from policies.records import DecisionTable, Offer, OfferSet


def test_it_keeps_the_contract():
    """Sums, eligibility, batches, order of offers, draws and saving: all of it in one call."""
    offers = OfferSet([Offer(name, {}) for name in ("monthly", "yearly", "trial")])
    eligible = np.asarray(
        [[True, True, True], [True, True, False], [False, True, True], [True, True, True], [True, False, True]]
    )
    last = np.asarray(["trial", "trial", "", "yearly", "gone"])
    table = DecisionTable(offers, eligible, columns={"last_offer": last})
    check_policy(Sticky(("yearly", "monthly")), table)
    assert Sticky(("yearly",)).probabilities(table)[0].tolist() == [0.0, 1.0 - 0.8, 0.8]
