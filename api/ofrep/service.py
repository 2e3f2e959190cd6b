"""What a flag answers: the variant of an experiment, or a decision at a placement."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from api.visitors import Visitor, Visitors
from engine.decisions.requests import DecisionRequest
from engine.decisions.service import DecisionService
from engine.experiments.records import Experiment
from engine.store.facts import check_text
from policies.allocation import HOLDOUT_SEED, WEIGHT_TOTAL_BP, Variant, bucket_ranges, layer_seed
from policies.eligibility import Condition
from policies.errors import InvalidInputError, UnknownNameError
from policies.nested_features import flatten
from policies.records import Features

NEXT_BEST_OFFER = "next-best-offer"
PLACEMENT = "placement"
TARGETING_KEY = "targetingKey"


class NoTargetingKeyError(InvalidInputError):
    """A context does not say whom it is for."""


@dataclass(frozen=True, slots=True)
class FlagContext:
    """Whom a flag is evaluated for, and what is known of them."""

    subject: str
    features: Features
    placement: str | None

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> FlagContext:
        """Read an OpenFeature context.

        Raises
        ------
        NoTargetingKeyError, InvalidInputError
            If it names nobody, or holds what is no feature.
        """
        subject = context.get(TARGETING_KEY)
        if subject is None or subject == "":
            raise NoTargetingKeyError("the context has no targetingKey; send the visitor's or customer's id")
        placement = context.get(PLACEMENT)
        if placement is not None and not isinstance(placement, str):
            raise InvalidInputError(f"the context's placement is {placement!r:.40}; expected the id of a placement")
        rest = {k: v for k, v in context.items() if k not in (TARGETING_KEY, PLACEMENT)}
        return cls(check_text(subject, what="targetingKey"), flatten([rest], where="the context"), placement)


@dataclass(frozen=True, slots=True)
class Flag:
    """An evaluated flag."""

    key: str
    value: Any
    reason: str
    variant: str
    metadata: Mapping[str, str | float | bool]

    def to_json(self) -> dict[str, Any]:
        """Form of the protocol."""
        return {
            "key": self.key,
            "value": self.value,
            "reason": self.reason,
            "variant": self.variant,
            "metadata": dict(self.metadata),
        }


class Flags:
    """Flags of a service.

    Parameters
    ----------
    only_visible
        Whether the caller may only know what is marked as visible to clients.
    visitors
        Tells machines from persons; needed where a decision may be asked for.
    waited_s
        How long the request has waited already.
    """

    def __init__(
        self, service: DecisionService, *, only_visible: bool, visitors: Visitors | None = None, waited_s: float = 0.0
    ) -> None:
        self._service = service
        self._visitors = visitors
        self._waited_s = waited_s
        self._only_visible = only_visible

    def experiments(self) -> list[Experiment]:
        """Running experiments that the caller may know."""
        return [e for e in self._service.running_experiments() if e.is_client_visible or not self._only_visible]

    def experiment(self, key: str, context: FlagContext) -> Flag:
        """Which variant a subject has; nothing is recorded by asking.

        Raises
        ------
        UnknownNameError
            If there is no such experiment, or the caller may not know it.
        """
        found = next((e for e in self.experiments() if e.id == key), None)
        if found is None:
            found = None if self._only_visible else self._service.experiments.get(key)
            if found is None:
                raise UnknownNameError("flag", key, [])
            control = found.variants[0]
            return _of_variant(found, control, "DISABLED", is_in=False)
        allocation = self._service.allocation(found.placement, context.subject, context.features)
        if allocation.experiment == key:
            variant = next(v for v in found.variants if v.key == allocation.variant)
            return _of_variant(found, variant, "SPLIT", is_in=True)
        if allocation.forced.partition(": ")[0] == key:
            return _of_variant(found, found.variant(allocation.forced.partition(": ")[2]), "STATIC", is_in=False)
        return _of_variant(found, found.variants[0], "DEFAULT", is_in=False)

    async def next_best_offer(self, context: FlagContext, *, is_seen: bool, decision_id: str | None = None) -> Flag:
        """A decision: recorded, and counted as seen at once or when it is activated."""
        visitor = Visitor.of(context.subject, context.features)
        answer = await self._service.adecide(
            DecisionRequest(
                self.placement_of(context),
                context.subject,
                context.features,
                id=decision_id,
                is_activated=is_seen,
                waited_s=self._waited_s,
                role="bot" if self._visitors is not None and self._visitors.is_machine(visitor) else "policy",
            )
        )
        decision = answer.decision
        metadata: dict[str, str | float | bool] = {
            "decisionId": decision.id,
            "placement": decision.placement,
            "recorded": decision.recorded,
            "activated": decision.activated,
        }
        if decision.experiment is not None and decision.variant is not None:
            metadata |= {"experiment": decision.experiment, "experimentVariant": decision.variant}
        value = {"offer": decision.offer, "payload": dict(answer.payload)}
        return Flag(NEXT_BEST_OFFER, value, "SPLIT", decision.offer, metadata)

    def placement_of(self, context: FlagContext) -> str:
        """The context's placement, or the only one there is."""
        if context.placement is not None:
            return context.placement
        known = self._service.placements()
        if len(known) != 1:
            raise InvalidInputError(
                f"the context names no placement, and there are {len(known)}; add placement to it, one of {', '.join(known) or 'none'}"
            )
        return known[0]

    async def all(self, context: FlagContext, *, tag: str) -> list[Flag]:
        """Every flag at once; the decision among them is the same for the same tag, and not yet seen."""
        flags = [self.experiment(e.id, context) for e in self.experiments()]
        if not self._only_visible and (context.placement is not None or len(self._service.placements()) == 1):
            flags.append(await self.next_best_offer(context, is_seen=False, decision_id=f"ofrep-{tag}"))
        return flags

    def tag(self, context: FlagContext) -> str:
        """Changes with the configuration and with the context."""
        content = [
            self._service.database.config_revision(),
            self._only_visible,
            context.subject,
            dict(context.features),
            context.placement,
        ]
        return hashlib.blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()

    def growthbook(self) -> dict[str, Any]:
        """Features as a GrowthBook client reads them: it then hashes by itself and agrees with us bucket for bucket."""
        controls = self._service.controls()
        features = {}
        for experiment in self.experiments():
            features[experiment.id] = {
                "defaultValue": _value(experiment.variants[0]),
                "rules": _rules(experiment, holdout_bp=controls.holdout_bp),
            }
        return {"status": 200, "features": features}


