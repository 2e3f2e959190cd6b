"""What the columns of a log are called."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a log's columns; every column that is not named here is a context feature.

    Parameters
    ----------
    offer
        The offer that was shown.
    reward
        What came of it, a number or boolean.
    propensity
        Probability with which it was shown.
    probabilities
        List of the probabilities of all offers, in the order of the offer set; optional.
    eligible
        List of the ids of the offers that could be shown; optional (all).
    matured
        Boolean: the reward's window is over; rows where it is not are left out, never taken for zero; optional.
    rewarded_at
        When the reward came, missing where none has; with ``at`` and a ``RewardWindow`` it says which rewards are still open.
    subject, at, decision_id, policy, variant, variant_probability, phase
        Optional.
    ignore
        Columns that are no context feature either.
    """

    offer: str = "offer"
    reward: str = "reward"
    propensity: str = "propensity"
    probabilities: str = "probabilities"
    eligible: str = "eligible"
    matured: str = "is_matured"
    rewarded_at: str = "rewarded_at"
    subject: str = "subject"
    at: str = "at"
    decision_id: str = "decision_id"
    policy: str = "policy"
    variant: str = "variant"
    variant_probability: str = "variant_probability"
    phase: str = "phase"
    ignore: tuple[str, ...] = ()

    def names(self) -> set[str]:
        """All names that are no context feature."""
        return {getattr(self, f.name) for f in fields(self) if f.name != "ignore"} | set(self.ignore)
