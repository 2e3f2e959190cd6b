"""``nextoffer experiment``: the lifecycle of a split, from a shell."""

from __future__ import annotations

import json as json_module
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from api.cli.opening import HERE, UNSIGNED, Signed, Where

if TYPE_CHECKING:
    from engine.experiments.records import Experiment

app = App(name="experiment", help="Create, approve, schedule, start, widen, reweight, pause, stop and read experiments")


@app.command
def create(
    id: str,  # noqa: A002 - the service's word
    /,
    *,
    placement: str,
    variant: list[str],
    coverage: float = 1.0,
    hypothesis: str = "",
    where: Where = HERE,
) -> int:
    """Write down a draft.

    Parameters
    ----------
    id
        Its name.
    placement
        Where it runs.
    variant
        KEY=POLICY, several times; the first is the control, the split is equal. KEY=POLICY:BASISPOINTS gives weights.
    coverage
        Share of subjects that take part.
    hypothesis
        Why, in a sentence.
    """
    from engine.experiments.records import Experiment

    with where.opened() as service:
        draft = Experiment(id, placement, _variants(variant), coverage, hypothesis)
        _show(service.experiments.create(draft, change=UNSIGNED.change()))
    return 0


@app.command
def approve(id: str, /, *, by: str, reason: str = "", where: Where = HERE) -> int:  # noqa: A002
    """Say that a draft may start as it stands; a later change of the draft takes it back.

    Parameters
    ----------
    id
        Of the experiment.
    reason
        Why; it is kept in the log of changes.
    by
        Who answers for it.
    """
    return _change("approve", id, where, Signed(reason, by))


@app.command
def schedule(
    id: str,  # noqa: A002
    /,
    *,
    at: datetime,
    signed: Signed = UNSIGNED,
    where: Where = HERE,
) -> int:
    """Let a draft start by itself, while a server, a console or a learner runs.

    Parameters
    ----------
    id
        Of the experiment.
    at
        When, with its distance from UTC: 2026-03-02T09:00:00+03:00.
    """
    from policies.errors import InvalidInputError

    if at.tzinfo is None:
        raise InvalidInputError(
            f"the start {at.isoformat()} says no distance from UTC; write it like {at.isoformat()}+03:00, or +00:00 for UTC"
        )
    return _change("schedule", id, where, signed, starts_at=at)


@app.command
def unschedule(id: str, /, *, signed: Signed = UNSIGNED, where: Where = HERE) -> int:  # noqa: A002
    """Make a scheduled experiment a draft again.

    Parameters
    ----------
    id
        Of the experiment.
    """
    return _change("unschedule", id, where, signed)


@app.command
def start(id: str, /, *, signed: Signed = UNSIGNED, where: Where = HERE) -> int:  # noqa: A002
    """Open the first phase.

    Parameters
    ----------
    id
        Of the experiment.
    """
    return _change("start", id, where, signed)


@app.command
def ramp(
    id: str,  # noqa: A002
    coverage: float,
    /,
    *,
    signed: Signed = UNSIGNED,
    where: Where = HERE,
) -> int:
    """Let more subjects take part; nobody changes sides.

    Parameters
    ----------
    id
        Of the experiment.
    coverage
        Share of subjects.
    """
    return _change("ramp", id, where, signed, coverage=coverage)


@app.command
def reweight(
    id: str,  # noqa: A002
    /,
    *,
    weight: list[str],
    yes: bool = False,
    signed: Signed = UNSIGNED,
    where: Where = HERE,
) -> int:
    """Say what other weights cost and, with --yes, open a new phase with them; who has been seen stays where it was.

    Parameters
    ----------
    id
        Of the experiment.
    weight
        KEY=BASISPOINTS of every variant; together 10000.
    yes
        Do it.
    """
    from engine.experiments.reading import cost_of_weights, take_reading

    weights = _weights(weight)
    with where.opened() as service:
        experiment, at = service.experiments.get(id), datetime.now(UTC)
        reading = take_reading(service.database, experiment, as_of=at, in_simulation=False, n_points=0)
        known = set(weights) == {v.key for v in experiment.variants}
        days = cost_of_weights(reading, weights) if known else None
        cost = "no plan or no traffic is stated, so nobody can say what it costs" if days is None else _cost(days)
        print(f"{id}: a new phase begins; {cost}", file=sys.stderr)  # noqa: T201 - words on stderr
        if not yes:
            print("nothing was changed; repeat it with --yes", file=sys.stderr)  # noqa: T201
            return 1
        _show(
            service.experiments.reweight(id, revision=experiment.revision, weights_bp=weights, change=signed.change())
        )
    return 0


@app.command
def stop(id: str, /, *, signed: Signed = UNSIGNED, where: Where = HERE) -> int:  # noqa: A002
    """End it; the placement goes back to its own policy.

    Parameters
    ----------
    id
        Of the experiment.
    """
    return _change("stop", id, where, signed)


@app.command
def archive(id: str, /, *, signed: Signed = UNSIGNED, where: Where = HERE) -> int:  # noqa: A002
    """Put a draft or a stopped experiment out of sight; nothing of it is removed.

    Parameters
    ----------
    id
        Of the experiment.
    """
    return _change("archive", id, where, signed)


@app.command(name="pause-all")
def pause_all(*, signed: Signed = UNSIGNED, where: Where = HERE) -> int:
    """Take everybody out of all experiments: every place answers with its own policy, and no exposure is counted."""
    return _pause(True, where, signed)


