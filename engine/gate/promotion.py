"""How a version moves on: candidate, shadow, canary, live; and back in one call.

A canary is an experiment of the usual machinery: the placement's policy against the new one, with a ramp of coverage and the
guardrails of every experiment. Nothing here allocates visitors. What *serves* changes first (the placement, the experiment), the
record of where a version stands after it, so that ``reconcile`` can complete what a crash cut off.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from engine.decisions.service import DecisionService
from engine.experiments.records import BASELINE, Experiment
from engine.gate.canary import CanarySettings, canary_of, days_to_finish
from engine.gate.forecasts import foretell
from engine.gate.records import GateVerdict
from engine.gate.verdicts import last_verdict
from engine.registry.states import PAST_THE_GATE, Standing, State, States
from engine.store.changes import MAX_REASON, Change
from policies.errors import ConflictError, StateError

ACTOR = "promotion"


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
        served, _ = self.service.placement(placement)
        draft = canary_of(self.database, served, policy, verdict, self.settings, at=change.at)
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
