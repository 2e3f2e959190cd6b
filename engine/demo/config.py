"""What a run of the demo is: its size, its seed, its world, and where it writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

World = Literal["reference", "null"]


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """A run of the demo, saved beside what it produced.

    Parameters
    ----------
    out
        Folder for everything the run writes.
    seed
        Of every chance in it.
    world
        ``reference``, or ``null``: the same site, where offers make no difference.
    is_quick
        Smaller everywhere; proves the path, not the effect.
    n_log_subjects
        Visitors of the training log.
    n_live_subjects
        Visitors of the live experiment, both variants together.
    n_http_subjects
        How many of them come over HTTP; the rest goes through the same pipeline in-process.
    log_explore_share
        Share of the training log given to even exploration, sized so that the gate can answer.
    serve_explore_share
        The same for a policy that is served.
    visit_days
        Days during which visitors of the experiment come and decide; each is then followed for 30 more.
    ppo_iterations
        Training iterations of the RL candidate.
    n_truth_subjects
        Visitors of the paired rollouts that give the true value of a policy.
    models
        Propensity models compared on real data.
    """

    out: Path
    seed: int = 2026
    world: World = "reference"
    is_quick: bool = False
    n_log_subjects: int = 30_000
    n_live_subjects: int = 14_000
    n_http_subjects: int = 800
    visit_days: int = 14
    log_explore_share: float = 0.2
    serve_explore_share: float = 0.05
    ppo_iterations: int = 20
    n_truth_subjects: int = 20_000
    models: tuple[str, ...] = ("logistic", "lightgbm", "gru", "dnn", "mllib")

    @classmethod
    def quick(cls, out: Path, *, seed: int = 2026, world: World = "reference") -> Self:
        """The two-minute form."""
        return cls(
            out=out,
            seed=seed,
            world=world,
            is_quick=True,
            n_log_subjects=9_000,
            n_live_subjects=2_000,
            n_http_subjects=150,
            ppo_iterations=2,
            n_truth_subjects=6_000,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "out": str(self.out), "models": list(self.models)}
