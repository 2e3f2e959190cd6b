"""A made-up export of Azure Personalizer with a known truth, in the export's own form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

WORTH = {"new": {"pasta": 0.1, "salad": 0.5, "soup": 0.3}, "regular": {"pasta": 0.6, "salad": 0.2, "soup": 0.3}}
ACTIONS = ("pasta", "salad", "soup")
SHOWN = {"pasta": 0.6, "salad": 0.2, "soup": 0.2}


def line(i: int, *, tier: str, first: str, p: Mapping[str, float], reward: float) -> dict[str, Any]:
    """One event: the action shown first, the others after it, each with its probability."""
    order = [first, *(a for a in ACTIONS if a != first)]
    numbers = [ACTIONS.index(a) + 1 for a in order]
    return {
        "_label_cost": -reward,
        "_label_probability": p[first],
        "_label_Action": numbers[0],
        "_labelIndex": 0,
        "o": [{"v": reward, "EventId": f"e{i}", "ActionTaken": False}],
        "Timestamp": f"2026-05-01T10:{i // 60 % 60:02d}:{i % 60:02d}.1234567Z",
        "Version": "1",
        "EventId": f"e{i}",
        "a": numbers,
        "c": {
            "FromUrl": [{"user": {"tier": tier, "visits": float(i % 7)}}, {"device": "phone"}],
            "_multi": [
                {"_tag": a, "i": {"constant": 1, "id": a}, "j": [{"calories": float(100 * (n + 1))}]}
                for n, a in enumerate(ACTIONS)
            ],
        },
        "p": [p[a] for a in order],
        "VWState": {"m": "model/1"},
        "pdrop": 0.0,
    }


def export(n: int, *, seed: int = 0) -> list[str]:
    """``n`` events of a policy that shows pasta six times in ten, with rewards drawn from ``WORTH``."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(n):
        tier = "new" if rng.random() < 0.5 else "regular"
        first = ACTIONS[int(rng.choice(3, p=[SHOWN[a] for a in ACTIONS]))]
        reward = float(rng.random() < WORTH[tier][first])
        lines.append(json.dumps(line(i, tier=tier, first=first, p=SHOWN, reward=reward)))
    return lines
