"""What to know before a number is believed: each check passes, warns or fails, with a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from offline_eval.log_records import CandidateRecord, LogRecord
from offline_eval.summaries import N_CALIBRATION_BINS, CountsByOffer
from policies.records import FloatArray, IntArray

Status = Literal["pass", "warn", "fail", "not known"]

MIN_ESS = 100.0
MIN_POSITIVES = 50
MAX_UNSUPPORTED = 0.05
MAX_TOP_SHARE = 0.5
# Chance of a false alarm of a test of the log itself; many logs are read every day.
LOG_ALPHA = 1e-3
# Checks that mean nothing where propensities were fitted to the rows they are checked on.
TESTS_OF_PROPENSITIES = frozenset(
    {"propensities against shown offers", "shown offers against logged distributions", "A/A"}
)


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, what was found, and what it means.

    Attributes
    ----------
    value
        What was found; None where it cannot be known from this log.
    threshold
        Where the rule begins to fail, in words.
    sentence
        What it means, for someone who has to decide.
    """

    name: str
    status: Status
    value: float | None
    threshold: str
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "status": self.status,
            "value": self.value if self.value is not None and math.isfinite(self.value) else None,
            "threshold": self.threshold,
            "sentence": self.sentence,
        }


def effective_sample_size(weights: FloatArray) -> float:
    """``(sum w)^2 / sum w^2`` (Kish 1965): how many rows of equal weight would tell as much."""
    square = float(weights @ weights)
    return float(weights.sum()) ** 2 / square if square > 0 else 0.0


def tail_index(top: FloatArray) -> float | None:
    """Hill's estimate of the tail index from the largest weights; at most 2 means a variance that may be infinite.

    Parameters
    ----------
    top
        The weights of the tail and, first, the largest one that is not in it, in ascending order.

    Returns
    -------
    float or None
        None where fewer than 20 weights are in the tail, it begins at weight 0, or it is flat.
    """
    if len(top) <= 20 or not top[0] > 0:
        return None
    excess = np.log(top[1:] / top[0]).mean()
    return float(1.0 / excess) if excess > 1e-9 else None


def log_checks(log: LogRecord, offer_ids: Sequence[str]) -> list[Check]:
    """Checks of the log itself, whatever the candidate."""
    return [
        _inverse_propensity(log, offer_ids),
        realised_counts(log, offer_ids),
        _positives(log),
        _duplicates(log),
        _same_policy(log),
        _calibration(log),
        _drift(log),
    ]


def candidate_checks(
    record: CandidateRecord,
    log: LogRecord,
    offer_ids: Sequence[str],
    *,
    direct: tuple[float, float] | None,
    weighted: tuple[float, float] | None,
    mean_weight: tuple[float, float],
) -> list[Check]:
    """Checks of one candidate on a log.

    Parameters
    ----------
    direct, weighted
        DM less SNIPS and its standard error; SNIPS and its standard error.
    mean_weight
        Mean weight and its standard error.
    """
    n, ess, top = record.n_rows, record.effective_rows, record.top()
    return [
        Check(
            "effective sample size",
            "pass" if ess >= MIN_ESS else "fail",
            ess,
            f">= {MIN_ESS:g}",
            f"{n:,} rows tell as much as {ess:,.0f} rows of the candidate's own traffic would."
            + ("" if ess >= MIN_ESS else f" Fewer than {MIN_ESS:g} say nothing reliable."),
        ),
        _top_share(top, record),
        _largest_weight(record),
        _tail(top if n >= 100 else top[:0]),
        _mean_weight(mean_weight, record, log),
        _support(record, log, offer_ids),
        _weighted_positives(record, log),
        _model_against_weights(direct, weighted),
    ]


