"""HTTP of experiments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from api.call import Call
from api.experiments.schemas import (
    AuditReply,
    ChangeBody,
    ChecklistReply,
    ControlsBody,
    ControlsReply,
    CoverageBody,
    DraftBody,
    EditBody,
    ExperimentBody,
    ExperimentListReply,
    ExperimentReply,
    FixPlanBody,
    ForceBody,
    NoteBody,
    PlanBody,
    ResultsReply,
    ReweightBody,
    ScheduleBody,
)
from api.operation import Operation
from engine.experiments.audit import read_audit
from engine.experiments.checklist import checklist
from engine.experiments.controls import Controls, controls_of, set_controls
from engine.experiments.records import Counting, Experiment, Plan, Ramp, document_of, variants_json
from policies.allocation import Variant
from policies.eligibility import condition_from_json
from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from engine.experiments.reading import Reading


async def create_experiment(call: Call, body: ExperimentBody) -> dict[str, Any]:
    """Write down a draft; nobody is exposed until it is started."""
    _allow(call, body.placement)
    draft = Experiment(id=body.id, **_fields(body))
    made = await call.in_thread(call.service.experiments.create, draft, change=call.change())
    return experiment_json(made)


async def edit_experiment(call: Call, body: EditBody) -> dict[str, Any]:
    """Replace what a draft says."""
    _allow(call, body.placement)
    return await _change(
        call, call.service.experiments.edit, changes=_fields(body), revision=body.revision, reason=body.reason
    )


async def fix_plan(call: Call, body: FixPlanBody) -> dict[str, Any]:
    """Fix what it is judged by; once, and best before the start."""
    plan = _plan(body.plan)
    return await _change(call, call.service.experiments.fix_plan, plan=plan, revision=body.revision, reason=body.reason)


async def approve_experiment(call: Call, body: ChangeBody) -> dict[str, Any]:
    """Say that a draft may start as it stands."""
    return await _change(call, call.service.experiments.approve, revision=body.revision, reason=body.reason)


async def schedule_experiment(call: Call, body: ScheduleBody) -> dict[str, Any]:
    """Let it start by itself."""
    return await _change(
        call,
        call.service.experiments.schedule,
        revision=body.revision,
        starts_at=body.starts_at,
        reason=body.reason,
    )


async def unschedule_experiment(call: Call, body: ChangeBody) -> dict[str, Any]:
    """Make a scheduled experiment a draft again."""
    return await _change(call, call.service.experiments.unschedule, revision=body.revision, reason=body.reason)


async def start_experiment(call: Call, body: ChangeBody) -> dict[str, Any]:
    """Open the first phase."""
    return await _change(call, call.service.experiments.start, revision=body.revision, reason=body.reason)


async def ramp_experiment(call: Call, body: CoverageBody) -> dict[str, Any]:
    """Let more subjects take part."""
    return await _change(
        call, call.service.experiments.ramp, revision=body.revision, coverage=body.coverage, reason=body.reason
    )


async def reweight_experiment(call: Call, body: ReweightBody) -> dict[str, Any]:
    """Open a new phase with other weights."""
    return await _change(
        call,
        call.service.experiments.reweight,
        revision=body.revision,
        weights_bp=dict(body.weights_bp),
        reason=body.reason,
    )


async def force_experiment(call: Call, body: ForceBody) -> dict[str, Any]:
    """Say who looks at which variant without being counted."""
    return await _change(
        call, call.service.experiments.force, forced=dict(body.forced), revision=body.revision, reason=body.reason
    )


async def stop_experiment(call: Call, body: ChangeBody) -> dict[str, Any]:
    """End it; the placement goes back to its own policy."""
    return await _change(call, call.service.experiments.stop, revision=body.revision, reason=body.reason)


async def archive_experiment(call: Call, body: ChangeBody) -> dict[str, Any]:
    """Put it out of sight; nothing of it is removed."""
    return await _change(call, call.service.experiments.archive, revision=body.revision, reason=body.reason)


async def note_experiment(call: Call, body: NoteBody) -> None:
    """Put a note on the time line."""
    experiment_id = call.path("experiment")
    await _found(call)
    await call.in_thread(call.service.experiments.note, experiment_id, body.text, change=call.change())


async def get_experiment(call: Call, _: None) -> dict[str, Any]:
    """Give one experiment with its phases."""
    return experiment_json(await _found(call))


async def list_experiments(call: Call, _: None) -> dict[str, Any]:
    """Give all experiments of the placements that the key may read."""
    found = await call.in_thread(call.service.experiments.list)
    bound = call.key.placements if call.key is not None else ()
    return {"experiments": [experiment_json(e) for e in found if not bound or e.placement in bound]}


async def experiment_checklist(call: Call, _: None) -> dict[str, Any]:
    """What stands before a start."""
    found = await _found(call)
    checks = await call.in_thread(checklist, call.service.database, found, at=call.now)
    return {"checks": [asdict(c) for c in checks]}


async def experiment_results(call: Call, _: None) -> dict[str, Any]:
    """Counts per variant and phase; with the experiment's plan, or one in the query, also the verdict and its intervals."""
    from engine.experiments.reading import take_reading  # loads scipy, which a server that only decides need not

    found = await _found(call)
    reading: Reading = await call.in_thread(
        take_reading,
        call.service.database,
        found,
        as_of=call.now,
        in_simulation=call.parts.settings.is_sandbox,
        plan=_queried_plan(call),
    )
    return reading_json(reading)


