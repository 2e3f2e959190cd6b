"""What the gate asks, and what it answers: parts with a word and sentences, and one outcome over them.

The rule over the parts is fixed here, before any candidate is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from policies.errors import InvalidInputError

Word = Literal["pass", "refuse", "open"]
Outcome = Literal["pass", "refuse", "log cannot answer"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "refuse", "log cannot answer")


@dataclass(frozen=True, slots=True)
class Part:
    """One question and its answer.

    Parameters
    ----------
    word
        ``pass``; ``refuse``, which decides alone; ``open``: not answered by what there is.
    sentences
        Why, for people; the first one is the reason.
    figures
        Numbers behind it.
    in_simulation
        Whether they come from a simulator.
    is_needed
        Whether an open answer leaves the whole open; some questions need not apply to a candidate.
    """

    name: str
    word: Word
    sentences: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    in_simulation: bool = False
    is_needed: bool = True

    def __post_init__(self) -> None:
        if not self.sentences:
            raise InvalidInputError(f"part {self.name!r} of the gate gives no reason; say why in a sentence")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "sentences": list(self.sentences), "figures": dict(self.figures)}


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked of a candidate.

    Parameters
    ----------
    latency_budget_ms
        Processor time of one decision by the policy, 99th percentile.
    loss_tolerance
        Share of the incumbent's value by which a guardrail may be lower before the gate refuses to be sure it holds.
    calibration_slope
        Smallest and largest slope of the calibration line that is no fault.
    minimal_effect
        Smallest difference of the reward per decision that matters; a tenth of the incumbent's value where None.
    """

    latency_budget_ms: float = 5.0
    loss_tolerance: float = 0.1
    calibration_slope: tuple[float, float] = (0.7, 1.4)
    minimal_effect: float | None = None

    def __post_init__(self) -> None:
        if self.latency_budget_ms <= 0 or not 0 <= self.loss_tolerance < 1:
            raise InvalidInputError(
                f"latency budget {self.latency_budget_ms} ms and tolerance {self.loss_tolerance}; expected above 0, and in [0, 1)"
            )


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What the gate said of one candidate.

    Parameters
    ----------
    reasons
        Sentences; the first decided.
    next_step
        What can be done now, in a sentence.
    inputs
        Hash of what it was judged on: the same judgement again is the same verdict.
    approved_by, approved_at
        The person who lets it go to a small canary although the log could not answer.
    """

    placement: str
    policy: str
    incumbent: str
    at: datetime
    outcome: Outcome
    reasons: tuple[str, ...]
    next_step: str
    parts: tuple[Part, ...]
    inputs: str = ""
    approved_by: str | None = None
    approved_at: datetime | None = None

    @property
    def id(self) -> str:
        """Hash of who was judged against whom on what; what a clock measured on the way is no part of it."""
        said = [self.placement, self.policy, self.incumbent, self.inputs]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    @property
    def may_go_on(self) -> bool:
        """Whether it may meet visitors."""
        return self.outcome == "pass" or (self.outcome == "log cannot answer" and self.approved_by is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id,
            "placement": self.placement,
            "policy": self.policy,
            "incumbent": self.incumbent,
            "at": self.at.isoformat(),
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "next_step": self.next_step,
            "parts": [p.to_json() for p in self.parts],
            "inputs": self.inputs,
            "approved_by": self.approved_by,
            "approved_at": None if self.approved_at is None else self.approved_at.isoformat(),
        }


def part_from_json(document: Mapping[str, Any]) -> Part:
    """Read back what ``Part.to_json`` wrote."""
    return Part(**{**document, "sentences": tuple(document["sentences"])})


def conclude(
    parts: Sequence[Part], *, placement: str, policy: str, incumbent: str, at: datetime, inputs: str
) -> GateVerdict:
    """One outcome over the parts: a refusal decides; else what stays open and is needed; else pass."""
    refused = [p for p in parts if p.word == "refuse"]
    left_open = [p for p in parts if p.word == "open" and p.is_needed]
    outcome: Outcome
    if refused:
        outcome, deciding = "refuse", refused
        step = f"{incumbent} stays; the next retraining tries again."
    elif left_open:
        outcome, deciding = "log cannot answer", left_open
        simulated = next((p for p in parts if p.in_simulation), None)
        told = "" if simulated is None or simulated.word == "open" else " The simulator speaks for it."
        step = f"A person may approve it; then a small canary answers what the log could not.{told}"
    else:
        outcome, deciding = "pass", list(parts)
        step = "It goes on to shadow, then to a canary that grows while nothing is proven worse."
    reasons = tuple(f"{p.name}: {s}" for p in deciding for s in p.sentences)
    return GateVerdict(placement, policy, incumbent, at, outcome, reasons, step, tuple(parts), inputs)
