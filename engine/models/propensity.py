"""The one interface of propensity models, and what each says about its own fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.models.dataset import SequenceDataset
from policies.artifact import Artifact
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class FitReport:
    """How a fit went.

    Parameters
    ----------
    n_rows, n_positives
        Size of the training split.
    history
        One value per epoch or round, by name (``train_log_loss``, ``validation_log_loss``).
    best_step
        The epoch or round that was kept; 0 where the start was best.
    seconds
        Wall time of the fit.
    notes
        Anything a reader should know.
    """

    n_rows: int
    n_positives: int
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    best_step: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class PropensityModel(Protocol):
    """P(label | history, context, offer).

    ``fit`` trains on ``train`` and stops early on ``validation``; both hold matured rows only. ``predict`` gives
    uncalibrated probabilities; calibration is fitted on a split of its own (``engine.models.calibration``).
    """

    @property
    def name(self) -> str:
        """Short name, as in the table of results."""
        ...

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Fit and keep the best step on the validation split."""
        ...

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        ...

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """What can be served or loaded again, by name; empty where nothing is servable."""
        ...


class RefittedModel(Protocol):
    """A model that can be fitted again on all rows, for as long as folds found best."""

    def refit(
        self, rows: SequenceDataset, *, start_from: tuple[SequenceDataset, SequenceDataset], n_epochs: int
    ) -> None:
        """Fit on ``rows`` without stopping early; ``start_from`` fits what the model starts from."""
        ...


class KeptModel(Protocol):
    """A propensity model with a second head: P(kept | history, context, offer)."""

    def predict_kept(self, data: SequenceDataset) -> FloatArray | None:
        """Uncalibrated probability of being kept, ``(n,)``; None where the fit had no such target."""
        ...


def describe(config: Any) -> dict[str, Any]:
    """Return the values of a config dataclass for a report."""
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
