"""Re-derivation: states of subjects and of learners computed anew from raw events and facts, within a tolerance.

The audit takes what was logged as given. This asks whether what was logged can be had again from the truth behind it: each
logged state vector from the raw events of its subject up to the logged cursor, and each learner's newest snapshot by learning
from the beginning with the vectors had again. Vectors agree within float32 rounding; what differs by more is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from engine.learner.audit import DROPPED, ERASED, Replayed, States, decisions_of
from engine.learner.snapshots import load_state
from engine.learner.ticks import learn_from, read_tick
from engine.offers.stored import every_placement_ever
from engine.registry.versions import Registry
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us, to_us
from engine.store.retention import oldest_offset
from engine.subjects.erasure import pseudonyms
from engine.subjects.links import people_of
from engine.subjects.state import LAST_EVENTS, Encoder
from policies.errors import NextofferError
from policies.records import Decision, DecisionTable, Event, InteractionBatch, OfferSet, SubjectId

# A GRU step in float32 differs by about 1e-7 between one pass and step by step; a policy multiplies that.
VECTOR_TOLERANCE = 1e-5
STATE_TOLERANCE = 1e-3
_MAX_NAMED = 20
_PROBE = 200


@dataclass(frozen=True, slots=True)
class Rederivation:
    """What came out of the raw facts.

    Attributes
    ----------
    largest_vector_difference, largest_state_difference
        Between a logged and a recomputed component of a state vector; between the probabilities that a learner's newest
        snapshot and the state learned anew give to the latest decisions.
    different
        Ids of decisions and names of versions beyond the tolerance, the first twenty.
    not_recomputed
        Why not, and how many.
    """

    n_vectors: int
    largest_vector_difference: float
    n_states: int
    largest_state_difference: float
    n_different: int
    different: tuple[str, ...] = ()
    not_recomputed: Mapping[str, int] = field(default_factory=dict)
    vector_tolerance: float = VECTOR_TOLERANCE
    state_tolerance: float = STATE_TOLERANCE

    @property
    def is_clean(self) -> bool:
        """Whether nothing differs by more than the tolerance."""
        return self.n_different == 0


def rederive(
    database: Database,
    registry: Registry,
    *,
    load_encoder: Callable[[str], Encoder] | None = None,
    vector_tolerance: float = VECTOR_TOLERANCE,
    state_tolerance: float = STATE_TOLERANCE,
) -> Rederivation:
    """Compute anew what can be, and compare it with what was logged.

    Parameters
    ----------
    load_encoder
        Encoder of a ``name@version``; by default from the registry.
    """
    load = load_encoder or (lambda ref: _from_registry(registry, ref))
    encoders = _Encoders(database, load)
    reasons: Counter[str] = Counter()
    different: list[str] = []
    vectors: dict[str, NDArray[np.float32]] = {}
    largest = 0.0
    n = 0
    erased = pseudonyms(database)
    events_from = oldest_offset(database, "events")
    for decision in decisions_of(database):
        logged = decision.vectors.get("sequence")
        if decision.subject in erased:
            reasons[ERASED] += 1
            continue
        if logged is None:
            continue
        if events_from > 1 and decision.event_cursor < events_from:
            reasons["events were moved to the cold path"] += 1
            continue
        found = encoders.of(decision)
        if not found:
            reasons["the encoder is not in the registry any more"] += 1
            continue
        events = _events_of(database, decision)
        made = [np.asarray(e.encode_events(events, as_of=decision.at), dtype=np.float32) for e in found]
        made = [m for m in made if len(m) == len(logged)]
        if not made:
            reasons["no encoder of that width was in use"] += 1
            continue
        gaps = [float(np.abs(m.astype(np.float64) - np.asarray(logged)).max()) for m in made]
        best = int(np.argmin(gaps))
        n += 1
        largest = max(largest, gaps[best])
        if gaps[best] > vector_tolerance:
            different.append(f"decision {decision.id}")
        vectors[decision.id] = made[best]
    n_states, largest_state = 0, 0.0
    states = States(database, registry)
    for ref in states.learners():
        gap = _state_gap(states.replayed(ref), vectors, reasons)
        if gap is None:
            continue
        n_states += 1
        largest_state = max(largest_state, gap)
        if gap > state_tolerance:
            different.append(f"learner {ref}")
    return Rederivation(
        n,
        largest,
        n_states,
        largest_state,
        len(different),
        tuple(different[:_MAX_NAMED]),
        dict(reasons),
        vector_tolerance,
        state_tolerance,
    )


def _state_gap(history: Replayed, vectors: Mapping[str, NDArray[np.float32]], reasons: Counter[str]) -> float | None:
    """Largest difference between what a newest snapshot and the state learned anew answer to the last decisions."""
    if not history.checkpoints:
        return None
    newest = history.checkpoints[-1]
    if any(t.number in history.broken for t in history.ticks if t.number <= newest):
        why = DROPPED if DROPPED in history.broken.values() else ERASED
        reasons[f"learner {history.ref}: {why}"] += 1
        return None
    try:
        anew = load_state(history.registry, history.ref, None)
        offers: dict[str, OfferSet] = {}
        probe: DecisionTable | None = None
        for tick in history.ticks:
            if tick.number > newest or tick.is_left_out:
                continue
            batches = [_with_vectors(b, vectors) for b in read_tick(history.database, history.ref, tick, offers)[0]]
            learn_from(anew, batches)
            probe = batches[-1].table.take(slice(-_PROBE, None)) if batches else probe
        if probe is None:
            return None
        logged = load_state(history.registry, history.ref, newest).probabilities(probe)
        return float(np.abs(anew.probabilities(probe) - logged).max())
    except NextofferError as error:
        reasons[f"learner {history.ref}: {error}"] += 1
        return None


def _with_vectors(batch: InteractionBatch, vectors: Mapping[str, NDArray[np.float32]]) -> InteractionBatch:
    """The same interactions with state vectors had again, where there are any."""
    block = batch.table.vectors.get("sequence")
    if block is None or batch.decision_ids is None:
        return batch
    new = np.asarray(
        [vectors.get(i, old) for i, old in zip(batch.decision_ids.tolist(), block, strict=True)], dtype=np.float32
    )
    table = replace(batch.table, vectors={**batch.table.vectors, "sequence": new})
    return replace(batch, table=table)


def _events_of(database: Database, decision: Decision) -> list[Event]:
    """Last events of the person before the decision, as far as the logged cursor says they were seen."""
    table = tables.events
    with database.reading() as connection:
        names = people_of(connection, [decision.subject], known_offset=max(decision.event_cursor, 1))
        ids = [i for i, name in names.items() if name == names[decision.subject]]
        rows = connection.execute(
            select(table)
            .where(
                table.c.subject.in_(ids),
                table.c.at_us < to_us(decision.at),
                table.c.ledger_offset <= decision.event_cursor,
            )
            .order_by(table.c.at_us.desc(), table.c.ledger_offset.desc())
            .limit(LAST_EVENTS)
        ).all()
    return [Event(r.id, SubjectId(r.subject), r.kind, r.item, r.value, from_us(r.at_us)) for r in reversed(rows)]


class _Encoders:
    """Encoders that a placement ever named, loaded once; which one a decision used is told by the outcome."""

    def __init__(self, database: Database, load: Callable[[str], Encoder]) -> None:
        self._load = load
        self._loaded: dict[str, Encoder | None] = {}
        self._named: dict[str, list[str]] = {}
        for placement in every_placement_ever(database):
            if placement.encoder is not None:
                refs = self._named.setdefault(placement.id, [])
                if placement.encoder not in refs:
                    refs.append(placement.encoder)

    def of(self, decision: Decision) -> Sequence[Encoder]:
        """All encoders that the placement of a decision ever had and that are still there."""
        return [e for ref in self._named.get(decision.placement, ()) if (e := self._get(ref)) is not None]

    def _get(self, ref: str) -> Encoder | None:
        if ref not in self._loaded:
            try:
                self._loaded[ref] = self._load(ref)
            except (NextofferError, OSError):
                self._loaded[ref] = None
        return self._loaded[ref]


def _from_registry(registry: Registry, ref: str) -> Encoder:
    from engine.models.encoder import SequenceEncoder

    encoder: Encoder = SequenceEncoder.from_artifact(registry.artifact(ref))
    return encoder
