"""Small ONNX graphs made by hand, so that every number they answer can be recomputed with numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from policies.features import FeatureSpace
from policies.records import FloatArray


def policy_weights(space: FeatureSpace, *, n_offers: int) -> FloatArray:
    """Weights of the graph, shape ``(d, k)``."""
    return np.random.default_rng(5).normal(size=(space.context_width, n_offers))


def policy_graph(space: FeatureSpace, *, n_offers: int) -> bytes:
    """Logits ``features @ W``, and -1e9 where the mask is 0."""
    w = policy_weights(space, n_offers=n_offers).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["raw"]),
        helper.make_node("Greater", ["mask", "half"], ["allowed"]),
        helper.make_node("Where", ["allowed", "raw", "low"], ["logits"]),
    ]
    constants: Mapping[str, Any] = {"w": w, "half": np.float32(0.5), "low": np.float32(-1e9)}
    return _bytes(nodes, constants, {"features": space.context_width, "mask": n_offers}, ("logits", ["n", n_offers]))


def reward_weights(space: FeatureSpace) -> tuple[FloatArray, FloatArray]:
    """Weights on context and offer, shapes ``(d,)`` and ``(e,)``."""
    rng = np.random.default_rng(6)
    return rng.normal(size=space.context_width), rng.normal(size=space.offer_width)


def reward_graph(space: FeatureSpace) -> bytes:
    """``sigmoid(context @ a + (offers @ b)')``, shape ``(n, k)``."""
    a, b = reward_weights(space)
    nodes = [
        helper.make_node("MatMul", ["context", "a"], ["x"]),
        helper.make_node("MatMul", ["offers", "b"], ["column"]),
        helper.make_node("Transpose", ["column"], ["z"], perm=[1, 0]),
        helper.make_node("Add", ["x", "z"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["reward"]),
    ]
    constants = {"a": a[:, None].astype(np.float32), "b": b[:, None].astype(np.float32)}
    return _bytes(
        nodes, constants, {"context": space.context_width, "offers": space.offer_width}, ("reward", ["n", "k"])
    )


def _bytes(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Any],
    inputs: dict[str, int],
    output: tuple[str, list[str | int]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["k" if name == "offers" else "n", width])
            for name, width in inputs.items()
        ],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