async def get_controls(call: Call, _: None) -> dict[str, Any]:
    """Give the switches over all experiments."""
    _all_placements(call)
    return asdict(await call.in_thread(controls_of, call.service.database))


async def put_controls(call: Call, body: ControlsBody) -> dict[str, Any]:
    """Pause everything, set the holdout, or ask for approval."""
    _all_placements(call)
    changes = {k: v for k, v in body.model_dump(exclude={"reason"}).items() if v is not None}
    changed: Controls = await call.in_thread(
        set_controls, call.service.database, change=call.change(body.reason), **changes
    )
    await call.in_thread(call.service.refresh)
    return asdict(changed)


async def get_audit(call: Call, _: None) -> dict[str, Any]:
    """Give who changed what, when and why, the newest first."""
    _all_placements(call)
    rows = await call.in_thread(read_audit, call.service.database)
    return {"rows": [{**asdict(r), "at": r.at.isoformat()} for r in rows]}


def _actions() -> Iterable[Operation]:
    for name, summary, handler, body in (
        ("plan", "Fix its plan", fix_plan, FixPlanBody),
        ("approve", "Approve the draft", approve_experiment, ChangeBody),
        ("schedule", "Let it start by itself", schedule_experiment, ScheduleBody),
        ("unschedule", "Make it a draft again", unschedule_experiment, ChangeBody),
        ("start", "Start it", start_experiment, ChangeBody),
        ("ramp", "Let more subjects take part", ramp_experiment, CoverageBody),
        ("reweight", "Give new weights: a new phase", reweight_experiment, ReweightBody),
        ("force", "Who looks without being counted", force_experiment, ForceBody),
        ("stop", "Stop it", stop_experiment, ChangeBody),
        ("archive", "Put it out of sight", archive_experiment, ChangeBody),
    ):
        yield Operation(
            "POST",
            f"/v1/experiments/{{experiment}}/{name}",
            summary,
            "admin",
            handler,
            body=body,
            reply=ExperimentReply,
            tag="experiments",
        )


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
        "PUT",
        "/v1/experiments/{experiment}",
        "Replace what a draft says",
        "admin",
        edit_experiment,
        body=EditBody,
        reply=ExperimentReply,
        tag="experiments",
    ),
    Operation(
        "GET",
        "/v1/experiments/{experiment}/checklist",
        "What stands before a start",
        "read",
        experiment_checklist,
        reply=ChecklistReply,
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
    *_actions(),
    Operation(
        "POST",
        "/v1/experiments/{experiment}/notes",
        "Put a note on the time line",
        "admin",
        note_experiment,
        body=NoteBody,
        status=204,
        tag="experiments",
    ),
    Operation(
        "GET",
        "/v1/controls",
        "Switches over all experiments",
        "read",
        get_controls,
        reply=ControlsReply,
        tag="experiments",
    ),
    Operation(
        "PUT",
        "/v1/controls",
        "Pause everything, set the holdout, ask for approval",
        "admin",
        put_controls,
        body=ControlsBody,
        reply=ControlsReply,
        tag="experiments",
    ),
    Operation("GET", "/v1/audit", "Who changed what", "admin", get_audit, reply=AuditReply, tag="experiments"),
)


