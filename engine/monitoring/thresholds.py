"""From where on an alarm rings. Every number may be set; the reasons for the defaults stand with each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Self

from policies.errors import InvalidInputError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits of all alarms.

    Parameters
    ----------
    recent_decisions
        "Recent" is the shortest run of whole hours up to now with so many decisions, and a day at most.
    reference_days
        Days before the last one that "before" means; checks that compare wait for three of them.
    integrity_alpha
        Probability that the draws of one day ever ring ``propensity`` (and, apart, ``leak``) although nothing is wrong.
    shown_share
        Share of a page's reports that name another offer; a few come from pages that were open over a change.
    duplicate_share
        Share of facts that repeat one of the same decision, kind and value under another id, beyond what was usual.
    poison_factor
        A value so many times the largest usual one (all but one in a hundred) is beyond reason.
    drift_psi
        Population stability index; 0.25 is the usual word for "other people". Only if no day before was as different.
    silence_facts
        Facts that should have come since the last one did.
    clock_share
        Share of facts more than a minute before their decision, or more than five minutes ahead of the ledger.
    clock_facts
        And so many of them at least.
    delay_factor
        Median delay against that of before. ``late_share`` come after the window of their decision, where their number is lost.
    unattributed_share
        Share of outcomes without a decision, above the usual share.
    fallback_share
        Share of decisions that their policy did not answer.
    collapse_share
        Entropy of a policy's choices as a share of what it was before.
    support_share
        Share of a segment's decisions that leave no choice, while most other visitors have one.
    overlap_ess, overlap_top_share
        Effective rows of the log for a candidate, and the share of weight on the heaviest one in a hundred rows.
    learner_behind_s
        How long a closed window may wait to be learned from, while the learner's last tick is older than that.
    calibration_share, calibration_errors
        Difference of realised and predicted as a share of the predicted, and in standard errors.
    quiet_hours
        How long an alarm has to be quiet before its episode is over and the next ringing is told again.
    """

    recent_decisions: int = 300
    reference_days: int = 7
    integrity_alpha: float = 1e-3
    shown_share: float = 0.02
    duplicate_share: float = 0.05
    poison_factor: float = 100.0
    drift_psi: float = 0.25
    silence_facts: float = 20.0
    clock_share: float = 0.02
    clock_facts: int = 5
    delay_factor: float = 4.0
    late_share: float = 0.05
    unattributed_share: float = 0.2
    fallback_share: float = 0.02
    collapse_share: float = 0.2
    support_share: float = 0.9
    overlap_ess: float = 100.0
    overlap_top_share: float = 0.5
    learner_behind_s: float = 3_600.0
    calibration_share: float = 0.25
    calibration_errors: float = 5.0
    quiet_hours: float = 6.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise InvalidInputError(f"threshold {name} is {value}; expected a number above 0")
        if not self.integrity_alpha < 1:
            raise InvalidInputError(f"threshold integrity_alpha is {self.integrity_alpha}; expected a probability")

    @classmethod
    def changed(cls, changes: Mapping[str, float]) -> Self:
        """The defaults but for some.

        Raises
        ------
        UnknownNameError
            If there is no threshold of a name.
        """
        known = {f.name: f.type for f in fields(cls)}
        for name in changes:
            if name not in known:
                raise UnknownNameError("threshold", name, known)
        return replace(cls(), **{n: int(v) if known[n] == "int" else float(v) for n, v in changes.items()})  # type: ignore[arg-type]  # by the field's own type
