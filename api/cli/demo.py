"""``nextoffer demo``: the whole story on real input, from raw events to a live A/B result."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Literal


def demo(
    *,
    quick: bool = False,
    world: Literal["reference", "null"] = "reference",
    seed: int = 2026,
    out: Path = Path("demo-output"),
    json: Path | None = None,
) -> int:
    """Run the demo and write a report.

    Parameters
    ----------
    quick
        About two minutes instead of six: smaller everywhere, proves the path rather than the effect.
    world
        ``null`` is the same site where offers make no difference: an honest system finds no lift there.
    seed
        Of every chance in it.
    out
        Folder for everything the run writes; an earlier run's folder is replaced.
    json
        Also write the result to this file, in the form benchmarks write.
    """
    from engine.demo.config import DemoConfig
    from engine.demo.figures import demo_figures
    from engine.demo.report import summary_rows, write_report
    from engine.demo.story import tell
    from engine.jobs.narrator import Narrator
    from engine.proof.config import ProofConfig
    from engine.proof.report import short_section
    from engine.proof.story import short_proof

    config = DemoConfig.quick(out, seed=seed, world=world) if quick else DemoConfig(out, seed=seed, world=world)
    narrator = Narrator()
    told = tell(config, narrator)
    proof = short_proof(ProofConfig.short(out / "proof", seed=seed, is_quick=quick), narrator)
    with narrator.step("Report"):
        report = write_report(told, out, more=[short_section(*proof)])
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_module.dumps(demo_figures(told), indent=1))
    for line in summary_rows(told):
        print(line, file=sys.stderr)  # noqa: T201 - words on stderr
    print(report.resolve())  # noqa: T201 - data on stdout
    return 0
