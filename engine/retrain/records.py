"""What a retraining is told, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.gate.records import Limits
from policies.errors import InvalidInputError, UnknownNameError

# Candidates by name: which reward model, and which rule over it.
CANDIDATES: dict[str, tuple[str, str]] = {
    "greedy_logistic": ("logistic", "greedy"),
    "greedy_lightgbm": ("lightgbm", "greedy"),
    "greedy_mlp": ("mlp", "greedy"),
    "squarecb_logistic": ("logistic", "squarecb"),
    "squarecb_lightgbm": ("lightgbm", "squarecb"),
}
MIN_ROWS = 200


@dataclass(frozen=True, slots=True)
class RetrainConfig:
    """One placement's retraining, saved beside what it produced.

    Parameters
    ----------
    placement
        Whose decisions.
    candidates
        Names of ``CANDIDATES``.
    memories_days
        How far back each candidate looks: the longest gives the most data, a short one forgets what is over. 0: everything.
    window_days
        How far back the whole log is looked at, held-out time included; 0: everything. A site that changes needs a window so short
        that held-out time is after the change soon.
    held_out_share
        Share of the decisions, the newest ones, that no candidate learns from and all are judged on.
    explore_share
        Which a candidate is judged with; None: that of the placement.
    has_simulator
        Whether a site is fitted on the log and asked too; without it the gate leaves the decision to a person.
    n_members, n_simulated
        Sites of the ensemble, and visitors for each.
    clicked, subscribed, kept, margin
        Kinds of facts that the guardrails and the simulator read.
    limits
        What the gate asks.
    """

    placement: str
    candidates: tuple[str, ...] = ("greedy_logistic", "greedy_lightgbm")
    memories_days: tuple[float, ...] = (0.0,)
    window_days: float = 0.0
    held_out_share: float = 0.3
    explore_share: float | None = None
    has_simulator: bool = True
    n_members: int = 12
    n_simulated: int = 4_000
    clicked: str = "clicked"
    subscribed: str = "subscribed"
    kept: str = "active_30d"
    margin: str = "margin_eur"
    cancelled: str = "cancelled"
    seed: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in self.candidates:
            if name not in CANDIDATES:
                raise UnknownNameError("candidate", name, CANDIDATES)
        if not self.candidates or not self.memories_days or min(*self.memories_days, self.window_days) < 0:
            raise InvalidInputError("a retraining needs at least one candidate and one memory of 0 or more days")
        if not 0.05 <= self.held_out_share <= 0.8:
            raise InvalidInputError(f"held_out_share is {self.held_out_share}; expected 0.05 to 0.8")

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same configuration."""
        return asdict(self)


def config_from_json(document: Mapping[str, Any]) -> RetrainConfig:
    """Read back what ``RetrainConfig.to_json`` wrote."""
    known = dict(document)
    limits = dict(known.pop("limits"))
    limits["calibration_slope"] = tuple(limits["calibration_slope"])
    for name in ("candidates", "memories_days"):
        known[name] = tuple(known[name])
    return RetrainConfig(**known, limits=Limits(**limits))
