"""Experiments from files: rows of subjects in CSV or Parquet, and a plan in JSON, so that anybody's data can be read the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_eval.abtest.records import ExperimentPlan, FloatArray, Metric, Phase, SubjectOutcomes, by_subject
from offline_eval.report.formatting import money
from policies.errors import InvalidInputError, SchemaError, UnknownNameError

# Columns that are no values of a metric.
_OWN = ("subject", "variant", "phase", "exposed_day")


def read_plan(path: Path) -> ExperimentPlan:
    """Read a plan: the fields of ``ExperimentPlan``, metrics and phases as lists of objects.

    A metric's ``currency`` stands for a unit of money. Without phases there is one with equal weights.

    Raises
    ------
    InvalidInputError
        If the file is no such plan.
    UnknownNameError
        If it has a field that a plan has not.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read a plan from {path}: {error}; expected a JSON object") from None
    if not isinstance(document, dict):
        raise InvalidInputError(
            f"{path} holds a {type(document).__name__}; expected a JSON object with the fields of a plan"
        )
    metrics = tuple(_metric(m) for m in _objects(document.pop("metrics", None), "metrics"))
    phases = tuple(_made(Phase, p, "phase") for p in _objects(document.pop("phases", []), "phases"))
    variants = tuple(document.pop("variants", ()))
    made: ExperimentPlan = _made(
        ExperimentPlan, {"experiment": path.stem, **document, "metrics": metrics, "phases": phases, "variants": variants}, "plan"
    )  # fmt: skip
    return made


def read_subjects(path: Path, *, as_of_day: float | None = None) -> SubjectOutcomes:
    """Read rows: ``variant``, optionally ``phase`` and ``exposed_day``, and a column of numbers for each metric.

    With a column ``subject`` several rows may be one subject's (one a decision): they are folded into one, their values summed,
    and ``decisions`` counts them.

    Parameters
    ----------
    as_of_day
        Day of the analysis, on the scale of ``exposed_day``; by default the last day on which somebody came, for which every
        window of 0 days is closed.

    Raises
    ------
    SchemaError
        If there is no variant, or a column holds no numbers.
    """
    columns = _columns(path)
    if "variant" not in columns:
        raise SchemaError(f"{path} has columns {sorted(columns)}; expected one called variant")
    variants = columns["variant"].astype(np.str_)
    phases = columns["phase"].astype(np.str_) if "phase" in columns else None
    values = {name: _numbers(name, column) for name, column in columns.items() if name not in _OWN}
    day = _numbers("exposed_day", columns["exposed_day"]) if "exposed_day" in columns else None
    if day is None and as_of_day is not None:
        raise SchemaError(f"{path} has no column exposed_day; as_of_day says nothing without it")
    if day is not None and as_of_day is None:
        as_of_day = float(day.max(initial=0.0))
    if "subject" in columns:
        subjects = columns["subject"].astype(np.str_)
        return by_subject(
            subjects=subjects, variants=variants, values=values, phases=phases, day=day, as_of_day=as_of_day
        )
    return SubjectOutcomes(variants, values, phases=phases, exposed_day=day, as_of_day=as_of_day)


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        table = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise SchemaError(f"cannot read rows from {path}: {error}; expected CSV with a header, or .parquet") from None
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _numbers(name: str, column: NDArray[Any]) -> FloatArray:
    try:
        return np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        raise SchemaError(
            f"column {name!r} holds {column[:1].tolist()}; expected numbers in every column of values"
        ) from None


def _metric(document: Mapping[str, Any]) -> Metric:
    currency = document.get("currency")
    rest = {k: v for k, v in document.items() if k != "currency"}
    made: Metric = _made(Metric, rest if currency is None else {**rest, "unit": money(str(currency))}, "metric")
    return made


def _made(cls: Any, values: Mapping[str, Any], what: str) -> Any:
    known = [f.name for f in fields(cls)]
    for name in values:
        if name not in known:
            raise UnknownNameError(f"field of a {what}:", name, known)
    try:
        return cls(**values)
    except TypeError as error:
        raise InvalidInputError(f"a {what} is not whole: {error}") from None


def _objects(found: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise InvalidInputError(f"{name} of a plan are {found!r:.80}; expected a list of objects")
    return found
