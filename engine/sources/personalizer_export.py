"""Azure Personalizer's exported log (dsjson) as interactions: every line is checked, and what is left out is counted by reason.

Quirks of the export that would spoil an estimate or a model silently, each with its own reason below:

- ``_skipLearn``: the event was never activated, so nobody saw the action; VW's own parser learns from it all the same.
- ``_labelIndex`` missing or at odds with ``_label_Action``: VW then puts a garbage label on the shared example.
- ``pdrop``: the export kept a line with probability 1 - pdrop only. A kept line stands for 1 / (1 - pdrop) events and is
  repeated so often on average (a whole number of times, the rest drawn), all of one subject, so that intervals by subject stay honest.
- Multi-slot lines (``_outcomes``) are one decision for each slot.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from policies.errors import InvalidInputError
from policies.nested_features import flatten
from policies.records import (
    Context,
    DecisionTable,
    Features,
    FeatureValue,
    InteractionBatch,
    Offer,
    OfferId,
    OfferSet,
    SubjectId,
    check_features,
)

_SUM_TOLERANCE = 1e-3
_MAX_REWARD = 1e6
_MAX_REPEATS = 1_000


class _UnusableError(Exception):
    """Why a line is left out."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Lines left out for one reason: how many, and the number of the first."""

    n: int
    first_line: int


@dataclass(frozen=True, slots=True, eq=False)
class Import:
    """What an export held.

    Attributes
    ----------
    dropped
        By reason.
    n_repeated
        Rows added for events that the export itself had left out (``pdrop``).
    n_changed_offers
        Rows whose offer had other features than when it was first seen; the first are kept.
    """

    batch: InteractionBatch
    n_lines: int
    dropped: Mapping[str, Dropped]
    n_repeated: int
    n_changed_offers: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "lines": self.n_lines,
            "decisions": len(self.batch),
            "offers": len(self.batch.table.offers),
            "mean_reward": float(self.batch.reward.mean()),
            "repeated_for_pdrop": self.n_repeated,
            "rows_with_changed_offer_features": self.n_changed_offers,
            "dropped": {reason: {"lines": d.n, "first_line": d.first_line} for reason, d in self.dropped.items()},
        }


@dataclass(slots=True, eq=False)
class _Row:
    """One decision of the export."""

    decision: str
    event: str
    at: datetime
    context: dict[str, FeatureValue]
    offers: list[tuple[str, dict[str, FeatureValue]]]
    probabilities: list[float]
    chosen: int
    reward: float
    keep: float = 1.0


@dataclass(slots=True, eq=False)
class _Collected:
    rows: list[_Row] = field(default_factory=list)
    n_lines: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)


def read_export(path: Path, *, seed: int = 0) -> Import:
    """Read a file of dsjson lines, or all ``.json`` and ``.dsjson`` files below a folder in the order of their names.

    Parameters
    ----------
    seed
        Draws the repeats of events whose ``1 / (1 - pdrop)`` is no whole number.

    Raises
    ------
    InvalidInputError
        If there is no file, or no line can be used; the text says why.
    """
    files = (
        [path] if path.is_file() else sorted(p for end in ("json", "dsjson", "jsonl") for p in path.rglob(f"*.{end}"))
    )
    if not files:
        raise InvalidInputError(f"{path} holds no .json, .dsjson or .jsonl file; expected Personalizer's exported log")

    def lines() -> Iterator[str]:
        for file in files:
            with file.open(encoding="utf-8", errors="replace") as opened:
                yield from opened

    return import_lines(lines(), seed=seed)


def import_lines(lines: Iterable[str], *, seed: int = 0) -> Import:
    """As ``read_export``, from lines."""
    found = _Collected()
    seen: set[str] = set()
    for line in lines:
        found.n_lines += 1
        try:
            for row in _rows_of(line):
                if row.decision in seen:
                    raise _UnusableError("an event id that came before")
                seen.add(row.decision)
                found.rows.append(row)
        except _UnusableError as reason:
            found.dropped[str(reason)] += 1
            found.first.setdefault(str(reason), found.n_lines)
    if not found.rows:
        why = "; ".join(f"{n} lines: {reason}" for reason, n in found.dropped.most_common(3)) or "it is empty"
        raise InvalidInputError(f"no line of the export holds a usable decision ({why})")
    return _imported(found, np.random.default_rng(seed))