def _of_variant(experiment: Experiment, variant: Variant, reason: str, *, is_in: bool) -> Flag:
    metadata: dict[str, str | float | bool] = {"placement": experiment.placement, "inExperiment": is_in}
    return Flag(experiment.id, _value(variant), reason, variant.key, metadata)


def _value(variant: Variant) -> str:
    return variant.value or variant.key


def _rules(experiment: Experiment, *, holdout_bp: int) -> list[dict[str, Any]]:
    phase = experiment.phases[-1]
    rules: list[dict[str, Any]] = []
    for key in sorted(set(experiment.forced.values())):
        subjects = sorted(s for s, k in experiment.forced.items() if k == key)
        rules.append({"condition": {"id": {"$in": subjects}}, "force": _value(experiment.variant(key))})
    filters = []
    if holdout_bp:
        filters.append(_filter(HOLDOUT_SEED, holdout_bp, WEIGHT_TOTAL_BP))
    if experiment.layer:
        filters.append(_filter(layer_seed(experiment.layer), *experiment.slots))
    rule: dict[str, Any] = {
        "key": experiment.id,
        "seed": experiment.id,
        "hashAttribute": "id",
        "hashVersion": 2,
        "variations": [_value(v) for v in phase.variants],
        "meta": [{"key": v.key} for v in phase.variants],
        "ranges": [list(r) for r in bucket_ranges([v.weight_bp for v in phase.variants], coverage=phase.coverage)],
        "filters": filters,
    }
    if experiment.targeting:
        rule["condition"] = {"$and": [_condition(c) for c in experiment.targeting]}
    return [*rules, rule]


def _filter(seed: str, first: int, last: int) -> dict[str, Any]:
    ranges = [[first / WEIGHT_TOTAL_BP, last / WEIGHT_TOTAL_BP]]
    return {"seed": seed, "attribute": "id", "hashVersion": 2, "ranges": ranges}


_OPERATORS = {
    "==": "$eq",
    "!=": "$ne",
    "in": "$in",
    "not in": "$nin",
    "<": "$lt",
    "<=": "$lte",
    ">": "$gt",
    ">=": "$gte",
}


def _condition(condition: Condition) -> dict[str, Any]:
    if condition.operator in ("missing", "present"):
        return {condition.feature: {"$exists": condition.operator == "present"}}
    value = list(condition.value) if isinstance(condition.value, tuple) else condition.value
    return {condition.feature: {_OPERATORS[condition.operator]: value}}
