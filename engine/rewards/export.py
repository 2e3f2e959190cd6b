"""The joined log as the one input of estimators and learners."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from engine.rewards.definition import DAY_S, RewardDefinition
from engine.rewards.joined import Joined, join, stretches
from engine.store import tables
from engine.store.bodies import Bodies, read_bodies
from engine.store.database import Database
from engine.store.facts import to_us
from policies.errors import InvalidInputError, SchemaError
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet

Mixed = Literal["refuse", "missing"]


def export_interactions(
    database: Database,
    placement: str,
    *,
    definition: RewardDefinition,
    as_of: datetime,
    since: datetime | None = None,
    experiment: str | None = None,
) -> InteractionBatch:
    """Recorded, seen decisions whose window closed by ``as_of``, each with its number; in ledger order.

    Parameters
    ----------
    definition
        What counts: ``engine.offers.stored.definition_of`` says what does at the placement.
    since
        Leave out decisions before it; their outcomes are still theirs.
    experiment
        Only decisions of one experiment; ``variants`` and ``phases`` of the batch say which.

    Raises
    ------
    InvalidInputError
        If no decision has matured, or an offer changed its features on the way: export each stretch by itself then.
    """
    since_us = 0 if since is None else to_us(since)
    parts: list[Joined] = []
    for stretch in stretches(1, database.head(), as_of_us=to_us(as_of)):
        rows = join(database, placement, definition, stretch)
        kept = [
            i
            for i in range(len(rows))
            if rows.at_us[i] >= since_us and (experiment is None or rows.experiments[i] == experiment)
        ]
        if kept:
            parts.append(rows if len(kept) == len(rows) else _take(rows, kept))
    if not parts:
        raise InvalidInputError(
            f"no decision of placement {placement!r} has a closed window ({definition.window_s / DAY_S:g} days) by "
            f"{as_of.isoformat()}; wait, or give a shorter window"
        )
    whole = _concatenated(parts)
    bodies = [orjson.loads(body) for body in whole.bodies]
    with database.reading() as connection:
        offers = union_of_offers(connection, [body["r"] for body in bodies])
    return full_batch(whole, bodies, offers)


def full_batch(rows: Joined, bodies: Sequence[dict[str, Any]], offers: OfferSet) -> InteractionBatch:
    """Everything that was logged, over a set of offers that holds all that were eligible."""
    n, k = len(rows), len(offers)
    probabilities = np.zeros((n, k))
    for i, body in enumerate(bodies):
        probabilities[i, [offers.index_of(o) for o in body["o"]]] = body["p"]
    parsed = Bodies()
    for body in bodies:
        parsed.add(body, tuple(body["o"]))
    batch = lean_batch(rows, parsed, offers, mixed="refuse")
    phases = ["" if e is None else f"{e}:{p}" for e, p in zip(rows.experiments, rows.phases, strict=True)]
    return InteractionBatch(
        table=batch.table,
        chosen=batch.chosen,
        propensity=batch.propensity,
        reward=batch.reward,
        probabilities=probabilities,
        decision_ids=batch.decision_ids,
        policies=np.asarray(rows.policies, dtype=np.str_),
        variants=np.asarray([v or "" for v in rows.variants], dtype=np.str_),
        phases=np.asarray(phases, dtype=np.str_),
        variant_probability=np.asarray([1.0 if b["q"] is None else b["q"] for b in bodies], dtype=np.float64),
    )


def lean_batch(rows: Joined, bodies: Bodies, offers: OfferSet, *, mixed: Mixed) -> InteractionBatch:
    """What a learner needs: contexts, eligible offers, what was shown with which probability, and its number.

    Parameters
    ----------
    mixed
        What becomes of a feature that is text in some rows and a number in others: an error, or its text is missing.
    """
    masks: dict[tuple[str, ...], NDArray[np.bool_]] = {}
    for ids in dict.fromkeys(bodies.offers):
        mask = np.zeros(len(offers), dtype=np.bool_)
        mask[[offers.index_of(o) for o in ids]] = True
        masks[ids] = mask
    if len(masks) == 1:
        eligible = np.repeat(next(iter(masks.values()))[None, :], len(rows), axis=0)
    else:
        eligible = np.asarray([masks[ids] for ids in bodies.offers], dtype=np.bool_)
    table = DecisionTable(
        offers=offers,
        eligible=eligible,
        columns=_columns(bodies.contexts, mixed=mixed),
        vectors=_vectors(bodies.vectors),
        subjects=np.asarray(rows.subjects, dtype=np.str_),
        at=np.asarray(rows.at_us, dtype=np.int64).astype("datetime64[us]"),
    )
    position = {offer: i for i, offer in enumerate(offers.ids)}
    return InteractionBatch(
        table=table,
        chosen=np.asarray([position[OfferId(o)] for o in rows.offers], dtype=np.int64),
        propensity=np.asarray(rows.propensities, dtype=np.float64),
        reward=np.asarray(rows.rewards, dtype=np.float64),
        decision_ids=np.asarray(rows.ids, dtype=np.str_),
    )


def learning_batches(
    database: Database, rows: Joined, cache: dict[str, OfferSet], *, rungs: Iterable[str]
) -> list[InteractionBatch]:
    """Joined decisions that certain rungs of the ladder drew, one batch for each run of one offer set.

    Parameters
    ----------
    cache
        Offer sets by revision; grows.
    """
    wanted = frozenset(rungs)
    bodies = read_bodies(rows.bodies)
    keep = [i for i, rung in enumerate(bodies.rungs) if rung in wanted]
    out: list[InteractionBatch] = []
    for revision, run in itertools.groupby(keep, key=bodies.revisions.__getitem__):
        picked = list(run)
        if revision not in cache:
            if len(cache) >= 1_000:
                cache.clear()
            with database.reading() as connection:
                cache[revision] = union_of_offers(connection, [revision])
        if len(picked) == len(rows):
            out.append(lean_batch(rows, bodies, cache[revision], mixed="missing"))
            break
        part = bodies.take(picked)
        out.append(lean_batch(_take(rows, picked), part, cache[revision], mixed="missing"))
    return out


def _columns(features: Sequence[Mapping[str, Any]], *, mixed: Mixed) -> dict[str, NDArray[Any]]:
    """``policies.records.feature_column`` of each feature, from the types that a whole column holds."""
    names: set[str] = set()
    for row in features:
        names.update(row)
    out: dict[str, NDArray[Any]] = {}
    for name in sorted(names):
        values = [row.get(name) for row in features]
        types = set(map(type, values))
        if str not in types:
            out[name] = np.asarray(values, dtype=np.float64)  # None becomes nan
        elif types <= {str, type(None)}:
            out[name] = np.asarray(
                ["" if v is None else v for v in values] if len(types) > 1 else values, dtype=np.str_
            )
        elif mixed == "refuse":
            raise SchemaError(f"feature {name!r} is text in some rows and a number in others; send one type")
        else:
            out[name] = np.asarray([None if isinstance(v, str) else v for v in values], dtype=np.float64)
    return out


def _vectors(blocks: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, NDArray[np.float32]]:
    """Named blocks; a row that lacks one, or has another width than most, has zeros there."""
    widths: dict[str, dict[int, int]] = {}
    for row in blocks:
        for name, values in row.items():
            counts = widths.setdefault(name, {})
            counts[len(values)] = counts.get(len(values), 0) + 1
    out: dict[str, NDArray[np.float32]] = {}
    for name, counts in sorted(widths.items()):
        width = max(counts, key=lambda w: counts[w])
        zeros = [0.0] * width
        found = [row.get(name, zeros) for row in blocks]
        out[name] = np.asarray([v if len(v) == width else zeros for v in found], dtype=np.float32)
    return out


def _take(rows: Joined, kept: Sequence[int]) -> Joined:
    return Joined(
        rows.placement,
        *(tuple(column[i] for i in kept) if column else () for column in _columns_of(rows)),
    )


def _concatenated(parts: Sequence[Joined]) -> Joined:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(_columns_of(part) for part in parts), strict=True)
    return Joined(parts[0].placement, *(tuple(itertools.chain.from_iterable(column)) for column in columns))


def _columns_of(rows: Joined) -> tuple[tuple[Any, ...], ...]:
    return (
        rows.offsets,
        rows.ids,
        rows.subjects,
        rows.at_us,
        rows.offers,
        rows.propensities,
        rows.bodies,
        rows.rewards,
        rows.policies,
        rows.experiments,
        rows.phases,
        rows.variants,
    )


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
