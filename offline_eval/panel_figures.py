"""What lies under a panel, as plain values: one source for its JSON and for its page, so that the two cannot part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offline_eval.diagnostics import calibration_table, value_over_time
from offline_eval.summaries import log_bins

if TYPE_CHECKING:
    from offline_eval.log_records import CandidateRecord
    from offline_eval.panel import Panel

# Fewer equal rows than these say nothing of a stretch of time.
MIN_ROWS_OF_A_STRETCH = 20


def figures_under(panel: Panel) -> dict[str, Any]:
    """Everything the page draws beside estimates, checks and verdicts."""
    return {
        "weights": {name: weight_figures(record) for name, record in panel.data.candidates.items()},
        "offers": offer_figures(panel),
        "reward_model": calibration_table(panel.data.log),
        "over_time": over_time(panel),
    }


def weight_figures(record: CandidateRecord) -> dict[str, Any]:
    """How a candidate's weights spread: in numbers, and counted in bins of equal width on a logarithmic axis.

    The bins count an even sample of one row in ``one_row_in``.
    """
    edges, counts = log_bins(record.sample.values())
    return {
        "rows": record.n_rows,
        "rows_of_weight_0": record.n_rows - record.n_shown,
        "largest": record.largest,
        "mean": record.weight / record.n_rows,
        "one_row_in": record.sample.step,
        "bin_edges": edges.tolist(),
        "bin_rows": counts.tolist(),
    }


def offer_figures(panel: Panel) -> list[dict[str, Any]]:
    """By offer: rows that showed it, in how many it could be shown, what they stand for, and its share under each candidate."""
    counts = panel.data.log.counts
    assert counts is not None
    rows = []
    for j, offer in enumerate(panel.offer_ids):
        could = float(counts.could[j])
        shares = {name: record.target_by_offer for name, record in panel.data.candidates.items()}
        rows.append(
            {
                "offer": offer,
                "rows": int(counts.shown[j]),
                "eligible_rows": int(could),
                "rows_stand_for": float(counts.inverse[j]) / could if could else None,
                "shares": {name: None if share is None else float(share[j]) for name, share in shares.items()},
            }
        )
    return rows


def over_time(panel: Panel) -> dict[str, list[dict[str, Any]]]:
    """Value in consecutive stretches of the log's time: what it earned, and by self-normalised weights what each candidate would."""
    found = {"log": value_over_time(panel.data.log)}
    for name, record in panel.data.candidates.items():
        found[name] = [p for p in value_over_time(record) if p["effective_rows"] >= MIN_ROWS_OF_A_STRETCH]
    return found
