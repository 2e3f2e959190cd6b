"""How a version moves on: candidate, shadow, canary, live; and back in one call.

A canary is an experiment of the usual machinery: the placement's policy against the new one, with a ramp of coverage and the
guardrails of every experiment. Nothing here allocates visitors. What *serves* changes first (the placement, the experiment), the
record of where a version stands after it, so that ``reconcile`` can complete what a crash cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import text

from engine.decisions.service import DecisionService
from engine.experiments.checklist import visitors_per_day
from engine.experiments.records import RAMP_STEPS, Counting, Experiment, Plan, Ramp
from engine.gate.forecasts import Forecast, foretell
from engine.gate.records import GateVerdict
from engine.gate.verdicts import last_verdict
from engine.registry.states import PAST_THE_GATE, Standing, State, States
from engine.rewards.definition import DAY_S
from engine.store.changes import MAX_REASON, Change
from engine.store.database import Database
from engine.store.facts import to_us
from offline_eval.abtest import required_subjects
from policies.allocation import Variant
from policies.errors import ConflictError, InvalidInputError, StateError

ACTOR = "promotion"
BASELINE = "baseline"
CONTROL, TREATMENT = "incumbent", "candidate"
_LOOK_BACK_DAYS = 60


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """How a canary is run.

    Parameters
    ----------
    ramp
        Of a candidate that the gate passed.
    small_steps
        Of one that a person approved where the log could not answer: it stays this small.
    relative_effect
        Change of the primary metric that is worth finding, relative to what it is now.
    margin_tolerance
        As of ``experiments.records.Plan``.
    counting
        Outcomes and windows.
    min_shadow_decisions
        Decisions that a shadow must have answered before its canary.
    probation_s
        How long after going live a failing log still takes a version back by itself.
    """

    ramp: Ramp = field(default_factory=Ramp)
    small_steps: tuple[float, ...] = RAMP_STEPS[:2]
    relative_effect: float = 0.1
    margin_tolerance: float | None = None
    counting: Counting = field(default_factory=Counting)
    n_looks: int = 5
    min_shadow_decisions: int = 200
    probation_s: float = 14 * DAY_S


class Promotion:
    """Moves of versions at the placements of a service.

    Parameters
    ----------
    settings
        Of canaries.
    """

    def __init__(self, service: DecisionService, settings: CanarySettings | None = None) -> None:
        self.service = service
        self.database = service.database
        self.states = States(service.database)
        self.settings = settings or CanarySettings()

    def live_at(self, placement: str) -> str:
        """What decides at a placement outside experiments: ``name@version``, or ``baseline``."""
        found, _ = self.service.placement(placement)
        return found.policy or BASELINE

    def enter(self, verdict: GateVerdict, *, change: Change) -> Standing:
        """Take in a judged version: a candidate, or retired at once where the gate refused it."""
        known = self.states.find(verdict.placement, verdict.policy)
        if known is not None and known.verdict == verdict.id:
            return known
        standing = self.states.enter(
            verdict.placement,
            verdict.policy,
            change=change.because(f"the gate said: {verdict.outcome}"),
            verdict=verdict.id,
        )
        if verdict.outcome == "refuse" and standing.state == "candidate":
            refused = change.because(f"the gate refused it; {verdict.reasons[0]}"[:MAX_REASON])
            return self.states.move(verdict.placement, verdict.policy, "retired", change=refused)
        return standing

    def to_shadow(self, placement: str, policy: str, *, change: Change) -> Standing:
        """Let a version answer beside what serves, seen by nobody.

        Raises
        ------
        StateError
            If the gate refused it, never judged it, or left it to a person who has not approved it.
        """
        verdict = self._judged(placement, policy)
        reason = change.reason or f"the gate said: {verdict.outcome}"
        if verdict.approved_by:
            reason += f", approved by {verdict.approved_by}"
        return self.states.move(placement, policy, "shadow", change=change.because(reason), verdict=verdict.id)

    def to_canary(self, placement: str, policy: str, *, change: Change) -> Standing:
        """Start its experiment; where starts need approval it is drafted, and started once somebody has approved it.

        Raises
        ------
        StateError
            If the version is no shadow, or something else runs at the placement.
        """
        standing = self.states.get(placement, policy)
        if standing.state != "shadow":
            raise StateError(f"{policy} is {standing.state} at {placement!r}; only a shadow becomes a canary")
        verdict = self._judged(placement, policy)
        experiments = self.service.experiments
        draft = self._canary(placement, policy, verdict, at=change.at)
        known = {e.id: e for e in experiments.list()}
        # A version that is judged anew after a canary that ended gets another one.
        names = (draft.id, *(f"{draft.id}-{i}" for i in range(2, len(known) + 3)))
        name = next(n for n in names if n not in known or known[n].started_at is None or known[n].state == "running")
        canary = change.because(f"canary of {policy}")
        found = known.get(name) or experiments.create(replace(draft, id=name), change=canary)
        if found.state == "draft" and found.variants != draft.variants:  # it waited, and something else serves by now
            changes = {"variants": draft.variants, "hypothesis": draft.hypothesis}
            other = change.because("what serves has changed")
            found = experiments.edit(found.id, changes, revision=found.revision, change=other)
        if found.state == "draft":
            found = experiments.start(found.id, revision=found.revision, change=canary)
        if found.state != "running":
            raise StateError(f"experiment {found.id!r} is {found.state}; start it, or retrain for a new version")
        self._foretell_days(found, at=change.at)
        answered = change if change.reason else change.because("it answered in the shadow without a fault")
        moved = self.states.move(placement, policy, "canary", change=answered, experiment=found.id)
        self.service.refresh()
        return moved

    def to_live(self, placement: str, policy: str, *, change: Change) -> Standing:
        """Let it decide for everybody: the placement names it, its experiment ends, what was live retires.

        A person may do this past the gate, with a reason; a version that the gate refused stays out.

        Raises
        ------
        StateError
            If the gate stands in the way.
        ConflictError
            If somebody moved it meanwhile, such as a rollback of its canary: what served goes on serving.
        """
        ref = str(self.service.policies.find(policy).ref)
        standing = self.states.find(placement, ref)
        state = "candidate" if standing is None else standing.state
        if standing is not None and standing.state == "live":
            return standing
        if (state, "live") in PAST_THE_GATE and change.actor in ("", ACTOR):
            raise StateError(
                f"{ref} is {state} at {placement!r}; it goes live through shadow and canary, or by a person who says why"
            )
        verdict = last_verdict(self.database, placement, ref)
        if verdict is not None and verdict.outcome == "refuse":
            raise StateError(f"the gate refused {ref}: {verdict.reasons[0]}")
        self.service.policies.load(ref)  # a version that cannot be loaded is not put before visitors
        before = self.live_at(placement)
        self._serve(placement, ref, actor=change.actor)
        self._end(standing, change)
        try:
            return self._record_live(
                placement,
                ref,
                before,
                change,
                action="promote",
                expected=None if standing is None else standing.state,
            )
        except ConflictError:
            # Somebody took it back, or moved it on, between the look and the record: theirs counts.
            if self.states.get(placement, ref).state != "live" and self.live_at(placement) == ref:
                self._serve(placement, before, actor=change.actor)
            raise

    def rollback(self, placement: str, policy: str | None = None, *, change: Change) -> Standing:
        """Take a version back, in one call.

        Parameters
        ----------
        policy
            Which one; by default the canary where there is one, else what is live.

        Returns
        -------
        Standing
            Of the version that was taken back, now retired.

        Raises
        ------
        StateError
            If there is nothing to go back to.
        """
        standing = self._to_take_back(placement, policy)
        if standing.state != "live":
            self._end(standing, change)
            moved = self.states.move(placement, standing.policy, "retired", change=change, action="rollback")
            self.service.refresh()
            return moved
        previous = standing.previous
        if previous is None:
            raise StateError(
                f"{standing.policy} is the first that was promoted at {placement!r}; put another policy there instead"
            )
        if previous != BASELINE:
            self.service.policies.load(previous)
        for other in self.states.all(placement=placement, state="canary"):
            # Its control is what is taken back: it answers a question that nobody has any more.
            self._end(other, change)
            self.states.move(placement, other.policy, "retired", change=change, action="rollback")
        self._serve(placement, previous, actor=change.actor)
        moved = self.states.move(placement, standing.policy, "retired", change=change, action="rollback")
        if previous != BASELINE:
            self._back_to_live(placement, previous, change)
        return moved

    def reconcile(self, placement: str, *, at: datetime) -> list[str]:
        """Make the record say what serves, where a crash or another hand left them apart."""
        serving = self.live_at(placement)
        out = []
        known = {s.policy: s for s in self.states.all(placement=placement)}
        if serving in known and known[serving].state in ("candidate", "shadow", "canary", "retired"):
            before = next((s.policy for s in known.values() if s.state == "live"), BASELINE)
            self._end(known[serving], Change(at, ACTOR, "it serves already"))
            found = Change(at, ACTOR, "it was found serving")
            if known[serving].state == "retired":
                self._back_to_live(placement, serving, found)
            else:
                self._record_live(placement, serving, before, found, action="live")
            out.append(f"{serving} was found serving at {placement}")
        for standing in self.states.all(placement=placement, state="live"):
            if standing.policy != serving:
                reason = f"{serving} was found in its place"
                self.states.move(placement, standing.policy, "retired", change=Change(at, ACTOR, reason))
                out.append(f"{standing.policy} retired: {reason}")
        return out

    def _judged(self, placement: str, policy: str) -> GateVerdict:
        verdict = last_verdict(self.database, placement, policy)
        if verdict is None:
            raise StateError(f"the gate has not judged {policy} at {placement!r}; `nextoffer retrain` does")
        if not verdict.may_go_on:
            why = (
                "refused it"
                if verdict.outcome == "refuse"
                else "could not answer from the log, and nobody has approved it"
            )
            raise StateError(f"the gate {why}: {verdict.reasons[0]}")
        return verdict

    def _canary(self, placement: str, policy: str, verdict: GateVerdict, *, at: datetime) -> Experiment:
        name, _, version = policy.partition("@")
        settings, control = self.settings, self.live_at(placement)
        if control == policy:
            raise InvalidInputError(f"{policy} is what serves at {placement!r} already")
        steps = settings.ramp.steps if verdict.outcome == "pass" else settings.small_steps
        return Experiment(
            f"canary-{name}-{version[:8]}",
            placement,
            (Variant(CONTROL, 5_000, control), Variant(TREATMENT, 5_000, policy)),
            hypothesis=f"{policy} does better than {control}; the gate said: {verdict.outcome}.",
            plan=self._plan(placement, at=at),
            counting=settings.counting,
            ramp=replace(settings.ramp, steps=steps),
        )

    def _plan(self, placement: str, *, at: datetime) -> Plan:
        """Sized for the effect that is worth finding, at the rate that the log shows."""
        found, _ = self.service.placement(placement)
        counting, kinds = self.settings.counting, found.reward.kinds
        primary, kind, window_s = "kept", counting.kept, counting.kept_window_s
        if counting.kept not in kinds and counting.subscribed in kinds:
            primary, kind, window_s = "conversion", counting.subscribed, counting.conversion_window_s
        rate = base_rate(self.database, placement, kind=kind, window_s=window_s, at=at)
        per_day = visitors_per_day(self.database, placement, at=at)
        if not 0 < rate < 1:
            planned, effect = 10_000, 0.01  # nothing has matured: stand-ins, as experiments without a plan have
        else:
            effect = self.settings.relative_effect * rate
            planned = required_subjects(
                standard_deviation=(rate * (1 - rate)) ** 0.5, effect=effect, n_looks=self.settings.n_looks
            )
        return Plan(
            planned_subjects=planned,
            effect=effect,
            primary=primary,  # type: ignore[arg-type]  # one of two of the three
            n_looks=self.settings.n_looks,
            margin_tolerance=self.settings.margin_tolerance,
            visitors_per_day=per_day or None,
        )

    def _foretell_days(self, experiment: Experiment, *, at: datetime) -> None:
        found = days_to_finish(self.database, experiment, at=at)
        if found is not None:
            foretell(self.database, [found])

    def _serve(self, placement: str, policy: str, *, actor: str) -> None:
        found, revision = self.service.placement(placement)
        named = None if policy == BASELINE else policy
        if found.policy != named:
            self.service.put_placement(replace(found, policy=named), expected_revision=revision, actor=actor or ACTOR)

    def _end(self, standing: Standing | None, change: Change) -> None:
        """Stop the canary's experiment, if it runs."""
        if standing is None or standing.experiment is None:
            return
        experiment = self.service.experiments.get(standing.experiment)
        if experiment.state == "running":
            self.service.experiments.stop(experiment.id, revision=experiment.revision, change=change)
            self.service.refresh()

    def _record_live(
        self,
        placement: str,
        policy: str,
        before: str,
        change: Change,
        *,
        action: str,
        expected: State | None = None,
    ) -> Standing:
        moved = self.states.move(
            placement,
            policy,
            "live",
            change=change,
            action=action,
            previous=before,
            expected=expected,
        )
        for other in self.states.all(placement=placement, state="live"):
            if other.policy != policy:
                gone = change.because(f"{policy} took its place")
                self.states.move(placement, other.policy, "retired", change=gone)
        return moved

    def _back_to_live(self, placement: str, policy: str, change: Change) -> None:
        standing = self.states.find(placement, policy)
        if standing is None or standing.state == "retired":
            self.states.move(placement, policy, "live", change=change, action="back to live")

    def _to_take_back(self, placement: str, policy: str | None) -> Standing:
        if policy is not None:
            standing = self.states.get(placement, str(self.service.policies.find(policy).ref))
            if standing.state == "retired":
                raise StateError(f"{standing.policy} is retired at {placement!r} already: {standing.reason}")
            return standing
        for state in ("canary", "live"):
            found = self.states.all(placement=placement, state=state)
            if found:
                return found[0]
        raise StateError(f"nothing was promoted at {placement!r}; there is nothing to take back")


