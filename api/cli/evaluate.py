"""``nextoffer evaluate``: what a policy would have earned on a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.opening import Where
from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from engine.decisions.service import DecisionService
    from offline_eval.candidates import Candidate
    from offline_eval.censoring import RewardWindow
    from offline_eval.estimated import EstimatedLog
    from offline_eval.interop.columns import Columns
    from offline_eval.one_pass import Log
    from policies.protocols import Policy
    from policies.records import InteractionBatch, OfferSet

    AnyLog = InteractionBatch | Log | EstimatedLog

# Rows, not bytes: how far a file's text is compressed says nothing of the memory it takes.
STREAM_ABOVE_ROWS = 1_000_000


def evaluate(
    *,
    log: Path | None = None,
    placement: str | None = None,
    experiment: str | None = None,
    policy: list[str],
    against: str | None = None,
    column: list[str] | None = None,
    offer: list[str] | None = None,
    logger: list[str] | None = None,
    phase: str | None = None,
    estimate_propensities: bool = False,
    window_days: float | None = None,
    as_of: datetime | None = None,
    weigh_open: bool = False,
    explore_share: float | None = None,
    effect: float | None = None,
    out: Path | None = None,
    json: Path | None = None,
    resamples: int = 200,
    seed: int = 0,
    home: Path | None = None,
    config: Path | None = None,
) -> int:
    """Judge policies on a log in which another one acted.

    Exits 0 where every policy is recommended, 1 where one is not, 2 where the log or an option is not what it should be.

    Parameters
    ----------
    log
        Parquet file or folder, or file of separated values (``.csv``, ``.tsv``), with columns offer, reward, propensity, …; or a
        file of VW dsjson lines (``.json``, ``.jsonl``, ``.dsjson``).
    placement
        In place of ``--log``: the decisions of a placement of the service whose reward window has closed.
    experiment
        With ``--placement``: only its last phase, every row weighed by the mixture of all its variants' policies.
    policy
        Saved policy (its folder), registered version (``name@version``, or a name for its newest), ``uniform``, or
        ``always:OFFER``; may be given several times.
    against
        The incumbent: as ``policy``; without it, the policy that logged.
    column
        KEY=NAME where the log calls a column otherwise, such as ``offer=item_id``; ``ignore=NAME`` where one is no feature of the
        context; may be given several times.
    offer
        All offers, one each time, where the log does not name them all or its lists of probabilities have another order than the
        alphabet's.
    logger
        VARIANT=POLICY for every variant of a log in which several policies acted: each row is then weighed by the mixture of
        them all, with the explore share of ``--explore-share``. Without it, by its own propensity.
    phase
        Only the rows of this phase.
    estimate_propensities
        For a log without propensities: estimate them from the context. The report says so and never recommends.
    window_days
        Rewards count so many days after the decision; rows whose window is still open are left out. Needs the columns at and
        rewarded_at, and ``--as-of``.
    as_of
        Until when the log, or the service, knows of rewards; now, for a placement, if not given.
    weigh_open
        Keep rows with open windows and weigh the rewards that came by their chance of being seen by then.
    explore_share
        Share of uniform exploration the policies would be served with; with ``--placement`` the placement's own if not given, else
        0.05. The report says which.
    effect
        Smallest difference that matters, in the unit of the reward; a tenth of the incumbent's value if not given.
    out
        Write an HTML report here, and its JSON twin beside it.
    json
        Write the panel's figures here; ``--json=-`` for stdout instead of the table.
    resamples
        Bootstrap resamples of subjects; 0 for none.
    seed
        Of folds and resamples.
    home
        Folder of the service, for ``--placement`` and registered versions; the report is kept there too, for the console.
    config
        TOML file of settings, in place of ``--home``.
    """
    from offline_eval import evaluate as judge

    where = Where(home, config)
    about_log = {
        "--column": column, "--offer": offer, "--logger": logger, "--window-days": window_days,
        "--weigh-open": weigh_open, "--estimate-propensities": estimate_propensities,
    }  # fmt: skip
    with ExitStack() as stack:
        store = _Store(stack, where)
        if (log is None) == (placement is None):
            raise InvalidInputError("pass either --log or --placement")
        if out is not None and json is not None and out.with_suffix(".json") == json:
            raise InvalidInputError(f"--out {out} writes the page's figures to {json} too; give --json another name")
        data: AnyLog
        notes: list[str] = []
        if log is not None:
            _refuse({"--experiment": experiment}, "belongs to --placement")
            window = _window(window_days, as_of, weigh_open=weigh_open)
            if _is_dsjson(log):
                _refuse(about_log, "does not apply to dsjson, whose lines hold offers, rewards and propensities")
            data, notes = _log(
                log,
                columns=_columns(column or []),
                offers=offer,
                window=window,
                weigh_open=weigh_open,
                estimate=estimate_propensities,
            )
        else:
            from engine.decisions.pooled import logged  # here: a log in a file needs no service

            assert placement is not None
            _refuse(about_log, "belongs to --log: the service knows its own decisions")
            data = logged(store.service(), placement, experiment=experiment, as_of=_aware(as_of) or datetime.now(UTC))
        share, told = _explore_share(explore_share, placement, store)
        if phase is not None:
            data = _of_phase(data, phase)
        if logger:
            data = _mixed(data, logger, store, explore_share=share)
        elif experiment is None:
            notes += _several_loggers(data, "--experiment" if log is None else "--logger VARIANT=POLICY for each")
        notes.append(told)
        offers = _offers(data)
        candidates = {_name(p): _policy(p, offers, store) for p in policy}
        if len(candidates) < len(policy):
            raise InvalidInputError("two policies have the same name; give each a folder or file of its own")
        incumbent = None if against is None else _name(against)
        if against is not None and incumbent is not None:
            if incumbent in candidates:
                raise InvalidInputError(
                    f"{incumbent!r} is both --policy and --against; expected another incumbent: a policy is not compared with itself"
                )
            candidates[incumbent] = _policy(against, offers, store)
        panel = judge(
            data,
            candidates,
            incumbent=incumbent,
            explore_share=share,
            minimal_effect=effect,
            n_resamples=resamples,
            seed=seed,
        )
    panel = replace(panel, notes=(*panel.notes, *notes))
    _print(panel.to_table(), panel.to_json(), json)
    about = placement or Path(str(log)).name
    if out is not None or where.is_named:
        report = panel.page(title=f"Off-policy evaluation on {about}")
        if out is not None:
            page, twin = report.write(out)
            print(f"report: {page}, figures: {twin}", file=sys.stderr)  # noqa: T201 - words on stderr
        if where.is_named:
            where.keep(report, kind="evaluate", about=about)
    return 0 if all(v.word == "recommend" for v in panel.verdicts.values()) else 1


class _Store:
    """The service's store, opened when something is asked of it."""

    def __init__(self, stack: ExitStack, where: Where) -> None:
        self._stack, self.where = stack, where
        self._service: DecisionService | None = None

    def service(self) -> DecisionService:
        """The open service."""
        if self._service is None:
            self._service = self._stack.enter_context(self.where.opened())
        return self._service


