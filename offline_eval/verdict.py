"""One word for the gate and the console, with its reasons and the data that would settle it.

The rules are fixed here, before any log is seen, and rest on the *difference* to the incumbent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from offline_eval.diagnostics import MIN_ESS, MIN_POSITIVES, Check, is_false_log
from offline_eval.intervals import Bounds
from offline_eval.log_records import CandidateRecord, LogRecord

Word = Literal["recommend", "caution", "do not use", "this log cannot answer"]

# A failed check among these means that no figure can be believed, whatever the interval says.
FATAL = frozenset(
    {
        "effective sample size",
        "weight of the top 1 %",
        "largest weight",
        "mean weight",
        "support",
        "propensities against shown offers",
        "shown offers against logged distributions",
        "positives in the log",
        "positives behind the estimate",
        "duplicates",
        "A/A",
        "balance under estimated propensities",
    }
)
# A warning among these turns a recommendation into caution.
CAUTION = frozenset(
    {
        "features of the policy",
        "model against weights",
        "tail index",
        "mean weight",
        "weight of the top 1 %",
        "largest weight",
        "propensities",
        "estimator of the verdict",
    }
)
DEFAULT_RELATIVE_EFFECT = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a candidate.

    Attributes
    ----------
    word
        Recommend, caution, do not use, or this log cannot answer.
    reasons
        Why, in sentences; the first decided.
    would_settle
        The data that would settle it, where the log could not; empty otherwise.
    estimator
        Which estimator's difference it rests on.
    """

    word: Word
    reasons: tuple[str, ...]
    would_settle: tuple[str, ...]
    estimator: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verdict": self.word,
            "reasons": list(self.reasons),
            "would_settle": list(self.would_settle),
            "estimator": self.estimator,
        }


@dataclass(frozen=True, slots=True)
class Incumbent:
    """What a candidate is compared with, which has to be known as well as the candidate.

    Attributes
    ----------
    value
        By the headline estimator; None where it cannot be computed.
    """

    name: str
    value: float | None
    checks: Sequence[Check]
    record: CandidateRecord


def judge(
    checks: Sequence[Check],
    *,
    incumbent: Incumbent,
    difference: float | None,
    bounds: Bounds | None,
    minimal_effect: float | None,
    estimator: str,
    record: CandidateRecord,
    log: LogRecord,
    offer_ids: Sequence[str],
) -> Verdict:
    """Apply the rules.

    Parameters
    ----------
    checks
        Of the log and of the candidate.
    difference, bounds
        Candidate less incumbent by the headline estimator, and its interval; None where it cannot be computed.
    minimal_effect
        Smallest difference that matters, in the unit of the reward; a tenth of the incumbent's value where None.
    """
    failed = _failed(checks)
    lost = _failed(incumbent.checks)
    effect = minimal_effect
    if effect is None:
        effect = DEFAULT_RELATIVE_EFFECT * abs(incumbent.value or 0.0)
    if failed or lost or bounds is None or difference is None:
        reasons = [f"{c.name}: {c.sentence}" for c in failed]
        reasons += [f"{c.name} of the incumbent {incumbent.name}: {c.sentence}" for c in lost]
        settling = _settle(failed, bounds, effect, record, log, offer_ids) if failed or not lost else ()
        of_incumbent = _settle(lost, bounds, effect, incumbent.record, log, offer_ids) if lost else ()
        return Verdict(
            "this log cannot answer",
            tuple(reasons) or ("The difference cannot be computed on this log.",),
            tuple(dict.fromkeys((*settling, *of_incumbent))),
            estimator,
        )
    told = f"Difference to the incumbent {difference:+.4g}, interval {bounds.low:+.4g} to {bounds.high:+.4g}"
    warned = [c for c in checks if c.status in ("warn", "fail") and c.name in CAUTION]
    if bounds.low > 0:
        if warned:
            return Verdict(
                "caution",
                (f"{told}: better, but not to be taken at its word.", *(f"{c.name}: {c.sentence}" for c in warned)),
                (),
                estimator,
            )
        return Verdict("recommend", (f"{told}: better than the incumbent.",), (), estimator)
    if bounds.high < 0:
        return Verdict("do not use", (f"{told}: worse than the incumbent.",), (), estimator)
    if bounds.half_width <= effect:
        return Verdict("caution", (f"{told}: no gain shown, and none above {effect:.4g} likely.",), (), estimator)
    return Verdict(
        "this log cannot answer",
        (f"{told}: too wide to see a difference of {effect:.4g}.",),
        _settle([], bounds, effect, record, log, offer_ids),
        estimator,
    )


def _failed(checks: Sequence[Check]) -> list[Check]:
    return [c for c in checks if c.status == "fail" and c.name in FATAL]


