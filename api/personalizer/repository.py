"""Where this door keeps its configuration: with an ordinary placement, under ``doors``, versioned and audited like the rest of it.

A Personalizer client sends its actions with every request, so the placement's own catalogue is never chosen from by this
door; its single entry says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from api.personalizer.schemas import PolicyConfiguration, ServiceConfiguration
from engine.decisions.requests import Role
from engine.decisions.service import DecisionService
from engine.decisions.slots import slot_decisions
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import RewardDefinition, RewardTerm
from policies.errors import ConflictError, UnknownNameError
from policies.records import Offer, OfferId

DEFAULT_PLACEMENT = "personalizer"
REWARD_KIND = "reward"
DOOR = "personalizer"
DEFAULT_POLICY = PolicyConfiguration(
    name="nextoffer", arguments="--cb_explore_adf --squarecb --cb_type mtr --interactions :: -l 0.5"
)
_NO_CATALOGUE = CatalogueOffer(Offer(OfferId("sent-with-each-request")))


@dataclass(frozen=True, slots=True)
class Loop:
    """A Personalizer resource as this door sees it.

    Attributes
    ----------
    online_policy
        Version that decides in Online mode and learns in Apprentice mode; None: the baseline action and exploration.
    """

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
        kept: Mapping[str, Any] = placement.doors.get(DOOR, {})
        return Loop(
            placement,
            revision,
            ServiceConfiguration.model_validate(kept.get("service", {})),
            PolicyConfiguration.model_validate(kept["policy"]) if "policy" in kept else DEFAULT_POLICY,
            # In LoggingOnly mode the placement itself has none.
            placement.policy or kept.get("online_policy"),
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
        online_policy = loop.online_policy if policy is None else self._registered(policy.name)
        made = _placement(
            loop.placement.id, service or loop.service, policy or loop.policy, online_policy=online_policy
        )
        kept = replace(made, offers=loop.placement.offers, rules=loop.placement.rules, encoder=loop.placement.encoder)
        self._service.put_placement(kept, expected_revision=loop.revision, actor=actor)

    def slot_decisions(self, event_id: str) -> list[str]:
        """Ids of the decisions of a multi-slot event, whose subject is the event."""
        return slot_decisions(self._service.database, event_id)

    def _registered(self, name: str) -> str | None:
        try:
            return str(self._service.policies.find(name).ref)
        except UnknownNameError:
            return None


def role_in(placement: Placement) -> Role:
    """How a decision of a loop is made: an apprentice shows the baseline action and learns from it."""
    service = placement.doors.get(DOOR, {}).get("service", {})
    return "apprentice" if service.get("learningMode") == "Apprentice" else "policy"


def _placement(
    placement_id: str, service: ServiceConfiguration, policy: PolicyConfiguration, *, online_policy: str | None
) -> Placement:
    kept = {
        "service": service.model_dump(mode="json", by_alias=True),
        "policy": policy.model_dump(mode="json", by_alias=True),
        "online_policy": online_policy,
    }
    return Placement(
        placement_id,
        offers=(_NO_CATALOGUE,),
        # LoggingOnly answers with the baseline action, the first that is not excluded, and nothing learns from it.
        policy=None if service.learning_mode == "LoggingOnly" else online_policy,
        explore_share=service.exploration_percentage if service.learning_mode == "Online" else 0.0,
        reward=RewardDefinition(
            terms=(RewardTerm(REWARD_KIND),),
            window_s=max(1.0, service.reward_wait_time.total_seconds()),
            default=service.default_reward,
            aggregation="first" if service.reward_aggregation == "earliest" else "sum",
        ),
        doors={DOOR: kept},
    )