def _explore_share(asked: float | None, placement: str | None, store: _Store) -> tuple[float, str]:
    """The share candidates are valued with, and whose it is, for the report."""
    from policies.sampling import DEFAULT_EXPLORE_SHARE

    share, whose = asked, "as asked"
    if share is None and placement is not None:
        share, whose = store.service().placement(placement)[0].explore_share, f"that of placement {placement!r}"
    elif share is None:
        share, whose = (
            DEFAULT_EXPLORE_SHARE,
            "the default: pass --explore-share where they would be served with another",
        )
    return share, f"Policies are valued with an explore share of {100 * share:g} %, {whose}."


def _print(table: str, figures: dict[str, object], path: Path | None) -> None:
    import json

    text = json.dumps(figures, indent=1, allow_nan=False)
    if path is not None and str(path) == "-":
        print(text)  # noqa: T201 - data on stdout
        return
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
    print(table)  # noqa: T201 - data on stdout


def _refuse(options: Mapping[str, object], why: str) -> None:
    """An option that would be passed over in silence is wrong usage."""
    for name, value in options.items():
        if value:
            raise InvalidInputError(f"{name} {why}; leave it out")


def _is_dsjson(path: Path) -> bool:
    if path.is_dir():
        return next(path.rglob("*.dsjson"), None) is not None
    return path.suffix in (".json", ".dsjson", ".jsonl")


def _log(
    path: Path,
    *,
    columns: Columns,
    offers: list[str] | None,
    window: RewardWindow | None,
    weigh_open: bool,
    estimate: bool,
) -> tuple[AnyLog, list[str]]:
    """The log, and what has to be said of it."""
    from offline_eval.interop.arrow import ParquetLog, count_rows, estimated_from_arrow, from_arrow, is_csv, read_table
    from offline_eval.interop.dsjson import read_dsjson

    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; expected a log as Parquet, separated values or dsjson")
    if _is_dsjson(path):
        return read_dsjson(path), []
    if not (is_csv(path) or estimate or weigh_open) and count_rows(path) > STREAM_ABOVE_ROWS:
        return ParquetLog(path, offers, columns, window), []
    table = read_table(path, columns=columns)
    notes = []
    if window is None and columns.rewarded_at in table.column_names:
        notes.append(
            f"Column {columns.rewarded_at!r} was not used: rewards that may still come count as they stand. Pass --window-days and "
            "--as-of to leave rows out whose window is open."
        )
    read = estimated_from_arrow if estimate else from_arrow
    return read(table, offers=offers, columns=columns, window=window, is_weighted=weigh_open), notes


