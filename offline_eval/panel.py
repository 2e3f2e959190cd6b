"""The answer to "what would this policy have earned?": a panel of estimates, differences, checks and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from offline_eval.candidates import features_of
from offline_eval.diagnostics import TESTS_OF_PROPENSITIES, Check, candidate_checks, log_checks
from offline_eval.distribution import NOT_OF_WEIGHTED, Distribution, distribution
from offline_eval.estimated import NO_TEST, EstimatedLog
from offline_eval.estimates import Estimate, Estimation
from offline_eval.estimators import Estimator, Shrunk, default_estimators
from offline_eval.intervals import Bounds, z_value
from offline_eval.mixed import NO_TEST_OF_A_MIXTURE, MixedLog
from offline_eval.one_pass import Candidate, DistributedLog, Log, Model, Pass, read_once
from offline_eval.panel_figures import figures_under
from offline_eval.refusals import check_estimators, check_kinds, check_settings, check_size
from offline_eval.reward_models import FitReward, cross_fit, fit_reward_model, identifiers
from offline_eval.verdict import Incumbent, Verdict, judge
from policies.errors import InvalidInputError, UnknownNameError
from policies.features import MAX_LEVELS
from policies.records import DecisionTable, InteractionBatch, OfferSet

if TYPE_CHECKING:
    from offline_eval.report import Page

LOGGED = "logging policy"
# Distributions are sorted for every resample; of more rows than these an even sample is.
MAX_SORTED_ROWS = 200_000
HEADLINES = ("SNDR", "DR", "SNIPS", "IPS", "baseline-corrected IPS")


@dataclass(frozen=True, slots=True, repr=False)
class Panel:
    """Estimates of all candidates by all estimators, their differences to the incumbent, checks and verdicts.

    Attributes
    ----------
    estimates
        By candidate and estimator name; the incumbent is among the candidates.
    differences
        Candidate less incumbent, by candidate and estimator name.
    log_checks
        Checks of the log itself.
    checks
        Checks by candidate.
    verdicts
        By candidate, without the incumbent.
    headline
        Name of the estimator verdicts rest on.
    distributions
        Quantiles of the reward of a decision by candidate, for logs in memory and rewards of more than two values that are not
        weighted; of more than 200,000 rows, of an even sample.
    estimation
        What estimates were made from, and with.
    settings
        What the panel was made with.
    """

    incumbent: str
    headline: str
    n_rows: int
    n_units: int | None
    mean_reward: float
    estimates: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]
    log_checks: Sequence[Check]
    checks: Mapping[str, Sequence[Check]]
    verdicts: Mapping[str, Verdict]
    effective_rows: Mapping[str, float]
    largest_weight: Mapping[str, float]
    offer_ids: Sequence[str]
    estimation: Estimation
    notes: Sequence[str] = ()
    distributions: Mapping[str, Distribution] = field(default_factory=dict)
    settings: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def data(self) -> Pass:
        """What the reading of the log has left behind."""
        return self.estimation.data

    @property
    def alpha(self) -> float:
        """Error probability of intervals."""
        return self.estimation.alpha

    def __str__(self) -> str:
        return self.to_table()

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {v.word}" for name, v in self.verdicts.items())
        return f"Panel({self.n_rows:,} rows, incumbent {self.incumbent!r}; {told})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return f"<pre>{escape(self.to_table())}</pre>"

    @property
    def distributions_note(self) -> str:
        """What quantiles are of, and where those of a visitor's return are; empty where there are none."""
        if not self.distributions:
            return ""
        if self.data.moments.rows_are_units or self.n_units is None or self.n_units >= self.n_rows:
            return "Quantiles are of decisions."
        return (
            f"Quantiles are of decisions, not of visitors: {self.n_units:,} subjects have {self.n_rows:,} decisions. Those of what a "
            "visitor earns over all decisions: offline_eval.sequential.evaluate_sequences, whose panel has the distribution of returns."
        )

    def estimate(self, candidate: str, estimator: str | None = None) -> Estimate:
        """One estimate; by the headline estimator unless told otherwise.

        Raises
        ------
        UnknownNameError
            If there is no such candidate or estimator.
        """
        if candidate not in self.estimates:
            raise UnknownNameError("candidate", candidate, self.estimates)
        name = self.headline if estimator is None else estimator
        if name not in self.estimates[candidate]:
            raise UnknownNameError("estimator", name, self.estimates[candidate])
        return self.estimates[candidate][name]

    def difference(self, candidate: str, against: str, estimator: str | None = None) -> Estimate:
        """Candidate less another candidate, with an interval that knows they were judged on the same rows."""
        name = self.headline if estimator is None else estimator
        self.estimate(candidate, name)
        self.estimate(against, name)
        (used,) = (e for e in self.data.estimators[candidate] if e.name == name)
        return self.estimation.difference(used, candidate, against)

    def to_json(self) -> dict[str, Any]:
        """Plain values: every figure of the panel; null where there is none, never NaN."""
        return {
            "incumbent": self.incumbent,
            "headline": self.headline,
            "confidence": 1 - self.alpha,
            "rows": self.n_rows,
            "units": self.n_units,
            "mean_reward": self.mean_reward,
            "log_checks": [c.to_json() for c in self.log_checks],
            "candidates": {
                name: {
                    "effective_sample_size": self.effective_rows[name],
                    "largest_weight": self.largest_weight[name],
                    "estimates": {k: e.to_json() for k, e in self.estimates[name].items()},
                    "differences": {k: e.to_json() for k, e in self.differences.get(name, {}).items()},
                    "checks": [c.to_json() for c in self.checks[name]],
                    "verdict": self.verdicts[name].to_json() if name in self.verdicts else None,
                }
                for name in self.estimates
            },
            "distributions": {name: d.to_json() for name, d in self.distributions.items()},
            "distributions_note": self.distributions_note,
            **figures_under(self),
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }

    def to_table(self) -> str:
        """The panel as plain text: per candidate its verdict, its estimates, and the checks that did not pass."""
        lines = [
            f"{self.n_rows:,} rows{self._of_subjects()}, mean reward {self.mean_reward:.5g}; incumbent: {self.incumbent}",
        ]
        for name, by_estimator in self.estimates.items():
            verdict = self.verdicts.get(name)
            word = "incumbent" if verdict is None else verdict.word.upper()
            lines += [
                "",
                f"{name}: {word} (effective rows {self.effective_rows[name]:,.0f}, largest weight {self.largest_weight[name]:,.4g})",
            ]
            if verdict is not None:
                lines += [f"  {reason}" for reason in verdict.reasons]
                lines += [f"  What would settle it: {data}" for data in verdict.would_settle]
            lines.append(f"  {'estimator':<22} {'value':>10} {'interval':>24} {'difference':>12} {'interval':>24}")
            for key, e in by_estimator.items():
                value = "-" if e.value is None else f"{e.value:.5g}"
                off = self.differences.get(name, {}).get(key)
                gain = "" if off is None or off.value is None else f"{off.value:+.4g}"
                told = "" if off is None else _told(off.bounds)
                mark = " <" if key == self.headline and verdict is not None else ""
                lines.append(f"  {key:<22} {value:>10} {_told(e.bounds):>24} {gain:>12} {told:>24}{mark}".rstrip())
            said = () if verdict is None else verdict.reasons
            lines += [
                f"  {c.status}: {c.name}: {c.sentence}"
                for c in self.checks[name]
                if c.status in ("warn", "fail") and f"{c.name}: {c.sentence}" not in said
            ]
        loud = [f"{c.status}: {c.name}: {c.sentence}" for c in self.log_checks if c.status in ("warn", "fail")]
        return "\n".join([*lines, *(["", "the log", *(f"  {x}" for x in loud)] if loud else []), *self.notes])

    def _of_subjects(self) -> str:
        if self.data.moments.rows_are_units:
            return ", each for itself (no subjects)"
        return "" if self.n_units is None else f" of {self.n_units:,} subjects"

    def page(self, *, title: str = "Off-policy evaluation", in_simulation: bool = False) -> Page:
        """The panel as a report page with charts; needs the drawing packages."""
        from offline_eval.panel_page import panel_page

        page: Page = panel_page(self, title=title, in_simulation=in_simulation)
        return page


