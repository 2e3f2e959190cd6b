"""The audit of dependencies that ``make check`` runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def _audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_dependencies", ROOT / "scripts" / "audit_dependencies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_constraint_is_one_exact_pin() -> None:
    """The file of constraints pins each distribution once, to one version."""
    assert _audit().faults_of_pins((ROOT / "constraints.txt").read_text()) == []


def test_faults_are_named() -> None:
    """A range, a second pin, a missing and another version are each a sentence that says what to do."""
    audit = _audit()
    assert audit.faults_of_pins("numpy>=2\n# a note\nscipy==1.0\nSciPy==1.1\n") == [
        "constraints.txt: 'numpy>=2' is no exact pin; write name==version",
        "constraints.txt: scipy is pinned twice; keep one line",
    ]
    found = audit.faults_of_installed("pytest==0.1\n")
    assert any(f.startswith("pytest is installed as") and "pinned as 0.1" in f for f in found)
    assert any(f.startswith("numpy ") and "not pinned" in f for f in found)
