"""Where this door keeps its configuration: in an ordinary placement, so that it is versioned and audited like any other.

A Personalizer client sends its actions with every request, so the placement's own catalogue is never chosen from by this
door. Its single entry carries what the foreign contract configures and our placements have no field for.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from api.personalizer.schemas import PolicyConfiguration, ServiceConfiguration
from engine.decisions.service import DecisionService
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.store import facts, tables
from policies.errors import ConflictError, UnknownNameError
from policies.records import Offer, OfferId

DEFAULT_PLACEMENT = "personalizer"
REWARD_KIND = "reward"
_ENTRY = OfferId("personalizer-configuration")
DEFAULT_POLICY = PolicyConfiguration(
    name="nextoffer", arguments="--cb_explore_adf --squarecb --cb_type mtr --interactions :: -l 0.5"
)
SLOT_MARK = "#"


@dataclass(frozen=True, slots=True)
class Loop:
    """A Personalizer resource as this door sees it."""

    placement: Placement
    revision: int
    service: ServiceConfiguration
    policy: PolicyConfiguration
    online_policy: str | None


class Loops:
    """The placements that this door serves."""

    def __init__(self, service: DecisionService) -> None:
        self._service = service

    def find(self, placement_id: str, *, actor: str) -> Loop:
        """Configuration of a loop; a new one, with Personalizer's defaults, where there is none yet."""
        try:
            placement, revision = self._service.placement(placement_id)
        except UnknownNameError:
            fresh = _placement(placement_id, ServiceConfiguration(), DEFAULT_POLICY, online_policy=None)
            with suppress(ConflictError):  # another request made it meanwhile
                self._service.put_placement(fresh, expected_revision=0, actor=actor)
            placement, revision = self._service.placement(placement_id)
        kept: dict[str, Any] = next((dict(o.offer.payload) for o in placement.offers if o.offer.id == _ENTRY), {})
        service = ServiceConfiguration.model_validate(kept.get("service", {}))
        return Loop(
            placement,
            revision,
            service,
            PolicyConfiguration.model_validate(kept["policy"]) if "policy" in kept else DEFAULT_POLICY,
            kept.get("online_policy") if service.learning_mode != "Online" else placement.policy,
        )

    def change(
        self,
        loop: Loop,
        *,
        actor: str,
        service: ServiceConfiguration | None = None,
        policy: PolicyConfiguration | None = None,
    ) -> None:
        """Write a changed configuration as a new revision of the placement."""
        made = _placement(
            loop.placement.id, service or loop.service, policy or loop.policy, online_policy=loop.online_policy
        )
        kept = replace(made, rules=loop.placement.rules, encoder=loop.placement.encoder)
        self._service.put_placement(kept, expected_revision=loop.revision, actor=actor)

    def slot_decisions(self, event_id: str) -> list[str]:
        """Ids of the decisions of a multi-slot event."""
        keys = tables.fact_keys
        start = event_id + SLOT_MARK
        with self._service.database.reading() as connection:
            found = connection.execute(
                select(keys.c.id).where(
                    keys.c.kind == facts.DECISION, keys.c.id >= start, keys.c.id < start + "\U0010ffff"
                )
            ).scalars()
            return [id_ for id_ in found if id_.startswith(start)]


def _placement(
    placement_id: str, service: ServiceConfiguration, policy: PolicyConfiguration, *, online_policy: str | None
) -> Placement:
    is_online = service.learning_mode == "Online"
    payload = {
        "service": service.model_dump(mode="json", by_alias=True),
        "policy": policy.model_dump(mode="json", by_alias=True),
        "online_policy": online_policy,
    }
    return Placement(
        placement_id,
        offers=(CatalogueOffer(Offer(_ENTRY, {}, payload)),),
        # Apprentice and LoggingOnly answer with the baseline action, always: the first that is not excluded.
        policy=online_policy if is_online else None,
        explore_share=service.exploration_percentage if is_online else 0.0,
        reward=RewardDefinition(
            terms=(RewardTerm(REWARD_KIND),),
            window_s=max(1.0, service.reward_wait_time.total_seconds()),
            default=service.default_reward,
            aggregation="first" if service.reward_aggregation == "earliest" else "sum",
        ),
    )
