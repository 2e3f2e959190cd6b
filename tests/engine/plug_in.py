"""A policy from outside the project, which raises whatever it is told to: what a plug-in may do to those who use it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from policies import registry
from policies.artifact import Artifact
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch


@dataclass
class Faults:
    """What goes wrong from now on, in every diary.

    Attributes
    ----------
    loading
        Raised by whoever loads one; None: nothing is.
    learning
        Raised at the decision ``unlearnable``, after those before it have been learned.
    """

    loading: Exception | None = None
    learning: Exception | None = None
    unlearnable: str = ""


_faults = Faults()


class Diary:
    """Shows every offer alike, and its state is the ids of what it has learned from, in order."""

    name = "diary"
    traits = PolicyTraits()

    def __init__(self, learned: Sequence[str] = ()) -> None:
        self.learned = list(learned)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Uniform over eligible offers."""
        return np.asarray(table.eligible / table.eligible.sum(axis=1, keepdims=True))

    def learn(self, batch: InteractionBatch) -> None:
        """Write down one decision after the other; what comes before a fault stays written."""
        assert batch.decision_ids is not None
        for decision in batch.decision_ids.tolist():
            if _faults.learning is not None and decision == _faults.unlearnable:
                raise _faults.learning
            self.learned.append(decision)

    def to_artifact(self) -> Artifact:
        """Everything that is written."""
        return Artifact(self.name, {"learned": self.learned})


def load(artifact: Artifact) -> Diary:
    """Open a diary that was saved."""
    if _faults.loading is not None:
        raise _faults.loading
    return Diary(artifact.manifest["learned"])


@contextmanager
def installed(folder: Path) -> Iterator[Faults]:
    """The diary as an installed distribution: found by its entry point, like anyone's; gone again afterwards."""
    info = folder / "nextoffer_diary-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nextoffer-diary\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[nextoffer.policies]\ndiary = {__name__}:load\n")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(folder), *sys.path])
            _look_again()
            yield _faults
    finally:
        _faults.loading = _faults.learning = None
        _look_again()


def _look_again() -> None:
    registry._loaders.cache_clear()
    registry._loader.cache_clear()