def _of_phase(data: AnyLog, phase: str) -> InteractionBatch:
    import numpy as np

    from policies.errors import UnknownNameError

    batch = _in_memory(data, "--phase")
    if batch.phases is None:
        raise InvalidInputError("the log has no phases; leave --phase out, or name the column with --column phase=NAME")
    rows = np.flatnonzero(batch.phases == phase)
    if not len(rows):
        raise UnknownNameError("phase", phase, map(str, np.unique(batch.phases)))
    kept: InteractionBatch = batch.take(rows)
    return kept


def _mixed(data: AnyLog, given: list[str], store: _Store, *, explore_share: float) -> InteractionBatch:
    """The log as if the mixture of all its variants' policies had drawn it."""
    from offline_eval.loggers import balanced

    pairs = [g.partition("=") for g in given]
    for variant, sign, policy in pairs:
        if not variant or not sign or not policy:
            raise InvalidInputError(f"--logger {variant}{sign}{policy} is not understood; expected VARIANT=POLICY")
    batch = _in_memory(data, "--logger")
    loggers = {variant: _policy(policy, batch.table.offers, store) for variant, _, policy in pairs}
    return balanced(batch, loggers, explore_share=explore_share)


def _several_loggers(data: AnyLog, option: str) -> list[str]:
    """Rows of an A/B test have little weight for each other's policies, unless the policies of all variants are known."""
    import numpy as np

    from policies.records import InteractionBatch

    if not isinstance(data, InteractionBatch) or data.variants is None:
        return []
    names = [str(name) for name in np.unique(data.variants) if name]
    if len(names) < 2:
        return []
    return [
        f"Variants {', '.join(names[:5])} logged, and each row is weighed by its own propensity: with {option} it is weighed by the "
        "mixture of all of them, within a phase, which gives more effective rows."
    ]


def _in_memory(data: AnyLog, option: str) -> InteractionBatch:
    from policies.records import InteractionBatch

    if isinstance(data, InteractionBatch):
        return data
    raise InvalidInputError(
        f"{option} needs the log in memory and its propensities; expected at most {STREAM_ABOVE_ROWS:,} rows, "
        "without --estimate-propensities: write the rows of one phase to a log of their own"
    )


def _columns(given: list[str]) -> Columns:
    from offline_eval.interop.columns import Columns

    pairs = [c.partition("=") for c in given]
    known = set(Columns.__slots__)
    for key, sign, name in pairs:
        if not sign or not name or key not in known:
            raise InvalidInputError(
                f"--column {key}{sign}{name} is not understood; expected KEY=NAME with KEY among {', '.join(sorted(known))}"
            )
    ignored = tuple(name for key, _, name in pairs if key == "ignore")
    return Columns(ignore=ignored, **{key: name for key, _, name in pairs if key != "ignore"})


def _window(days: float | None, as_of: datetime | None, *, weigh_open: bool) -> RewardWindow | None:
    from offline_eval.censoring import RewardWindow

    if days is None:
        _refuse({"--as-of": as_of, "--weigh-open": weigh_open}, "needs --window-days: for how long do rewards count?")
        return None
    known_until = _aware(as_of)
    if known_until is None:
        raise InvalidInputError("--window-days needs --as-of: until when does the log know of rewards?")
    return RewardWindow(days, known_until)


def _aware(at: datetime | None) -> datetime | None:
    """A moment that names no time zone is meant in UTC."""
    return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)


def _offers(data: AnyLog) -> OfferSet:
    from offline_eval.estimated import EstimatedLog
    from policies.records import InteractionBatch

    if isinstance(data, EstimatedLog):
        data = data.batch
    return data.table.offers if isinstance(data, InteractionBatch) else data.offers


def _name(policy: str) -> str:
    return Path(policy).stem if Path(policy).exists() else policy


def _policy(policy: str, offers: OfferSet, store: _Store) -> Candidate:
    from policies.artifact import load_artifact
    from policies.fixed import FixedOrder, Uniform
    from policies.registry import load_policy

    if policy == "uniform":
        return Uniform()
    if policy.startswith("always:"):
        wanted = policy.removeprefix("always:")
        if wanted not in offers.ids:
            raise InvalidInputError(
                f"the log has no offer {wanted!r}; its offers are {', '.join(offers.ids[:20])}: pass all with --offer where one was never shown"
            )
        return FixedOrder((wanted,))
    if Path(policy).exists():
        return _known(load_policy(load_artifact(Path(policy))), policy, offers)
    if not store.where.is_named and "@" not in policy:
        raise InvalidInputError(
            f"policy {policy!r} is no folder; expected that of a saved policy, 'uniform', 'always:OFFER', or a registered name with --home"
        )
    return _known(store.service().policies.load(policy).policy, policy, offers)


def _known(policy: Policy, name: str, offers: OfferSet) -> Policy:
    """A list of offers none of which the log has would show others, and be judged by them."""
    order = getattr(policy, "order", ())
    if order and not set(order) & set(offers.ids):
        raise InvalidInputError(
            f"policy {name!r} shows {', '.join(map(str, order[:5]))}, and the log has none of these: its offers are "
            f"{', '.join(offers.ids[:20])}; name the ones never shown with --offer, or pass another log"
        )
    return policy
