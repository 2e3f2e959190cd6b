"""HTTP of experiments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.experiments.schemas import (
    ChangeBody,
    ExperimentBody,
    ExperimentListReply,
    ExperimentReply,
    RampBody,
    ResultsReply,
    ReweightBody,
)
from api.experiments.service import ReadingPlan, read_experiment
from api.operation import Call, Operation
from engine.experiments.lifecycle import Experiment
from policies.allocation import Variant
from policies.errors import InvalidInputError


async def create_experiment(call: Call, body: ExperimentBody) -> dict[str, Any]:
    """Write down a draft; nobody is exposed until it is started."""
    _allow(call, body.placement)
    draft = Experiment(
        id=body.id,
        placement=body.placement,
        variants=tuple(Variant(v.key, v.weight_bp, v.policy) for v in body.variants),
        coverage=body.coverage,
        hypothesis=body.hypothesis,
    )
    made = await call.in_thread(call.service.experiments.create, draft, at=call.now, actor=call.actor)
    return experiment_json(made)


async def start_experiment(call: Call, body: ChangeBody) -> dict[str, Any]:
    """Open the first phase."""
    return await _change(call, call.service.experiments.start, revision=body.revision)


async def ramp_experiment(call: Call, body: RampBody) -> dict[str, Any]:
    """Let more subjects take part."""
    return await _change(call, call.service.experiments.ramp, revision=body.revision, coverage=body.coverage)


async def reweight_experiment(call: Call, body: ReweightBody) -> dict[str, Any]:
    """Open a new phase with other weights."""
    return await _change(
        call, call.service.experiments.reweight, revision=body.revision, weights_bp=dict(body.weights_bp)
    )


async def stop_experiment(call: Call, body: ChangeBody) -> dict[str, Any]:
    """End it; the placement goes back to its own policy."""
    return await _change(call, call.service.experiments.stop, revision=body.revision)


async def get_experiment(call: Call, _: None) -> dict[str, Any]:
    """Give one experiment with its phases."""
    found: Experiment = await call.in_thread(call.service.experiments.get, call.path("experiment"))
    _allow(call, found.placement)
    return experiment_json(found)


async def list_experiments(call: Call, _: None) -> dict[str, Any]:
    """Give all experiments of the placements that the key may read."""
    found = await call.in_thread(call.service.experiments.list)
    bound = call.key.placements if call.key is not None else ()
    return {"experiments": [experiment_json(e) for e in found if not bound or e.placement in bound]}


async def experiment_results(call: Call, _: None) -> dict[str, Any]:
    """Counts per variant and phase; with the plan in the query, also the verdict and intervals that survive peeking."""
    experiment_id = call.path("experiment")
    found: Experiment = await call.in_thread(call.service.experiments.get, experiment_id)
    _allow(call, found.placement)
    answer: dict[str, Any] = await call.in_thread(
        read_experiment,
        call.service,
        experiment_id,
        as_of=call.now,
        plan=_plan(call),
        in_simulation=call.parts.settings.is_sandbox,
    )
    return answer


def _plan(call: Call) -> ReadingPlan | None:
    query = call.request.query_params
    planned, effect = query.get("planned_subjects"), query.get("effect")
    if planned is None and effect is None:
        return None
    try:
        plan = ReadingPlan(int(planned or ""), float(effect or ""))
    except ValueError:
        plan = ReadingPlan(0, 0.0)
    if not 0 < plan.planned_subjects <= 10**9 or not 0 < plan.effect < 1:
        raise InvalidInputError(
            f"the plan is planned_subjects={planned!r:.20}, effect={effect!r:.20}; expected both, such as 20000 and 0.01: "
            "how many matured subjects end the experiment, and which change of kept per visitor matters"
        )
    return plan


OPERATIONS = (
    Operation(
        "GET",
        "/v1/experiments",
        "All experiments",
        "read",
        list_experiments,
        reply=ExperimentListReply,
        tag="experiments",
    ),
    Operation(
        "POST",
        "/v1/experiments",
        "Write down a draft",
        "admin",
        create_experiment,
        body=ExperimentBody,
        reply=ExperimentReply,
        status=201,
        tag="experiments",
    ),
    Operation(
        "GET",
        "/v1/experiments/{experiment}",
        "One experiment",
        "read",
        get_experiment,
        reply=ExperimentReply,
        tag="experiments",
    ),
    Operation(
        "GET",
        "/v1/experiments/{experiment}/results",
        "What it has shown so far",
        "read",
        experiment_results,
        reply=ResultsReply,
        query={
            "planned_subjects": {"type": "integer", "minimum": 1, "maximum": 10**9},
            "effect": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        },
        tag="experiments",
    ),
    *(
        Operation(
            "POST",
            f"/v1/experiments/{{experiment}}/{name}",
            summary,
            "admin",
            handler,
            body=body,
            reply=ExperimentReply,
            tag="experiments",
        )
        for name, summary, handler, body in (
            ("start", "Start it", start_experiment, ChangeBody),
            ("ramp", "Let more subjects take part", ramp_experiment, RampBody),
            ("reweight", "Give new weights: a new phase", reweight_experiment, ReweightBody),
            ("stop", "Stop it", stop_experiment, ChangeBody),
        )
    ),
)


async def _change(call: Call, function: Any, **arguments: Any) -> dict[str, Any]:
    experiment_id = call.path("experiment")
    if call.key is not None and call.key.placements:
        found: Experiment = await call.in_thread(call.service.experiments.get, experiment_id)
        _allow(call, found.placement)
    changed = await call.in_thread(function, experiment_id, at=call.now, actor=call.actor, **arguments)
    await call.in_thread(call.service.refresh)
    return experiment_json(changed)


def _allow(call: Call, placement: str) -> None:
    if call.key is not None:
        call.key.allow("read" if call.request.method == "GET" else "admin", placement=placement)


def experiment_json(experiment: Experiment) -> dict[str, Any]:
    """Form in which an experiment is answered."""
    return {
        "id": experiment.id,
        "placement": experiment.placement,
        "state": experiment.state,
        "revision": experiment.revision,
        "variants": _variants(experiment.variants),
        "coverage": experiment.coverage,
        "hypothesis": experiment.hypothesis,
        "phases": [
            {
                "number": p.number,
                "variants": _variants(p.variants),
                "coverage": p.coverage,
                "started_at": p.started_at.isoformat(),
                "ended_at": None if p.ended_at is None else p.ended_at.isoformat(),
            }
            for p in experiment.phases
        ],
        "started_at": None if experiment.started_at is None else experiment.started_at.isoformat(),
        "stopped_at": None if experiment.stopped_at is None else experiment.stopped_at.isoformat(),
    }


def _variants(variants: Iterable[Variant]) -> list[dict[str, Any]]:
    return [{"key": v.key, "weight_bp": v.weight_bp, "policy": v.policy} for v in variants]
