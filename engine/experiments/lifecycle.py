"""Draft, scheduled, running, stopped, archived: every change has a revision, an author and a row in the audit table.

A phase is a stretch of time with one set of weights. Raising the coverage only adds subjects and stays in the phase;
other weights open a new phase, whose subjects are analysed as a stratum of their own. A subject stays in the phase and
variant of its first exposure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from engine.experiments.controls import read_controls
from engine.experiments.records import (
    BASELINE,
    OWN_POLICY,
    Experiment,
    Phase,
    Plan,
    State,
    document_of,
    is_version,
    variants_from_json,
    variants_json,
    with_document,
)
from engine.offers.stored import find_placement
from engine.store import tables
from engine.store.changes import MAX_REASON, Change
from engine.store.database import Database, record_change
from engine.store.facts import check_text, from_us, to_us
from policies.allocation import Split
from policies.errors import ConflictError, InvalidInputError, StateError, UnknownNameError

# What an edit of a draft may not touch: the rest of the record is the store's.
_KEPT_BY_EDIT = frozenset({"id", "state", "revision", "phases", "started_at", "stopped_at", "approved_by"})


class Experiments:
    """The experiments of a store.

    Every change takes the ``revision`` that its author last read, and the ``change`` that the audit log keeps.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, experiment: Experiment, *, change: Change) -> Experiment:
        """Write down a draft.

        Raises
        ------
        ConflictError
            If the id is taken.
        UnknownNameError
            If the placement or a policy version does not exist.
        InvalidInputError
            If two variants would share a learner and the draft does not say that they may.
        """
        draft = replace(
            experiment, state="draft", revision=1, phases=(), started_at=None, stopped_at=None, approved_by=""
        )
        with self._database.writing() as connection:
            if _row(connection, draft.id) is not None:
                raise ConflictError(f"experiment {draft.id!r} exists already; choose another id")
            _check_names(connection, draft)
            document = json.dumps(document_of(draft))
            connection.execute(
                insert(tables.experiments).values(
                    id=draft.id, revision=1, state="draft", placement=draft.placement, document=document
                )
            )
            _record(connection, None, draft, action="create", change=change)
        return draft

    def edit(
        self,
        experiment_id: str,
        changes: Mapping[str, Any],
        *,
        revision: int,
        change: Change,
    ) -> Experiment:
        """Change a draft; an approval that it had is taken back.

        Parameters
        ----------
        changes
            New values by name of the record's field.
        """
        known = {f.name for f in fields(Experiment)} - _KEPT_BY_EDIT
        for name in changes:
            if name not in known:
                raise UnknownNameError("field of an experiment", name, known)
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft",))
            edited = replace(found, **changes, approved_by="")
            _check_names(connection, edited)
            return _written(connection, found, edited, action="edit", change=change)

    def fix_plan(self, experiment_id: str, plan: Plan, *, revision: int, change: Change) -> Experiment:
        """Fix what an experiment is judged by: once, and marked as late where it runs already; a draft's approval is taken back.

        Raises
        ------
        ConflictError
            If there is one: a plan that may change is no plan.
        """
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft", "scheduled", "running"))
            if found.plan is not None:
                raise ConflictError(
                    f"experiment {experiment_id!r} has a plan already; it stays as it was fixed: stop the experiment and "
                    "plan a new one"
                )
            fixed = replace(plan, is_late=found.started_at is not None)
            # What was approved is the draft as it stood, without this plan.
            approved_by = "" if found.state == "draft" else found.approved_by
            planned = replace(found, plan=fixed, approved_by=approved_by)
            return _written(connection, found, planned, action="plan", change=change)

    def approve(self, experiment_id: str, *, revision: int, change: Change) -> Experiment:
        """Say that a draft may start as it stands.

        Raises
        ------
        StateError
            If starts need approval and the draft is the approver's own.
        """
        check_text(change.actor, what="who approves")
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft",))
            if read_controls(connection).needs_approval and change.actor == _maker(connection, experiment_id):
                raise StateError(
                    f"{change.actor} made the draft of {experiment_id!r} and cannot approve it; ask somebody else"
                )
            approved = replace(found, approved_by=change.actor)
            return _written(connection, found, approved, action="approve", change=change)

    def schedule(self, experiment_id: str, *, revision: int, starts_at: datetime, change: Change) -> Experiment:
        """Let a draft start by itself at a moment to come."""
        if starts_at <= change.at:
            raise InvalidInputError(
                f"the start {starts_at.isoformat()} is not after now ({change.at.isoformat()}); start it instead"
            )
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft",))
            _check_approval(connection, found)
            _check_names(connection, found)
            planned = replace(found, state="scheduled", starts_at=starts_at)
            return _written(connection, found, planned, action="schedule", change=change)

    def unschedule(self, experiment_id: str, *, revision: int, change: Change) -> Experiment:
        """Make a scheduled experiment a draft again."""
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("scheduled",))
            draft = replace(found, state="draft", starts_at=None)
            return _written(connection, found, draft, action="unschedule", change=change)

    def start(self, experiment_id: str, *, revision: int, change: Change) -> Experiment:
        """Open the first phase.

        Raises
        ------
        StateError
            If it is no draft, is not approved where approval is asked for, or would meet another running experiment.
        """
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft", "scheduled"))
            _check_approval(connection, found)
            _check_names(connection, found)
            _check_room(connection, found)
            coverage = found.coverage if found.ramp is None else found.ramp.steps[0]
            phase = Phase(1, found.variants, coverage, change.at)
            started = replace(found, state="running", phases=(phase,), started_at=change.at, coverage=coverage)
            _insert_phase(connection, experiment_id, phase)
            return _written(connection, found, started, action="start", change=change)

    def ramp(self, experiment_id: str, *, revision: int, coverage: float, change: Change) -> Experiment:
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
            changed = replace(found, coverage=coverage, phases=(*found.phases[:-1], wider))
            table = tables.phases
            connection.execute(
                update(table)
                .where(table.c.experiment == experiment_id, table.c.number == phase.number)
                .values(coverage=coverage)
            )
            return _written(connection, found, changed, action="ramp", change=change)

    def reweight(
        self,
        experiment_id: str,
        *,
        revision: int,
        weights_bp: Mapping[str, int],
        change: Change,
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
            closed = replace(last, ended_at=change.at)
            opened = Phase(last.number + 1, variants, last.coverage, change.at)
            changed = replace(found, variants=variants, phases=(*found.phases[:-1], closed, opened))
            _close_phase(connection, experiment_id, last.number, change.at)
            _insert_phase(connection, experiment_id, opened)
            return _written(connection, found, changed, action="reweight", change=change)

    def force(
        self,
        experiment_id: str,
        forced: Mapping[str, str],
        *,
        revision: int,
        change: Change,
    ) -> Experiment:
        """Say which subjects look at which variant without being counted; replaces the list before."""
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft", "scheduled", "running"))
            changed = replace(found, forced=dict(forced))
            return _written(connection, found, changed, action="force", change=change)

    def stop(self, experiment_id: str, *, revision: int, change: Change) -> Experiment:
        """End it: the placement goes back to its own policy."""
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("running",))
            closed = replace(found.phases[-1], ended_at=change.at)
            stopped = replace(found, state="stopped", phases=(*found.phases[:-1], closed), stopped_at=change.at)
            _close_phase(connection, experiment_id, closed.number, change.at)
            return _written(connection, found, stopped, action="stop", change=change)

    def archive(self, experiment_id: str, *, revision: int, change: Change) -> Experiment:
        """Put a draft or a stopped experiment out of sight; nothing of it is removed."""
        with self._database.writing() as connection:
            found = _locked(connection, experiment_id, revision=revision, states=("draft", "stopped"))
            archived = replace(found, state="archived")
            return _written(connection, found, archived, action="archive", change=change)

    def note(self, experiment_id: str, text: str, *, change: Change) -> None:
        """Put a note on the time line: a campaign began, the site was down."""
        check_text(text.strip(), what="a note", max_length=MAX_REASON)
        with self._database.writing() as connection:
            found = _get(connection, experiment_id)
            _record(connection, found, found, action="note", change=change.because(text.strip()))

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
        table, phases = tables.experiments, tables.phases
        with self._database.reading() as connection:
            query = select(table).order_by(table.c.id)
            rows = connection.execute(query if state is None else query.where(table.c.state == state)).all()
            by_experiment: dict[str, list[Any]] = {}
            for p in connection.execute(select(phases).order_by(phases.c.experiment, phases.c.number)):
                by_experiment.setdefault(p.experiment, []).append(p)
        return [_experiment(row, by_experiment.get(row.id, [])) for row in rows]


