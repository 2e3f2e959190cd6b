"""The folder of a build's result: made beside the one that is read, and put in its place in one step.

``points`` and ``manifest.json`` are links into ``.points-N``, the folder of build N, which holds numbered Parquet files in the order of time, the
manifest of just these rows and what the next incremental build compares with. A build that dies leaves the links as they were.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

POINTS = "points"
MANIFEST = "manifest.json"
# Names that begin with an underscore are read neither by Spark nor by pyarrow as part of a table.
STATE = "_state"
_INNER_MANIFEST = "_manifest.json"
_BUILD = re.compile(r"\.points-(\d+)$")


def begin(out: Path) -> Path:
    """Return the empty folder of a new build; what builds that died have left is removed."""
    out.mkdir(parents=True, exist_ok=True)
    _adopt(out)
    current = (out / POINTS).resolve()
    numbers = [0]
    for folder in out.iterdir():
        found = _BUILD.match(folder.name)
        if found is None:
            continue
        numbers.append(int(found[1]))
        if folder.resolve() != current:
            shutil.rmtree(folder)
    staged = out / f".points-{max(numbers) + 1}"
    staged.mkdir()
    return staged


def publish(staged: Path, *, out: Path, manifest: Mapping[str, Any]) -> None:
    """Let readers see a finished build, rows and manifest at once, and remove the one before."""
    (staged / _INNER_MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, default=str))
    before = (out / POINTS).resolve() if (out / POINTS).is_symlink() else None
    # The manifest's link goes through the other one: where both are there already, this changes nothing.
    _link(out / MANIFEST, f"{POINTS}/{_INNER_MANIFEST}")
    _link(out / POINTS, staged.name)
    if before is not None and before.is_dir():
        shutil.rmtree(before)


def take_files(written: Path, into: Path) -> None:
    """Move the Parquet files of a Spark job into a build's folder, numbered in their order."""
    for file in sorted(written.glob("*.parquet")):
        file.rename(into / next_name(into))
    shutil.rmtree(written)


def next_name(folder: Path) -> str:
    """Name of the file that comes after those of a folder."""
    return f"{sum(1 for _ in folder.glob('*.parquet')):05d}.parquet"


def _adopt(out: Path) -> None:
    """Put links in the place of the plain folder and manifest that builds used to write."""
    points, manifest = out / POINTS, out / MANIFEST
    if points.is_symlink() or not points.is_dir():
        return
    if manifest.is_file():
        shutil.copyfile(manifest, points / _INNER_MANIFEST)
    points.rename(out / ".points-0")
    _link(points, ".points-0")
    _link(manifest, f"{POINTS}/{_INNER_MANIFEST}")


def _link(path: Path, target: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
