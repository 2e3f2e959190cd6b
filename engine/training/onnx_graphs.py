"""Reward models as ONNX graphs from ``context`` (n, dc) and ``offers`` (k, do) to ``reward`` (n, k), written node by node.

Every pairing of a context with an offer happens inside the graph, so a caller passes each only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.calibration import LogisticCalibrator
from policies.errors import MissingExtraError
from policies.records import FloatArray

_OPSET = 17


class _Builder:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingExtraError("onnx", "torch") from error
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"n{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def calibrated(self, probability: str, calibrator: LogisticCalibrator | None) -> str:
        if calibrator is None:
            return probability
        p = self.add("Clip", probability, self.constant(1e-7), self.constant(1 - 1e-7))
        left = self.add("Mul", self.add("Log", p), self.constant(calibrator.a))
        rest = self.add("Log", self.add("Sub", self.constant(1.0), p))
        right = self.add("Mul", rest, self.constant(calibrator.b))
        return self.add("Sigmoid", self.add("Add", self.add("Sub", left, right), self.constant(calibrator.c)))

    def model(self, result: str, *, widths: tuple[int, int], opsets: Sequence[Any] = ()) -> Any:
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        self.add("Identity", result, out="reward")
        graph = helper.make_graph(
            self.nodes,
            "reward_model",
            [
                helper.make_tensor_value_info("context", kind, ["n", widths[0]]),
                helper.make_tensor_value_info("offers", kind, ["k", widths[1]]),
            ],
            [helper.make_tensor_value_info("reward", kind, ["n", "k"])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET), *opsets], ir_version=8)
        self.onnx.checker.check_model(model)
        return model


def pair_graph(
    by_context: FloatArray,
    by_offer: FloatArray,
    crossed: FloatArray,
    bias: FloatArray,
    *,
    is_binary: bool,
    calibrator: LogisticCalibrator | None,
) -> bytes:
    """``context · wc + offers · wo + contextᵀ M offers + bias``, through the sigmoid where the reward is 0 or 1."""
    b = _Builder()
    # One product does both terms that vary with the offer: (context M + wo) offersᵀ.
    left = b.add("Add", b.add("MatMul", "context", b.constant(crossed)), b.constant(by_offer[None, :]))
    pairs = b.add("MatMul", left, b.add("Transpose", "offers", perm=[1, 0]))
    alone = b.add("Add", b.add("MatMul", "context", b.constant(by_context[:, None])), b.constant(bias.reshape(1, 1)))
    raw = b.add("Add", pairs, alone)
    out = b.calibrated(b.add("Sigmoid", raw), calibrator) if is_binary else raw
    content: bytes = b.model(out, widths=(len(by_context), len(by_offer))).SerializeToString()
    return content


def dense_graph(
    weights: Sequence[FloatArray],
    biases: Sequence[FloatArray],
    *,
    context_width: int,
    is_binary: bool,
    calibrator: LogisticCalibrator | None,
) -> bytes:
    """ReLU layers over the pair; the first layer is applied to contexts and offers apart and added per pair."""
    b = _Builder()
    first = weights[0]
    from_context = b.add("MatMul", "context", b.constant(first[:context_width]))
    from_offer = b.add("Add", b.add("MatMul", "offers", b.constant(first[context_width:])), b.constant(biases[0]))
    x = b.add(
        "Add",
        b.add("Unsqueeze", from_context, b.constant([1], np.int64)),  # (n, 1, h)
        b.add("Unsqueeze", from_offer, b.constant([0], np.int64)),  # (1, k, h)
    )
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        x = b.add("Add", b.add("MatMul", b.add("Relu", x), b.constant(weight)), b.constant(bias))
    raw = b.add("Squeeze", x, b.constant([2], np.int64))
    out = b.calibrated(b.add("Sigmoid", raw), calibrator) if is_binary else raw
    widths = (context_width, len(first) - context_width)
    content: bytes = b.model(out, widths=widths).SerializeToString()
    return content


def boosted_graph(
    booster: Any, *, widths: tuple[int, int], is_binary: bool, calibrator: LogisticCalibrator | None
) -> bytes:
    """LightGBM's trees over every pair of a context and an offer, by onnxmltools, between a pairing and a reshaping."""
    trees, features = _converted_trees(booster, width=sum(widths))
    b = _Builder()
    first, second = b.constant([1], np.int64), b.constant([0], np.int64)
    n = b.add("Shape", "context", start=0, end=1)
    k = b.add("Shape", "offers", start=0, end=1)
    one = b.constant([1], np.int64)
    wide = b.add("Expand", b.add("Unsqueeze", "context", first), b.add("Concat", one, k, one, axis=0))
    tall = b.add("Expand", b.add("Unsqueeze", "offers", second), b.add("Concat", n, one, one, axis=0))
    pairs = b.add("Concat", wide, tall, axis=2)  # (n, k, dc + do)
    flat = b.add("Reshape", pairs, b.constant([-1, sum(widths)], np.int64), out=features)
    assert flat == features
    b.nodes += list(trees.graph.node)
    b.constants += list(trees.graph.initializer)
    result = _probability_of(trees, b) if is_binary else trees.graph.output[0].name
    shaped = b.add("Reshape", result, b.add("Concat", n, k, axis=0))
    out = b.calibrated(shaped, calibrator) if is_binary else shaped
    others = [o for o in trees.opset_import if o.domain not in ("", "ai.onnx")]
    content: bytes = b.model(out, widths=widths, opsets=others).SerializeToString()
    return content


def _converted_trees(booster: Any, *, width: int) -> tuple[Any, str]:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    trees = onnxmltools.convert_lightgbm(
        booster, initial_types=[("pair_features", FloatTensorType([None, width]))], target_opset=15, zipmap=False
    )
    return trees, "pair_features"


def _probability_of(trees: Any, b: _Builder) -> str:
    """Second column of the converted classifier's probabilities, (rows, 1)."""
    probabilities = next(o.name for o in trees.graph.output if "prob" in o.name)
    return b.add("Gather", probabilities, b.constant(1, np.int64), axis=1)


def run_graph(graph: bytes, context: NDArray[np.float32], offers: NDArray[np.float32]) -> FloatArray:
    """Rewards ``(n, k)`` of a graph, for parity checks at export."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["reward"], {"context": context, "offers": offers})[0], dtype=np.float64)
