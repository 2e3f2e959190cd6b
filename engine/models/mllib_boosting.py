"""Spark MLlib gradient-boosted trees on the columns beside the sequence, trained where the decision points are.

What comes back from Spark are the trees as plain arrays: scoring needs no Spark.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit, log_loss
from engine.models.mllib import encode_in_spark, rows_in_spark
from engine.models.onnx_propensity import tree_sum_graph
from engine.models.propensity import FitReport
from engine.models.served import served_artifact
from engine.models.tabular import TabularEncoder
from engine.sequences.spark import start_spark
from policies.artifact import Artifact
from policies.errors import NotFittedError
from policies.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class MLlibBoostingConfig:
    """What a fit is decided by.

    Parameters
    ----------
    max_trees, depth, learning_rate, row_share, min_leaf_rows
        As MLlib's ``maxIter``, ``maxDepth``, ``stepSize``, ``subsamplingRate``, ``minInstancesPerNode``.
    ignore
        Columns not to use (names, or prefixes ending in ``*``).
    """

    max_trees: int = 40
    depth: int = 3
    learning_rate: float = 0.1
    row_share: float = 0.8
    min_leaf_rows: int = 20
    ignore: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Trees as parallel arrays, one entry a node; ``root`` is where each tree begins, a leaf has feature -1.

    ``x[feature] <= threshold`` goes left.
    """

    root: IntArray
    feature: IntArray
    threshold: FloatArray
    left: IntArray
    right: IntArray
    value: FloatArray
    weight: FloatArray

    def margins(self, design: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted value of each tree for each row, (n, trees)."""
        out = np.zeros((len(design), len(self.root)))
        rows = np.arange(len(design))
        for tree, root in enumerate(self.root):
            node = np.full(len(design), root)
            while (inner := self.feature[node] >= 0).any():
                below = design[rows, np.maximum(self.feature[node], 0)] <= self.threshold[node]
                node = np.where(inner, np.where(below, self.left[node], self.right[node]), node)
            out[:, tree] = self.weight[tree] * self.value[node]
        return out


class MLlibBoosting:
    """``PropensityModel`` of MLlib's boosted trees; see ``MLlibBoostingConfig``."""

    name = "mllib-gbt"

    def __init__(
        self, config: MLlibBoostingConfig | None = None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        self.config = config or MLlibBoostingConfig()
        self._progress = progress or (lambda _line: None)
        self._columns: TabularEncoder | None = None
        self._trees: Trees | None = None
        self._n_kept = 0

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Grow all trees in Spark and keep the first so many that are best on the validation log loss."""
        from pyspark.ml.classification import GBTClassifier

        self._progress(f"{self.name}: starting Spark")
        spark = start_spark()
        started = time.monotonic()
        config = self.config
        columns = self._columns = TabularEncoder.fit(train, ignore=config.ignore)
        with tempfile.TemporaryDirectory(prefix="nextoffer-mllib-") as scratch:
            rows = encode_in_spark(rows_in_spark(spark, train, Path(scratch)), columns)
            rows = rows.select("features", "label").cache()
            estimator = GBTClassifier(
                maxIter=config.max_trees,
                maxDepth=config.depth,
                stepSize=config.learning_rate,
                subsamplingRate=config.row_share,
                minInstancesPerNode=config.min_leaf_rows,
                seed=config.seed,
            )
            fitted = estimator.fit(rows)
            rows.unpersist()
        self._trees = _trees_of(fitted)
        running = np.cumsum(self._trees.margins(columns.encode(validation).astype(np.float64)), axis=1)
        losses = [log_loss(validation.label, _probability(running[:, k])) for k in range(running.shape[1])]
        self._n_kept = int(np.argmin(losses)) + 1
        self._progress(f"{self.name}: {self._n_kept} trees, validation {min(losses):.4f}")
        return FitReport(
            n_rows=len(train),
            n_positives=int(train.label.sum()),
            history={"validation_log_loss": tuple(losses)},
            best_step=self._n_kept,
            seconds=time.monotonic() - started,
        )

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        if self._trees is None or self._columns is None:
            raise NotFittedError("the MLlib trees are not fitted; call fit first")
        margins = self._trees.margins(self._columns.encode(data).astype(np.float64))
        return _probability(margins[:, : self._n_kept].sum(axis=1))

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """The trees as an ONNX graph over the encoder's columns."""
        if self._trees is None or self._columns is None:
            raise NotFittedError("the MLlib trees are not fitted; call fit first")
        # Half the log odds: see ``_probability``.
        graph = tree_sum_graph(self._trees, n_columns=self._columns.width, n_kept=self._n_kept, factor=2.0)
        return {"served": served_artifact(graph, name=self.name, columns=self._columns)}


def _probability(margin: FloatArray) -> FloatArray:
    """MLlib's loss is ``2 log(1 + exp(-2 y F))`` with y in {-1, 1}: F is half the log odds."""
    return expit(2.0 * margin)


def _trees_of(fitted: Any) -> Trees:
    nodes: dict[str, list[Any]] = {n: [] for n in ("feature", "threshold", "left", "right", "value")}

    def walk(node: Any) -> int:
        place = len(nodes["feature"])
        for name, blank in (("feature", -1), ("threshold", 0.0), ("left", -1), ("right", -1), ("value", 0.0)):
            nodes[name].append(blank)
        nodes["value"][place] = float(node.prediction())
        if node.subtreeDepth() > 0:
            split = node.split()
            nodes["feature"][place] = int(split.featureIndex())
            nodes["threshold"][place] = float(split.threshold())
            nodes["left"][place] = walk(node.leftChild())
            nodes["right"][place] = walk(node.rightChild())
        return place

    roots = [walk(tree._java_obj.rootNode()) for tree in fitted.trees]
    return Trees(
        root=np.asarray(roots, dtype=np.int64),
        feature=np.asarray(nodes["feature"], dtype=np.int64),
        threshold=np.asarray(nodes["threshold"], dtype=np.float64),
        left=np.asarray(nodes["left"], dtype=np.int64),
        right=np.asarray(nodes["right"], dtype=np.int64),
        value=np.asarray(nodes["value"], dtype=np.float64),
        weight=np.asarray(fitted.treeWeights, dtype=np.float64),
    )
