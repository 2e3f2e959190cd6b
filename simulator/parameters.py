"""Every number the simulated site rests on, each with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

from policies.errors import InvalidInputError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number and its provenance.

    Parameters
    ----------
    provenance
        ``fitted``: estimated from data named in ``reason``; ``assumed``: no data here identifies it, set by hand for ``reason``.
    standard_error
        Of a fitted value.
    """

    value: float
    provenance: Literal["fitted", "assumed"]
    reason: str
    standard_error: float | None = None


def _assumed(value: float, reason: str) -> Parameter:
    return Parameter(value, "assumed", reason)


_ANY = float("inf")
# Outside of these a law means nothing: a share above one, or a price that attracts.
_RANGES = {
    "return_rate_per_day": (0.0, 1.0), "return_rate_spread": (0.0, _ANY), "taste_spread": (0.0, _ANY), "taste_shown": (-1.0, 1.0),
    "price_sensitivity": (0.0, _ANY), "price_sensitivity_spread": (0.0, _ANY), "fatigue_decay_per_day": (0.0, 1.0),
    "delay_zero_share": (0.0, 0.999), "delay_mean_days": (1.001, _ANY), "cancel_per_day": (0.0, 1.0), "trial_leave": (0.0, 1.0),
    "lapsed_share": (0.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorldParameters:
    """Parameters of the car-subscription site. Coefficients act on log-odds unless the name says otherwise."""

    return_rate_per_day: Parameter = Parameter(
        0.30, "assumed", "a visitor in the market for a car comes back about every third day"
    )
    return_rate_spread: Parameter = Parameter(0.50, "assumed", "log-scale spread of return rates between visitors")
    click_base: Parameter = Parameter(-1.20, "assumed", "about one visit in five clicks an offer of average appeal")
    convert_base: Parameter = Parameter(-4.00, "assumed", "about one click in fifty signs a contract within two weeks")
    no_offer_penalty: Parameter = Parameter(
        -1.20, "assumed", "without an offer a visitor has to find the catalogue alone"
    )
    taste_spread: Parameter = Parameter(0.90, "assumed", "between-visitor spread of taste for car classes")
    taste_shown: Parameter = Parameter(
        0.70, "assumed", "correlation of taste with the searched car class the site can see"
    )
    price_sensitivity: Parameter = Parameter(0.80, "assumed", "log-odds per 100 EUR a month, mean over visitors")
    price_sensitivity_spread: Parameter = Parameter(
        0.40, "assumed", "between-visitor spread of price sensitivity, log scale"
    )
    discount_appeal: Parameter = Parameter(
        2.20, "assumed", "log-odds of a 100 % discount for a visitor of average deal affinity"
    )
    deal_affinity_weight: Parameter = Parameter(
        1.60, "assumed", "how much deal affinity changes the appeal of a discount"
    )
    deal_affinity_shown: Parameter = Parameter(
        0.70,
        "assumed",
        "correlation of deal affinity with what the site can see; a synthetic population is drawn with it",
    )
    perk_appeal: Parameter = Parameter(0.35, "assumed", "log-odds of a perk")
    term_dislike: Parameter = Parameter(0.030, "assumed", "log-odds per month of commitment")
    fatigue_per_view: Parameter = Parameter(
        0.25, "assumed", "log-odds lost per recent view of the same family of offers"
    )
    fatigue_decay_per_day: Parameter = Parameter(0.80, "assumed", "share of fatigue left after a day")
    delay_zero_share: Parameter = Parameter(0.55, "assumed", "share of contracts signed on the day of the click")
    delay_mean_days: Parameter = Parameter(3.5, "assumed", "mean of the rest, geometric, cut at 14 days")
    cancel_per_day: Parameter = Parameter(
        0.012, "assumed", "daily hazard of an average monthly contract: about a third leaves in the first month"
    )
    cancel_per_discount: Parameter = Parameter(
        1.50, "assumed", "log-hazard of a 100 % discount: bargain hunters leave when it ends"
    )
    cancel_per_term: Parameter = Parameter(-0.060, "assumed", "log-hazard per month of commitment")
    cancel_per_perk: Parameter = Parameter(-0.35, "assumed", "log-hazard of a perk")
    cancel_per_taste: Parameter = Parameter(-0.35, "assumed", "log-hazard per unit of taste for the car")
    engagement_gain: Parameter = Parameter(
        0.0,
        "assumed",
        "log-odds per doubling of visits so far: who comes back is closer to buying; off unless a world asks for it",
    )
    appeal_per_dependence: Parameter = Parameter(
        0.0,
        "assumed",
        "log-odds a list-price offer loses per discount seen before, up to three: off unless a world asks for it",
    )
    discount_wear: Parameter = Parameter(
        0.0,
        "assumed",
        "log-odds a discounted offer loses per discount seen before, up to three: off unless a world asks for it",
    )
    cancel_per_dependence: Parameter = Parameter(
        0.0, "assumed", "log-hazard per discount seen before signing, up to three: off unless a world asks for it"
    )
    cancel_per_fatigue: Parameter = Parameter(
        0.0, "assumed", "log-hazard per tiring view left over at signing: off unless a world asks for it"
    )
    trial_days: Parameter = Parameter(
        0.0, "assumed", "days of a contract on trial, whole and at least 0: off unless a world asks for it"
    )
    trial_leave: Parameter = Parameter(
        0.0, "assumed", "hazard of the day on which a trial ends, before what the contract and its owner make of it"
    )
    lapsed_share: Parameter = Parameter(
        0.0, "assumed", "share of visitors who had a contract once and left: off unless a world asks for it"
    )
    lapsed_appeal: Parameter = Parameter(
        0.0, "assumed", "log-odds of click and contract of who left once, whatever is shown"
    )
    cancel_per_lapse: Parameter = Parameter(0.0, "assumed", "log-hazard of a contract of who left one before")
    margin_contrast: Parameter = Parameter(
        1.0, "assumed", "1: each offer has the contribution its catalogue entry states; 0: all have the mean"
    )
    retention_offer_effect: Parameter = Parameter(
        -0.30, "assumed", "log-hazard for two weeks after a subscriber clicked a perk"
    )

    def values(self) -> dict[str, float]:
        """Plain numbers by name."""
        return {f.name: getattr(self, f.name).value for f in fields(self)}

    def with_fitted(self, estimates: Mapping[str, tuple[float, float | None, str]]) -> Self:
        """Return a copy with fitted parameters: name → (value, standard error, source).

        Raises
        ------
        UnknownNameError
            If there is no such parameter.
        """
        known = [f.name for f in fields(self)]
        for name in estimates:
            if name not in known:
                raise UnknownNameError("parameter of the world", name, known)
        made = {n: Parameter(v, "fitted", source, se) for n, (v, se, source) in estimates.items()}
        return replace(self, **made)

    def with_assumed(self, **values: float) -> Self:
        """Return a copy with other assumed values (for sweeps); the reason says so."""
        known = [f.name for f in fields(self)]
        for name in values:
            if name not in known:
                raise UnknownNameError("parameter of the world", name, known)
        return replace(self, **{n: _assumed(v, "set for a sweep") for n, v in values.items()})

    def null(self) -> Self:
        """The world where offers make no difference to anything but their own price tag."""
        zero = (
            "no_offer_penalty", "taste_spread", "price_sensitivity", "discount_appeal", "deal_affinity_weight", "perk_appeal",
            "term_dislike", "fatigue_per_view", "cancel_per_discount", "cancel_per_term", "cancel_per_perk", "cancel_per_taste",
            "retention_offer_effect", "margin_contrast", "appeal_per_dependence", "discount_wear", "cancel_per_dependence",
            "cancel_per_fatigue",
        )  # fmt: skip
        return replace(self, **{n: _assumed(0.0, "null world: offers make no difference") for n in zero})

    def table(self) -> list[dict[str, Any]]:
        """One row per parameter for a report."""
        return [
            {
                "name": f.name,
                "value": p.value,
                "provenance": p.provenance,
                "standard_error": p.standard_error,
                "reason": p.reason,
            }
            for f in fields(self)
            for p in (getattr(self, f.name),)
        ]

    def __post_init__(self) -> None:
        for f in fields(self):
            p = getattr(self, f.name)
            if p.value != p.value or abs(p.value) == float("inf"):
                raise InvalidInputError(f"parameter {f.name} is {p.value}; expected a finite number")
            low, high = _RANGES.get(f.name, (-float("inf"), float("inf")))
            if not low <= p.value <= high:
                raise InvalidInputError(f"parameter {f.name} is {p.value}; expected a number in [{low:g}, {high:g}]")
        if self.trial_days.value < 0 or self.trial_days.value % 1:
            raise InvalidInputError(f"trial_days is {self.trial_days.value}; expected whole days, 0 for no trial")
