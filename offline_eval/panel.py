"""The answer to "what would this policy have earned?": a panel of estimates, differences, checks and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from offline_eval.candidates import features_of
from offline_eval.diagnostics import TESTS_OF_PROPENSITIES, Check, candidate_checks, log_checks
from offline_eval.distribution import Distribution, distribution
from offline_eval.estimated import NO_TEST, EstimatedLog
from offline_eval.estimators import Estimator, Shrunk, default_estimators
from offline_eval.estimators.base import ONE, REWARD, Value
from offline_eval.intervals import Bounds, bias_aware, normal, percentile, z_value
from offline_eval.mixed import NO_TEST_OF_A_MIXTURE, MixedLog
from offline_eval.moments import degrees_of_freedom, gradient_vector
from offline_eval.moments import resampled as resample
from offline_eval.one_pass import SEPARATOR, Candidate, DistributedLog, Log, Model, Pass, read_once
from offline_eval.panel_figures import figures_under
from offline_eval.reward_models import FitReward, cross_fit, fit_reward_model, identifiers
from offline_eval.verdict import Incumbent, Verdict, judge
from policies.errors import InvalidInputError, UnknownNameError
from policies.features import MAX_LEVELS
from policies.records import DecisionTable, FloatArray, InteractionBatch

if TYPE_CHECKING:
    from offline_eval.report import Page

LOGGED = "logging policy"
# Distributions are sorted for every resample; of more rows than these an even sample is.
MAX_SORTED_ROWS = 200_000
HEADLINES = ("SNDR", "DR", "SNIPS", "IPS", "baseline-corrected IPS")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one estimator says of one candidate, per decision, in the unit of the reward.

    Attributes
    ----------
    value, standard_error
        None where the log gives no estimate; ``note`` then says why.
    bounds
        Influence-function interval, clustered by subject.
    bootstrap
        Percentile interval of resampled subjects; None where no resampling was asked for.
    bias_aware
        For estimators that use other weights than the true ones: the interval moved out by the largest bias that can cause.
    """

    candidate: str
    estimator: str
    value: float | None
    standard_error: float | None
    bounds: Bounds | None
    bootstrap: Bounds | None
    bias_aware: Bounds | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "candidate": self.candidate,
            "estimator": self.estimator,
            "value": self.value,
            "standard_error": self.standard_error,
            "interval": None if self.bounds is None else self.bounds.to_json(),
            "bootstrap_interval": None if self.bootstrap is None else self.bootstrap.to_json(),
            "bias_aware_interval": None if self.bias_aware is None else self.bias_aware.to_json(),
            "note": self.note,
        }


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
        Quantiles of the reward by candidate, for logs in memory and rewards of more than two values; of more than 200,000 rows,
        of an even sample.
    reward_range
        Least and largest reward, as declared or as logged.
    settings
        What the panel was made with.
    """

    incumbent: str
    headline: str
    alpha: float
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
    data: Pass = field(repr=False)
    resampled: FloatArray | None = field(repr=False, default=None)
    reward_range: tuple[float, float] = (-math.inf, math.inf)
    notes: Sequence[str] = ()
    distributions: Mapping[str, Distribution] = field(default_factory=dict)
    settings: Mapping[str, float | int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.to_table()

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {v.word}" for name, v in self.verdicts.items())
        return f"Panel({self.n_rows:,} rows, incumbent {self.incumbent!r}; {told})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return f"<pre>{escape(self.to_table())}</pre>"

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
        span = self.reward_range
        return _difference(self.data, used, candidate, against, alpha=self.alpha, resampled=self.resampled, span=span)

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
    _check_settings(explore_share, n_resamples, n_folds, minimal_effect, reward_range)
    said_of_log: Sequence[Check] = ()
    no_test = ""
    if isinstance(log, EstimatedLog):
        said_of_log, no_test, log = log.checks(), NO_TEST, log.batch
    elif isinstance(log, MixedLog) and log.draws is not None:
        said_of_log, no_test = [log.draws], NO_TEST_OF_A_MIXTURE
    _check_kinds(log, candidates)
    if not candidates:
        raise InvalidInputError("there is no candidate; expected at least one policy or array of probabilities by name")
    used = tuple(default_estimators() if estimators is None else estimators)
    _check_estimators(used, n_offers=len(_offer_ids(log)))
    everyone, incumbent_name = _everyone(candidates, incumbent)
    _check_size(log, everyone)
    notes: list[str] = []
    some = _first_rows(log)
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
        data,
        incumbent_name,
        offer_ids=_offer_ids(log),
        alpha=alpha,
        n_resamples=n_resamples,
        minimal_effect=minimal_effect,
        reward_range=reward_range,
        seed=seed,
        notes=notes,
        said_of_log=said_of_log,
        no_test=no_test,
        said_of_candidates={} if some is None else {name: _unseen(c, some) for name, c in everyone.items()},
        distributions=distributions,
        settings={"explore share": explore_share, "folds": n_folds, "resamples": n_resamples, "seed": seed},
    )


def _check_kinds(log: object, candidates: object) -> None:
    """What a first call gets wrong, before it becomes an error from somewhere inside."""
    if not isinstance(log, InteractionBatch) and not hasattr(log, "chunks"):
        raise InvalidInputError(
            f"the log is a {type(log).__name__}; expected an InteractionBatch or a log that reads itself: use read_parquet or from_arrow "
            "(tables, data frames) of offline_eval.interop.arrow, from_obp, read_dsjson or SparkLog"
        )
    if not isinstance(candidates, Mapping):
        raise InvalidInputError(
            f"candidates are a {type(candidates).__name__}; expected a mapping of names: {{'mine': policy_or_probabilities}}"
        )
    for name, candidate in candidates.items():
        is_policy = hasattr(candidate, "probabilities") and not isinstance(candidate, type)
        if not is_policy and not isinstance(candidate, np.ndarray):
            raise InvalidInputError(
                f"candidate {name!r} is a {type(candidate).__name__}; expected a policy (an instance, with a method probabilities) or "
                "an array of shape (rows, offers), columns in the order of the log's offers"
            )


def _check_settings(
    explore_share: float,
    n_resamples: int,
    n_folds: int,
    minimal_effect: float | None,
    reward_range: tuple[float, float] | None,
) -> None:
    if not 0 <= explore_share <= 1:
        raise InvalidInputError(
            f"explore_share is {explore_share:g}; expected a share between 0 and 1, such as 0.05 for five percent"
        )
    if n_resamples < 0:
        raise InvalidInputError(f"n_resamples is {n_resamples}; expected at least 0, which is for no bootstrap")
    if n_folds < 2:
        raise InvalidInputError(
            f"n_folds is {n_folds}; expected at least 2, so that rows are judged by models of other rows"
        )
    if minimal_effect is not None and not 0 < minimal_effect < math.inf:
        raise InvalidInputError(
            f"minimal_effect is {minimal_effect:g}; expected the smallest difference that matters, above 0, in the unit of the reward"
        )
    if reward_range is not None and not -math.inf < reward_range[0] < reward_range[1] < math.inf:
        raise InvalidInputError(f"reward_range is {reward_range}; expected two finite numbers, the least first")


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
    data: Pass,
    incumbent: str,
    *,
    offer_ids: Sequence[str],
    alpha: float,
    n_resamples: int,
    minimal_effect: float | None,
    reward_range: tuple[float, float] | None,
    seed: int,
    notes: Sequence[str],
    said_of_log: Sequence[Check],
    no_test: str,
    said_of_candidates: Mapping[str, Sequence[Check]],
    distributions: Mapping[str, Distribution],
    settings: Mapping[str, float | int],
) -> Panel:
    resampled = None
    if n_resamples > 0:
        resampled = resample(data.folded, n_resamples=n_resamples, rng=np.random.default_rng(seed))
    span = reward_range if reward_range is not None else (data.log.lowest, data.log.highest)
    estimates = {
        name: {e.name: _estimate(data, e, name, alpha=alpha, resampled=resampled, span=span) for e in used}
        for name, used in data.estimators.items()
    }
    differences = {
        name: {
            e.name: _difference(data, e, name, incumbent, alpha=alpha, resampled=resampled, span=span)
            for e in data.estimators[name]
        }
        for name in data.estimators
        if name != incumbent
    }
    names = list(next(iter(estimates.values())))
    headline = next((h for h in HEADLINES if h in names), names[0])
    of_log = log_checks(data.log, offer_ids)
    if said_of_log:
        known = {c.name for c in said_of_log}
        rest = [c for c in of_log if c.name not in known]
        of_log = [*said_of_log, *(_untested(c, no_test) if c.name in TESTS_OF_PROPENSITIES else c for c in rest)]
    unproven = _unproven(next(e for e in data.estimators[incumbent] if e.name == headline))
    checks = {
        name: [*_checks(data, name, offer_ids, found), *unproven, *said_of_candidates.get(name, ())]
        for name, found in estimates.items()
    }
    compared = Incumbent(incumbent, estimates[incumbent][headline].value, checks[incumbent], data.candidates[incumbent])
    verdicts: dict[str, Verdict] = {}
    for name in estimates:
        if name == incumbent:
            continue
        told = differences[name][headline]
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
        alpha=alpha,
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
        offer_ids=tuple(offer_ids),
        data=data,
        resampled=resampled,
        reward_range=span,
        notes=tuple(notes),
        distributions=distributions,
        settings=settings,
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


def _totals(data: Pass, candidate: str, totals: FloatArray | None = None) -> dict[str, Any]:
    """Totals as one candidate's estimators name them."""
    every = data.moments.as_mapping(totals)
    prefix = candidate + SEPARATOR
    mine = {name.removeprefix(prefix): t for name, t in every.items() if name.startswith(prefix)}
    mine |= {ONE: every[ONE], REWARD: every[REWARD]}
    return mine | {name: mine[other] for name, other in data.same.get(candidate, {}).items()}