def base_rate(database: Database, placement: str, *, kind: str, window_s: float, at: datetime) -> float:
    """Share of subjects of the last two months with a closed window to whom an outcome came within it; 0 where there are none.

    The window is that of a subject's first decision in these months, as an experiment would count it.
    """
    end = to_us(at) - round(window_s * 1e6)
    values: dict[str, object] = {
        "placement": placement,
        "kind": kind,
        "window_us": round(window_s * 1e6),
        "start": end - round(_LOOK_BACK_DAYS * DAY_S * 1e6),
        "end": end,
    }
    subjects = (
        "SELECT subject, MIN(at_us) AS first_us FROM decisions WHERE placement = :placement AND at_us >= :start "
        "AND at_us < :end GROUP BY subject"
    )
    with database.reading() as connection:
        n = connection.execute(text(f"SELECT COUNT(*) FROM ({subjects}) s"), values).scalar_one()
        got = (
            f"SELECT COUNT(DISTINCT o.subject) FROM outcomes o JOIN ({subjects}) s ON s.subject = o.subject "
            "WHERE o.kind = :kind AND o.value > 0 AND o.at_us >= s.first_us AND o.at_us <= s.first_us + :window_us"
        )
        n_with = connection.execute(text(got), values).scalar_one()
    return float(n_with) / float(n) if n else 0.0