def _row(connection: Connection, experiment_id: str, *, is_locked: bool = False) -> Any:
    table = tables.experiments
    query = select(table).where(table.c.id == experiment_id)
    return connection.execute(query.with_for_update() if is_locked else query).first()


def _get(connection: Connection, experiment_id: str, *, is_locked: bool = False) -> Experiment:
    row = _row(connection, experiment_id, is_locked=is_locked)
    if row is None:
        known = connection.execute(select(tables.experiments.c.id)).scalars()
        raise UnknownNameError("experiment", experiment_id, known)
    table = tables.phases
    phases = connection.execute(select(table).where(table.c.experiment == row.id).order_by(table.c.number)).all()
    return _experiment(row, phases)


def _locked(connection: Connection, experiment_id: str, *, revision: int, states: tuple[State, ...]) -> Experiment:
    """The experiment at the revision that was read; whoever changes it at the same time waits, and then finds another one."""
    found = _get(connection, experiment_id, is_locked=True)
    if found.revision != revision:
        raise ConflictError(
            f"experiment {experiment_id!r} is at revision {found.revision}, not {revision}: someone changed it meanwhile; "
            "read it again and repeat the change"
        )
    if found.state not in states:
        raise StateError(f"experiment {experiment_id!r} is {found.state}; expected it to be {' or '.join(states)}")
    return found


