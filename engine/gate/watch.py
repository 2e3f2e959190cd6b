"""What happens to promoted versions by itself: shadows grow into canaries, canaries go live or back, a failing log takes back.

Called every so often by whoever runs beside the service (the console, ``nextoffer retrain --every``, ``nextoffer policies watch``).
Two callers at once harm nothing: each move is refused where another has made it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from engine.alerts.message import News, Text
from engine.alerts.outbox import KEPT_TRYING, last_state, tell
from engine.experiments.audit import AuditRow, read_audit
from engine.experiments.reading import take_reading
from engine.gate.health import Health, integrity
from engine.gate.promotion import ACTOR, Promotion
from engine.gate.records import Limits
from engine.gate.resolving import resolve
from engine.gate.shadow import read_shadow
from engine.gate.verdicts import last_verdict
from engine.registry.states import Standing
from engine.store.changes import Change
from policies.errors import ConflictError, NextofferError, StateError

_log = logging.getLogger("nextoffer.gate")


def look_after(
    promotion: Promotion,
    *,
    at: datetime,
    now: datetime | None = None,
    in_simulation: bool = False,
    health: Health = integrity,
) -> list[str]:
    """Do what is due at every placement, and tell what people should hear of; returns a line for each thing done.

    Ramps and planned ends of experiments are looked after by their own automation (``engine.experiments.automation.tick``).

    Parameters
    ----------
    at
        Time of the placements, which a sandbox makes up.
    now
        Time of the messages, which is the wall clock's; left out, it is asked.
    """
    done: list[str] = []
    placements = {s.placement for s in promotion.states.all()}
    for placement in sorted(placements):
        done += _try(lambda place=placement: promotion.reconcile(place, at=at))  # type: ignore[misc]  # bound per turn
        for standing in promotion.states.all(placement=placement):
            step = {"candidate": _candidate, "shadow": _shadow, "canary": _canary, "live": _live}.get(standing.state)
            if step is not None:
                done += _try(lambda s=standing, f=step: f(promotion, s, at, in_simulation, health))  # type: ignore[misc]
    done += _try(lambda: _tell_of_moves(promotion, at=at, now=now or datetime.now(UTC)))
    done += _try(lambda: resolve(promotion.database, at=at, in_simulation=in_simulation))
    if done:
        promotion.service.refresh()
    return done


def _try(change: Callable[[], list[str]]) -> list[str]:
    try:
        return change()
    except ConflictError:
        return []  # somebody else was faster, and the next round sees what they did
    except NextofferError as error:
        _log.warning("a version could not be looked after: %s", error)
        return []
    except Exception:  # whatever ails one version must not keep others, experiments and messages waiting
        _log.exception("a version could not be looked after")
        return []


def _candidate(
    promotion: Promotion, standing: Standing, at: datetime, in_simulation: bool, health: Health
) -> list[str]:
    verdict = last_verdict(promotion.database, standing.placement, standing.policy)
    if verdict is None or not verdict.may_go_on:
        return []
    promotion.to_shadow(standing.placement, standing.policy, change=Change(at, ACTOR))
    return [f"{standing.policy} is in the shadow at {standing.placement}"]


def _shadow(promotion: Promotion, standing: Standing, at: datetime, in_simulation: bool, health: Health) -> list[str]:
    policy = promotion.service.policies.load(standing.policy).policy
    found = read_shadow(promotion.database, policy, standing.placement, since=standing.changed_at, as_of=at)
    settings = promotion.settings
    if found.n_failed or found.p99_ms > _latency_budget_ms(promotion, standing):
        return [_back(promotion, standing, at, f"in the shadow {found.sentence()}")]
    if found.n < settings.min_shadow_decisions:
        return []
    try:
        promotion.to_canary(
            standing.placement, standing.policy, change=Change(at, ACTOR, f"in the shadow {found.sentence()}")
        )
    except StateError as error:
        # It waits: for an approval, or for the end of what runs there.
        _log.info("the canary of %s waits: %s", standing.policy, error)
        return []
    return [f"{standing.policy} is a canary at {standing.placement}"]


def _latency_budget_ms(promotion: Promotion, standing: Standing) -> float:
    """What the gate granted it: a shadow is asked no more than its verdict was."""
    verdict = last_verdict(promotion.database, standing.placement, standing.policy)
    granted = (p.figures["budget_ms"] for p in (() if verdict is None else verdict.parts) if "budget_ms" in p.figures)
    return float(next(granted, Limits().latency_budget_ms))


def _canary(promotion: Promotion, standing: Standing, at: datetime, in_simulation: bool, health: Health) -> list[str]:
    assert standing.experiment is not None
    experiment = promotion.service.experiments.get(standing.experiment)
    if experiment.state != "running":
        return [_back(promotion, standing, at, f"its experiment is {experiment.state}")]
    failing = health(promotion.database, standing.placement, at)
    if failing:
        return [_back(promotion, standing, at, f"integrity fails: {failing[0]}")]
    reading = take_reading(promotion.database, experiment, as_of=at, in_simulation=in_simulation, n_points=0)
    if reading.found is None:
        return []
    now = reading.found.now
    if now.split.is_broken:
        return [_back(promotion, standing, at, f"the split is broken: {now.split.sentence()}")]
    worse = next((m for m in now.metrics if m.is_worse), None)
    if worse is not None:
        what = "guardrail" if worse.metric.role == "guardrail" else "metric"
        told = f"{what} {worse.metric.title} is worse: {worse.effect.estimate:+.4g}, interval {worse.always.low:+.4g} to {worse.always.high:+.4g}"
        return [_back(promotion, standing, at, told)]
    if now.verdict.decision == "ship":
        promotion.to_live(standing.placement, standing.policy, change=Change(at, ACTOR, now.verdict.sentence))
        return [f"{standing.policy} is live at {standing.placement}"]
    if now.verdict.decision == "stop":
        return [_back(promotion, standing, at, now.verdict.sentence)]
    return []


def _live(promotion: Promotion, standing: Standing, at: datetime, in_simulation: bool, health: Health) -> list[str]:
    if standing.previous is None or at > standing.changed_at + timedelta(seconds=promotion.settings.probation_s):
        return []
    failing = health(promotion.database, standing.placement, at)
    return [_back(promotion, standing, at, f"integrity fails: {failing[0]}")] if failing else []


def _back(promotion: Promotion, standing: Standing, at: datetime, reason: str) -> str:
    promotion.rollback(standing.placement, standing.policy, change=Change(at, ACTOR, reason[:2_000]))
    return f"{standing.policy} was taken back at {standing.placement}: {reason}"


_WHAT = "policy "
_TITLES: dict[str, tuple[str, str]] = {
    "live": ("{policy} decides at {placement} from now on", "{policy} теперь решает на месте {placement}"),
    "taken back": ("{policy} was taken back at {placement}", "{policy} снята с места {placement}"),
}


# Of how many moves of a kind the log of changes is asked at every round.
_LATEST = 50


def _tell_of_moves(promotion: Promotion, *, at: datetime, now: datetime) -> list[str]:
    """Write down news of what was moved by itself since each placement was last told of.

    The log of changes says what to tell, not the round that made the move: one that was cut off in between is made good by the next.
    """
    moves: dict[str, list[tuple[int, News]]] = defaultdict(list)
    for action, what in (("promote", "live"), ("rollback", "taken back")):
        for row in read_audit(promotion.database, action=action, limit=_LATEST):
            if row.actor == ACTOR and row.at > at - KEPT_TRYING and row.what.startswith(_WHAT):
                news = _news(row, what)
                moves[news.topic].append((row.id, news))
    for topic, rows in moves.items():
        found = [news for _, news in sorted(rows, key=lambda r: r[0])]
        last = last_state(promotion.database, topic)
        n_told = next((i + 1 for i, news in enumerate(found) if news.state == last), 0)
        for news in found[n_told:]:
            tell(promotion.database, news, at=now)
    return []


def _news(row: AuditRow, what: str) -> News:
    """What somebody should hear of without looking."""
    policy, placement = row.what.removeprefix(_WHAT), row.document["placement"]
    english, russian = (t.format(policy=policy, placement=placement) for t in _TITLES[what])
    return News(
        topic=f"policy at {placement}",
        state=f"{policy} {what} {row.at.isoformat()}",
        kind=f"policy.{what.replace(' ', '_')}",
        texts={"en": Text(english, row.reason), "ru": Text(russian, row.reason)},
        document={"placement": placement, "policy": policy, "reason": row.reason},
    )
