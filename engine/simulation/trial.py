"""An experiment in a simulated world, in the real service: set up, lived through, and read from the service's own store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from engine.decisions.opening import open_service
from engine.decisions.requests import EventRequest
from engine.experiments.reading import take_reading
from engine.experiments.records import Counting, Experiment, Plan
from engine.experiments.results import ExperimentOutcomes, experiment_results
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.simulation import traffic
from engine.simulation.people import TRAITS, People
from engine.simulation.traffic import Door, moment
from engine.store.changes import Change
from offline_eval.abtest import ExperimentReading
from policies.allocation import Variant, equal_weights
from policies.artifact import Artifact
from policies.errors import StateError
from policies.protocols import SaveablePolicy
from policies.records import Features
from simulator.habit import AnyWorld, HabitSite
from simulator.rollouts import WINDOW_DAYS
from simulator.scenarios.car_subscription import PLACEMENT
from simulator.site import START, LiveSite


def prepare(
    home: Path,
    *,
    scenario: AnyWorld,
    people: People,
    encoder: Artifact | None,
    experiment: str,
    policies: Mapping[str, SaveablePolicy],
    explore_share: float,
    seed: int,
    counting: Counting,
    plan: Plan | None,
) -> None:
    """Set up placement, policies and a running experiment with an equal split in a service's data folder.

    Parameters
    ----------
    encoder
        Sequence encoder whose state policies see; None where the population has no such vector.
    experiment
        Its id.
    policies
        Policy of each variant by its key; the first is the control, which the placement runs too.
    counting, plan
        What the experiment counts and what judges it, fixed before the first visitor.
    """
    home.mkdir(parents=True, exist_ok=True)
    secret = home / "secret"
    if not secret.exists():
        # A sandbox: draws follow from the seed, so that a run can be repeated.
        secret.write_bytes(hashlib.sha256(f"demo {seed}".encode()).digest())
    start = moment(START)
    with open_service(home, clock=lambda: start) as service:
        encoder_ref = None
        if encoder is not None:
            encoder_ref = str(service.policies.register(encoder, name="sequence_encoder", at=start, actor="demo"))
        refs = {
            key: str(service.policies.register(policy.to_artifact(), name=key, at=start, actor="demo"))
            for key, policy in policies.items()
        }
        service.put_placement(
            Placement(
                PLACEMENT,
                offers=tuple(CatalogueOffer(o) for o in scenario.offers),
                rules=scenario.rules,
                policy=next(iter(refs.values())),
                baseline=scenario.offers.ids,
                explore_share=explore_share,
                encoder=encoder_ref,
                reward=RewardDefinition((RewardTerm("active_30d"),), window_s=WINDOW_DAYS * DAY_S),
            ),
            actor="demo",
        )
        variants = tuple(
            Variant(key, weight, ref) for (key, ref), weight in zip(refs.items(), equal_weights(len(refs)), strict=True)
        )
        draft = service.experiments.create(
            Experiment(
                experiment,
                PLACEMENT,
                variants,
                hypothesis="The challenger keeps more visitors than the incumbent.",
                counting=counting,
                plan=plan,
            ),
            change=Change(start, "demo"),
        )
        service.experiments.start(experiment, revision=draft.revision, change=Change(start, "demo"))


def load_traits(home: Path, site: LiveSite | HabitSite, people: People) -> None:
    """Hand the batch-scored traits of a cohort to the service, as a nightly job would."""
    start = moment(START)
    rows: dict[str, Features] = {
        str(name): people.traits(int(person)) for name, person in zip(site.names, site.person, strict=True)
    }
    with open_service(home, clock=lambda: start) as service:
        service.subjects.load_traits(rows, at=start)


def live_through(
    site: LiveSite | HabitSite, door: Door, *, people: People, on_day: Callable[[int, int], None] | None = None
) -> int:
    """Let a cohort of real households live until its last window is over; returns the number of decisions.

    The cohort's own past comes first: each visitor's last real events, at their real times. The traits have been loaded.
    """
    return traffic.live_through(site, door, histories=_histories(site, people), hidden=TRAITS, on_day=on_day)


def _histories(site: LiveSite | HabitSite, people: People) -> Iterator[EventRequest]:
    for name, person in zip(site.names, site.person, strict=True):
        for event in people.histories[int(person)]:
            yield EventRequest(str(name), event.kind, event.item, event.value, id=f"{name}:{event.id}", at=event.at)


def judge_trial(home: Path, experiment: str) -> tuple[ExperimentReading, ExperimentOutcomes]:
    """Take the service's own reading after the last window, and the rows behind it.

    Raises
    ------
    StateError
        If nobody was exposed.
    """
    end = datetime(2027, 1, 1, tzinfo=UTC)
    with open_service(home) as service:
        found = service.experiments.get(experiment)
        reading = take_reading(service.database, found, as_of=end, in_simulation=True)
        outcomes = experiment_results(service.database, experiment, as_of=end)
    if reading.found is None:
        raise StateError(f"nobody was exposed; look into the server's log beside {home}")
    return reading.found.now, outcomes