def _experiment(row: Any, phases: Any) -> Experiment:
    document = json.loads(row.document)
    return with_document(
        Experiment(
            id=row.id,
            placement=row.placement,
            variants=variants_from_json(document["variants"]),
            coverage=document["coverage"],
            hypothesis=document["hypothesis"],
            state=row.state,
            revision=row.revision,
            phases=tuple(
                Phase(
                    p.number,
                    variants_from_json(json.loads(p.document)),
                    p.coverage,
                    from_us(p.started_at_us),
                    _moment(p.ended_at_us),
                )
                for p in phases
            ),
            started_at=_moment(row.started_at_us),
            stopped_at=_moment(row.stopped_at_us),
        ),
        document,
    )


def _moment(at_us: int | None) -> datetime | None:
    return None if at_us is None else from_us(at_us)


def _check_names(connection: Connection, experiment: Experiment) -> None:
    place = find_placement(connection, experiment.placement)
    if place is None:
        placements = connection.execute(select(tables.placements.c.id)).scalars().all()
        raise UnknownNameError("placement", experiment.placement, placements)
    own_policy = place[0].policy
    table = tables.policy_versions
    versions = connection.execute(select(table.c.name, table.c.version, table.c.removed_at_us)).all()
    known = {f"{name}@{version}" for name, version, _ in versions} | {BASELINE, OWN_POLICY}
    removed = {f"{name}@{version}" for name, version, removed_us in versions if removed_us is not None}
    seen: dict[str, str] = {}
    for variant in experiment.variants:
        if variant.policy not in known:
            raise UnknownNameError(f"policy version of variant {variant.key!r}:", variant.policy, known)
        if variant.policy in removed:
            raise StateError(
                f"the artefact of {variant.policy}, which decides variant {variant.key!r}, was removed; register it again from "
                "its folder, or name a newer version"
            )
        other = seen.setdefault(variant.policy, variant.key)
        if other != variant.key and is_version(variant.policy) and experiment.data_scope == "own":
            raise InvalidInputError(_shared_learner(other, variant.key, repr(variant.policy)))
    if own_policy in seen and OWN_POLICY in seen and is_version(own_policy) and experiment.data_scope == "own":
        through = f"{own_policy!r} (which placement {experiment.placement!r} runs)"
        raise InvalidInputError(_shared_learner(seen[OWN_POLICY], seen[own_policy], through))


