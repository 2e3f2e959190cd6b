"""``nextoffer simulate``: experiments in simulated worlds, their logs, and sites fitted on logs."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import App, Parameter

from api.cli.opening import HERE, Where

if TYPE_CHECKING:
    from simulator.rollouts import RewardName, Rollout
    from simulator.scenarios.car_subscription import Scenario

app = App(name="simulate", help="Policies side by side in simulated worlds; logs of them; sites fitted on logs")

ScenarioName = Annotated[str, Parameter(name=("--scenario", "--world"))]


@app.default
def simulate(
    *,
    scenario: ScenarioName = "reference",
    policy: tuple[str, ...] = ("uniform",),
    subjects: int = 20_000,
    days: int = 14,
    seeds: int = 3,
    seed: int = 1,
    setting: tuple[float, ...] = (),
    explore_share: float = 0.05,
    learn_from: str | None = None,
    out: Path | None = None,
    ray: str | None = None,
    json: Path | None = None,
    home: Path | None = None,
) -> int:
    """Let policies choose for simulated visitors until 30 days after the last contract.

    Parameters
    ----------
    scenario
        A world (reference, null, alike, trial, lapsed, changing, everything, tabular, habit, habit-null), a family of worlds with a swept
        setting (retention, retention-tabular, bargain-trap, shock, drift), or a folder with a saved world.
    policy
        Repeat it: uniform, oracle, greedy, planned or careful (tabular worlds), an offer's id, the folder of a saved policy, or a learner
        that begins with nothing and learns every evening (lints, linucb, logistic_thompson, shared_lints, beta_thompson). Differences are to the first; the baseline of scores is lived as well.
    subjects
        Visitors per seed.
    days
        Over which they arrive.
    seeds
        How many cohorts.
    seed
        The first seed; the others count up from it.
    setting
        Repeat it: values of the swept setting in place of the scenario's own.
    explore_share
        Share of decisions given to uniform exploration.
    learn_from
        Which reward learners learn from, once it is final: clicked (the same evening), subscribed (14 days later), kept_30d or
        margin_eur (44 days later); default: what the scenario scores. Give them enough days.
    out
        Keep one Parquet file a cell and a report here; the same command begun again lives only what is left.
    ray
        Live the cells on Ray: local, or the address of a cluster that sees the folder.
    json
        Write the figures here.
    home
        Folder of a service: the report is kept there, for the console.
    """
    import tempfile

    from engine.simulation.report import page, write_page
    from engine.simulation.sweep import run_cells, run_on_ray
    from simulator.experiments import plan, read_lives, summarise, with_baseline

    cells = plan(
        scenario,
        with_baseline(scenario, policy),
        n_subjects=subjects,
        visit_days=days,
        seeds=range(seed, seed + seeds),
        settings=setting or None,
        explore_share=explore_share,
        learn_from=cast("RewardName | None", learn_from),
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = _folder(out) if out is not None else Path(scratch)
        if ray is None:
            n_lived = run_cells(cells, folder, on_done=_teller("rollouts"))
        else:
            n_lived = run_on_ray(cells, folder, address=ray, on_done=_teller("rollouts"))
        lives = read_lives(cells, folder)
        told = summarise(cells, lives)
        if out is not None:
            _write_json(out / "summary.json", told)
            report = write_page(cells, lives, told, out)
            print(f"{n_lived} of {len(cells)} rollouts were new; report: {report}", file=sys.stderr)  # noqa: T201
        if home is not None:
            Where(home).keep(page(cells, lives, told), kind="simulate", about=scenario)
    _print_summary(told)
    if json is not None:
        _write_json(json, told)
    return 0


@app.command
def log(
    *,
    out: Path,
    scenario: ScenarioName = "reference",
    policy: str = "uniform",
    subjects: int = 20_000,
    days: int = 14,
    seed: int = 1,
    setting: float | None = None,
    as_of: int | None = None,
    reward: str = "kept_30d",
    explore_share: float = 0.05,
    confounded: float | None = None,
) -> int:
    """Write the log of one policy, as off-policy evaluation and calibration read it.

    Parameters
    ----------
    out
        Folder of the log; `nextoffer evaluate --log OUT/decisions.parquet` judges policies on it.
    scenario, policy, subjects, days, seed, explore_share
        As of `nextoffer simulate`.
    setting
        Value of the scenario's swept setting; default: that of the world of this name.
    as_of
        Last day in the log, counted from 0: what has not come by that evening is missing.
    reward
        Which one estimators read: clicked, subscribed, kept_30d or margin_eur.
    confounded
        In place of a policy, somebody chose who knows more of visitors than the site: how strongly, 0 for not at all. The log states
        the propensities that the site would believe in; those that were true are in visits.parquet.
    """
    from policies.errors import InvalidInputError, UnknownNameError
    from simulator.confounded import believed_probabilities
    from simulator.logs import save_log, save_site
    from simulator.rollouts import REWARDS
    from simulator.scenarios.car_subscription import Scenario
    from simulator.scenarios.suite import site_named

    if reward not in REWARDS:
        raise UnknownNameError("reward", reward, REWARDS)
    if confounded is not None and policy != "uniform":
        raise InvalidInputError(
            f"got --policy {policy} and --confounded; expected one of them: a confounded log has no policy"
        )
    _folder(out)
    run = _lived(
        scenario, policy, subjects=subjects, days=days, seed=seed, setting=setting, as_of=as_of, share=explore_share,
        confounded=confounded,
    )  # fmt: skip
    save_log(run, out, reward=reward, believed=None if confounded is None else believed_probabilities(run))
    site = site_named(scenario, setting)
    if isinstance(site, Scenario):
        save_site(site, out)
    n_matured = int(run.subjects.is_matured.sum())
    _say(f"{len(run.chosen):,} decisions of {subjects:,} visitors, {n_matured:,} of them with a closed window: {out}")
    return 0


@app.command(name="service-log")
def service_log(
    *,
    where: Where = HERE,
    out: Path,
    placement: str = "home",
    as_of: datetime | None = None,
    clicked: str = "clicked",
    subscribed: str = "subscribed",
    kept: str = "active_30d",
    margin: str = "margin_eur",
    cancelled: str = "cancelled",
) -> int:
    """Write the log of a service in the form that calibration and fidelity read, with the site's offers and rules beside it.

    Parameters
    ----------
    out
        Folder of the log.
    placement
        Whose decisions; its offers have to be described as the simulator's are.
    as_of
        Last moment that is read; default: that of the last decision or fact. Windows that are open then are in the log and censored.
    clicked, subscribed, kept, margin, cancelled
        Kinds of facts in which the service is told of these.
    """
    from datetime import UTC

    from engine.offers.stored import placement_in
    from engine.simulation.store_log import last_told, rollout_of, scenario_of
    from simulator.logs import save_log, save_site

    kinds = {
        "clicked": clicked,
        "subscribed": subscribed,
        "kept_30d": kept,
        "margin_eur": margin,
        "cancelled": cancelled,
    }
    with where.stored() as (database, _):
        found, _ = placement_in(database, placement)
        site = scenario_of(found)
        until = last_told(database, placement) if as_of is None else as_of
        run = rollout_of(database, found, site, kinds=kinds, as_of=until if until.tzinfo else until.replace(tzinfo=UTC))
    save_log(run, _folder(out), is_simulated=False)
    save_site(site, out)
    _say(_about(run, out))
    return 0


@app.command(name="own-log")
def own_log(
    *,
    decisions: Path,
    contracts: Path,
    out: Path,
    offers: Path | None = None,
    scenario: ScenarioName = "reference",
    until: datetime | None = None,
) -> int:
    """Write decisions and contracts of your own in the form that calibration and fidelity read.

    Parameters
    ----------
    decisions
        Parquet, one row a decision: subject, at, offer, clicked, stage (visitor, subscriber), searched_class; if known propensity, eligible
        (list of offers) and n_visits (visits before, from 0). Other columns are traits of the visitor.
    contracts
        Parquet, one row a contract: subject, signed_at, cancelled_at.
    out
        Folder of the log.
    offers
        JSON list of your offers, each with id and features: car_class, family, monthly_price_eur, term_months, discount_pct, perk,
        margin_eur. Default: the scenario's.
    scenario
        Where the offers come from otherwise, and the rules.
    until
        Up to when everything is known; default: the last moment in the files.
    """
    from simulator.logs import save_log, save_site
    from simulator.own_log import offers_of, read_table, site_with
    from simulator.own_log import own_log as read

    site = _first_family(scenario)
    if offers is not None:
        site = site_with(offers.stem, offers_of(offers), site.rules)
    run = read(read_table(decisions), read_table(contracts), site, until=until)
    save_log(run, _folder(out), is_simulated=False)
    save_site(site, out)
    _say(_about(run, out))
    return 0


def _about(run: Rollout, out: Path) -> str:
    n_signed, n_left = int(run.subjects.subscribed.sum()), int((run.subjects.cancelled_day >= 0).sum())
    return (
        f"{len(run.chosen):,} decisions of {len(run.subjects.n_visits):,} visitors in {run.last_day + 1} days, {n_signed:,} contracts, "
        f"{n_left:,} of them cancelled: {out}"
    )


@app.command
def raw(
    *,
    out: Path,
    scenario: ScenarioName = "reference",
    policy: str = "uniform",
    subjects: int = 5_000,
    days: int = 14,
    seed: int = 1,
    setting: float | None = None,
    as_of: int | None = None,
    explore_share: float = 0.05,
    duplicated: float = 0.02,
    late: float = 0.03,
    missing: float = 0.05,
    second_browser: float = 0.25,
    unstitched: float = 0.30,
) -> int:
    """Write what a company would have of one policy's visitors: analytics, customers and billing in their usual mess, and the truth.

    Parameters
    ----------
    out
        Folder for web_analytics.jsonl, customers.csv, billing.csv, the truth beside them, counts.json, and source.toml, which
        `nextoffer sequences build --source OUT/source.toml` reads.
    scenario, policy, subjects, days, seed, setting, as_of, explore_share
        As of `nextoffer simulate log`.
    duplicated
        Share of events and invoices that are there twice.
    late
        Share of events received one to three days late.
    missing
        Share of traits and event properties left empty.
    second_browser
        Share of subjects who use a second browser from some visit on.
    unstitched
        Share of second browsers that the customer table does not know.
    """
    from simulator.exports import Mess, export_raw

    mess = Mess(duplicated, late, missing, second_browser, unstitched)
    _folder(out)
    run = _lived(
        scenario, policy, subjects=subjects, days=days, seed=seed, setting=setting, as_of=as_of, share=explore_share
    )
    counts = export_raw(run, out, seed=seed, mess=mess)
    for name, n in counts.items():
        _say(f"{name.replace('_', ' '):28s} {n:>10,}")
    print(f"described in {out / 'source.toml'}", file=sys.stderr)  # noqa: T201
    return 0


@app.command
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
        Where offers and rules come from, if not from the log; its parameters are not read.
    policy
        Repeat it: policies to value on an ensemble of fits and over the grid of what is not identified.
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
    from simulator.named_policies import policy_named
    from simulator.scenarios.files import save_scenario
    from simulator.truth import OUTCOMES

    site = _site_of(log, scenario)
    made = fit(_read(log, site), site, with_history_effects=history, is_weighted=weighted)
    if made.n_left_out:
        _say(f"{made.n_left_out:,} visitors left out: the log had not seen them since their first visit")
    _say(f"{'parameter':26s} {'value':>9s} {'error':>8s}")
    for row in made.table():
        if row["is_identified"] is not None:
            word = "" if row["is_identified"] else "   not identified"
            _say(f"{row['name']:26s} {row['value']:9.4f} {row['standard_error']:8.4f}{word}")
    if made.response.trend_p < SURE:
        _say(trend_text(made.response.trend_p))
    policies = [policy_named(name, made.scenario, seed=seed) for name in policy]
    values = values_with_spread(made, policies, n_members=members, n_subjects=subjects, seed=seed)
    grid = {name: value_grid(made, p, n_subjects=subjects, seed=seed) for name, p in zip(policy, policies, strict=True)}
    _say(f"kept 30 days per visitor, in simulation, 95 % over {members} members of the ensemble")
    for name, value in zip(policy, [v for v in values if v.outcome == "kept_30d"], strict=True):
        moves = [row["difference"] for row in grid[name]]
        over = f"; {min(moves):+.4f} to {max(moves):+.4f} over what is not identified" if moves else ""
        _say(f"{Path(name).name:26s} {value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]{over}")
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
    _write_json(out / "calibration.json", told)
    report = write_calibration(told, out)
    print(f"report: {report}", file=sys.stderr)  # noqa: T201
    return 0


@app.command
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
        Under which the world is lived; default: as the log shows offers on average, by stage, class searched for and visits so far.
    seed
        Of the rollout and of the classifier's halves.
    json
        Write the figures here.
    """
    from policies.sampling import DEFAULT_EXPLORE_SHARE
    from simulator.fidelity import AsLogged, days_of_arrival
    from simulator.fidelity import fidelity as compare
    from simulator.named_policies import policy_named
    from simulator.rollouts import rollout
    from simulator.scenarios.suite import site_named

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
    _say(f"{told.n_first:,} visitors against {told.n_second:,}, followed for 30 days; differences with 95 % intervals")
    _say(f"{'':42s} {'log':>9s} {'against':>9s} {'difference':>28s} {'adjusted p':>11s}")
    differing = told.differing()
    for d in told.distances:
        row = d.to_json()
        if row["difference"] is None or row["low"] is None:
            _say(f"{d.name:42s} {'no contracts to compare':>48s}")
            continue
        difference = f"{row['difference']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        mark = "  differs" if d.name in differing else ""
        _say(f"{d.name:42s} {d.first:9.4f} {d.second:9.4f} {difference:>28s} {d.adjusted_p:11.2g}{mark}")
    low, high = told.auc_interval
    word = "it tells them apart" if told.is_told_apart else "it cannot tell them apart"
    _say(
        f"a classifier of 30-day sequences: area under the curve {told.auc:.3f} [{low:.3f}, {high:.3f}] (0.5 is chance): {word}"
    )
    if json is not None:
        _write_json(json, told.to_json())
    return int(told.is_told_apart)


