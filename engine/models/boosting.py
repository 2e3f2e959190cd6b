"""LightGBM on counts, recency, last events, bigrams and aggregates: the baseline of the sequence models.

Imports lightgbm inside the fit: it drags in pandas and scikit-learn, which a server must not carry.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.models.dataset import SequenceDataset
from engine.models.linear import best_ridge_logistic
from engine.models.metrics import expit, log_loss
from engine.models.onnx_propensity import forest_graph
from engine.models.propensity import FitReport, describe
from engine.models.served import served_artifact
from engine.models.summaries import SequenceSummary
from engine.models.tabular import TabularEncoder
from policies.artifact import Artifact
from policies.errors import MissingExtraError, NotFittedError
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class BoostingConfig:
    """What a fit is decided by.

    Parameters
    ----------
    leaves, min_leaf_rows, learning_rate, feature_share, row_share, l2
        As LightGBM's ``num_leaves``, ``min_data_in_leaf``, ``learning_rate``, ``feature_fraction``, ``bagging_fraction``, ``lambda_l2``.
    seeds
        One booster a seed; their log odds are averaged.
    starts_from_logistic
        Whether the trees grow on the log odds of a ridge logistic regression instead of on a constant.
    patience
        Rounds without a better validation log loss before the fit stops.
    ignore
        Columns not to use (names, or prefixes ending in ``*``).
    """

    leaves: int = 8
    min_leaf_rows: int = 30
    learning_rate: float = 0.03
    feature_share: float = 0.5
    row_share: float = 0.8
    l2: float = 5.0
    max_rounds: int = 600
    patience: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)
    starts_from_logistic: bool = True
    ignore: tuple[str, ...] = ()


class LightGBMModel:
    """``PropensityModel`` of gradient-boosted trees; see ``BoostingConfig``."""

    name = "lightgbm"

    def __init__(self, config: BoostingConfig | None = None) -> None:
        self.config = config or BoostingConfig()
        self._columns: TabularEncoder | None = None
        self._summary: SequenceSummary | None = None
        self._boosters: list[Any] = []
        self._start: FloatArray = np.zeros(1)

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Fit one booster a seed, each stopped early on the validation log loss."""
        lightgbm = _lightgbm()
        started = time.monotonic()
        self._columns = TabularEncoder.fit(train, ignore=self.config.ignore)
        self._summary = SequenceSummary.fit(train)
        design, held = self._design(train), self._design(validation)
        columns, held_columns = self._columns.encode(train), self._columns.encode(validation)
        self._start = np.zeros(columns.shape[1] + 1)
        if self.config.starts_from_logistic:
            self._start, _, _ = best_ridge_logistic(columns, train.label, held_columns, validation.label)
        self._boosters = []
        curves: dict[str, tuple[float, ...]] = {}
        for seed in self.config.seeds:
            whole = lightgbm.Dataset(design, label=train.label, init_score=self._offset(columns), free_raw_data=False)
            stop = lightgbm.Dataset(
                held, label=validation.label, init_score=self._offset(held_columns), reference=whole
            )
            seen: dict[str, Any] = {}
            booster = lightgbm.train(
                self._parameters(seed),
                whole,
                num_boost_round=self.config.max_rounds,
                valid_sets=[stop],
                valid_names=["validation"],
                callbacks=[
                    lightgbm.early_stopping(self.config.patience, verbose=False),
                    lightgbm.record_evaluation(seen),
                ],
            )
            self._boosters.append(booster)
            curves[f"validation_log_loss_seed_{seed}"] = tuple(seen["validation"]["binary_logloss"])
        rounds = [int(b.best_iteration) for b in self._boosters]
        blend = log_loss(validation.label, self.predict(validation))
        return FitReport(
            n_rows=len(train),
            n_positives=int(train.label.sum()),
            history={**curves, "validation_log_loss": (blend,)},
            best_step=max(rounds),
            seconds=time.monotonic() - started,
            notes=(f"rounds kept {rounds}",),
        )

    def _parameters(self, seed: int) -> dict[str, Any]:
        config = self.config
        return {
            "objective": "binary",
            "num_leaves": config.leaves,
            "min_data_in_leaf": config.min_leaf_rows,
            "learning_rate": config.learning_rate,
            "feature_fraction": config.feature_share,
            "bagging_fraction": config.row_share,
            "bagging_freq": 1,
            "lambda_l2": config.l2,
            "seed": seed,
            "deterministic": True,
            "boost_from_average": not config.starts_from_logistic,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }

    def _offset(self, columns: NDArray[np.float32]) -> FloatArray:
        """Log odds that the trees are added to, shape ``(n,)``."""
        return np.asarray(columns.astype(np.float64) @ self._start[:-1] + self._start[-1])

    def _design(self, data: SequenceDataset) -> NDArray[np.float32]:
        if self._columns is None or self._summary is None:
            raise NotFittedError("the boosted trees are not fitted; call fit first")
        return np.concatenate([self._columns.encode(data), self._summary.encode(data)], axis=1)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each input column."""
        if self._columns is None or self._summary is None:
            raise NotFittedError("the boosted trees are not fitted; call fit first")
        return (*self._columns.names, *self._summary.names)

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        design = self._design(data)
        scores = [
            b.predict(design, num_iteration=b.best_iteration or None, raw_score=True, num_threads=1)
            for b in self._boosters
        ]
        assert self._columns is not None
        return expit(np.mean(scores, axis=0) + self._offset(self._columns.encode(data)))

    def gains(self) -> dict[str, float]:
        """Share of the total gain of each feature, largest first."""
        total = np.sum([b.feature_importance("gain") for b in self._boosters], axis=0)
        share = total / max(float(total.sum()), math.ulp(1.0))
        order = np.argsort(-share, kind="stable")
        return {self.feature_names[i]: float(share[i]) for i in order}

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """LightGBM's own text form with the encoders, which explanations read, and the trees as an ONNX graph."""
        if self._columns is None or self._summary is None:
            raise NotFittedError("the boosted trees are not fitted; call fit first")
        texts = {
            f"booster_{i}.txt": b.model_to_string(num_iteration=b.best_iteration).encode()
            for i, b in enumerate(self._boosters)
        }
        manifest = {
            "columns": self._columns.to_manifest(),
            "summary": self._summary.to_manifest(),
            "config": {**describe(self.config), "ignore": list(self.config.ignore), "seeds": list(self.config.seeds)},
        }
        lightgbm = _lightgbm()
        plain = [lightgbm.Booster(model_str=_as_regression(text.decode())) for text in texts.values()]
        graph = forest_graph(plain, self._start, n_columns=len(self.feature_names))
        return {
            "propensity": Artifact("propensity_lightgbm", manifest, blobs=texts, arrays={"start": self._start}),
            "served": served_artifact(graph, name=self.name, columns=self._columns, summary=self._summary),
        }

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Read back what ``to_artifacts`` wrote."""
        lightgbm = _lightgbm()
        model = cls()
        model._columns = TabularEncoder.from_manifest(artifact.manifest["columns"])
        model._summary = SequenceSummary.from_manifest(artifact.manifest["summary"])
        model._start = np.asarray(artifact.arrays["start"], dtype=np.float64)
        texts = [artifact.blobs[name].decode() for name in sorted(artifact.blobs)]
        model._boosters = [lightgbm.Booster(model_str=text) for text in texts]
        return model


def _as_regression(text: str) -> str:
    """The same trees under an objective whose raw score a converter leaves as it is."""
    return text.replace("objective=binary sigmoid:1", "objective=regression").replace(
        "[objective: binary]", "[objective: regression]"
    )


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtraError("lightgbm", "boosting") from error
    return lightgbm