def _settle(
    failed: Sequence[Check],
    bounds: Bounds | None,
    effect: float,
    record: CandidateRecord,
    log: LogRecord,
    offer_ids: Sequence[str],
) -> tuple[str, ...]:
    """Data that would settle it, from what was found."""
    names = {c.name for c in failed}
    out: list[str] = []
    mean = next((c.value for c in failed if c.name == "mean weight"), None)
    is_false = None if mean is None else is_false_log(mean, record, log)
    if "duplicates" in names:
        out.append(f"Leave out the {log.n_duplicates:,} rows that repeat an earlier decision.")
    if "balance under estimated propensities" in names:
        out.append("Log the probability of each shown offer, or keep what the choice depended on beside the decision.")
    if is_false or names & {"propensities against shown offers", "shown offers against logged distributions", "A/A"}:
        out.append("Mend the log first: no amount of it helps while its propensities or rows are not what happened.")
    if mean is not None and is_false is None:
        out.append(
            "The whole distribution of every decision beside the propensity of what was shown: it tells whether offers had no "
            "chance or the propensities are not what was drawn from."
        )
    lacks = {"support", "effective sample size", "weight of the top 1 %", "largest weight"}
    if log.lowest == log.highest:
        out.append(
            f"Rewards that differ: all {log.n_rows:,} are {log.lowest:g}, so no number of such rows tells offers apart."
        )
    elif names & lacks or is_false is False:
        out.append(_exploration(effect, bounds, record, log, offer_ids))
    elif names & {"positives in the log", "positives behind the estimate"}:
        ess = record.effective_rows
        if ess > 0:
            rows = _rounded(log.n_rows * max(_needed_rows(effect, log) / ess, 1.0))
            out.append(f"About {rows:,} rows like these{_in_days(log, rows)}: rewards are rare.")
    if not failed and bounds is not None and effect > 0 and math.isfinite(bounds.half_width):
        factor = (bounds.half_width / effect) ** 2
        rows = _rounded(log.n_rows * factor)
        out.append(f"About {rows:,} rows like these, {factor:.1f} times as many{_in_days(log, rows)}.")
    return tuple(out)


def _needed_rows(effect: float, log: LogRecord, *, share: float = 1.0) -> float:
    """Rows of the candidate's own choices that pass the checks and show the effect that matters at 95 %.

    Parameters
    ----------
    share
        Of the candidate's decisions, those that these rows have to tell of; the others are known.
    """
    rate = log.n_positive / log.n_rows
    wanted = [MIN_ESS]
    if rate > 0:
        wanted.append(MIN_POSITIVES / rate)
    if effect > 0:
        wanted.append(1.96**2 * log.reward_variance * share / effect**2)
    return max(wanted)


def _exploration(
    effect: float, bounds: Bounds | None, record: CandidateRecord, log: LogRecord, offer_ids: Sequence[str]
) -> str:
    """Uniform exploration over the offers the candidate wants and the log lacks, for as long as it takes."""
    target = record.target_by_offer
    if target is None:
        return f"{EXPLORED:.0%} uniform exploration over all offers."
    assert log.counts is not None
    # What had no chance is missing from the weights; where all had one, what was rarely shown weighs too much.
    by_weight = target - record.weight_by_offer / log.n_rows
    is_missing = bool(by_weight.max() > 0.02)
    lack = by_weight if is_missing else target - log.counts.shown / log.n_rows
    wanted = [int(j) for j in np.argsort(-lack) if lack[j] > 0.02] or [int(j) for j in np.argsort(-target)[:1]]
    # A decision under exploration shows what the candidate would show with chance 1 / (offers explored). For a candidate that
    # wants offer j with probability t_j, the variance is that of E[sum_j t_j^2] <= E[sum_j t_j] of all decisions.
    needed = _needed_rows(effect, log, share=min(1.0, float(target[wanted].sum())))
    asked = needed * len(wanted) / EXPLORED
    if is_missing and bounds is not None and effect > 0 and math.isfinite(bounds.half_width):
        asked += log.n_rows * (bounds.half_width / effect) ** 2  # for what was logged, which the interval is of
    rows = _rounded(asked)
    shown = [str(offer_ids[j]) for j in wanted[:4]]
    if len(wanted) == 1:
        over = shown[0]
    elif len(wanted) <= len(shown):
        over = f"these {_NUMBERS[len(wanted)]} offers: {', '.join(shown[:-1])} and {shown[-1]}"
    else:
        others = len(wanted) - len(shown)
        over = f"{', '.join(shown)} and {others} other{'s' if others > 1 else ''}"
    return f"{EXPLORED:.0%} uniform exploration over {over}; about {rows:,} decisions{_in_days(log, rows)}."


EXPLORED = 0.05
_NUMBERS = {2: "two", 3: "three", 4: "four"}


def _rounded(rows: float) -> int:
    """Two figures are all that such an estimate holds."""
    size: int = 10 ** max(len(str(math.ceil(rows))) - 2, 0)
    return math.ceil(rows / size) * size


def _in_days(log: LogRecord, rows: int) -> str:
    span = 0.0 if log.time is None else log.time.span_days()
    if not span > 0:
        return ""
    days = rows * span / log.n_rows
    return f", {math.ceil(days):,} days at this log's pace" if days >= 1 else ", less than a day at this log's pace"