def _site_of(log: Path, scenario: str | None) -> Scenario:
    """Offers and rules of a log: those of a named site, else those that lie beside the log, else the reference site's."""
    from simulator.logs import SITE

    if scenario is None:
        scenario = str(log / SITE) if (log / SITE).is_dir() else "reference"
    return _first_family(scenario)


def _lived(
    scenario: str,
    policy: str,
    *,
    subjects: int,
    days: int,
    seed: int,
    setting: float | None,
    as_of: int | None,
    share: float,
    confounded: float | None = None,
) -> Rollout:
    """One policy's visitors; the scenario is the world of that name unless a setting is given."""
    from simulator.confounded import HiddenHand
    from simulator.named_policies import policy_named
    from simulator.rollouts import rollout
    from simulator.scenarios.suite import site_named

    site = site_named(scenario, setting)
    return rollout(
        site,
        policy_named(policy, site, seed=seed)
        if confounded is None
        else HiddenHand(site, seed=seed, strength=confounded),
        n_subjects=subjects,
        visit_days=days,
        as_of=as_of,
        seed=seed,
        explore_share=share,
        on_day=_teller("days"),
    )


def _folder(path: Path) -> Path:
    """A folder that can be written to, before hours are spent on what goes into it."""
    from policies.errors import InvalidInputError

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"cannot write to {path} ({error.strerror}); expected a folder, or a place for one"
        ) from error
    return path