def _top_share(top: FloatArray, record: CandidateRecord) -> Check:
    # One in a hundred of the rows that count. Of all rows it would be the number of offers that is measured: on a uniform log of
    # 80 offers what always shows one of them has weight in one row of 80, equal in all of them.
    m = min(max(1, record.n_counting // 100), len(top))
    share = float(top[len(top) - m :].sum()) / record.weight if record.weight > 0 else 1.0
    status: Status = "pass" if share <= 0.25 else ("warn" if share <= MAX_TOP_SHARE else "fail")
    return Check(
        "weight of the top 1 %",
        status,
        share,
        f"<= 25 %, fails above {MAX_TOP_SHARE:.0%}",
        f"The heaviest {m:,} of the {record.n_counting:,} rows that weigh more than 1 carry {share:.1%} of all weight.",
    )


def _largest_weight(record: CandidateRecord) -> Check:
    largest = record.largest
    share = largest / record.weight if record.weight > 0 else 1.0
    return Check(
        "largest weight",
        "pass" if share <= 0.05 else ("warn" if share <= 0.2 else "fail"),
        largest,
        "at most 5 % of all weight, fails above 20 %",
        f"The heaviest row weighs {_weight(largest)} and carries {share:.2%} of the estimate.",
    )


def _weight(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _tail(top: FloatArray) -> Check:
    index = tail_index(top)
    if index is None:
        return Check("tail index", "not known", None, "> 2", "Too few heavy weights to tell how fast their tail falls.")
    status: Status = "pass" if index > 2 else "warn"
    meaning = "the variance is finite" if index > 2 else "the variance may be infinite, and normal intervals too short"
    return Check(
        "tail index", status, index, "> 2", f"The tail of the weights falls with index {index:.1f}: {meaning}."
    )


def _mean_weight(mean_weight: tuple[float, float], record: CandidateRecord, log: LogRecord) -> Check:
    mean, error = mean_weight
    off = abs(mean - 1.0)
    is_off = off > 3 * error and off > 0.02
    status: Status = "fail" if is_off and off > 0.1 else ("warn" if is_off else "pass")
    sentence = f"The mean weight is {mean:.3f} (± {error:.3f}); it should be 1."
    if status != "pass":
        sentence += _OFF_BY[is_false_log(mean, record, log)].format(
            size="smaller" if mean > 1 else "larger",
        )
    return Check("mean weight", status, mean, "1 within 3 standard errors; fails more than 0.1 off", sentence)


# Why a mean weight is not 1: by ``is_false_log``.
_OFF_BY = {
    True: " The logged propensities are {size} than what was really drawn from.",
    False: " Part of what the candidate would show had no chance of being logged.",
    None: " Part of what the candidate would show had no chance of being logged, or the logged propensities are larger than what was "
    "really drawn from.",
}


def is_false_log(mean_weight: float, record: CandidateRecord, log: LogRecord) -> bool | None:
    """Whether a mean weight off 1 shows false propensities, and not offers that could not be shown; None where both may be.

    Only offers without a chance make weights too small, and what had a chance is known where whole distributions were logged.
    """
    if mean_weight > 1:
        return True
    missing = _unsupported(record, log)[0]
    if missing is not None and missing > 0.01:
        return False
    return None if record.unsupported is None else True


def _unsupported(record: CandidateRecord, log: LogRecord) -> tuple[float | None, IntArray]:
    """Share of what the candidate would show that had no chance, as far as the log tells, and the offers never shown."""
    counts = log.counts
    assert counts is not None
    never = np.flatnonzero((counts.shown == 0) & (counts.could > 0))
    missing = record.unsupported
    if record.target_by_offer is not None:
        hidden = float(record.target_by_offer[never].sum())
        missing = hidden if missing is None else max(missing, hidden)
    return missing, never


def _support(record: CandidateRecord, log: LogRecord, offer_ids: Sequence[str]) -> Check:
    missing, never = _unsupported(record, log)
    target = record.target_by_offer
    names = [] if target is None else [str(offer_ids[int(j)]) for j in never if target[j] > 1e-3]
    if missing is None:
        return Check(
            "support", "not known", None, f"<= {MAX_UNSUPPORTED:.0%}", "The candidate's distribution is not known."
        )
    status: Status = "fail" if missing > MAX_UNSUPPORTED else ("warn" if missing > 0.01 else "pass")
    sentence = f"{missing:.1%} of what the candidate would show has no chance of being in this log."
    if names:
        sentence += f" Never shown: {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}."
    return Check("support", status, missing, f"<= {MAX_UNSUPPORTED:.0%}", sentence)


def _weighted_positives(record: CandidateRecord, log: LogRecord) -> Check:
    found, ess = record.positives(log.usual_reward)
    return Check(
        "positives behind the estimate",
        "pass" if ess >= MIN_POSITIVES else ("warn" if ess >= MIN_POSITIVES / 5 else "fail"),
        ess,
        f">= {MIN_POSITIVES}, fails below {MIN_POSITIVES // 5}",
        f"{found:,} rewards {_unusual(log)} count for the candidate, with the weight of {ess:,.0f} equal ones.",
    )


def _model_against_weights(direct: tuple[float, float] | None, weighted: tuple[float, float] | None) -> Check:
    name, threshold = "model against weights", "within 3 standard errors"
    if direct is None or weighted is None or direct[1] <= 0:
        return Check(name, "not known", None, threshold, "There is no reward model to compare with the weights.")
    z = direct[0] / direct[1]
    status: Status = "pass" if abs(z) <= 3 else "warn"
    meaning = "they agree" if status == "pass" else "the model, the propensities or both are wrong for this candidate"
    return Check(
        name,
        status,
        z,
        threshold,
        f"The reward model is {direct[0]:+.4g} off SNIPS, {z:+.1f} standard errors: {meaning}.",
    )


def _inverse_propensity(log: LogRecord, offer_ids: Sequence[str]) -> Check:
    """Each offer's rows, weighted by 1 / propensity, should count the rows in which it could be shown."""
    name = "propensities against shown offers"
    counts = log.counts
    assert counts is not None
    n, could = counts.rows, counts.could
    used = (could > 0) & (counts.shown >= 10)
    if not used.any():
        return Check(name, "not known", None, "no offer off at 1 in 1,000", "No offer was shown ten times.")
    mean = counts.inverse[used] / n
    error = np.sqrt(np.maximum(counts.inverse2[used] / n - mean**2, 0.0) / n)
    off = mean - could[used] / n
    z: FloatArray = np.where(
        error > 0, off / np.where(error > 0, error, 1.0), np.where(np.abs(off) > 1e-9, np.inf, 0.0)
    )
    # Rows in which an offer is eligible but has probability 0 make it look too rare: only "too often" is proof.
    if counts.said is None:
        z = np.maximum(z, 0.0)
    worst = int(np.argmax(np.abs(z)))
    p = min(1.0, 2 * _normal_tail(float(z[worst])) * len(z))
    offer = offer_ids[int(np.flatnonzero(used)[worst].item())]
    if p >= LOG_ALPHA or counts.said is not None:
        return Check(
            name, "pass", float(z[worst]), "no offer off at 1 in 1,000",
            "Shown offers are as frequent as the logged propensities say.",
        )  # fmt: skip
    return Check(
        name,
        "fail",
        float(z[worst]),
        "no offer off at 1 in 1,000",
        f"Offer {offer!r} stands for {mean[worst] / (could[used][worst] / n):.2f} times the rows in which it could be shown: "
        "what was logged is not what was drawn from.",
    )


def realised_counts(log: LogRecord, offer_ids: Sequence[str]) -> Check:
    """Shown offers against logged distributions: in the whole log, and by policy, variant, segment and day."""
    name, threshold = (
        "shown offers against logged distributions",
        "no offer off at 1 in 1,000, in the log or a part of it",
    )
    counts = log.counts
    if counts is None or counts.said is None or counts.variance is None:
        return Check(name, "not known", None, threshold, "Only the shown offer's propensity was logged.")
    worst, where, n_tests = (0.0, 0), "", 0
    for group, part in [(None, counts), *log.counts_by_group.items()]:
        z = _off_by_offer(part, least_variance=0.0 if group is None else _LEAST_VARIANCE)
        j = int(np.argmax(np.abs(z)))
        n_tests += len(z) if group is None else int(np.count_nonzero(z))
        if abs(z[j]) > abs(worst[0]):
            worst, where = (float(z[j]), j), "" if group is None else f" where {group[0]} is {group[1]!r}"
    p = min(1.0, 2 * _normal_tail(worst[0]) * max(n_tests, 1))
    if p >= LOG_ALPHA:
        told = (
            f" ({len(log.counts_by_group)} policies, variants, segments and days by themselves)"
            if log.counts_by_group
            else ""
        )
        return Check(
            name, "pass", worst[0], threshold, f"Offers were shown as often as the logged distributions say{told}."
        )
    return Check(
        name,
        "fail",
        worst[0],
        threshold,
        f"Offer {offer_ids[worst[1]]!r} was shown {abs(worst[0]):,.1f} standard errors {'more' if worst[0] > 0 else 'less'} often"
        f"{where} than the log's own distributions say: what was logged is not what was drawn from.",
    )


# A count of expected variance 10 is near enough to normal for a test at 1 in 1,000 over many parts.
_LEAST_VARIANCE = 10.0


def _off_by_offer(counts: CountsByOffer, *, least_variance: float) -> FloatArray:
    """Standard errors between each offer's count and the logged sum of its probabilities, shape ``(k,)``."""
    assert counts.said is not None
    assert counts.variance is not None
    off, error = counts.shown - counts.said, np.sqrt(np.maximum(counts.variance, 0.0))
    z = np.where(error > 1e-9, off / np.where(error > 1e-9, error, 1.0), np.where(np.abs(off) > 0.5, np.inf, 0.0))
    return np.where(counts.variance >= least_variance, z, 0.0)


def _positives(log: LogRecord) -> Check:
    status: Status = "pass" if log.n_positive >= MIN_POSITIVES else ("warn" if log.n_positive >= 10 else "fail")
    return Check(
        "positives in the log",
        status,
        float(log.n_positive),
        f">= {MIN_POSITIVES}",
        f"All {log.n_rows:,} rows have the reward {log.lowest:g}: nothing tells offers apart."
        if log.lowest == log.highest
        else f"{log.n_positive:,} of {log.n_rows:,} rows have a reward {_unusual(log)}.",
    )


def _unusual(log: LogRecord) -> str:
    return "above the least" if log.usual_reward == log.lowest else f"other than {log.usual_reward:g}"


def _duplicates(log: LogRecord) -> Check:
    found = log.n_duplicates
    if found is None:
        return Check("duplicates", "not known", None, "none", "The log has no decision ids.")
    status: Status = "pass" if found == 0 else "fail"
    return Check(
        "duplicates",
        status,
        float(found),
        "none",
        f"{found:,} rows repeat an earlier decision id." if found else "No row repeats an earlier decision id.",
    )


def _same_policy(log: LogRecord) -> Check:
    if log.logged_gap is None:
        return Check(
            "A/A", "not known", None, "within 3 standard errors",
            "The logging policy cannot be judged on its own log without a reward model and whole distributions.",
        )  # fmt: skip
    gap, error = log.logged_gap
    # A model of one value has a gap of rounding errors only, as large as their spread.
    is_nothing = abs(gap) <= 1e-9 * max(abs(log.lowest), abs(log.highest))
    z = 0.0 if is_nothing or error <= 0 else gap / error
    status: Status = "pass" if abs(z) <= 3 else "fail"
    return Check(
        "A/A",
        status,
        z,
        "within 3 standard errors",
        f"Judged on its own log by DR, the logging policy is {gap:+.4g} off what it earned ({z:+.1f} standard errors).",
    )


def _calibration(log: LogRecord) -> Check:
    name, threshold = "reward model's calibration", "no tenth off at 1 in 1,000"
    if log.calibration is None:
        return Check(name, "not known", None, threshold, "There is no reward model.")
    table = calibration_table(log)
    if not table:
        return Check(name, "not known", None, threshold, "Too few rows for ten groups.")
    z = np.asarray([row["z"] for row in table])
    worst = int(np.argmax(np.abs(z)))
    p = min(1.0, 2 * _normal_tail(float(z[worst])) * len(z))
    status: Status = "pass" if p >= LOG_ALPHA else "warn"
    row = table[worst]
    sentence = f"At its worst it says {row['predicted']:.4g} where {row['observed']:.4g} was earned ({row['z']:+.1f} standard errors)."
    return Check(name, status, float(z[worst]), threshold, sentence)


def calibration_table(log: LogRecord) -> list[dict[str, float]]:
    """Model's values of shown offers against rewards, in tenths of the model's values."""
    if log.calibration is None or log.n_rows < 20 * N_CALIBRATION_BINS:
        return []
    out = []
    for n, predicted, observed, square in log.calibration.sums:
        if n < 20:
            continue
        mean = (observed - predicted) / n
        variance = square / n - mean**2
        if observed in (n * log.lowest, n * log.highest):
            # Rewards that never vary tell nothing of their noise; the model's own mean says how rare the other value is.
            variance = max(variance, (predicted / n - log.lowest) * (log.highest - predicted / n))
        error = math.sqrt(variance / (n - 1)) if variance > 1e-12 * mean**2 else 0.0
        out.append(
            {
                "predicted": float(predicted / n),
                "observed": float(observed / n),
                "rows": float(n),
                "standard_error": error,
                "z": float(mean) / error if error > 0 else 0.0,
            }
        )
    return out


def _drift(log: LogRecord) -> Check:
    name, threshold = "drift of the reward", "not beyond chance at 1 in 1,000"
    if log.time is None or log.n_rows < 200:
        return Check(
            name,
            "not known",
            None,
            threshold,
            "The log has no times, too few rows, or rewards weighed for open windows.",
        )
    parts = value_over_time(log)
    means = np.asarray([p["mean"] for p in parts])
    errors = np.asarray([p["standard_error"] for p in parts])
    if len(parts) < 2 or (errors <= 0).any():
        return Check(name, "not known", None, threshold, "The reward does not vary in part of the log.")
    from scipy.special import gammaincc  # half a second to import; most of what imports this file never needs it

    weights = 1 / errors**2
    centre = (weights * means).sum() / weights.sum()
    p = float(gammaincc((len(parts) - 1) / 2, (weights * (means - centre) ** 2).sum() / 2))
    return Check(
        name,
        "pass" if p >= LOG_ALPHA else "warn",
        p,
        threshold,
        f"Mean reward ran from {means.min():.4g} to {means.max():.4g} over ten equal parts of the log's time"
        + (": within chance." if p >= LOG_ALPHA else ": the past may not be what the candidate will meet."),
    )


def value_over_time(record: LogRecord | CandidateRecord, *, n_parts: int = 10) -> list[dict[str, Any]]:
    """Mean reward in consecutive stretches of about equal numbers of rows, by time: of the log, or weighted for a candidate."""
    return [] if record.time is None else record.time.parts(n_parts)


def _normal_tail(z: float) -> float:
    """Chance of a standard normal above ``|z|``."""
    return 0.5 * math.erfc(abs(z) / math.sqrt(2))
