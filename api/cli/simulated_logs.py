"""``nextoffer simulate log``, ``raw``, ``service-log`` and ``own-log``: logs of simulated worlds, and real ones in the same form."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.opening import HERE, Where
from api.cli.simulate import ScenarioName
from api.cli.telling import output_folder, say, teller

if TYPE_CHECKING:
    from simulator.rollouts import Rollout


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
    learn_from: str | None = None,
    confounded: float | None = None,
) -> int:
    """Write the log of one policy, as off-policy evaluation and calibration read it.

    Parameters
    ----------
    out
        Folder of the log; `nextoffer evaluate --log OUT/decisions.parquet` judges policies on it.
    scenario, policy, subjects, days, seed, explore_share, learn_from
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
    output_folder(out)
    run = _lived(
        scenario, policy, subjects=subjects, days=days, seed=seed, setting=setting, as_of=as_of, share=explore_share,
        learn_from=learn_from, confounded=confounded,
    )  # fmt: skip
    save_log(run, out, reward=reward, believed=None if confounded is None else believed_probabilities(run))
    site = site_named(scenario, setting)
    if isinstance(site, Scenario):
        save_site(site, out)
    n_matured = int(run.subjects.is_matured.sum())
    say(f"{len(run.chosen):,} decisions of {subjects:,} visitors, {n_matured:,} of them with a closed window: {out}")
    return 0


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
    save_log(run, output_folder(out), is_simulated=False)
    save_site(site, out)
    say(_about(run, out))
    return 0


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
    from simulator.scenarios.suite import first_family

    site = first_family(scenario)
    if offers is not None:
        site = site_with(offers.stem, offers_of(offers), site.rules)
    run = read(read_table(decisions), read_table(contracts), site, until=until)
    save_log(run, output_folder(out), is_simulated=False)
    save_site(site, out)
    say(_about(run, out))
    return 0


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
    learn_from: str | None = None,
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
    scenario, policy, subjects, days, seed, setting, as_of, explore_share, learn_from
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
    output_folder(out)
    run = _lived(
        scenario, policy, subjects=subjects, days=days, seed=seed, setting=setting, as_of=as_of, share=explore_share,
        learn_from=learn_from,
    )  # fmt: skip
    counts = export_raw(run, out, seed=seed, mess=mess)
    for name, n in counts.items():
        say(f"{name.replace('_', ' '):28s} {n:>10,}")
    print(f"described in {out / 'source.toml'}", file=sys.stderr)  # noqa: T201
    return 0


def _about(run: Rollout, out: Path) -> str:
    n_signed, n_left = int(run.subjects.subscribed.sum()), int((run.subjects.cancelled_day >= 0).sum())
    return (
        f"{len(run.chosen):,} decisions of {len(run.subjects.n_visits):,} visitors in {run.last_day + 1} days, {n_signed:,} contracts, "
        f"{n_left:,} of them cancelled: {out}"
    )


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
    learn_from: str | None,
    confounded: float | None = None,
) -> Rollout:
    """One policy's visitors; the scenario is the world of that name unless a setting is given."""
    from simulator.confounded import HiddenHand
    from simulator.experiments import learned_reward
    from simulator.named_policies import LEARNERS, policy_named
    from simulator.rollouts import rollout
    from simulator.scenarios.suite import site_named, study_named

    site = site_named(scenario, setting)
    reward = learned_reward(study_named(scenario), learn_from)
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
        learn_from=reward if policy in LEARNERS else None,
        on_day=teller("days"),
    )
