"""What every Keras model here shares: the framework itself, and where a fit begins."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.linear import best_ridge_logistic
from policies.errors import MissingExtraError
from policies.records import FloatArray


def start_from_logistic(
    net: Any, design: NDArray[np.float32], label: FloatArray, held: NDArray[np.float32], held_label: FloatArray
) -> None:
    """Begin at the ridge logistic regression: the layer ``wide`` takes its coefficients, ``deep`` its intercept; the rest learns what it leaves."""
    beta, _, _ = best_ridge_logistic(design, label, held, held_label)
    net.get_layer("wide").set_weights([beta[:-1, None].astype(np.float32)])
    net.get_layer("deep").set_weights([net.get_layer("deep").get_weights()[0], beta[-1:].astype(np.float32)])


def import_keras() -> Any:
    """Keras on TensorFlow, quietly.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        import keras
    except ImportError as error:
        raise MissingExtraError("tensorflow", "tensorflow") from error
    return keras
