"""The expert's rules: layers and the holdout, what metrics and rewards are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from starlette.responses import Response

from api.console.ask import Ask, go_to
from api.console.page import Page
from engine.experiments.records import Experiment
from engine.offers.placement import Placement
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.rewards.kinds import NEWEST, Kind, kinds_of
from policies.allocation import WEIGHT_TOTAL_BP
from policies.errors import InvalidInputError, UnknownNameError

_LIVE = ("running", "scheduled", "draft")
AGGREGATIONS = {"sum": "their sum", "first": "the first", "last": "the last", "max": "the largest"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with the experiments that divide it, in the order of their parts.

    Parameters
    ----------
    free
        Parts that nobody has, from and until, in slots.
    """

    name: str
    experiments: tuple[Experiment, ...]
    free: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Reward:
    """What a place counts as success."""

    placement: Placement
    revision: int


def layers(ask: Ask) -> Response:
    """Who shares visitors with whom, and whom no experiment ever sees."""
    live = [e for e in ask.service.experiments.list() if e.state in _LIVE]
    names = sorted({e.layer for e in live if e.layer})
    found = [_layer(name, [e for e in live if e.layer == name]) for name in names]
    alone = [e for e in live if not e.layer]
    return ask.page(
        "layers.html.j2", title=ask.words("Layers and holdout"), here="/layers", layers=found, alone=alone, controls=ask.service.controls(), total=WEIGHT_TOTAL_BP
    )  # fmt: skip


def metrics(ask: Ask) -> Response:
    """Events that were told of, who uses them, and what each place counts as success."""
    return _metrics_page(ask)


def save_reward(ask: Ask) -> Response:
    """Write what a place counts as success; learners use it for windows that close from now on."""
    placement, _ = ask.service.placement(ask.path("placement"))
    aggregation = ask.text("aggregation")
    if aggregation not in AGGREGATIONS:
        raise UnknownNameError("aggregation", aggregation, AGGREGATIONS)
    days = ask.number("days", what="Days")
    default = ask.number("default", what="Without any")
    definition = RewardDefinition(
        tuple(_terms(ask)),
        window_s=placement.reward.window_s if days is None else days * DAY_S,
        default=0.0 if default is None else default,
        aggregation=aggregation,  # type: ignore[arg-type]  # just found among them
    )
    ask.service.put_placement(replace(placement, reward=definition), expected_revision=ask.revision, actor=ask.actor)
    return go_to("/metrics", said="saved")


def _terms(ask: Ask) -> list[RewardTerm]:
    out = []
    for kind, weight in zip(ask.texts("kind"), ask.texts("weight"), strict=False):
        if not kind:
            continue
        try:
            out.append(RewardTerm(kind, float(weight.replace(",", ".") or "1")))
        except ValueError as error:
            raise InvalidInputError(
                ask.words("The worth of {kind} is {text}; expected a number", kind=repr(kind), text=repr(weight[:20]))
            ) from error
    return out


def _metrics_page(ask: Ask) -> Response:
    kinds = kinds_of(ask.service.database)
    rewards = [Reward(*ask.service.placement(p)) for p in ask.service.placements()]
    live = [e for e in ask.service.experiments.list() if e.state in _LIVE]
    return ask.page(
        "metrics.html.j2",
        title=ask.words("Metrics and rewards"),
        here="/metrics",
        kinds=[(k, _used_by(k, rewards, live)) for k in kinds],
        rewards=rewards,
        aggregations=AGGREGATIONS,
        newest=NEWEST,
    )


def _used_by(kind: Kind, rewards: list[Reward], live: list[Experiment]) -> list[str]:
    places = [r.placement.id for r in rewards if kind.name in r.placement.reward.kinds]
    judged = [e.id for e in live if kind.name in (e.counting.subscribed, e.counting.kept, e.counting.margin)]
    return [*places, *(judged if kind.is_outcome else ())]


def _layer(name: str, experiments: list[Experiment]) -> Layer:
    ordered = tuple(sorted(experiments, key=lambda e: (e.slots, e.id)))
    free, at = [], 0
    for first, last in sorted(e.slots for e in ordered):
        if first > at:
            free.append((at, first))
        at = max(at, last)
    if at < WEIGHT_TOTAL_BP:
        free.append((at, WEIGHT_TOTAL_BP))
    return Layer(name, ordered, tuple(free))


PAGES = (
    Page("layers", "/layers", layers, title="Layers and holdout", menu="experts"),
    Page("metrics", "/metrics", metrics, title="Metrics and rewards", menu="experts"),
    Page("save_reward", "/metrics/{placement}", save_reward, "experimenter", ("POST",)),
)
