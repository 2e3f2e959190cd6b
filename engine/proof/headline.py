"""The two reference worlds: a real experiment in the real service, part of it over HTTP, beside what is true."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from engine.decisions.opening import open_service
from engine.demo.candidates import INCUMBENT
from engine.demo.live import CONTROL, EXPERIMENT, TREATMENT
from engine.demo.reading import counting
from engine.proof.config import ProofConfig
from engine.proof.learning import FIRST, KEPT, LASTING, SELLS, SINGLE, WORTH, AnyWorld, Learned, challenge, collect
from engine.proof.live import LiveRun, choices, live, read, sample_size, statistics_plan
from engine.proof.one_world import answer, claimed, seed_of
from engine.proof.room import room
from engine.proof.truth import OUTCOMES, Values, against, true_values
from engine.simulation.over_http import OverHttp, running_server
from engine.simulation.people import People
from engine.simulation.traffic import InProcess
from engine.simulation.trial import judge_trial, live_through, load_traits, prepare
from engine.store import tables
from policies.protocols import Policy, SaveablePolicy
from simulator.habit import HabitScenario
from simulator.scenarios.car_subscription import Scenario, reference

REFERENCE, OTHER = "reference", "other family"
_NUMBERS = {REFERENCE: 200_000, OTHER: 200_001}
_Z = 1.959964
# On a busy machine a policy may take longer than a site would wait, and the fallback would answer: a proof waits.
_PATIENCE_S = 10.0
_PATIENT = {"NEXTOFFER_POLICY_DEADLINE_MS": f"{1000 * _PATIENCE_S:.0f}"}


def reference_worlds() -> dict[str, AnyWorld]:
    """The site every claim is made on, and the plain world of the family that nothing here was calibrated with."""
    return {REFERENCE: reference(), OTHER: HabitScenario()}


def headline(name: str, config: ProofConfig, *, on_day: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Train, plan, run the experiment in the service, and put the truth beside what it claims."""
    world = reference_worlds()[name]
    seed = seed_of(config, _NUMBERS[name])
    log = collect(world, config, seed=seed, n_subjects=config.n_headline_log_subjects)
    learned = challenge(log, config, seed=seed)
    size = sample_size(log.kept_per_visitor, config)
    served: dict[str, SaveablePolicy] = {CONTROL: log.incumbent, TREATMENT: learned.candidates[learned.challenger]}
    policies: dict[str, Policy] = {**served}
    run = live(world, policies, n_subjects=size.comes, config=config, seed=seed + 3)
    light = read(run, statistics_plan(size, config)).now
    with tempfile.TemporaryDirectory(prefix="nextoffer-proof-") as folder:
        home = Path(folder) / "service"
        people = People.without_history(world.population)
        prepare(
            home, scenario=world, people=people, encoder=None, experiment=EXPERIMENT, policies=served, seed=seed + 3,
            explore_share=config.serve_explore_share, counting=counting(), plan=choices(size, config),
        )  # fmt: skip
        n_requests, n_decisions = _through_the_service(home, world, people, size.comes, config, seed + 3, on_day)
        reading, _ = judge_trial(home, EXPERIMENT)
        equal = compared(home, run, n_over_http=min(config.n_http_subjects, size.comes))
    everyone: dict[str, Policy] = {INCUMBENT: log.incumbent, **learned.candidates}
    truth = true_values(world, everyone, config=config, seed=seed + 2)
    served_equal = light.of("kept", TREATMENT).effect == reading.of("kept", TREATMENT).effect
    return {
        "world": name,
        "incumbent": {stage: order[0] for stage, order in log.incumbent.orders.items()},
        "challenger": learned.challenger,
        "word_of_the_log": learned.word,
        "loses_margin": list(learned.loses_margin),
        "plan": {"kept_per_visitor": size.kept_per_visitor, "effect": size.effect, "planned": size.planned},
        "answer": answer(learned, reading),
        "sentence": reading.sentence(),
        "live": claimed(reading, read(run, statistics_plan(size, config))),
        "retention": {v: r.to_json() for v, r in reading.retention.items()},
        "truth": {n: against(truth, n, INCUMBENT) for n in learned.candidates},
        "decomposition": decomposition(truth, learned),
        "service": {
            "decisions": n_decisions, "requests_over_http": n_requests, "same_effect_as_the_light_pipeline": served_equal,
            **equal,
        },
        "room": room(world, log.incumbent, config, seed=seed + 2) if isinstance(world, Scenario) else None,
    }  # fmt: skip


