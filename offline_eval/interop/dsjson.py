"""Decision-service JSON, the log format of Vowpal Wabbit's and Azure Personalizer's learners."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.errors import InvalidInputError
from policies.records import Context, DecisionTable, FeatureValue, InteractionBatch, Offer, OfferId, OfferSet, SubjectId


def read_dsjson(path: Path | str) -> InteractionBatch:
    """A log from a file of dsjson lines; empty lines and lines without a decision (dangling rewards) are skipped."""
    with Path(path).open(encoding="utf-8") as lines:
        return from_dsjson(lines)


def from_dsjson(lines: Iterable[str]) -> InteractionBatch:
    """A log from dsjson lines.

    The reward is minus ``_label_cost``; an offer is known by ``id`` or ``_tag`` among its features, else by its features.

    Raises
    ------
    InvalidInputError
        Naming the line and the field.
    """
    offers: dict[str, dict[str, FeatureValue]] = {}
    rows: list[tuple[Context, list[str], list[float], int, float, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(
                f"line {number} is not JSON ({error}); expected one dsjson event per line"
            ) from error
        if "c" not in event or "_multi" not in event.get("c", {}):
            continue
        rows.append(_event(event, number, offers))
    if not rows:
        raise InvalidInputError("no line holds a decision; expected dsjson events with 'c', 'a' and 'p'")
    catalogue = OfferSet([Offer(OfferId(i), features) for i, features in offers.items()])
    n, k = len(rows), len(catalogue)
    probabilities, eligible = np.zeros((n, k)), np.zeros((n, k), dtype=np.bool_)
    chosen = np.empty(n, dtype=np.int64)
    for i, (_, ids, p, first, _, _) in enumerate(rows):
        where = [catalogue.index_of(o) for o in ids]
        eligible[i, where] = True
        probabilities[i, where] = p
        chosen[i] = where[first]
    return InteractionBatch(
        table=DecisionTable.from_contexts(catalogue, [r[0] for r in rows], eligible=eligible),
        chosen=chosen,
        propensity=probabilities[np.arange(n), chosen],
        reward=np.asarray([r[4] for r in rows]),
        probabilities=probabilities,
        decision_ids=np.asarray([r[5] for r in rows], dtype=np.str_),
    )


def _event(
    event: Mapping[str, Any], number: int, offers: dict[str, dict[str, FeatureValue]]
) -> tuple[Context, list[str], list[float], int, float, str]:
    actions, p = event.get("a"), event.get("p")
    choices = event["c"]["_multi"]
    if not isinstance(actions, list) or not isinstance(p, list) or len(actions) != len(p) or len(p) != len(choices):
        raise InvalidInputError(
            f"line {number} has {len(choices)} offers, 'a' of {_length(actions)} and 'p' of {_length(p)}; expected one of each per offer"
        )
    if sorted(actions) != list(range(1, len(choices) + 1)):
        raise InvalidInputError(f"line {number} has 'a' {actions}; expected the numbers 1 to {len(choices)} once each")
    cost = event.get("_label_cost")
    if not isinstance(cost, int | float):
        raise InvalidInputError(f"line {number} has _label_cost {cost!r}; expected a number (minus the reward)")
    ids = []
    for choice in choices:
        features = _flat(choice)
        tag = features.pop("id", None) or features.pop("_tag", None) or json.dumps(features, sort_keys=True)
        offers.setdefault(str(tag), features)
        ids.append(str(tag))
    shared = {name: value for name, value in event["c"].items() if name != "_multi"}
    event_id = str(event.get("EventId") or event.get("m") or number)
    ordered = [ids[a - 1] for a in actions]
    total = sum(p)
    context = Context(SubjectId(event_id), _flat(shared))
    return context, ordered, [x / total for x in p] if abs(total - 1) < 1e-4 else p, 0, -float(cost), event_id


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, FeatureValue]:
    """Nested features with joined names; lists become one feature per place."""
    out: dict[str, FeatureValue] = {}
    for name, inner in value.items():
        key = f"{prefix}{name}"
        if isinstance(inner, Mapping):
            out.update(_flat(inner, f"{key}."))
        elif isinstance(inner, list):
            out.update(_flat({str(i): v for i, v in enumerate(inner)}, f"{key}."))
        else:
            out[key] = inner
    return out


def _length(value: object) -> str:
    return f"length {len(value)}" if isinstance(value, list) else repr(value)
