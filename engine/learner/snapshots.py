"""Snapshots of a learner: which are kept, and what one must show before servers may see it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from engine.learner.ticks import Tick, read_ticks
from engine.registry.versions import Registry, snapshot_folder
from engine.store.database import Database
from policies.artifact import Artifact, load_artifact
from policies.errors import ArtifactError, ProbabilityError, StateError
from policies.protocols import OnlineLearner, Policy
from policies.records import DecisionTable
from policies.registry import load_policy
from policies.sampling import check_distribution

KEEP_NEWEST = 10
_DAY_US = 86_400_000_000
_PART = 500


def load_state(registry: Registry, ref: str, number: int | None) -> OnlineLearner:
    """State of a learner at a snapshot, or as it was registered.

    Raises
    ------
    StateError
        If that version does not learn online.
    """
    folder: Path | None = None if number is None else snapshot_folder(registry.folder, ref, number)
    policy = load_policy(registry.artifact(ref) if folder is None else load_artifact(folder))
    if not isinstance(policy, OnlineLearner):
        raise StateError(f"policy version {ref!r} does not learn online; train it anew and register the result")
    return policy


def check_snapshot(artifact: Artifact, policy: Policy, probe: DecisionTable | None) -> None:
    """Refuse a state that has gone bad: numbers that can be read are finite, answers on the last decisions distributions.

    The second finds what lies in an opaque model: VW with one infinite weight answers nan.

    Raises
    ------
    ArtifactError, ProbabilityError
        Naming what is wrong.
    """
    for name, array in artifact.arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactError(
                f"array {name!r} of the new state holds a number that is not finite; it is not published"
            )
    if probe is None:
        return
    with np.errstate(invalid="ignore"):
        answer = np.asarray(policy.probabilities(probe), dtype=np.float64)
    if not np.isfinite(answer).all():
        raise ProbabilityError(f"policy {policy.name!r} answers the last decisions with nan; it is not published")
    check_distribution(answer, probe.eligible, policy_name=policy.name)


def checkpoints(database: Database, registry: Registry, ref: str) -> list[Tick]:
    """Published ticks whose snapshot is still on disk, in order; asks for those only, however many ticks there were."""
    folder = snapshot_folder(registry.folder, ref, 0).parent
    there = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []
    out: list[Tick] = []
    for start in range(0, len(there), _PART):
        out += [t for t in read_ticks(database, ref, numbers=there[start : start + _PART]) if t.is_published]
    return out


def prune(database: Database, registry: Registry, ref: str, *, keep_newest: int = KEEP_NEWEST) -> int:
    """Remove snapshots but the newest ones and the last of each day, from which an audit can start; return how many."""
    there = checkpoints(database, registry, ref)
    last_of_day = {t.stretch.as_of_us // _DAY_US: t.number for t in there}
    kept = {t.number for t in there[-keep_newest:]} | set(last_of_day.values())
    dropped = [t for t in there if t.number not in kept]
    for tick in dropped:
        folder = snapshot_folder(registry.folder, ref, tick.number)
        gone = folder.with_name(f".gone-{folder.name}")
        folder.rename(gone)  # first out of sight whole, so that nobody reads half of it
        shutil.rmtree(gone, ignore_errors=True)
    return len(dropped)