def decomposition(truth: dict[str, Values], learned: Learned) -> dict[str, list[dict[str, Any]]]:
    """True lift of the challenger in three steps, each relative to the incumbent, with paired 95 % intervals.

    A better single offer, found on all the data; then offers by visitor, for what sells in the visit; then for what lasts.
    """
    steps = [("best single offer", INCUMBENT, SINGLE), ("personalisation", SINGLE, SELLS)]
    steps += [("long-term", SELLS, learned.challenger)] if learned.challenger in (KEPT, LASTING, WORTH) else []
    if learned.challenger == SINGLE:
        steps = steps[:1]
    told: dict[str, list[dict[str, Any]]] = {}
    for outcome in OUTCOMES:
        base = abs(truth[INCUMBENT].mean(outcome))
        rows = []
        for title, before, after in (*steps, ("all", INCUMBENT, learned.challenger)):
            off, error = truth[after].difference(truth[before], outcome)
            rows.append(
                {"part": title, "lift": off / base, "low": (off - _Z * error) / base, "high": (off + _Z * error) / base}
            )
        told[outcome] = rows
    return told


def _through_the_service(
    home: Path,
    world: AnyWorld,
    people: People,
    n_subjects: int,
    config: ProofConfig,
    seed: int,
    on_day: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    """A slice over HTTP, the rest in-process; requests over HTTP and decisions in all."""
    n_http = min(config.n_http_subjects, n_subjects)
    n_requests = n_decisions = 0
    for first, n in ((0, n_http), (n_http, n_subjects - n_http)):
        if not n:
            continue
        site = world.open(n_subjects=n, visit_days=config.visit_days, seed=seed, first_subject=FIRST["live"] + first)
        load_traits(home, site, people)
        if first == 0 and n_http:
            with running_server(home, log=home.parent / "server.log", settings=_PATIENT) as (url, key):
                door = OverHttp(url, key)
                n_decisions += live_through(site, door, people=people)
                door.close()
                n_requests = door.n_requests
        else:
            with open_service(home, policy_deadline_s=_PATIENCE_S) as service:
                n_decisions += live_through(site, InProcess(service), people=people, on_day=on_day)
    return n_requests, n_decisions


def compared(home: Path, run: LiveRun, *, n_over_http: int) -> dict[str, int]:
    """How many decisions of the service differ from those of the light pipeline: in offer, propensity or variant, to the bit."""
    rollout = run.run
    assert rollout.table.subjects is not None
    ids = rollout.table.offers.ids
    propensity = rollout.probabilities[np.arange(len(rollout.chosen)), rollout.chosen]
    number = np.zeros(len(run.variant), dtype=np.int64)
    light: dict[str, tuple[str, float, str]] = {}
    of_http: set[str] = set()
    for i, (subject, row) in enumerate(zip(rollout.table.subjects.tolist(), rollout.row.tolist(), strict=True)):
        name = f"{subject}-{number[row]}"
        number[row] += 1
        variant = (CONTROL, TREATMENT)[int(run.variant[row])]
        light[name] = (str(ids[int(rollout.chosen[i])]), float(propensity[i]), variant)
        if row < n_over_http:
            of_http.add(name)
    d = tables.decisions
    with open_service(home) as service, service.database.reading() as connection:
        rows = connection.execute(select(d.c.id, d.c.offer, d.c.propensity, d.c.variant)).all()
    served = {str(r[0]): (str(r[1]), float(r[2]), str(r[3])) for r in rows}
    different = {n for n in served.keys() | light.keys() if served.get(n) != light.get(n)}
    return {
        "decisions_compared": len(light),
        "decisions_that_differ": len(different),
        "http_decisions_compared": len(of_http),
        "http_decisions_that_differ": len(different & of_http),
    }
