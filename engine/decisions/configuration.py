"""Placements and their running experiments as servers hold them, replaced when the store says so, and what stock has been shown."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.experiments.allocation import PlacementTrials
from engine.experiments.controls import controls_of
from engine.experiments.lifecycle import Experiments
from engine.experiments.records import Experiment
from engine.offers.candidates import CandidateIndex
from engine.offers.placement import CatalogueOffer, Placement
from engine.offers.stock import StockCounts
from engine.offers.stored import all_placements
from engine.rewards.seen import BOT
from engine.store.database import Database
from engine.store.facts import DECISION
from policies.errors import StoreUnavailableError, UnknownNameError
from policies.records import OfferSet

POLL_S = 0.25
_ACTIVATED = (
    "SELECT d.placement, d.offer, d.is_activated FROM fact_keys k JOIN decisions d ON d.ledger_offset = k.ledger_offset "
    f"WHERE k.kind = {DECISION} AND k.id = :id AND d.policy NOT LIKE '{BOT}@%'"
)


@dataclass(frozen=True, slots=True, eq=False)
class LivePlacement:
    """A placement with what is derived from it once, not per decision."""

    placement: Placement
    revision: int
    offers: OfferSet
    order: tuple[str, ...]
    trials: PlacementTrials
    has_stock_or_dates: bool
    # How often each offer that can run out was shown, which alone changes; none where nothing can.
    shown: dict[str, int] = field(default_factory=dict)
    offers_document: str = ""
    entries: Mapping[str, CatalogueOffer] = field(default_factory=dict)
    index: CandidateIndex | None = None


class Configuration:
    """The current placements of a store."""

    def __init__(self, database: Database, *, is_shared: bool = False) -> None:
        self._database = database
        self._stock = StockCounts(database)
        self._is_shared = is_shared
        self._lock = threading.Lock()
        # Held for a few additions only, never while the store is read: decisions wait for it.
        self._counts = threading.Lock()
        self._meanwhile: Counter[tuple[str, str]] | None = None
        self._revision = -1
        self._counted_at = -1
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

    def count_shown(self, placement_id: str, offer: str) -> None:
        """Count one more exposure of an offer against its stock, where it can run out."""
        with self._counts:
            if self._meanwhile is not None:
                self._meanwhile[placement_id, offer] += 1
            live = self._live.get(placement_id)
            if live is not None and offer in live.shown:
                live.shown[offer] += 1

    @property
    def has_stock(self) -> bool:
        """Whether any offer can run out."""
        return any(live.shown for live in self._live.values())

    def count_activated(self, decision_id: str) -> None:
        """Count a decision that was seen only now against the stock of its offer."""
        try:
            rows = self._database.rows(_ACTIVATED, id=decision_id)
        except StoreUnavailableError:  # the activation is on disk: whoever sent it hears so, and the next count has it
            return
        for placement, offer, is_activated in rows:
            if not is_activated:
                self.count_shown(str(placement), str(offer))

    def refresh(self) -> None:
        """Reload if the store's revision has moved; keep serving what is known if the store cannot be read."""
        with self._lock:
            try:
                revision = self._database.config_revision()
                if revision != self._revision:
                    with self._noting_views():
                        self._take_over(_load(self._database, self._stock), {})
                    self._revision = revision
                elif self._is_shared and self.has_stock:
                    self._count_anew()
            except StoreUnavailableError:
                if self._revision < 0:
                    raise
            self._polled_at = time.monotonic()

    def _count_anew(self) -> None:
        """Other workers show offers too: see what is left of those that can run out, once the ledger has moved."""
        head = self._database.head()
        if head == self._counted_at:
            return
        with self._noting_views():
            shown = {id_: self._stock.views(id_, tuple(live.shown)) for id_, live in self._live.items() if live.shown}
            self._take_over(self._live, shown)
        self._counted_at = head

    @contextmanager
    def _noting_views(self) -> Iterator[None]:
        """Note views while the store is read.

        One that is on disk before its row is read, and counted only afterwards, counts twice: a unit of stock too few until
        the next count, never one too many.
        """
        self._meanwhile = Counter()
        try:
            yield
        finally:
            self._meanwhile = None

    def _take_over(self, live: Mapping[str, LivePlacement], shown: Mapping[str, Mapping[str, int]]) -> None:
        """Serve these placements, with counts just read and what has been seen meanwhile."""
        with self._counts:
            for id_, counts in shown.items():
                live[id_].shown.update(counts)
            for (id_, offer), n in (self._meanwhile or {}).items():
                if id_ in live and offer in live[id_].shown:
                    live[id_].shown[offer] += n
            self._live = live


def offer_set_document(offers: OfferSet) -> str:
    """Content of an offer set as it is stored beside the decisions that chose from it."""
    return json.dumps([{"id": o.id, "features": dict(o.features), "payload": dict(o.payload)} for o in offers])


def _load(database: Database, stock: StockCounts) -> dict[str, LivePlacement]:
    running: dict[str, list[Experiment]] = {}
    for experiment in Experiments(database).list(state="running"):
        running.setdefault(experiment.placement, []).append(experiment)
    controls = controls_of(database)
    out: dict[str, LivePlacement] = {}
    with database.reading() as connection:
        placements = all_placements(connection)
    for placement, revision in placements.values():
        offers = placement.offer_set
        stocked = [o.offer.id for o in placement.offers if o.stock is not None]
        trials = PlacementTrials(running.get(placement.id, ()), controls, own_policy=placement.policy)
        named = set(placement.baseline)
        order = (*placement.baseline, *(o for o in offers.ids if o not in named))
        rule = placement.candidates
        out[placement.id] = LivePlacement(
            placement=placement,
            revision=revision,
            offers=offers,
            order=order,
            trials=trials,
            has_stock_or_dates=any(o.starts_at or o.ends_at or o.stock is not None for o in placement.offers),
            shown=stock.views(placement.id, stocked),
            offers_document=offer_set_document(offers),
            entries={o.offer.id: o for o in placement.offers},
            index=None if rule is None else CandidateIndex(offers, rule, order=order),
        )
    return out