def _rows_of(line: str) -> list[_Row]:
    if not line.strip():
        raise _UnusableError("an empty line")
    try:
        event = json.loads(line)
    except ValueError:
        raise _UnusableError("not JSON") from None
    shared = event.get("c") if isinstance(event, dict) else None
    if not isinstance(shared, dict) or not isinstance(shared.get("_multi"), list) or not shared["_multi"]:
        raise _UnusableError("no decision (a reward or an activation by itself)")
    if event.get("_skipLearn"):
        raise _UnusableError("never activated (_skipLearn)")
    keep = 1.0 - _number(event.get("pdrop", 0.0), "pdrop is no number")
    if not 1.0 / _MAX_REPEATS <= keep <= 1.0:
        raise _UnusableError(f"pdrop is outside [0, 1 - 1/{_MAX_REPEATS}]")
    event_id = event.get("EventId") or event.get("_eventid")
    if not isinstance(event_id, str) or not 0 < len(event_id) <= 256:
        raise _UnusableError("no event id")
    at, context, offers = _moment(event.get("Timestamp")), _context(shared), [_offer(o) for o in shared["_multi"]]
    if len({id_ for id_, _ in offers}) < len(offers):
        raise _UnusableError("two actions of one id")
    if isinstance(event.get("_outcomes"), list):
        return [_slot_row(event, i, event_id, at, context, offers, keep) for i in range(len(event["_outcomes"]))]
    actions = event.get("a")
    if not isinstance(actions, list) or sorted(map(str, actions)) != sorted(map(str, range(1, len(offers) + 1))):
        raise _UnusableError("'a' does not number the actions from 1")
    index, action = event.get("_labelIndex"), event.get("_label_Action", event.get("_label_action"))
    if index is None or action is None:
        raise _UnusableError("no _labelIndex or no _label_Action")
    if index not in range(len(actions)) or actions[index] != action:
        raise _UnusableError("_labelIndex and _label_Action disagree")
    probabilities = _distribution(event.get("p"), len(offers))
    said = event.get("_label_probability")
    if said is not None and abs(_number(said, "_label_probability is no number") - probabilities[index]) > 1e-4:
        raise _UnusableError("_label_probability and 'p' disagree")
    ordered = [offers[int(a) - 1] for a in actions]
    return [_row(event_id, event_id, at, context, ordered, probabilities, index, event.get("_label_cost"), keep)]


def _slot_row(
    event: Mapping[str, Any],
    i: int,
    event_id: str,
    at: datetime,
    context: dict[str, FeatureValue],
    offers: list[tuple[str, dict[str, FeatureValue]]],
    keep: float,
) -> _Row:
    """Decision of one slot of a multi-slot line, whose actions are numbered from 0."""
    outcome = event["_outcomes"][i]
    slots = event["c"].get("_slots") or []
    actions = outcome.get("_a") if isinstance(outcome, dict) else None
    numbers = set(range(len(offers)))
    if not isinstance(actions, list) or not actions or len(set(map(str, actions))) < len(actions):
        raise _UnusableError("a slot without its actions")
    if any(not isinstance(a, int) or a not in numbers for a in actions):
        raise _UnusableError("a slot names an action that is not there")
    slot = slots[i] if i < len(slots) and isinstance(slots[i], dict) else {}
    slot_id = str(outcome.get("_id") or slot.get("_id") or i)
    known = {f"slot.{name}": value for name, value in _features([slot]).items()}
    return _row(
        f"{event_id}#{slot_id}",
        event_id,
        at,
        {**context, "slot": slot_id, **known},
        [offers[a] for a in actions],
        _distribution(outcome.get("_p"), len(actions)),
        0,
        outcome.get("_label_cost"),
        keep,
    )


def _row(
    decision: str,
    event: str,
    at: datetime,
    context: dict[str, FeatureValue],
    offers: list[tuple[str, dict[str, FeatureValue]]],
    probabilities: list[float],
    chosen: int,
    cost: object,
    keep: float,
) -> _Row:
    reward = -_number(cost, "_label_cost is no number")
    if abs(reward) > _MAX_REWARD:
        raise _UnusableError(f"_label_cost is larger than {_MAX_REWARD:g}")
    if not probabilities[chosen] > 0:
        raise _UnusableError("the action shown has probability 0")
    return _Row(decision, event, at, context, offers, probabilities, chosen, reward, keep)


