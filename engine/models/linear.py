"""Plain logistic regression on the columns beside the sequence: the reference that others have to beat."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit, log_loss
from engine.models.propensity import FitReport
from engine.models.tabular import TabularEncoder
from policies.artifact import Artifact
from policies.errors import NotFittedError
from policies.records import FloatArray

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True)
class LogisticConfig:
    """What a fit is decided by.

    Parameters
    ----------
    penalties
        Ridge penalties (on the summed log-likelihood) to choose among by validation log loss.
    ignore
        Columns not to use (names, or prefixes ending in ``*``).
    """

    penalties: tuple[float, ...] = PENALTIES
    ignore: tuple[str, ...] = ()
    seed: int = 0


def fit_ridge_logistic(
    design: NDArray[np.float32],
    label: FloatArray,
    *,
    penalty: float,
    weight: FloatArray | None = None,
    start: FloatArray | None = None,
) -> FloatArray:
    """Maximum penalised likelihood; the intercept (last coefficient) is not penalised. Shape ``(width + 1,)``."""
    x = design.astype(np.float64)
    w = np.ones(len(x)) if weight is None else weight
    width = x.shape[1]

    def loss(beta: FloatArray) -> tuple[float, FloatArray]:
        score = x @ beta[:width] + beta[width]
        residual = w * (expit(score) - label)
        value = float(
            np.sum(w * (np.logaddexp(0.0, score) - label * score)) + penalty / 2 * beta[:width] @ beta[:width]
        )
        gradient = np.append(x.T @ residual + penalty * beta[:width], residual.sum())
        return value / len(x), gradient / len(x)

    begin = np.zeros(width + 1) if start is None else start
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-10, "gtol": 1e-7})
    return np.asarray(found.x, dtype=np.float64)


def best_ridge_logistic(
    design: NDArray[np.float32],
    label: FloatArray,
    held_design: NDArray[np.float32],
    held_label: FloatArray,
    *,
    penalties: tuple[float, ...] = PENALTIES,
) -> tuple[FloatArray, float, tuple[float, ...]]:
    """Fit each penalty and keep the best on held-out log loss: coefficients, penalty, and all losses (largest penalty first)."""
    losses: list[float] = []
    fits: list[FloatArray] = []
    for penalty in sorted(penalties, reverse=True):
        fits.append(fit_ridge_logistic(design, label, penalty=penalty, start=fits[-1] if fits else None))
        losses.append(log_loss(held_label, expit(held_design.astype(np.float64) @ fits[-1][:-1] + fits[-1][-1])))
    best = int(np.argmin(losses))
    return fits[best], sorted(penalties, reverse=True)[best], tuple(losses)


class RidgeLogistic:
    """``PropensityModel`` of a ridge logistic regression; see ``LogisticConfig``."""

    def __init__(self, config: LogisticConfig | None = None, *, name: str = "logistic") -> None:
        self.config = config or LogisticConfig()
        self.name = name
        self._columns: TabularEncoder | None = None
        self._beta: FloatArray | None = None

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Fit each penalty and keep the best on the validation log loss."""
        started = time.monotonic()
        self._columns = TabularEncoder.fit(train, ignore=self.config.ignore)
        design, held = self._columns.encode(train), self._columns.encode(validation)
        self._beta, penalty, losses = best_ridge_logistic(
            design, train.label, held, validation.label, penalties=self.config.penalties
        )
        return FitReport(
            n_rows=len(train),
            n_positives=int(train.label.sum()),
            history={"validation_log_loss": losses},
            best_step=int(np.argmin(losses)) + 1,
            seconds=time.monotonic() - started,
            notes=(f"ridge penalty {penalty:g}",),
        )

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        if self._beta is None or self._columns is None:
            raise NotFittedError("the logistic regression is not fitted; call fit first")
        return expit(self._columns.encode(data).astype(np.float64) @ self._beta[:-1] + self._beta[-1])

    def coefficients(self) -> dict[str, float]:
        """Coefficient of each standardised column, for a person to read."""
        if self._beta is None or self._columns is None:
            raise NotFittedError("the logistic regression is not fitted; call fit first")
        return dict(zip((*self._columns.names, "intercept"), map(float, self._beta), strict=True))

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """Coefficients and the encoder of columns."""
        if self._beta is None or self._columns is None:
            raise NotFittedError("the logistic regression is not fitted; call fit first")
        return logistic_artifacts(self._beta, self._columns, name=self.name)

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Read back what ``to_artifacts`` wrote."""
        model = cls()
        model._columns = TabularEncoder.from_manifest(artifact.manifest["columns"])
        model._beta = np.asarray(artifact.arrays["beta"], dtype=np.float64)
        return model


def logistic_artifacts(beta: FloatArray, columns: TabularEncoder, *, name: str) -> Mapping[str, Artifact]:
    """What any logistic regression over the encoder's columns leaves: its coefficients, and the same as an ONNX graph."""
    from engine.models.onnx_propensity import linear_graph
    from engine.models.served import served_artifact

    manifest = {"columns": columns.to_manifest()}
    return {
        "propensity": Artifact("propensity_logistic", manifest, arrays={"beta": beta}),
        "served": served_artifact(linear_graph(beta), name=name, columns=columns),
    }
