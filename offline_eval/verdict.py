"""One word for the gate and the console, with its reasons and the data that would settle it.

The rules are fixed here, before any log is seen, and rest on the *difference* to the incumbent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from offline_eval.diagnostics import Check
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
    {"model against weights", "tail index", "mean weight", "weight of the top 1 %", "largest weight", "propensities"}
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


def judge(
    checks: Sequence[Check],
    *,
    difference: float | None,
    bounds: Bounds | None,
    incumbent_value: float | None,
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
    failed = [c for c in checks if c.status == "fail" and c.name in FATAL]
    effect = minimal_effect
    if effect is None:
        effect = DEFAULT_RELATIVE_EFFECT * abs(incumbent_value or 0.0)
    if failed or bounds is None or difference is None:
        reasons = tuple(f"{c.name}: {c.sentence}" for c in failed) or (
            "The difference cannot be computed on this log.",
        )
        return Verdict(
            "this log cannot answer", reasons, _settle(failed, bounds, effect, record, log, offer_ids), estimator
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
    if "balance under estimated propensities" in names:
        out.append("Log the probability of each shown offer, or keep what the choice depended on beside the decision.")
    if names & {"propensities against shown offers", "shown offers against logged distributions", "A/A", "duplicates"}:
        out.append("Mend the log first: no amount of it helps while its propensities or rows are not what happened.")
    if names & {"support", "mean weight", "effective sample size", "weight of the top 1 %", "largest weight"}:
        out.append(_exploration(record, log, offer_ids))
    if "positives in the log" in names or "positives behind the estimate" in names:
        rate = log.n_positive / log.n_rows
        if rate > 0:
            out.append(f"At this rate of rewards, about {math.ceil(50 / rate):,} rows of the candidate's own choices.")
        else:
            out.append("Rewards above the least: the log has none.")
    if not failed and bounds is not None and effect > 0 and math.isfinite(bounds.half_width):
        factor = (bounds.half_width / effect) ** 2
        rows = math.ceil(log.n_rows * factor)
        out.append(f"About {rows:,} rows like these ({factor:.1f} times as many{_in_days(log, rows)}).")
    return tuple(out)


def _exploration(record: CandidateRecord, log: LogRecord, offer_ids: Sequence[str]) -> str:
    """Uniform exploration over the offers the candidate wants and the log lacks, for as long as it takes."""
    share = 0.05
    if record.target_by_offer is None:
        return f"{share:.0%} uniform exploration over all offers."
    assert log.counts is not None
    shown = log.counts.shown / log.n_rows
    lack = record.target_by_offer - shown
    wanted = np.argsort(-lack)[: max(1, int(np.count_nonzero(lack > 0.02)))][:4]
    k = max(1, int(np.count_nonzero(log.counts.could)))
    # Each row under exploration shows a wanted offer with chance share / k; 100 effective rows are needed.
    rows = math.ceil(100 * k / share)
    names = ", ".join(str(offer_ids[int(j)]) for j in wanted)
    return f"{share:.0%} uniform exploration, with {names} among the offers explored, for about {rows:,} decisions{_in_days(log, rows)}."


def _in_days(log: LogRecord, rows: int) -> str:
    span = 0.0 if log.time is None else log.time.span_days()
    if not span > 0:
        return ""
    days = rows * span / log.n_rows
    return f", {days:,.0f} days at this log's pace" if days >= 1 else ", less than a day at this log's pace"
