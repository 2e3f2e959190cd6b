"""coba's experiments and ours: its environments as logs, our policies as its learners. coba itself is not imported here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from policies.errors import SchemaError
from policies.protocols import OnlineLearner, Policy
from policies.records import Context, DecisionTable, FeatureValue, InteractionBatch, Offer, OfferId, OfferSet, SubjectId


def batch_from_coba(interactions: Iterable[Mapping[str, Any]]) -> InteractionBatch:
    """A log from coba's logged interactions (``environment.read()``): context, actions, action, reward, probability.

    Offers are the union of all actions; an action that a row does not list is not eligible in it.

    Raises
    ------
    SchemaError
        If an interaction lacks one of the five, or shows an action that it does not list.
    """
    contexts: list[Context] = []
    offers: dict[str, Offer] = {}
    listed: list[list[str]] = []
    shown: list[str] = []
    reward: list[float] = []
    propensity: list[float] = []
    for number, one in enumerate(interactions):
        missing = [name for name in ("context", "actions", "action", "reward", "probability") if one.get(name) is None]
        if "context" in missing and "context" in one:
            missing.remove("context")  # None is coba's way to say that there is no context
        if missing:
            raise SchemaError(
                f"interaction {number} has no {', '.join(missing)}; expected logged interactions: log a simulation first "
                "(coba.Environments(…).logged(learner))"
            )
        for action in one["actions"]:
            offers.setdefault(action_id(action), offer_of(action))
        listed.append([action_id(a) for a in one["actions"]])
        shown.append(action_id(one["action"]))
        if shown[-1] not in listed[-1]:
            raise SchemaError(f"interaction {number} shows {shown[-1]!r}, which is not among its actions {listed[-1]}")
        contexts.append(context_of(one["context"], subject=str(number)))
        reward.append(float(one["reward"]))
        propensity.append(float(one["probability"]))
    if not contexts:
        raise SchemaError("the environment has no interactions; expected one at least")
    offer_set = OfferSet(list(offers.values()))
    eligible = np.zeros((len(contexts), len(offer_set)), dtype=np.bool_)
    for row, names in enumerate(listed):
        eligible[row, [offer_set.index_of(name) for name in names]] = True
    table = DecisionTable.from_contexts(offer_set, contexts, eligible=eligible)
    chosen = np.asarray([offer_set.index_of(name) for name in shown], dtype=np.int64)
    return InteractionBatch(table, chosen, np.asarray(propensity), np.asarray(reward))


class CobaLearner:
    """One of our policies as a learner of coba's experiments.

    It answers with its distribution (coba draws), and learns one interaction at a time where the policy learns.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def params(self) -> Mapping[str, Any]:
        """How coba names it in results."""
        return {"family": f"nextoffer {self.policy.name}"}

    def predict(self, context: Any, actions: Sequence[Any]) -> dict[str, list[float]]:
        """Probability of each action."""
        return {"pmf": [float(p) for p in self.policy.probabilities(self._table(context, actions))[0]]}

    def learn(self, context: Any, action: Any, reward: float, probability: float, actions: Sequence[Any] = ()) -> None:
        """Learn from one interaction; a policy that does not learn ignores it."""
        if isinstance(self.policy, OnlineLearner):
            table = self._table(context, actions or [action])
            chosen = np.asarray([table.offers.index_of(action_id(action))], dtype=np.int64)
            self.policy.learn(
                InteractionBatch(table, chosen, np.asarray([float(probability)]), np.asarray([float(reward)]))
            )

    def _table(self, context: Any, actions: Sequence[Any]) -> DecisionTable:
        return DecisionTable.from_contexts(OfferSet([offer_of(a) for a in actions]), [context_of(context, subject="")])


def context_of(context: Any, *, subject: str) -> Context:
    """Coba's context (a mapping, a sequence, a single value or None) as named features."""
    return Context(SubjectId(subject), _features(context, prefix="x"))


def offer_of(action: Any) -> Offer:
    """Coba's action as an offer: what it is made of are its features, its text is its id."""
    return Offer(OfferId(action_id(action)), _features(action, prefix="a") if not isinstance(action, str) else {})


def action_id(action: Any) -> str:
    """One text for equal actions."""
    if isinstance(action, Mapping):
        return ",".join(f"{name}={action[name]}" for name in sorted(action))
    if isinstance(action, Sequence) and not isinstance(action, str):
        return ",".join(f"{value:g}" if isinstance(value, int | float) else str(value) for value in action)
    return str(action)


def _features(value: Any, *, prefix: str) -> dict[str, FeatureValue]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {str(name): _plain(v) for name, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {f"{prefix}{i}": _plain(v) for i, v in enumerate(value)}
    return {prefix: _plain(value)}


def _plain(value: Any) -> FeatureValue:
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)
