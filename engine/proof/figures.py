"""The proof's bars in the form that benchmarks write, for machines."""

from __future__ import annotations

from typing import Any

from engine.proof.headline import REFERENCE
from engine.proof.judged import agreement_summary, answers_table, grid_summary
from engine.proof.story import Proof
from offline_eval.report.figures import Figure, figures_document

_SIMULATED = "in simulation"


def proof_figures(proof: Proof) -> dict[str, Any]:
    """Every bar with what was found, and the commitment it belongs to."""
    figures = [f for world in proof.reference for f in _reference(world, is_judged=not proof.config.is_quick)]
    figures += _grid(proof) + _sealed(proof) + _agreement(proof) + _replays(proof)
    document = figures_document("prove", figures, quick=proof.config.is_quick, seed=proof.config.seed)
    return {**document, "in_simulation": True, "commitment": proof.commitment["hash"], "seconds": proof.seconds}


def _reference(told: dict[str, Any], *, is_judged: bool) -> list[Figure]:
    name, true = told["world"].replace(" ", "_"), told["truth"][told["challenger"]]
    live, can = told["live"], is_judged

    def figure(what: str, outcome: str, must: str) -> Figure:
        t = true[outcome]
        return Figure(
            f"{name}_true_lift_{what}", "relative", t["lift"], must=must, can_judge=can,
            aim=">= 0.25" if what == "conversion" else "", spread=(t["low"], t["high"]), note=_SIMULATED,
        )  # fmt: skip

    figures = [figure("conversion", "subscribed", ">= 0.12"), figure("kept", "kept_30d", ">= 0.21")]
    figures += [figure("margin", "margin_eur", ">= 0")]
    for metric in ("conversion", "kept"):
        figures.append(
            Figure(
                f"{name}_live_low_end_{metric}", "share", live[metric]["low"], must="> 0", can_judge=can,
                spread=(live[metric]["low"], live[metric]["high"]), note=f"{_SIMULATED}; {live[metric]['method']}",
            )
        )  # fmt: skip
    retention = true["retention"]
    note = f"{_SIMULATED}; descriptive: {retention['incumbent']:.3f} to {retention['value']:.3f}"
    if told["room"] is not None and told["room"]["retention_with_both_bars"] is not None:
        best = told["room"]["retention_with_both_bars"]
        note += f"; an oracle that sees hidden traits reaches {best:+.3f} where it also keeps both other bars"
    figures.append(
        Figure(
            f"{name}_retention_lift",
            "relative",
            retention["lift"],
            must=">= 0.08" if told["world"] == REFERENCE else "",
            can_judge=can,
            note=note,
        )
    )
    service = told["service"]
    figures.append(
        Figure(
            f"{name}_decisions_that_differ_from_the_light_pipeline", "decisions", service["decisions_that_differ"], must="== 0",
            note=f"of {service['decisions_compared']:,}, {service['http_decisions_compared']:,} of them over HTTP",
        )
    )  # fmt: skip
    return figures


def _grid(proof: Proof) -> list[Figure]:
    if not proof.grid:
        return []
    told = grid_summary(proof.grid)
    figures = []
    for metric in ("kept", "conversion"):
        c = told["coverage"][metric]
        figures.append(
            Figure(
                f"grid_coverage_{metric}", "share", c["estimate"], must=">= 0.93", can_judge=not proof.config.is_quick,
                runs=c["n"], spread=(c["low"], c["high"]), note=f"{_SIMULATED}; {len(proof.grid)} worlds",
            )
        )  # fmt: skip
    q = told["kept_30d"]["quantiles"]
    figures.append(
        Figure(
            "grid_true_lift_kept", "relative", q["median"], runs=len(proof.grid), spread=(q["min"], q["max"]),
            note=f"{_SIMULATED}; median, spread: lowest and highest; {told['kept_30d']['losing']} worlds lose",
        )
    )  # fmt: skip
    return figures


def _sealed(proof: Proof) -> list[Figure]:
    figures = []
    for name, row in answers_table(proof.sealed).items():
        is_ours, key = name == "ours", name.replace(" ", "_")
        bars = (
            ("false_wins", "false_share", "without_gain", "<= 0.05"),
            ("effects_found", "found_share", "at_planned_size", ">= 0.8"),
        )
        for title, which, whole, must in bars:
            s = row[which]
            if s["estimate"] is None:
                continue
            figures.append(
                Figure(
                    f"sealed_{title}_{key}", "share", s["estimate"], must=must if is_ours else "", runs=row[whole],
                    can_judge=not proof.config.is_quick, spread=(s["low"], s["high"]), note=_SIMULATED,
                )
            )  # fmt: skip
    return figures


def _agreement(proof: Proof) -> list[Figure]:
    figures = []
    for row in agreement_summary(proof.agreement):
        name = row["pair"].replace(" ", "_")
        figures.append(
            Figure(
                f"agreement_{name}_covers_zero", "share", row["covers_zero"] / row["cells"], must="== 1", runs=row["cells"],
                note=f"{_SIMULATED}; largest difference {row['largest']:.3f}",
            )
        )  # fmt: skip
        if row["powered"]:
            figures.append(
                Figure(
                    f"agreement_{name}_within_3_points", "share", row["within_points"] / row["powered"], must="== 1",
                    runs=row["powered"], note=f"{_SIMULATED}; cells whose interval is at most 6 points wide",
                )
            )  # fmt: skip
    return figures


def _replays(proof: Proof) -> list[Figure]:
    return [
        Figure(
            f"replay_{row['log'].replace(', ', '_').replace(' ', '_')}", row["unit"], row["difference"],
            baseline=(row["compared_with"], row["incumbent"]), spread=(row["low"], row["high"]), note=row["word"],
        )
        for row in proof.replays
    ]  # fmt: skip
