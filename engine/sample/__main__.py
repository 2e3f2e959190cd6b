"""``python -m engine.sample``: fill the sample of a home folder, as a process of its own."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from engine.sample.fill import SampleConfig, fill
from engine.sample.folder import SampleFolder, write_progress


def main(arguments: list[str]) -> int:
    """Fill it and move it into place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--language", choices=("en", "ru"), default="en")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=11)
    asked = parser.parse_args(arguments)
    folder = SampleFolder(asked.home)
    folder.draft.mkdir(parents=True, exist_ok=True)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    config = SampleConfig(midnight, seed=asked.seed, language=asked.language, scale=asked.scale)
    fill(folder.draft, config, on_progress=lambda share, text: write_progress(folder.draft, share, text))
    folder.draft.rename(folder.path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
