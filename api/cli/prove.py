"""``nextoffer prove``: what the system gains, and where it gains nothing, in worlds that are committed to before anything is trained."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path


def prove(
    *,
    quick: bool = False,
    seed: int = 2026,
    keep: Path = Path("proof-output"),
    json: Path | None = None,
    commitment: bool = False,
) -> int:
    """Run the proof and write a report; exit 1 if a bar is missed.

    Parameters
    ----------
    quick
        A few worlds at small sizes, about two minutes: proves the path and judges nothing.
    seed
        Of every chance in it, the worlds included.
    keep
        Folder for the commitment, every finished world and the report; an interrupted run goes on from there.
    json
        Also write the figures to this file, in the form benchmarks write.
    commitment
        Only print the hash of everything that is fixed before training, and write it into the folder.
    """
    from engine.jobs.narrator import Narrator
    from engine.proof.committed import commit
    from engine.proof.config import ProofConfig
    from engine.proof.figures import proof_figures
    from engine.proof.report import summary_rows, write_report
    from engine.proof.story import prove as run

    config = ProofConfig.quick(keep, seed=seed) if quick else ProofConfig(keep, seed=seed)
    if commitment:
        print(commit(config)["hash"])  # noqa: T201 - data on stdout
        return 0
    narrator = Narrator()
    proof = run(config, narrator)
    figures = proof_figures(proof)
    with narrator.step("Report"):
        report = write_report(proof, keep)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_module.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for line in summary_rows(figures):
        print(line, file=sys.stderr)  # noqa: T201 - words on stderr
    print(report.resolve())  # noqa: T201 - data on stdout
    return 1 if any(f["holds"] is False for f in figures["figures"]) else 0
