"""Command line of the benchmarks; the form of what they write is ``offline_eval.report.figures``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from offline_eval.report.figures import Figure, figures_document, keeps

__all__ = ["Figure", "end_what_was_started", "finish", "keeps", "parser"]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, help="write the figures here")
    made.add_argument("--quick", action="store_true", help="a minute at most; judges only what that size can judge")
    made.add_argument("--seed", type=int, default=1)
    return made


def end_what_was_started() -> None:
    """Let SIGTERM end a benchmark like an error does: what it has started is ended and its folders are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def finish(name: str, figures: Sequence[Figure], *, quick: bool, path: Path | None, seed: int | None = None) -> int:
    """Print the figures, write the file, and return 0, or 1 where a rule is broken."""
    told = figures_document(name, figures, quick=quick, seed=seed)
    if path:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    for f in figures:
        mark = {True: "holds", False: "BROKEN", None: "-"}[f.holds]
        beside = f"   {f.baseline[0]}: {f.baseline[1]:.4g}" if f.baseline else ""
        spread = f" [{f.spread[0]:.4g}, {f.spread[1]:.4g}]" if len(f.spread) == 2 else ""
        print(f"{f.name:44s} {f.ours:10.4g} {f.unit}{spread}  must {f.must or '-'}: {mark}{beside}")
    return 1 if any(f.holds is False for f in figures) else 0
