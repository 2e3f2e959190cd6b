"""What learners have taken in, tick by tick: written down before it is learned, so that anyone can learn it again."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from engine.decisions.ladder import APPRENTICE
from engine.rewards.definition import RewardDefinition
from engine.rewards.export import learning_batches
from engine.rewards.joined import Stretch, join
from engine.store import tables
from engine.store.database import Database
from policies.errors import ConflictError
from policies.protocols import OnlineLearner
from policies.records import InteractionBatch, OfferSet

LEARNED_RUNGS = ("policy", "last_good", APPRENTICE)
# A reward beyond this is an error of whoever sent it; one such number can spoil a model for good.
MAX_REWARD = 1e6


@dataclass(frozen=True, slots=True)
class Tick:
    """A stretch of the ledger that is learned from at once.

    Attributes
    ----------
    placement, definition
        Whose decisions, and what counted then; None in ticks that an earlier version wrote.
    is_published
        Whether a snapshot was published after it.
    is_left_out
        The policy could not learn from it; nobody else tries.
    """

    number: int
    stretch: Stretch
    placement: str | None = None
    definition: RewardDefinition | None = None
    is_published: bool = False
    is_left_out: bool = False


def read_ticks(database: Database, ref: str, *, after: int = 0, numbers: Sequence[int] | None = None) -> list[Tick]:
    """Ticks of a policy, in order.

    Parameters
    ----------
    after
        Only those with a larger number.
    numbers
        Only these.
    """
    table = tables.learner_ticks
    query = select(table).where(table.c.policy == ref, table.c.number > after).order_by(table.c.number)
    if numbers is not None:
        query = query.where(table.c.number.in_(numbers))
    with database.reading() as connection:
        rows = connection.execute(query).all()
    return [
        Tick(
            r.number,
            Stretch(r.first_offset, r.end_offset, r.known_offset, r.as_of_us),
            r.placement,
            None if r.definition is None else RewardDefinition.from_json(json.loads(r.definition)),
            r.is_published,
            r.is_left_out,
        )
        for r in rows
    ]


def write_tick(database: Database, ref: str, tick: Tick) -> None:
    """Write down what will be learned.

    Raises
    ------
    ConflictError
        If another learner has written a tick of that number: it owns the policy now.
    """
    assert tick.definition is not None
    values = {
        "policy": ref,
        "number": tick.number,
        "first_offset": tick.stretch.first_offset,
        "end_offset": tick.stretch.end_offset,
        "known_offset": tick.stretch.known_offset,
        "as_of_us": tick.stretch.as_of_us,
        "is_published": False,
        "placement": tick.placement,
        "definition": json.dumps(tick.definition.to_json()),
        "is_left_out": False,
    }
    try:
        with database.writing() as connection:
            connection.execute(insert(tables.learner_ticks).values(values))
    except IntegrityError as error:
        raise ConflictError(
            f"tick {tick.number} of {ref} was written by another learner meanwhile; only one learns a version: this one stops"
        ) from error


def mark(database: Database, ref: str, number: int, *, is_published: bool = False, is_left_out: bool = False) -> None:
    """Say of a tick that its snapshot is published, or that it is left out."""
    table = tables.learner_ticks
    said = {"is_published": True} if is_published else {}
    if is_left_out:
        said["is_left_out"] = True
    with database.writing() as connection:
        connection.execute(update(table).where(table.c.policy == ref, table.c.number == number).values(said))


def read_tick(
    database: Database, ref: str, tick: Tick, cache: dict[str, OfferSet]
) -> tuple[list[InteractionBatch], int]:
    """What a tick learns from, one batch per run of one offer set, and how many rows are left out of it as poisonous.

    Parameters
    ----------
    cache
        Offer sets by revision, kept between calls.
    """
    assert tick.placement is not None
    assert tick.definition is not None
    with _uncollected():
        rows = join(database, tick.placement, tick.definition, tick.stretch, policy=ref)
        batches = learning_batches(database, rows, cache, rungs=LEARNED_RUNGS)
    out: list[InteractionBatch] = []
    n_left_out = 0
    for batch in batches:
        is_sound = np.abs(batch.reward) <= MAX_REWARD
        n_left_out += int((~is_sound).sum())
        out.append(batch if is_sound.all() else batch.take(np.flatnonzero(is_sound)))
    return [b for b in out if len(b)], n_left_out


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cycle collector: thousands of rows at once are no cycles, and walking them costs a fifth of the reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def learn_from(policy: OnlineLearner, batches: Sequence[InteractionBatch]) -> int:
    """Learn from some batches in order; return from how many decisions."""
    for batch in batches:
        policy.learn(batch)
    return sum(len(b) for b in batches)


def learned_in(database: Database, ref: str, offset: int) -> int | None:
    """Number of the first published snapshot that has learned from the decision at an offset; None: not yet."""
    rows = database.rows(
        "SELECT min(number) FROM learner_ticks WHERE policy = :policy AND is_published AND number >= "
        "(SELECT min(number) FROM learner_ticks WHERE policy = :policy AND first_offset <= :at AND end_offset > :at)",
        policy=ref,
        at=offset,
    )
    return None if rows[0][0] is None else int(rows[0][0])
