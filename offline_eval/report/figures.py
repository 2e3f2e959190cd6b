"""Measured figures in the one JSON form that benchmarks, the demo and proofs write."""

from __future__ import annotations

import operator
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_RULES = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Parameters
    ----------
    must, aim
        Rules like ``<= 1.3``; applied to the ratio where there is a baseline and ``judge_ratio`` is set, else to the value.
    baseline
        Name and value of what was measured beside it in the same run.
    reference
        A figure from elsewhere with its source; judges nothing.
    can_judge
        False where this size of run cannot tell; ``holds`` is then null.
    """

    name: str
    unit: str
    ours: float
    must: str = ""
    aim: str = ""
    baseline: tuple[str, float] | None = None
    reference: tuple[str, float] | None = None
    judge_ratio: bool = False
    can_judge: bool = True
    runs: int = 1
    spread: Sequence[float] = field(default_factory=tuple)
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the baseline."""
        return self.ours / self.baseline[1] if self.baseline and self.baseline[1] else None

    @property
    def holds(self) -> bool | None:
        """Whether the rule is kept; None where there is none or this run cannot tell."""
        if not self.must or not self.can_judge:
            return None
        return keeps(self.ratio if self.judge_ratio and self.ratio is not None else self.ours, self.must)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        told: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "baseline": None if self.baseline is None else {"name": self.baseline[0], "value": self.baseline[1]},
            "ratio": self.ratio,
            "must": self.must or None,
            "aim": self.aim or None,
            "holds": self.holds,
            "runs": self.runs,
            "spread": list(self.spread),
        }
        if self.reference:
            told["reference"] = {"source": self.reference[0], "value": self.reference[1]}
        if self.note:
            told["note"] = self.note
        return told


def keeps(value: float, rule: str) -> bool:
    """Whether a value keeps a rule like ``<= 1.3``."""
    found = re.fullmatch(r"\s*(<=|>=|<|>|==)\s*(-?[\d.]+(?:e-?\d+)?)\s*", rule)
    if found is None:
        raise ValueError(f"rule {rule!r} is not understood; write an operator and a number, like '<= 1.3'")
    return bool(_RULES[found[1]](value, float(found[2])))


def figures_document(name: str, figures: Sequence[Figure], *, quick: bool, seed: int | None = None) -> dict[str, Any]:
    """Figures of one run as plain JSON values, with the machine they were measured on."""
    return {
        "benchmark": name,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "quick": quick,
        "seed": seed,
        "figures": [f.to_json() for f in figures],
    }
