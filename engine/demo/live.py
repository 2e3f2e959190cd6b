"""The experiment: simulated visitors ask the real service, over HTTP and in-process, until the last window is over."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, EventRequest
from engine.demo.people import TRAITS, People
from engine.experiments.records import Counting, Experiment, Plan
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.simulation import traffic
from engine.simulation.traffic import Door, Fact, TrafficError, moment
from policies.allocation import Variant
from policies.artifact import Artifact
from policies.records import Features
from simulator.habit import HabitScenario, HabitSite
from simulator.rollouts import WINDOW_DAYS
from simulator.scenarios.car_subscription import PLACEMENT, Scenario
from simulator.site import START, LiveSite

EXPERIMENT = "challenger-against-incumbent"
# Which policy each variant runs; the first is the control.
CONTROL, TREATMENT = "incumbent", "challenger"
_HTTP_THREADS = 6


class OverHttp:
    """The same over HTTP through the product's own client, a few connections side by side."""

    def __init__(self, url: str, key: str, *, threads: int = _HTTP_THREADS) -> None:
        from nextoffer_client import Nextoffer

        # A page would give up after 80 ms; here each visitor has to be served, or the experiment has a hole.
        self._client = Nextoffer(url, key, timeout_s=10.0, report_timeout_s=10.0)
        self._pool = ThreadPoolExecutor(threads)
        self.n_requests = 0

    def events(self, requests: Sequence[EventRequest]) -> None:
        """Report behaviour; a subject's events in order."""

        def send(e: EventRequest) -> object:
            return self._client.event(e.subject, e.kind, e.item, e.value, id=e.id, headers=_time(e.at))

        self._all(send, requests)

    def decide(self, requests: Sequence[DecisionRequest]) -> list[str]:
        """Offer id of each decision."""

        def send(r: DecisionRequest) -> str | None:
            choice = self._client.decide(
                r.placement, subject=r.subject, features=r.features, id=r.id, headers=_time(r.at)
            )
            return choice.offer_id if choice.recorded else None

        return self._all(send, requests)

    def rewards(self, facts: Sequence[Fact]) -> None:
        """Report what came of decisions."""
        self._all(lambda f: self._client.reward(f.about, f.kind, f.value, id=f.id, headers=_time(f.at)), facts)

    def outcomes(self, facts: Sequence[Fact]) -> None:
        """Report what became of subjects."""
        self._all(lambda f: self._client.outcome(f.about, f.kind, f.value, id=f.id, headers=_time(f.at)), facts)

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.shutdown()
        self._client.close()

    def _all(self, send: Callable[[Any], Any], requests: Sequence[Any]) -> list[Any]:
        answers = list(self._pool.map(send, requests))
        self.n_requests += len(requests)
        failed = sum(a is None for a in answers)
        if failed:
            raise TrafficError(f"the service did not take {failed} of {len(answers)} requests; look into its log")
        return answers


def _time(at: datetime | None) -> dict[str, str]:
    return {} if at is None else {"Nextoffer-Time": at.isoformat()}


def prepare(
    home: Path,
    *,
    scenario: Scenario | HabitScenario,
    people: People,
    encoder: Artifact | None,
    policies: dict[str, Artifact],
    explore_share: float,
    seed: int,
    counting: Counting,
    plan: Plan | None,
) -> None:
    """Set up placement, policies and a running 50/50 experiment in a service's data folder.

    Parameters
    ----------
    encoder
        Sequence encoder whose state policies see; None where the population has no such vector.
    policies
        Artefacts of the control (``incumbent``) and the treatment (``challenger``).
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
        refs = {name: service.policies.register(a, name=name, at=start, actor="demo") for name, a in policies.items()}
        service.put_placement(
            Placement(
                PLACEMENT,
                offers=tuple(CatalogueOffer(o) for o in scenario.offers),
                rules=scenario.rules,
                policy=str(refs[CONTROL]),
                baseline=scenario.offers.ids,
                explore_share=explore_share,
                encoder=encoder_ref,
                reward=RewardDefinition((RewardTerm("active_30d"),), window_s=WINDOW_DAYS * DAY_S),
            ),
            actor="demo",
        )
        variants = tuple(Variant(name, 5_000, str(refs[name])) for name in (CONTROL, TREATMENT))
        draft = service.experiments.create(
            Experiment(
                EXPERIMENT,
                PLACEMENT,
                variants,
                hypothesis="The challenger keeps more visitors than the incumbent.",
                counting=counting,
                plan=plan,
            ),
            at=start,
            actor="demo",
        )
        service.experiments.start(EXPERIMENT, revision=draft.revision, at=start, actor="demo")


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


@contextmanager
def running_server(home: Path, *, log: Path, settings: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """Run ``nextoffer serve`` as a process of its own on a free port; yields its address and sandbox key.

    Parameters
    ----------
    settings
        Of the server, as environment variables, beside those of this process.

    Raises
    ------
    TrafficError
        If it does not start; the text ends with its last words.
    """
    command = [
        str(Path(sys.executable).with_name("nextoffer")),
        "serve",
        "--port",
        "0",
        "--home",
        str(home),
        "--sandbox",
        "--json",
    ]
    with log.open("wb") as errors:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(settings or {})}, text=True
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            server.wait(timeout=10)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise TrafficError(f"the server did not start (exit code {server.returncode}); its last words:\n{tail}")
        ready = json.loads(line)
        yield str(ready["url"]), str(ready["key"])
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdout is not None:
            server.stdout.close()
