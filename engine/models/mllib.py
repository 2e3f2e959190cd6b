"""Spark MLlib logistic regression, trained where the decision points are: for data that does not fit one machine.

The encoding that numpy does elsewhere is rendered here as Spark expressions from the same fitted specification, so no
row leaves Spark for the fit; what comes back is one coefficient a column, and scoring needs no Spark.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from engine.models.dataset import SequenceDataset
from engine.models.linear import logistic_artifacts
from engine.models.metrics import expit, log_loss
from engine.models.propensity import FitReport
from engine.models.tabular import NumberSpec, TabularEncoder
from engine.sequences.spark import start_spark
from policies.artifact import Artifact
from policies.errors import NotFittedError
from policies.records import FloatArray

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True, slots=True)
class MLlibConfig:
    """What a fit is decided by.

    Parameters
    ----------
    penalties
        Ridge penalties (on the summed log-likelihood) to choose among by validation log loss; each is a fit in Spark.
    ignore
        Columns not to use (names, or prefixes ending in ``*``).
    """

    penalties: tuple[float, ...] = (30.0,)
    max_iterations: int = 60
    ignore: tuple[str, ...] = ()


class MLlibLogistic:
    """``PropensityModel`` of MLlib's logistic regression; see ``MLlibConfig``."""

    name = "mllib"

    def __init__(self, config: MLlibConfig | None = None, *, progress: Callable[[str], None] | None = None) -> None:
        self.config = config or MLlibConfig()
        self._progress = progress or (lambda _line: None)
        self._columns: TabularEncoder | None = None
        self._beta: FloatArray | None = None

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Fit each penalty in Spark and keep the best on the validation log loss."""
        from pyspark.ml.classification import LogisticRegression

        self._progress("mllib: starting Spark")
        spark = start_spark()
        started = time.monotonic()
        columns = self._columns = TabularEncoder.fit(train, ignore=self.config.ignore)
        held = columns.encode(validation).astype(np.float64)
        losses: list[float] = []
        fits: list[FloatArray] = []
        with tempfile.TemporaryDirectory(prefix="nextoffer-mllib-") as scratch:
            rows = (
                encode_in_spark(rows_in_spark(spark, train, Path(scratch)), columns).select("features", "label").cache()
            )
            for penalty in self.config.penalties:
                estimator = LogisticRegression(
                    regParam=penalty / len(train),
                    elasticNetParam=0.0,
                    standardization=False,
                    maxIter=self.config.max_iterations,
                    tol=1e-6,
                )
                fitted = estimator.fit(rows)
                fits.append(np.append(fitted.coefficients.toArray(), fitted.intercept))
                losses.append(log_loss(validation.label, expit(held @ fits[-1][:-1] + fits[-1][-1])))
                self._progress(f"mllib: penalty {penalty:g}, validation {losses[-1]:.4f}")
            rows.unpersist()
        best = int(np.argmin(losses))
        self._beta = fits[best]
        return FitReport(
            n_rows=len(train),
            n_positives=int(train.label.sum()),
            history={"validation_log_loss": tuple(losses)},
            best_step=best + 1,
            seconds=time.monotonic() - started,
            notes=(f"ridge penalty {self.config.penalties[best]:g}",),
        )

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        if self._beta is None or self._columns is None:
            raise NotFittedError("the MLlib regression is not fitted; call fit first")
        return expit(self._columns.encode(data).astype(np.float64) @ self._beta[:-1] + self._beta[-1])

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """Coefficients and the encoder of columns, in the form of ``engine.models.linear``."""
        if self._beta is None or self._columns is None:
            raise NotFittedError("the MLlib regression is not fitted; call fit first")
        return logistic_artifacts(self._beta, self._columns, name=self.name)


def encode_in_spark(frame: DataFrame, columns: TabularEncoder) -> DataFrame:
    """Add ``features``: the encoder's columns as expressions, equal to ``TabularEncoder.encode`` within float32."""
    from pyspark.ml.feature import VectorAssembler
    from pyspark.sql import functions as sf

    parts: list[Any] = []
    for spec in columns.specs:
        column = sf.col(f"`{spec.name}`")
        if isinstance(spec, NumberSpec):
            number = column.cast("double")
            missing = number.isNull() | sf.isnan(number)
            raw = sf.log1p(sf.greatest(number, sf.lit(0.0))) if spec.is_log else number
            scaled = sf.least(sf.greatest((raw - sf.lit(spec.mean)) / sf.lit(spec.scale), sf.lit(-10.0)), sf.lit(10.0))
            parts.append(sf.when(missing, sf.lit(0.0)).otherwise(scaled))
            parts += [missing.cast("double")] if spec.may_be_missing else []
        else:
            text = sf.coalesce(column, sf.lit(""))
            parts += [(text == sf.lit(level)).cast("double") for level in spec.levels]
            parts.append((~text.isin(list(spec.levels))).cast("double"))
    named = [part.alias(f"_x{i}") for i, part in enumerate(parts)]
    assembler = VectorAssembler(inputCols=[f"_x{i}" for i in range(len(parts))], outputCol="features")
    return assembler.transform(frame.select("*", *named))


def rows_in_spark(spark: SparkSession, train: SequenceDataset, scratch: Path) -> DataFrame:
    """Read the decision points themselves where ``train`` is their training split; else what was handed over."""
    from pyspark.sql import functions as sf

    folder = train.manifest.get("folder")
    if folder is not None:
        rows = spark.read.options(recursiveFileLookup=True, pathGlobFilter="*.parquet").parquet(str(folder))
        rows = rows.where((sf.col("split") == "train") & sf.col("is_matured"))
        if rows.count() == len(train):
            return rows
    sequence = ["event_type", "item", "gap_s", "value"]
    pq.write_table(train.to_arrow().drop_columns(sequence), scratch / "train.parquet")
    return spark.read.parquet(str(scratch / "train.parquet"))