def days_to_finish(database: Database, experiment: Experiment, *, at: datetime) -> Forecast | None:
    """When a planned experiment will have its visitors, as its traffic and its ramp foretell it; None without a plan or traffic.

    The interval is that of the arrivals, a day either side at least: what it leaves out is that traffic may change.
    """
    plan = experiment.plan
    per_day = visitors_per_day(database, experiment.placement, at=at)
    if plan is None or not per_day or experiment.started_at is None:
        return None
    left, days = float(plan.planned_subjects), 0.0
    steps = [experiment.coverage] if experiment.ramp is None else list(experiment.ramp.steps)
    hold = 0.0 if experiment.ramp is None else experiment.ramp.hold_s / DAY_S
    for i, coverage in enumerate(steps):
        rate = per_day * coverage
        is_last = i == len(steps) - 1
        here = left / rate if is_last else min(hold, left / rate)
        days += here
        left -= here * rate
        if left <= 1e-9:
            break
    window = (
        experiment.counting.kept_window_s if plan.primary != "conversion" else experiment.counting.conversion_window_s
    )
    days += window / DAY_S
    half = max(1.0, 1.96 * plan.planned_subjects**0.5 / (per_day * steps[-1]), 0.1 * days)
    return Forecast(
        "days to finish",
        experiment.placement,
        f"experiment {experiment.id}",
        at,
        days,
        max(0.0, days - half),
        days + half,
        {
            "unit": "days",
            "experiment": experiment.id,
            "planned_subjects": plan.planned_subjects,
            "visitors_per_day": per_day,
        },
    )