async def _found(call: Call) -> Experiment:
    found: Experiment = await call.in_thread(call.service.experiments.get, call.path("experiment"))
    _allow(call, found.placement)
    return found


async def _change(call: Call, function: Any, *, reason: str, **arguments: Any) -> dict[str, Any]:
    experiment_id = call.path("experiment")
    if call.key is not None and call.key.placements:
        await _found(call)
    changed = await call.in_thread(function, experiment_id, change=call.change(reason), **arguments)
    await call.in_thread(call.service.refresh)
    return experiment_json(changed)


def _allow(call: Call, placement: str) -> None:
    if call.key is not None:
        call.key.allow("read" if call.request.method == "GET" else "admin", placement=placement)


def _all_placements(call: Call) -> None:
    """Refuse a key that is bound to placements what concerns all of them."""
    if call.key is not None and call.key.placements:
        call.key.allow("read", placement="*")


def _fields(body: DraftBody) -> dict[str, Any]:
    return {
        "placement": body.placement,
        "variants": tuple(Variant(v.key, v.weight_bp, v.policy, v.value) for v in body.variants),
        "coverage": body.coverage,
        "hypothesis": body.hypothesis,
        "plan": None if body.plan is None else _plan(body.plan),
        "counting": Counting(**body.counting.model_dump()),
        "targeting": tuple(condition_from_json(c.model_dump(mode="json")) for c in body.targeting),
        "layer": body.layer,
        "slots": tuple(body.slots),
        "forced": dict(body.forced),
        "ramp": None if body.ramp is None else Ramp(tuple(body.ramp.steps), body.ramp.hold_s),
        "starts_at": body.starts_at,
        "ends_at": body.ends_at,
        "data_scope": body.data_scope,
        "segments": tuple(body.segments),
        "is_client_visible": body.is_client_visible,
    }


def _plan(body: PlanBody) -> Plan:
    return Plan(**body.model_dump())


def _queried_plan(call: Call) -> Plan | None:
    query = call.request.query_params
    planned, effect = query.get("planned_subjects"), query.get("effect")
    if planned is None and effect is None:
        return None
    try:
        n, size = int(planned or ""), float(effect or "")
    except ValueError:
        n, size = 0, 0.0
    if not 4 <= n <= 10**9 or not 0 < size < 1:
        raise InvalidInputError(
            f"the plan is planned_subjects={planned!r:.20}, effect={effect!r:.20}; expected both, such as 20000 and 0.01: "
            "how many matured subjects end the experiment, and which change of kept per visitor matters"
        )
    return Plan(n, size, primary="kept", n_looks=1)


def reading_json(reading: Reading) -> dict[str, Any]:
    """Form in which a reading is answered."""
    told = None
    if reading.is_planned and reading.found is not None:
        told = {"sentence": reading.found.now.sentence(), **reading.found.now.to_json()}
    return {
        "experiment": reading.experiment.id,
        "as_of": reading.as_of.isoformat(),
        "rows": reading.counts(),
        "reading": told,
        "stays": {variant: curve.to_json() for variant, curve in reading.survival().items()},
    }


def experiment_json(experiment: Experiment) -> dict[str, Any]:
    """Form in which an experiment is answered."""
    return {
        "id": experiment.id,
        "placement": experiment.placement,
        "state": experiment.state,
        "revision": experiment.revision,
        **document_of(experiment),
        "phases": [
            {
                "number": p.number,
                "variants": variants_json(p.variants),
                "coverage": p.coverage,
                "started_at": p.started_at.isoformat(),
                "ended_at": None if p.ended_at is None else p.ended_at.isoformat(),
            }
            for p in experiment.phases
        ],
        "started_at": None if experiment.started_at is None else experiment.started_at.isoformat(),
        "stopped_at": None if experiment.stopped_at is None else experiment.stopped_at.isoformat(),
    }