def _shared_learner(one: str, other: str, policy: str) -> str:
    return (
        f"variants {one!r} and {other!r} are both decided by {policy}, so what one learns changes the other; register the policy once "
        "for each variant, or set data_scope to shared if that is meant"
    )


def _maker(connection: Connection, experiment_id: str) -> str | None:
    table = tables.audit
    mine = (table.c.what == f"experiment {experiment_id}") & (table.c.action == "create")
    return connection.execute(select(table.c.actor).where(mine).limit(1)).scalar()


def _check_approval(connection: Connection, experiment: Experiment) -> None:
    if read_controls(connection).needs_approval and not experiment.approved_by:
        raise StateError(
            f"experiment {experiment.id!r} has not been approved as it stands; ask somebody else to approve it, then start it"
        )


def _check_room(connection: Connection, experiment: Experiment) -> None:
    """Refuse a start where some subject would be in two experiments that exclude each other."""
    # One start at a time: of two at once, neither would see the other run. SQLite has one writer in any case.
    connection.execute(select(tables.placements.c.id).order_by(tables.placements.c.id).with_for_update(key_share=True))
    table = tables.experiments
    for row in connection.execute(select(table).where(table.c.state == "running", table.c.id != experiment.id)).all():
        other = _experiment(row, ())
        is_apart = bool(experiment.layer) and experiment.layer == other.layer
        is_apart &= experiment.slots[1] <= other.slots[0] or other.slots[1] <= experiment.slots[0]
        if is_apart:
            continue
        if other.placement == experiment.placement:
            raise StateError(
                f"experiment {other.id!r} runs at placement {experiment.placement!r}; stop it before starting {experiment.id!r}, "
                "or give both separate slots of one layer"
            )
        if experiment.layer and experiment.layer == other.layer:
            raise StateError(
                f"experiment {other.id!r} has slots {list(other.slots)} of layer {other.layer!r}, which overlap "
                f"{list(experiment.slots)} of {experiment.id!r}; choose others"
            )


def _insert_phase(connection: Connection, experiment_id: str, phase: Phase) -> None:
    connection.execute(
        insert(tables.phases).values(
            experiment=experiment_id,
            number=phase.number,
            coverage=phase.coverage,
            document=json.dumps(variants_json(phase.variants)),
            started_at_us=to_us(phase.started_at),
        )
    )


def _close_phase(connection: Connection, experiment_id: str, number: int, at: datetime) -> None:
    table = tables.phases
    connection.execute(
        update(table).where(table.c.experiment == experiment_id, table.c.number == number).values(ended_at_us=to_us(at))
    )


def _written(
    connection: Connection, before: Experiment, changed: Experiment, *, action: str, change: Change
) -> Experiment:
    """Write a change of an experiment, under its next revision, and its row of the audit log."""
    after = replace(changed, revision=before.revision + 1)
    table = tables.experiments
    connection.execute(
        update(table)
        .where(table.c.id == after.id)
        .values(
            revision=after.revision,
            state=after.state,
            placement=after.placement,
            document=json.dumps(document_of(after)),
            started_at_us=None if after.started_at is None else to_us(after.started_at),
            stopped_at_us=None if after.stopped_at is None else to_us(after.stopped_at),
        )
    )
    _record(connection, before, after, action=action, change=change)
    return after


def _record(
    connection: Connection,
    before: Experiment | None,
    after: Experiment,
    *,
    action: str,
    change: Change,
) -> None:
    old, new = (None if before is None else _state_of(before)), _state_of(after)
    changed = [k for k in new if old is None or old[k] != new[k]]
    document = {
        "before": None if old is None else {k: old[k] for k in changed},
        "after": {k: new[k] for k in changed},
    }
    record_change(connection, change, action=action, what=f"experiment {after.id}", document=document)


def _state_of(experiment: Experiment) -> dict[str, Any]:
    """What the audit log compares."""
    return {
        **document_of(experiment),
        "placement": experiment.placement,
        "state": experiment.state,
        "revision": experiment.revision,
        "phase": len(experiment.phases),
    }
