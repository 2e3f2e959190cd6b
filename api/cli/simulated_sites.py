"""``nextoffer simulate calibrate`` and ``fidelity``: a site fitted on a log, and how like the log it is."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.telling import output_folder, say, write_json

if TYPE_CHECKING:
    from simulator.calibrated import PolicyFor
    from simulator.rollouts import Rollout
    from simulator.scenarios.car_subscription import Scenario


def calibrate(
    *,
    log: Path,
    out: Path,
    scenario: str | None = None,
    policy: tuple[str, ...] = ("uniform",),
    members: int = 16,
    subjects: int = 10_000,
    history: bool = False,
    weighted: bool = False,
    seed: int = 1,
) -> int:
    """Fit a site on its log; report what the log identifies, and what policies are worth with what it does not.

    Parameters
    ----------
    log
        Folder that `nextoffer simulate log` or `service-log` wrote, or one of the same form.
    out
        Where the fitted world (`world/`, a scenario of `nextoffer simulate`), `calibration.json` and `report.html` go.
    scenario
        Where offers and rules come from, if not from the log; its parameters, people and calendar are not read.
    policy
        Repeat it: policies to value on an ensemble of fits and over the grid of what is not identified; none that begins with nothing.
    members
        Size of the ensemble.
    subjects
        Visitors for each member's value.
    history
        Fit effects of discounts seen before as well.
    weighted
        Weigh visits by inverse propensity.
    seed
        Of the ensemble and the rollouts.
    """
    from engine.simulation.calibration import SURE, trend_text, write_calibration
    from simulator.calibrated import calibrate as fit
    from simulator.calibrated import value_grid, values_with_spread
    from simulator.scenarios.files import save_scenario
    from simulator.truth import OUTCOMES

    site = _site_of(log, scenario)
    policies = [_by_site(name, site, seed=seed) for name in policy]
    output_folder(out)
    if site.calendar is not None:
        say(f"the calendar of {site.name} is left out: a fit has no dates")
    made = fit(_read(log, site), site, with_history_effects=history, is_weighted=weighted)
    if made.n_left_out:
        say(f"{made.n_left_out:,} visitors left out: the log had not seen them since their first visit")
    say(f"{'parameter':26s} {'value':>9s} {'error':>8s}")
    for row in made.table():
        if row["is_identified"] is not None:
            word = "" if row["is_identified"] else "   not identified"
            say(f"{row['name']:26s} {row['value']:9.4f} {row['standard_error']:8.4f}{word}")
    if made.response.trend_p < SURE:
        say(trend_text(made.response.trend_p))
    values = values_with_spread(made, policies, n_members=members, n_subjects=subjects, seed=seed)
    grid = {name: value_grid(made, p, n_subjects=subjects, seed=seed) for name, p in zip(policy, policies, strict=True)}
    say(f"kept 30 days per visitor, in simulation, 95 % over {members} members of the ensemble")
    for name, value in zip(policy, [v for v in values if v.outcome == "kept_30d"], strict=True):
        moves = [row["difference"] for row in grid[name]]
        over = f"; {min(moves):+.4f} to {max(moves):+.4f} over what is not identified" if moves else ""
        say(f"{Path(name).name:26s} {value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]{over}")
    save_scenario(made.scenario, out / "world")
    told = {
        "in_simulation": True,
        "log": log.name,
        "n_visitors": made.response.n_subjects,
        "n_left_out": made.n_left_out,
        "trend_p": made.response.trend_p,
        "parameters": made.table(),
        "identified": made.identified,
        "unidentified": made.unidentified,
        "values": [
            {**v.to_json(), "policy": name}
            for name, v in zip((n for n in policy for _ in OUTCOMES), values, strict=True)
        ],
        "grid": grid,
    }
    write_json(out / "calibration.json", told)
    report = write_calibration(told, out)
    print(f"report: {report}", file=sys.stderr)  # noqa: T201
    return 0


def fidelity(
    *,
    log: Path,
    against: str,
    scenario: str | None = None,
    policy: str | None = None,
    seed: int = 1,
    json: Path | None = None,
) -> int:
    """Say how far a log is from another, or from what a world gives: marginals, survival, autocorrelation, a classifier.

    Exit code 1 where the classifier tells them apart.

    Parameters
    ----------
    log
        Folder of a log.
    against
        Folder of another log, a world's name, or the folder of a saved world, which is then lived with as many visitors.
    scenario
        Where the offers of the log come from, if not from the log.
    policy
        Under which the world is lived, none that begins with nothing; default: as the log shows offers on average, by stage, class
        searched for and visits so far.
    seed
        Of the rollout and of the classifier's halves.
    json
        Write the figures here.
    """
    from policies.sampling import DEFAULT_EXPLORE_SHARE
    from simulator.fidelity import AsLogged, days_of_arrival
    from simulator.fidelity import fidelity as compare
    from simulator.named_policies import policy_named, refuse_learner
    from simulator.rollouts import rollout
    from simulator.scenarios.suite import site_named

    if policy is not None:
        refuse_learner(policy)
    site = _site_of(log, scenario)
    first = _read(log, site)
    if (Path(against) / "log.json").exists():
        second = _read(Path(against), site)
    else:
        world = site_named(against)
        n = len(first.subjects.n_visits)
        second = rollout(
            world,
            AsLogged.of(first) if policy is None else policy_named(policy, world, seed=seed),
            n_subjects=n,
            visit_days=days_of_arrival(first),
            as_of=first.last_day,
            seed=seed,
            explore_share=0.0 if policy is None else DEFAULT_EXPLORE_SHARE,
        )
    told = compare(first, second, seed=seed)
    say(f"{told.n_first:,} visitors against {told.n_second:,}, followed for 30 days; differences with 95 % intervals")
    say(f"{'':42s} {'log':>9s} {'against':>9s} {'difference':>28s} {'adjusted p':>11s}")
    differing = told.differing()
    for d in told.distances:
        row = d.to_json()
        if row["difference"] is None or row["low"] is None:
            say(f"{d.name:42s} {'no contracts to compare':>48s}")
            continue
        difference = f"{row['difference']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        mark = "  differs" if d.name in differing else ""
        say(f"{d.name:42s} {d.first:9.4f} {d.second:9.4f} {difference:>28s} {d.adjusted_p:11.2g}{mark}")
    low, high = told.auc_interval
    word = "it tells them apart" if told.is_told_apart else "it cannot tell them apart"
    say(
        f"a classifier of 30-day sequences: area under the curve {told.auc:.3f} [{low:.3f}, {high:.3f}] (0.5 is chance): {word}"
    )
    if json is not None:
        write_json(json, told.to_json())
    return int(told.is_told_apart)


def _by_site(name: str, site: Scenario, *, seed: int) -> PolicyFor:
    """A policy for any site: what knows the laws of a site is made anew for each, all others once."""
    from simulator.calibrated import always
    from simulator.named_policies import SPECIAL, policy_named, refuse_learner

    refuse_learner(name)
    here = policy_named(name, site, seed=seed)
    return partial(policy_named, name, seed=seed) if name in SPECIAL else always(here)


def _site_of(log: Path, scenario: str | None) -> Scenario:
    """Offers and rules of a log: those of a named site, else those that lie beside the log, else the reference site's."""
    from simulator.logs import SITE
    from simulator.scenarios.suite import first_family

    if scenario is None:
        scenario = str(log / SITE) if (log / SITE).is_dir() else "reference"
    return first_family(scenario)


def _read(folder: Path, site: Scenario) -> Rollout:
    from simulator.logs import load_log

    return load_log(folder, site.offers)
