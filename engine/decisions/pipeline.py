"""One decision from request to the row of the log: eligible offers, variant, state, policy, draw. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from engine.decisions.configuration import Configuration, LivePlacement, offer_set_document
from engine.decisions.ladder import DEADLINE_S, Ladder, Rung, baseline
from engine.decisions.requests import DecisionRequest, Explanation, identity_of
from engine.experiments.allocation import Allocation
from engine.experiments.records import BASELINE
from engine.offers.candidates import MAX_OFFERS, Found
from engine.offers.counts import Counts
from engine.offers.limits import Situation, View, excluded_by_limits
from engine.registry.versions import Registry
from engine.rewards.seen import BOT
from engine.store.database import Database
from engine.store.facts import FactRow, check_text, decision_row, digest_of, new_id, to_us
from engine.subjects.links import People
from engine.subjects.state import Encoder, SubjectStates
from policies.eligibility import excluded_by
from policies.errors import InvalidInputError, NoEligibleOfferError, StoreUnavailableError
from policies.protocols import Policy
from policies.records import (
    Decision,
    DecisionId,
    DecisionOfOne,
    Features,
    OfferId,
    OfferSet,
    PlacementId,
    SubjectId,
    check_features,
)
from policies.sampling import uniform_for

MAX_FEATURES = 1_000
_MAX_STORED_SETS = 10_000
# Why an offer is not eligible in a slot: an earlier slot of the page shows it.
PLACED = "placed"
OUT_OF_STOCK = "out_of_stock"
_MAX_KNOWN_NAMES = 10_000


class Prepared(NamedTuple):
    """A decision that is made but not yet on disk."""

    decision: Decision
    row: FactRow
    offers: OfferSet
    live: LivePlacement
    explanation: Explanation | None

    @property
    def showable(self) -> tuple[OfferId, ...]:
        """Offers that may be shown here but for what other slots of the page show, in catalogue order."""
        excluded = self.decision.excluded
        return tuple(o for o in self.offers.ids if excluded.get(o, PLACED) == PLACED)

    @property
    def payload(self) -> Mapping[str, Any]:
        """What the site shows for the chosen offer."""
        return self.payload_of(self.decision.offer)

    def payload_of(self, offer: str) -> Mapping[str, Any]:
        """What the site shows for an offer."""
        payload: Mapping[str, Any] = self.offers[self.offers.index_of(offer)].payload
        return payload


class Pipeline:
    """Makes decisions from what servers hold in memory and, on a miss, from the store.

    Parameters
    ----------
    secret
        Key of the uniform each decision is drawn with.
    secret_version
        Number logged beside that uniform.
    """

    def __init__(
        self,
        database: Database,
        *,
        configuration: Configuration,
        registry: Registry,
        subjects: SubjectStates,
        people: People,
        secret: bytes,
        secret_version: int = 1,
        clock: Callable[[], datetime],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._database = database
        self._configuration = configuration
        self._registry = registry
        self._subjects = subjects
        self._people = people
        self._secret, self._secret_version = secret, secret_version
        self._clock = clock
        self._counts = Counts(database)
        self._ladder = Ladder(registry, deadline_s=deadline_s)
        self._encoders: dict[str, Encoder] = {}
        self._stored_sets: set[str] = set()
        self._known_names: set[str] = set()  # of features, found good before

    def allocation(self, placement_id: str, subject: str, features: Features) -> Allocation:
        """Who would decide for a subject."""
        live = self._configuration.placement(placement_id)
        self._check_features(features)
        known = self._with_traits(check_text(subject, what="subject"), features)
        return live.trials.allocate(self._people.ids(subject), known, assigned=self._assigned)

    def showable_again(self, request: DecisionRequest) -> dict[str, Mapping[str, Any]]:
        """Payloads of the offers that who has seen one of them may go on seeing.

        What only counts (caps, budgets, stock) takes nothing back from somebody who was shown it; rules, dates and the request do.
        """
        live = self._configuration.placement(request.placement)
        self._check_features(request.features)
        offers = live.offers if request.offers is None else _candidates(request.offers)
        features = self._with_traits(request.subject, request.features)
        excluded = self._excluded(live, request, offers, features, (request.at or self._clock()).astimezone(UTC))
        limits = live.placement.limits
        counted = {OUT_OF_STOCK, *(cap.id for cap in limits.caps), *(budget.id for budget in limits.budgets)}
        return {o.id: o.payload for o in offers if excluded.get(o.id, OUT_OF_STOCK) in counted}

    def prepare(self, request: DecisionRequest, *, is_store_away: bool = False) -> Prepared:
        """Make a decision without writing it.

        Parameters
        ----------
        is_store_away
            Ask the store neither who the subject is nor what was counted: good for ``fallback`` only.

        Raises
        ------
        UnknownNameError, InvalidInputError, DuplicateOfferError, NoEligibleOfferError
            With the place and the mend.
        """
        subject = check_text(request.subject, what="subject")
        live = self._configuration.placement(request.placement)
        self._check_features(request.features)
        at = request.at or self._clock()
        at_us = to_us(at)
        if at.tzinfo is not UTC:
            at = at.astimezone(UTC)
        decision_id = new_id(at_us) if request.id is None else check_text(request.id, what="decision id")
        features = self._with_traits(subject, request.features)
        for found in _compared(live, request, features):
            offers, order = found
            excluded = self._excluded(live, request, offers, features, at, is_store_away=is_store_away)
            if len(excluded) < len(offers):
                break
        else:
            raise NoEligibleOfferError([0], subject=subject)
        vectors: Mapping[str, tuple[float, ...]] = {}
        cursor = 0
        if is_store_away:
            allocation = Allocation(BASELINE)
        else:
            allocation = (
                live.trials.allocate(self._people.ids(subject), features, assigned=self._assigned)
                if request.role == "policy"
                else _without_experiment(live, request)
            )
            vectors, cursor = self._state(live, subject, at)
        uniform = uniform_for(self._secret, live.placement.id, decision_id)
        table = DecisionOfOne(
            offers,
            subject=subject,
            features=features,
            at_us=at_us,
            vectors=vectors,
            allowed=[offer not in excluded for offer in offers.ids] if excluded else None,
        )
        explore_share = live.placement.explore_share if request.role == "policy" else 0.0
        if request.role == "policy":
            rung = self._ladder.draw(
                allocation.policy,
                table,
                uniform=uniform,
                explore_share=explore_share,
                order=order,
                fallback=live.placement.fallback,
                waited_s=request.waited_s,
            )
        else:
            rung = self._ladder.draw_baseline(allocation.policy, table, uniform=uniform, order=order)
        if rung.faults:
            self._ladder.tell(rung, decision_id)
        shown, probabilities, chosen = offers.ids, rung.probabilities, rung.chosen
        if excluded:
            kept = [i for i, offer in enumerate(offers.ids) if offer not in excluded]
            shown, chosen = tuple(offers.ids[i] for i in kept), kept.index(chosen)
            probabilities = [probabilities[i] for i in kept]
        loaded = rung.loaded
        decision = Decision(
            id=DecisionId(decision_id),
            placement=PlacementId(live.placement.id),
            subject=SubjectId(subject),
            at=at,
            offers=shown,
            probabilities=tuple(probabilities),
            chosen=chosen,
            offer_set_revision=offers.revision,
            policy=loaded.ref,
            snapshot=loaded.snapshot,
            rung=rung.name,
            explore_share=explore_share,
            uniform=uniform,
            secret_version=self._secret_version,
            feature_space=loaded.feature_space,
            context=features,
            vectors=vectors,
            event_cursor=cursor,
            experiment=allocation.experiment,
            phase=allocation.phase,
            variant=allocation.variant,
            variant_probability=allocation.probability,
            excluded=excluded,
            recorded=not request.dry_run,
            activated=request.is_activated and request.role != "bot",
        )
        row = decision_row(
            decision,
            digest=b"" if request.id is None else digest_of_request(request),
            assignment=_assignment(allocation, subject, at_us, decision_id),
            offer_set=self._offer_set(live, offers),
            is_new_id=request.id is None,
        )
        return Prepared(decision, row, offers, live, _explain(decision, allocation, rung) if request.explain else None)

    def fallback(self, prepared: Prepared, *, taken: Collection[str] = ()) -> Decision:
        """Answer where the log is not to be had: the baseline order, certain, never an exposure.

        Parameters
        ----------
        taken
            Offers that the fallback shows in earlier slots of the same page.
        """
        decision = prepared.decision
        order = prepared.live.order if prepared.offers is prepared.live.offers else ()
        rank = {offer: i for i, offer in enumerate(order)}
        offers = tuple(o for o in prepared.showable if o not in taken) or decision.offers
        best = min(range(len(offers)), key=lambda i: rank.get(offers[i], len(rank) + i))
        return decision._replace(
            offers=offers,
            probabilities=tuple(float(i == best) for i in range(len(offers))),
            chosen=best,
            policy=baseline(order).ref,
            snapshot=baseline(order).snapshot,
            rung="unrecorded",
            explore_share=0.0,
            feature_space="",
            experiment=None,
            phase=None,
            variant=None,
            variant_probability=None,
            recorded=False,
            activated=False,
        )

    def warm(self, ref: str, policy: Policy) -> None:
        """Let a snapshot answer once before it serves."""
        self._ladder.warm(ref, policy)

    def note_stored(self, offer_set_revision: str) -> None:
        """Remember that an offer set is on disk, so that decisions need not bring it again."""
        if offer_set_revision not in self._stored_sets:
            if len(self._stored_sets) >= _MAX_STORED_SETS:
                self._stored_sets.clear()
            self._stored_sets.add(offer_set_revision)

    def _offer_set(self, live: LivePlacement, offers: OfferSet) -> tuple[str, str] | None:
        if offers.revision in self._stored_sets:
            return None
        return (offers.revision, live.offers_document if offers is live.offers else offer_set_document(offers))

    def _check_features(self, features: Features) -> None:
        if len(features) > MAX_FEATURES:
            raise InvalidInputError(f"a request has {len(features)} features; at most {MAX_FEATURES} are taken")
        if not features.keys() <= self._known_names:
            for name in features:
                check_text(name, what="name of a feature")
            if len(self._known_names) >= _MAX_KNOWN_NAMES:
                self._known_names.clear()
            self._known_names.update(features)
        check_features(features, where="the request")

    def _with_traits(self, subject: str, features: Features) -> Features:
        try:
            traits = self._subjects.traits(subject)
        except StoreUnavailableError:  # the visitor gets an answer from what the site knows
            traits = {}
        return {**traits, **features} if traits else dict(features)

    def _excluded(
        self,
        live: LivePlacement,
        request: DecisionRequest,
        offers: OfferSet,
        features: Features,
        at: datetime,
        *,
        is_store_away: bool = False,
    ) -> dict[OfferId, str]:
        excluded = excluded_by(live.placement.rules, offers, features) if live.placement.rules else {}
        for offer in request.exclude:
            if offer in offers.ids:
                excluded.setdefault(OfferId(offer), "request")
        for offer in request.placed:
            if offer in offers.ids:
                excluded.setdefault(OfferId(offer), PLACED)
        if live.has_stock_or_dates and request.offers is None:
            for entry in live.placement.offers if offers is live.offers else map(live.entries.__getitem__, offers.ids):
                reason = None
                if entry.starts_at is not None and at < entry.starts_at:
                    reason = "not_started"
                elif entry.ends_at is not None and at >= entry.ends_at:
                    reason = "ended"
                elif entry.stock is not None and live.shown.get(entry.offer.id, 0) >= entry.stock:
                    reason = OUT_OF_STOCK
                if reason is not None:
                    excluded.setdefault(entry.offer.id, reason)
        if live.placement.limits:
            excluded |= self._limited(live, request, offers, features, at, excluded, is_store_away=is_store_away)
        return excluded

    def _limited(
        self,
        live: LivePlacement,
        request: DecisionRequest,
        offers: OfferSet,
        features: Features,
        at: datetime,
        already: Mapping[OfferId, str],
        *,
        is_store_away: bool,
    ) -> dict[OfferId, str]:
        limits, placement = live.placement.limits, live.placement.id
        views: list[View] = []
        if is_store_away:
            return excluded_by_limits(limits, offers, Situation(at, features, views, {}, request.placed), already)
        if limits.caps:
            people = self._people.ids(request.subject)
            views = self._counts.views(placement, people, since=at - limits.memory, at=at)
        spent = {budget.id: self._counts.spent(placement, budget, live.offers) for budget in limits.budgets}
        situation = Situation(at, features, views, spent, request.placed)
        return excluded_by_limits(limits, offers, situation, already)

    def _assigned(self, experiment: str, ids: tuple[str, ...]) -> tuple[int, str, float] | None:
        """Phase, variant and its probability of the first decision of an experiment for a person, seen or not."""
        wanted = {f"id{i}": id_ for i, id_ in enumerate(ids)}
        rows = self._database.rows(
            "SELECT phase, variant, probability FROM assignments WHERE experiment = :experiment "
            f"AND subject IN ({', '.join(f':{name}' for name in wanted)}) ORDER BY at_us, subject LIMIT 1",
            experiment=experiment,
            **wanted,
        )
        return (int(rows[0][0]), str(rows[0][1]), float(rows[0][2])) if rows else None

    def _state(self, live: LivePlacement, subject: str, at: datetime) -> tuple[dict[str, tuple[float, ...]], int]:
        ref = live.placement.encoder
        if ref is None:
            return {}, 0
        encoder = self._encoders.get(ref)
        if encoder is None:
            from engine.models.encoder import SequenceEncoder

            encoder = self._encoders[ref] = SequenceEncoder.from_artifact(self._registry.artifact(ref))
        try:
            vector, cursor = self._subjects.vector(subject, encoder, as_of=at)
        except StoreUnavailableError:
            vector, cursor = tuple(encoder.encode_events([], as_of=at).astype(float).tolist()), 0
        return {"sequence": vector}, cursor


def digest_of_request(request: DecisionRequest) -> bytes:
    """What tells this request from another with its id: ``identity_of`` it, unless the caller says what does."""
    return digest_of(identity_of(request)) if request.digest is None else request.digest


def _without_experiment(live: LivePlacement, request: DecisionRequest) -> Allocation:
    return Allocation(BOT if request.role == "bot" else live.placement.policy)


def _compared(live: LivePlacement, request: DecisionRequest, features: Features) -> Iterable[Found]:
    """Offers that are compared, with their baseline order; more than one set only where candidates are looked for."""
    if request.offers is not None:
        return (Found(_candidates(request.offers), ()),)
    if live.index is None:
        return (Found(live.offers, live.order),)
    return live.index.windows(features)


def _candidates(offers: tuple[Any, ...]) -> OfferSet:
    if len(offers) > MAX_OFFERS:
        raise InvalidInputError(
            f"a request has {len(offers)} offers; at most {MAX_OFFERS} are compared in one decision"
        )
    for offer in offers:
        check_text(offer.id, what="offer id")
    return OfferSet(offers)


def _assignment(allocation: Allocation, subject: str, at_us: int, decision_id: str) -> tuple[Any, ...] | None:
    if allocation.experiment is None:
        return None
    return (
        allocation.experiment,
        subject,
        allocation.phase,
        allocation.variant,
        allocation.probability,
        at_us,
        decision_id,
    )


def _explain(decision: Decision, allocation: Allocation, rung: Rung) -> Explanation:
    if allocation.policy == BOT:
        who = "the visitor is a machine: the baseline order answers, and nothing is learned"
    elif allocation.forced:
        who = f"made to look at {allocation.forced}: this is not counted in the experiment"
    elif allocation.variant is not None:
        who = f"variant {allocation.variant!r} of experiment {allocation.experiment!r}, phase {allocation.phase}"
    else:
        who = "no experiment: the placement's own policy"
    steps = [
        f"{len(decision.offers)} of {len(decision.offers) + len(decision.excluded)} offers may be shown",
        who,
        *rung.faults,
        f"{rung.loaded.ref if rung.loaded.ref.name != BASELINE else 'baseline order'} answered (rung {rung.name!r})",
        f"{decision.explore_share:.1%} of the probability is spread evenly over the offers that may be shown",
        f"drawn {decision.offer!r} with probability {decision.propensity:.4f} from u = {decision.uniform:.6f}",
    ]
    return Explanation(
        steps=tuple(steps),
        excluded=decision.excluded,
        probabilities=dict(zip(decision.offers, decision.probabilities, strict=True)),
    )
