"""What commands write: lines of data, progress, JSON files, and folders that can be written to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    """A line of data, for people or for a pipe."""
    print(text)  # noqa: T201 - data on stdout


def teller(what: str) -> Callable[[int, int], None] | None:
    """What tells how many are done, on one line of a terminal; None where nobody is looking."""
    if not sys.stderr.isatty():
        return None

    def tell(done: int, total: int) -> None:
        print(f"\r{done} of {total} {what}", end="\n" if done == total else "", file=sys.stderr, flush=True)  # noqa: T201

    return tell


def write_json(path: Path, told: dict[str, Any]) -> None:
    """A JSON file, in a folder that is made."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def output_folder(path: Path) -> Path:
    """A folder that can be written to, before hours are spent on what goes into it."""
    from policies.errors import InvalidInputError

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"cannot write to {path} ({error.strerror}); expected a folder, or a place for one"
        ) from error
    return path
