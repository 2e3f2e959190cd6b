"""Keras on TensorFlow: convolutions over the sequence, beside them the offer, the customer and aggregates; for quick experiments.

Imports TensorFlow inside the fit; runs in a process of its own. Batches are built by numpy from rows of near-equal length, and one compiled
step takes any length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.models.batches import bucketed_batches
from engine.models.dataset import SequenceDataset
from engine.models.encoder import n_gap_buckets
from engine.models.epochs import Stopping, fit_epochs
from engine.models.keras_training import import_keras, start_from_logistic
from engine.models.metrics import expit, log_loss
from engine.models.onnx_cnn import CNNWeights, cnn_graph
from engine.models.propensity import FitReport
from engine.models.served import served_artifact
from engine.models.tabular import TabularEncoder
from policies.artifact import Artifact
from policies.errors import NotFittedError
from policies.records import FloatArray, IntArray

_PARTS = ("event_type", "item", "gap_bucket", "numbers", "inside", "row")


@dataclass(frozen=True, slots=True)
class CNNConfig:
    """What a fit is decided by.

    Parameters
    ----------
    filters, kernel
        Width of the convolution and how many neighbouring events it reads (odd).
    batching
        ``buckets``: batches of near-equal length, padded to their own longest row; ``padded``: at random, padded to ``last_events``
        (what a benchmark compares with).
    patience
        Epochs without a better validation log loss before the fit stops.
    ignore
        Columns not to use (names, or prefixes ending in ``*``).
    """

    event_width: int = 6
    item_width: int = 8
    gap_width: int = 4
    filters: int = 24
    kernel: int = 5
    head: int = 24
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    rows_per_batch: int = 64
    max_epochs: int = 30
    patience: int = 4
    last_events: int = 128
    batching: Literal["buckets", "padded"] = "buckets"
    ignore: tuple[str, ...] = ()
    seed: int = 0


class KerasCNN:
    """``PropensityModel`` of a convolutional network; see ``CNNConfig``."""

    name = "cnn"

    def __init__(self, config: CNNConfig | None = None, *, progress: Callable[[str], None] | None = None) -> None:
        self.config = config or CNNConfig()
        self._progress = progress or (lambda _line: None)
        self._columns: TabularEncoder | None = None
        self._net: Any = None
        self._score: Any = None
        self._sizes = (1, 1)
        self._amount = (0.0, 1.0)

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Fit with early stopping on the validation log loss; the best epoch is kept."""
        started = time.monotonic()
        rng = np.random.default_rng(self.config.seed)
        self._columns = TabularEncoder.fit(train, ignore=self.config.ignore)
        words = train.manifest.get("vocabularies", {})
        self._sizes = (
            max(len(words.get("event_type", ())) + 1, int(train.event_type.max(initial=0)) + 1),
            max(len(words.get("item", ())) + 1, int(train.item.max(initial=0)) + 1),
        )
        amount = np.sign(train.value) * np.log1p(np.abs(train.value))
        self._amount = (float(amount.mean()), max(float(amount.std()), 1e-3)) if len(amount) else (0.0, 1.0)
        keras = import_keras()
        keras.utils.set_random_seed(self.config.seed)
        net = self._net = self._build(keras)
        columns, held = self._columns.encode(train), self._columns.encode(validation)
        start_from_logistic(net, columns, train.label, held, validation.label)
        step, self._score = self._compiled(keras)
        label = train.label.astype(np.float32)
        taken: list[float] = []

        def pass_over() -> None:
            begun = time.process_time()
            for rows in self._batches(train, rng):
                step(*self._batch(train, columns, rows), label[rows])
            taken.append(time.process_time() - begun)

        weights, best_epoch, losses = fit_epochs(
            self.name,
            Stopping(self.config.max_epochs, self.config.patience),
            pass_over=pass_over,
            held_loss=lambda: log_loss(validation.label, self.predict(validation)),
            weights=net.get_weights,
            progress=self._progress,
        )
        net.set_weights(weights)
        return FitReport(
            n_rows=len(train),
            n_positives=int(train.label.sum()),
            history={"validation_log_loss": losses, "train_cpu_seconds": tuple(taken)},
            best_step=best_epoch,
            seconds=time.monotonic() - started,
        )

    def _batches(self, train: SequenceDataset, rng: np.random.Generator) -> Iterator[IntArray]:
        size = self.config.rows_per_batch
        if self.config.batching == "buckets":
            return bucketed_batches(np.minimum(train.lengths, self.config.last_events), rows_per_batch=size, rng=rng)
        order = rng.permutation(len(train))
        return (order[i : i + size] for i in range(0, len(order), size))

    def _build(self, keras: Any) -> Any:
        config, layers = self.config, keras.layers
        assert self._columns is not None
        shapes = {
            "event_type": (None,),
            "item": (None,),
            "gap_bucket": (None,),
            "numbers": (None, 2),
            "inside": (None, 1),
        }
        inputs = {n: keras.Input(s, name=n, dtype="int32" if len(s) == 1 else "float32") for n, s in shapes.items()}
        inputs["row"] = keras.Input((self._columns.width + 2,), name="row")
        parts = [
            layers.Embedding(self._sizes[0], config.event_width, name="event")(inputs["event_type"]),
            layers.Embedding(self._sizes[1], config.item_width, name="items")(inputs["item"]),
            layers.Embedding(n_gap_buckets(), config.gap_width, name="gaps")(inputs["gap_bucket"]),
            inputs["numbers"],
        ]
        # Padding is wiped out before and after, so that a row's answer does not depend on what it is batched with.
        x = layers.Multiply()([layers.Concatenate()(parts), inputs["inside"]])
        x = layers.Conv1D(config.filters, config.kernel, padding="same", activation="relu", name="conv")(x)
        x = layers.Multiply()([x, inputs["inside"]])
        most = keras.ops.max(x, axis=1)
        total = keras.ops.sum(x, axis=1) / keras.ops.maximum(keras.ops.sum(inputs["inside"], axis=1), 1.0)
        joined = layers.Dropout(config.dropout)(layers.Concatenate()([most, total, inputs["row"]]))
        hidden = layers.Dropout(config.dropout)(layers.Dense(config.head, activation="relu", name="head")(joined))
        deep = layers.Dense(1, kernel_initializer="zeros", name="deep")(hidden)
        columns = inputs["row"][:, 2:]
        score = layers.Add()([deep, layers.Dense(1, use_bias=False, name="wide")(columns)])
        return keras.Model(inputs, score)

    def _compiled(self, keras: Any) -> tuple[Any, Any]:
        """A training step and a scoring function that take any number of rows and events without being traced again."""
        import tensorflow as tf

        assert self._columns is not None
        net, config = self._net, self.config
        optimiser = keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay, clipnorm=1.0)
        optimiser.build(net.trainable_variables)
        ids, reals = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None, 2], tf.float32)
        inside = tf.TensorSpec([None, None, 1], tf.float32)
        batch = [ids, ids, ids, reals, inside, tf.TensorSpec([None, self._columns.width + 2], tf.float32)]

        @tf.function(input_signature=[*batch, tf.TensorSpec([None], tf.float32)])  # type: ignore[untyped-decorator]
        def step(*parts: Any) -> None:
            with tf.GradientTape() as tape:
                score = net(dict(zip(_PARTS, parts[:-1], strict=True)), training=True)[:, 0]
                losses = tf.nn.sigmoid_cross_entropy_with_logits(parts[-1], score)
                # Every row weighs the same, whatever the size of the batch it came in.
                loss = tf.reduce_sum(losses) / config.rows_per_batch
            optimiser.apply_gradients(
                zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables, strict=True)
            )

        @tf.function(input_signature=batch)  # type: ignore[untyped-decorator]
        def score(*parts: Any) -> Any:
            return net(dict(zip(_PARTS, parts, strict=True)), training=False)[:, 0]

        # Traced now: the first epoch is then as fast as the others.
        step.get_concrete_function()
        score.get_concrete_function()
        return step, score

    def _batch(
        self, data: SequenceDataset, columns: NDArray[np.float32], rows: IntArray, *, is_training: bool = True
    ) -> list[NDArray[Any]]:
        """Arrays in the order of ``_PARTS``."""
        padded = data.padded(rows, length=self.config.last_events)
        width = self.config.last_events - padded["gap_s"].shape[1]
        if is_training and self.config.batching == "padded" and width > 0:
            padded = {n: b if b.ndim == 1 else np.pad(b, ((0, 0), (0, width))) for n, b in padded.items()}
        inside = np.arange(padded["gap_s"].shape[1])[None, :] < padded["lengths"][:, None]
        log_gap = np.log1p(np.maximum(padded["gap_s"], 0).astype(np.float32))
        bucket = np.minimum(np.floor(log_gap), n_gap_buckets() - 1).astype(np.int32)
        amount = np.sign(padded["value"]) * np.log1p(np.abs(padded["value"]))
        numbers = np.stack([log_gap / 10.0, (amount - self._amount[0]) / self._amount[1]], axis=-1)
        has = (padded["lengths"] > 0).astype(np.float32)
        recency = np.log1p(np.maximum(data.gap_to_as_of_s[rows], 0).astype(np.float32)) / 10.0
        return [
            np.where(padded["event_type"] < self._sizes[0], padded["event_type"], 0).astype(np.int32),
            np.where(padded["item"] < self._sizes[1], padded["item"], 0).astype(np.int32),
            bucket,
            numbers.astype(np.float32),
            inside[..., None].astype(np.float32),
            np.concatenate([(recency * has)[:, None], has[:, None], columns[rows]], axis=1).astype(np.float32),
        ]

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        if self._columns is None or self._score is None:
            raise NotFittedError("the network is not fitted; call fit first")
        columns = self._columns.encode(data)
        out = np.zeros(len(data))
        for rows in bucketed_batches(data.lengths, rows_per_batch=1024, rng=None):
            score = self._score(*self._batch(data, columns, rows, is_training=False)).numpy()
            out[rows] = expit(score.astype(np.float64))
        return out

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """The whole network as one ONNX graph: events, columns and recency to a probability."""
        if self._columns is None or self._net is None:
            raise NotFittedError("the network is not fitted; call fit first")
        net = self._net

        def layer(name: str, part: int = 0) -> NDArray[np.float32]:
            return np.asarray(net.get_layer(name).get_weights()[part], dtype=np.float32)

        weights = CNNWeights(
            event=layer("event"),
            item=layer("items"),
            gap=layer("gaps"),
            value_mean=self._amount[0],
            value_scale=self._amount[1],
            kernel=layer("conv"),
            kernel_bias=layer("conv", 1),
            head=layer("head"),
            head_bias=layer("head", 1),
            deep=layer("deep"),
            deep_bias=layer("deep", 1),
            wide=layer("wide"),
        )
        return {
            "served": served_artifact(
                cnn_graph(weights),
                name=self.name,
                columns=self._columns,
                events={
                    "last_events": self.config.last_events,
                    "n_event_types": self._sizes[0],
                    "n_items": self._sizes[1],
                },
            )
        }
