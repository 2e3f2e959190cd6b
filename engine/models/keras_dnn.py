"""Keras on TensorFlow: a small dense network over aggregates and sequence summaries.

Imports TensorFlow inside the fit; runs in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.dataset import SequenceDataset
from engine.models.epochs import Stopping, fit_epochs
from engine.models.keras_training import import_keras, start_from_logistic
from engine.models.metrics import expit, log_loss
from engine.models.onnx_propensity import wide_and_deep_graph
from engine.models.propensity import FitReport
from engine.models.served import served_artifact
from engine.models.summaries import SequenceSummary
from engine.models.tabular import TabularEncoder
from policies.artifact import Artifact
from policies.errors import NotFittedError
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class DNNConfig:
    """What a fit is decided by.

    Parameters
    ----------
    layers
        Width of each hidden layer.
    patience
        Epochs without a better validation log loss before the fit stops.
    ignore
        Columns not to use (names, or prefixes ending in ``*``).
    """

    layers: tuple[int, ...] = (48, 24)
    dropout: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    rows_per_batch: int = 128
    max_epochs: int = 40
    patience: int = 5
    ignore: tuple[str, ...] = ()
    seed: int = 0


class KerasDNN:
    """``PropensityModel`` of a dense network; see ``DNNConfig``."""

    name = "dnn"

    def __init__(self, config: DNNConfig | None = None, *, progress: Callable[[str], None] | None = None) -> None:
        self.config = config or DNNConfig()
        self._progress = progress or (lambda _line: None)
        self._columns: TabularEncoder | None = None
        self._summary: SequenceSummary | None = None
        self._mean: NDArray[np.float32] | None = None
        self._scale: NDArray[np.float32] | None = None
        self._net: Any = None

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Fit with early stopping on the validation log loss; the best epoch is kept."""
        started = time.monotonic()
        self._columns = TabularEncoder.fit(train, ignore=self.config.ignore)
        self._summary = SequenceSummary.fit(train)
        raw = self._summarised(train)
        self._mean, self._scale = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-6)
        keras = import_keras()
        keras.utils.set_random_seed(self.config.seed)
        net = self._net = self._build(keras, width=raw.shape[1] + self._columns.width)
        design, held = self._design(train), self._design(validation)
        start_from_logistic(net, design, train.label, held, validation.label)

        def pass_over() -> None:
            net.fit(design, train.label, batch_size=self.config.rows_per_batch, epochs=1, verbose=0, shuffle=True)

        weights, best_epoch, losses = fit_epochs(
            self.name,
            Stopping(self.config.max_epochs, self.config.patience),
            pass_over=pass_over,
            held_loss=lambda: log_loss(validation.label, self._score(held)),
            weights=net.get_weights,
            progress=self._progress,
        )
        net.set_weights(weights)
        return FitReport(
            n_rows=len(train),
            n_positives=int(train.label.sum()),
            history={"validation_log_loss": losses},
            best_step=best_epoch,
            seconds=time.monotonic() - started,
        )

    def _build(self, keras: Any, *, width: int) -> Any:
        inputs = keras.Input((width,), name="columns")
        x = keras.layers.Dropout(self.config.dropout / 3)(inputs)
        for size in self.config.layers:
            x = keras.layers.Dense(size, activation="relu")(x)
            x = keras.layers.Dropout(self.config.dropout)(x)
        # A linear path beside the hidden layers keeps what a plain logistic would find.
        deep = keras.layers.Dense(1, kernel_initializer="zeros", name="deep")(x)
        score = keras.layers.Add()([deep, keras.layers.Dense(1, use_bias=False, name="wide")(inputs)])
        net = keras.Model(inputs, score)
        net.compile(
            optimizer=keras.optimizers.AdamW(self.config.learning_rate, weight_decay=self.config.weight_decay),
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
        )
        return net

    def _summarised(self, data: SequenceDataset) -> NDArray[np.float32]:
        if self._summary is None:
            raise NotFittedError("the network is not fitted; call fit first")
        raw = np.nan_to_num(self._summary.encode(data), nan=0.0)
        return (np.sign(raw) * np.log1p(np.abs(raw))).astype(np.float32)

    def _design(self, data: SequenceDataset) -> NDArray[np.float32]:
        if self._columns is None or self._mean is None or self._scale is None:
            raise NotFittedError("the network is not fitted; call fit first")
        scaled = np.clip((self._summarised(data) - self._mean) / self._scale, -10, 10)
        return np.concatenate([self._columns.encode(data), scaled], axis=1).astype(np.float32)

    def _score(self, design: NDArray[np.float32]) -> FloatArray:
        score = self._net.predict_on_batch(design)
        return expit(np.asarray(score, dtype=np.float64)[:, 0])

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        design = self._design(data)
        parts = [self._score(design[i : i + 65_536]) for i in range(0, len(design), 65_536)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """The network as an ONNX graph over its columns and summaries."""
        if self._columns is None or self._summary is None or self._mean is None or self._scale is None:
            raise NotFittedError("the network is not fitted; call fit first")
        dense = [layer for layer in self._net.layers if "dense" in layer.name or layer.name == "deep"]
        layers = [(np.asarray(w), np.asarray(b)) for w, b in (layer.get_weights() for layer in dense)]
        graph = wide_and_deep_graph(
            layers,
            np.asarray(self._net.get_layer("wide").get_weights()[0]),
            n_plain=self._columns.width,
            mean=self._mean,
            scale=self._scale,
        )
        return {"served": served_artifact(graph, name=self.name, columns=self._columns, summary=self._summary)}
