"""Keep training runs in MLflow on SQLite: one run a model, with data hash, configuration, figures, plot and artefacts.

MLflow is for researchers' runs; which version serves is kept by our own registry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.models.dataset import point_files
from policies.errors import InvalidInputError, MissingExtraError

_METRICS = ("roc_auc", "average_precision", "log_loss", "brier_skill", "ece", "calibration_slope", "precision_at_10pct")


def data_hash(folder: Path) -> str:
    """SHA-256 over the Parquet files of decision points, in the order of their names."""
    digest = hashlib.sha256()
    for path in point_files(folder):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def track(result: Mapping[str, Any], out: Path, *, data_folder: Path, store: Path) -> list[str]:
    """Write a comparison into the store of runs; returns the ids of its runs, one a model.

    Parameters
    ----------
    result
        What ``train_propensity`` returned.
    out
        Its folder.
    store
        SQLite file; made if it is not there. Artefacts lie in ``<store>.artifacts``.
    """
    client = _client(store)
    artifacts = store.with_suffix(".artifacts").resolve()
    experiment = client.get_experiment_by_name(result["data"])
    experiment_id = (
        experiment.experiment_id
        if experiment is not None
        else client.create_experiment(result["data"], artifact_location=artifacts.as_uri())
    )
    digest, ids = data_hash(data_folder), []
    for name, row in result["models"].items():
        run = client.create_run(experiment_id, run_name=f"{out.name}/{name}", tags={"folder": str(out.resolve())})
        run_id = run.info.run_id
        chosen = name == result["chosen"]
        parameters = {"model": name, "data_sha256": digest, "is_chosen": chosen, **result["config"]}
        for key, value in parameters.items():
            client.log_param(run_id, key, value if isinstance(value, str | int | float | bool) else json.dumps(value))
        for part in ("validation", "in_period", "test"):
            for metric in _METRICS:
                value = row[part].get(metric)
                if value is not None:
                    client.log_metric(run_id, f"{part}_{metric}", value["value"] if isinstance(value, dict) else value)
        for path in _kept_files(out, name, is_chosen=chosen):
            client.log_artifact(run_id, str(path))
        with tempfile.TemporaryDirectory() as scratch:
            document = Path(scratch) / "model.json"
            document.write_text(json.dumps({"run": out.name, "data": result["data"], "model": name, **row}, indent=1))
            client.log_artifact(run_id, str(document))
        client.set_terminated(run_id)
        ids.append(run_id)
    return ids


def tracked_runs(store: Path) -> list[dict[str, Any]]:
    """Every model of every run in a store, oldest first: names, parameters and figures.

    Raises
    ------
    InvalidInputError
        If the file is not there or holds no run.
    """
    if not store.is_file():
        raise InvalidInputError(f"{store} is not there; train with --runs {store} first")
    client = _client(store)
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    runs = client.search_runs(list(experiments), order_by=["attributes.start_time ASC"], max_results=5_000)
    if not runs:
        raise InvalidInputError(f"{store} holds no run; train with --runs {store} first")
    return [
        {
            "run": run.info.run_name,
            "data": experiments[run.info.experiment_id],
            "parameters": dict(run.data.params),
            "metrics": dict(run.data.metrics),
        }
        for run in runs
    ]


def tracked_table(runs: list[dict[str, Any]]) -> str:
    """One line a model and run."""
    head = f"{'run':<32}{'data':<20}{'data hash':<12}{'AUC-ROC':>9}{'PR-AUC':>9}{'log loss':>10}{'slope':>7}"
    lines = [head, "-" * len(head)]
    for run in runs:
        metrics, parameters = run["metrics"], run["parameters"]
        mark = "*" if parameters.get("is_chosen") == "True" else ""
        lines.append(
            f"{run['run'] + mark:<32}{run['data']:<20}{parameters['data_sha256'][:10]:<12}{metrics['test_roc_auc']:>9.4f}"
            f"{metrics['test_average_precision']:>9.4f}{metrics['test_log_loss']:>10.4f}{metrics['test_calibration_slope']:>7.2f}"
        )
    return "\n".join(lines)


def _kept_files(out: Path, name: str, *, is_chosen: bool) -> list[Path]:
    folder = out / "models" / name
    files = [folder / "report.json", *sorted((folder / "artifacts").rglob("*"))]
    if is_chosen:
        files += [out / "comparison.json", out / "reliability.svg"]
    return [f for f in files if f.is_file()]


def _client(store: Path) -> Any:
    try:
        # Its own messages would stand between ours.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingExtraError("mlflow", "tracking") from error
    store.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=f"sqlite:///{store.resolve()}")
