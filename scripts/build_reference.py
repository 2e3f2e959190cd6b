"""Build the API reference from the docstrings: HTML pages that need no server.

    python scripts/build_reference.py [FOLDER [PACKAGE ...]]

What is in it is what others may import: the vocabulary and policies, the simulator, offline evaluation, the service in-process, and
the client. Frameworks are not loaded for it.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pdoc
import pdoc.render

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = ["policies", "simulator", "offline_eval", "engine.decisions", "engine.rewards", "nextoffer_client"]


def build(folder: Path, packages: Sequence[str] = PUBLIC) -> None:
    """Write the pages of packages and all their modules into a folder."""
    pdoc.render.configure(docformat="numpy", footer_text="Nextoffer", show_source=False)
    pdoc.pdoc(*(module for package in packages for module in _modules(package)), output_directory=folder)


def _modules(package: str) -> list[str]:
    """A package and its modules; what a package lists in ``__all__`` would otherwise hide the others."""
    path = getattr(import_module(package), "__path__", None)
    return [package, *(m.name for m in pkgutil.walk_packages(path, f"{package}."))] if path else [package]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "reference"
    build(target, sys.argv[2:] or PUBLIC)
    print(target / "index.html")  # noqa: T201
