"""The folder of a build's result: made beside the one that is read, and put in its place in one step.

``points`` and ``manifest.json`` are links into ``.points-N``, the folder of build N, which holds numbered Parquet files in the order of time, the
manifest of just these rows and what the next incremental build compares with. A build that dies leaves the links as they were. A reader that has followed
them once keeps its files: the build before stays until the next one begins.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policies.errors import InvalidInputError

POINTS = "points"
MANIFEST = "manifest.json"
# Names that begin with an underscore are read neither by Spark nor by pyarrow as part of a table.
STATE = "_state"
_INNER_MANIFEST = "_manifest.json"
_BUILD = re.compile(r"\.points-(\d+)$")
_ADOPTED = ".points-0"
_LOCK = ".building"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other builds out of a folder; the system lets go of it when the holder dies.

    Raises
    ------
    InvalidInputError
        If another build is running there.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The file stays: were it removed, two builds could each lock a file of that name.
    with (out / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInputError(
                f"another build is running in {out}; wait until it has ended, or build into another folder"
            ) from error
        yield


def begin(out: Path) -> Path:
    """Return the empty folder of a new build; the build before the current one and what builds that died have left are removed."""
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
    """Let readers see a finished build, rows and manifest at once; the one before stays for those who read it."""
    (staged / _INNER_MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, default=str))
    # The manifest's link goes through the other one: where both are there already, this changes nothing.
    _link(out / MANIFEST, f"{POINTS}/{_INNER_MANIFEST}")
    _link(out / POINTS, staged.name)


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
    if points.is_symlink():
        return
    if points.is_dir():
        if manifest.is_file():
            shutil.copyfile(manifest, points / _INNER_MANIFEST)
        if (out / _ADOPTED).is_dir():
            # A copy that followed the links has the build before as well.
            shutil.rmtree(out / _ADOPTED)
        points.rename(out / _ADOPTED)
    elif not (out / _ADOPTED).is_dir():
        return
    # Also where a process died after the renaming: nothing else would say that this folder is the build.
    _link(points, _ADOPTED)
    _link(manifest, f"{POINTS}/{_INNER_MANIFEST}")


def _link(path: Path, target: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
