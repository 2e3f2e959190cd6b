"""Placements as an operator writes them and sees them: revisions, pinned policies, how each is doing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from sqlalchemy import insert, select, update

from engine.decisions.configuration import Configuration
from engine.decisions.log import DurableLog
from engine.decisions.requests import PlacementStatus
from engine.decisions.tallies import newest_reward, tally_up
from engine.experiments.records import BASELINE
from engine.offers.placement import Placement
from engine.offers.stored import placement_in
from engine.registry.versions import Registry
from engine.rewards.seen import BOT
from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database, record_change
from engine.store.facts import from_us, to_us
from policies.errors import ConflictError


class Placements:
    """Reads and writes placements of a store."""

    def __init__(
        self,
        database: Database,
        log: DurableLog,
        *,
        configuration: Configuration,
        registry: Registry,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._log = log
        self._configuration = configuration
        self._registry = registry
        self._clock = clock

    def put(self, placement: Placement, *, expected_revision: int | None = None, actor: str = "") -> int:
        """Write a placement and return its new revision.

        Raises
        ------
        ConflictError
            If ``expected_revision`` is given and is not the current one (0: does not exist yet).
        UnknownNameError
            If its policy or encoder is not registered; ``RemovedVersionError`` where its artefact was removed.
        """
        # A bare name is pinned to its newest version now: a later registration changes no running placement by itself.
        placement = replace(
            placement,
            policy=self._pinned(placement.policy),
            encoder=self._pinned(placement.encoder),
            fallback=self._pinned(placement.fallback),
        )
        change = Change(self._clock(), actor)
        table = tables.placements
        document = json.dumps(placement.to_json())
        with self._database.writing() as connection:
            # Whoever changes it at the same time waits, and then finds another revision.
            here = select(table.c.revision).where(table.c.id == placement.id).with_for_update(key_share=True)
            found = connection.execute(here).scalar() or 0
            if expected_revision is not None and expected_revision != found:
                raise ConflictError(
                    f"placement {placement.id!r} is at revision {found}, not {expected_revision}: someone changed it "
                    "meanwhile; read it again and repeat the change"
                )
            values = {"revision": found + 1, "document": document, "updated_at_us": to_us(change.at)}
            if found:
                connection.execute(update(table).where(table.c.id == placement.id).values(values))
            else:
                connection.execute(insert(table).values(id=placement.id, **values))
            record_change(
                connection,
                change,
                action="put",
                what=f"placement {placement.id}",
                document=placement.to_json(),
            )
        self._configuration.refresh()
        return found + 1

    def get(self, placement_id: str) -> tuple[Placement, int]:
        """Read a placement and its revision from the store.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        return placement_in(self._database, placement_id)

    def ids(self) -> list[str]:
        """Ids of all placements."""
        return sorted(self._configuration.all())

    def status(self, placement_id: str) -> PlacementStatus:
        """How a placement is doing."""
        live = self._configuration.placement(placement_id)
        tallies = tally_up(self._database, placement_id)
        reward = newest_reward(self._database, tallies)
        ((last,),) = self._database.rows(
            "SELECT max(at_us) FROM decisions WHERE placement = :placement", placement=placement_id
        )
        return PlacementStatus(
            placement=placement_id,
            revision=live.revision,
            n_offers=len(live.offers),
            policy=live.placement.policy or BASELINE,
            experiment=", ".join(e.id for e in live.trials.experiments) or None,
            n_decisions=sum(t.n_decisions for t in tallies.values()),
            n_bot_decisions=sum(t.n_decisions for p, t in tallies.items() if p.startswith(f"{BOT}@")),
            n_rewards=sum(t.n_rewards for t in tallies.values()),
            last_decision_at=None if last is None else from_us(last),
            last_reward=None if reward is None else f"{reward.kind} joined to decision {reward.decision}",
            ledger_offset=self._database.head() - 1,
            is_log_healthy=self._log.writer.is_healthy,
            n_unrecorded=self._log.n_unrecorded,
        )

    def _pinned(self, ref: str | None) -> str | None:
        return ref if ref is None or ref == BASELINE else str(self._registry.there(ref).ref)