def _number(value: object, reason: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _UnusableError(reason)
    return float(value)


def _distribution(values: object, n: int) -> list[float]:
    if not isinstance(values, list) or len(values) != n:
        raise _UnusableError("not one probability for each action")
    numbers = [_number(v, "a probability is no number") for v in values]
    total = sum(numbers)
    if min(numbers) < 0 or abs(total - 1.0) > _SUM_TOLERANCE:
        raise _UnusableError("probabilities do not sum to 1")
    return [v / total for v in numbers]


def _moment(text: object) -> datetime:
    try:
        # Up to seven digits of a second are written; Python reads six.
        head, dot, tail = str(text).rstrip("Z").partition(".")
        moment = datetime.fromisoformat(head + (f".{tail[:6]}" if dot else ""))
    except ValueError:
        raise _UnusableError("no timestamp") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _context(shared: Mapping[str, Any]) -> dict[str, FeatureValue]:
    """Shared features, named as the rank door names them: the wrapper ``FromUrl`` is none."""
    objects: list[Mapping[str, Any]] = []
    for name, value in shared.items():
        if name == "FromUrl":
            objects += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, dict)]
        elif not name.startswith("_"):
            objects.append({name: value})
    return _features(objects)


def _offer(entry: object) -> tuple[str, dict[str, FeatureValue]]:
    if not isinstance(entry, dict):
        raise _UnusableError("an action is no object")
    own = entry.get("i") if isinstance(entry.get("i"), dict) else {}
    id_ = entry.get("_tag") or own.get("id") or entry.get("id")  # type: ignore[union-attr]  # a dict by the line above
    if not isinstance(id_, str) or not 0 < len(id_) <= 256:
        raise _UnusableError("an action without an id")
    objects: list[Mapping[str, Any]] = []
    for name, value in entry.items():
        if name == "j":
            objects += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, dict)]
        elif name not in ("i", "id"):
            objects.append({name: value})
    return id_, _features(objects)


def _features(objects: Sequence[Mapping[str, Any]]) -> dict[str, FeatureValue]:
    try:
        features = flatten(objects, where="a line")
        check_features(features, where="a line")
    except InvalidInputError:
        raise _UnusableError("features that are not numbers, texts or booleans") from None
    return features


def _with_one_type(rows: list[_Row]) -> list[_Row]:
    """Context features that are text in some rows and numbers in others become text in all: one column has one type."""
    kinds: dict[str, set[bool]] = {}
    for row in rows:
        for name, value in row.context.items():
            kinds.setdefault(name, set()).add(isinstance(value, str))
    mixed = {name for name, found in kinds.items() if len(found) > 1}
    return [
        replace(row, context={n: str(v) if n in mixed else v for n, v in row.context.items()}) if mixed else row
        for row in rows
    ]


def _imported(found: _Collected, rng: np.random.Generator) -> Import:
    catalogue: dict[str, Features] = {}
    n_changed = 0
    for row in found.rows:
        changed = False
        for id_, features in row.offers:
            changed |= dict(catalogue.setdefault(id_, features)) != features
        n_changed += changed
    rows, names = [], []
    for row in _with_one_type(found.rows):
        weight = 1.0 / row.keep
        n = math.floor(weight) + int(rng.random() < weight - math.floor(weight) and weight > 1.0)
        for copy in range(n):
            rows.append(row)
            names.append(row.decision if copy == 0 else f"{row.decision}~{copy}")
    batch = _batch(rows, names, OfferSet([Offer(OfferId(id_), features) for id_, features in catalogue.items()]))
    dropped = {reason: Dropped(n, found.first[reason]) for reason, n in found.dropped.most_common()}
    return Import(batch, found.n_lines, dropped, len(rows) - len(found.rows), n_changed)


def _batch(rows: list[_Row], names: list[str], offers: OfferSet) -> InteractionBatch:
    n, k = len(rows), len(offers)
    probabilities, eligible = np.zeros((n, k)), np.zeros((n, k), dtype=np.bool_)
    chosen = np.empty(n, dtype=np.int64)
    for i, row in enumerate(rows):
        where = [offers.index_of(OfferId(id_)) for id_, _ in row.offers]
        eligible[i, where] = True
        probabilities[i, where] = row.probabilities
        chosen[i] = where[row.chosen]
    contexts = [Context(SubjectId(r.event), r.context, at=r.at) for r in rows]
    return InteractionBatch(
        table=DecisionTable.from_contexts(offers, contexts, eligible=eligible),
        chosen=chosen,
        propensity=probabilities[np.arange(n), chosen],
        reward=np.asarray([r.reward for r in rows]),
        probabilities=probabilities,
        decision_ids=np.asarray(names, dtype=np.str_),
        policies=np.full(n, "azure-personalizer@export"),
    )
