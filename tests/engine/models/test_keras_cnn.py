"""The convolutional network's ONNX graph against Keras."""

from __future__ import annotations

import numpy as np
import pytest

from engine.models.served import ServedPropensity
from tests.engine.models.tables import decision_points

pytestmark = pytest.mark.tensorflow
DATA = decision_points(260, seed=9)


def test_graph_equals_keras_at_lengths_it_was_not_exported_at() -> None:
    """Batch and length are free, rows without events and ids from later vocabularies included: the network's probabilities to 1e-6."""
    from engine.models.keras_cnn import CNNConfig, KerasCNN

    model = KerasCNN(CNNConfig(max_epochs=2, patience=9, filters=5, head=7))
    model.fit(DATA.part("train"), DATA.part("validation"))
    served = ServedPropensity.from_artifact(model.to_artifacts()["served"])
    for rows in (np.array([3]), np.argsort(DATA.lengths)[:9], np.argsort(DATA.lengths)[-11:]):
        np.testing.assert_allclose(served.predict(DATA.take(rows)), model.predict(DATA.take(rows)), atol=1e-6)
