"""Comparisons of propensity models as a person reads them on a terminal, and all of those below a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.errors import InvalidInputError


def table_text(result: Mapping[str, Any]) -> str:
    """The comparison as a table for a person: every figure on the one test split, intervals over subjects."""
    width = _name_width(result["models"])
    head = f"{'model':<{width}}{'AUC-ROC':>24}{'PR-AUC':>24}{'P@10%':>8}{'log loss':>10}{'Brier sk.':>10}{'ECE (floor)':>18}{'slope':>7}  {'AUC − reference':<26}"
    lines = [head, "-" * len(head)]
    for name, row in sorted(result["models"].items(), key=lambda item: item[1]["validation"]["log_loss"]):
        test, against = row["test"], row["test_against_reference"]["roc_auc"]
        mark = "*" if name == result["chosen"] else " "
        lines.append(
            f"{name + mark:<{width}}{_span(test['roc_auc']):>24}{_span(test['average_precision']):>24}"
            f"{test['precision_at_10pct']:>8.3f}{test['log_loss']:>10.4f}{test['brier_skill']:>10.3f}"
            f"{test['ece']:>9.4f} ({test['ece_floor']['upper']:.4f}){test['calibration_slope']['value']:>7.2f}  "
            f"{against['value']:+.4f} [{against['low']:+.4f}, {against['high']:+.4f}]"
        )
    own, rows = result["models"][result["chosen"]]["in_period"], result["rows"]
    later = result["models"][result["chosen"]]["test"]
    slope = own["calibration_slope"]
    level = (
        f"level of {result['chosen']}: in its own period slope {slope['value']:.2f} [{slope['low']:.2f}, {slope['high']:.2f}], "
        f"ECE {own['ece']:.4f} (floor {own['ece_floor']['upper']:.4f}), mean {own['mean_probability']:.3f} where {own['rate']:.3f} occurred; "
        f"on test slope {later['calibration_slope']['value']:.2f}, mean {later['mean_probability']:.3f} where {later['rate']:.3f} occurred"
    )
    for name, row in result.get("kept", {}).items():
        kept = row["test"]
        lines.append(
            f"kept, by {name}'s second head: AUC {_span(kept['roc_auc'])}, slope {kept['calibration_slope']['value']:.2f}, "
            f"mean {kept['mean_probability']:.3f} where {kept['rate']:.3f} occurred ({kept['n_positives']} of {kept['n_rows']} rows)"
        )
    sizes = ", ".join(f"{s} {r['rows']} rows / {r['positives']} positive" for s, r in rows.items())
    lines += [
        f"* chosen: {result['reason']}",
        result["verdict"],
        level,
        f"{sizes}; not matured, never used: {result['not_matured']}",
    ]
    return "\n".join(lines)


def runs_under(folder: Path) -> list[dict[str, Any]]:
    """Every comparison below a folder, oldest first, with the folder it lies in as ``run``.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    files = sorted(folder.rglob("comparison.json"), key=lambda f: f.stat().st_mtime)
    if not files:
        raise InvalidInputError(f"{folder} holds no run (no comparison.json below it); train with --out below it first")
    return [{"run": str(f.parent.relative_to(folder)), **json.loads(f.read_text())} for f in files]


def runs_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """One line a model and run: the figures on each run's test split."""
    width = _name_width([name for run in runs for name in run["models"]])
    head = f"{'run':<24}{'data':<20}{'model':<{width}}{'AUC-ROC':>24}{'PR-AUC':>24}{'log loss':>10}  {'AUC − reference':<26}"
    lines = [head, "-" * len(head)]
    for run in runs:
        for name, row in run["models"].items():
            test, against = row["test"], row["test_against_reference"]["roc_auc"]
            lines.append(
                f"{run['run']:<24}{run['data']:<20}{name + ('*' if name == run['chosen'] else ''):<{width}}"
                f"{_span(test['roc_auc']):>24}{_span(test['average_precision']):>24}{test['log_loss']:>10.4f}  "
                f"{against['value']:+.4f} [{against['low']:+.4f}, {against['high']:+.4f}]"
            )
    return "\n".join(lines)


def _name_width(names: Iterable[str]) -> int:
    """Characters of the column of names: the longest, its mark and a space."""
    return max(len(name) for name in names) + 2


def _span(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
