"""The joined log as the one input of estimators and learners."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from sqlalchemy import Connection, select

from engine.rewards.definition import RewardDefinition
from engine.rewards.joined import Joined, matured_decisions
from engine.store import tables
from engine.store.database import Database
from policies.errors import InvalidInputError, UnknownNameError
from policies.records import Context, DecisionTable, InteractionBatch, Offer, OfferId, OfferSet


def export_interactions(
    database: Database,
    placement: str,
    *,
    definition: RewardDefinition | None = None,
    as_of: datetime,
    since: datetime | None = None,
    experiment: str | None = None,
) -> InteractionBatch:
    """Recorded, seen decisions whose window closed by ``as_of``, each with its number; in ledger order.

    Parameters
    ----------
    definition
        What counts; by default the placement's own reward definition.
    experiment
        Only decisions of one experiment; ``variants`` and ``phases`` of the batch say which.

    Raises
    ------
    InvalidInputError
        If no decision has matured, or an offer changed its features on the way: export each stretch by itself then.
    """
    with database.reading() as connection:
        if definition is None:
            definition = _definition(connection, placement)
        rows = matured_decisions(connection, placement, definition, as_of=as_of, since=since)
        if experiment is not None:
            rows = [r for r in rows if r.decision.experiment == experiment]
        if not rows:
            raise InvalidInputError(
                f"no decision of placement {placement!r} has a closed window ({definition.window_s:g} s) by "
                f"{as_of.isoformat()}; wait, or give a shorter window"
            )
        offers = union_of_offers(connection, [r.decision.offer_set_revision for r in rows])
    return interactions(rows, offers)


def interactions(rows: Sequence[Joined], offers: OfferSet) -> InteractionBatch:
    """Joined decisions as one batch over a set of offers that holds all of theirs."""
    n, k = len(rows), len(offers)
    probabilities = np.zeros((n, k))
    eligible = np.zeros((n, k), dtype=np.bool_)
    chosen = np.zeros(n, dtype=np.int64)
    for i, row in enumerate(rows):
        positions = [offers.index_of(o) for o in row.decision.offers]
        probabilities[i, positions] = row.decision.probabilities
        eligible[i, positions] = True
        chosen[i] = positions[row.decision.chosen]
    widths = {name: len(v) for r in rows for name, v in r.decision.vectors.items()}
    contexts = [
        Context(
            r.decision.subject,
            r.decision.context,
            {name: r.decision.vectors.get(name, (0.0,) * width) for name, width in widths.items()},
            r.decision.at,
        )
        for r in rows
    ]
    shares = [r.decision.variant_probability for r in rows]
    return InteractionBatch(
        table=DecisionTable.from_contexts(offers, contexts, eligible=eligible),
        chosen=chosen,
        propensity=np.asarray([r.decision.propensity for r in rows]),
        reward=np.asarray([r.reward for r in rows]),
        probabilities=probabilities,
        decision_ids=np.asarray([r.decision.id for r in rows], dtype=np.str_),
        policies=np.asarray([str(r.decision.policy) for r in rows], dtype=np.str_),
        variants=np.asarray([r.decision.variant or "" for r in rows], dtype=np.str_),
        phases=np.asarray([_phase(r) for r in rows], dtype=np.str_),
        variant_probability=np.asarray([1.0 if s is None else s for s in shares], dtype=np.float64),
    )


def _phase(row: Joined) -> str:
    decision = row.decision
    return "" if decision.experiment is None else f"{decision.experiment}:{decision.phase}"


def _definition(connection: Connection, placement: str) -> RewardDefinition:
    table = tables.placements
    text = connection.execute(select(table.c.document).where(table.c.id == placement)).scalar()
    if text is None:
        raise UnknownNameError("placement", placement, connection.execute(select(table.c.id)).scalars())
    return RewardDefinition.from_json(json.loads(text)["reward"])


def union_of_offers(connection: Connection, revisions: Sequence[str]) -> OfferSet:
    """Union of the offers of some revisions, in the order they first appear."""
    table = tables.offer_sets
    known: dict[str, Offer] = {}
    wanted = list(dict.fromkeys(revisions))
    documents: dict[str, str] = {}
    for start in range(0, len(wanted), 500):
        part = select(table).where(table.c.revision.in_(wanted[start : start + 500]))
        documents |= {r.revision: r.document for r in connection.execute(part)}
    for revision in wanted:
        for entry in json.loads(documents[revision]):
            offer = Offer(OfferId(entry["id"]), entry["features"], entry["payload"])
            before = known.setdefault(offer.id, offer)
            if dict(before.features) != dict(offer.features):
                raise InvalidInputError(
                    f"offer {offer.id!r} has features {dict(before.features)} in one stretch of the log and "
                    f"{dict(offer.features)} in another; export each stretch by itself with since and as_of"
                )
    return OfferSet(list(known.values()))
