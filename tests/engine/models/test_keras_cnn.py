"""The convolutional network's ONNX graph against Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.models.tables import decision_points

pytestmark = pytest.mark.tensorflow
DATA = decision_points(260, seed=9)


def test_graph_equals_keras_at_lengths_it_was_not_exported_at() -> None:
    """Batch and length are free, rows without events and ids from later vocabularies included: the network's probabilities to 1e-6."""
    import onnxruntime

    from engine.models.keras_cnn import CNNConfig, KerasCNN

    model = KerasCNN(CNNConfig(max_epochs=2, patience=9, filters=5, head=7))
    model.fit(DATA.part("train"), DATA.part("validation"))
    artifact = model.to_artifacts()["propensity"]
    assert model._columns is not None
    session = onnxruntime.InferenceSession(artifact.blobs["propensity.onnx"], providers=["CPUExecutionProvider"])
    for rows in (np.array([3]), np.argsort(DATA.lengths)[:9], np.argsort(DATA.lengths)[-11:]):
        padded = DATA.padded(rows)
        feed: dict[str, Any] = {name: padded[name].astype(np.int64) for name in ("event_type", "item", "lengths")}
        feed |= {name: padded[name].astype(np.float32) for name in ("gap_s", "value")}
        feed["gap_to_as_of_s"] = DATA.gap_to_as_of_s[rows].astype(np.float32)
        feed["columns"] = model._columns.encode(DATA.take(rows))
        served = session.run(["probability"], feed)[0]
        np.testing.assert_allclose(served, model.predict(DATA.take(rows)), atol=1e-6)