def _named(data: Pass, gradient: Mapping[str, Any], candidate: str, sign: float = 1.0) -> dict[str, float]:
    """A gradient with the names the moments use."""
    same = data.same.get(candidate, {})
    out: dict[str, float] = {}
    for name, slope in gradient.items():
        found = same.get(name, name)
        key = found if found in (ONE, REWARD) else candidate + SEPARATOR + found
        out[key] = out.get(key, 0.0) + sign * float(slope)
    return out


def _value(data: Pass, estimator: Estimator, candidate: str) -> Value | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = estimator.from_totals(_totals(data, candidate))
    finite = math.isfinite(float(found.value)) and all(math.isfinite(float(g)) for g in found.gradient.values())
    return found if finite else None


def _resampled_values(data: Pass, estimator: Estimator, candidate: str, resampled: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = estimator.from_totals(_totals(data, candidate, resampled)).value
    return np.broadcast_to(np.asarray(found, dtype=np.float64), (len(resampled),))


NO_MATCH = "No logged row shows an offer that the candidate would show."
ONE_UNIT = "One subject alone says nothing about the spread between subjects."


def _estimate(
    data: Pass,
    estimator: Estimator,
    candidate: str,
    *,
    alpha: float,
    resampled: FloatArray | None,
    span: tuple[float, float],
) -> Estimate:
    found = _value(data, estimator, candidate)
    if found is None:
        return Estimate(candidate, estimator.name, None, None, None, None, note=NO_MATCH)
    value = float(found.value)
    if data.moments.n_scattered < 2:
        return Estimate(candidate, estimator.name, value, None, None, None, note=ONE_UNIT)
    gradient = _named(data, found.gradient, candidate)
    error, freedom = _standard_error(data, gradient), _freedom(data, gradient)
    bounds = normal(value, error, alpha=alpha, degrees_of_freedom=freedom)
    boot = None
    if resampled is not None:
        boot = percentile(_resampled_values(data, estimator, candidate, resampled), alpha=alpha)
    widened = None
    if isinstance(estimator, Shrunk):
        bias = _largest_bias(data, estimator, candidate, alpha=alpha, span=span)
        widened = bias_aware(value, error, bias=bias, alpha=alpha, degrees_of_freedom=freedom)
    return Estimate(candidate, estimator.name, value, error, bounds, boot, widened)


def _largest_bias(data: Pass, estimator: Shrunk, candidate: str, *, alpha: float, span: tuple[float, float]) -> float:
    """Largest bias that other weights than the true ones can cause: what was changed of them times the size of what they multiply.

    ``E|w - w'| = E[w] + E[w'] - 2 E[min(w, w')]``, where ``E[w]`` is at most 1 (less where offers lack support, and what they would
    earn is then covered too): bounded terms only, whose upper error is added. Without a model the weight multiplies the reward, with
    one a residual: the reward's range beside that of the model's values of shown offers.
    """
    used, kept = estimator.shrunk_weight.name, estimator.kept_weight.name
    totals = _totals(data, candidate)
    n = totals[ONE]
    mean = float((totals[used] - 2 * totals[kept]) / n)
    error = _standard_error(data, _named(data, _sum(({used: 1 / n}, {kept: -2 / n}, {ONE: -mean / n})), candidate))
    changed = max(0.0, 1.0 + mean + z_value(alpha) * error)
    if not getattr(estimator, "needs_model", False):
        return changed * max(abs(span[0]), abs(span[1]))
    low, high = data.log.model_range
    return changed * max(span[1] - low, high - span[0])


def _sum(gradients: Sequence[Mapping[str, float]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for gradient in gradients:
        for name, slope in gradient.items():
            out[name] = out.get(name, 0.0) + slope
    return out


def _difference(
    data: Pass,
    estimator: Estimator,
    candidate: str,
    against: str,
    *,
    alpha: float,
    resampled: FloatArray | None,
    span: tuple[float, float],
) -> Estimate:
    a, b = _value(data, estimator, candidate), _value(data, estimator, against)
    if a is None or b is None:
        return Estimate(candidate, estimator.name, None, None, None, None, note=NO_MATCH)
    value = float(a.value) - float(b.value)
    if data.moments.n_scattered < 2:
        return Estimate(candidate, estimator.name, value, None, None, None, note=ONE_UNIT)
    joint = _sum((_named(data, a.gradient, candidate), _named(data, b.gradient, against, -1.0)))
    error = _standard_error(data, joint)
    boot = None
    if resampled is not None:
        boot = percentile(
            _resampled_values(data, estimator, candidate, resampled)
            - _resampled_values(data, estimator, against, resampled),
            alpha=alpha,
        )
    freedom = _freedom(data, joint)
    bounds = normal(value, error, alpha=alpha, degrees_of_freedom=freedom)
    widened = None
    if isinstance(estimator, Shrunk):
        bias = sum(_largest_bias(data, estimator, name, alpha=alpha, span=span) for name in (candidate, against))
        widened = bias_aware(value, error, bias=bias, alpha=alpha, degrees_of_freedom=freedom)
    return Estimate(candidate, estimator.name, value, error, bounds, boot, widened)


def _standard_error(data: Pass, gradient: Mapping[str, float]) -> float:
    return math.sqrt(data.moments.variance(gradient_vector(gradient, data.moments.names)))


def _freedom(data: Pass, gradient: Mapping[str, float]) -> float:
    return degrees_of_freedom(data.folded, gradient_vector(gradient, data.moments.names))


def _checks(data: Pass, candidate: str, offer_ids: Sequence[str], estimates: Mapping[str, Estimate]) -> list[Check]:
    totals = _totals(data, candidate)
    n = totals[ONE]
    mean = float(totals["w"] / n)
    error = _standard_error(data, _named(data, {"w": 1 / n, ONE: -mean / n}, candidate))
    direct = weighted = None
    by_name = {e.name: e for e in data.estimators[candidate]}
    if "DM" in by_name and "SNIPS" in by_name:
        dm, snips = _value(data, by_name["DM"], candidate), _value(data, by_name["SNIPS"], candidate)
        if dm is not None and snips is not None:
            joint = _sum((_named(data, dm.gradient, candidate), _named(data, snips.gradient, candidate, -1.0)))
            direct = (float(dm.value) - float(snips.value), _standard_error(data, joint))
            weighted = (float(snips.value), estimates["SNIPS"].standard_error or 0.0)
    return candidate_checks(
        data.candidates[candidate], data.log, offer_ids, direct=direct, weighted=weighted, mean_weight=(mean, error)
    )


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


def _check_estimators(estimators: Sequence[Estimator], *, n_offers: int) -> None:
    names = [e.name for e in estimators]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or not names:
        raise InvalidInputError(f"estimators {twice} appear twice or there is none; expected one of each name")
    known = default_estimators()
    if any(e not in known for e in estimators):  # of somebody's own
        from offline_eval.checks import same_names_differ

        shared = same_names_differ((*known, *estimators), n_offers=n_offers)
        if shared is not None:
            raise InvalidInputError(
                f"two estimators make a column named {shared!r} differently, and columns of one name are computed once; expected one "
                "meaning of each name: call one of them otherwise, and run check_estimator on your own"
            )


def _check_size(log: InteractionBatch | Log, everyone: Mapping[str, Candidate | None]) -> None:
    if not isinstance(log, InteractionBatch):
        return
    if len(log) < 2:
        raise InvalidInputError(
            f"the log has {len(log)} row(s); expected at least two: log more decisions with rewards"
        )
    for name, candidate in everyone.items():
        if isinstance(candidate, np.ndarray) and candidate.shape != log.table.eligible.shape:
            raise InvalidInputError(
                f"probabilities of candidate {name!r} have shape {candidate.shape}; expected {log.table.eligible.shape}, "
                "a row per decision and a column per offer"
            )


def _fitted(log: InteractionBatch | Log, fit: FitReward, *, n_folds: int, seed: int) -> tuple[Model | None, str]:
    """A cross-fitted model, or why there is none."""
    try:
        if isinstance(log, InteractionBatch):
            return cross_fit(log, fit, n_folds=n_folds, seed=seed), ""
        from offline_eval.streaming import cross_fit_stream

        return cross_fit_stream(log, fit, n_folds=n_folds, seed=seed), ""
    except InvalidInputError as error:  # what is wrong with the log itself is said when it is read
        return None, f"No reward model: {error}."


def _offer_ids(log: InteractionBatch | Log) -> tuple[str, ...]:
    return tuple(log.table.offers.ids if isinstance(log, InteractionBatch) else log.offers.ids)


def _told(bounds: Bounds | None) -> str:
    return "-" if bounds is None else f"{bounds.low:.4g} to {bounds.high:.4g}"