def evaluate(
    log: InteractionBatch | Log | EstimatedLog,
    candidates: Mapping[str, Candidate],
    *,
    incumbent: str | Candidate | None = None,
    estimators: Sequence[Estimator] | None = None,
    reward_model: Model | None = None,
    fit_reward: FitReward | None = fit_reward_model,
    n_folds: int = 3,
    explore_share: float = 0.0,
    n_resamples: int = 200,
    alpha: float = 0.05,
    minimal_effect: float | None = None,
    reward_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> Panel:
    """Judge policies on a log in which others acted.

    Parameters
    ----------
    log
        Logged interactions, in memory, in chunks, or with estimated propensities. Leave rows out whose reward window is still
        open, or see ``offline_eval.censoring``. A log that reads itself (``DistributedLog``: Spark) does so.
    candidates
        By name: policies, or probabilities of shape ``(n, k)``.
    incumbent
        What candidates are compared with: the name of one of them, a policy, probabilities, or None for the policy that
        logged (with all of its exploration).
    reward_model
        Values of shape ``(n, k)`` or a model that was *not* fitted on these subjects. If None, ``fit_reward`` is
        cross-fitted on the log; if that is None too, only estimators without a model are used.
    explore_share
        Share of uniform exploration that policies (not arrays) would be served with; the log's probabilities hold theirs
        already.
    minimal_effect
        Smallest difference that matters; a tenth of the incumbent's value where None.
    reward_range
        Least and largest possible reward, for bias-aware intervals; the range in the log where None.

    Raises
    ------
    InvalidInputError, ProbabilityError, SupportError
        If the log or a candidate is not what it should be.

    Notes
    -----
    Assumes that rewards depend on the shown offer and the logged context only (no carry-over between decisions of one
    subject beyond what clustering allows for), and that the logged propensities are what was drawn from: the checks test
    what can be tested of that. For effects that build up over several decisions use ``offline_eval.sequential``.
    """
    z_value(alpha)
    check_settings(explore_share, n_resamples, n_folds, minimal_effect, reward_range)
    log, said = _said_by(log)
    check_kinds(log, candidates)
    used = tuple(default_estimators() if estimators is None else estimators)
    check_estimators(used, n_offers=len(_offers(log)))
    everyone, incumbent_name = _everyone(candidates, incumbent)
    check_size(log, everyone)
    notes: list[str] = []
    some = _first_rows(log)
    if some is not None:
        said = replace(said, of_candidates={name: _unseen(c, some) for name, c in everyone.items()})
    model = reward_model
    if model is None and fit_reward is not None and any(e.needs_model for e in used):
        model, note = _fitted(log, fit_reward, n_folds=n_folds, seed=seed)
        if note:
            notes.append(note)
        if some is not None and fit_reward is fit_reward_model and (left_out := identifiers(some)):
            notes.append(
                f"Left out of the reward model, for they have more than {MAX_LEVELS} values: {', '.join(left_out)}."
            )
    read = log.read_once if isinstance(log, DistributedLog) else partial(read_once, log)
    data = read(everyone, used, model=model, explore_share=explore_share)
    distributions, note = _distributions(log, everyone, explore_share=explore_share, n_resamples=n_resamples, seed=seed)
    if note:
        notes.append(note)
    return _panel(
        Estimation(data, alpha, reward_range or (data.log.lowest, data.log.highest), n_resamples, seed),
        incumbent_name,
        said,
        offer_ids=tuple(_offers(log).ids),
        minimal_effect=minimal_effect,
        notes=notes,
        distributions=distributions,
        settings={"explore share": explore_share, "folds": n_folds, "resamples": n_resamples, "seed": seed},
    )


@dataclass(frozen=True, slots=True)
class _Said:
    """What is known beside the rows.

    Attributes
    ----------
    of_log
        Checks of the log that were made where it was made.
    no_test
        Why propensities cannot be tested here; empty where they can.
    of_candidates
        Checks by candidate.
    """

    of_log: Sequence[Check] = ()
    no_test: str = ""
    of_candidates: Mapping[str, Sequence[Check]] = field(default_factory=dict)

    def checks(self, found: Sequence[Check]) -> list[Check]:
        """Checks of the log: those made before stand, and tests that mean nothing here say so."""
        if not self.of_log:
            return list(found)
        known = {c.name for c in self.of_log}
        rest = [c for c in found if c.name not in known]
        return [*self.of_log, *(_untested(c, self.no_test) if c.name in TESTS_OF_PROPENSITIES else c for c in rest)]


def _said_by(log: InteractionBatch | Log | EstimatedLog) -> tuple[InteractionBatch | Log, _Said]:
    if isinstance(log, EstimatedLog):
        return log.batch, _Said(log.checks(), NO_TEST)
    if isinstance(log, MixedLog) and log.draws is not None:
        return log, _Said([log.draws], NO_TEST_OF_A_MIXTURE)
    return log, _Said()


def _distributions(
    log: InteractionBatch | Log,
    everyone: Mapping[str, Candidate | None],
    *,
    explore_share: float,
    n_resamples: int,
    seed: int,
) -> tuple[dict[str, Distribution], str]:
    """Who loses, where more than "yes" or "no" is known of them and the rows can be sorted; and what to say of it."""
    if not isinstance(log, InteractionBatch) or n_resamples <= 0 or len(np.unique(log.reward)) <= 2:
        return {}, ""
    if log.is_reward_weighted:
        return {}, f"No quantiles: {NOT_OF_WEIGHTED}."
    step = math.ceil(len(log) / MAX_SORTED_ROWS)
    rows = slice(None, None, step)
    some = log if step == 1 else log.take(rows)
    found: dict[str, Distribution] = {}
    for name, candidate in everyone.items():
        mine = candidate[rows] if isinstance(candidate, np.ndarray) else candidate
        with suppress(InvalidInputError):  # nothing to weigh: the panel says so beside each estimator
            found[name] = distribution(
                some, mine, explore_share=explore_share, n_resamples=min(n_resamples, 100), seed=seed
            )
    return found, "" if step == 1 else f"Quantiles are of one row in {step}, {len(some):,} in all."


def _panel(
    estimation: Estimation,
    incumbent: str,
    said: _Said,
    *,
    offer_ids: Sequence[str],
    minimal_effect: float | None,
    notes: Sequence[str],
    distributions: Mapping[str, Distribution],
    settings: Mapping[str, float | int],
) -> Panel:
    data = estimation.data
    estimates = {name: {e.name: estimation.estimate(e, name) for e in used} for name, used in data.estimators.items()}
    differences = {
        name: {e.name: estimation.difference(e, name, incumbent) for e in used}
        for name, used in data.estimators.items()
        if name != incumbent
    }
    names = list(next(iter(estimates.values())))
    headline = next((h for h in HEADLINES if h in names), names[0])
    of_log = said.checks(log_checks(data.log, offer_ids))
    unproven = _unproven(next(e for e in data.estimators[incumbent] if e.name == headline))
    checks = {
        name: [*_checks(estimation, name, offer_ids, found), *unproven, *said.of_candidates.get(name, ())]
        for name, found in estimates.items()
    }
    compared = Incumbent(incumbent, estimates[incumbent][headline].value, checks[incumbent], data.candidates[incumbent])
    verdicts: dict[str, Verdict] = {}
    for name, found in differences.items():
        told = found[headline]
        verdicts[name] = judge(
            [*of_log, *checks[name]],
            incumbent=compared,
            difference=told.value,
            bounds=told.bounds if told.bias_aware is None else told.bias_aware,
            minimal_effect=minimal_effect,
            estimator=headline,
            record=data.candidates[name],
            log=data.log,
            offer_ids=offer_ids,
        )
    return Panel(
        incumbent=incumbent,
        headline=headline,
        n_rows=data.log.n_rows,
        n_units=data.log.n_units,
        mean_reward=data.log.mean_reward,
        estimates=estimates,
        differences=differences,
        log_checks=of_log,
        checks=checks,
        verdicts=verdicts,
        effective_rows={c: r.effective_rows for c, r in data.candidates.items()},
        largest_weight={c: r.largest for c, r in data.candidates.items()},
        offer_ids=offer_ids,
        estimation=estimation,
        notes=tuple(notes),
        distributions=distributions,
        settings=settings,
    )


def _checks(
    estimation: Estimation, candidate: str, offer_ids: Sequence[str], estimates: Mapping[str, Estimate]
) -> list[Check]:
    direct = weighted = None
    by_name = {e.name: e for e in estimation.data.estimators[candidate]}
    if "DM" in by_name and "SNIPS" in by_name:
        direct = estimation.apart(candidate, by_name["DM"], by_name["SNIPS"])
        snips = estimates["SNIPS"]
        if direct is not None and snips.value is not None:
            weighted = (snips.value, snips.standard_error or 0.0)
    return candidate_checks(
        estimation.data.candidates[candidate],
        estimation.data.log,
        offer_ids,
        direct=direct,
        weighted=weighted,
        mean_weight=estimation.mean_weight(candidate),
    )


def _unproven(headline: Estimator) -> list[Check]:
    """A warning where the verdict has to rest on an estimator whose interval does not know of all its errors."""
    if headline.name in HEADLINES or isinstance(headline, Shrunk):
        return []
    told = f"The verdict rests on {headline.name}, whose interval knows nothing of what it assumes: add SNIPS or DR to the estimators."
    return [Check("estimator of the verdict", "warn", None, "one that needs true propensities and support only", told)]


def _first_rows(log: InteractionBatch | Log) -> DecisionTable | None:
    """What the log knows before a choice; None where looking would mean to read it all."""
    if isinstance(log, InteractionBatch):
        return log.table
    if isinstance(log, DistributedLog):
        return None
    first = next(iter(log.chunks(1 << 12)), None)
    return None if first is None else first.table


def _unseen(candidate: Candidate | None, table: DecisionTable) -> list[Check]:
    """A warning where a policy looks at what the log does not hold: when it serves it will see it, and act otherwise."""
    wanted = features_of(candidate)
    missing = sorted(wanted - set(table.columns) - set(table.vectors))
    if not wanted:
        return []
    told = f"The log holds all {len(wanted)} features of the context that the policy looks at."
    if missing:
        more = " and others" if len(missing) > 5 else ""
        told = (
            f"The policy looks at {', '.join(missing[:5])}{more}, which the log does not hold: what is judged is the policy without "
            "them, and not what would serve."
        )
    return [Check("features of the policy", "warn" if missing else "pass", float(len(missing)), "none missing", told)]


def _untested(check: Check, why: str) -> Check:
    return Check(check.name, "not known", None, check.threshold, why)


def _everyone(
    candidates: Mapping[str, Candidate], incumbent: str | Candidate | None
) -> tuple[dict[str, Candidate | None], str]:
    everyone: dict[str, Candidate | None] = dict(candidates)
    if isinstance(incumbent, str):
        if incumbent not in candidates:
            raise UnknownNameError("incumbent", incumbent, candidates)
        return everyone, incumbent
    name = LOGGED if incumbent is None else "incumbent"
    if name in everyone:
        raise InvalidInputError(f"a candidate is called {name!r}; give it another name, or pass its name as incumbent")
    everyone[name] = incumbent
    return everyone, name


def _fitted(log: InteractionBatch | Log, fit: FitReward, *, n_folds: int, seed: int) -> tuple[Model | None, str]:
    """A cross-fitted model, or why there is none."""
    try:
        if isinstance(log, InteractionBatch):
            return cross_fit(log, fit, n_folds=n_folds, seed=seed), ""
        from offline_eval.streaming import cross_fit_stream

        return cross_fit_stream(log, fit, n_folds=n_folds, seed=seed), ""
    except InvalidInputError as error:  # what is wrong with the log itself is said when it is read
        return None, f"No reward model: {error}."


def _offers(log: InteractionBatch | Log) -> OfferSet:
    return log.table.offers if isinstance(log, InteractionBatch) else log.offers


def _told(bounds: Bounds | None) -> str:
    return "-" if bounds is None else f"{bounds.low:.4g} to {bounds.high:.4g}"