@app.command(name="resume-all")
def resume_all(*, signed: Signed = UNSIGNED, where: Where = HERE) -> int:
    """Let everybody in again, each into the variant where it was."""
    return _pause(False, where, signed)


@app.command
def results(
    id: str,  # noqa: A002
    /,
    *,
    planned_subjects: int | None = None,
    effect: float | None = None,
    where: Where = HERE,
) -> int:
    """Print counts by variant and, against its plan (or one given here), the reading, as JSON.

    Parameters
    ----------
    id
        Of the experiment.
    planned_subjects
        Matured subjects at which it ends, as planned before it began.
    effect
        Smallest absolute change of kept per visitor that matters.
    """
    from api.experiments.routes import reading_json
    from engine.experiments.reading import take_reading
    from engine.experiments.records import Plan
    from policies.errors import InvalidInputError

    if (planned_subjects is None) != (effect is None):
        raise InvalidInputError(
            "a plan is --planned-subjects and --effect; give both, or neither for the experiment's own"
        )
    plan = None
    if planned_subjects is not None and effect is not None:
        plan = Plan(planned_subjects, effect, primary="kept", n_looks=1)
    with where.opened() as service:
        found = take_reading(
            service.database, service.experiments.get(id), as_of=datetime.now(UTC), in_simulation=False, plan=plan
        )
    print(json_module.dumps(reading_json(found), indent=1))  # noqa: T201 - data on stdout
    return 0


@app.command
def analyse(rows: Path, /, *, plan: Path, as_of_day: float | None = None) -> int:
    """Read an experiment from a file, whoever ran it, and print the reading as JSON; no service is needed.

    Parameters
    ----------
    rows
        CSV with a header, or .parquet: variant, optionally phase, exposed_day and subject (several rows of one are summed), and a column of
        numbers for each metric.
    plan
        JSON: the fields of offline_eval.abtest.ExperimentPlan, with lists of metrics and phases.
    as_of_day
        Day of the analysis, where the rows have exposed_day: every planned look until then is taken as it was due.
    """
    from offline_eval.abtest import analyse as read
    from offline_eval.abtest.files import read_plan, read_subjects
    from offline_eval.abtest.replay import replay

    planned = read_plan(plan)
    data = read_subjects(rows, as_of_day=as_of_day)
    if data.exposed_day is None:
        print(json_module.dumps(read(data, planned).to_json(), indent=1))  # noqa: T201 - data on stdout
        return 0
    found = replay(data, planned, n_points=0)
    looks = [{"day": day, **then.to_json()} for day, then in found.looks]
    print(json_module.dumps({**found.now.to_json(), "readings_at_looks": looks}, indent=1))  # noqa: T201
    return 0


@app.command(name="list")
def list_experiments(*, json: bool = False, where: Where = HERE) -> int:
    """List all experiments.

    Parameters
    ----------
    json
        As JSON.
    """
    from api.cli.opening import show

    with where.opened() as service:
        rows = [
            {"id": e.id, "placement": e.placement, "state": e.state, "revision": e.revision}
            for e in service.experiments.list()
        ]
    show(rows, as_json=json, line="{id}  {state}  at {placement}  revision {revision}")
    return 0


def _change(
    action: str,
    experiment_id: str,
    where: Where,
    signed: Signed,
    **arguments: Any,
) -> int:
    with where.opened() as service:
        revision = service.experiments.get(experiment_id).revision
        function = getattr(service.experiments, action)
        _show(function(experiment_id, revision=revision, change=signed.change(), **arguments))
    return 0


def _pause(is_paused: bool, where: Where, signed: Signed) -> int:
    from engine.experiments.controls import set_controls

    with where.opened() as service:
        set_controls(service.database, change=signed.change(), is_paused=is_paused)
    print("all experiments are paused" if is_paused else "all experiments go on")  # noqa: T201 - data on stdout
    return 0


def _weights(texts: list[str]) -> dict[str, int]:
    from policies.errors import InvalidInputError

    found = {}
    for text in texts:
        key, mark, weight = text.rpartition("=")
        if not mark or not key or not weight.isdigit():
            raise InvalidInputError(f"weight {text!r} is not KEY=BASISPOINTS, such as new=2500")
        found[key] = int(weight)
    return found


def _cost(days: float) -> str:
    if abs(days) < 0.5:
        return "the answer comes on the same day"
    return f"this {'costs' if days > 0 else 'saves'} you about {abs(days):,.0f} days"


def _show(experiment: Experiment) -> None:
    from api.experiments.routes import experiment_json

    print(json_module.dumps(experiment_json(experiment), indent=1))  # noqa: T201 - data on stdout


def _variants(texts: list[str]) -> Any:
    from policies.allocation import Variant, equal_weights
    from policies.errors import InvalidInputError

    equal = equal_weights(max(1, len(texts)))
    out = []
    for text, share in zip(texts, equal, strict=True):
        key, mark, policy = text.partition("=")
        policy, colon, weight = policy.partition(":")
        if not mark or not key or not policy or (colon and not weight.isdigit()):
            raise InvalidInputError(
                f"variant {text!r} is not KEY=POLICY or KEY=POLICY:BASISPOINTS, such as control=baseline:5000"
            )
        out.append(Variant(key, int(weight) if colon else share, policy))
    return tuple(out)
