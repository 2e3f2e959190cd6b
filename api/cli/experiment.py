"""``nextoffer experiment``: the lifecycle of a split, from a shell."""

from __future__ import annotations

import json as json_module
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

if TYPE_CHECKING:
    from engine.experiments.records import Experiment

app = App(name="experiment", help="Create, start, widen, reweight, stop and read experiments")
_ACTOR = "command"


@app.command
def create(
    id: str,  # noqa: A002 - the service's word
    /,
    *,
    placement: str,
    variant: list[str],
    coverage: float = 1.0,
    hypothesis: str = "",
    home: Path | None = None,
    config: Path | None = None,
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
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from api.cli.opening import opened
    from engine.experiments.records import Experiment

    with opened(home, config) as service:
        draft = Experiment(id, placement, _variants(variant), coverage, hypothesis)
        _show(service.experiments.create(draft, at=datetime.now(UTC), actor=_ACTOR))
    return 0


@app.command
def start(id: str, /, *, home: Path | None = None, config: Path | None = None) -> int:  # noqa: A002
    """Open the first phase.

    Parameters
    ----------
    id
        Of the experiment.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    return _change("start", id, home, config)


@app.command
def ramp(id: str, coverage: float, /, *, home: Path | None = None, config: Path | None = None) -> int:  # noqa: A002
    """Let more subjects take part; nobody changes sides.

    Parameters
    ----------
    id
        Of the experiment.
    coverage
        Share of subjects.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    return _change("ramp", id, home, config, coverage=coverage)


@app.command
def stop(id: str, /, *, home: Path | None = None, config: Path | None = None) -> int:  # noqa: A002
    """End it; the placement goes back to its own policy.

    Parameters
    ----------
    id
        Of the experiment.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    return _change("stop", id, home, config)


@app.command
def results(
    id: str,  # noqa: A002
    /,
    *,
    planned_subjects: int | None = None,
    effect: float | None = None,
    home: Path | None = None,
    config: Path | None = None,
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
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from api.cli.opening import opened
    from api.experiments.routes import reading_json
    from engine.experiments.reading import read_experiment
    from engine.experiments.records import Plan
    from policies.errors import InvalidInputError

    if (planned_subjects is None) != (effect is None):
        raise InvalidInputError(
            "a plan is --planned-subjects and --effect; give both, or neither for the experiment's own"
        )
    plan = None
    if planned_subjects is not None and effect is not None:
        plan = Plan(planned_subjects, effect, primary="kept", n_looks=1)
    with opened(home, config) as service:
        found = read_experiment(
            service.database, service.experiments.get(id), as_of=datetime.now(UTC), in_simulation=False, plan=plan
        )
    print(json_module.dumps(reading_json(found), indent=1))  # noqa: T201 - data on stdout
    return 0


@app.command(name="list")
def list_experiments(*, json: bool = False, home: Path | None = None, config: Path | None = None) -> int:
    """List all experiments.

    Parameters
    ----------
    json
        As JSON.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from api.cli.opening import opened, show

    with opened(home, config) as service:
        rows = [
            {"id": e.id, "placement": e.placement, "state": e.state, "revision": e.revision}
            for e in service.experiments.list()
        ]
    show(rows, as_json=json, line="{id}  {state}  at {placement}  revision {revision}")
    return 0


def _change(action: str, experiment_id: str, home: Path | None, config: Path | None, **arguments: Any) -> int:
    from api.cli.opening import opened

    with opened(home, config) as service:
        revision = service.experiments.get(experiment_id).revision
        function = getattr(service.experiments, action)
        _show(function(experiment_id, revision=revision, at=datetime.now(UTC), actor=_ACTOR, **arguments))
    return 0


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
