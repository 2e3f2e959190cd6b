"""What the worlds of a run say together: shares of false wins and of effects found, coverage, lift over the grid, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.demo.reading import WORTHWHILE_LIFT
from offline_eval.abtest.effects import wilson

ANSWERERS = ("ours", "peeking", "plain IPS")
KINDS = ("effect", "null", "confounded", "harmful")
# Truth is simulated: a margin this little below the incumbent's, in standard errors, is not a loss.
_ERRORS = 2.0


def answers_table(worlds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By answerer: false wins among worlds without a gain, found among effects at the planned size, and all claims.

    A world is without a gain for an answerer where the policy it would promote keeps no more visitors than the incumbent in truth;
    an effect is at the planned size where it keeps at least the planned lift more and margin per visitor is not lower.
    """
    told = {}
    for name in ANSWERERS:
        picks = [(w, w["answers"][name], w["truth"][w["answers"][name] or w["challenger"]]) for w in worlds]
        without = [(w, p) for w, p, t in picks if t["kept_30d"]["difference"] <= 0]
        at_size = [(w, p) for w, p, t in picks if is_at_planned_size(t)]
        false = sum(p is not None for _, p in without)
        found = sum(p is not None for _, p in at_size)
        claims = sum(p is not None for _, p, _ in picks)
        told[name] = {
            "claims": claims, "without_gain": len(without), "false_wins": false, "at_planned_size": len(at_size),
            "found": found, "false_share": share(false, len(without)), "found_share": share(found, len(at_size)),
            "false_among_claims": share(false, claims),
        }  # fmt: skip
    return told


def is_at_planned_size(truth: Mapping[str, Any]) -> bool:
    """Whether a policy truly gains what the plan was made for, without paying for it in margin."""
    margin = truth["margin_eur"]
    return bool(
        truth["kept_30d"]["lift"] >= WORTHWHILE_LIFT and margin["difference"] >= -_ERRORS * margin["standard_error"]
    )


def by_kind(worlds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By kind of world: how many, how many claims of each answerer, and how many of them are false."""
    rows = []
    for kind in KINDS:
        mine = [w for w in worlds if w["kind"] == kind]
        row: dict[str, Any] = {"kind": kind, "worlds": len(mine)}
        for name in ANSWERERS:
            claimed = [w["truth"][w["answers"][name]] for w in mine if w["answers"][name] is not None]
            row[f"{name} claims"] = len(claimed)
            row[f"{name} false"] = sum(t["kept_30d"]["difference"] <= 0 for t in claimed)
        rows.append(row)
    return rows


def share(part: int, whole: int) -> dict[str, float | None]:
    """A share with its Wilson interval; None where there is nothing to count."""
    if not whole:
        return {"estimate": None, "low": None, "high": None}
    low, high = wilson(part, whole)
    return {"estimate": part / whole, "low": low, "high": high}


def coverage(claims: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Share of live intervals that hold the true difference: pairs of what was claimed and what was true."""
    names = {"conversion": "subscribed", "kept": "kept_30d"}
    told: dict[str, Any] = {}
    for metric, outcome in names.items():
        inside = [c[metric]["low"] <= t[outcome]["difference"] <= c[metric]["high"] for c, t in claims]
        told[metric] = {**share(sum(inside), len(inside)), "n": len(inside)}
    return told


def grid_summary(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lift over the grid as quantiles, the points where the challenger loses, and coverage over all their experiments."""
    told: dict[str, Any] = {}
    for outcome in ("subscribed", "kept_30d", "margin_eur"):
        lifts = np.asarray([p["truth"][outcome]["lift"] for p in points])
        told[outcome] = {
            "quantiles": dict(
                zip(
                    ("min", "q10", "median", "q90", "max"),
                    np.quantile(lifts, (0, 0.1, 0.5, 0.9, 1)).tolist(),
                    strict=True,
                )
            ),
            "losing": int((lifts < 0).sum()),
        }
    losing = [
        {"number": p["number"], "at": p["at"], "lift": p["truth"]["kept_30d"]["lift"], "challenger": p["challenger"],
         "claims": sum(c["answer"] == "lift" for c in p["claims"])}
        for p in points
        if p["truth"]["kept_30d"]["lift"] < 0
    ]  # fmt: skip
    told["losing_cells"] = losing
    told["coverage"] = coverage([(c, p["truth"]) for p in points for c in p["claims"]])
    return told


def agreement_summary(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By pair: how many differences cover zero (Holm within a cell), how many are powered, and how many of those lie within the points."""
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        for row in cell["pairs"]:
            pairs.setdefault((row["a"], row["b"]), []).append(row)
    return [
        {
            "pair": f"{a} and {b}", "cells": len(rows), "covers_zero": sum(r["covers_zero"] for r in rows),
            "powered": sum(r["is_powered"] for r in rows),
            "within_points": sum(r["within_points"] for r in rows if r["is_powered"]),
            "largest": max((abs(r["difference"]) for r in rows), default=0.0),
        }
        for (a, b), rows in pairs.items()
    ]  # fmt: skip
