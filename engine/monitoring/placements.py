"""What monitoring has to know of placements: what counts there, what is shown there, and when the baseline order was meant to answer."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from engine.experiments.lifecycle import Experiments
from engine.experiments.records import BASELINE, OWN_POLICY, Experiment
from engine.offers.placement import Placement
from engine.offers.stored import all_placements
from engine.store import tables
from engine.store.database import Database
from policies.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Watched:
    """One placement.

    Parameters
    ----------
    own
        Times (microseconds) from which its own policy was another one, and whether that was the baseline order.
    """

    placement: Placement
    experiments: tuple[Experiment, ...]
    own: tuple[tuple[int, bool], ...]

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of facts that count here: for learning, or in an experiment that runs."""
        kinds = set(self.placement.reward.kinds)
        for experiment in self.experiments:
            if experiment.state == "running":
                counting = experiment.counting
                kinds |= {counting.subscribed, counting.kept, counting.margin}
        return frozenset(kinds)

    def is_baseline_meant(self, at_us: int, experiment: str | None, variant: str | None) -> bool:
        """Whether the baseline order is what should answer at a time, in an experiment and a variant."""
        if experiment is not None:
            policies = {
                v.policy
                for e in self.experiments
                if e.id == experiment
                for phase in e.phases
                for v in phase.variants
                if v.key == variant
            }
            if OWN_POLICY not in policies:
                return BASELINE in policies
        place = bisect_right(self.own, at_us, key=lambda o: o[0]) - 1
        return self.own[max(place, 0)][1]

    def is_offered(self, offer: str, at: datetime) -> bool:
        """Whether the catalogue has an offer at a time."""
        return any(
            o.offer.id == offer
            and (o.starts_at is None or o.starts_at <= at)
            and (o.ends_at is None or at < o.ends_at)
            and o.stock != 0
            for o in self.placement.offers
        )


def watched(database: Database, placement: str | None = None) -> dict[str, Watched]:
    """Placements of a store, or one of them.

    Raises
    ------
    UnknownNameError
        If there is no placement of that name.
    """
    audit = tables.audit
    with database.reading() as connection:
        placements = all_placements(connection)
        changes = connection.execute(
            select(audit.c.at_us, audit.c.what, audit.c.document)
            .where(audit.c.action == "put", audit.c.what.like("placement %"))
            .order_by(audit.c.id)
        ).all()
    if placement is not None and placement not in placements:
        raise UnknownNameError("placement", placement, placements)
    experiments = Experiments(database).list()
    out: dict[str, Watched] = {}
    for name, (found, _) in placements.items():
        if placement not in (None, name):
            continue
        own = [
            (c.at_us, json.loads(c.document).get("policy") in (None, BASELINE))
            for c in changes
            if c.what == f"placement {name}"
        ]
        mine = tuple(e for e in experiments if e.placement == name)
        out[name] = Watched(found, mine, tuple(own) or ((0, found.policy in (None, BASELINE)),))
    return out
