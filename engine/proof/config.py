"""What a run of the proof is: sizes and seeds, fixed before anything is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class ProofConfig:
    """A run of the proof.

    Parameters
    ----------
    keep
        Folder where the commitment and every finished world lie: an interrupted run goes on from there.
    seed
        Of every chance in it.
    is_quick
        Smaller everywhere; proves the path, judges little.
    n_sealed, n_grid
        Sealed worlds, and worlds over the parameters that no data identifies.
    n_repeats
        Experiments in each world of the grid: coverage of an interval is a share over experiments.
    n_agreement
        Sealed worlds beside the reference ones in which simulator, log and live are compared at a size that can tell.
    n_log_subjects
        Visitors of the training log; a third as many come before it, under even rotation.
    n_headline_log_subjects
        The same for the two reference worlds.
    n_wide_subjects
        Visitors of the logs and experiments in which simulator, log and live are compared.
    n_truth_subjects
        Visitors of the paired rollouts that give the true value of a policy.
    n_http_subjects
        Visitors of the headline experiment who come over HTTP.
    power
        Of the plan, at the lift that is worth finding.
    n_looks
        Planned looks of the group-sequential test.
    """

    keep: Path
    seed: int = 2026
    is_quick: bool = False
    n_sealed: int = 200
    n_grid: int = 50
    n_repeats: int = 8
    n_agreement: int = 4
    n_log_subjects: int = 12_000
    n_headline_log_subjects: int = 45_000
    n_wide_subjects: int = 400_000
    n_truth_subjects: int = 40_000
    n_http_subjects: int = 300
    visit_days: int = 14
    log_explore_share: float = 0.2
    serve_explore_share: float = 0.05
    power: float = 0.9
    n_looks: int = 5

    @classmethod
    def quick(cls, keep: Path, *, seed: int = 2026) -> Self:
        """About a minute."""
        return cls(
            keep=keep,
            seed=seed,
            is_quick=True,
            n_sealed=6,
            n_grid=3,
            n_repeats=2,
            n_agreement=0,
            n_log_subjects=6_000,
            n_headline_log_subjects=12_000,
            n_wide_subjects=20_000,
            n_truth_subjects=20_000,
            n_http_subjects=40,
        )

    @classmethod
    def short(cls, keep: Path, *, seed: int = 2026, is_quick: bool = False) -> Self:
        """A few sealed worlds alone, less than a minute: how a demonstration ends."""
        return cls(
            keep=keep,
            seed=seed,
            is_quick=True,
            n_sealed=3 if is_quick else 9,
            n_grid=1,
            n_agreement=0,
            n_log_subjects=6_000 if is_quick else 9_000,
            n_truth_subjects=8_000 if is_quick else 15_000,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the folder: the same proof may be kept anywhere."""
        return {name: value for name, value in asdict(self).items() if name != "keep"}
