"""From a trained actor to an artefact that serves without ray and torch."""

from __future__ import annotations

import io
import warnings
from typing import Any, Literal

import numpy as np

from policies.artifact import Artifact
from policies.features import FeatureSpace
from policies.onnx_policy import OnnxPolicy, OnnxSession
from policies.records import OfferSet

# Measured at 2.4e-7 for networks of this size; ten times more means that something else was exported.
PARITY_TOLERANCE = 1e-5
_OPSET = 17
_MASKED = -1e9


def network_artifact(
    module: Any,
    *,
    space: FeatureSpace,
    offers: OfferSet,
    rng: np.random.Generator,
    n_checked: int = 257,
    form: Literal["softmax", "greedy"] = "softmax",
) -> tuple[Artifact, float]:
    """Export an actor and compare the graph with it on random observations.

    Parameters
    ----------
    module
        A network of ``engine.training.rl_module``: its ``actor`` is what is exported.
    n_checked
        Observations in the comparison; another number of rows than the graph was traced with.
    form
        How the served policy turns the network's numbers into probabilities: ``greedy`` for action values.

    Returns
    -------
    artifact, difference
        The policy, and the largest difference in probability between graph and network.
    """
    import torch

    n_offers, width = len(offers), space.context_width
    buffer = io.BytesIO()
    graph = masked_graph(module.actor, buffer, width=width, n_offers=n_offers)
    policy = OnnxPolicy(buffer.getvalue(), space, offers.ids, form=form)
    features = rng.standard_normal((n_checked, width)).astype(np.float32)
    mask = (rng.random((n_checked, n_offers)) < 0.6).astype(np.float32)
    mask[:, 0] = 1.0
    with torch.no_grad():
        expected = torch.softmax(graph(torch.from_numpy(features), torch.from_numpy(mask)), dim=1).numpy()
    logits = OnnxSession(buffer.getvalue(), inputs=("features", "mask")).run(features=features, mask=mask)
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    return policy.to_artifact(), float(np.abs(found - expected).max())


def masked_graph(net: Any, buffer: io.BytesIO, *, width: int, n_offers: int) -> Any:
    """Write a network from context features to one number per offer as ONNX, the mask inside; returns it as a torch module."""
    import torch

    actor = net.eval().cpu()

    class Graph(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Features and mask to masked logits."""

        def __init__(self) -> None:
            super().__init__()
            self.actor = actor

        def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.where(mask > 0.5, self.actor(features), torch.full_like(mask, _MASKED))

    graph = Graph().eval()
    with warnings.catch_warnings():
        # The older exporter on purpose: it writes a perceptron without onnxscript, and in a tenth of the time.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            graph,
            (torch.zeros(2, width), torch.ones(2, n_offers)),
            buffer,
            input_names=["features", "mask"],
            output_names=["logits"],
            dynamic_axes={"features": {0: "n"}, "mask": {0: "n"}, "logits": {0: "n"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    return graph
