"""Notice at start that one of our package names is taken by another file, and name the file."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("policies", "simulator", "offline_eval", "engine", "api")


def shadowed_packages(root: Path, *, names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Which of our names Python would find elsewhere than beside this package, and where."""
    out: dict[str, str] = {}
    for name in names:
        spec = find_spec(name)
        found = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if found is not None and Path(found).resolve().parent.parent != root.resolve():
            out[name] = found
    return out


def refuse_shadowed_packages() -> None:
    """End the process with a sentence where a file of another project hides one of our packages."""
    for name, found in shadowed_packages(Path(__file__).parents[1]).items():
        sys.exit(
            f"nextoffer: Python finds package {name!r} in {found}, which is not Nextoffer's; "
            "rename that file, or start from another folder"
        )
