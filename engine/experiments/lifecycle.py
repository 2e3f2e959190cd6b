"""Draft, running, stopped: every change has a revision, an author and a row in the audit table.

A phase is a stretch of time with one set of weights. Raising the coverage only adds subjects and stays in the phase;
other weights open a new phase, whose subjects are analysed as a stratum of their own. A subject stays in the phase and
variant of its first exposure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from engine.store import tables
from engine.store.database import Database, record_change
from engine.store.facts import check_text, from_us, to_us
from policies.allocation import Split, Variant
from policies.errors import ConflictError, InvalidInputError, StateError, UnknownNameError

State = Literal["draft", "running", "stopped"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time with one set of weights."""

    number: int
    variants: tuple[Variant, ...]
    coverage: float
    started_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Which policies compete at a placement, and for whom.

    Parameters
    ----------
    variants
        Each names a registered policy version, or ``baseline`` for the placement's baseline order; the first is the control.
    coverage
        Share of subjects that take part; the others get the placement's own policy.
    """

    id: str
    placement: str
    variants: tuple[Variant, ...]
    coverage: float = 1.0
    hypothesis: str = ""
    state: State = "draft"
    revision: int = 0
    phases: tuple[Phase, ...] = ()
    started_at: datetime | None = None
    stopped_at: datetime | None = None

    def __post_init__(self) -> None:
        check_text(self.id, what="id of an experiment", max_length=128)
        if len(self.variants) < 2:
            raise InvalidInputError(f"experiment {self.id!r} has {len(self.variants)} variants; expected at least two")
        Split(self.id, self.variants, self.coverage)

    def split(self, phase: Phase) -> Split:
        """How a phase divides subjects."""
        return Split(self.id, phase.variants, phase.coverage)


class Experiments:
    """The experiments of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, experiment: Experiment, *, at: datetime, actor: str = "") -> Experiment:
        """Write down a draft.

        Raises
        ------
        ConflictError
            If the id is taken.
        UnknownNameError
            If the placement or a policy version does not exist.
        """
        draft = replace(experiment, state="draft", revision=1, phases=(), started_at=None, stopped_at=None)
        with self._database.writing() as connection:
            if _row(connection, draft.id) is not None:
                raise ConflictError(f"experiment {draft.id!r} exists already; choose another id")
            _check_names(connection, draft)
            connection.execute(
                insert(tables.experiments).values(
                    id=draft.id, revision=1, state="draft", placement=draft.placement, document=_document(draft)
                )
            )
            _record(connection, draft, action="create", at=at, actor=actor)
        return draft

    def start(self, experiment_id: str, *, revision: int, at: datetime, actor: str = "") -> Experiment:
        """Open the first phase.

        Raises
        ------
        StateError
            If it is no draft, or another experiment runs at the placement.
        """
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft",))
            table = tables.experiments
            other = connection.execute(
                select(table.c.id).where(table.c.placement == found.placement, table.c.state == "running")
            ).scalar()
            if other is not None:
                raise StateError(
                    f"experiment {other!r} runs at placement {found.placement!r}; stop it before starting {experiment_id!r}"
                )
            _check_names(connection, found)
            phase = Phase(1, found.variants, found.coverage, at)
            started = replace(found, state="running", revision=revision + 1, phases=(phase,), started_at=at)
            _insert_phase(connection, experiment_id, phase)
            _update(connection, started)
            _record(connection, started, action="start", at=at, actor=actor)
        return started

    def ramp(self, experiment_id: str, *, revision: int, coverage: float, at: datetime, actor: str = "") -> Experiment:
        """Let more subjects take part; nobody changes sides."""
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("running",))
            phase = found.phases[-1]
            if coverage < phase.coverage:
                raise InvalidInputError(
                    f"coverage {coverage} is below {phase.coverage}; it only grows: stop the experiment, or give new weights"
                )
            wider = replace(phase, coverage=coverage)
            Split(found.id, wider.variants, coverage)
            changed = replace(found, revision=revision + 1, coverage=coverage, phases=(*found.phases[:-1], wider))
            table = tables.phases
            connection.execute(
                update(table)
                .where(table.c.experiment == experiment_id, table.c.number == phase.number)
                .values(coverage=coverage)
            )
            _update(connection, changed)
            _record(connection, changed, action="ramp", at=at, actor=actor)
        return changed

    def reweight(
        self, experiment_id: str, *, revision: int, weights_bp: dict[str, int], at: datetime, actor: str = ""
    ) -> Experiment:
        """Open a new phase with other weights; who has been exposed stays where it was."""
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("running",))
            last = found.phases[-1]
            keys = [v.key for v in last.variants]
            if sorted(weights_bp) != sorted(keys):
                raise InvalidInputError(f"weights are given for {sorted(weights_bp)}; expected one for each of {keys}")
            variants = tuple(replace(v, weight_bp=weights_bp[v.key]) for v in last.variants)
            Split(found.id, variants, last.coverage)
            closed = replace(last, ended_at=at)
            opened = Phase(last.number + 1, variants, last.coverage, at)
            changed = replace(
                found, revision=revision + 1, variants=variants, phases=(*found.phases[:-1], closed, opened)
            )
            _close_phase(connection, experiment_id, last.number, at)
            _insert_phase(connection, experiment_id, opened)
            _update(connection, changed)
            _record(connection, changed, action="reweight", at=at, actor=actor)
        return changed

    def stop(self, experiment_id: str, *, revision: int, at: datetime, actor: str = "") -> Experiment:
        """End it: the placement goes back to its own policy."""
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("running",))
            closed = replace(found.phases[-1], ended_at=at)
            stopped = replace(
                found, state="stopped", revision=revision + 1, phases=(*found.phases[:-1], closed), stopped_at=at
            )
            _close_phase(connection, experiment_id, closed.number, at)
            _update(connection, stopped)
            _record(connection, stopped, action="stop", at=at, actor=actor)
        return stopped

    def get(self, experiment_id: str) -> Experiment:
        """Experiment by id.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        with self._database.reading() as connection:
            return _get(connection, experiment_id)

    def list(self, *, state: State | None = None) -> list[Experiment]:
        """All experiments, or those in one state."""
        table = tables.experiments
        with self._database.reading() as connection:
            query = select(table).order_by(table.c.id)
            rows = connection.execute(query if state is None else query.where(table.c.state == state)).all()
            return [_experiment(connection, row) for row in rows]


def _row(connection: Connection, experiment_id: str) -> Any:
    table = tables.experiments
    return connection.execute(select(table).where(table.c.id == experiment_id)).first()


def _get(connection: Connection, experiment_id: str) -> Experiment:
    row = _row(connection, experiment_id)
    if row is None:
        known = connection.execute(select(tables.experiments.c.id)).scalars()
        raise UnknownNameError("experiment", experiment_id, known)
    return _experiment(connection, row)


def _locked(connection: Connection, experiment_id: str, *, revision: int, states: tuple[State, ...]) -> Experiment:
    found = _get(connection, experiment_id)
    if found.revision != revision:
        raise ConflictError(
            f"experiment {experiment_id!r} is at revision {found.revision}, not {revision}: someone changed it meanwhile; "
            "read it again and repeat the change"
        )
    if found.state not in states:
        raise StateError(f"experiment {experiment_id!r} is {found.state}; expected it to be {' or '.join(states)}")
    return found


def _experiment(connection: Connection, row: Any) -> Experiment:
    table = tables.phases
    document = json.loads(row.document)
    phases = connection.execute(select(table).where(table.c.experiment == row.id).order_by(table.c.number)).all()
    return Experiment(
        id=row.id,
        placement=row.placement,
        variants=_variants(document["variants"]),
        coverage=document["coverage"],
        hypothesis=document["hypothesis"],
        state=row.state,
        revision=row.revision,
        phases=tuple(
            Phase(
                p.number,
                _variants(json.loads(p.document)),
                p.coverage,
                from_us(p.started_at_us),
                _moment(p.ended_at_us),
            )
            for p in phases
        ),
        started_at=_moment(row.started_at_us),
        stopped_at=_moment(row.stopped_at_us),
    )


def _moment(at_us: int | None) -> datetime | None:
    return None if at_us is None else from_us(at_us)


def _variants(document: list[dict[str, Any]]) -> tuple[Variant, ...]:
    return tuple(Variant(v["key"], v["weight_bp"], v["policy"]) for v in document)


def _variants_json(variants: tuple[Variant, ...]) -> list[dict[str, Any]]:
    return [{"key": v.key, "weight_bp": v.weight_bp, "policy": v.policy} for v in variants]


def _document(experiment: Experiment) -> str:
    return json.dumps(
        {
            "variants": _variants_json(experiment.variants),
            "coverage": experiment.coverage,
            "hypothesis": experiment.hypothesis,
        }
    )


def _check_names(connection: Connection, experiment: Experiment) -> None:
    placements = connection.execute(select(tables.placements.c.id)).scalars().all()
    if experiment.placement not in placements:
        raise UnknownNameError("placement", experiment.placement, placements)
    versions = connection.execute(select(tables.policy_versions.c.name, tables.policy_versions.c.version)).all()
    known = {f"{name}@{version}" for name, version in versions} | {"baseline"}
    for variant in experiment.variants:
        if variant.policy not in known:
            raise UnknownNameError(f"policy version of variant {variant.key!r}:", variant.policy, known)


def _insert_phase(connection: Connection, experiment_id: str, phase: Phase) -> None:
    connection.execute(
        insert(tables.phases).values(
            experiment=experiment_id,
            number=phase.number,
            coverage=phase.coverage,
            document=json.dumps(_variants_json(phase.variants)),
            started_at_us=to_us(phase.started_at),
        )
    )


def _close_phase(connection: Connection, experiment_id: str, number: int, at: datetime) -> None:
    table = tables.phases
    connection.execute(
        update(table).where(table.c.experiment == experiment_id, table.c.number == number).values(ended_at_us=to_us(at))
    )


def _update(connection: Connection, experiment: Experiment) -> None:
    table = tables.experiments
    connection.execute(
        update(table)
        .where(table.c.id == experiment.id)
        .values(
            revision=experiment.revision,
            state=experiment.state,
            document=_document(experiment),
            started_at_us=None if experiment.started_at is None else to_us(experiment.started_at),
            stopped_at_us=None if experiment.stopped_at is None else to_us(experiment.stopped_at),
        )
    )


def _record(connection: Connection, experiment: Experiment, *, action: str, at: datetime, actor: str) -> None:
    document = {
        "revision": experiment.revision,
        "state": experiment.state,
        "variants": _variants_json(experiment.variants),
        "coverage": experiment.coverage,
        "phase": len(experiment.phases),
    }
    record_change(
        connection, at_us=to_us(at), actor=actor, action=action, what=f"experiment {experiment.id}", document=document
    )
