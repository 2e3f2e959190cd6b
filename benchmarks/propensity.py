"""Propensity models on real data against plain references: ranking, level and leakage, each with its interval.

Builds the decision points of each data set with Spark from its description in ``examples/sources``, trains, chooses on validation, and
judges once on test. What was built is kept below ``--work`` and used again while the description is unchanged; the runs lie there too:
``nextoffer train propensity --compare WORK`` prints them side by side. Needs NEXTOFFER_DATA_DIR for all but the Complete Journey.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._figures import Figure, finish, parser
from engine.models.dataset import TABULAR_PREFIXES, SequenceDataset
from engine.models.segments import segments_text
from engine.training.audit import audit_text, leakage_audit
from engine.training.comparison import TrainingConfig
from engine.training.comparison_tables import table_text
from engine.training.propensity import train_propensity

SOURCES = Path(__file__).resolve().parents[1] / "examples" / "sources"
# What the logistic regression of 0.825 on the Complete Journey had: everything but what concerns the campaign's own products.
CAMPAIGN_COLUMNS = ("agg_campaign_product_*",)
# Recency, frequency and amount: the plain model of the Online Retail bar.
SIX = ("agg_n_order", "agg_days_since_order", "agg_days_since_first", "agg_amount", "agg_n_order_90d", "agg_amount_90d")
PAGE_VALUES = "agg_page_values"


class Desk:
    """Builds, trains and audits below one folder."""

    def __init__(self, work: Path, *, quick: bool, seed: int, models: tuple[str, ...], jobs: int) -> None:
        self.work, self.quick, self.seed, self.models, self.jobs = work, quick, seed, models, jobs

    def points(self, name: str) -> Path:
        """Folder of decision points; built where it is not there, or its description has changed."""
        source, folder = SOURCES / f"{name}.toml", self.work / name / "points"
        manifest = folder / "manifest.json"
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        if not manifest.is_file() or json.loads(manifest.read_text())["description_sha256"] != digest:
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, "-m", "engine.sequences.build", "--source", str(source), "--out", str(folder)]
            _say(f"{name}: building decision points")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"building {name} failed:\n{done.stderr[-2000:]}")
        return folder

    def run(self, name: str, label: str, **options: Any) -> dict[str, Any]:
        """Train and compare; an earlier run of this label is replaced."""
        out = self.work / name / label
        shutil.rmtree(out, ignore_errors=True)
        config = TrainingConfig(models=self.models, quick=self.quick, seed=self.seed, jobs=self.jobs, **options)
        _say(f"{name}: training {', '.join(config.models)}")
        result = train_propensity(self.points(name), out, config=config)
        _say(table_text(result))
        _say(segments_text(result["segments"], names=("as_of",)))
        return result

    def audit(self, name: str) -> dict[str, Any]:
        """Look for leakage."""
        found = leakage_audit(SequenceDataset.read(self.points(name)), seed=self.seed)
        _say(audit_text(found))
        return found

    def columns(self, name: str) -> list[str]:
        """Columns beside the sequence."""
        manifest = json.loads((self.points(name) / "manifest.json").read_text())
        return [c for c in manifest["columns"] if c.startswith(TABULAR_PREFIXES)]


def complete_journey(desk: Desk) -> list[Figure]:
    """Campaigns before August 2017 train, later ones judge."""
    result = desk.run("complete_journey", "run", reference_ignore=CAMPAIGN_COLUMNS)
    chosen = result["models"][result["chosen"]]
    against = chosen["test_against_reference"]["roc_auc"]
    reference = result["models"][result["reference"]]["test"]["roc_auc"]
    judge = not desk.quick
    return [
        _interval_figure(
            "complete_journey_auc_minus_logistic",
            against,
            must=">= 0.0",
            aim=">= 0.015",
            can_judge=judge,
            note=f"{result['chosen']} {chosen['test']['roc_auc']['value']:.4f}, the plain logistic {reference['value']:.4f}; {result['verdict']}",
        ),
        _interval_figure(
            "complete_journey_average_precision",
            chosen["test"]["average_precision"],
            must=">= 0.495",
            can_judge=judge,
            note="",
        ),
        *_level_figures("complete_journey", chosen, can_judge=judge),
    ]


def online_retail(desk: Desk) -> list[Figure]:
    """Two snapshots after training, each against the six-feature logistic."""
    rest = tuple(c for c in desk.columns("online_retail") if c not in SIX)
    result = desk.run("online_retail", "run", reference_ignore=rest)
    reference_auc = {"2011-10-01": 0.725, "2011-11-01": 0.738}
    aims = {"2011-10-01": ">= 0.74", "2011-11-01": ">= 0.75"}
    figures = []
    for group in result["segments"]["as_of"]:
        day, auc, against = group["value"], group["roc_auc"], group["against_reference"]
        own = auc["value"] - against["value"]
        figures += [
            Figure(
                name=f"online_retail_{day}_auc",
                unit="AUC",
                ours=auc["value"],
                aim=aims.get(day, ""),
                reference=("six-feature logistic, data notes", reference_auc[day]) if day in reference_auc else None,
                spread=[auc["low"], auc["high"]],
                note=f"{result['chosen']}; the six-feature logistic here {own:.4f}",
            ),
            Figure(
                name=f"online_retail_{day}_upper_limit_of_difference",
                unit="AUC",
                ours=against["high"],
                must=">= 0.0",
                can_judge=not desk.quick,
                spread=[against["low"], against["high"]],
                note=f"paired difference to the six-feature logistic {against['value']:+.4f}",
            ),
        ]
    return figures


def online_shoppers(desk: Desk) -> list[Figure]:
    """With and without the column that knows the answer, and whether the audit names it by itself."""
    whole = desk.run("online_shoppers", "run")
    blind = desk.run("online_shoppers", "without-page-values", ignore=(PAGE_VALUES,))
    found = desk.audit("online_shoppers")
    judge = not desk.quick
    with_it, without = (r["models"][r["chosen"]]["test"]["roc_auc"] for r in (whole, blind))
    return [
        _interval_figure("online_shoppers_auc", with_it, must=">= 0.92", can_judge=judge, note=whole["chosen"]),
        Figure(
            name="online_shoppers_auc_without_page_values_off_0.78",
            unit="AUC",
            ours=abs(without["value"] - 0.78),
            must="<= 0.02",
            can_judge=judge,
            spread=[without["low"], without["high"]],
            note=f"AUC {without['value']:.4f} ({blind['chosen']}); expected 0.76 to 0.80",
        ),
        Figure(
            name="online_shoppers_suspects_are_page_values_alone",
            unit="yes",
            ours=float(set(found["suspects"]) == {PAGE_VALUES}),
            must="== 1",
            note="; ".join(f"{n}: {why}" for n, why in found["suspects"].items()),
        ),
    ]


def in_vehicle_coupon(desk: Desk) -> list[Figure]:
    """Folds of whole respondents by default; what random folds would have flattered by."""
    found = desk.audit("in_vehicle_coupon")
    result = desk.run("in_vehicle_coupon", "run")
    chosen = result["models"][result["chosen"]]["test"]["roc_auc"]
    gap = found["random_folds"]
    return [
        _interval_figure("in_vehicle_coupon_auc_grouped", chosen, must="", can_judge=False, note=result["chosen"]),
        Figure(
            name="in_vehicle_coupon_random_folds_flatter_by_at_least",
            unit="AUC",
            ours=gap["gap_low"],
            must="> 0.0",
            can_judge=not desk.quick,
            spread=[gap["gap_low"], gap["gap_high"]],
            note=f"boosted trees: random folds {gap['roc_auc']:.3f}, folds of whole respondents {found['roc_auc']:.3f}",
        ),
    ]


def oulad(desk: Desk) -> list[Figure]:
    """Who leaves by day 30: a retention label of a real subscription-like product."""
    result = desk.run("oulad", "run")
    chosen = result["models"][result["chosen"]]
    return [
        _interval_figure(
            "oulad_auc", chosen["test"]["roc_auc"], must="> 0.5", can_judge=not desk.quick, note=result["chosen"]
        ),
        *_level_figures("oulad", chosen, can_judge=not desk.quick),
    ]


def _interval_figure(
    name: str, interval: Mapping[str, float], *, must: str, can_judge: bool, note: str, aim: str = ""
) -> Figure:
    return Figure(
        name=name,
        unit="AP" if "precision" in name else "AUC",
        ours=interval["value"],
        must=must,
        aim=aim,
        can_judge=can_judge,
        spread=[interval["low"], interval["high"]],
        note=note,
    )


def _level_figures(name: str, chosen: Mapping[str, Any], *, can_judge: bool) -> list[Figure]:
    """Slope and calibration error where the model was chosen, and how far the level drifts later."""
    own, later = chosen["in_period"], chosen["test"]
    slope, drift = own["calibration_slope"], later["calibration_slope"]
    return [
        Figure(
            name=f"{name}_in_period_slope_off_1",
            unit="",
            ours=abs(slope["value"] - 1.0),
            must="<= 0.1",
            can_judge=can_judge,
            spread=[slope["low"], slope["high"]],
            note=f"calibration slope {slope['value']:.3f} of the deployed mean of folds on {own['n_positives']} positives; {_single_folds(chosen)}",
        ),
        Figure(
            name=f"{name}_in_period_calibration_error",
            unit="",
            ours=own["ece"],
            must=f"<= {own['ece_floor']['upper']:.6f}",
            can_judge=can_judge,
            note="against what perfect probabilities of this shape would show on as many rows (95 % quantile)",
        ),
        Figure(
            name=f"{name}_later_mean_minus_rate",
            unit="",
            ours=later["mean_probability"] - later["rate"],
            spread=[drift["low"], drift["high"]],
            note=f"drift on test: slope {drift['value']:.3f} (spread), calibration error {later['ece']:.4f}",
        ),
    ]


def _single_folds(chosen: Mapping[str, Any]) -> str:
    slope = chosen["single_folds"]["calibration_slope"]
    return f"of single folds' models on all other rows {slope['value']:.3f} [{slope['low']:.3f}, {slope['high']:.3f}]"


TASKS: dict[str, Callable[[Desk], list[Figure]]] = {
    "complete_journey": complete_journey,
    "online_retail": online_retail,
    "online_shoppers": online_shoppers,
    "in_vehicle_coupon": in_vehicle_coupon,
    "oulad": oulad,
}
# The smallest that shows every step; the others take minutes of Spark and training each.
QUICK = ("online_shoppers",)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    made = parser(__doc__)
    made.add_argument("--data-sets", default="", help=f"among {', '.join(TASKS)}; all if empty")
    made.add_argument("--models", default="logistic,lightgbm,dnn,gru,transformer", help="as of `nextoffer train`")
    made.add_argument("--work", type=Path, help="keep decision points and runs here")
    made.add_argument("--jobs", type=int, default=2, help="processes at once")
    options = made.parse_args(arguments)
    names = [n for n in options.data_sets.split(",") if n] or list(QUICK if options.quick else TASKS)
    unknown = sorted(set(names) - set(TASKS))
    if unknown:
        made.error(f"unknown data set {', '.join(unknown)}; expected some of {', '.join(TASKS)}")
    models = tuple(options.models.split(",")) if not options.quick else ("logistic", "lightgbm")
    scratch = options.work or Path(tempfile.mkdtemp(prefix="nextoffer-propensity-"))
    desk = Desk(scratch, quick=options.quick, seed=options.seed, models=models, jobs=options.jobs)
    try:
        figures = [figure for name in names for figure in TASKS[name](desk)]
    finally:
        if options.work is None:
            shutil.rmtree(scratch, ignore_errors=True)
    return finish("propensity", figures, quick=options.quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
