"""A whole proof, very small: everything runs, is kept, is labelled, and is said in one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from engine.jobs.narrator import Narrator
from engine.proof.config import ProofConfig
from engine.proof.figures import proof_figures
from engine.proof.report import short_section, summary_rows, write_report
from engine.proof.story import prove


@pytest.mark.slow
def test_a_whole_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both reference worlds agree with the light pipeline, nothing is run twice, and a run this small judges no share."""
    monkeypatch.delenv("NEXTOFFER_DATA_DIR", raising=False)
    config = ProofConfig(
        tmp_path / "proof", is_quick=True, n_sealed=3, n_grid=1, n_repeats=1, n_agreement=0, n_log_subjects=2_000,
        n_headline_log_subjects=3_000, n_truth_subjects=2_000, n_http_subjects=5, power=0.3, n_looks=1,
    )  # fmt: skip
    narrator = Narrator(console=Console(quiet=True))
    proof = prove(config, narrator)
    told = proof_figures(proof)
    figures = {f["name"]: f for f in told["figures"]}
    for world in ("reference", "other_family"):
        assert figures[f"{world}_decisions_that_differ_from_the_light_pipeline"]["holds"] is True
        assert figures[f"{world}_true_lift_kept"]["holds"] is None
    assert told["commitment"] == proof.commitment["hash"]
    assert len(proof.sealed) == 3
    assert proof.replays == []
    assert len(proof.notes) == 1
    assert len(summary_rows(told)) == sum(bool(f["must"]) for f in told["figures"])
    html, again = write_report(proof, config.keep), prove(config, narrator)
    assert again.seconds < proof.seconds / 3
    assert again.sealed == proof.sealed
    page = json.loads(html.with_suffix(".json").read_text())
    assert page["in_simulation"]
    assert proof.commitment["hash"] in html.read_text()
    parts = {p["part"]: p["lift"] for p in proof.reference[0]["decomposition"]["kept_30d"]}
    assert parts.pop("all") == pytest.approx(sum(parts.values()))
    assert short_section("abc", proof.sealed).in_simulation