def _first_family(name: str) -> Scenario:
    from policies.errors import InvalidInputError
    from simulator.scenarios.car_subscription import Scenario
    from simulator.scenarios.suite import site_named

    site = site_named(name)
    if not isinstance(site, Scenario):
        raise InvalidInputError(
            f"world {name!r} follows other laws; expected one of the first family, such as reference"
        )
    return site


def _read(folder: Path, site: Scenario) -> Rollout:
    from simulator.logs import load_log

    return load_log(folder, site.offers)


def _teller(what: str) -> Any:
    if not sys.stderr.isatty():
        return None

    def tell(done: int, total: int) -> None:
        print(f"\r{done} of {total} {what}", end="\n" if done == total else "", file=sys.stderr, flush=True)  # noqa: T201

    return tell


def _print_summary(told: dict[str, Any]) -> None:
    from engine.simulation.report import crossing_text

    sizes = f"{len(told['seeds'])} x {told['n_subjects']:,} visitors"
    _say(f"{told['scenario']}: {sizes}, in simulation; 95 % intervals")
    _say(
        f"{'policy':28s} {'subscribed':>26s} {'kept 30 days':>26s} {'margin EUR':>24s} {'kept against first':>26s} {'score':>7s}"
    )
    for entry in told["settings"]:
        if told["setting"]:
            _say(f"{told['setting']} {entry['at']:g}")
        for row in entry["policies"]:
            cells = [_cell(row["subscribed"], "%"), _cell(row["kept_30d"], "%"), _cell(row["margin_eur"], "")]
            cells.append(_cell(row["against_first"]["kept_30d"], "%"))
            score = f"{row['score']:7.2f}" if "score" in row else f"{'-':>7s}"
            _say(
                f"{Path(row['policy']).name:28s} {cells[0]:>26s} {cells[1]:>26s} {cells[2]:>24s} {cells[3]:>26s} {score}"
            )
        if "best_possible" in entry:
            best = entry["best_possible"]
            word = "the exact optimum keeps" if best["is_exact"] else "no policy can keep more than"
            _say(f"{word} {best['value']:.2%}")
    for turn in told["crossings"]:
        _say(crossing_text(turn, told["setting"]))


def _say(text: str) -> None:
    print(text)  # noqa: T201 - data on stdout


def _cell(value: dict[str, float], unit: str) -> str:
    scale = 100.0 if unit == "%" else 1.0
    return f"{value['mean'] * scale:.2f}{unit} [{value['low'] * scale:.2f}, {value['high'] * scale:.2f}]"


def _write_json(path: Path, told: dict[str, Any]) -> None:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
