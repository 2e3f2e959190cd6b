"""Commands of ``nextoffer policies`` about where versions stand, what the gate said, and what was foretold."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Any

from api.cli.opening import HERE, UNSIGNED, Signed, Where, show

if TYPE_CHECKING:
    from engine.registry.states import Standing


def states(*, placement: str | None = None, json: bool = False, where: Where = HERE) -> int:
    """List where versions stand: candidate, shadow, canary, live or retired.

    Parameters
    ----------
    placement
        Only of this one.
    json
        As JSON.
    """
    from engine.registry.states import States

    with where.opened() as service:
        rows = [s.to_json() for s in States(service.database).all(placement=placement)]
    show(rows, as_json=json, line="{policy}  {state} at {placement} since {changed_at}: {reason}")
    return 0


def verdicts(
    *,
    placement: str | None = None,
    policy: str | None = None,
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Show what the gate said and why, the newest first.

    Parameters
    ----------
    placement
        Only of this one.
    policy
        Only of this name@version.
    json
        As JSON.
    """
    from engine.gate.verdicts import verdicts as read

    with where.opened() as service:
        found = read(service.database, placement=placement, policy=policy)
    if json:
        show([v.to_json() for v in found], as_json=True)
        return 0
    for v in found:
        by = f", approved by {v.approved_by}" if v.approved_by else ""
        print(f"{v.id}  {v.policy} at {v.placement}: {v.outcome}{by}")  # noqa: T201 - data on stdout
        for part in v.parts:
            label = " (in simulation)" if part.in_simulation else ""
            print(f"  {part.word:7s} {part.name}{label}: {' '.join(part.sentences)}")  # noqa: T201
        print(f"  {v.next_step}")  # noqa: T201
    return 0


def approve(verdict: str, /, *, reason: str, by: str = UNSIGNED.by, where: Where = HERE) -> int:
    """Let a candidate that the log could not answer for go to a small canary.

    Parameters
    ----------
    verdict
        Id of the gate's verdict.
    reason
        Why, in a sentence; it is kept.
    by
        Who answers for it.
    """
    from engine.gate.verdicts import approve as say_yes

    with where.opened() as service:
        done = say_yes(service.database, verdict, change=Signed(reason, by).change())
    print(f"{done.policy} at {done.placement}: approved by {done.approved_by}")  # noqa: T201 - data on stdout
    return 0


def promote(
    policy: str,
    /,
    *,
    placement: str,
    reason: str,
    by: str = UNSIGNED.by,
    where: Where = HERE,
) -> int:
    """Make a version live at once, past shadow and canary; never one that the gate refused.

    Parameters
    ----------
    policy
        name@version, or a name for its newest.
    placement
        Where.
    reason
        Why, in a sentence; it is kept.
    by
        Who answers for it.
    """
    from engine.gate.promotion import Promotion

    with where.opened() as service:
        _show(Promotion(service).to_live(placement, policy, change=Signed(reason, by).change()))
    return 0


def rollback(
    placement: str,
    /,
    *,
    policy: str | None = None,
    reason: str = "taken back by hand",
    by: str = UNSIGNED.by,
    where: Where = HERE,
) -> int:
    """Take back the canary of a placement, or what is live there where there is none: one call, at once.

    Parameters
    ----------
    placement
        Where.
    policy
        Which version, where it is not the canary, or else the live one.
    reason
        Why; it is kept.
    by
        Who answers for it.
    """
    from engine.gate.promotion import Promotion

    with where.opened() as service:
        promotion = Promotion(service)
        _show(promotion.rollback(placement, policy, change=Signed(reason, by).change()))
        print(f"{promotion.live_at(placement)} decides at {placement}")  # noqa: T201 - data on stdout
    return 0


def watch(*, where: Where = HERE) -> int:
    """Do once what is due, and tell and send what is new: shadows, canaries, ramps, planned starts and ends, rollbacks, forecasts.

    For cron where no console runs. Where another process over the store looks after this, it does nothing.
    """
    import sys
    from contextlib import closing

    from api.alerts.looking import habits_of, one_round
    from engine.experiments.keeper import Keeper
    from engine.experiments.moments import clock_of
    from engine.store.ownership import ownership_of

    settings = where.existing()
    with where.opened() as service, closing(ownership_of(service.database)) as ownership:
        clock = clock_of(service.database, is_sandbox=settings.is_sandbox)

        def work() -> None:
            for line in one_round(service, habits_of(settings), clock=clock, in_simulation=settings.is_sandbox):
                print(line)  # noqa: T201 - data on stdout

        if not Keeper(ownership, work, keeps=False).once():
            print("another process looks after this store; nothing was done here", file=sys.stderr)  # noqa: T201
    return 0


def forecasts(*, placement: str | None = None, json: bool = False, where: Where = HERE) -> int:
    """Report what was foretold and what came of it: hit rates and coverage by kind.

    Parameters
    ----------
    placement
        Only of this one.
    json
        As JSON, every forecast included.
    """
    from engine.gate.forecasts import forecasts_of, track_record

    with where.opened() as service:
        found = forecasts_of(service.database, placement=placement)
    records = [r.to_json() for r in track_record(found)]
    if json:
        print(json_module.dumps({"record": records, "forecasts": [f.to_json() for f in found]}, indent=1))  # noqa: T201
        return 0
    for r in records:
        if r["n_resolved"]:
            said = (
                f"{r['coverage']:.0%} inside their 95 % intervals, {r['agreement']:.0%} within the error of what came"
            )
        else:
            said = "none has come yet"
        print(f"{r['kind']:16s} {r['n_open']} open, {r['n_resolved']} come, {r['n_void']} void: {said}")  # noqa: T201
    return 0


def tidy(*, keep: int = 10, even_audited: bool = False, where: Where = HERE) -> int:
    """Remove artefacts of all but the newest versions of each name, where nothing needs them; say what stays and why.

    Parameters
    ----------
    keep
        How many of each name.
    even_audited
        Also what the audit replay of logged decisions needs; the log of changes then says so.
    """
    from datetime import UTC, datetime

    from engine.registry.keeping import tidy as take_away

    with where.opened() as service:
        done = take_away(
            service.database,
            service.policies,
            at=datetime.now(UTC),
            actor=UNSIGNED.by,
            keep=keep,
            even_audited=even_audited,
        )
    for ref in done.removed:
        print(f"removed {ref}")  # noqa: T201 - data on stdout
    for ref, why in done.kept.items():
        print(f"kept {ref}: {why}")  # noqa: T201
    return 0


def _show(standing: Standing) -> None:
    told: dict[str, Any] = standing.to_json()
    print(f"{told['policy']} is {told['state']} at {told['placement']}: {told['reason']}")  # noqa: T201 - data on stdout
