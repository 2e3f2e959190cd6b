"""Classification sets that defaults are chosen on: none of the six that judge them.

Four come with scikit-learn, four are real sets of the data folder that have nothing to do with the six, four are made: clusters
in general position, many classes, a class that is nearly always right, and labels of which a third are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._bandits import Labelled, data_folder, encoded

_N_MADE = 6_000


def _bundled(name: str) -> Labelled:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return _of_matrix(name, bunch.data, bunch.target)


def _real(name: str, *, file: str, target: str, without: tuple[str, ...] = ()) -> Labelled:
    import pandas as pd

    path = data_folder() / file
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    names, label = np.unique(frame[target].astype(str).to_numpy(dtype=str), return_inverse=True)
    columns: dict[str, NDArray[Any]] = {}
    for column in frame.columns.drop([target, *without]):
        values = frame[column]
        is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        columns[str(column)] = (
            values.to_numpy(dtype=np.float64) if is_number else values.fillna("").astype(str).to_numpy(dtype=str)
        )
    return encoded(name, columns, label.astype(np.int64), len(names))


def _made(
    name: str, *, n_classes: int, n_features: int, weights: list[float] | None = None, noise: float = 0.01
) -> Labelled:
    from sklearn.datasets import make_classification

    x, label = make_classification(
        _N_MADE, n_features=n_features, n_informative=max(4, n_features // 2), n_redundant=n_features // 4, n_classes=n_classes,
        n_clusters_per_class=2, weights=weights, flip_y=noise, class_sep=1.5, random_state=7,
    )  # fmt: skip
    return _of_matrix(name, x, label)


def _of_matrix(name: str, x: NDArray[Any], label: NDArray[Any]) -> Labelled:
    columns: dict[str, NDArray[Any]] = {f"x{j}": np.asarray(x[:, j], dtype=np.float64) for j in range(x.shape[1])}
    return encoded(name, columns, np.asarray(label, dtype=np.int64), int(label.max()) + 1)


OTHER: dict[str, Callable[[], Labelled]] = {
    "digits": partial(_bundled, "digits"),
    "wine": partial(_bundled, "wine"),
    "breast_cancer": partial(_bundled, "breast_cancer"),
    "iris": partial(_bundled, "iris"),
    "online_shoppers": partial(
        _real, "online_shoppers", file="online_shoppers/online_shoppers_intention.csv.gz", target="Revenue"
    ),
    "in_vehicle_coupon": partial(
        _real, "in_vehicle_coupon", file="in_vehicle_coupon/in-vehicle-coupon-recommendation.csv.gz", target="Y"
    ),
    "oulad": partial(_real, "oulad", file="oulad/student.parquet", target="final_result", without=("id_student",)),
    "car_choice": partial(_real, "car_choice", file="car_choice/car.csv.gz", target="choice", without=("rownames",)),
    "clusters": partial(_made, "clusters", n_classes=6, n_features=16),
    "many_classes": partial(_made, "many_classes", n_classes=20, n_features=24),
    "one_rules": partial(_made, "one_rules", n_classes=5, n_features=10, weights=[0.8, 0.1, 0.05, 0.03, 0.02]),
    "noisy_labels": partial(_made, "noisy_labels", n_classes=4, n_features=12, noise=0.33),
}
