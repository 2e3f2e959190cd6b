"""Decision-service JSON, the log format of Vowpal Wabbit's and Azure Personalizer's learners."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from policies.errors import InvalidInputError
from policies.nested_features import flatten
from policies.records import Context, DecisionTable, FeatureValue, InteractionBatch, Offer, OfferId, OfferSet, SubjectId

# Where the decision service puts its own fields.
OURS = "_nextoffer"


def read_dsjson(path: Path | str) -> InteractionBatch:
    """A log from a file of dsjson lines, or a folder of ``.dsjson`` files; lines without a decision that was shown are skipped."""
    if not Path(path).exists():
        raise InvalidInputError(f"{path} does not exist; expected a file of dsjson lines or a folder of .dsjson files")
    files = [Path(path)] if Path(path).is_file() else sorted(Path(path).rglob("*.dsjson"))
    return from_dsjson(line for file in files for line in _lines(file))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is no text in UTF-8 ({error}); expected one dsjson event per line") from error


def from_dsjson(lines: Iterable[str]) -> InteractionBatch:
    """A log from dsjson lines.

    Nested features are named as everywhere (``policies.nested_features``). The reward is minus ``_label_cost``; an offer is known by ``id`` or ``_tag`` among its features, else by its features. Lines that
    the decision service exported carry more under ``_nextoffer``: features have their own names, and subject, time, policy,
    experiment and variant are known.

    Raises
    ------
    InvalidInputError
        Naming the line and the field.
    """
    offers: dict[str, dict[str, FeatureValue]] = {}
    rows: list[tuple[Context, list[str], list[float], int, float, str]] = []
    told: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(
                f"line {number} is not JSON ({error}); expected one dsjson event per line"
            ) from error
        if not isinstance(event, dict):
            raise InvalidInputError(f"line {number} holds a {type(event).__name__}; expected one dsjson event per line")
        # An event that was never activated was seen by nobody, and holds no reward.
        if "c" not in event or "_multi" not in event.get("c", {}) or event.get("_skipLearn"):
            continue
        if event.get("pdrop"):
            raise InvalidInputError(
                f"line {number} stands for others that were thinned out (pdrop {event['pdrop']!r}), which an estimate has to weigh; "
                "make a log of it first: nextoffer data import-personalizer FOLDER --out log.parquet"
            )
        rows.append(_event(event, number, offers))
        if OURS in event:
            told.append(event[OURS])
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
        **(_told(told) if len(told) == n else {}),
    )


def _told(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    phases = ["" if r["experiment"] is None else f"{r['experiment']}:{r['phase']}" for r in rows]
    shares = [1.0 if r["variant_probability"] is None else r["variant_probability"] for r in rows]
    return {
        "policies": np.asarray([r["policy"] for r in rows], dtype=np.str_),
        "variants": np.asarray([r["variant"] or "" for r in rows], dtype=np.str_),
        "phases": np.asarray(phases, dtype=np.str_),
        "variant_probability": np.asarray(shares, dtype=np.float64),
    }


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
    is_number = all(isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1 for x in p)
    if not is_number or not p[0] > 0:
        raise InvalidInputError(
            f"line {number} has 'p' {p[:5]}{'…' if len(p) > 5 else ''}; expected a probability for each offer, the shown one's first "
            "and above 0"
        )
    cost = event.get("_label_cost")
    if not isinstance(cost, int | float):
        raise InvalidInputError(f"line {number} has _label_cost {cost!r}; expected a number (minus the reward)")
    ids = []
    is_ours = OURS in event
    for choice in choices:
        features = dict(choice["o"]) if is_ours else flatten([choice], where=f"line {number}")
        own = features.pop("id", None)
        tag = (choice["_tag"] if is_ours else own or choice.get("_tag")) or json.dumps(features, sort_keys=True)
        offers.setdefault(str(tag), features)
        ids.append(str(tag))
    shared = {name: value for name, value in event["c"].items() if name != "_multi"}
    event_id = str(event.get("EventId") or event.get("m") or number)
    ordered = [ids[a - 1] for a in actions]
    total = sum(p)
    if is_ours:
        at = _timestamp(event, number)
        context = Context(SubjectId(event[OURS]["subject"]), shared["context"], shared.get("vectors", {}), at)
    else:
        context = Context(SubjectId(event_id), flatten([shared], where=f"line {number}"), at=_timestamp(event, number))
    return context, ordered, [x / total for x in p] if abs(total - 1) < 1e-4 else p, 0, -float(cost), event_id


def _timestamp(event: Mapping[str, Any], number: int) -> datetime | None:
    """When the event was, where it says so; in UTC where it has no time zone."""
    told = event.get("Timestamp")
    if told is None:
        return None
    try:
        at = datetime.fromisoformat(told)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"line {number} has Timestamp {told!r}; expected a time in ISO 8601") from error
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _length(value: object) -> str:
    return f"length {len(value)}" if isinstance(value, list) else repr(value)
