"""A fitted reward model as an ONNX graph over context features and offer features: served by ONNX Runtime and numpy.

The graph takes ``context`` (n, context width) and ``offers`` (k, offer width), both float32 from the ``FeatureSpace``
in the artefact, and gives ``reward`` (n, k), calibrated, in the unit of the reward.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from policies.artifact import Artifact
from policies.errors import ArtifactError, MissingExtraError
from policies.features import FeatureSpace
from policies.records import DecisionTable, FloatArray

KIND = "onnx_reward_model"
# Pairs scored at once: bounds memory to a few hundred MB for wide spaces.
_PAIRS_PER_CALL = 400_000


class OnnxRewardModel:
    """``RewardModel`` from an artefact of kind ``onnx_reward_model``."""

    def __init__(self, artifact: Artifact) -> None:
        if artifact.kind != KIND:
            raise ArtifactError(f"the artefact is a {artifact.kind!r}; expected a {KIND!r}")
        self._artifact = artifact
        self.space = FeatureSpace.from_manifest(artifact.manifest["feature_space"])
        self._session = _session(artifact.blobs["model.onnx"])

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Load what ``to_artifact`` wrote."""
        return cls(artifact)

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """Expected reward of each offer in each decision, shape ``(n, k)``."""
        context = self.space.encode_contexts(table)
        offers = np.ascontiguousarray(self.space.encode_offers(table.offers))
        out = np.empty((len(table), table.n_offers), dtype=np.float64)
        step = max(1, _PAIRS_PER_CALL // table.n_offers)
        for at in range(0, len(table), step):
            part = np.ascontiguousarray(context[at : at + step])
            out[at : at + step] = self._session.run(["reward"], {"context": part, "offers": offers})[0]
        return out

    def to_artifact(self) -> Artifact:
        """The artefact it was made from."""
        return self._artifact


def _session(graph: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "serve") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
