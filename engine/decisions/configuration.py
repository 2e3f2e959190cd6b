"""Placements, their running experiments and stock, as servers hold them: immutable, reloaded when the store says so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import func, select

from engine.experiments.allocation import PlacementTrials
from engine.experiments.controls import controls_of
from engine.experiments.lifecycle import Experiments
from engine.experiments.records import Experiment
from engine.offers.candidates import CandidateIndex
from engine.offers.placement import CatalogueOffer, Placement, placement_from_json
from engine.store import tables
from engine.store.database import Database
from policies.errors import StoreUnavailableError, UnknownNameError
from policies.records import OfferSet

POLL_S = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class LivePlacement:
    """A placement with what is derived from it once, not per decision."""

    placement: Placement
    revision: int
    offers: OfferSet
    order: tuple[str, ...]
    trials: PlacementTrials
    has_limits: bool
    shown: dict[str, int] = field(default_factory=dict)
    offers_document: str = ""
    entries: Mapping[str, CatalogueOffer] = field(default_factory=dict)
    index: CandidateIndex | None = None


class Configuration:
    """The current placements of a store."""

    def __init__(self, database: Database, *, is_shared: bool = False) -> None:
        self._database = database
        self._is_shared = is_shared
        self._lock = threading.Lock()
        self._revision = -1
        self._polled_at = 0.0
        self._live: Mapping[str, LivePlacement] = {}
        self.is_followed = False  # somebody else calls refresh

    def placement(self, placement_id: str) -> LivePlacement:
        """Live form of a placement.

        Raises
        ------
        UnknownNameError
            If there is none; the text names the nearest.
        """
        if not self.is_followed and time.monotonic() - self._polled_at > POLL_S:
            self.refresh()
        live = self._live.get(placement_id)
        if live is None:
            self.refresh()
            live = self._live.get(placement_id)
        if live is None:
            raise UnknownNameError("placement", placement_id, self._live)
        return live

    def all(self) -> Mapping[str, LivePlacement]:
        """All live placements."""
        if not self.is_followed and time.monotonic() - self._polled_at > POLL_S:
            self.refresh()
        return self._live

    def count_shown(self, live: LivePlacement, offer: str) -> None:
        """Count one more exposure of an offer against its stock."""
        with self._lock:
            live.shown[offer] = live.shown.get(offer, 0) + 1

    def refresh(self) -> None:
        """Reload if the store's revision has moved; keep serving what is known if the store cannot be read."""
        with self._lock:
            try:
                revision = self._database.config_revision()
                # Other workers show offers too: where stock is counted, count it anew.
                is_stocked = self._is_shared and any(live.has_limits for live in self._live.values())
                if revision != self._revision or is_stocked:
                    self._live = _load(self._database)
                    self._revision = revision
            except StoreUnavailableError:
                if self._revision < 0:
                    raise
            self._polled_at = time.monotonic()


def offer_set_document(offers: OfferSet) -> str:
    """Content of an offer set as it is stored beside the decisions that chose from it."""
    return json.dumps([{"id": o.id, "features": dict(o.features), "payload": dict(o.payload)} for o in offers])


def _load(database: Database) -> dict[str, LivePlacement]:
    running: dict[str, list[Experiment]] = {}
    for experiment in Experiments(database).list(state="running"):
        running.setdefault(experiment.placement, []).append(experiment)
    controls = controls_of(database)
    decisions = tables.decisions
    out: dict[str, LivePlacement] = {}
    with database.reading() as connection:
        for row in connection.execute(select(tables.placements)).all():
            placement = placement_from_json(json.loads(row.document))
            offers = placement.offer_set
            stocked = [o.offer.id for o in placement.offers if o.stock is not None]
            shown: dict[str, int] = {}
            if stocked:
                counts = connection.execute(
                    select(decisions.c.offer, func.count())
                    .where(
                        decisions.c.placement == placement.id,
                        decisions.c.offer.in_(stocked),
                        decisions.c.is_activated,
                    )
                    .group_by(decisions.c.offer)
                ).all()
                shown = {str(offer): int(n) for offer, n in counts}
            trials = PlacementTrials(running.get(placement.id, ()), controls, own_policy=placement.policy)
            named = set(placement.baseline)
            order = (*placement.baseline, *(o for o in offers.ids if o not in named))
            rule = placement.candidates
            out[placement.id] = LivePlacement(
                placement=placement,
                revision=row.revision,
                offers=offers,
                order=order,
                trials=trials,
                has_limits=any(o.starts_at or o.ends_at or o.stock is not None for o in placement.offers),
                shown=shown,
                offers_document=offer_set_document(offers),
                entries={o.offer.id: o for o in placement.offers},
                index=None if rule is None else CandidateIndex(offers, rule, order=order),
            )
    return out
